//! When a request passed each stage of its life.

use std::time::Instant;

use crate::telemetry::ModelMetrics;

use super::job::Timings;

/// Notes when a request passed each stage, and measures the times between them.
#[derive(Debug)]
pub(super) struct Timeline {
    arrived: Instant,
    /// When it last came into the queue.
    queued: Instant,
    /// When it first joined the batch.
    joined: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Timeline {
    pub(super) fn new(arrived: Instant) -> Self {
        Self {
            arrived,
            queued: arrived,
            joined: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Since when it waits.
    pub(super) fn queued(&self) -> Instant {
        self.queued
    }

    /// It was preempted and waits again.
    pub(super) fn requeued(&mut self, now: Instant) {
        self.queued = now;
    }

    /// It joins the batch; returns whether that is the first time.
    pub(super) fn joined(&mut self, now: Instant, metrics: &ModelMetrics) -> bool {
        let is_first = self.joined.is_none();
        if is_first {
            self.joined = Some(now);
            let waited = now.duration_since(self.arrived).as_secs_f64();
            metrics.queue_duration.observe(waited);
        }
        is_first
    }

    /// Whether it has been in the batch.
    pub(super) fn has_joined(&self) -> bool {
        self.joined.is_some()
    }

    /// Whether its answer has begun.
    pub(super) fn has_token(&self) -> bool {
        self.first_token.is_some()
    }

    /// A token of its answer is there.
    pub(super) fn token(&mut self, now: Instant, metrics: &ModelMetrics) {
        metrics.generation_tokens.inc();
        if let Some(last) = self.last_token.replace(now) {
            // Several tokens of one step come at one moment: what counts is the silence before.
            if now > last {
                let silence = now.duration_since(last).as_secs_f64();
                metrics.inter_token_latency.observe(silence);
            }
        } else {
            self.first_token = Some(now);
            metrics
                .time_to_first_token
                .observe(now.duration_since(self.arrived).as_secs_f64());
        }
    }

    /// Its answer is complete.
    pub(super) fn finished(&self, now: Instant, metrics: &ModelMetrics) -> Timings {
        let joined = self.joined.unwrap_or(self.arrived);
        let first = self.first_token.unwrap_or(now);
        let timings = Timings {
            queue: joined.duration_since(self.arrived),
            prefill: first.duration_since(joined),
            decode: now.duration_since(first),
        };
        let whole = now.duration_since(self.arrived);
        metrics
            .prefill_duration
            .observe(timings.prefill.as_secs_f64());
        metrics
            .decode_duration
            .observe(timings.decode.as_secs_f64());
        metrics.request_duration.observe(whole.as_secs_f64());
        timings
    }
}
