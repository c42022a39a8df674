//! The bodies of answers, as OpenAI documents them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::admission::ServiceTier;
use crate::http::openapi::among;
use crate::inference::AnswerOutcome;
use crate::openai::logprobs::{TokenLogprob, TokenLogprobList};
use crate::openai::usage::{ChunkUsage, CompletionUsage, EdgellmAnswer};

const FINISH_REASONS: [&str; 3] = [
    AnswerOutcome::Stop.as_str(),
    AnswerOutcome::Length.as_str(),
    AnswerOutcome::ToolCalls.as_str(),
];

/// What every object of an answer repeats.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ChatHeader {
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

impl ChatHeader {
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
pub(super) struct ChatCompletion<'a> {
    #[serde(flatten)]
    pub(super) header: &'a ChatHeader,
    pub(super) choices: Vec<ChatChoice>,
    pub(super) usage: CompletionUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) edgellm: Option<EdgellmAnswer>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: ChatAnswer,
    pub(super) logprobs: Option<ChatLogprobs>,
    #[schemars(with = "&str", transform = among(FINISH_REASONS))]
    pub(super) finish_reason: AnswerOutcome,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatAnswer {
    #[schemars(transform = among(["assistant"]))]
    pub(super) role: &'static str,
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    pub(super) refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<AnswerCall>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct AnswerCall {
    pub(super) id: String,
    #[schemars(transform = among(["function"]))]
    pub(super) r#type: &'static str,
    pub(super) function: AnswerFunction,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct AnswerFunction {
    pub(super) name: String,
    /// JSON in a string.
    pub(super) arguments: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatCompletionChunk<'a> {
    #[serde(flatten)]
    pub(super) header: &'a ChatHeader,
    pub(super) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_absent")]
    pub(super) usage: ChunkUsage,
    /// With the finish reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) edgellm: Option<EdgellmAnswer>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChunkChoice {
    pub(super) index: usize,
    pub(super) delta: Delta,
    pub(super) logprobs: Option<ChatLogprobs>,
    #[schemars(with = "Option<&str>", transform = among(FINISH_REASONS))]
    pub(super) finish_reason: Option<AnswerOutcome>,
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
pub(super) struct ChatLogprobs {
    #[schemars(with = "Vec<TokenLogprob>")]
    pub(super) content: TokenLogprobList,
    pub(super) refusal: Option<()>,
}
