//! Tokenizes texts and conversations, and detokenizes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use crate::admission::{AdmissionRefusal, RefusalReason};
use crate::engine::{self, Token};
use crate::field::FieldPath;
use crate::pool::{LoadedModel, ModelEntry, Visit};
use crate::prompt::Conversation;

use super::Inference;
use super::arrival::Arrival;
use super::error::{
    ContextOverflow, InferenceError, InferenceFailure, RequestError, RequestField, TextPurpose,
    WrongPurpose,
};
use super::truncation;

/// Tokenizing a text of so many bytes takes about 50 ms; one of 4 MiB up to 5 s. Longer texts take turns.
pub(super) const LONG_TEXT_BYTES: usize = 64 << 10;

/// The input of a tokenize request.
#[derive(Debug)]
pub(crate) enum TokenizeInput {
    /// A text; `bounds` says whether the model's begin and end tokens come around it.
    Text { text: String, bounds: bool },
    /// Messages, laid out by the model's chat template.
    Conversation(Conversation),
}

/// The tokens of a text or a conversation.
#[derive(Debug)]
pub(crate) struct TokenizedInput {
    pub(crate) tokens: Vec<Token>,
    /// Each token as the vocabulary writes it, if asked for.
    pub(crate) texts: Option<Vec<String>>,
    /// Tokens that prompt and answer may have together.
    pub(crate) context: usize,
}

impl Inference {
    /// Tokenizes a text or a conversation. With `with_texts`, also returns each token's text.
    ///
    /// # Errors
    /// Whatever keeps the input from becoming tokens.
    pub(crate) async fn tokenize(
        &self,
        entry: &ModelEntry,
        input: TokenizeInput,
        with_texts: bool,
        arrival: Arrival,
    ) -> Result<TokenizedInput, InferenceError> {
        self.on_model(entry, input.bytes(), arrival, move |serving| {
            let tokens = input.tokens(&serving)?;
            let text = |token: &Token| serving.tokenizer().token_text(*token);
            Ok(TokenizedInput {
                texts: with_texts.then(|| tokens.iter().map(text).collect()),
                context: serving.context(),
                tokens,
            })
        })
        .await
    }

    /// Converts token ids to text.
    ///
    /// # Errors
    /// Ids that are none of the model's, or that it cannot answer now.
    pub(crate) async fn detokenize(
        &self,
        entry: &ModelEntry,
        ids: Vec<i64>,
        arrival: Arrival,
    ) -> Result<String, InferenceError> {
        self.on_model(entry, ids.len(), arrival, move |serving| {
            let model = serving.tokenizer();
            let tokens = tokens_of_ids(&ids, model.info().vocabulary, RequestField::Token)?;
            Ok(model.detokenize(&tokens))
        })
        .await
    }

    /// Runs `work` on a blocking thread, admitted by the model's gate; what the request holds is given back
    /// when that is done. An input longer than [`LONG_TEXT_BYTES`] is refused while another one is being
    /// worked on.
    async fn on_model<T: Send + 'static>(
        &self,
        entry: &ModelEntry,
        length: usize,
        arrival: Arrival,
        work: impl FnOnce(LoadedModel) -> Result<T, InferenceError> + Send + 'static,
    ) -> Result<T, InferenceError> {
        let visit = Visit {
            tenant: arrival.principal.tenant,
            slots: 1,
            drain_guard: arrival.drain_guard,
            deadline: arrival.deadline,
        };
        let entered = self.enter(entry, arrival.at, visit).await;
        let entered = entered.inspect_err(|failure| {
            if let InferenceFailure::Refused(refusal) = failure {
                self.count_refusal(&entry.id, refusal);
            }
        })?;
        let long = self
            .long_turn(length)
            .inspect_err(|refusal| self.count_refusal(&entry.id, refusal))?;
        for slot in &entered.slots {
            // It is worked on at once. Just now nobody else can have come who would displace it.
            let _ = slot.start();
        }
        let serving = entered.loaded;
        let permits = (entered.slots, entered.drain_guard, long);
        let span = Span::current();
        let done = tokio::task::spawn_blocking(move || {
            let _held = (permits, arrival.memory);
            span.in_scope(|| work(serving))
        });
        done.await.map_err(|_| InferenceFailure::Internal)?
    }

    /// Returns the turn of a long input; none is needed for a short one.
    fn long_turn(&self, length: usize) -> Result<Option<OwnedSemaphorePermit>, AdmissionRefusal> {
        if length <= LONG_TEXT_BYTES {
            return Ok(None);
        }
        let only_one = Arc::clone(&self.long_texts).try_acquire_owned();
        only_one.map(Some).map_err(|_| AdmissionRefusal {
            reason: RefusalReason::QueueFull,
            retry_after: Duration::from_secs(5),
        })
    }
}

impl TokenizeInput {
    /// Returns the bytes to tokenize.
    fn bytes(&self) -> usize {
        match self {
            Self::Text { text, .. } => text.len(),
            Self::Conversation(conversation) => {
                truncation::bytes(&conversation.messages)
                    + truncation::least_tool_tokens(&conversation.tools, 1)
                    + truncation::least_kwargs_tokens(&conversation.template_kwargs, 1)
            }
        }
    }

    fn tokens(&self, serving: &LoadedModel) -> Result<Vec<Token>, InferenceError> {
        let whole_prompt = || RequestField::Prompt(FieldPath::default());
        match (self, serving) {
            (Self::Text { text, bounds }, _) => {
                let reading = engine::TokenizeOptions {
                    bounds: *bounds,
                    markup: matches!(serving, LoadedModel::Generation(_)),
                };
                Ok(serving.tokenizer().tokenize(text, reading))
            }
            (Self::Conversation(conversation), LoadedModel::Generation(loaded)) => {
                // Checked before a template works through megabytes, as for chat completions.
                let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
                let messages = conversation.messages.len();
                let least = messages.max(self.bytes() / longest_piece);
                let context = loaded.context();
                if least > context {
                    let too_long = ContextOverflow {
                        tokens: least,
                        at_least: true,
                        context,
                        purpose: TextPurpose::Tokens,
                    };
                    return Err(RequestError::too_long(whole_prompt(), too_long).into());
                }
                let prompter = loaded.prompter.as_ref().map_err(InferenceError::from)?;
                let prompt = prompter.tokens(conversation, &*loaded.tokenizer);
                prompt
                    .map(|prompt| prompt.tokens)
                    .map_err(|error| InferenceError::from(&error))
            }
            (Self::Conversation(_), LoadedModel::Embedding(_)) => Err(
                RequestError::not_for_this_model(whole_prompt(), WrongPurpose::DoesNotChat).into(),
            ),
        }
    }
}

/// Converts ids to tokens of a vocabulary of that size. An id outside it is an error about `field(index)`;
/// llama.cpp would end the process over it.
pub(super) fn tokens_of_ids(
    ids: &[i64],
    vocabulary: usize,
    field: impl Fn(usize) -> RequestField,
) -> Result<Vec<Token>, RequestError> {
    let known = |id: i64| {
        let inside = usize::try_from(id).is_ok_and(|id| id < vocabulary);
        inside.then(|| i32::try_from(id).ok()).flatten()
    };
    let tokens = ids.iter().enumerate().map(|(index, id)| {
        known(*id).map(Token).ok_or_else(|| {
            let most = vocabulary.saturating_sub(1);
            let after = format!(": {id} is not a token of this model, whose ids are 0 to {most}");
            RequestError::invalid(field(index), after)
        })
    });
    tokens.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_vocabulary_are_named_with_their_place() {
        let tokens = |ids: &[i64]| tokens_of_ids(ids, 10, RequestField::Token);
        assert_eq!(tokens(&[0, 9]), Ok(vec![Token(0), Token(9)]));
        for id in [-1, 10, i64::MAX, i64::MIN] {
            let error = tokens(&[1, id]).expect_err("refused");
            assert_eq!(error.field, RequestField::Token(1));
        }
    }
}
