//! What every model of the pool needs of its surroundings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use tokio::sync::watch;

use crate::admission::{Drain, Gate, MemoryRoom};
use crate::engine::ModelTrial;
use crate::governor::GovernorHandle;
use crate::grammar::TrialCompiler;
use crate::telemetry::Metrics;

use super::PoolNeighbours;
use super::version::ModelVersion;

#[derive(Debug)]
pub(super) struct PoolContext {
    pub(super) metrics: Metrics,
    pub(super) governed: GovernorHandle,
    pub(super) trial_compiler: TrialCompiler,
    /// Tries files before they are loaded.
    pub(super) trial: ModelTrial,
    /// What is left of the budget, for what could be done without.
    pub(super) room: MemoryRoom,
    /// Nothing is loaded any more.
    is_stopping: AtomicBool,
    drain: Drain,
    /// Makes the manager look.
    wake: SyncSender<()>,
    /// Counts what has changed.
    changes: watch::Sender<u64>,
}

impl PoolContext {
    pub(super) fn new(neighbours: PoolNeighbours, trial: ModelTrial, wake: SyncSender<()>) -> Self {
        let PoolNeighbours {
            metrics,
            drain,
            governed,
            trial_compiler,
        } = neighbours;
        Self {
            metrics,
            governed,
            trial_compiler,
            trial,
            room: MemoryRoom::default(),
            is_stopping: AtomicBool::new(false),
            drain,
            wake,
            changes: watch::Sender::new(0),
        }
    }

    pub(super) fn gate(&self, capacity: usize) -> Gate {
        Gate::new(capacity, self.drain.clone(), self.governed.clone())
    }

    pub(super) fn version(&self, capacity: usize) -> ModelVersion {
        ModelVersion::new(self.gate(capacity))
    }

    /// Nothing is wanted from now on.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Has the manager look at once.
    pub(super) fn wake(&self) {
        // Full: it is going to look.
        let _ = self.wake.try_send(());
    }

    /// Tells those who watch that a model's state has changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
