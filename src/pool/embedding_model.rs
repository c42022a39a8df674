//! What the thread of an embedding model does.

use std::sync::Arc;

use crate::embedding::{Batcher, EmbeddingJob, EmbeddingLimits, EmbeddingLoadBoard};
use crate::engine::{LlamaEmbedder, LoadError, Tokenizer, Weights};

use super::LoadedModel;
use super::job_sender::JobSender;
use super::model_thread::{LoadMeasure, ModelThread};

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

impl ModelThread {
    pub(super) fn embed(
        &self,
        weights: &Weights,
        tokenizer: Arc<Tokenizer>,
        measure: &LoadMeasure,
    ) -> Result<(), LoadError> {
        let spec = &self.spec;
        let info = weights.info();
        let context = spec.context.min(info.trained_context) as usize;
        let options = spec.embedder_options(info.trained_context, info.parameters);
        let threads = options.threads;
        let embedder = LlamaEmbedder::new(weights, options)?;
        let shown = [spec.id.as_str(), &info.quantization, &info.digest];
        let metrics = &self.context.metrics;
        let _shown = metrics.model_loaded(shown, info.size_bytes, None);
        tracing::info!(
            model = spec.id,
            architecture = info.architecture,
            quantization = info.quantization,
            parameters = info.parameters,
            dimensions = info.dimensions,
            context,
            threads,
            seconds = measure.began.elapsed().as_secs_f64(),
            "loaded, for embeddings"
        );
        let limits = EmbeddingLimits {
            max_running: spec.max_running as usize,
            fill: spec.batch_rows() as usize,
        };
        let metrics = metrics.for_embedding_model(&spec.id);
        let batcher =
            Batcher::new(embedder, limits, metrics).governed_by(self.context.governed.clone());
        let (jobs, queue) = JobSender::new(self.queue);
        let loaded = EmbeddingModel {
            tokenizer,
            context,
            load: EmbeddingLoadBoard::default(),
            jobs,
        };
        let expected = spec.estimated_memory().unwrap_or_default();
        let memory = measure.taken(info.size_bytes, expected.kv_cache, expected);
        self.serve(&LoadedModel::Embedding(Arc::new(loaded)), memory);
        self.run_worker(batcher, &queue);
        Ok(())
    }
}
