//! What the pool's callers and its manager share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::unix_seconds;
use crate::headroom::Resource;
use crate::sync::RwLock;
use crate::worker::Heartbeat;

use super::context::PoolContext;
use super::decision::UnloadReason;
use super::entry::{ModelEntry, ModelState};
use super::estimate::MemoryEstimates;
use super::failure::FileStamp;
use super::folder::ModelsFolder;
use super::names::{Names, meaning};
use super::version::{ModelVersion, VersionState};
use super::{
    LoadedModel, MemoryKind, MemoryLedger, ModelMemory, ModelSpec, ModelTerms, NamedModel,
    PoolOptions,
};

pub(super) struct PoolShared {
    pub(super) context: Arc<PoolContext>,
    pub(super) budget: Option<u64>,
    entries: RwLock<Arc<[Arc<ModelEntry>]>>,
    folder: Option<ModelsFolder>,
    available: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    ledger: MemoryLedger,
    estimates: Arc<MemoryEstimates>,
    /// Of the thread that loads and unloads.
    pub(super) heartbeat: Heartbeat,
}

impl std::fmt::Debug for PoolShared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PoolShared")
            .field("budget", &self.budget)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl PoolShared {
    pub(super) fn new(
        options: PoolOptions,
        estimates: Arc<MemoryEstimates>,
        context: Arc<PoolContext>,
    ) -> Self {
        let created = unix_seconds();
        let entries = options.models.into_iter().map(|(spec, terms)| {
            Arc::new(ModelEntry::new(spec, terms, created, Arc::clone(&context)))
        });
        let shared = Self {
            budget: options.budget,
            entries: RwLock::new(entries.collect()),
            folder: options
                .folder
                .map(|(path, make)| ModelsFolder::new(path, make)),
            available: options.available,
            ledger: options.ledger,
            estimates,
            context,
            heartbeat: Heartbeat::default(),
        };
        shared.look_into_folder();
        shared.show();
        shared
    }

    pub(super) fn entries(&self) -> Arc<[Arc<ModelEntry>]> {
        let entries = self.entries.read();
        Arc::clone(&entries)
    }

    /// Finds the model that a name means.
    pub(super) fn named(&self, name: &str) -> Option<NamedModel> {
        let entries = self.entries();
        let has_adapter: Vec<_> = (entries.iter())
            .map(|entry| move |name: &str| entry.has_adapter(name))
            .collect();
        let names: Vec<_> = (entries.iter().zip(&has_adapter))
            .map(|(entry, has_adapter)| Names {
                id: &entry.id,
                terms: &entry.terms,
                has_adapter,
            })
            .collect();
        let meaning = meaning(name, &names)?;
        Some(NamedModel {
            entry: Arc::clone(&entries[meaning.place]),
            adapter: meaning.adapter,
            is_default: meaning.is_default,
        })
    }

    /// Adds the models that were put into the folder, and forgets cold ones whose files are gone. Returns
    /// whether there is a change; it does not look more than once a second.
    pub(super) fn look_into_folder(&self) -> bool {
        let Some(found) = self.folder.as_ref().and_then(ModelsFolder::look) else {
            return false;
        };
        let mut entries = self.entries.write();
        let before = Arc::clone(&entries);
        let is_found = |entry: &ModelEntry| found.iter().any(|spec| spec.path == entry.spec.path);
        let stays = |entry: &&Arc<ModelEntry>| {
            !entry.terms.is_from_folder || is_found(entry) || !entry.remove()
        };
        let mut after: Vec<_> = before.iter().filter(stays).cloned().collect();
        let is_known = |entries: &[Arc<ModelEntry>], spec: &ModelSpec| {
            (entries.iter()).any(|entry| entry.id == spec.id || entry.spec.path == spec.path)
        };
        for spec in &found {
            if !is_known(&after, spec) {
                tracing::info!(model = spec.id, file = %spec.path.display(), "found in pool.models_dir");
                let terms = ModelTerms {
                    is_from_folder: true,
                    ..ModelTerms::default()
                };
                let context = Arc::clone(&self.context);
                let entry = ModelEntry::new(spec.clone(), terms, unix_seconds(), context);
                after.push(Arc::new(entry));
            }
        }
        let has_changed = after.len() != before.len()
            || !after
                .iter()
                .zip(before.iter())
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if has_changed {
            *entries = after.into();
            for gone in before
                .iter()
                .filter(|entry| !is_known(&entries, &entry.spec))
            {
                tracing::info!(model = gone.id, "its file is gone from pool.models_dir");
                (self.context.metrics.pool()).forget(&gone.id, &ModelState::WORDS);
            }
        }
        has_changed
    }

    pub(super) fn models_dir(&self) -> Option<&Path> {
        self.folder.as_ref().map(ModelsFolder::path)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.context.is_stopping()
    }

    /// Ends everything: what still runs gets an error.
    pub(super) fn stop(&self) {
        self.context.stop();
        self.end_all();
        self.context.wake();
    }

    pub(super) fn end_all(&self) {
        for entry in self.entries().iter() {
            if let Some(version) = entry.version() {
                version.end(true);
            }
        }
    }

    /// Bytes that a model takes, or is going to take.
    pub(super) fn expected_memory(&self, entry: &ModelEntry) -> ModelMemory {
        match entry.version() {
            None => ModelMemory::default(),
            Some(version) => match version.state() {
                VersionState::Queued => {
                    if version.memory().total() == 0 {
                        version.set_memory(self.estimates.expected(&entry.spec));
                    }
                    version.memory()
                }
                _ => version.memory(),
            },
        }
    }

    /// Bytes that a model would take that is not loaded.
    pub(super) fn estimated_bytes(&self, entry: &ModelEntry) -> u64 {
        self.estimates.expected(&entry.spec).total()
    }

    /// Bytes that are taken for these kinds of things, beside what belongs to a model.
    pub(super) fn held_by(&self, counts: impl Fn(MemoryKind) -> bool) -> u64 {
        let held = self.ledger.read().into_iter();
        let counted = held.filter(|(kind, _)| counts(*kind));
        counted.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of parked prompts and of grammars that a model keeps.
    pub(super) fn kept_by(&self, entry: &ModelEntry) -> u64 {
        self.kept(entry).iter().map(|(_, bytes)| bytes).sum()
    }

    fn kept(&self, entry: &ModelEntry) -> Vec<(MemoryKind, u64)> {
        let Some(LoadedModel::Generation(loaded)) = entry.serving() else {
            return Vec::new();
        };
        let parked = self.context.metrics.parked_bytes(&entry.id);
        let grammars = loaded.grammars.held_bytes() as u64;
        vec![
            (MemoryKind::ParkedPrompts, parked),
            (MemoryKind::Grammars, grammars),
        ]
    }

    /// Tells those who keep what could be done without how much is left for them.
    pub(super) fn tell_room(&self) {
        let Some(budget) = self.budget else {
            return;
        };
        let taken: u64 = self.memory().iter().map(|(_, bytes)| bytes).sum();
        self.context.room.set(budget.saturating_sub(taken));
    }

    /// Bytes that the system could still give.
    pub(super) fn available(&self) -> Option<u64> {
        (self.available)()
    }

    /// Bytes of each kind that are taken now.
    pub(super) fn memory(&self) -> Vec<(MemoryKind, u64)> {
        let mut taken: Vec<_> = MemoryKind::ALL.map(|kind| (kind, 0)).to_vec();
        let mut add = |kind, bytes| {
            for (_, sum) in taken.iter_mut().filter(|(known, _)| *known == kind) {
                *sum += bytes;
            }
        };
        for (kind, bytes) in self.ledger.read() {
            add(kind, bytes);
        }
        for entry in self.entries().iter() {
            if matches!(entry.state(), ModelState::Queued) {
                // Nothing is promised to it yet.
                continue;
            }
            let memory = entry.memory();
            add(MemoryKind::Weights, memory.weights);
            add(MemoryKind::KvCache, memory.kv_cache);
            add(MemoryKind::Compute, memory.compute);
            for (kind, bytes) in self.kept(entry) {
                add(kind, bytes);
            }
        }
        taken
    }

    /// What is so short that smaller siblings answer in the place of larger models.
    pub(super) fn siblings_answer(&self) -> Option<Resource> {
        self.context.governed.measures().sibling
    }

    /// Whether larger models are to leave for their siblings.
    pub(super) fn gives_way(&self) -> bool {
        self.siblings_answer() == Some(Resource::Memory)
    }

    /// A model answers.
    pub(super) fn has_loaded(&self, entry: &ModelEntry, version: &ModelVersion, took: Duration) {
        entry.has_loaded();
        if let VersionState::Ready(serving) = version.state() {
            let info = serving.tokenizer().info();
            self.estimates
                .learn(&entry.spec, &info.digest, version.memory());
        }
        self.context.metrics.pool().loaded(&entry.id, took);
        self.show();
    }

    /// A model is told to leave.
    pub(super) fn leaves(&self, entry: &ModelEntry, reason: UnloadReason) {
        tracing::info!(model = entry.id, reason = reason.as_str(), "unloading");
        self.context.metrics.pool().evicted(reason.as_str());
    }

    /// A version of a model is gone.
    pub(super) fn has_ended(&self, entry: &ModelEntry, version: &ModelVersion, file: FileStamp) {
        let VersionState::Ended(end) = version.state() else {
            return;
        };
        match entry.has_ended(end, file) {
            None => tracing::info!(model = entry.id, "unloaded"),
            Some(failure) => {
                self.context.metrics.pool().failed(&entry.id);
                let again = failure.retry_at.saturating_duration_since(Instant::now());
                tracing::error!(
                    model = entry.id,
                    again_in_seconds = again.as_secs(),
                    "cannot be served: {}",
                    failure.cause
                );
            }
        }
        self.show();
    }

    /// Shows in the metrics how everything is, and tells those who watch.
    pub(super) fn show(&self) {
        let metrics = self.context.metrics.pool();
        for entry in self.entries().iter() {
            metrics.state(&entry.id, &ModelState::WORDS, entry.state().as_str());
        }
        for (kind, bytes) in self.memory() {
            metrics.memory(kind.as_str(), bytes);
        }
        if let Some(budget) = self.budget {
            metrics.budget(budget);
        }
        self.context.changed();
    }
}
