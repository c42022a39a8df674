//! The thread of one model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use crate::engine::{
    Engine, LlamaEngine, LoadError, Pieces, Purpose, Tokenizer, Weights, kv_cache_bytes,
    load_model, return_freed,
};
use crate::governor::GovernorHandle;
use crate::grammar::{Grammars, TrialCompiler};
use crate::prompt::Prompter;
use crate::scheduler::Scheduler;
use crate::telemetry::Metrics;
use crate::worker::{self, Heartbeat};

use super::adapters::{Adapters, MOST_CHANGES};
use super::job_sender::JobSender;
use super::{GenerationModel, LoadedModel, ModelSpec, ModelState};

pub(super) struct ModelThread {
    pub(super) spec: ModelSpec,
    /// Jobs that can be on their way to the scheduler at once.
    pub(super) queue: usize,
    pub(super) state: watch::Sender<ModelState>,
    pub(super) heartbeat: Heartbeat,
    pub(super) metrics: Metrics,
    pub(super) governed: GovernorHandle,
    pub(super) trial_compiler: TrialCompiler,
    pub(super) abort: Arc<AtomicBool>,
}

impl ModelThread {
    pub(super) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(format!("model-{}", self.spec.id))
            .spawn(move || {
                let end = match catch_unwind(AssertUnwindSafe(|| self.run())) {
                    Ok(Ok(()) | Err(LoadError::Abandoned)) => ModelState::Stopped,
                    Ok(Err(error)) => ModelState::Unloadable(Arc::new(error)),
                    Err(_) => {
                        tracing::error!(model = self.spec.id, "the model's thread crashed");
                        ModelState::Crashed
                    }
                };
                // Contexts and weights are dropped: without this glibc would keep much of their memory.
                return_freed();
                self.state.send_replace(end);
            })
    }

    fn run(&self) -> Result<(), LoadError> {
        let spec = &self.spec;
        let started = Instant::now();
        tracing::info!(model = spec.id, file = %spec.path.display(), "loading");
        let (weights, tokenizer) = load_model(&spec.path, &self.abort)?;
        let tokenizer = Arc::new(tokenizer);
        match weights.info().purpose {
            Purpose::Generation => self.generate(&weights, tokenizer, started),
            Purpose::Embedding => self.embed(&weights, tokenizer, started),
        }
    }

    fn generate(
        &self,
        weights: &Weights,
        tokenizer: Arc<Tokenizer>,
        started: Instant,
    ) -> Result<(), LoadError> {
        let spec = &self.spec;
        let info = weights.info();
        let options = spec.engine_options(info.parameters);
        let engine = LlamaEngine::new(weights, options)?;
        let prompter = Prompter::new(
            info.chat_template.as_deref(),
            &info.bos_text,
            &info.eos_text,
        );
        if let Err(error) = &prompter {
            tracing::warn!(model = spec.id, "no chat with this model: {error}");
        }
        self.metrics
            .model_loaded(&spec.id, &info.quantization, &info.digest);
        let cells = engine.shape().cells;
        let kv_cache = kv_cache_bytes(weights, cells);
        self.metrics
            .model_memory(&spec.id, info.size_bytes, kv_cache);
        tracing::info!(
            model = spec.id,
            architecture = info.architecture,
            quantization = info.quantization,
            parameters = info.parameters,
            context = cells,
            trained_context = info.trained_context,
            max_running = spec.max_running,
            threads = options.threads,
            threads_a_bank = options.threads_per_partition,
            attention = ?engine.attention(),
            row_group = engine.shape().row_group,
            banks = engine.shape().partitions,
            seconds = started.elapsed().as_secs_f64(),
            "loaded"
        );

        let (jobs, queue) = JobSender::new(self.queue + MOST_CHANGES);
        let pieces: Arc<dyn Pieces> = Arc::clone(&tokenizer) as _;
        let limits = spec.limits(info.parameters);
        let mut scheduler =
            Scheduler::new(engine, pieces, limits, self.metrics.for_model(&spec.id))
                .governed_by(self.governed.clone());
        let base = weights.adapter_base();
        let adapters = Adapters::load(&spec.id, &spec.adapters, base, &mut scheduler);
        let loaded = Arc::new(GenerationModel {
            grammars: Grammars::new(Arc::clone(&tokenizer), self.trial_compiler.clone()),
            tokenizer,
            prompter,
            cells,
            load: scheduler.load_board(),
            adapters,
            jobs,
        });
        self.serve(LoadedModel::Generation(loaded));
        worker::run(scheduler, &queue, &self.heartbeat, &|| {
            self.abort.load(Ordering::SeqCst)
        });
        Ok(())
    }
}
