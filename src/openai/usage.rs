//! The `usage` object of chat and text completions.

use schemars::JsonSchema;
use serde::Serialize;

use crate::inference::UsageTotals;

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
pub(crate) struct CompletionUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    edgellm: Option<EdgellmUsage>,
}

/// The usage of a stream's chunk.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ChunkUsage {
    /// None was asked for.
    Absent,
    /// It comes with the last chunk: null.
    Later(()),
    /// Here it is.
    Now(CompletionUsage),
}

impl ChunkUsage {
    /// Returns the usage of every chunk before the last: `null` if the client wants usage, otherwise absent.
    pub(crate) fn before_the_last(wanted: bool) -> Self {
        if wanted {
            Self::Later(())
        } else {
            Self::Absent
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// What OpenAI's usage has no word for.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "Cost")]
pub(crate) struct EdgellmUsage {
    /// Only where `telemetry.energy_in_usage` is on and the energy is known.
    energy_joules: f64,
}

impl EdgellmUsage {
    /// Returns `None` if the energy is not measured or not disclosed to clients.
    pub(crate) fn of(spent: UsageTotals) -> Option<Self> {
        let energy_joules = spent.energy_joules?;
        Some(Self { energy_joules })
    }
}

/// What OpenAI's answers have no word for; absent where there is nothing to say.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "AnswerNotes")]
pub(crate) struct EdgellmAnswer {
    /// Whether the deadline of the request passed before the answer was complete.
    deadline: bool,
}

impl EdgellmAnswer {
    /// Returns `None` for an answer that its deadline did not cut off.
    pub(crate) fn of(is_late: bool) -> Option<Self> {
        is_late.then_some(Self { deadline: true })
    }
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "PromptDetails")]
struct PromptTokensDetails {
    /// Those that were computed before.
    cached_tokens: u32,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[allow(clippy::struct_field_names)] // OpenAI's
#[schemars(rename = "CompletionDetails")]
struct CompletionTokensDetails {
    /// Those that were thoughts.
    reasoning_tokens: u32,
    accepted_prediction_tokens: u32,
    rejected_prediction_tokens: u32,
}

impl CompletionUsage {
    /// Makes the object of an answer of whose generated tokens `reasoning_tokens` were thoughts.
    pub(crate) fn new(spent: UsageTotals, reasoning_tokens: u32) -> Self {
        let predicted = spent.predicted_tokens.unwrap_or_default();
        Self {
            prompt_tokens: spent.prompt_tokens,
            completion_tokens: spent.generated_tokens,
            total_tokens: spent.prompt_tokens + spent.generated_tokens,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: spent.cached_tokens,
            },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens,
                accepted_prediction_tokens: predicted.accepted,
                rejected_prediction_tokens: predicted.rejected,
            },
            edgellm: EdgellmUsage::of(spent),
        }
    }
}
