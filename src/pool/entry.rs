//! A model that can be asked, loaded or not.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::watch;

use crate::admission::{AdmissionRefusal, Gate, Tenant};
use crate::engine::{Purpose, read_header};
use crate::sync::{Mutex, MutexGuard};

use super::context::PoolContext;
use super::enter::EnterError;
use super::failure::{FailureCause, FileStamp, LoadFailure, retry_after};
use super::version::{ModelVersion, VersionEnd, VersionState};
use super::{LoadedModel, ModelMemory, ModelSpec, ModelTerms};

/// The life cycle of a model.
#[derive(Debug, Clone)]
pub enum ModelState {
    /// It is not loaded; a request loads it.
    Cold,
    /// It waits for memory, or for another model that is being loaded.
    Queued,
    /// Its file is being read.
    Loading,
    /// It answers.
    Ready(LoadedModel),
    /// It finishes what it does, and takes nothing new until it is loaded again.
    Draining,
    /// Its thread ends.
    Unloading,
    /// It could not be loaded, or its thread died; it is tried again.
    Failed(LoadFailure),
}

impl ModelState {
    /// Returns the state as one word, for people and machines.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Queued => "queued",
            Self::Loading => "loading",
            Self::Ready(_) => "ready",
            Self::Draining => "draining",
            Self::Unloading => "unloading",
            Self::Failed(_) => "failed",
        }
    }

    /// All words of [`as_str`](Self::as_str).
    pub const WORDS: [&str; 7] = [
        "cold",
        "queued",
        "loading",
        "ready",
        "draining",
        "unloading",
        "failed",
    ];
}

/// One model of the pool.
#[derive(Debug)]
pub struct ModelEntry {
    /// The name that clients use.
    pub id: String,
    /// When it was added, seconds since 1970.
    pub created: u64,
    /// What its thread needs.
    pub spec: ModelSpec,
    /// What the configuration says of it.
    pub terms: ModelTerms,
    context: Arc<PoolContext>,
    life: Mutex<Life>,
    /// Requests that wait until a version is gone that takes nobody any more.
    pub(super) waiting: AtomicUsize,
    /// What the file is for, once it was read.
    purpose: OnceLock<Option<Purpose>>,
}

/// What changes of a model.
#[derive(Debug, Default)]
struct Life {
    version: Option<Arc<ModelVersion>>,
    failure: Option<LoadFailure>,
    /// Whether it is to be loaded though nobody asks.
    is_due: bool,
    /// Whether it has left for a smaller sibling, and memory is too short for it to come back.
    is_displaced: bool,
    /// Whether its file is gone from the folder of models, and nobody finds it any more.
    is_removed: bool,
}

impl ModelEntry {
    pub(super) fn new(
        spec: ModelSpec,
        terms: ModelTerms,
        created: u64,
        context: Arc<PoolContext>,
    ) -> Self {
        let is_due = terms.is_preloaded();
        Self {
            id: spec.id.clone(),
            created,
            spec,
            terms,
            context,
            life: Mutex::new(Life {
                is_due,
                ..Life::default()
            }),
            waiting: AtomicUsize::new(0),
            purpose: OnceLock::new(),
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock()
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> ModelState {
        let life = self.life();
        match &life.version {
            Some(version) => match version.state() {
                VersionState::Queued => ModelState::Queued,
                VersionState::Loading => ModelState::Loading,
                VersionState::Ready(serving) => ModelState::Ready(serving),
                VersionState::Draining(_) => ModelState::Draining,
                VersionState::Unloading | VersionState::Ended(_) => ModelState::Unloading,
            },
            None => match &life.failure {
                Some(failure) => ModelState::Failed(failure.clone()),
                None => ModelState::Cold,
            },
        }
    }

    /// Returns the version that is wanted, loaded or leaving, if there is one.
    #[must_use]
    pub fn version(&self) -> Option<Arc<ModelVersion>> {
        self.life().version.clone()
    }

    /// Says what keeps the model from answering; `None` if it answers.
    #[must_use]
    pub fn progress(&self) -> Option<String> {
        match self.state() {
            ModelState::Ready(_) => None,
            ModelState::Loading => Some(format!(
                "the model is being loaded, {} %",
                self.loaded_percent()
            )),
            ModelState::Queued => {
                Some("waiting for memory, or for another model that is being loaded".to_owned())
            }
            other => Some(format!("the model is {}", other.as_str())),
        }
    }

    /// How much of its file has been read while it is being loaded, in percent.
    #[must_use]
    pub fn loaded_percent(&self) -> u8 {
        self.version().map_or(0, |version| version.watch.percent())
    }

    /// Whether this is its version.
    pub(super) fn has(&self, version: &ModelVersion) -> bool {
        let own = self.version();
        own.is_some_and(|own| std::ptr::eq(&raw const *own, version))
    }

    /// Whether the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.context.is_stopping()
    }

    /// Tells of every change of any model's state.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.context.changes()
    }

    /// Whether it has an adapter of this name, or is going to have it once it is loaded.
    #[must_use]
    pub fn has_adapter(&self, name: &str) -> bool {
        match self.serving() {
            Some(LoadedModel::Generation(loaded)) => {
                loaded.adapter(name).is_some() || loaded.adapter_failure(name).is_some()
            }
            Some(LoadedModel::Embedding(_)) => false,
            None => self.configured_adapter(name).is_some(),
        }
    }

    /// Returns the file of the adapter that the configuration calls so.
    #[must_use]
    pub fn configured_adapter(&self, name: &str) -> Option<&Path> {
        let mut adapters = self.spec.adapters.iter();
        let (_, path) = adapters.find(|(own, _)| own == name)?;
        Some(path)
    }

    /// Returns the names of the adapters that can be asked for.
    #[must_use]
    pub fn adapters(&self) -> Vec<String> {
        match self.serving() {
            Some(LoadedModel::Generation(loaded)) => {
                let adapters = loaded.adapters().into_iter();
                adapters.map(|adapter| adapter.name).collect()
            }
            Some(LoadedModel::Embedding(_)) => Vec::new(),
            None => {
                let adapters = self.spec.adapters.iter();
                adapters.map(|(name, _)| name.clone()).collect()
            }
        }
    }

    /// Whether it could not be loaded when it was last tried, or has crashed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.state(), ModelState::Failed(_))
    }

    /// Returns the loaded model if it answers now.
    #[must_use]
    pub fn serving(&self) -> Option<LoadedModel> {
        match self.state() {
            ModelState::Ready(serving) => Some(serving),
            _ => None,
        }
    }

    /// Returns what the model is for; `None` while its file was not read, or where it has no use.
    #[must_use]
    pub fn purpose(&self) -> Option<Purpose> {
        match self.serving() {
            Some(LoadedModel::Generation(_)) => Some(Purpose::Generation),
            Some(LoadedModel::Embedding(_)) => Some(Purpose::Embedding),
            None => self.purpose.get().copied().flatten(),
        }
    }

    /// Whether it is an embedding model, as its file says; false while that was not read.
    #[must_use]
    pub fn embeds(&self) -> bool {
        self.purpose() == Some(Purpose::Embedding)
    }

    /// Reads once what the model is for.
    pub(super) fn learn_purpose(&self) {
        let read = || read_header(&self.spec.path).ok()?.purpose();
        self.purpose.get_or_init(read);
    }

    /// Returns what it takes of memory, or is going to take; nothing while it is cold.
    #[must_use]
    pub fn memory(&self) -> ModelMemory {
        self.version()
            .map_or_else(ModelMemory::default, |version| version.memory())
    }

    /// Requests that can be inside at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.spec.capacity()
    }

    /// Whether a server without it is not ready: it is pinned, or it has not been loaded since it was to be.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.terms.is_pinned() || self.life().is_due
    }

    /// Whether it is to be loaded and has not been tried yet.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let is_failed = self.has_failed();
        self.life().is_due && self.serving().is_none() && !is_failed
    }

    /// Checks that its worker loop makes progress; `Err` says what is wrong.
    pub fn health(&self) -> Result<(), &'static str> {
        let life = self.life();
        match (&life.version, &life.failure) {
            (Some(version), _) => version.health(self.spec.stall_timeout),
            // One that is loaded when somebody asks for it is no matter of health until then.
            (None, Some(failure))
                if matches!(failure.cause, FailureCause::Crashed) && life.is_due =>
            {
                Err("crashed")
            }
            (None, _) => Ok(()),
        }
    }

    /// Whether a client should send a request now.
    pub fn would_admit(&self) -> Result<(), AdmissionRefusal> {
        self.at_gate(Gate::would_admit)
    }

    /// Whether a request of a tenant would be admitted, as far as can be told before it is read.
    pub fn has_room(&self, tenant: Tenant) -> Result<(), AdmissionRefusal> {
        self.at_gate(|gate| gate.has_room(tenant))
    }

    fn at_gate<T>(&self, ask: impl FnOnce(&Gate) -> T) -> T {
        match self.version() {
            Some(version) => ask(&version.gate),
            // A new one would be like this.
            None => ask(&self.context.gate(self.capacity())),
        }
    }

    /// Returns the version that a request is for; one that is wanted from now on where there is none.
    ///
    /// # Errors
    /// Why it could not be loaded a short time ago; that the server stops.
    pub(super) fn version_or_want(&self) -> Result<Arc<ModelVersion>, EnterError> {
        let mut life = self.life();
        if let Some(version) = &life.version {
            return Ok(Arc::clone(version));
        }
        // Looked at under the lock: whoever stops the pool ends the versions that there are by then.
        if self.context.is_stopping() {
            return Err(AdmissionRefusal::draining().into());
        }
        if life.is_removed {
            return Err(EnterError::Removed);
        }
        if let Some(failure) = &life.failure
            && Instant::now() < failure.retry_at
            && failure.file == FileStamp::of(&self.spec.path)
        {
            return Err(EnterError::Failed(failure.clone()));
        }
        Ok(self.want(&mut life))
    }

    fn want(&self, life: &mut Life) -> Arc<ModelVersion> {
        let version = Arc::new(self.context.version(self.capacity()));
        life.version = Some(Arc::clone(&version));
        self.context.wake();
        version
    }

    /// Wants it if it is to be loaded though nobody asks.
    pub(super) fn want_if_due(&self, now: Instant) {
        let mut life = self.life();
        let may_try = (life.failure.as_ref()).is_none_or(|failure| now >= failure.retry_at);
        if life.is_due && life.version.is_none() && may_try {
            self.want(&mut life);
        }
    }

    /// Makes it wanted whatever happened before, as an administrator asks. While the server stops, that is not
    /// looked after any more.
    pub(super) fn want_now(&self) -> Arc<ModelVersion> {
        let mut life = self.life();
        life.is_displaced = false;
        let version = match &life.version {
            Some(version) => Arc::clone(version),
            None => self.want(&mut life),
        };
        // One that answers is there; one that leaves is to come back.
        life.is_due |= !matches!(version.state(), VersionState::Ready(_));
        version
    }

    /// It leaves for a smaller sibling, which answers until there is room for it again. Then it is loaded as at the
    /// start.
    pub(super) fn is_displaced_now(&self) {
        let mut life = self.life();
        life.is_displaced = true;
        life.is_due = self.terms.is_preloaded();
    }

    /// Nobody finds it any more; returns false where it is wanted or loaded, and stays.
    pub(super) fn remove(&self) -> bool {
        let mut life = self.life();
        life.is_removed = life.version.is_none();
        life.is_removed
    }

    /// There is room for it again.
    pub(super) fn may_come_back(&self) {
        self.life().is_displaced = false;
    }

    /// Whether it has left for a smaller sibling, and memory is too short for it to come back.
    #[must_use]
    pub fn is_displaced(&self) -> bool {
        self.life().is_displaced
    }

    /// The first of its siblings, or of theirs, that can be loaded and has none itself, so that it does not have to
    /// make way as well.
    #[must_use]
    pub fn sibling<'a>(&self, entries: &'a [Arc<Self>]) -> Option<&'a Arc<Self>> {
        let mut seen = BTreeSet::from([self.id.as_str()]);
        let mut next: VecDeque<&str> = self.terms.siblings.iter().map(String::as_str).collect();
        while let Some(id) = next.pop_front() {
            let found = entries.iter().find(|entry| entry.id == id);
            let Some(sibling) = found.filter(|_| !seen.contains(id)) else {
                continue;
            };
            if sibling.terms.siblings.is_empty() && !sibling.has_failed() {
                return Some(sibling);
            }
            seen.insert(&sibling.id);
            next.extend(sibling.terms.siblings.iter().map(String::as_str));
        }
        None
    }

    /// It need not be loaded though nobody asks.
    pub(super) fn is_not_due(&self) {
        self.life().is_due = false;
    }

    /// Whether it is to be loaded though nobody asks.
    pub(super) fn is_due(&self) -> bool {
        self.life().is_due
    }

    /// It answers.
    pub(super) fn has_loaded(&self) {
        let mut life = self.life();
        life.failure = None;
        life.is_displaced = false;
        // A pinned one would come back.
        life.is_due = self.terms.is_pinned();
    }

    /// Notes how its version ended; returns the failure if it was one.
    pub(super) fn has_ended(&self, end: VersionEnd, file: FileStamp) -> Option<LoadFailure> {
        let cause = match end {
            VersionEnd::Unloaded => None,
            VersionEnd::TooLarge(shortage) => Some(FailureCause::TooLarge(shortage)),
            VersionEnd::Unloadable(error) => Some(FailureCause::Unloadable(error.to_string())),
            VersionEnd::Crashed => Some(FailureCause::Crashed),
        };
        let mut life = self.life();
        life.version = None;
        let cause = cause?;
        // What was to be there from the start is tried again though nobody asks.
        life.is_due |= self.terms.is_preloaded();
        let attempts = life.failure.as_ref().map_or(0, |before| before.attempts) + 1;
        let failure = LoadFailure {
            cause,
            retry_at: Instant::now() + retry_after(attempts),
            attempts,
            file,
        };
        life.failure = Some(failure.clone());
        Some(failure)
    }
}
