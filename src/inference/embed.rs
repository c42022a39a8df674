//! Embeds texts: admission, tokenization, and submission to the model's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use crate::admission::{AdmissionSlot, DrainGuard, ServiceTier};
use crate::embedding::{EmbeddingJob, EmbeddingResult};
use crate::engine::{Token, TokenizeOptions};
use crate::pool::{EmbeddingModel, ModelEntry, Visit};
use crate::scheduler::Timings;
use crate::worker::WorkError;

use super::Inference;
use super::account::{RequestAccount, UsageTotals};
use super::arrival::Arrival;
use super::bounds::MOST_EMBEDDED_TOKENS;
use super::error::{
    self, ContextOverflow, InferenceError, InferenceFailure, RequestError, RequestField,
};
use super::tokenize::{LONG_TEXT_BYTES, tokens_of_ids};

/// More bytes than most tokens have.
const LONG_TOKEN_BYTES: usize = 16;

/// The input of an embedding request.
#[derive(Debug)]
pub(crate) enum EmbeddingInput {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of a text.
    Tokens(Vec<i64>),
    /// The token ids of several texts.
    TokenLists(Vec<Vec<i64>>),
}

/// Vectors, and the usage of computing them.
#[derive(Debug)]
pub(crate) struct Embeddings {
    pub(crate) vectors: Vec<Vec<f32>>,
    /// How many numbers of each vector were asked for.
    pub(crate) dimensions: usize,
    /// Tokens of all texts.
    pub(crate) tokens: usize,
    pub(crate) usage: UsageTotals,
    /// How long they were estimated to take, from the arrival of the request; absent where it has no deadline,
    /// or too little is known.
    pub(crate) estimate: Option<Duration>,
    /// Keeps the request counted as present until the vectors are written as JSON.
    pub(crate) _presence: DrainGuard,
}

impl Inference {
    /// Makes a vector of each text. Dropping the future cancels the request.
    ///
    /// # Errors
    /// Whatever keeps the texts from becoming vectors.
    pub(crate) async fn embed(
        &self,
        entry: &ModelEntry,
        input: EmbeddingInput,
        dimensions: Option<usize>,
        mut arrival: Arrival,
        account: &mut RequestAccount,
    ) -> Result<Embeddings, InferenceError> {
        arrival.default_deadline(&self.deadlines, ServiceTier::default());
        let (arrived, deadline) = (arrival.at, arrival.deadline);
        let visit = Visit {
            tenant: arrival.principal.tenant,
            slots: 1,
            drain_guard: arrival.drain_guard,
            deadline,
        };
        let mut entered = self.enter(entry, arrived, visit).await?;
        let loaded = self.embedder(entry, entered.loaded, &arrival.principal)?;
        let dimensions = check_dimensions(dimensions, loaded.tokenizer.info().dimensions)?;
        let (place, presence) = (entered.slots.pop(), entered.drain_guard);
        let tokenizing = self.tokenize_texts(input, Arc::clone(&loaded), place, arrival.memory);
        let TokenizedTexts { texts, place } =
            Arrival::in_time(arrived, deadline, tokenizing).await??;
        let tokens: usize = texts.iter().map(Vec::len).sum();
        account.reserve(tokens, std::iter::empty())?;
        let now = Instant::now();
        let (forecast, estimate) = loaded.load.announce(tokens, arrived, deadline, now)?;
        let (answer, embedded) = oneshot::channel();
        let job = EmbeddingJob {
            texts,
            arrived,
            deadline,
            forecast: Some(forecast),
            place,
            span: Span::current(),
            answer,
        };
        // Whoever leaves meanwhile has had them computed.
        account.used(u32::try_from(tokens).unwrap_or(u32::MAX), 0, 0);
        let embedded = compute(&loaded, entry, job, embedded).await?;
        let usage = UsageTotals {
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            energy_joules: embedded.energy_joules,
            timings: Timings {
                queue: embedded.queue,
                prefill: embedded.compute,
                decode: Duration::ZERO,
            },
            ..UsageTotals::default()
        };
        Ok(Embeddings {
            vectors: embedded.vectors,
            dimensions,
            tokens,
            usage,
            estimate: estimate.filter(|_| deadline.is_some()),
            _presence: presence,
        })
    }

    /// Tokenizes texts on a blocking thread; long texts of several requests take turns. The place moves along,
    /// because the work continues even if the client leaves.
    async fn tokenize_texts(
        &self,
        input: EmbeddingInput,
        loaded: Arc<EmbeddingModel>,
        place: Option<AdmissionSlot>,
        memory: Option<Box<dyn Send>>,
    ) -> Result<TokenizedTexts, InferenceError> {
        let turn = if input.bytes() > LONG_TEXT_BYTES {
            // The semaphore is never closed.
            Arc::clone(&self.long_texts).acquire_owned().await.ok()
        } else {
            None
        };
        let log_prompts = self.log_prompts;
        let span = Span::current();
        let tokenized = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            let _held = (turn, memory);
            if log_prompts {
                tracing::info!(?input, "prompt");
            }
            let texts = tokens(&input, &loaded)?;
            Ok(TokenizedTexts { texts, place })
        });
        tokenized.await.map_err(|_| InferenceFailure::Internal)?
    }
}

impl EmbeddingInput {
    /// Returns the bytes of text to tokenize.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
            Self::Tokens(_) | Self::TokenLists(_) => 0,
        }
    }
}

/// A request's texts as tokens.
struct TokenizedTexts {
    texts: Vec<Vec<Token>>,
    place: Option<AdmissionSlot>,
}

async fn compute(
    loaded: &EmbeddingModel,
    entry: &ModelEntry,
    job: EmbeddingJob,
    embedded: oneshot::Receiver<Result<EmbeddingResult, WorkError>>,
) -> Result<EmbeddingResult, InferenceFailure> {
    loaded
        .submit(job)
        .map_err(|_| InferenceFailure::ModelUnavailable(entry.id.clone()))?;
    // The channel to the model's thread may end with the thread only: by a defect.
    let embedded = embedded.await.map_err(|_| InferenceFailure::Internal)?;
    embedded.map_err(InferenceFailure::Job)
}

fn check_dimensions(wanted: Option<usize>, model: usize) -> Result<usize, RequestError> {
    match wanted {
        Some(wanted) if wanted > model => {
            let after = format!(" is {wanted}; the model's vectors have {model}");
            Err(RequestError::invalid(RequestField::Dimensions, after))
        }
        wanted => Ok(wanted.unwrap_or(model)),
    }
}

fn tokens(
    input: &EmbeddingInput,
    loaded: &EmbeddingModel,
) -> Result<Vec<Vec<Token>>, InferenceError> {
    let read = |text: Option<usize>, words: &str| read(text, words, loaded);
    let vocabulary = loaded.tokenizer.info().vocabulary;
    let known = |text: Option<usize>, ids: &[i64]| {
        tokens_of_ids(ids, vocabulary, |token| {
            RequestField::TextToken(text, token)
        })
    };
    let mut bounds = TokenBounds {
        context: loaded.context,
        total: 0,
    };
    match input {
        EmbeddingInput::Text(text) => Ok(vec![bounds.check(None, read(None, text)?)?]),
        EmbeddingInput::Tokens(ids) => Ok(vec![bounds.check(None, known(None, ids)?)?]),
        EmbeddingInput::Texts(texts) => (texts.iter().enumerate())
            .map(|(index, text)| Ok(bounds.check(Some(index), read(Some(index), text)?)?))
            .collect(),
        EmbeddingInput::TokenLists(lists) => (lists.iter().enumerate())
            .map(|(index, ids)| Ok(bounds.check(Some(index), known(Some(index), ids)?)?))
            .collect(),
    }
}

/// Tokenizes the words of a text; `text` is its index among several.
fn read(
    text: Option<usize>,
    words: &str,
    loaded: &EmbeddingModel,
) -> Result<Vec<Token>, RequestError> {
    if words.is_empty() {
        return Err(RequestError::invalid(
            RequestField::Text(text),
            " must not be an empty string",
        ));
    }
    let reading = TokenizeOptions {
        bounds: true,
        // Texts are data, whatever they look like.
        markup: false,
    };
    // Tokenizing megabytes takes seconds; a text that is too long is refused by its first words.
    if let Some(beginning) = beginning(
        words,
        LONG_TEXT_BYTES.max(loaded.context * LONG_TOKEN_BYTES),
    ) {
        let least = loaded.tokenizer.tokenize(beginning, reading).len();
        if least > loaded.context {
            return Err(too_long(text, least, true, loaded.context));
        }
    }
    Ok(loaded.tokenizer.tokenize(words, reading))
}

fn too_long(text: Option<usize>, tokens: usize, at_least: bool, context: usize) -> RequestError {
    let too_long = ContextOverflow {
        tokens,
        at_least,
        context,
        purpose: error::TextPurpose::Embedding,
    };
    RequestError::too_long(RequestField::Text(text), too_long)
}

/// Returns the whole words within the first `bytes` of a longer text, or all those bytes if they are one
/// word. Returns `None` if the text is not longer.
fn beginning(text: &str, bytes: usize) -> Option<&str> {
    if text.len() <= bytes {
        return None;
    }
    let part = (0..=bytes).rev().find_map(|end| text.get(..end))?;
    let words = part.rfind(char::is_whitespace).map(|end| &part[..end]);
    Some(words.filter(|words| !words.is_empty()).unwrap_or(part))
}

/// Checks the token counts of each text and of all together.
struct TokenBounds {
    context: usize,
    /// Tokens so far.
    total: usize,
}

impl TokenBounds {
    fn check(
        &mut self,
        text: Option<usize>,
        tokens: Vec<Token>,
    ) -> Result<Vec<Token>, RequestError> {
        if tokens.is_empty() {
            let after = " has no tokens: write something";
            return Err(RequestError::invalid(RequestField::Text(text), after));
        }
        if tokens.len() > self.context {
            return Err(too_long(text, tokens.len(), false, self.context));
        }
        self.total += tokens.len();
        if self.total > MOST_EMBEDDED_TOKENS {
            let after = format!(
                " has more than {MOST_EMBEDDED_TOKENS} tokens in all: send it in several requests"
            );
            return Err(RequestError::invalid(RequestField::Text(None), after));
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::error::FieldProblem;

    #[test]
    fn a_vector_has_no_more_numbers_than_the_models() {
        let error = check_dimensions(Some(385), 384).expect_err("too many");
        assert_eq!(error.field, RequestField::Dimensions);
        assert_eq!(check_dimensions(Some(385), 385), Ok(385));
        assert_eq!(check_dimensions(None, 384), Ok(384));
    }

    #[test]
    fn a_long_text_is_judged_by_its_first_words() {
        assert_eq!(beginning("two words", 9), None);
        assert_eq!(beginning("three more words", 12), Some("three more"));
        assert_eq!(beginning("oneword", 4), Some("onew"));
        assert_eq!(beginning("ééé", 3), Some("é"));
    }

    #[test]
    fn a_text_over_the_context_and_a_sum_over_the_limit_are_told_apart() {
        let mut bounds = TokenBounds {
            context: 100_000,
            total: 0,
        };
        let text = |length: usize| vec![Token(1); length];
        let long = bounds.check(Some(3), text(100_001)).expect_err("too long");
        assert!(matches!(long.problem, FieldProblem::TooLong(_)), "{long:?}");
        assert_eq!(long.field, RequestField::Text(Some(3)));
        for _ in 0..3 {
            assert!(bounds.check(Some(0), text(100_000)).is_ok());
        }
        let full = bounds.check(Some(3), text(1)).expect_err("full");
        assert_eq!(full.field, RequestField::Text(None));
        let empty = bounds.check(Some(4), text(0)).expect_err("empty");
        assert_eq!(empty.field, RequestField::Text(Some(4)));
    }
}
