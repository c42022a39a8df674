//! The LoRA adapters of a model that generates, by name.
//!
//! A file is opened and checked on the thread of whoever adds it; the model's own thread loads it
//! between two steps, and frees it ([`SchedulerRequest::Change`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, oneshot};

use crate::engine::{AdapterBase, AdapterError, AdapterFile, AdapterId, LlamaEngine};
use crate::scheduler::{AdapterChange, Scheduler, SchedulerRequest};
use crate::sync::RwLock;

use super::GenerationModel;

/// Adapters of one model: llama.cpp's plans for every context count the matrices of all of them.
const MOST_ADAPTERS: usize = 64;
/// Changes that can be on their way to the model's thread at once.
pub(super) const MOST_CHANGES: usize = 16;

/// Why an adapter could not be added or removed. Every message names a remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdapterChangeError {
    /// There is one of this name.
    #[error(
        "an adapter of the name `{0}` is loaded already; remove it first, or choose another name"
    )]
    NameTaken(String),
    /// There are as many as there can be.
    #[error(
        "{MOST_ADAPTERS} adapters are loaded for this model, which is the most; remove one first"
    )]
    TooMany,
    /// There is no memory for it.
    #[error(
        "it needs about {needed} MiB of memory and a bank of the KV cache, and {free} MiB are free (pool.memory_budget): unload a model, or lower models.context"
    )]
    NoRoom {
        /// MiB that it takes.
        needed: u64,
        /// MiB that are left.
        free: u64,
    },
    /// Its file is of no use.
    #[error(transparent)]
    Unloadable(Arc<AdapterError>),
    /// The model's thread takes no changes.
    #[error("the model is being unloaded, or many adapters are being changed; try again later")]
    Busy,
}

/// An adapter that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedAdapter {
    /// The name by which it is asked for.
    pub name: String,
    /// Bytes of its matrices. Its KV cache takes more as it is used.
    pub bytes: u64,
}

#[derive(Debug, Clone)]
enum AdapterState {
    Loaded { id: AdapterId, bytes: u64 },
    Failed(Arc<AdapterError>),
}

/// Which adapters a model has.
#[derive(Debug)]
pub(super) struct Adapters {
    base: Arc<AdapterBase>,
    by_name: RwLock<BTreeMap<String, AdapterState>>,
    /// Held while one is added, so that names stay apart.
    adding: Mutex<()>,
    next: AtomicU32,
}

impl Adapters {
    /// Loads those that the configuration names. One that cannot be loaded is left out with a warning,
    /// and the reason is kept.
    pub(super) fn load(
        model: &str,
        configured: &[(String, PathBuf)],
        base: &Arc<AdapterBase>,
        scheduler: &mut Scheduler<LlamaEngine<'_>>,
    ) -> Self {
        let adapters = Self {
            base: Arc::clone(base),
            by_name: RwLock::default(),
            adding: Mutex::default(),
            next: AtomicU32::default(),
        };
        for (name, path) in configured {
            let id = adapters.new_id();
            let loaded = AdapterFile::open(path, base).and_then(|file| {
                let bytes = file.bytes();
                scheduler.add_adapter(id, file).map(|()| bytes)
            });
            let state = match loaded {
                Ok(bytes) => {
                    tracing::info!(model, adapter = name, bytes, "adapter loaded");
                    AdapterState::Loaded { id, bytes }
                }
                Err(error) => {
                    tracing::warn!(model, adapter = name, %error, "served without this adapter");
                    AdapterState::Failed(Arc::new(error))
                }
            };
            adapters.set(name, state);
        }
        adapters
    }

    fn new_id(&self) -> AdapterId {
        AdapterId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn state(&self, name: &str) -> Option<AdapterState> {
        let by_name = self.by_name.read();
        by_name.get(name).cloned()
    }

    fn set(&self, name: &str, state: AdapterState) {
        let mut by_name = self.by_name.write();
        by_name.insert(name.to_owned(), state);
    }

    fn take(&self, name: &str) -> Option<AdapterState> {
        let mut by_name = self.by_name.write();
        by_name.remove(name)
    }

    fn loaded(&self) -> Vec<LoadedAdapter> {
        let by_name = self.by_name.read();
        let loaded = |(name, state): (&String, &AdapterState)| match state {
            AdapterState::Loaded { bytes, .. } => Some(LoadedAdapter {
                name: name.clone(),
                bytes: *bytes,
            }),
            AdapterState::Failed(_) => None,
        };
        by_name.iter().filter_map(loaded).collect()
    }
}

impl GenerationModel {
    /// Returns the adapters that can be asked for, in the order of their names.
    #[must_use]
    pub fn adapters(&self) -> Vec<LoadedAdapter> {
        self.adapters.loaded()
    }

    /// Returns what a job is to name so that it is computed with the adapter of this name.
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<AdapterId> {
        match self.adapters.state(name)? {
            AdapterState::Loaded { id, .. } => Some(id),
            AdapterState::Failed(_) => None,
        }
    }

    /// Returns why an adapter that the configuration names is not there.
    #[must_use]
    pub fn adapter_failure(&self, name: &str) -> Option<Arc<AdapterError>> {
        match self.adapters.state(name)? {
            AdapterState::Failed(error) => Some(error),
            AdapterState::Loaded { .. } => None,
        }
    }

    /// Loads an adapter while the model goes on serving: it pauses for the time of loading. Where this is
    /// no longer waited for, the adapter is not there in the end.
    ///
    /// # Errors
    /// See [`AdapterChangeError`].
    pub async fn add_adapter(
        &self,
        name: &str,
        path: &Path,
    ) -> Result<AdapterId, AdapterChangeError> {
        let adapters = &self.adapters;
        let _alone = adapters.adding.lock().await;
        if self.adapter(name).is_some() {
            return Err(AdapterChangeError::NameTaken(name.to_owned()));
        }
        if adapters.loaded().len() >= MOST_ADAPTERS {
            return Err(AdapterChangeError::TooMany);
        }
        let unloadable = |error| AdapterChangeError::Unloadable(Arc::new(error));
        let (path, base) = (path.to_owned(), Arc::clone(&adapters.base));
        let opening = tokio::task::spawn_blocking(move || AdapterFile::open(&path, &base));
        // It does not panic; a runtime that ends gives up on it.
        let file = opening.await.map_err(|_| AdapterChangeError::Busy)?;
        let file = file.map_err(unloadable)?;
        let (id, bytes) = (adapters.new_id(), file.bytes());
        let (done, added) = oneshot::channel();
        self.change(AdapterChange::Add { id, file, done })?;
        let added = added.await.map_err(|_| AdapterChangeError::Busy)?;
        added.map_err(unloadable)?;
        adapters.set(name, AdapterState::Loaded { id, bytes });
        tracing::info!(adapter = name, bytes, "adapter loaded");
        Ok(id)
    }

    /// Removes an adapter: it cannot be asked for any more, requests that wait for it are refused, and
    /// when those that have begun have ended its memory is given back. Waits for that; it happens as well
    /// where nobody waits. Returns whether there was one of this name.
    ///
    /// # Errors
    /// [`AdapterChangeError::Busy`]; then it is there as before.
    pub async fn remove_adapter(&self, name: &str) -> Result<bool, AdapterChangeError> {
        let Some(state) = self.adapters.take(name) else {
            return Ok(false);
        };
        let AdapterState::Loaded { id, .. } = state else {
            return Ok(true);
        };
        let (done, removed) = oneshot::channel();
        if let Err(error) = self.change(AdapterChange::Remove { id, done }) {
            self.adapters.set(name, state);
            return Err(error);
        }
        // A thread that ends frees all its adapters, and tells nobody.
        let _ = removed.await;
        tracing::info!(adapter = name, "adapter removed");
        Ok(true)
    }

    fn change(&self, change: AdapterChange<AdapterFile>) -> Result<(), AdapterChangeError> {
        let sent = self.jobs.submit(SchedulerRequest::Change(change));
        sent.map_err(|_| AdapterChangeError::Busy)
    }
}

#[cfg(test)]
mod tests;
