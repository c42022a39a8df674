//! The jobs that go into the scheduler, and the events of their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::admission::{AdmissionSlot, SendBudget, ServiceTier, Tenant};
use crate::engine::{AdapterId, SpecialToken, Token};
use crate::grammar::Constraint;
use crate::sampling::{Logprobs, SamplingParams};
use crate::worker::WorkError;

use super::events::{EventReceiver, EventSender, channel};
use super::forecast::Forecast;
use super::prefix::PrefixScope;
use super::text::Stops;

/// One request, ready to compute: no JSON, no template, no HTTP.
#[derive(Debug)]
pub struct GenerationJob {
    /// Tokens to answer to; never empty.
    pub prompt: Arc<[Token]>,
    /// The adapter with which it is computed; `None` for the model alone.
    pub adapter: Option<AdapterId>,
    /// Tokens to generate at most; with 0 the prompt alone is computed.
    pub max_tokens: u32,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// Whether its client expects the same answer each time: it is greedy, or has a seed.
    pub repeats: bool,
    /// The constraint that the answer must follow; absent where it is free.
    pub constraint: Option<Constraint>,
    /// How many alternatives to list with each token's log probability; `None` for no log probabilities.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt, which then shares no cached prefix.
    pub prompt_logprobs: Option<usize>,
    /// Stop strings, which end the answer where its client reads them and are not part of it.
    pub stops: Stops,
    /// Tokens that end the answer, in addition to the model's own.
    pub stop_tokens: Vec<Token>,
    /// Control tokens whose text belongs to the answer; the text of others never does.
    pub tags: Arc<[SpecialToken]>,
    /// What the client expects the answer to be; makes it faster, never different.
    pub prediction: Option<Vec<Token>>,
    /// Whether to generate past the model's own end tokens.
    pub ignore_end: bool,
    /// Which requests it goes before.
    pub class: ServiceTier,
    /// Whose share of the engine it takes, and whose prefixes it may use.
    pub tenant: Tenant,
    /// When its client no longer wants it.
    pub deadline: Option<Instant>,
    /// When the request arrived.
    pub arrived: Instant,
    /// How long it was thought to take when it was admitted; see [`LoadBoard::announce`](super::LoadBoard::announce).
    pub forecast: Option<Forecast>,
    /// Where it is in the queue, for its client to see.
    pub progress: Arc<QueueProgress>,
    /// The admission slot, given back when the engine is done with it; tests have none.
    pub place: Option<AdmissionSlot>,
    /// Where log lines about it belong.
    pub span: tracing::Span,
    /// Where the answer goes; from [`channel`].
    pub events: EventSender,
}

impl GenerationJob {
    /// Makes a job for a greedy answer of at most `max_tokens` to `prompt`, without other options, and
    /// the receiver of its events.
    #[must_use]
    pub fn greedy(prompt: impl Into<Arc<[Token]>>, max_tokens: u32) -> (Self, EventReceiver) {
        let (events, receiver) = channel(max_tokens, &SendBudget::new(usize::MAX));
        let job = Self {
            prompt: prompt.into(),
            adapter: None,
            max_tokens,
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            repeats: true,
            constraint: None,
            logprobs: None,
            prompt_logprobs: None,
            stops: Stops::default(),
            stop_tokens: Vec::new(),
            tags: Arc::default(),
            prediction: None,
            ignore_end: false,
            class: ServiceTier::default(),
            tenant: Tenant::default(),
            deadline: None,
            arrived: Instant::now(),
            forecast: None,
            progress: Arc::default(),
            place: None,
            span: tracing::Span::none(),
            events,
        };
        (job, receiver)
    }

    /// The scope in which its prompt may share cells.
    pub(super) fn prefix_scope(&self) -> PrefixScope {
        PrefixScope {
            group: self.tenant.prefix_group,
            adapter: self.adapter,
        }
    }
}

/// Where a request is in the queue.
#[derive(Debug, Default)]
pub struct QueueProgress {
    /// Requests that go before it, plus one; 0 once it runs.
    place: AtomicU32,
    /// Tokens of its answer so far.
    generated: AtomicU32,
}

impl QueueProgress {
    /// Notes that it waits, and that `ahead` others go before it.
    pub(super) fn waits(&self, ahead: usize) {
        let place = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
        self.place.store(place, Ordering::Relaxed);
    }

    /// Notes that it runs.
    pub(super) fn runs(&self) {
        self.place.store(0, Ordering::Relaxed);
    }

    /// Notes how many tokens its answer has.
    pub(super) fn has_generated(&self, tokens: u32) {
        self.generated.store(tokens, Ordering::Relaxed);
    }

    /// Returns how many tokens its answer has, read by its client or not.
    #[must_use]
    pub fn generated(&self) -> u32 {
        self.generated.load(Ordering::Relaxed)
    }

    /// Returns how many requests go before it, while it waits.
    #[must_use]
    pub fn ahead(&self) -> Option<u32> {
        self.place.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// A part of an answer. An answer without [`AnswerEvent::Finished`] or
/// [`AnswerEvent::Failed`] at its end was broken off by a defect.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerEvent {
    /// The log probability of each token of the prompt but the first; sent once, before any text, where
    /// the job asks for it.
    Prompt(Vec<Logprobs>),
    /// More text.
    Text(AnswerText),
    /// The end of a complete answer.
    Finished(AnswerEnd),
    /// The end, by a failure of this request alone.
    Failed(WorkError),
}

/// A piece of an answer's text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnswerText {
    /// Whole characters; may be empty where tokens have none.
    pub text: String,
    /// Tokens that begin in it.
    pub tokens: u32,
    /// The log probability of each of those tokens, where the job asks for it.
    pub logprobs: Vec<Logprobs>,
}

/// How an answer ended and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerEnd {
    /// Why it ended.
    pub reason: FinishReason,
    /// Whether it is not whole because its deadline passed.
    pub is_late: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that were in the KV cache already.
    pub cached_tokens: u32,
    /// Tokens generated, the one that ended it included.
    pub generated_tokens: u32,
    /// How much of the request's prediction was right, if it had one.
    pub predicted_tokens: Option<PredictionUsage>,
    /// Energy of the gateway that the answer took, in joules, where all of it is known.
    pub energy_joules: Option<f64>,
    /// Where the time went.
    pub timings: Timings,
}

/// Tokens of a prediction (OpenAI's `completion_tokens_details`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PredictionUsage {
    /// Tokens that the answer had at the same position as the prediction.
    pub accepted: u32,
    /// The other tokens of the prediction.
    pub rejected: u32,
}

/// How long the phases of a request took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From arrival to the engine.
    pub queue: Duration,
    /// From the engine to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the answer, or a stop string or stop token came.
    Stop,
    /// `max_tokens` or the model's context was reached, or the deadline passed.
    Length,
}
