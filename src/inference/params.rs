//! How an answer is generated: what every protocol can ask for.

use crate::engine::Token;
use crate::grammar::Schema;
use crate::prompt::Callable;
use crate::scheduler::Class;

use super::bounds::CHOICES;
use super::checks::{BoundsError, between};
use super::sampling::RequestedSampling;

/// Everything about an answer but its prompt.
#[derive(Debug, Default)]
pub(crate) struct GenerationParams {
    /// Tokens of an answer; as many as the context allows where the request says nothing.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: RequestedSampling,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<Token>,
    pub(crate) ignore_end: bool,
    /// The service tier, if the request names one.
    pub(crate) class: Option<Class>,
    /// The text that the answer is expected to be.
    pub(crate) prediction: Option<String>,
    /// Answers to the same prompt.
    pub(crate) choices: ChoiceCount,
    /// Whether to tell how likely tokens were, with so many rivals.
    pub(crate) logprobs: Option<usize>,
    /// The same for the prompt.
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) format: OutputFormat,
}

/// What an answer must be.
#[derive(Debug, Default)]
pub(crate) enum OutputFormat {
    /// Whatever the model says.
    #[default]
    Free,
    /// Whatever the model says; but what it calls must fit.
    FreeWithCalls(Vec<Callable>),
    /// JSON.
    Json(Schema),
    /// Tool calls, or JSON where that is allowed as well.
    Calls {
        functions: Vec<Callable>,
        several: bool,
        otherwise: Option<Schema>,
    },
}

/// How many answers; at least one.
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
