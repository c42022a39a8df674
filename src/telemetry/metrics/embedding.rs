//! The series that a model which embeds has in common with one that generates.

use prometheus::{Counter, Histogram, IntCounter, IntGauge};

use super::{EnergyMetrics, Metrics};

/// The series of one embedding model, resolved once. It has no others: no first token, no KV cells.
#[derive(Debug, Clone)]
pub struct EmbeddingMetrics {
    /// Requests admitted and not yet given to the engine.
    pub waiting: IntGauge,
    /// Requests that the engine works on.
    pub running: IntGauge,
    /// Requests whose client left before the end.
    pub cancelled: IntCounter,
    /// Requests whose deadline passed before all vectors were there.
    pub late: IntCounter,
    /// Tokens of texts.
    pub prompt_tokens: IntCounter,
    /// Seconds from arrival to the engine.
    pub queue_duration: Histogram,
    /// Seconds from arrival to the last vector.
    pub request_duration: Histogram,
    /// Batches.
    pub steps: IntCounter,
    /// Seconds inside them.
    pub busy_seconds: Counter,
    /// Rows of a batch.
    pub batch_tokens: Histogram,
    /// What the energy went into.
    pub energy: EnergyMetrics,
}

impl Metrics {
    /// The series of one embedding model.
    #[must_use]
    pub fn for_embedding_model(&self, model: &str) -> EmbeddingMetrics {
        let label = &[model];
        EmbeddingMetrics {
            waiting: self.waiting.with_label_values(label),
            running: self.running.with_label_values(label),
            cancelled: self.cancelled.with_label_values(label),
            late: self.late.with_label_values(&[model, "waiting"]),
            prompt_tokens: self.prompt_tokens.with_label_values(label),
            queue_duration: self.queue_duration.with_label_values(label),
            request_duration: self.request_duration.with_label_values(label),
            steps: self.steps.with_label_values(label),
            busy_seconds: self.busy_seconds.with_label_values(label),
            batch_tokens: self.batch_tokens.with_label_values(label),
            energy: self.energy_of(model),
        }
    }
}
