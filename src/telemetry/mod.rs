//! What operators see: log lines and Prometheus metrics. Both are made by the
//! composition root and handed in at construction; there are no globals of ours.

mod logbook;
pub mod logs;
pub mod metrics;

pub use logbook::Logbook;
pub use metrics::{EmbeddingMetrics, Metrics, ModelMetrics};
