//! The bodies of answers, as OpenAI documents them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::description::among;
use crate::openai::logprobs::{Found, TokenLogprob};
use crate::openai::usage::{ChunkUsage, Usage};
use crate::scheduler::ServiceTier;

const FINISH_REASONS: [&str; 3] = ["stop", "length", "tool_calls"];

/// What every object of an answer repeats.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Header {
    pub(super) id: String,
    #[schemars(transform = among(["chat.completion", "chat.completion.chunk"]))]
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: String,
    /// Says which model file answers.
    pub(super) system_fingerprint: String,
    /// Echoed to requests that name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
}

impl Header {
    pub(super) fn new(
        object: &'static str,
        model: &str,
        digest: &str,
        created: u64,
        tier: Option<ServiceTier>,
    ) -> Self {
        Self {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            object,
            created,
            model: model.to_owned(),
            system_fingerprint: format!("fp_{}", digest.get(..10).unwrap_or(digest)),
            service_tier: tier.map(ServiceTier::as_str),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletion")]
pub(super) struct Completion<'a> {
    #[serde(flatten)]
    pub(super) header: &'a Header,
    pub(super) choices: Vec<WholeChoice>,
    pub(super) usage: Usage,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChoice")]
pub(super) struct WholeChoice {
    pub(super) index: usize,
    pub(super) message: Message,
    pub(super) logprobs: Option<Logprobs>,
    #[schemars(transform = among(FINISH_REASONS))]
    pub(super) finish_reason: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatAnswer")]
pub(super) struct Message {
    #[schemars(transform = among(["assistant"]))]
    pub(super) role: &'static str,
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    pub(super) refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<Call>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "AnswerCall")]
pub(super) struct Call {
    pub(super) id: String,
    #[schemars(transform = among(["function"]))]
    pub(super) r#type: &'static str,
    pub(super) function: Function,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "AnswerFunction")]
pub(super) struct Function {
    pub(super) name: String,
    /// JSON in a string.
    pub(super) arguments: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletionChunk")]
pub(super) struct Chunk<'a> {
    #[serde(flatten)]
    pub(super) header: &'a Header,
    pub(super) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_absent")]
    pub(super) usage: ChunkUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChunkChoice {
    pub(super) index: usize,
    pub(super) delta: Delta,
    pub(super) logprobs: Option<Logprobs>,
    #[schemars(transform = among(FINISH_REASONS))]
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<[CallDelta; 1]>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CallDelta {
    pub(super) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#type: Option<&'static str>,
    pub(super) function: FunctionDelta,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatLogprobs")]
pub(super) struct Logprobs {
    #[schemars(with = "Vec<TokenLogprob>")]
    pub(super) content: Found,
    pub(super) refusal: Option<()>,
}
