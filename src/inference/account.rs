//! The account of a request: what is counted in metrics and logged about it.

use std::time::Instant;

use tracing::Span;

use crate::admission::{QuotaHold, QuotaRefusal};
use crate::config::CachedTokens;
use crate::scheduler::{AnswerEnd, PredictionUsage, Timings};
use crate::telemetry::Metrics;

use super::Inference;
use super::arrival::Arrival;
use super::error::InferenceError;
use super::{AnswerOutcome, RequestOutcome};

/// The tokens, energy and time that the answers to one request took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct UsageTotals {
    /// Prompt tokens; each input counts once, however many answers it has.
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) generated_tokens: u32,
    pub(crate) predicted_tokens: Option<PredictionUsage>,
    /// Energy in joules, if it is known for all answers.
    pub(crate) energy_joules: Option<f64>,
    /// The longest queue, prefill and decode time of any answer.
    pub(crate) timings: Timings,
}

/// What is counted and logged of a front's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailureSummary {
    /// The front's status code.
    pub(crate) status: u16,
    /// What happened, without a word of the client's.
    pub(crate) label: String,
    /// Why it was refused, if it was.
    pub(crate) refused: Option<&'static str>,
    /// Whether it takes nothing of the key's quota: the server had no room for it, and did nothing.
    pub(crate) is_free: bool,
}

/// Collects what is counted and logged of a request, and records it when dropped.
#[derive(Debug)]
pub(crate) struct RequestAccount {
    metrics: Metrics,
    /// The name of the key that it came with.
    key: Option<String>,
    /// What it takes of that key's quota.
    quota: Option<QuotaHold>,
    /// Whether usage discloses the energy.
    energy_in_usage: bool,
    cached_tokens_in_usage: CachedTokens,
    /// The part of `usage.cached_tokens` that is disclosed to the client.
    cached_tokens_disclosed: u32,
    model: String,
    endpoint: &'static str,
    summarize: fn(&InferenceError) -> FailureSummary,
    span: Span,
    started: Instant,
    status: u16,
    outcome: RequestOutcome,
    usage: Option<UsageTotals>,
    /// What went wrong, without a word of the client's.
    error: Option<String>,
    /// Why it was refused, if it was.
    refused: Option<&'static str>,
}

impl RequestAccount {
    /// Opens the account of a request to `model` by way of `endpoint`, whose front summarizes errors by
    /// `summarize`. Unless an outcome is recorded, it counts as cancelled by the client (499, as in nginx).
    pub(crate) fn new(
        inference: &Inference,
        model: &str,
        endpoint: &'static str,
        summarize: fn(&InferenceError) -> FailureSummary,
        arrival: &mut Arrival,
    ) -> Self {
        Self {
            metrics: inference.metrics.clone(),
            key: arrival.principal.name.clone(),
            quota: arrival.quota.take(),
            energy_in_usage: inference.energy_in_usage,
            cached_tokens_in_usage: inference.cached_tokens_in_usage,
            cached_tokens_disclosed: 0,
            model: model.to_owned(),
            endpoint,
            summarize,
            span: Span::current(),
            started: Instant::now(),
            status: 499,
            outcome: RequestOutcome::Cancelled,
            usage: None,
            error: None,
            refused: None,
        }
    }

    /// Reserves of the key's quota the tokens of the prompts, and of answers that may have so many tokens, or as
    /// many as usual.
    ///
    /// # Errors
    /// When there are not so many left.
    pub(super) fn reserve(
        &mut self,
        prompt_tokens: usize,
        longest_answers: impl Iterator<Item = Option<u32>>,
    ) -> Result<(), QuotaRefusal> {
        match &mut self.quota {
            Some(quota) => quota.reserve(prompt_tokens, longest_answers),
            None => Ok(()),
        }
    }

    /// Notes tokens that were computed for it.
    pub(super) fn used(&mut self, prompt_tokens: u32, cached_tokens: u32, answer_tokens: u32) {
        if let Some(quota) = &mut self.quota {
            quota.used(prompt_tokens, answer_tokens);
        }
        if let Some(key) = &self.key {
            let tokens = [prompt_tokens, cached_tokens, answer_tokens];
            self.metrics.key_tokens(key, tokens);
        }
    }

    /// Adds an answer that has ended. `with_prompt` says whether its prompt counts, too: it does for the first
    /// answer to each prompt.
    pub(super) fn add(&mut self, finished: &AnswerEnd, with_prompt: bool) {
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
            // Rounded per prompt: in a sum, other prompts could lift a single token over the next step.
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
        let (prompt, cached) = if with_prompt {
            (finished.prompt_tokens, finished.cached_tokens)
        } else {
            (0, 0)
        };
        self.used(prompt, cached, finished.generated_tokens);
    }

    /// Records that all answers ended normally, the first one like `first`.
    pub(super) fn finished(&mut self, first: AnswerOutcome) {
        self.outcome = RequestOutcome::Answered(first);
        self.status = 200;
    }

    /// Records that texts were embedded.
    pub(crate) fn embedded(&mut self, usage: UsageTotals) {
        self.outcome = RequestOutcome::Done;
        self.status = 200;
        self.usage = Some(usage);
    }

    /// Returns the totals of all answers that ended, as far as they are disclosed to the client.
    pub(super) fn disclosed(&self) -> UsageTotals {
        let usage = self.usage.unwrap_or_default();
        UsageTotals {
            energy_joules: usage.energy_joules.filter(|_| self.energy_in_usage),
            cached_tokens: self.cached_tokens_disclosed,
            ..usage
        }
    }

    pub(super) fn failed(&mut self, error: &InferenceError) {
        self.ended((self.summarize)(error));
    }

    /// Records a failure as its front summarizes it.
    pub(crate) fn ended(&mut self, failure: FailureSummary) {
        self.outcome = RequestOutcome::Failed;
        self.status = failure.status;
        if let Some(reason) = failure.refused {
            self.metrics.request_rejected(&self.model, reason);
            self.refused = Some(reason);
        }
        if failure.is_free
            && let Some(quota) = self.quota.take()
        {
            quota.undo();
        }
        self.error = Some(failure.label);
    }
}

impl Drop for RequestAccount {
    fn drop(&mut self) {
        let finish_reason = self.outcome.as_str();
        self.metrics
            .request_answered(&self.model, self.endpoint, self.status, finish_reason);
        if let Some(key) = &self.key {
            self.metrics.key_answered(key, self.status, self.refused);
        }
        let usage = self.usage;
        self.span.in_scope(|| {
            tracing::info!(
                model = self.model,
                status = self.status,
                finish_reason,
                error = self.error,
                prompt_tokens = usage.map(|s| s.prompt_tokens),
                cached_tokens = usage.map(|s| s.cached_tokens),
                generated_tokens = usage.map(|s| s.generated_tokens),
                queue_seconds = usage.map(|s| round(s.timings.queue.as_secs_f64())),
                prefill_seconds = usage.map(|s| round(s.timings.prefill.as_secs_f64())),
                decode_seconds = usage.map(|s| round(s.timings.decode.as_secs_f64())),
                energy_joules = usage.and_then(|s| s.energy_joules).map(round),
                seconds = round(self.started.elapsed().as_secs_f64()),
                "answered"
            );
        });
    }
}

/// Returns how many of the `cached` tokens of a prompt are disclosed to the client. All clients share one
/// prefix cache: the exact number would let a client guess another's prompt token by token.
fn disclosed_tokens(cached: u32, exactness: CachedTokens) -> u32 {
    /// OpenAI counts cached tokens in steps of 128.
    const STEP: u32 = 128;
    match exactness {
        CachedTokens::Exact => cached,
        CachedTokens::Rounded => cached / STEP * STEP,
        CachedTokens::Hidden => 0,
    }
}

/// Rounds to milliseconds, which are enough in a log.
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
