//! Finds the model that a request names and checks that it can answer.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{AdmissionRefusal, Principal, RefusalReason};
use crate::pool::{EmbeddingModel, GenerationModel, LoadedModel, ModelEntry, ModelState};

use super::Inference;
use super::error::{InferenceError, InferenceFailure, RequestError, WrongPurpose};

/// Characters of an unknown model's name that an error echoes: enough to recognize it.
const LONGEST_ECHOED_NAME: usize = 100;

impl Inference {
    /// Returns the model of this name, or the first that generates if a request names none.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`]
    pub(crate) fn find_model(
        &self,
        id: Option<&str>,
        principal: &Principal,
    ) -> Result<&Arc<ModelEntry>, InferenceFailure> {
        self.find(id, principal, |entry| !entry.embeds())
    }

    /// Returns the model of this name, or the first that embeds if a request names none.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`]
    pub(crate) fn find_embedder(
        &self,
        id: Option<&str>,
        principal: &Principal,
    ) -> Result<&Arc<ModelEntry>, InferenceFailure> {
        self.find(id, principal, ModelEntry::embeds)
    }

    /// Returns the models that `principal` may use.
    pub(crate) fn models_of(
        &self,
        principal: &Principal,
    ) -> impl Iterator<Item = &Arc<ModelEntry>> {
        let entries = self.pool.entries().iter();
        entries.filter(|entry| principal.may_use(&entry.id))
    }

    fn find(
        &self,
        id: Option<&str>,
        principal: &Principal,
        suits: impl Fn(&ModelEntry) -> bool,
    ) -> Result<&Arc<ModelEntry>, InferenceFailure> {
        let allowed = || self.models_of(principal);
        let found = if let Some(id) = id {
            self.pool.find(id)
        } else {
            let suited = allowed().find(|entry| suits(entry));
            suited.or_else(|| allowed().next())
        };
        // One that names none and may use none asks for the first.
        let found = found.or_else(|| self.pool.entries().first().filter(|_| id.is_none()));
        if let Some(entry) = found
            && !principal.may_use(&entry.id)
        {
            return Err(InferenceFailure::ModelNotAllowed(entry.id.clone()));
        }
        found.ok_or_else(|| InferenceFailure::UnknownModel {
            name: id
                .unwrap_or_default()
                .chars()
                .take(LONGEST_ECHOED_NAME)
                .collect(),
            available: allowed().map(|entry| entry.id.clone()).collect(),
        })
    }

    /// Returns the loaded model, if it is an embedding model and ready.
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

/// Returns the loaded model, if it generates and is ready.
pub(super) fn generator(entry: &ModelEntry) -> Result<Arc<GenerationModel>, InferenceError> {
    match serving(entry)? {
        LoadedModel::Generation(loaded) => Ok(loaded),
        LoadedModel::Embedding(_) => {
            let wrong = WrongPurpose::Embeds(entry.id.clone());
            Err(RequestError::wrong_purpose(wrong).into())
        }
    }
}

/// Returns the loaded model, if it is ready.
///
/// # Errors
/// That it is being loaded, has been stopped, or cannot be loaded.
pub(crate) fn serving(entry: &ModelEntry) -> Result<LoadedModel, InferenceFailure> {
    let refused = |reason, seconds| {
        Err(InferenceFailure::Refused(AdmissionRefusal {
            reason,
            retry_after: Duration::from_secs(seconds),
        }))
    };
    match entry.state() {
        ModelState::Ready(serving) => Ok(serving),
        ModelState::Loading => refused(RefusalReason::Loading, 2),
        ModelState::Stopped => refused(RefusalReason::Draining, 5),
        ModelState::Unloadable(_) | ModelState::Crashed => {
            Err(InferenceFailure::ModelUnavailable(entry.id.clone()))
        }
    }
}
