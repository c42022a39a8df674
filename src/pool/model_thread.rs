//! The thread of one model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::engine::{
    Engine, LlamaEngine, LoadError, Pieces, Purpose, Tokenizer, Weights, kv_cache_bytes,
    load_tried_model, return_freed,
};
use crate::grammar::Grammars;
use crate::headroom;
use crate::prompt::Prompter;
use crate::scheduler::Scheduler;
use crate::worker::{self, Worker};

use super::adapters::{Adapters, MOST_CHANGES};
use super::context::PoolContext;
use super::job_sender::JobSender;
use super::version::{ModelVersion, VersionEnd, VersionState};
use super::{GenerationModel, LoadedModel, ModelMemory, ModelSpec};

/// What a load changes of the process's memory.
pub(super) struct LoadMeasure {
    pub(super) began: Instant,
    /// Anonymous memory before, where that is known.
    anonymous: Option<u64>,
}

impl LoadMeasure {
    fn begin() -> Self {
        return_freed();
        Self {
            began: Instant::now(),
            anonymous: headroom::anonymous_memory(),
        }
    }

    /// What a model takes whose tensors have so many bytes, and its cache as many once it is full. Buffers that have not
    /// been used yet take no memory now, so nothing counts less than its file says; and what other models have used
    /// meanwhile is not told apart, so it does not count more than twice that.
    pub(super) fn taken(&self, weights: u64, kv_cache: u64, expected: ModelMemory) -> ModelMemory {
        let now = headroom::anonymous_memory();
        let added = (self.anonymous.zip(now)).map_or(0, |(before, now)| now.saturating_sub(before));
        // Weights that are mapped are not anonymous.
        let beside_weights = added.checked_sub(weights).unwrap_or(added);
        let compute = beside_weights.clamp(expected.compute, 2 * expected.compute);
        ModelMemory {
            weights,
            kv_cache,
            compute,
        }
    }
}

pub(super) struct ModelThread {
    pub(super) spec: ModelSpec,
    /// Jobs that can be on their way to the scheduler at once.
    pub(super) queue: usize,
    pub(super) version: Arc<ModelVersion>,
    pub(super) context: Arc<PoolContext>,
}

impl ModelThread {
    pub(super) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(format!("model-{}", self.spec.id))
            .spawn(move || {
                let end = match catch_unwind(AssertUnwindSafe(|| self.run())) {
                    Ok(Ok(()) | Err(LoadError::Abandoned)) => VersionEnd::Unloaded,
                    Ok(Err(error)) => VersionEnd::Unloadable(Arc::new(error)),
                    Err(_) => {
                        tracing::error!(model = self.spec.id, "the model's thread crashed");
                        VersionEnd::Crashed
                    }
                };
                // Contexts and weights are dropped: without this glibc would keep much of their memory.
                return_freed();
                // Who comes now is for the next version.
                self.version.gate.close();
                self.version.advance(VersionState::Ended(end));
                self.context.wake();
            })
    }

    fn run(&self) -> Result<(), LoadError> {
        let spec = &self.spec;
        let measure = LoadMeasure::begin();
        tracing::info!(model = spec.id, file = %spec.path.display(), "loading");
        let (weights, tokenizer) =
            load_tried_model(&spec.path, &self.context.trial, &self.version.watch)?;
        let tokenizer = Arc::new(tokenizer);
        match weights.info().purpose {
            Purpose::Generation => self.generate(&weights, tokenizer, &measure),
            Purpose::Embedding => self.embed(&weights, tokenizer, &measure),
        }
    }

    fn generate(
        &self,
        weights: &Weights,
        tokenizer: Arc<Tokenizer>,
        measure: &LoadMeasure,
    ) -> Result<(), LoadError> {
        let spec = &self.spec;
        let info = weights.info();
        let options = spec.engine_options(info.parameters);
        let engine = LlamaEngine::new(weights, options)?;
        let shape = engine.shape();
        let cells = shape.cells;
        let prompter = Prompter::new(
            info.chat_template.as_deref(),
            &info.bos_text,
            &info.eos_text,
        );
        if let Err(error) = &prompter {
            tracing::warn!(model = spec.id, "no chat with this model: {error}");
        }
        let kv_cache = kv_cache_bytes(weights, cells);
        let shown = [spec.id.as_str(), &info.quantization, &info.digest];
        let metrics = &self.context.metrics;
        let _shown = metrics.model_loaded(shown, info.size_bytes, kv_cache);
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
            row_group = shape.row_group,
            banks = shape.partitions,
            seconds = measure.began.elapsed().as_secs_f64(),
            "loaded"
        );

        let (jobs, queue) = JobSender::new(self.queue + MOST_CHANGES);
        let pieces: Arc<dyn Pieces> = Arc::clone(&tokenizer) as _;
        let limits = spec.limits(info.parameters);
        let mut scheduler = Scheduler::new(
            engine,
            pieces,
            limits,
            self.context.metrics.for_model(&spec.id),
        )
        .governed_by(self.context.governed.clone())
        .keeping_within(self.context.room.clone());
        let base = weights.adapter_base();
        let adapters = Adapters::load(&spec.id, &spec.adapters, base, &mut scheduler);
        let loaded = Arc::new(GenerationModel {
            grammars: Grammars::with_room(
                Arc::clone(&tokenizer),
                self.context.trial_compiler.clone(),
                self.context.room.clone(),
            ),
            tokenizer,
            prompter,
            cells,
            load: scheduler.load_board(),
            adapters,
            jobs,
        });
        let banks = u64::from(shape.partitions) + spec.adapters.len() as u64;
        self.serve(
            &LoadedModel::Generation(loaded),
            measure.taken(
                info.size_bytes,
                kv_cache.unwrap_or(0) * banks,
                spec.estimated_memory().unwrap_or_default(),
            ),
        );
        self.run_worker(scheduler, &queue);
        Ok(())
    }

    pub(super) fn run_worker<W: Worker>(&self, worker: W, queue: &Receiver<W::Request>) {
        worker::run(worker, queue, &self.version.heartbeat, &|| {
            self.version.watch.is_given_up()
        });
    }

    /// Shows the model as ready, unless it was stopped meanwhile.
    pub(super) fn serve(&self, serving: &LoadedModel, memory: ModelMemory) {
        self.version.set_memory(memory);
        if !self.version.advance(VersionState::Ready(serving.clone())) {
            // Its way into the channel, which lets the thread end.
            serving.close();
        }
        self.context.wake();
    }
}
