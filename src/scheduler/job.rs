//! What goes into the scheduler and what comes out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::admission::{AdmissionSlot, SendBudget};
use crate::engine::{SpecialToken, Token};
use crate::grammar::Guide;
use crate::sampling::{Logprobs, SamplingParams};
use crate::worker::WorkError;

use super::events::{EventReceiver, EventSender, channel};
use super::text::Stops;

/// One request, ready to compute: no JSON, no template, no HTTP.
#[derive(Debug)]
pub struct Job {
    /// Tokens to answer to; never empty.
    pub prompt: Arc<[Token]>,
    /// Tokens to generate at most; with 0 the prompt alone is computed.
    pub max_tokens: u32,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// Whether its client expects the same answer each time: it is greedy, or has a seed.
    pub repeats: bool,
    /// What the answer must be, if it is not free.
    pub guide: Option<Guide>,
    /// How many rivals to list beside each token with its likelihood; `None` for no likelihoods.
    pub logprobs: Option<usize>,
    /// As `logprobs`, for the tokens of the prompt, which then shares no computed prefix.
    pub prompt_logprobs: Option<usize>,
    /// Texts that end the answer where its client reads them; they are not part of it.
    pub stops: Stops,
    /// Tokens that end the answer, beside the model's own.
    pub stop_tokens: Vec<Token>,
    /// Control tokens whose text belongs to the answer; those of others never does.
    pub tags: Arc<[SpecialToken]>,
    /// What the client expects the answer to be; makes it faster, never different.
    pub prediction: Option<Vec<Token>>,
    /// Go on past the model's own end tokens.
    pub ignore_end: bool,
    /// Whom it goes before.
    pub class: Class,
    /// When it came in.
    pub arrived: Instant,
    /// Where it is, for its client to look at.
    pub progress: Arc<QueueProgress>,
    /// Given back when the engine is done with it; tests have none.
    pub place: Option<AdmissionSlot>,
    /// Where log lines about it belong.
    pub span: tracing::Span,
    /// Where the answer goes; from [`channel`].
    pub events: EventSender,
}

impl Job {
    /// A greedy answer of at most `max_tokens` to `prompt`, with nothing else asked for, and the way
    /// out of the scheduler.
    #[must_use]
    pub fn greedy(prompt: impl Into<Arc<[Token]>>, max_tokens: u32) -> (Self, EventReceiver) {
        let (events, receiver) = channel(max_tokens, &SendBudget::new(usize::MAX));
        let job = Self {
            prompt: prompt.into(),
            max_tokens,
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            repeats: true,
            guide: None,
            logprobs: None,
            prompt_logprobs: None,
            stops: Stops::default(),
            stop_tokens: Vec::new(),
            tags: Arc::default(),
            prediction: None,
            ignore_end: false,
            class: Class::default(),
            arrived: Instant::now(),
            progress: Arc::default(),
            place: None,
            span: tracing::Span::none(),
            events,
        };
        (job, receiver)
    }
}

/// How far a request is that has not said anything yet.
#[derive(Debug, Default)]
pub struct QueueProgress {
    /// Requests that go before it, plus one; 0 once it is its turn.
    place: AtomicU32,
}

impl QueueProgress {
    /// It waits, and `ahead` others go before it.
    pub(super) fn waits(&self, ahead: usize) {
        let place = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
        self.place.store(place, Ordering::Relaxed);
    }

    /// It waits no more.
    pub(super) fn runs(&self) {
        self.place.store(0, Ordering::Relaxed);
    }

    /// How many go before it while it waits.
    #[must_use]
    pub fn ahead(&self) -> Option<u32> {
        self.place.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// OpenAI's service tiers, least urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Class {
    /// After the others; gives its place up to them.
    Flex,
    /// Everybody's.
    #[default]
    Default,
    /// Before the others.
    Priority,
}

impl Class {
    /// OpenAI's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Default => "default",
            Self::Priority => "priority",
        }
    }
}

/// A part of an answer. An answer without [`Event::Finished`] or
/// [`Event::Failed`] at its end was broken off by a defect.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How likely each token of the prompt was but the first; once, before any text, where the job
    /// asks for it.
    Prompt(Vec<Logprobs>),
    /// More text.
    Text(Text),
    /// The end, as asked for.
    Finished(Finished),
    /// The end, by a failure of this request alone.
    Failed(WorkError),
}

/// A stretch of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Text {
    /// Whole characters; may be empty where tokens have none.
    pub text: String,
    /// Tokens that begin in it.
    pub tokens: u32,
    /// How likely each of them was, where the job asks for that.
    pub logprobs: Vec<Logprobs>,
}

/// How an answer ended and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that were in the KV cache already.
    pub cached_tokens: u32,
    /// Tokens generated, the one that ended it included.
    pub generated_tokens: u32,
    /// What came of the request's prediction, if it had one.
    pub predicted_tokens: Option<Predicted>,
    /// What it took of the gateway's energy, in joules, where all of it could be told.
    pub energy_joules: Option<f64>,
    /// Where the time went.
    pub timings: Timings,
}

/// Tokens of a prediction (OpenAI's `completion_tokens_details`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Predicted {
    /// Those that the answer had where the prediction had them.
    pub accepted: u32,
    /// The others.
    pub rejected: u32,
}

/// Seconds of a request's life.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From arrival to the engine.
    pub queue: f64,
    /// From the engine to the first token.
    pub prefill: f64,
    /// From the first token to the last.
    pub decode: f64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model was done, or a stop string or token came.
    Stop,
    /// `max_tokens` or the model's context was reached.
    Length,
}
