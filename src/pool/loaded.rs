//! What others hold of a loaded model: its vocabulary, its metadata, and the way to its thread.

use std::sync::Arc;

use crate::engine::{AdapterFile, Tokenizer};
use crate::grammar::Grammars;
use crate::prompt::{Prompter, TemplateError};
use crate::scheduler::{GenerationJob, LoadBoard, SchedulerRequest};

use super::EmbeddingModel;
use super::adapters::Adapters;
use super::job_sender::JobSender;

/// A loaded model, by its purpose.
#[derive(Debug, Clone)]
pub enum LoadedModel {
    /// It generates text.
    Generation(Arc<GenerationModel>),
    /// It turns texts into vectors.
    Embedding(Arc<EmbeddingModel>),
}

impl LoadedModel {
    /// Returns the vocabulary and metadata.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        match self {
            Self::Generation(loaded) => &loaded.tokenizer,
            Self::Embedding(loaded) => &loaded.tokenizer,
        }
    }

    /// Takes no more requests, which lets the model's thread end.
    pub(super) fn close(&self) {
        match self {
            Self::Generation(loaded) => loaded.jobs.close(),
            Self::Embedding(loaded) => loaded.jobs.close(),
        }
    }

    /// Returns the most tokens of one request, or of one text to embed.
    #[must_use]
    pub fn context(&self) -> usize {
        match self {
            Self::Generation(loaded) => loaded.context(),
            Self::Embedding(loaded) => loaded.context,
        }
    }
}

/// A model that generates.
#[derive(Debug)]
pub struct GenerationModel {
    /// Vocabulary and metadata.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub prompter: Result<Prompter, TemplateError>,
    /// The grammars to which answers can be constrained.
    pub grammars: Grammars,
    /// KV cells, shared by all requests.
    pub cells: usize,
    /// What its scheduler has to do.
    pub load: LoadBoard,
    pub(super) adapters: Adapters,
    pub(super) jobs: JobSender<SchedulerRequest<AdapterFile>>,
}

impl GenerationModel {
    /// Returns the most tokens that prompt and answer of one request may have together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.cells
            .min(self.tokenizer.info().trained_context as usize)
    }

    /// Hands a request to the scheduler; gives it back when the scheduler is gone.
    pub fn submit(&self, job: GenerationJob) -> Result<(), Box<GenerationJob>> {
        let sent = self.jobs.submit(SchedulerRequest::Generate(Box::new(job)));
        sent.or_else(|request| match *request {
            SchedulerRequest::Generate(job) => Err(job),
            // It was a job that came back.
            SchedulerRequest::Change(_) => Ok(()),
        })
    }
}
