//! The generation parameters that every protocol can set.

use crate::admission::ServiceTier;
use crate::engine::Token;
use crate::grammar::Schema;
use crate::prompt::CallableFunction;

use super::bounds::CHOICES;
use super::checks::{BoundsError, between};
use super::sampling::RequestedSampling;

/// The parameters of generating an answer to any prompt.
#[derive(Debug, Default)]
pub(crate) struct GenerationParams {
    /// Tokens of an answer at most; `None` for as many as the context allows.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: RequestedSampling,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<Token>,
    pub(crate) ignore_end: bool,
    /// The service tier, if the request names one.
    pub(crate) class: Option<ServiceTier>,
    /// The text that the answer is expected to be.
    pub(crate) prediction: Option<String>,
    /// How many answers are generated for the same prompt.
    pub(crate) choices: ChoiceCount,
    /// How many top log-probabilities are returned per token; `None` for no log-probabilities.
    pub(crate) logprobs: Option<usize>,
    /// Like `logprobs`, for the tokens of the prompt.
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) format: OutputFormat,
}

impl GenerationParams {
    /// Whether they name tokens by their ids, which are those of one vocabulary.
    pub(crate) fn names_tokens(&self) -> bool {
        !self.stop_tokens.is_empty() || self.sampling.names_tokens()
    }
}

/// The format that an answer is held to.
#[derive(Debug, Default)]
pub(crate) enum OutputFormat {
    /// Any text.
    #[default]
    Free,
    /// Any text, but the arguments of tool calls must fit their schemas.
    FreeWithCalls(Vec<CallableFunction>),
    /// JSON that fits a schema.
    Json(Schema),
    /// Tool calls, or alternatively JSON that fits `otherwise`.
    Calls {
        functions: Vec<CallableFunction>,
        several: bool,
        otherwise: Option<Schema>,
    },
}

/// The number of answers per prompt; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChoiceCount(u32);

impl Default for ChoiceCount {
    fn default() -> Self {
        Self(1)
    }
}

impl ChoiceCount {
    pub(crate) fn new(n: Option<i64>) -> Result<Self, BoundsError> {
        let Some(n) = n else {
            return Ok(Self::default());
        };
        between("n", n, CHOICES).map(Self)
    }

    pub(crate) fn count(self) -> u32 {
        self.0
    }
}
