//! Which model a request means, and whether it can answer.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{AdmissionRefusal, RefusalReason};
use crate::pool::{EmbeddingModel, GenerationModel, LoadedModel, ModelEntry, ModelState};

use super::Inference;
use super::error::{Failure, InferenceError, RequestError, WrongPurpose};

/// Characters of a model's name that are told again: enough to recognize it.
const LONGEST_TOLD: usize = 100;

impl Inference {
    /// The model of this name, or the first that chats when a request names none.
    ///
    /// # Errors
    /// [`Failure::UnknownModel`]
    pub(crate) fn find_model(&self, id: Option<&str>) -> Result<&Arc<ModelEntry>, Failure> {
        self.find(id, |entry| !entry.embeds())
    }

    /// The model of this name, or the first that embeds when a request names none.
    ///
    /// # Errors
    /// [`Failure::UnknownModel`]
    pub(crate) fn find_embedder(&self, id: Option<&str>) -> Result<&Arc<ModelEntry>, Failure> {
        self.find(id, ModelEntry::embeds)
    }

    fn find(
        &self,
        id: Option<&str>,
        suits: impl Fn(&ModelEntry) -> bool,
    ) -> Result<&Arc<ModelEntry>, Failure> {
        let entries = self.pool.entries();
        let found = if let Some(id) = id {
            self.pool.find(id)
        } else {
            let suited = entries.iter().find(|entry| suits(entry));
            suited.or(entries.first())
        };
        found.ok_or_else(|| Failure::UnknownModel {
            name: id.unwrap_or_default().chars().take(LONGEST_TOLD).collect(),
            available: entries.iter().map(|entry| entry.id.clone()).collect(),
        })
    }

    /// The model, if it embeds and can now.
    pub(super) fn embedder(
        &self,
        entry: &ModelEntry,
    ) -> Result<Arc<EmbeddingModel>, InferenceError> {
        match serving(entry)? {
            LoadedModel::Embedding(loaded) => Ok(loaded),
            LoadedModel::Generation(_) => {
                let embedders = self.pool.entries().iter().filter(|entry| entry.embeds());
                let wrong = WrongPurpose::Generates {
                    model: entry.id.clone(),
                    embedders: embedders.map(|entry| entry.id.clone()).collect(),
                };
                Err(RequestError::wrong_purpose(wrong).into())
            }
        }
    }
}

/// The model, if it generates and can now.
pub(super) fn generator(entry: &ModelEntry) -> Result<Arc<GenerationModel>, InferenceError> {
    match serving(entry)? {
        LoadedModel::Generation(loaded) => Ok(loaded),
        LoadedModel::Embedding(_) => {
            let wrong = WrongPurpose::Embeds(entry.id.clone());
            Err(RequestError::wrong_purpose(wrong).into())
        }
    }
}

/// The model, if it can answer now.
///
/// # Errors
/// That it is being loaded, has been stopped, or cannot be loaded.
pub(crate) fn serving(entry: &ModelEntry) -> Result<LoadedModel, Failure> {
    let refused = |reason, seconds| {
        Err(Failure::Refused(AdmissionRefusal {
            reason,
            retry_after: Duration::from_secs(seconds),
        }))
    };
    match entry.state() {
        ModelState::Ready(serving) => Ok(serving),
        ModelState::Loading => refused(RefusalReason::Loading, 2),
        ModelState::Stopped => refused(RefusalReason::Draining, 5),
        ModelState::Unloadable(_) | ModelState::Crashed => {
            Err(Failure::ModelUnavailable(entry.id.clone()))
        }
    }
}
