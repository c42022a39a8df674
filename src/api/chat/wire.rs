//! The body of `POST /v1/chat/completions`, as OpenAI documents it, and the
//! parameters of ours beside it. `null` means absent, unknown keys are ignored.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::decoding::Stop;

/// The request. Numbers are wide here, so that a value out of range is refused
/// in words rather than by type.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct ChatRequest {
    pub(super) model: Option<String>,
    pub(super) messages: Vec<Message>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,

    pub(super) max_tokens: Option<i64>,
    pub(super) max_completion_tokens: Option<i64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) logit_bias: Option<Map<String, Value>>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Option<Stop>,
    pub(super) n: Option<i64>,
    pub(super) logprobs: Option<bool>,
    pub(super) top_logprobs: Option<i64>,
    pub(super) response_format: Option<ResponseFormat>,
    pub(super) reasoning_effort: Option<String>,

    pub(super) tools: Option<Vec<Tool>>,
    pub(super) tool_choice: Option<ToolChoice>,
    pub(super) parallel_tool_calls: Option<bool>,

    pub(super) prediction: Option<Prediction>,
    pub(super) service_tier: Option<String>,

    // Of no consequence here, but of the right type.
    pub(super) metadata: Option<Map<String, Value>>,
    #[serde(rename = "user")]
    pub(super) _user: Option<String>,
    #[serde(rename = "prompt_cache_key")]
    pub(super) _prompt_cache_key: Option<String>,
    #[serde(rename = "safety_identifier")]
    pub(super) _safety_identifier: Option<String>,

    // Ours.
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f64>,
    pub(super) repeat_penalty: Option<f64>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) stop_token_ids: Option<Vec<i64>>,

    // Known, and refused where they ask for what is not built. Named one by one, so that
    // what a client sends under other names is skipped and never kept.
    pub(super) store: Option<bool>,
    pub(super) modalities: Option<Vec<String>>,
    pub(super) functions: Option<Value>,
    pub(super) function_call: Option<Value>,
    pub(super) audio: Option<Value>,
    pub(super) verbosity: Option<String>,
    pub(super) web_search_options: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// `type` is `text`, `json_object` or `json_schema`.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) json_schema: Option<JsonSchema>,
}

#[derive(Debug, Deserialize)]
pub(super) struct JsonSchema {
    pub(super) name: String,
    pub(super) schema: Option<Value>,
    pub(super) strict: Option<bool>,
}

/// `none`, `auto`, `required`, one function, or some that are allowed.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected `none`, `auto`, `required` or an object with a `type`"
)]
pub(super) enum ToolChoice {
    Mode(String),
    Some(Chosen),
}

#[derive(Debug, Deserialize)]
pub(super) struct Chosen {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) function: Option<Named>,
    pub(super) allowed_tools: Option<Allowed>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Allowed {
    pub(super) mode: String,
    pub(super) tools: Vec<AllowedTool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AllowedTool {
    pub(super) function: Option<Named>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(in crate::api) struct Message {
    pub(super) role: Role,
    pub(super) content: Option<Content>,
    pub(super) name: Option<String>,
    pub(super) tool_calls: Option<Vec<ToolCall>>,
    pub(super) tool_call_id: Option<String>,
}

/// Through a string, because of a number `serde_json` says only "expected value".
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl TryFrom<String> for Role {
    type Error = &'static str;

    fn try_from(role: String) -> Result<Self, Self::Error> {
        Ok(match role.as_str() {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            _ => return Err("unknown role; use system, developer, user, assistant or tool"),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of content parts")]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) text: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Prediction {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) content: Content,
}

#[derive(Debug, Deserialize)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) function: CalledFunction,
}

#[derive(Debug, Deserialize)]
pub(super) struct CalledFunction {
    pub(super) name: String,
    /// JSON in a string.
    pub(super) arguments: String,
}

/// A tool on offer. What the model reads is the whole object, so unknown keys stay.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct Tool {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) function: Option<Function>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}
