//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.
//!
//! A `prompt` is a whole text that its sender answers for, as vLLM's users expect of
//! `/v1/completions`: the text of a control token in it stands for that token, and with
//! `add_special_tokens` (the default) the model's begin and end tokens come around it. For an
//! embedding model the tokens are those that `/v1/embeddings` makes of it, where text is only text.
//! `messages` give the tokens that a chat request with them has: text in them never becomes a
//! control token, and the begin token is there if the model wants one, whatever
//! `add_special_tokens` says. Messages that no chat request could hold are refused.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::prompt::Conversation;

use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::json_count::CountScope;
use crate::http::openapi::{AnyModel, NullOnly, Operation, Schemas, each, within};
#[cfg(any(test, fuzzing))]
use crate::http::parse::read_value;
use crate::http::parse::{Wire, only_objects};
use crate::inference::Inference;
use crate::inference::bounds::{
    LONGEST_TEMPLATE_KWARG_NAME, MOST_TEMPLATE_KWARGS, MOST_TOOLS, TOKEN_ID,
};
use crate::inference::tokenize::TokenizeInput;
use crate::openai::chat;
use crate::openai::generation_params::refuse_asked;
use crate::openai::names::TOKENIZE;
use crate::openai::served_by::served_by;
use crate::openai::template_kwargs::template_kwargs;

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
pub(crate) struct TokenizeRequest {
    #[schemars(with = "Option<AnyModel>")]
    model: Option<String>,
    /// A text, in which the text of a control token stands for that token.
    prompt: Option<String>,
    /// A conversation, as the chat template lays it out.
    #[schemars(length(min = 1))]
    messages: Option<Vec<chat::ChatMessage>>,
    #[schemars(length(max = MOST_TOOLS))]
    tools: Option<Vec<chat::ChatTool>>,
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
    #[schemars(with = "Option<NullOnly>")]
    chat_template: Option<Value>,
    /// Further variables of the chat template, as for chat completions.
    #[schemars(extend(
        "maxProperties" = MOST_TEMPLATE_KWARGS,
        "propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": LONGEST_TEMPLATE_KWARG_NAME},
    ))]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Refused: models here read text only.
    #[schemars(with = "Option<NullOnly>")]
    mm_processor_kwargs: Option<Value>,
}

/// The answer of `POST /tokenize`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tokenized {
    count: usize,
    /// Tokens that prompt and answer may have together.
    max_model_len: usize,
    tokens: Vec<i32>,
    /// Each token as the vocabulary writes it, if asked for.
    token_strs: Option<Vec<String>>,
}

pub(crate) fn describe_tokenize(schemas: &mut Schemas) -> Operation {
    Operation::new(
        "tokenize",
        "Makes tokens of a text or a conversation, as vLLM does.",
    )
    .accepts(&schemas.read::<TokenizeRequest>())
    .fails(&[404])
    .responds("application/json", &schemas.written::<Tokenized>())
}

pub(crate) async fn tokenize(
    State(inference): State<Inference>,
    JsonBody(request, arrival): JsonBody<TokenizeRequest>,
) -> Result<Response, ApiError> {
    refuse_what_is_not_built(&request)?;
    let with_texts = request.return_token_strs.unwrap_or(false);
    let model = request.model.clone();
    let input = TokenizeInput::try_from(request)?;
    let model = inference.choose_model(model.as_deref(), &arrival.principal, true)?;
    let tokenized = inference.tokenize(&model.entry, input, with_texts, arrival);
    let tokenized = tokenized.await.map_err(|error| TOKENIZE.api_error(error))?;
    let tokenized = Json(Tokenized {
        count: tokenized.tokens.len(),
        max_model_len: tokenized.context,
        token_strs: tokenized.texts,
        tokens: tokenized.tokens.into_iter().map(|token| token.0).collect(),
    });
    Ok(served_by(tokenized.into_response(), &model))
}

/// The body of `POST /detokenize`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "Tokens of a text.")]
pub(crate) struct DetokenizeRequest {
    #[schemars(with = "Option<AnyModel>")]
    model: Option<String>,
    /// Ids in the model's vocabulary.
    #[schemars(transform = each(within(TOKEN_ID)))]
    tokens: Vec<i64>,
}

/// The answer of `POST /detokenize`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Detokenized {
    prompt: String,
}

pub(crate) fn describe_detokenize(schemas: &mut Schemas) -> Operation {
    Operation::new("detokenize", "Makes a text of tokens, as vLLM does.")
        .accepts(&schemas.read::<DetokenizeRequest>())
        .fails(&[404])
        .responds("application/json", &schemas.written::<Detokenized>())
}

pub(crate) async fn detokenize(
    State(inference): State<Inference>,
    JsonBody(request, arrival): JsonBody<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let model = inference.choose_model(request.model.as_deref(), &arrival.principal, true)?;
    let text = inference.detokenize(&model.entry, request.tokens, arrival);
    let prompt = text.await.map_err(|error| TOKENIZE.api_error(error))?;
    let detokenized = Json(Detokenized { prompt });
    Ok(served_by(detokenized.into_response(), &model))
}

/// Reads and checks a body of `/tokenize` as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    let request = read_value::<TokenizeRequest>(body)?;
    refuse_what_is_not_built(&request)?;
    TokenizeInput::try_from(request).map(drop)
}

/// Reads and checks a body of `/detokenize` as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_tokens(body: &[u8]) -> Result<(), ApiError> {
    read_value::<DetokenizeRequest>(body).map(drop)
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

impl TryFrom<TokenizeRequest> for TokenizeInput {
    type Error = ApiError;

    fn try_from(request: TokenizeRequest) -> Result<Self, ApiError> {
        let tools = request.tools.unwrap_or_default();
        match (request.prompt, request.messages) {
            (Some(text), None) => {
                // They have no effect on a text, but invalid ones are refused all the same.
                chat::shown(tools)?;
                template_kwargs(request.chat_template_kwargs)?;
                Ok(Self::Text {
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
                Ok(Self::Conversation(Conversation { end, ..turns }))
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

impl Wire for TokenizeRequest {
    const HAS_TOOLS: bool = true;

    fn keep_tools(&mut self, written: Vec<Value>) {
        chat::ChatTool::keep_as_written(self.tools.as_mut(), written);
    }
}

impl Wire for DetokenizeRequest {
    const COUNT_SCOPE: CountScope = CountScope::AllButTokens;
}

only_objects!(TokenizeRequest, DetokenizeRequest,);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::PromptEnd;
    use serde_json::json;

    fn source(body: Value) -> Result<TokenizeInput, ApiError> {
        TokenizeInput::try_from(serde_json::from_value::<TokenizeRequest>(body).expect("typed"))
    }

    #[test]
    fn a_prompt_has_its_bounds_and_messages_the_opening_of_an_answer_unless_told_otherwise() {
        let prompt = source(json!({"prompt": "hi"})).expect("sound");
        assert!(matches!(prompt, TokenizeInput::Text { bounds: true, .. }));
        let turns = json!([{"role": "user", "content": "hi"}]);
        let chat = source(json!({"messages": turns})).expect("sound");
        let open = PromptEnd::OpenAnswer;
        assert!(matches!(chat, TokenizeInput::Conversation(turns) if turns.end == open));
        let closed = source(json!({"messages": turns, "add_generation_prompt": false}));
        let last = PromptEnd::LastMessage;
        let begun =
            json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A"}]);
        let going_on = source(json!({"messages": begun, "continue_final_message": true}));
        let text = PromptEnd::LastText;
        assert!(matches!(going_on, Ok(TokenizeInput::Conversation(turns)) if turns.end == text));
        assert!(matches!(closed, Ok(TokenizeInput::Conversation(turns)) if turns.end == last));
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
}
