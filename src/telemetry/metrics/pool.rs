//! The series of the pool: states of models, loads, and who holds how much memory.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::{MetricTable, Metrics, MetricsError};

/// From a small file in the page cache to a large one on a slow disk.
const LOAD_BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0,
];

/// All series of the pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    state: IntGaugeVec,
    load_seconds: HistogramVec,
    loads: IntCounterVec,
    memory: IntGaugeVec,
    budget: IntGauge,
    evictions: IntCounterVec,
}

impl PoolMetrics {
    pub(super) fn new(table: &MetricTable<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            state: table.int_gauges(
                "model_state",
                "1 for the state that a model is in, 0 for the others.",
                &["model", "state"],
            )?,
            load_seconds: table.histograms(
                "model_load_seconds",
                "Seconds from the beginning of a load until the model answers.",
                &LOAD_BUCKETS,
            )?,
            loads: table.counters(
                "model_loads_total",
                "Loads of a model that ended, by their result: ok or failed.",
                &["model", "result"],
            )?,
            memory: table.int_gauges(
                "pool_memory_bytes",
                "Memory that is taken or promised, by kind. Cells of KV caches count in full, though pages are taken when they are used.",
                &["kind"],
            )?,
            budget: table.int_gauge(
                "pool_memory_budget_bytes",
                "Memory that everything together may take: pool.memory_budget, or the tightest limit of the machine.",
            )?,
            evictions: table.counters(
                "pool_evictions_total",
                "Models that were told to leave, by reason: idle for keep_alive, room for another, turn of another that waited for a busy one, over_budget, sibling, or asked by an administrator.",
                &["reason"],
            )?,
        })
    }

    /// A model is in one of `states`.
    pub fn state(&self, model: &str, states: &[&str], state: &str) {
        for other in states {
            let series = self.state.with_label_values(&[model, other]);
            series.set(i64::from(*other == state));
        }
    }

    /// A model is none of this server's any more.
    pub fn forget(&self, model: &str, states: &[&str]) {
        for state in states {
            // Absent already: nothing to do.
            let _ = self.state.remove_label_values(&[model, state]);
        }
    }

    /// A model was loaded.
    pub fn loaded(&self, model: &str, took: Duration) {
        self.loads.with_label_values(&[model, "ok"]).inc();
        let seconds = self.load_seconds.with_label_values(&[model]);
        seconds.observe(took.as_secs_f64());
    }

    /// A model could not be loaded, or has crashed.
    pub fn failed(&self, model: &str) {
        self.loads.with_label_values(&[model, "failed"]).inc();
    }

    /// A model was told to leave.
    pub fn evicted(&self, reason: &str) {
        self.evictions.with_label_values(&[reason]).inc();
    }

    /// So many bytes are taken for one kind of thing.
    pub fn memory(&self, kind: &str, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory.with_label_values(&[kind]).set(bytes);
    }

    /// So many bytes may be taken.
    pub fn budget(&self, bytes: u64) {
        self.budget.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Metrics {
    /// Returns the bytes of prompts that a model has parked.
    #[must_use]
    pub fn parked_bytes(&self, model: &str) -> u64 {
        let parked = (self.model_memory).with_label_values(&[model, "parked_prompts"]);
        u64::try_from(parked.get()).unwrap_or(0)
    }

    /// The series of the pool.
    #[must_use]
    pub fn pool(&self) -> &PoolMetrics {
        &self.pool
    }
}

/// What is shown of a loaded model; dropped when it is gone.
#[derive(Debug)]
pub struct ShownModel {
    info: IntGaugeVec,
    memory: IntGaugeVec,
    labels: [String; 3],
}

impl Metrics {
    /// Says what a loaded model is and what it takes of memory, in bytes, until the guard is dropped.
    #[must_use]
    pub fn model_loaded(
        &self,
        [model, quantization, digest]: [&str; 3],
        weights: u64,
        kv_cache: Option<u64>,
    ) -> ShownModel {
        let labels = [model, quantization, digest];
        self.model_info.with_label_values(&labels).set(1);
        let show = |kind: &str, bytes: u64| {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let series = self.model_memory.with_label_values(&[model, kind]);
            series.set(bytes);
        };
        show("weights", weights);
        if let Some(bytes) = kv_cache {
            show("kv_cache", bytes);
        }
        ShownModel {
            info: self.model_info.clone(),
            memory: self.model_memory.clone(),
            labels: labels.map(ToOwned::to_owned),
        }
    }
}

impl Drop for ShownModel {
    fn drop(&mut self) {
        let [model, ..] = &self.labels;
        // Absent already: nothing to do.
        let _ = self.info.remove_label_values(&self.labels);
        for kind in ["weights", "kv_cache", "parked_prompts"] {
            let _ = self.memory.remove_label_values(&[model.as_str(), kind]);
        }
    }
}
