//! The thread of one model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use crate::engine::{
    Engine, EngineOptions, LlamaEngine, LoadError, Pieces, Purpose, Tokenizer, Weights,
    kv_cache_bytes, load_model, return_freed,
};
use crate::governor::Governed;
use crate::grammar::{Grammars, Wall};
use crate::prompt::Prompter;
use crate::scheduler::{Heartbeat, Limits, Scheduler, drive};
use crate::telemetry::Metrics;

use super::{Loaded, ModelSpec, Serving, State};

/// Parameters below which a model spends its time around its matrix products.
const SMALL: u64 = 30_000_000;

pub(super) struct Worker {
    pub(super) spec: ModelSpec,
    /// Jobs that can be on their way to the scheduler at once.
    pub(super) queue: usize,
    pub(super) state: watch::Sender<State>,
    pub(super) heartbeat: Heartbeat,
    pub(super) metrics: Metrics,
    pub(super) governed: Governed,
    pub(super) wall: Wall,
    pub(super) abort: Arc<AtomicBool>,
}

impl Worker {
    pub(super) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(format!("model-{}", self.spec.id))
            .spawn(move || {
                let end = match catch_unwind(AssertUnwindSafe(|| self.run())) {
                    Ok(Ok(()) | Err(LoadError::Abandoned)) => State::Stopped,
                    Ok(Err(error)) => State::Unloadable(Arc::new(error)),
                    Err(_) => {
                        tracing::error!(model = self.spec.id, "the model's thread crashed");
                        State::Crashed
                    }
                };
                // Contexts and weights are gone. What glibc keeps of them is for the next model.
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
        let threads = spec.threads.unwrap_or(spec.engine.threads);
        let threads_a_bank = spec
            .threads
            .unwrap_or_else(|| threads_for(info.parameters, threads));
        let options = EngineOptions {
            threads,
            threads_a_bank,
            ..spec.engine
        };
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
            max_running = spec.limits.max_running,
            threads,
            threads_a_bank,
            attention = ?engine.attention(),
            row_group = engine.shape().row_group,
            banks = engine.shape().banks,
            seconds = started.elapsed().as_secs_f64(),
            "loaded"
        );

        // With 6 M parameters making a batch of another shape costs as much as computing it: the
        // shipped model answers `edgellm bench` 7 % slower with drafts than without.
        let may_draft = spec.large_models_speculate && info.parameters >= SMALL;
        let limits = Limits {
            speculation: spec.limits.speculation || may_draft,
            ..spec.limits
        };
        let (jobs, queue) = sync_channel(self.queue);
        let pieces: Arc<dyn Pieces> = Arc::clone(&tokenizer) as _;
        let scheduler = Scheduler::new(engine, pieces, limits, self.metrics.for_model(&spec.id))
            .governed_by(self.governed.clone());
        let loaded = Arc::new(Loaded {
            grammars: Grammars::new(Arc::clone(&tokenizer), self.wall.clone()),
            tokenizer,
            prompter,
            cells,
            jobs,
        });
        self.serve(Serving::Generation(loaded));
        drive(scheduler, &queue, &self.heartbeat, &|| {
            self.abort.load(Ordering::SeqCst)
        });
        Ok(())
    }
}

/// Threads that compute one batch together: all cores, but one for a model so small that its threads
/// would wait for each other longer than they compute. The 6 M one that ships answers 8 kiosks faster
/// so, and another program on the cores does not hold it up (`edgellm bench`, with `--threads 1` and
/// `2`).
pub(super) fn threads_for(parameters: u64, cores: u32) -> u32 {
    if parameters < SMALL { 1 } else { cores }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bank_of_a_small_model_takes_one_core_and_one_of_a_large_model_all() {
        assert_eq!(threads_for(6_000_000, 4), 1);
        assert_eq!(threads_for(500_000_000, 4), 4);
    }
}
