//! An answer under way: its events, its presence, and what is written down
//! when it ends, however it ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tracing::Span;

use crate::admission::{Presence, Reason, SendBudget};
use crate::config::CachedTokens;
use crate::scheduler::{Event, EventReceiver, Finished, Predicted, QueueProgress, Timings};
use crate::telemetry::Metrics;
use crate::worker::WorkError;

use super::error::ApiError;
use super::state::AppState;

/// The answers to one request. Dropping it tells the scheduler that the client has left, lets a
/// shutdown go on and writes the access line.
#[derive(Debug)]
pub(super) struct Generation {
    /// One an answer; `None` behind its end.
    answers: Vec<Option<Underway>>,
    /// Answers to each input.
    choices: usize,
    /// Whose turn it is to be asked first.
    turn: usize,
    _presence: Presence,
    record: Record,
}

impl Generation {
    pub(super) fn new(
        answers: Vec<Underway>,
        choices: usize,
        presence: Presence,
        record: Record,
    ) -> Self {
        Self {
            answers: answers.into_iter().map(Some).collect(),
            choices,
            turn: 0,
            _presence: presence,
            record,
        }
    }

    /// What a client may like to know that has not heard anything for a while.
    pub(super) fn whereabouts(&self) -> String {
        let mut ahead = self.answers.iter().flatten().map(|a| a.progress.ahead());
        match ahead.next().flatten() {
            Some(ahead) => format!("waiting, {ahead} ahead"),
            None => "working".to_owned(),
        }
    }

    /// The next event and the answer that it is of; `None` when all have ended. May be dropped
    /// before it is ready without losing an event.
    ///
    /// # Errors
    /// Whatever ends an answer before its end ends all of them.
    pub(super) async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        let next = poll_fn(|context| self.poll(context)).await?;
        let error = match next {
            (_, Some(Event::Failed(error))) => ApiError::Job(error),
            // The scheduler is gone in mid-answer.
            (_, None) => ApiError::Internal,
            (answer, Some(event)) => {
                if let Event::Finished(finished) = &event {
                    self.answers[answer] = None;
                    // The choices of an input share its prompt, which counts once.
                    self.record.add(finished, answer % self.choices == 0);
                }
                return Some(Ok((answer, event)));
            }
        };
        self.fail(&error);
        Some(Err(error))
    }

    /// Ends all answers.
    pub(super) fn fail(&mut self, error: &ApiError) {
        self.record.failed(error);
        self.answers.clear();
    }

    /// Of what waits for clients.
    pub(super) fn send_budget(&self) -> &SendBudget {
        &self.record.send_budget
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Option<Event>)>> {
        let count = self.answers.len();
        let mut all_ended = true;
        for answer in (0..count).map(|offset| (self.turn + offset) % count) {
            let Some(underway) = &mut self.answers[answer] else {
                continue;
            };
            all_ended = false;
            if let Poll::Ready(event) = underway.events.poll_recv(context) {
                self.turn = answer + 1;
                return Poll::Ready(Some((answer, event)));
            }
        }
        if all_ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// All answers ended as they should; `reason` is the first one's.
    pub(super) fn finished(&mut self, reason: &'static str) {
        self.record.finish_reason = reason;
        self.record.status = 200;
    }

    /// What all answers that ended took together, as far as the client may know.
    pub(super) fn spent(&self) -> Spent {
        let spent = self.record.spent.unwrap_or_default();
        let energy_joules = spent.energy_joules.filter(|_| self.record.energy_in_usage);
        Spent {
            energy_joules,
            cached_tokens: self.record.cached_tokens_told,
            ..spent
        }
    }
}

/// One answer that the scheduler works on.
#[derive(Debug)]
pub(super) struct Underway {
    events: EventReceiver,
    progress: Arc<QueueProgress>,
}

impl Underway {
    pub(super) fn new(events: EventReceiver, progress: Arc<QueueProgress>) -> Self {
        Self { events, progress }
    }
}

/// What the answers to one request took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Spent {
    /// Of each input once.
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) generated_tokens: u32,
    pub(super) predicted_tokens: Option<Predicted>,
    /// In joules, where all of it could be told.
    pub(super) energy_joules: Option<f64>,
    /// The longest of each.
    pub(super) timings: Timings,
}

/// What is counted and logged about one answer.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Metrics,
    send_budget: SendBudget,
    /// Whether the client is told what it cost.
    energy_in_usage: bool,
    cached_tokens_in_usage: CachedTokens,
    /// What the client is told of `spent.cached_tokens`.
    cached_tokens_told: u32,
    model: String,
    endpoint: &'static str,
    span: Span,
    started: Instant,
    status: u16,
    finish_reason: &'static str,
    spent: Option<Spent>,
    /// What went wrong, without a word of the client's.
    error: Option<String>,
}

impl Record {
    /// Until it is told otherwise the answer counts as cancelled by its client
    /// (499, as nginx has it).
    pub(super) fn new(state: &AppState, model: &str, endpoint: &'static str) -> Self {
        Self {
            metrics: state.metrics.clone(),
            send_budget: state.send_budget.clone(),
            energy_in_usage: state.energy_in_usage,
            cached_tokens_in_usage: state.cached_tokens_in_usage,
            cached_tokens_told: 0,
            model: model.to_owned(),
            endpoint,
            span: Span::current(),
            started: Instant::now(),
            status: 499,
            finish_reason: "cancelled",
            spent: None,
            error: None,
        }
    }

    fn add(&mut self, finished: &Finished, with_prompt: bool) {
        let energy = match &self.spent {
            None => finished.energy_joules,
            Some(spent) => spent
                .energy_joules
                .zip(finished.energy_joules)
                .map(|(all, more)| all + more),
        };
        let spent = self.spent.get_or_insert_default();
        spent.energy_joules = energy;
        if with_prompt {
            spent.prompt_tokens += finished.prompt_tokens;
            spent.cached_tokens += finished.cached_tokens;
            // Each prompt by itself: in a sum, the others could lift a single token over the next step.
            self.cached_tokens_told += told(finished.cached_tokens, self.cached_tokens_in_usage);
        }
        spent.generated_tokens += finished.generated_tokens;
        if let Some(predicted) = finished.predicted_tokens {
            let all = spent.predicted_tokens.get_or_insert_default();
            all.accepted += predicted.accepted;
            all.rejected += predicted.rejected;
        }
        let timings = finished.timings;
        spent.timings.queue = spent.timings.queue.max(timings.queue);
        spent.timings.prefill = spent.timings.prefill.max(timings.prefill);
        spent.timings.decode = spent.timings.decode.max(timings.decode);
    }

    /// Vectors were made of texts.
    pub(super) fn embedded(&mut self, spent: Spent) {
        self.finish_reason = "";
        self.status = 200;
        self.spent = Some(spent);
    }

    pub(super) fn failed(&mut self, error: &ApiError) {
        self.finish_reason = "error";
        self.status = error.status().as_u16();
        let reason = match error {
            ApiError::Refused(refusal) => Some(refusal.reason),
            ApiError::Job(WorkError::Unread) => Some(Reason::Memory),
            _ => None,
        };
        if let Some(reason) = reason {
            self.metrics.request_rejected(&self.model, reason.as_str());
        }
        self.error = Some(error.label());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics
            .request_answered(&self.model, self.endpoint, self.status, self.finish_reason);
        let spent = self.spent;
        self.span.in_scope(|| {
            tracing::info!(
                model = self.model,
                status = self.status,
                finish_reason = self.finish_reason,
                error = self.error,
                prompt_tokens = spent.map(|s| s.prompt_tokens),
                cached_tokens = spent.map(|s| s.cached_tokens),
                generated_tokens = spent.map(|s| s.generated_tokens),
                queue_seconds = spent.map(|s| round(s.timings.queue)),
                prefill_seconds = spent.map(|s| round(s.timings.prefill)),
                decode_seconds = spent.map(|s| round(s.timings.decode)),
                energy_joules = spent.and_then(|s| s.energy_joules).map(round),
                seconds = round(self.started.elapsed().as_secs_f64()),
                "answered"
            );
        });
    }
}

/// What a client may know of the `cached` tokens of its prompt. All clients share one cache, and with the
/// exact number whoever guesses another's prompt is told after each token whether it was right.
fn told(cached: u32, exactness: CachedTokens) -> u32 {
    /// OpenAI's.
    const STEP: u32 = 128;
    match exactness {
        CachedTokens::Exact => cached,
        CachedTokens::Rounded => cached / STEP * STEP,
        CachedTokens::Hidden => 0,
    }
}

/// Milliseconds are enough in a log.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_told_in_whole_steps_unless_configured_otherwise() {
        let rounded = |cached| told(cached, CachedTokens::Rounded);
        assert_eq!(
            [0, 127, 128, 255, 1024].map(rounded),
            [0, 0, 128, 128, 1024]
        );
        assert_eq!(told(127, CachedTokens::Exact), 127);
        assert_eq!(told(1024, CachedTokens::Hidden), 0);
    }
}
