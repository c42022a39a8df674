//! What the thread of an embedding model does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::embedding::{Batcher, EmbeddingJob, EmbeddingLimits, EmbeddingLoadBoard};
use crate::engine::{EmbedderOptions, EmbedderShape, LlamaEmbedder, LoadError, Tokenizer, Weights};
use crate::worker;

use super::job_sender::JobSender;
use super::model_thread::ModelThread;
use super::{LoadedModel, ModelSpec, ModelState};

/// Texts of one batch: more would make short texts no faster, and each takes a vector's memory.
const MAX_BATCH_TEXTS: usize = 64;

/// An embedding model that answers.
#[derive(Debug)]
pub struct EmbeddingModel {
    /// Vocabulary and metadata.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that one text may have.
    pub context: usize,
    /// What its thread has to do.
    pub load: EmbeddingLoadBoard,
    pub(super) jobs: JobSender<EmbeddingJob>,
}

impl EmbeddingModel {
    /// Hands a request to the model's thread; gives it back when that is gone.
    pub fn submit(&self, job: EmbeddingJob) -> Result<(), Box<EmbeddingJob>> {
        self.jobs.submit(job)
    }
}

/// Room for the longest text that the model reads, or that `models.context` allows, and for
/// short ones as many as a step of a scheduler would take.
fn shape(spec: &ModelSpec, trained_context: u32) -> (EmbedderShape, usize) {
    let context = spec.context.min(trained_context) as usize;
    let shape = EmbedderShape {
        rows: context.max(spec.batch_rows() as usize),
        sequences: MAX_BATCH_TEXTS,
    };
    (shape, context)
}

impl ModelThread {
    pub(super) fn embed(
        &self,
        weights: &Weights,
        tokenizer: Arc<Tokenizer>,
        started: Instant,
    ) -> Result<(), LoadError> {
        let spec = &self.spec;
        let info = weights.info();
        let (shape, context) = shape(spec, info.trained_context);
        // One for a small model: a chat model often computes beside it, and two threads that wait
        // for a core answer later than one.
        let threads = spec.threads_per_partition(info.parameters);
        let options = EmbedderOptions {
            shape,
            threads,
            attention: spec.attention,
        };
        let embedder = LlamaEmbedder::new(weights, options)?;
        self.metrics
            .model_loaded(&spec.id, &info.quantization, &info.digest);
        tracing::info!(
            model = spec.id,
            architecture = info.architecture,
            quantization = info.quantization,
            parameters = info.parameters,
            dimensions = info.dimensions,
            context,
            threads,
            seconds = started.elapsed().as_secs_f64(),
            "loaded, for embeddings"
        );
        let limits = EmbeddingLimits {
            max_running: spec.max_running as usize,
            fill: spec.batch_rows() as usize,
        };
        let metrics = self.metrics.for_embedding_model(&spec.id);
        let batcher = Batcher::new(embedder, limits, metrics).governed_by(self.governed.clone());
        let (jobs, queue) = JobSender::new(self.queue);
        let loaded = EmbeddingModel {
            tokenizer,
            context,
            load: EmbeddingLoadBoard::default(),
            jobs,
        };
        self.serve(LoadedModel::Embedding(Arc::new(loaded)));
        worker::run(batcher, &queue, &self.heartbeat, &|| {
            self.abort.load(Ordering::SeqCst)
        });
        Ok(())
    }

    /// Shows the model as ready, unless it was stopped meanwhile: then the way into its channel
    /// is dropped here.
    pub(super) fn serve(&self, serving: LoadedModel) {
        self.state.send_if_modified(|state| {
            let awaited = matches!(state, ModelState::Loading);
            if awaited {
                *state = ModelState::Ready(serving);
            }
            awaited
        });
    }
}
