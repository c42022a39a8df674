//! An answer under way: its events, its presence, and what is written down
//! when it ends, however it ends.

use std::time::Instant;

use tokio::sync::mpsc::Receiver;
use tracing::Span;

use crate::admission::Presence;
use crate::scheduler::{Event, Finished};
use crate::telemetry::Metrics;

use super::error::ApiError;

/// Dropping it tells the scheduler that the client has left, lets a shutdown go
/// on and writes the access line.
#[derive(Debug)]
pub(super) struct Generation {
    events: Receiver<Event>,
    _presence: Presence,
    record: Record,
}

impl Generation {
    pub(super) fn new(events: Receiver<Event>, presence: Presence, record: Record) -> Self {
        Self {
            events,
            _presence: presence,
            record,
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the scheduler is gone in mid-answer.
    pub(super) async fn next(&mut self) -> Result<Event, ApiError> {
        self.events.recv().await.ok_or(ApiError::Internal)
    }

    pub(super) fn finished(&mut self, reason: &'static str, finished: &Finished) {
        self.record.finish_reason = reason;
        self.record.status = 200;
        self.record.finished = Some(finished.clone());
    }

    pub(super) fn failed(&mut self, error: &ApiError) {
        self.record.failed(error);
    }
}

/// What is counted and logged about one answer.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Metrics,
    model: String,
    endpoint: &'static str,
    span: Span,
    started: Instant,
    status: u16,
    finish_reason: &'static str,
    finished: Option<Finished>,
    /// What went wrong, without a word of the client's.
    error: Option<String>,
}

impl Record {
    /// Until it is told otherwise the answer counts as cancelled by its client
    /// (499, as nginx has it).
    pub(super) fn new(metrics: &Metrics, model: &str, endpoint: &'static str) -> Self {
        Self {
            metrics: metrics.clone(),
            model: model.to_owned(),
            endpoint,
            span: Span::current(),
            started: Instant::now(),
            status: 499,
            finish_reason: "cancelled",
            finished: None,
            error: None,
        }
    }

    pub(super) fn failed(&mut self, error: &ApiError) {
        self.finish_reason = "error";
        self.status = error.status().as_u16();
        if let ApiError::Refused(refusal) = error {
            self.metrics
                .request_rejected(&self.model, refusal.reason.as_str());
        }
        self.error = Some(error.label());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics
            .request_answered(&self.model, self.endpoint, self.status, self.finish_reason);
        let finished = self.finished.take();
        self.span.in_scope(|| {
            tracing::info!(
                model = self.model,
                status = self.status,
                finish_reason = self.finish_reason,
                error = self.error,
                prompt_tokens = finished.as_ref().map(|f| f.prompt_tokens),
                cached_tokens = finished.as_ref().map(|f| f.cached_tokens),
                generated_tokens = finished.as_ref().map(|f| f.generated_tokens),
                queue_seconds = finished.as_ref().map(|f| round(f.timings.queue)),
                prefill_seconds = finished.as_ref().map(|f| round(f.timings.prefill)),
                decode_seconds = finished.as_ref().map(|f| round(f.timings.decode)),
                energy_joules = finished.as_ref().and_then(|f| f.energy_joules).map(round),
                seconds = round(self.started.elapsed().as_secs_f64()),
                "answered"
            );
        });
    }
}

/// Milliseconds are enough in a log.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
