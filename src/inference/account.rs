//! What is counted and logged of a request.

use std::time::Instant;

use tracing::Span;

use crate::admission::Reason;
use crate::config::CachedTokens;
use crate::scheduler::{Finished, Predicted, Timings};
use crate::telemetry::Metrics;

use super::Inference;
use super::error::InferenceError;

/// What the answers to one request took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct UsageTotals {
    /// Of each input once.
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) generated_tokens: u32,
    pub(crate) predicted_tokens: Option<Predicted>,
    /// In joules, where all of it could be told.
    pub(crate) energy_joules: Option<f64>,
    /// The longest of each.
    pub(crate) timings: Timings,
}

/// How a front tells a failure, as far as that is counted and logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailureSummary {
    /// The front's code.
    pub(crate) status: u16,
    /// What happened, without a word of the client's.
    pub(crate) label: String,
    /// Why it was refused, if it was.
    pub(crate) refused: Option<Reason>,
}

/// What is counted and logged of a request, when it ends.
#[derive(Debug)]
pub(crate) struct RequestAccount {
    metrics: Metrics,
    /// Whether the client is told what it cost.
    energy_in_usage: bool,
    cached_tokens_in_usage: CachedTokens,
    /// What the client is told of `usage.cached_tokens`.
    cached_tokens_disclosed: u32,
    model: String,
    endpoint: &'static str,
    summarize: fn(&InferenceError) -> FailureSummary,
    span: Span,
    started: Instant,
    status: u16,
    finish_reason: &'static str,
    usage: Option<UsageTotals>,
    /// What went wrong, without a word of the client's.
    error: Option<String>,
}

impl RequestAccount {
    /// Of a request to `model` that came in by `endpoint`, whose front tells failures as `summarize` says.
    /// Until something else is said it counts as cancelled by its client (499, as nginx has it).
    pub(crate) fn new(
        inference: &Inference,
        model: &str,
        endpoint: &'static str,
        summarize: fn(&InferenceError) -> FailureSummary,
    ) -> Self {
        Self {
            metrics: inference.metrics.clone(),
            energy_in_usage: inference.energy_in_usage,
            cached_tokens_in_usage: inference.cached_tokens_in_usage,
            cached_tokens_disclosed: 0,
            model: model.to_owned(),
            endpoint,
            summarize,
            span: Span::current(),
            started: Instant::now(),
            status: 499,
            finish_reason: "cancelled",
            usage: None,
            error: None,
        }
    }

    /// An answer has ended; its prompt counts where it is the first of that prompt's.
    pub(super) fn add(&mut self, finished: &Finished, with_prompt: bool) {
        let energy = match &self.usage {
            None => finished.energy_joules,
            Some(usage) => usage
                .energy_joules
                .zip(finished.energy_joules)
                .map(|(all, more)| all + more),
        };
        let usage = self.usage.get_or_insert_default();
        usage.energy_joules = energy;
        if with_prompt {
            usage.prompt_tokens += finished.prompt_tokens;
            usage.cached_tokens += finished.cached_tokens;
            // Each prompt by itself: in a sum, the others could lift a single token over the next step.
            self.cached_tokens_disclosed +=
                disclosed_tokens(finished.cached_tokens, self.cached_tokens_in_usage);
        }
        usage.generated_tokens += finished.generated_tokens;
        if let Some(predicted) = finished.predicted_tokens {
            let all = usage.predicted_tokens.get_or_insert_default();
            all.accepted += predicted.accepted;
            all.rejected += predicted.rejected;
        }
        let timings = finished.timings;
        usage.timings.queue = usage.timings.queue.max(timings.queue);
        usage.timings.prefill = usage.timings.prefill.max(timings.prefill);
        usage.timings.decode = usage.timings.decode.max(timings.decode);
    }

    /// All answers ended as they should; `reason` is the first one's.
    pub(super) fn finished(&mut self, reason: &'static str) {
        self.finish_reason = reason;
        self.status = 200;
    }

    /// Vectors were made of texts.
    pub(crate) fn embedded(&mut self, usage: UsageTotals) {
        self.finished("");
        self.usage = Some(usage);
    }

    /// What all answers that ended took together, as far as the client may know.
    pub(super) fn disclosed(&self) -> UsageTotals {
        let usage = self.usage.unwrap_or_default();
        UsageTotals {
            energy_joules: usage.energy_joules.filter(|_| self.energy_in_usage),
            cached_tokens: self.cached_tokens_disclosed,
            ..usage
        }
    }

    pub(crate) fn failed(&mut self, error: &InferenceError) {
        self.ended((self.summarize)(error));
    }

    /// It failed as its front says.
    pub(crate) fn ended(&mut self, failure: FailureSummary) {
        self.finish_reason = "error";
        self.status = failure.status;
        if let Some(reason) = failure.refused {
            self.metrics.request_rejected(&self.model, reason.as_str());
        }
        self.error = Some(failure.label);
    }
}

impl Drop for RequestAccount {
    fn drop(&mut self) {
        self.metrics
            .request_answered(&self.model, self.endpoint, self.status, self.finish_reason);
        let usage = self.usage;
        self.span.in_scope(|| {
            tracing::info!(
                model = self.model,
                status = self.status,
                finish_reason = self.finish_reason,
                error = self.error,
                prompt_tokens = usage.map(|s| s.prompt_tokens),
                cached_tokens = usage.map(|s| s.cached_tokens),
                generated_tokens = usage.map(|s| s.generated_tokens),
                queue_seconds = usage.map(|s| round(s.timings.queue)),
                prefill_seconds = usage.map(|s| round(s.timings.prefill)),
                decode_seconds = usage.map(|s| round(s.timings.decode)),
                energy_joules = usage.and_then(|s| s.energy_joules).map(round),
                seconds = round(self.started.elapsed().as_secs_f64()),
                "answered"
            );
        });
    }
}

/// What a client may know of the `cached` tokens of its prompt. All clients share one cache, and with the
/// exact number whoever guesses another's prompt is told after each token whether it was right.
fn disclosed_tokens(cached: u32, exactness: CachedTokens) -> u32 {
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
        let rounded = |cached| disclosed_tokens(cached, CachedTokens::Rounded);
        assert_eq!(
            [0, 127, 128, 255, 1024].map(rounded),
            [0, 0, 128, 128, 1024]
        );
        assert_eq!(disclosed_tokens(127, CachedTokens::Exact), 127);
        assert_eq!(disclosed_tokens(1024, CachedTokens::Hidden), 0);
    }
}
