//! Which model a request means, and whether it can answer.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{Reason, Refusal};
use crate::pool::{Entry, Loaded, LoadedEmbedder, Serving, State};

use super::Inference;
use super::error::{InferenceError, InferenceFailure, RequestError, WrongPurpose};

/// Characters of a model's name that are told again: enough to recognize it.
const LONGEST_ECHOED_NAME: usize = 100;

impl Inference {
    /// The model of this name, or the first that chats when a request names none.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`]
    pub(crate) fn find_model(&self, id: Option<&str>) -> Result<&Arc<Entry>, InferenceFailure> {
        self.find(id, |entry| !entry.embeds())
    }

    /// The model of this name, or the first that embeds when a request names none.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`]
    pub(crate) fn find_embedder(&self, id: Option<&str>) -> Result<&Arc<Entry>, InferenceFailure> {
        self.find(id, Entry::embeds)
    }

    fn find(
        &self,
        id: Option<&str>,
        suits: impl Fn(&Entry) -> bool,
    ) -> Result<&Arc<Entry>, InferenceFailure> {
        let entries = self.pool.entries();
        let found = if let Some(id) = id {
            self.pool.find(id)
        } else {
            let suited = entries.iter().find(|entry| suits(entry));
            suited.or(entries.first())
        };
        found.ok_or_else(|| InferenceFailure::UnknownModel {
            name: id
                .unwrap_or_default()
                .chars()
                .take(LONGEST_ECHOED_NAME)
                .collect(),
            available: entries.iter().map(|entry| entry.id.clone()).collect(),
        })
    }

    /// The model, if it embeds and can now.
    pub(super) fn embedder(&self, entry: &Entry) -> Result<Arc<LoadedEmbedder>, InferenceError> {
        match serving(entry)? {
            Serving::Embedding(loaded) => Ok(loaded),
            Serving::Generation(_) => {
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
pub(super) fn generator(entry: &Entry) -> Result<Arc<Loaded>, InferenceError> {
    match serving(entry)? {
        Serving::Generation(loaded) => Ok(loaded),
        Serving::Embedding(_) => {
            let wrong = WrongPurpose::Embeds(entry.id.clone());
            Err(RequestError::wrong_purpose(wrong).into())
        }
    }
}

/// The model, if it can answer now.
///
/// # Errors
/// That it is being loaded, has been stopped, or cannot be loaded.
pub(crate) fn serving(entry: &Entry) -> Result<Serving, InferenceFailure> {
    let refused = |reason, seconds| {
        Err(InferenceFailure::Refused(Refusal {
            reason,
            retry_after: Duration::from_secs(seconds),
        }))
    };
    match entry.state() {
        State::Ready(serving) => Ok(serving),
        State::Loading => refused(Reason::Loading, 2),
        State::Stopped => refused(Reason::Draining, 5),
        State::Unloadable(_) | State::Crashed => {
            Err(InferenceFailure::ModelUnavailable(entry.id.clone()))
        }
    }
}
