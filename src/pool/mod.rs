//! Which models there are, and what state each is in.
//!
//! A [`ModelEntry`] is a model that can be asked. Each time it is loaded, that is a [`ModelVersion`] of it, with
//! a gate and an OS thread of its own. The thread loads the weights, makes contexts and runs the scheduler;
//! weights and contexts are its locals, so unloading a model is returning from the thread. What others hold
//! of it ([`GenerationModel`], [`EmbeddingModel`]) has no more than its vocabulary, metadata and grammars.
//!
//! | file | holds |
//! |---|---|
//! | `decision` | who loads and who leaves: a function of what there is and the time |
//! | `manager` | the thread that looks, has `decision` decide, and acts |
//! | `entry`, `version` | a model, and one load of it; their states |
//! | `terms`, `failure` | what the configuration says of a model's place; why it could not be loaded |
//! | `enter` | a request's way to a loaded model |
//! | `names` | which model a name means |
//! | `adapters` | a model's LoRA adapters, by name |
//! | `ledger`, `estimate` | who holds how much memory; how much a model is going to take |
//! | `folder` | the models of `pool.models_dir` |
//! | `model_thread`, `embedding_model` | what a model's thread does |

mod adapters;
mod context;
mod decision;
mod embedding_model;
mod enter;
mod entry;
mod estimate;
mod failure;
mod folder;
mod job_sender;
mod ledger;
mod loaded;
mod manager;
mod model_thread;
mod names;
mod shared;
mod spec;
mod terms;
mod version;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::admission::Drain;
use crate::engine::ModelTrial;
use crate::governor::GovernorHandle;
use crate::grammar::TrialCompiler;
use crate::headroom::Resource;
use crate::sync::Mutex;
use crate::telemetry::Metrics;

use context::PoolContext;
use estimate::MemoryEstimates;
use manager::Manager;
use shared::PoolShared;

pub use adapters::{AdapterChangeError, LoadedAdapter};
pub use decision::{MemoryShortage, UnloadReason};
pub use embedding_model::EmbeddingModel;
pub use enter::{EnterError, Entered, Visit};
pub use entry::{ModelEntry, ModelState};
pub use failure::{FailureCause, LoadFailure};
pub use folder::models_in;
pub use ledger::{MemoryKind, MemoryLedger, ModelMemory};
pub use loaded::{GenerationModel, LoadedModel};
pub use spec::{EstimateError, ModelSpec, SpecMaker, memory_budget};
pub use terms::{ModelTerms, Residence};
pub use version::{ModelVersion, VersionEnd, VersionState};

/// What a pool is made of.
pub struct PoolOptions {
    /// The models of the configuration, in its order.
    pub models: Vec<(ModelSpec, ModelTerms)>,
    /// A folder of further models, and what makes a specification of a file.
    pub folder: Option<(PathBuf, SpecMaker)>,
    /// Bytes that everything together may take; `None` where nobody knows.
    pub budget: Option<u64>,
    /// Says how many bytes the system could still give.
    pub available: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// Where what was learnt of models' memory is kept.
    pub state: Option<PathBuf>,
    /// Knows what else takes memory.
    pub ledger: MemoryLedger,
    /// The edgellm that tries files before they are loaded; `None` is the one that runs.
    pub trial_program: Option<PathBuf>,
}

impl PoolOptions {
    /// These models alone, and nothing known of memory.
    #[must_use]
    pub fn of(models: Vec<(ModelSpec, ModelTerms)>) -> Self {
        Self {
            models,
            folder: None,
            budget: None,
            available: Box::new(|| None),
            state: None,
            ledger: MemoryLedger::default(),
            trial_program: None,
        }
    }
}

/// The rooms that models work with.
#[derive(Debug, Clone)]
pub struct PoolNeighbours {
    /// Where is counted.
    pub metrics: Metrics,
    /// The shutdown of the server.
    pub drain: Drain,
    /// What is to be saved.
    pub governed: GovernorHandle,
    /// Compiles grammars on trial.
    pub trial_compiler: TrialCompiler,
}

/// All models.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<PoolShared>,
    manager: Mutex<Option<JoinHandle<()>>>,
}

impl Pool {
    /// Starts the thread that loads models, one after the other, beginning with those that are pinned.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(options: PoolOptions, neighbours: PoolNeighbours) -> std::io::Result<Self> {
        let (wake, calls) = sync_channel(1);
        let estimates = Arc::new(MemoryEstimates::open(options.state.clone()));
        let passed = Some(Arc::clone(&estimates) as _);
        let trial = match &options.trial_program {
            Some(program) => ModelTrial::of(program.clone(), passed),
            None => ModelTrial::of_this_program(passed)?,
        };
        let context = PoolContext::new(neighbours, trial, wake);
        let shared = Arc::new(PoolShared::new(options, estimates, Arc::new(context)));
        let manager = Manager {
            shared: Arc::clone(&shared),
            calls,
            threads: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new().name("pool".to_owned());
        let thread = thread.spawn(move || manager.run())?;
        Ok(Self {
            shared,
            manager: Mutex::new(Some(thread)),
        })
    }

    /// The models: those of the configuration in its order, then those of the folder by name.
    #[must_use]
    pub fn entries(&self) -> Arc<[Arc<ModelEntry>]> {
        self.shared.entries()
    }

    /// The model of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<ModelEntry>> {
        let entries = self.entries();
        entries.iter().find(|entry| entry.id == id).cloned()
    }

    /// The model that a name means, and how.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<NamedModel> {
        self.shared.named(name)
    }

    /// Returns the folder in which every file is a model.
    #[must_use]
    pub fn models_dir(&self) -> Option<&Path> {
        self.shared.models_dir()
    }

    /// Loads a model though nobody asks it anything, whatever happened before.
    pub fn load(&self, entry: &ModelEntry) -> Arc<ModelVersion> {
        entry.want_now()
    }

    /// Lets a model finish what it does and leave. It comes back when somebody asks for it.
    ///
    /// # Errors
    /// When it is pinned.
    pub fn unload(&self, entry: &ModelEntry) -> Result<Option<Arc<ModelVersion>>, PinnedModel> {
        if entry.terms.is_pinned() {
            return Err(PinnedModel);
        }
        entry.is_not_due();
        let version = entry.version();
        if let Some(version) = &version {
            if !version.gate.is_closed() {
                self.shared.leaves(entry, UnloadReason::Asked);
            }
            if version.gate.close_if_empty() {
                version.end(false);
            } else {
                version.drain();
            }
            self.shared.context.changed();
            self.shared.context.wake();
        }
        Ok(version)
    }

    /// Returns what is so short that smaller siblings answer in the place of larger models.
    #[must_use]
    pub fn siblings_answer(&self) -> Option<Resource> {
        self.shared.siblings_answer()
    }

    /// Adds an adapter to a loaded model while it serves, within the budget.
    ///
    /// # Errors
    /// See [`AdapterChangeError`].
    pub async fn add_adapter(
        &self,
        entry: &ModelEntry,
        loaded: &GenerationModel,
        name: &str,
        file: &Path,
    ) -> Result<(), AdapterChangeError> {
        let mut memory = entry.spec.bank_memory().unwrap_or_default();
        memory.weights = file.metadata().map_or(0, |file| file.len());
        let (held, budget) = self.memory();
        let held: u64 = held.iter().map(|(_, bytes)| bytes).sum();
        let free = budget.map_or(u64::MAX, |budget| budget.saturating_sub(held));
        if memory.total() > free {
            return Err(AdapterChangeError::NoRoom {
                needed: memory.total() >> 20,
                free: free >> 20,
            });
        }
        loaded.add_adapter(name, file).await?;
        if let Some(version) = entry.version() {
            version.change_memory(memory, true);
        }
        Ok(())
    }

    /// Removes an adapter from a loaded model, once the requests that have begun with it have ended. Returns whether
    /// there was one of this name.
    ///
    /// # Errors
    /// See [`AdapterChangeError`].
    pub async fn remove_adapter(
        &self,
        entry: &ModelEntry,
        loaded: &GenerationModel,
        name: &str,
    ) -> Result<bool, AdapterChangeError> {
        let adapters = loaded.adapters();
        let bytes = adapters.iter().find(|adapter| adapter.name == name);
        let mut memory = entry.spec.bank_memory().unwrap_or_default();
        memory.weights = bytes.map_or(0, |adapter| adapter.bytes);
        let is_removed = loaded.remove_adapter(name).await?;
        if is_removed && let Some(version) = entry.version() {
            version.change_memory(memory, false);
        }
        Ok(is_removed)
    }

    /// Tells of every change of a model's state.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.context.changes()
    }

    /// Returns the first of the failures if no model can be served any more; `None` while one can or may.
    #[must_use]
    pub fn failure_of_all(&self) -> Option<(String, FailureCause)> {
        let entries = self.entries();
        let failures: Vec<_> = (entries.iter())
            .map_while(|entry| match entry.state() {
                ModelState::Failed(failure) => Some((entry.id.clone(), failure.cause)),
                _ => None,
            })
            .collect();
        // A model that was not to be there from the start is no reason to end: clients would choose when.
        let are_all = failures.len() == entries.len()
            && entries.iter().all(|entry| entry.terms.is_preloaded());
        are_all.then(|| failures.into_iter().next()).flatten()
    }

    /// Returns another number whenever a load has got further.
    #[must_use]
    pub fn load_moves(&self) -> u64 {
        let loads = self.entries();
        let loads = loads.iter().filter_map(|entry| entry.version());
        loads.map(|version| version.watch.moves()).sum()
    }

    /// Returns the loops that are at a step now, each model's and the one that loads and unloads them, and for how long
    /// each has been.
    #[must_use]
    pub fn busy_loops(&self) -> Vec<BusyLoop> {
        let entries = self.entries();
        let models = entries.iter().filter_map(|entry| {
            let busy_for = entry.version()?.heartbeat.busy_for()?;
            let name = format!("the model {}", entry.id);
            Some(BusyLoop { name, busy_for })
        });
        let manager = self.shared.heartbeat.busy_for();
        let manager = manager.map(|busy_for| BusyLoop {
            name: "the loading of models".to_owned(),
            busy_for,
        });
        models.chain(manager).collect()
    }

    /// Returns the bytes of each kind that are taken, and the budget for all of them.
    #[must_use]
    pub fn memory(&self) -> (Vec<(MemoryKind, u64)>, Option<u64>) {
        (self.shared.memory(), self.shared.budget)
    }

    /// Ends all threads and waits for them. Requests that still run end with an error.
    pub fn stop(&self) {
        self.shared.stop();
        let manager = self.manager.lock().take();
        if let Some(manager) = manager {
            // A panic in it was reported when it happened.
            let _ = manager.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// A loop that is at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyLoop {
    /// Whose it is, in words.
    pub name: String,
    /// For how long.
    pub busy_for: Duration,
}

/// A pinned model does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model is pinned (models.pinned) and stays")]
pub struct PinnedModel;

/// The model that a name means.
#[derive(Debug, Clone)]
pub struct NamedModel {
    /// The model.
    pub entry: Arc<ModelEntry>,
    /// The adapter that is to be applied.
    pub adapter: Option<String>,
    /// Whether nobody has the name, and this model answers because it is the default one.
    pub is_default: bool,
}
