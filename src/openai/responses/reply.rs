//! The response object, as OpenAI documents it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::unix_seconds;
use crate::http::openapi::among;
use crate::inference::UsageTotals;
use crate::openai::usage::{EdgellmAnswer, EdgellmUsage};
use crate::sampling::SamplingParams;

use super::items::{ResponseItem, new_id};
use super::tools::ResponseTool;

/// A response, finished or not.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Response")]
pub(super) struct ResponseObject {
    pub(super) id: String,
    #[schemars(transform = among(["response"]))]
    object: &'static str,
    /// Seconds since 1970.
    created_at: u64,
    pub(super) status: ResponseStatus,
    background: bool,
    /// Seconds since 1970; of completed ones only.
    completed_at: Option<u64>,
    pub(super) error: Option<ResponseFailure>,
    incomplete_details: Option<IncompleteDetails>,
    model: String,
    pub(super) output: Vec<ResponseItem>,
    temperature: f32,
    top_p: f32,
    #[serde(flatten)]
    pub(super) echo: RequestEcho,
    /// Known at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<ResponseUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edgellm: Option<EdgellmAnswer>,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

/// What the request said, told again.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct RequestEcho {
    pub(super) instructions: Option<String>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) max_tool_calls: Option<u32>,
    pub(super) metadata: Map<String, Value>,
    pub(super) parallel_tool_calls: bool,
    pub(super) previous_response_id: Option<String>,
    pub(super) prompt_cache_key: Option<String>,
    pub(super) reasoning: ResponseReasoning,
    pub(super) safety_identifier: Option<String>,
    pub(super) service_tier: &'static str,
    pub(super) store: bool,
    pub(super) text: ResponseText,
    pub(super) tool_choice: Value,
    pub(super) tools: Vec<ResponseTool>,
    pub(super) top_logprobs: usize,
    pub(super) truncation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct ResponseReasoning {
    pub(super) effort: Option<String>,
    pub(super) summary: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct ResponseText {
    pub(super) format: ResponseTextFormat,
    pub(super) verbosity: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseTextFormat {
    Text,
    JsonObject,
    JsonSchema {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        schema: Value,
        strict: bool,
    },
}

/// Why a response failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ResponseFailure {
    /// One of OpenAI's.
    pub(super) code: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct IncompleteDetails {
    reason: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct ResponseUsage {
    input_tokens: u32,
    input_tokens_details: InputTokenDetails,
    output_tokens: u32,
    output_tokens_details: OutputTokenDetails,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    edgellm: Option<EdgellmUsage>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct InputTokenDetails {
    cached_tokens: u32,
    /// All others stay for the next prompt with the same beginning.
    cache_write_tokens: u32,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct OutputTokenDetails {
    reasoning_tokens: u32,
}

impl ResponseObject {
    /// Makes the object of a response that is about to be computed.
    pub(super) fn new(model: &str, sampling: &SamplingParams, echo: RequestEcho) -> Self {
        Self {
            id: new_id("resp"),
            object: "response",
            created_at: unix_seconds(),
            status: ResponseStatus::InProgress,
            background: false,
            completed_at: None,
            error: None,
            incomplete_details: None,
            model: model.to_owned(),
            output: Vec::new(),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            echo,
            usage: None,
            edgellm: None,
        }
    }

    /// Notes that the deadline cut the answer off.
    pub(super) fn note_late(&mut self) {
        self.edgellm = EdgellmAnswer::of(true);
    }

    /// Completes the response; `reasoning_tokens` of its generated tokens were thoughts.
    pub(super) fn end(&mut self, cut_off: bool, spent: UsageTotals, reasoning_tokens: u32) {
        if cut_off {
            self.status = ResponseStatus::Incomplete;
            self.incomplete_details = Some(IncompleteDetails {
                reason: "max_output_tokens",
            });
        } else {
            self.status = ResponseStatus::Completed;
            self.completed_at = Some(unix_seconds());
        }
        self.usage = Some(ResponseUsage {
            input_tokens: spent.prompt_tokens,
            input_tokens_details: InputTokenDetails {
                cached_tokens: spent.cached_tokens,
                cache_write_tokens: spent.prompt_tokens.saturating_sub(spent.cached_tokens),
            },
            output_tokens: spent.generated_tokens,
            output_tokens_details: OutputTokenDetails { reasoning_tokens },
            total_tokens: spent.prompt_tokens + spent.generated_tokens,
            edgellm: EdgellmUsage::of(spent),
        });
    }
}
