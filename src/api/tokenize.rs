//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.
//!
//! A `prompt` is a whole text that its sender answers for, as vLLM's users expect of
//! `/v1/completions`: the text of a control token in it stands for that token, and with
//! `add_special_tokens` (the default) the model's begin and end tokens come around it. For an
//! embedding model the tokens are those that `/v1/embeddings` makes of it, where text is only text.
//! `messages` give the tokens that a chat request with them has: text in them never becomes a
//! control token, and the begin token is there if the model wants one, whatever
//! `add_special_tokens` says. Messages that no chat request could hold are refused.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use crate::admission::{Gate, Place, Presence, Reason, Refusal};
use crate::engine::{Reading, Token};
use crate::pool::Serving;
use crate::prompt::Conversation;

use super::body::JsonBody;
#[cfg(any(test, fuzzing))]
use super::body::read_value;
use super::body::{Wire, only_objects};
use super::bounds::{LONGEST_TEMPLATE_KWARG_NAME, MOST_TEMPLATE_KWARGS, MOST_TOOLS, TOKEN};
use super::chat;
use super::decoding::refuse_asked;
use super::description::{AnyModel, Operation, Refused, Schemas, each, within};
use super::error::ApiError;
use super::models::{find_model, serving};
use super::shorten;
use super::state::AppState;
use super::template_kwargs::template_kwargs;
use super::values::Counted;

/// Longer texts, in bytes, take more than some 50 ms; 4 MiB take up to 5 s.
pub(super) const LONG_TEXT: usize = 64 << 10;

/// The body of `POST /tokenize`; `null` means absent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    description = "Either a text or messages.",
    extend("oneOf" = [
        {"properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}}, "required": ["prompt"]},
        {"properties": {"prompt": {"type": "null"}, "messages": {"type": "array"}}, "required": ["messages"]},
    ])
)]
pub(super) struct TokenizeRequest {
    #[schemars(with = "Option<AnyModel>")]
    model: Option<String>,
    /// A text, in which the text of a control token stands for that token.
    prompt: Option<String>,
    /// A conversation, as the chat template lays it out.
    #[schemars(length(min = 1))]
    messages: Option<Vec<chat::Message>>,
    #[schemars(length(max = MOST_TOOLS))]
    tools: Option<Vec<chat::Tool>>,
    /// Whether the opening of an answer follows the messages; it does unless this is false.
    add_generation_prompt: Option<bool>,
    /// Whether the model's begin and end tokens come around the text; they do unless this is false.
    add_special_tokens: Option<bool>,
    /// Whether to tell each token as the vocabulary writes it.
    return_token_strs: Option<bool>,
    /// Whether the prompt ends with the text of the last message, an assistant's; then without
    /// `add_generation_prompt`.
    continue_final_message: Option<bool>,

    // Known to vLLM, refused where they ask for what is not built.
    /// Refused: the template of the model's file is used.
    #[schemars(with = "Option<Refused>")]
    chat_template: Option<Value>,
    /// Further variables of the chat template, as for chat completions.
    #[schemars(extend(
        "maxProperties" = MOST_TEMPLATE_KWARGS,
        "propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": LONGEST_TEMPLATE_KWARG_NAME},
    ))]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Refused: models here read text only.
    #[schemars(with = "Option<Refused>")]
    mm_processor_kwargs: Option<Value>,
}

/// What is to be made into tokens.
#[derive(Debug)]
enum Source {
    Prompt { text: String, bounds: bool },
    Messages(Conversation),
}

/// The answer of `POST /tokenize`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tokenized {
    count: usize,
    /// Tokens that prompt and answer may have together.
    max_model_len: usize,
    tokens: Vec<i32>,
    /// Each token as the vocabulary writes it, if asked for.
    token_strs: Option<Vec<String>>,
}

pub(super) fn describe_tokenize(schemas: &mut Schemas) -> Operation {
    Operation::new(
        "tokenize",
        "Makes tokens of a text or a conversation, as vLLM does.",
    )
    .takes(&schemas.sent::<TokenizeRequest>())
    .fails(&[404])
    .tells("application/json", &schemas.told::<Tokenized>())
}

pub(super) async fn tokenize(
    State(state): State<AppState>,
    JsonBody(request, arrival): JsonBody<TokenizeRequest>,
) -> Result<Json<Tokenized>, ApiError> {
    refuse_what_is_not_built(&request)?;
    let with_texts = request.return_token_strs.unwrap_or(false);
    let model = request.model.clone();
    let source = Source::try_from(request)?;
    let answer = on_model(&state, model.as_deref(), source.bytes(), move |serving| {
        let _memory = arrival.memory;
        let tokens = source.tokens(&serving)?;
        let texts = tokens
            .iter()
            .map(|token| serving.tokenizer().token_text(*token));
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: serving.context(),
            token_strs: with_texts.then(|| texts.collect()),
            tokens: tokens.into_iter().map(|token| token.0).collect(),
        })
    });
    answer.await.map(Json)
}

/// The body of `POST /detokenize`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "Tokens of a text.")]
pub(super) struct DetokenizeRequest {
    #[schemars(with = "Option<AnyModel>")]
    model: Option<String>,
    /// Ids in the model's vocabulary.
    #[schemars(transform = each(within(TOKEN)))]
    tokens: Vec<i64>,
}

/// The answer of `POST /detokenize`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Detokenized {
    prompt: String,
}

pub(super) fn describe_detokenize(schemas: &mut Schemas) -> Operation {
    Operation::new("detokenize", "Makes a text of tokens, as vLLM does.")
        .takes(&schemas.sent::<DetokenizeRequest>())
        .fails(&[404])
        .tells("application/json", &schemas.told::<Detokenized>())
}

pub(super) async fn detokenize(
    State(state): State<AppState>,
    JsonBody(request, arrival): JsonBody<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    let DetokenizeRequest { model, tokens: ids } = request;
    let answer = on_model(&state, model.as_deref(), ids.len(), move |serving| {
        let _memory = arrival.memory;
        let tokenizer = serving.tokenizer();
        let tokens = known_tokens("tokens", &ids, tokenizer.info().vocabulary)?;
        Ok(Detokenized {
            prompt: tokenizer.detokenize(&tokens),
        })
    });
    answer.await.map(Json)
}

/// Reads a body of `/tokenize` as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(super) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    let request = read_value::<TokenizeRequest>(body)?;
    refuse_what_is_not_built(&request)?;
    Source::try_from(request).map(drop)
}

/// Reads a body of `/detokenize` as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(super) fn read_tokens(body: &[u8]) -> Result<(), ApiError> {
    read_value::<DetokenizeRequest>(body).map(drop)
}

/// Token ids as tokens of a vocabulary of so many; llama.cpp ends the process over others.
pub(super) fn known_tokens(
    param: &str,
    ids: &[i64],
    vocabulary: usize,
) -> Result<Vec<Token>, ApiError> {
    let known = |id: i64| {
        let inside = usize::try_from(id).is_ok_and(|id| id < vocabulary);
        inside.then(|| i32::try_from(id).ok()).flatten()
    };
    let tokens = ids.iter().enumerate().map(|(index, id)| {
        known(*id).map(Token).ok_or_else(|| {
            let param = format!("{param}[{index}]");
            let message = format!(
                "`{param}`: {id} is not a token of this model, whose ids are 0 to {}",
                vocabulary.saturating_sub(1)
            );
            ApiError::invalid(param, message)
        })
    });
    tokens.collect()
}

/// Off the runtime's threads, and as one of the requests that the model's gate counts. A long
/// text is refused while another is read.
async fn on_model<T: Send + 'static>(
    state: &AppState,
    model: Option<&str>,
    length: usize,
    work: impl FnOnce(Serving) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let entry = find_model(state, model)?;
    let serving = serving(entry)?;
    let held = hold(state, &entry.gate, length).inspect_err(|refusal| {
        let reason = refusal.reason.as_str();
        state.metrics.request_rejected(&entry.id, reason);
    })?;
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let _held = held;
        span.in_scope(|| work(serving))
    });
    done.await.map_err(|_| ApiError::Internal)?
}

/// What a request holds while its text is read.
type Held = (Place, Presence, Option<OwnedSemaphorePermit>);

fn hold(state: &AppState, gate: &Gate, length: usize) -> Result<Held, Refusal> {
    let (place, presence) = gate.admit()?;
    let long = if length > LONG_TEXT {
        let only_one = Arc::clone(&state.long_texts).try_acquire_owned();
        Some(only_one.map_err(|_| Refusal {
            reason: Reason::QueueFull,
            retry_after: Duration::from_secs(5),
        })?)
    } else {
        None
    };
    Ok((place, presence, long))
}

fn refuse_what_is_not_built(request: &TokenizeRequest) -> Result<(), ApiError> {
    let templates = "is not supported: the template of the model's file is used";
    let asked = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    refuse_asked([
        ("chat_template", asked(&request.chat_template), templates),
        (
            "mm_processor_kwargs",
            asked(&request.mm_processor_kwargs),
            "is not supported: models here read text only",
        ),
    ])
}

impl TryFrom<TokenizeRequest> for Source {
    type Error = ApiError;

    fn try_from(request: TokenizeRequest) -> Result<Self, ApiError> {
        let tools = request.tools.unwrap_or_default();
        match (request.prompt, request.messages) {
            (Some(text), None) => {
                // Of no use to a text, and wrong all the same where they are.
                chat::shown(tools)?;
                template_kwargs(request.chat_template_kwargs)?;
                Ok(Self::Prompt {
                    text,
                    bounds: request.add_special_tokens.unwrap_or(true),
                })
            }
            (None, Some(messages)) => {
                let turns = chat::conversation(messages, tools, request.chat_template_kwargs)?;
                let end = chat::end(
                    request.continue_final_message,
                    request.add_generation_prompt,
                    &turns.messages,
                )?;
                Ok(Self::Messages(Conversation { end, ..turns }))
            }
            (None, None) => Err(ApiError::invalid(
                "prompt",
                "`prompt` is missing: send a text as `prompt`, or `messages`",
            )),
            (Some(_), Some(_)) => Err(ApiError::invalid(
                "prompt",
                "send either `prompt` or `messages`, not both",
            )),
        }
    }
}

impl Source {
    /// What has to be read, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Prompt { text, .. } => text.len(),
            Self::Messages(turns) => {
                shorten::bytes(&turns.messages)
                    + shorten::least_tool_tokens(&turns.tools, 1)
                    + shorten::least_kwargs_tokens(&turns.template_kwargs, 1)
            }
        }
    }

    fn tokens(&self, serving: &Serving) -> Result<Vec<Token>, ApiError> {
        match (self, serving) {
            (Self::Prompt { text, bounds }, _) => {
                let reading = Reading {
                    bounds: *bounds,
                    markup: matches!(serving, Serving::Generation(_)),
                };
                Ok(serving.tokenizer().tokenize(text, reading))
            }
            (Self::Messages(turns), Serving::Generation(loaded)) => {
                // As chat does, before a template and the guard of its marks work through megabytes.
                let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
                let least = turns.messages.len().max(self.bytes() / longest_piece);
                if least > loaded.context() {
                    return Err(ApiError::ContextLength(format!(
                        "the messages have at least {least} tokens; the model's context is {}: \
                         no chat request can hold them",
                        loaded.context()
                    )));
                }
                let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
                prompter
                    .tokens(turns, &*loaded.tokenizer)
                    .map(|prompt| prompt.tokens)
                    .map_err(|error| ApiError::from(&error))
            }
            (Self::Messages(_), Serving::Embedding(_)) => Err(ApiError::invalid(
                "messages",
                "an embedding model does not chat: send the text as `prompt`",
            )),
        }
    }
}

impl Wire for TokenizeRequest {}

impl Wire for DetokenizeRequest {
    const COUNTED: Counted = Counted::AllButTokens;
}

only_objects!(TokenizeRequest, DetokenizeRequest,);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::End;
    use serde_json::json;

    fn source(body: Value) -> Result<Source, ApiError> {
        Source::try_from(serde_json::from_value::<TokenizeRequest>(body).expect("typed"))
    }

    #[test]
    fn a_prompt_has_its_bounds_and_messages_the_opening_of_an_answer_unless_told_otherwise() {
        let prompt = source(json!({"prompt": "hi"})).expect("sound");
        assert!(matches!(prompt, Source::Prompt { bounds: true, .. }));
        let turns = json!([{"role": "user", "content": "hi"}]);
        let chat = source(json!({"messages": turns})).expect("sound");
        let open = End::OpenAnswer;
        assert!(matches!(chat, Source::Messages(turns) if turns.end == open));
        let closed = source(json!({"messages": turns, "add_generation_prompt": false}));
        let last = End::LastMessage;
        let begun =
            json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A"}]);
        let going_on = source(json!({"messages": begun, "continue_final_message": true}));
        let text = End::LastText;
        assert!(matches!(going_on, Ok(Source::Messages(turns)) if turns.end == text));
        assert!(matches!(closed, Ok(Source::Messages(turns)) if turns.end == last));
    }

    #[test]
    fn tools_are_checked_whether_they_are_of_use_or_not() {
        let turns = json!([{"role": "user", "content": "hi"}]);
        let tools = json!([{"type": "function", "function": {"name": "two words"}}]);
        for body in [
            json!({"prompt": "hi", "tools": tools}),
            json!({"messages": turns, "tools": tools}),
        ] {
            let error = source(body).expect_err("refused").body();
            assert_eq!(error["error"]["param"], "tools[0].function.name");
        }
    }

    #[test]
    fn a_prompt_and_messages_exclude_each_other_and_one_must_be_there() {
        for body in [json!({}), json!({"prompt": "a", "messages": []})] {
            let error = source(body).expect_err("refused").body();
            assert_eq!(error["error"]["param"], "prompt");
        }
    }

    #[test]
    fn tools_that_no_chat_request_could_offer_are_refused() {
        let turns = json!([{"role": "user", "content": "hi"}]);
        let tools = json!([{"type": "function", "function": {"name": "no name"}}]);
        let error = source(json!({"messages": turns, "tools": tools})).expect_err("refused");
        assert_eq!(error.body()["error"]["param"], "tools[0].function.name");
    }

    #[test]
    fn ids_outside_the_vocabulary_are_named_with_their_place() {
        assert_eq!(
            known_tokens("tokens", &[0, 9], 10),
            Ok(vec![Token(0), Token(9)])
        );
        for id in [-1, 10, i64::MAX, i64::MIN] {
            let error = known_tokens("tokens", &[1, id], 10).expect_err("refused");
            assert_eq!(error.body()["error"]["param"], "tokens[1]");
        }
    }
}
