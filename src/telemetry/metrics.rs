//! Every metric that is exported, with its help text, labels and buckets. The
//! names are a promise to dashboards.

mod embedding;
mod pool;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use embedding::EmbeddingMetrics;
pub use pool::{PoolMetrics, ShownModel};

/// Why the registry refused a metric: two of one name, or a malformed name. A defect of ours.
pub type MetricsError = prometheus::Error;

const TTFT_BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0,
];
const INTER_TOKEN_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5,
];
const DURATION_BUCKETS: [f64; 12] = [
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0,
];
const QUEUE_BUCKETS: [f64; 11] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Joules: a kiosk's answer by a small model, to a long one by a large one.
const ENERGY_BUCKETS: [f64; 12] = [
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0,
];
const BATCH_BUCKETS: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];

/// Kinds of tokens that are counted by key.
const KEY_TOKENS: [&str; 3] = ["prompt", "cached", "generated"];

/// All metrics of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    rejected: IntCounterVec,
    key_requests: IntCounterVec,
    key_tokens: IntCounterVec,
    key_rejected: IntCounterVec,
    model_info: IntGaugeVec,
    model_memory: IntGaugeVec,
    waiting: IntGaugeVec,
    running: IntGaugeVec,
    cancelled: IntCounterVec,
    late: IntCounterVec,
    preemptions: IntCounterVec,
    prompt_tokens: IntCounterVec,
    prompt_tokens_cached: IntCounterVec,
    prefix_queries: IntCounterVec,
    prefix_hits: IntCounterVec,
    generation_tokens: IntCounterVec,
    drafted_tokens: IntCounterVec,
    accepted_tokens: IntCounterVec,
    time_to_first_token: HistogramVec,
    inter_token_latency: HistogramVec,
    request_duration: HistogramVec,
    queue_duration: HistogramVec,
    prefill_duration: HistogramVec,
    decode_duration: HistogramVec,
    steps: IntCounterVec,
    busy_seconds: CounterVec,
    batch_tokens: HistogramVec,
    kv_usage: GaugeVec,
    kv_tokens: IntGaugeVec,
    request_energy: HistogramVec,
    engine_energy: CounterVec,
    pool: PoolMetrics,
}

/// The series of one model, resolved once: the scheduler touches them every step.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    /// Requests admitted and not yet given to the engine.
    pub waiting: IntGauge,
    /// Requests that the engine works on.
    pub running: IntGauge,
    /// Requests whose client left before the end.
    pub cancelled: IntCounter,
    /// Requests whose deadline passed before there was anything of their answer.
    pub late_waiting: IntCounter,
    /// Answers that their deadline cut off.
    pub late_running: IntCounter,
    /// Requests preempted because the KV cache was full.
    pub preemptions: IntCounter,
    /// Tokens of prompts.
    pub prompt_tokens: IntCounter,
    /// Tokens of prompts that were in the KV cache already.
    pub prompt_tokens_cached: IntCounter,
    /// Requests that looked for a cached prefix.
    pub prefix_queries: IntCounter,
    /// Those that found one.
    pub prefix_hits: IntCounter,
    /// Tokens generated.
    pub generation_tokens: IntCounter,
    /// Tokens computed on speculation.
    pub drafted_tokens: IntCounter,
    /// Those of them that became part of an answer.
    pub accepted_tokens: IntCounter,
    /// Seconds from arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two tokens of an answer.
    pub inter_token_latency: Histogram,
    /// Seconds from arrival to the last token.
    pub request_duration: Histogram,
    /// Seconds from arrival to the engine.
    pub queue_duration: Histogram,
    /// Seconds from the engine to the first token.
    pub prefill_duration: Histogram,
    /// Seconds from the first token to the last.
    pub decode_duration: Histogram,
    /// Decodes of the engine.
    pub steps: IntCounter,
    /// Seconds inside them.
    pub busy_seconds: Counter,
    /// Rows of a decode.
    pub batch_tokens: Histogram,
    /// Share of KV cells in use, 0 to 1.
    pub kv_usage: Gauge,
    /// KV cells that hold tokens of running requests.
    pub kv_used: IntGauge,
    /// KV cells that hold prefixes which only ended requests used.
    pub kv_parked: IntGauge,
    /// KV cells that hold nothing.
    pub kv_free: IntGauge,
    /// Bytes of prefixes that were offloaded from the KV cache.
    pub parked_bytes: IntGauge,
    /// Where the energy went.
    pub energy: EnergyMetrics,
}

/// The energy metrics of one model. While the energy is not known there is no series, rather than one
/// at 0.
#[derive(Debug, Clone)]
pub struct EnergyMetrics {
    model: String,
    requests: HistogramVec,
    engine: CounterVec,
}

impl EnergyMetrics {
    /// Records the energy of a whole request.
    pub fn request(&self, joules: f64) {
        let model = self.model.as_str();
        self.requests.with_label_values(&[model]).observe(joules);
    }

    /// Adds the energy of `seconds` of computing to the sum of a `phase` of requests. `idle` watts are
    /// drawn in any case, `work` watts because the engine computes; without `idle` the two cannot be
    /// told apart, and `work` holds both.
    pub fn computed(&self, phase: &str, idle: Option<f64>, work: f64, seconds: f64) {
        let add = |part: &str, watts: f64| {
            let labels = &[self.model.as_str(), phase, part];
            self.engine
                .with_label_values(labels)
                .inc_by((watts * seconds).max(0.0));
        };
        if let Some(idle) = idle {
            add("idle", idle);
            add("work", work);
        } else {
            add("whole", work);
        }
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// [`MetricsError`] on a defect of the table below.
    #[allow(clippy::too_many_lines)] // a table reads best in one piece
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let table = MetricTable {
            registry: &registry,
        };
        let build_info = table.int_gauges(
            "build_info",
            "Always 1; the version and target of this build.",
            &["version", "target"],
        )?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), env!("EDGELLM_TARGET")])
            .set(1);
        Ok(Self {
            requests: table.counters(
                "requests_total",
                "Requests answered, by endpoint, HTTP status and why the answer ended.",
                &["model", "endpoint", "status", "finish_reason"],
            )?,
            rejected: table.counters(
                "requests_rejected_total",
                "Requests refused before any work, by reason.",
                &["model", "reason"],
            )?,
            key_requests: table.counters(
                "key_requests_total",
                "Requests answered, by the name of the API key and the HTTP status.",
                &["key", "status"],
            )?,
            key_tokens: table.counters(
                "key_tokens_total",
                "Tokens, by the name of the API key: of prompts, those of them that were cached, and generated ones.",
                &["key", "kind"],
            )?,
            key_rejected: table.counters(
                "key_rejected_total",
                "Requests refused, by the name of the API key and the reason: a limit of the key, a model that it may not use, or one of those of edgellm_requests_rejected_total.",
                &["key", "reason"],
            )?,
            model_info: table.int_gauges(
                "model_info",
                "Always 1; what a loaded model is.",
                &["model", "quantization", "digest"],
            )?,
            model_memory: table.int_gauges(
                "model_memory_bytes",
                "Memory of a loaded model: its weights; the cells of its KV cache once all were used, where that can be told (banks that were full in turn hold more for a while); prompts parked beside that.",
                &["model", "kind"],
            )?,
            waiting: table.int_gauges(
                "requests_waiting",
                "Requests admitted and not yet given to the engine.",
                &["model"],
            )?,
            running: table.int_gauges(
                "requests_running",
                "Requests that the engine works on.",
                &["model"],
            )?,
            cancelled: table.counters(
                "requests_cancelled_total",
                "Requests whose client left before the end.",
                &["model"],
            )?,
            late: table.counters(
                "deadline_passed_total",
                "Requests whose deadline passed: dropped without an answer (waiting), or ended with what there was of it (running). Those refused at once because it could not be met are in requests_rejected_total.",
                &["model", "stage"],
            )?,
            preemptions: table.counters(
                "preemptions_total",
                "Requests put back because the KV cache was full; they are computed again later.",
                &["model"],
            )?,
            prompt_tokens: table.counters(
                "prompt_tokens_total",
                "Tokens of the prompts that the engine took up, once for each answer: n times where a request wants n.",
                &["model"],
            )?,
            prompt_tokens_cached: table.counters(
                "prompt_tokens_cached_total",
                "Tokens of prompts that were in the KV cache already, computed for another answer.",
                &["model"],
            )?,
            prefix_queries: table.counters(
                "prefix_cache_queries_total",
                "Requests that looked for a beginning shared with another.",
                &["model"],
            )?,
            prefix_hits: table.counters(
                "prefix_cache_hits_total",
                "Requests that found a beginning shared with another.",
                &["model"],
            )?,
            generation_tokens: table.counters(
                "generation_tokens_total",
                "Tokens generated.",
                &["model"],
            )?,
            drafted_tokens: table.counters(
                "speculative_drafted_tokens_total",
                "Tokens computed on speculation that an answer would go on with them.",
                &["model"],
            )?,
            accepted_tokens: table.counters(
                "speculative_accepted_tokens_total",
                "Drafted tokens that became part of an answer.",
                &["model"],
            )?,
            time_to_first_token: table.histograms(
                "time_to_first_token_seconds",
                "Seconds from a request's arrival to its first token.",
                &TTFT_BUCKETS,
            )?,
            inter_token_latency: table.histograms(
                "inter_token_latency_seconds",
                "Seconds between two moments at which an answer got a token, or several at once.",
                &INTER_TOKEN_BUCKETS,
            )?,
            request_duration: table.histograms(
                "request_duration_seconds",
                "Seconds from a request's arrival to its last token.",
                &DURATION_BUCKETS,
            )?,
            queue_duration: table.histograms(
                "request_queue_duration_seconds",
                "Seconds from a request's arrival until the engine takes it up.",
                &QUEUE_BUCKETS,
            )?,
            prefill_duration: table.histograms(
                "request_prefill_duration_seconds",
                "Seconds from the engine taking a request up to its first token.",
                &DURATION_BUCKETS,
            )?,
            decode_duration: table.histograms(
                "request_decode_duration_seconds",
                "Seconds from a request's first token to its last.",
                &DURATION_BUCKETS,
            )?,
            steps: table.counters("engine_steps_total", "Batches decoded.", &["model"])?,
            busy_seconds: table.seconds(
                "engine_busy_seconds_total",
                "Seconds that the engine spent decoding batches.",
                &["model"],
            )?,
            batch_tokens: table.histograms(
                "engine_batch_tokens",
                "Rows (tokens) of a batch.",
                &BATCH_BUCKETS,
            )?,
            kv_usage: table.gauges(
                "kv_cache_usage_ratio",
                "Share of the KV cache's cells that running requests use.",
                &["model"],
            )?,
            request_energy: table.histograms(
                "request_energy_joules",
                "Energy of a request: its share of the engine's time, times what is drawn meanwhile.",
                &ENERGY_BUCKETS,
            )?,
            engine_energy: table.seconds(
                "engine_energy_joules_total",
                "Energy of the engine's time by phase of a request: drawn in any case (idle), by the work, or both where they cannot be told apart (whole).",
                &["model", "phase", "part"],
            )?,
            kv_tokens: table.int_gauges(
                "kv_cache_tokens",
                "Cells of the KV cache by state.",
                &["model", "state"],
            )?,
            pool: PoolMetrics::new(&table)?,
            registry,
        })
    }

    /// The series of one model.
    #[must_use]
    pub fn for_model(&self, model: &str) -> ModelMetrics {
        let label = &[model];
        ModelMetrics {
            waiting: self.waiting.with_label_values(label),
            running: self.running.with_label_values(label),
            cancelled: self.cancelled.with_label_values(label),
            late_waiting: self.late.with_label_values(&[model, "waiting"]),
            late_running: self.late.with_label_values(&[model, "running"]),
            preemptions: self.preemptions.with_label_values(label),
            prompt_tokens: self.prompt_tokens.with_label_values(label),
            prompt_tokens_cached: self.prompt_tokens_cached.with_label_values(label),
            prefix_queries: self.prefix_queries.with_label_values(label),
            prefix_hits: self.prefix_hits.with_label_values(label),
            generation_tokens: self.generation_tokens.with_label_values(label),
            drafted_tokens: self.drafted_tokens.with_label_values(label),
            accepted_tokens: self.accepted_tokens.with_label_values(label),
            time_to_first_token: self.time_to_first_token.with_label_values(label),
            inter_token_latency: self.inter_token_latency.with_label_values(label),
            request_duration: self.request_duration.with_label_values(label),
            queue_duration: self.queue_duration.with_label_values(label),
            prefill_duration: self.prefill_duration.with_label_values(label),
            decode_duration: self.decode_duration.with_label_values(label),
            steps: self.steps.with_label_values(label),
            busy_seconds: self.busy_seconds.with_label_values(label),
            batch_tokens: self.batch_tokens.with_label_values(label),
            kv_usage: self.kv_usage.with_label_values(label),
            kv_used: self.kv_tokens.with_label_values(&[model, "used"]),
            kv_parked: self.kv_tokens.with_label_values(&[model, "parked"]),
            kv_free: self.kv_tokens.with_label_values(&[model, "free"]),
            parked_bytes: self
                .model_memory
                .with_label_values(&[model, "parked_prompts"]),
            energy: self.energy_of(model),
        }
    }

    fn energy_of(&self, model: &str) -> EnergyMetrics {
        EnergyMetrics {
            model: model.to_owned(),
            requests: self.request_energy.clone(),
            engine: self.engine_energy.clone(),
        }
    }

    /// Adds what another room shows.
    ///
    /// # Errors
    /// [`MetricsError`] when there is one of that name already.
    pub fn register(
        &self,
        collector: Box<dyn prometheus::core::Collector>,
    ) -> Result<(), MetricsError> {
        self.registry.register(collector)
    }

    /// Counts an answer. `model` is empty when the request named none that exists.
    pub fn request_answered(&self, model: &str, endpoint: &str, status: u16, finish_reason: &str) {
        self.requests
            .with_label_values(&[model, endpoint, &status.to_string(), finish_reason])
            .inc();
    }

    /// Counts a refusal.
    pub fn request_rejected(&self, model: &str, reason: &str) {
        self.rejected.with_label_values(&[model, reason]).inc();
    }

    /// Counts an answer to the key of this name, and why it was refused if it was.
    pub fn key_answered(&self, key: &str, status: u16, refused: Option<&str>) {
        self.key_requests
            .with_label_values(&[key, &status.to_string()])
            .inc();
        if let Some(reason) = refused {
            self.key_rejected.with_label_values(&[key, reason]).inc();
        }
    }

    /// Counts tokens of the key of this name: of prompts, those of them that were cached, and of answers.
    pub fn key_tokens(&self, key: &str, tokens: [u32; 3]) {
        for (kind, count) in KEY_TOKENS.into_iter().zip(tokens) {
            self.key_tokens
                .with_label_values(&[key, kind])
                .inc_by(u64::from(count));
        }
    }

    /// Everything in Prometheus's text format, and its content type.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric cannot be written; a defect of ours.
    pub fn encode(&self) -> Result<(Vec<u8>, &'static str), MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }
}

/// Creates and registers in one go.
struct MetricTable<'a> {
    registry: &'a Registry,
}

impl MetricTable<'_> {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        let metric = IntCounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, MetricsError> {
        let metric = CounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn int_gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, MetricsError> {
        let metric = IntGaugeVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        let metric = IntGauge::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        let metric = GaugeVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        let options = HistogramOpts::from(options(name, help)).buckets(buckets.to_vec());
        let metric = HistogramVec::new(options, &["model"])?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("edgellm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix_and_a_help_text() {
        let metrics = Metrics::new().expect("a sound table");
        metrics.for_model("kiosk").steps.inc();
        metrics.request_answered("kiosk", "/v1/chat/completions", 200, "stop");
        let (text, _) = metrics.encode().expect("encodable");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("edgellm_engine_steps_total{model=\"kiosk\"} 1"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("edgellm_") || line.starts_with("process_"),
                "{line}"
            );
        }
    }
}
