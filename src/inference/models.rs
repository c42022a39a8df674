//! Finds the model that answers a request, and gets the request in there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{AdmissionRefusal, MissedDeadline, Principal, RefusalReason};
use crate::engine::AdapterId;
use crate::headroom::Resource;
use crate::pool::{
    EmbeddingModel, EnterError, Entered, FailureCause, GenerationModel, LoadedModel, ModelEntry,
    NamedModel, Visit,
};

use super::Inference;
use super::error::{InferenceError, InferenceFailure, RequestError, WrongPurpose};

/// Characters of an unknown model's name that an error echoes: enough to recognize it.
const LONGEST_ECHOED_NAME: usize = 100;

/// The model that answers a request.
#[derive(Debug, Clone)]
pub(crate) struct ChosenModel {
    pub(crate) entry: Arc<ModelEntry>,
    /// The adapter that is applied.
    pub(crate) adapter: Option<String>,
    /// Why it is another than the request named.
    pub(crate) stands_in: Option<StandIn>,
}

/// Why a model answers that a request did not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandIn {
    /// Nobody has the name, and this is the default model.
    Default,
    /// It is a smaller sibling of the one that was asked for, for want of this.
    Sibling(Resource),
}

impl StandIn {
    /// Returns the word in a header and in the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Sibling(Resource::Power) => "power",
            Self::Sibling(Resource::Thermal) => "thermal",
            Self::Sibling(Resource::Memory) => "memory",
            Self::Sibling(Resource::Cpu) => "cpu",
        }
    }
}

impl ChosenModel {
    /// The name under which it answers: the model's id, with the adapter if one is applied.
    pub(crate) fn name(&self) -> String {
        match &self.adapter {
            Some(adapter) => format!("{}+{adapter}", self.entry.id),
            None => self.entry.id.clone(),
        }
    }
}

impl From<Arc<ModelEntry>> for ChosenModel {
    fn from(entry: Arc<ModelEntry>) -> Self {
        Self {
            entry,
            adapter: None,
            stands_in: None,
        }
    }
}

impl From<NamedModel> for ChosenModel {
    fn from(named: NamedModel) -> Self {
        Self {
            entry: named.entry,
            adapter: named.adapter,
            stands_in: named.is_default.then_some(StandIn::Default),
        }
    }
}

impl Inference {
    /// Returns the model that answers for this name, or the first that generates if a request names none. Where
    /// something is short that may be a smaller sibling, unless the request has token ids, which mean something else
    /// in another vocabulary.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`] and [`InferenceFailure::ModelNotAllowed`].
    pub(crate) fn choose_model(
        &self,
        name: Option<&str>,
        principal: &Principal,
        has_token_ids: bool,
    ) -> Result<ChosenModel, InferenceFailure> {
        let chosen = self.find(name, principal, |entry| !entry.embeds())?;
        if has_token_ids {
            return Ok(chosen);
        }
        let displaced = chosen.entry.is_displaced().then_some(Resource::Memory);
        let shortage = displaced.or_else(|| self.pool.siblings_answer());
        Ok(shortage
            .and_then(|resource| self.sibling(&chosen, resource, principal))
            .unwrap_or(chosen))
    }

    /// Returns the model that answers for this name, or the first that embeds if a request names none.
    ///
    /// # Errors
    /// As of [`choose_model`](Self::choose_model).
    pub(crate) fn choose_embedder(
        &self,
        name: Option<&str>,
        principal: &Principal,
    ) -> Result<ChosenModel, InferenceFailure> {
        self.find(name, principal, ModelEntry::embeds)
    }

    /// Returns the model that has this name, and no other in its place; those that `principal` may not use are not
    /// told of.
    ///
    /// # Errors
    /// [`InferenceFailure::UnknownModel`] and [`InferenceFailure::ModelNotAllowed`].
    pub(crate) fn named(
        &self,
        name: &str,
        principal: &Principal,
    ) -> Result<NamedModel, InferenceFailure> {
        let found = self.pool.named(name).filter(|found| !found.is_default);
        let found = found.ok_or_else(|| unknown(Some(name), &self.models_of(principal)))?;
        if principal.may_use(&found.entry.id) {
            Ok(found)
        } else {
            Err(InferenceFailure::ModelNotAllowed(found.entry.id.clone()))
        }
    }

    /// Returns the models that `principal` may use.
    pub(crate) fn models_of(&self, principal: &Principal) -> Vec<Arc<ModelEntry>> {
        let entries = self.pool.entries();
        let allowed = entries.iter().filter(|entry| principal.may_use(&entry.id));
        allowed.cloned().collect()
    }

    fn find(
        &self,
        name: Option<&str>,
        principal: &Principal,
        suits: impl Fn(&ModelEntry) -> bool,
    ) -> Result<ChosenModel, InferenceFailure> {
        let allowed = self.models_of(principal);
        let found = if let Some(name) = name {
            self.pool.named(name).map(ChosenModel::from)
        } else {
            let suited = allowed.iter().find(|entry| suits(entry));
            // One that names none and may use none asks for the first.
            let found = suited.or_else(|| allowed.first()).cloned();
            let found = found.or_else(|| self.pool.entries().first().cloned());
            found.map(ChosenModel::from)
        };
        if let Some(found) = &found
            && !principal.may_use(&found.entry.id)
        {
            return Err(InferenceFailure::ModelNotAllowed(found.entry.id.clone()));
        }
        found.ok_or_else(|| unknown(name, &allowed))
    }

    /// Returns the smaller model that answers in the place of `chosen` while `shortage` lasts, if there is one.
    /// Where only power or heat is short, a sibling that is not loaded is loaded first and answers from then on.
    fn sibling(
        &self,
        chosen: &ChosenModel,
        shortage: Resource,
        principal: &Principal,
    ) -> Option<ChosenModel> {
        if chosen.adapter.is_some() {
            // Another model has no such adapter, and without it the answer would mean something else.
            return None;
        }
        let entries = self.pool.entries();
        let may_use = |sibling: &&Arc<ModelEntry>| principal.may_use(&sibling.id);
        let sibling = if shortage == Resource::Memory {
            // A larger one that is pinned stays, and loading another beside it would make things worse.
            let stays = chosen.entry.terms.is_pinned();
            let sibling = chosen.entry.sibling(&entries).filter(may_use);
            sibling.filter(|sibling| !stays || sibling.serving().is_some())
        } else {
            let siblings = chosen.entry.terms.siblings.iter();
            let siblings = siblings.filter_map(|id| entries.iter().find(|entry| entry.id == *id));
            let siblings: Vec<_> = siblings.filter(may_use).collect();
            let ready = siblings.iter().find(|sibling| sibling.serving().is_some());
            if ready.is_none() {
                // The first of them answers as soon as it is there.
                let first = siblings.iter().find(|sibling| !sibling.has_failed());
                first.map(|first| self.pool.load(first));
            }
            ready.copied()
        };
        let sibling = Arc::clone(sibling?);
        Some(ChosenModel {
            entry: sibling,
            adapter: None,
            stands_in: Some(StandIn::Sibling(shortage)),
        })
    }

    /// Lets a request in, and waits until its model is loaded.
    pub(super) async fn enter(
        &self,
        entry: &ModelEntry,
        arrived: Instant,
        visit: Visit,
    ) -> Result<Entered, InferenceFailure> {
        let entered = entry.enter(visit).await;
        entered.map_err(|error| failure(entry, arrived, &error))
    }

    /// Returns a model as one that embeds, if it does.
    pub(super) fn embedder(
        &self,
        entry: &ModelEntry,
        loaded: LoadedModel,
        principal: &Principal,
    ) -> Result<Arc<EmbeddingModel>, InferenceError> {
        match loaded {
            LoadedModel::Embedding(loaded) => Ok(loaded),
            LoadedModel::Generation(_) => {
                let entries = self.models_of(principal);
                let embedders = entries.iter().filter(|entry| entry.embeds());
                let wrong = WrongPurpose::Generates {
                    model: entry.id.clone(),
                    embedders: embedders.map(|entry| entry.id.clone()).collect(),
                };
                Err(RequestError::wrong_purpose(wrong).into())
            }
        }
    }
}

/// Returns a model as one that generates, if it does.
pub(super) fn generator(
    entry: &ModelEntry,
    loaded: LoadedModel,
) -> Result<Arc<GenerationModel>, InferenceError> {
    match loaded {
        LoadedModel::Generation(loaded) => Ok(loaded),
        LoadedModel::Embedding(_) => {
            let wrong = WrongPurpose::Embeds(entry.id.clone());
            Err(RequestError::wrong_purpose(wrong).into())
        }
    }
}

/// Returns the adapter that a request asks for, if it asks for one.
pub(super) fn adapter_of(
    model: &ChosenModel,
    loaded: &GenerationModel,
) -> Result<Option<AdapterId>, InferenceFailure> {
    let Some(name) = &model.adapter else {
        return Ok(None);
    };
    // It could not be loaded, or was removed a moment ago; the log says which.
    let adapter = loaded.adapter(name);
    let adapter = adapter.ok_or_else(|| InferenceFailure::ModelUnavailable(model.name()))?;
    Ok(Some(adapter))
}

fn unknown(name: Option<&str>, available: &[Arc<ModelEntry>]) -> InferenceFailure {
    let name = name.unwrap_or_default().chars();
    InferenceFailure::UnknownModel {
        name: name.take(LONGEST_ECHOED_NAME).collect(),
        available: available.iter().map(|entry| entry.id.clone()).collect(),
    }
}

/// What a client is told that did not get in.
fn failure(entry: &ModelEntry, arrived: Instant, error: &EnterError) -> InferenceFailure {
    if let Some(cause) = error.cause() {
        return match cause {
            FailureCause::TooLarge(shortage) => InferenceFailure::ModelTooLarge {
                model: entry.id.clone(),
                shortage,
            },
            FailureCause::Unloadable(_) | FailureCause::Crashed => {
                InferenceFailure::ModelUnavailable(entry.id.clone())
            }
        };
    }
    match error {
        EnterError::Refused(refusal) => InferenceFailure::Refused(*refusal),
        EnterError::DeadlinePassed(deadline) => {
            let allowed = deadline.saturating_duration_since(arrived);
            InferenceFailure::DeadlineUnreachable(MissedDeadline::passed(allowed))
        }
        // It was unloaded while the request waited, or the server stops.
        EnterError::Failed(_) | EnterError::Ended(_) | EnterError::Removed => {
            InferenceFailure::Refused(AdmissionRefusal {
                reason: RefusalReason::Loading,
                retry_after: Duration::from_secs(2),
            })
        }
    }
}
