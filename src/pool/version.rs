//! One load of a model: from being wanted to being gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::admission::Gate;
use crate::engine::{LoadError, LoadWatch};
use crate::sync::Mutex;
use crate::worker::Heartbeat;

use super::decision::MemoryShortage;
use super::{LoadedModel, ModelMemory};

/// How far a version has come. The states follow each other in this order; some are left out.
#[derive(Debug, Clone)]
pub enum VersionState {
    /// It is wanted, and waits for memory or for another model that is being loaded.
    Queued,
    /// Its file is being read.
    Loading,
    /// It answers.
    Ready(LoadedModel),
    /// It finishes what is inside, and takes nothing new.
    Draining(LoadedModel),
    /// Its thread ends.
    Unloading,
    /// It is gone.
    Ended(VersionEnd),
}

/// How a version ended.
#[derive(Debug, Clone)]
pub enum VersionEnd {
    /// It was unloaded, or not wanted any more.
    Unloaded,
    /// There is not enough memory for it.
    TooLarge(MemoryShortage),
    /// Its file cannot be loaded.
    Unloadable(Arc<LoadError>),
    /// Its thread died of a defect.
    Crashed,
}

impl VersionState {
    fn rank(&self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Loading => 1,
            Self::Ready(_) => 2,
            Self::Draining(_) => 3,
            Self::Unloading => 4,
            Self::Ended(_) => 5,
        }
    }
}

/// A model from one load to its end, with a gate of its own: whoever is inside is served by this version.
#[derive(Debug)]
pub struct ModelVersion {
    /// Admits requests to it, also while it is queued and loading: they wait inside.
    pub(super) gate: Gate,
    pub(super) wanted_since: Instant,
    pub(super) heartbeat: Heartbeat,
    /// How far loading has come; makes its thread give up what it does.
    pub(super) watch: LoadWatch,
    /// What it takes of memory, or is going to take.
    memory: Mutex<ModelMemory>,
    state: watch::Sender<VersionState>,
}

impl ModelVersion {
    pub(super) fn new(gate: Gate) -> Self {
        Self {
            gate,
            wanted_since: Instant::now(),
            heartbeat: Heartbeat::default(),
            watch: LoadWatch::default(),
            memory: Mutex::default(),
            state: watch::Sender::new(VersionState::Queued),
        }
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> VersionState {
        self.state.borrow().clone()
    }

    /// Goes on to `next`, unless the version has come further. Returns whether it did.
    pub(super) fn advance(&self, next: VersionState) -> bool {
        self.state.send_if_modified(|state| {
            let is_later = next.rank() > state.rank();
            if is_later {
                *state = next;
            }
            is_later
        })
    }

    /// Lets nobody in any more, and its thread end when those inside are done.
    pub(super) fn drain(&self) {
        self.gate.close();
        self.state.send_if_modified(|state| match state {
            VersionState::Ready(serving) => {
                *state = VersionState::Draining(serving.clone());
                true
            }
            _ => false,
        });
    }

    /// Lets its thread end: nobody is inside, or nobody is to be waited for. Requests that still run end
    /// with an error if `abort` says so.
    pub(super) fn end(&self, abort: bool) {
        self.gate.close();
        if abort {
            self.watch.give_up();
        }
        self.state.send_if_modified(|state| {
            match state {
                // It has no thread.
                VersionState::Queued => *state = VersionState::Ended(VersionEnd::Unloaded),
                VersionState::Loading => {
                    // Nobody waits for it any more.
                    self.watch.give_up();
                    *state = VersionState::Unloading;
                }
                VersionState::Ready(serving) | VersionState::Draining(serving) => {
                    serving.close();
                    *state = VersionState::Unloading;
                }
                VersionState::Unloading | VersionState::Ended(_) => return false,
            }
            true
        });
    }

    /// Waits for a state that `wanted` accepts, or for the end, and returns what was reached.
    pub async fn reaches(&self, wanted: impl Fn(&VersionState) -> bool) -> VersionState {
        let mut state = self.state.subscribe();
        let reached = state
            .wait_for(|state| wanted(state) || matches!(state, VersionState::Ended(_)))
            .await;
        match reached {
            Ok(reached) => reached.clone(),
            // The version itself holds the sender.
            Err(_) => VersionState::Ended(VersionEnd::Unloaded),
        }
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// How it ended instead.
    pub(super) async fn serving(&self) -> Result<LoadedModel, VersionEnd> {
        let is_decided =
            |state: &VersionState| !matches!(state, VersionState::Queued | VersionState::Loading);
        match self.reaches(is_decided).await {
            VersionState::Ready(serving) | VersionState::Draining(serving) => Ok(serving),
            VersionState::Ended(end) => Err(end),
            VersionState::Queued | VersionState::Loading | VersionState::Unloading => {
                Err(VersionEnd::Unloaded)
            }
        }
    }

    /// Returns what it takes of memory, or is going to take.
    #[must_use]
    pub fn memory(&self) -> ModelMemory {
        *self.memory.lock()
    }

    /// It takes so much more, or less if `is_more` is false.
    pub(super) fn change_memory(&self, by: ModelMemory, is_more: bool) {
        let mut memory = self.memory.lock();
        let changed = |now: u64, by: u64| {
            if is_more {
                now + by
            } else {
                now.saturating_sub(by)
            }
        };
        *memory = ModelMemory {
            weights: changed(memory.weights, by.weights),
            kv_cache: changed(memory.kv_cache, by.kv_cache),
            compute: changed(memory.compute, by.compute),
        };
    }

    pub(super) fn set_memory(&self, memory: ModelMemory) {
        *self.memory.lock() = memory;
    }

    /// Checks that its worker loop makes progress; `Err` says what is wrong.
    pub(super) fn health(&self, stall_timeout: Duration) -> Result<(), &'static str> {
        match self.heartbeat.busy_for() {
            Some(busy) if busy > stall_timeout => Err("stuck"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::admission::Drain;
    use crate::governor::GovernorHandle;
    use crate::worker::{self, WorkError, Worker};

    /// Its step takes as long as the test wants, and then it rests for longer than any step may take.
    struct HangingWorker {
        released: Receiver<()>,
        pending: bool,
    }

    const STALL_TIMEOUT: Duration = Duration::from_millis(200);

    impl Worker for HangingWorker {
        type Request = ();

        fn accept(&mut self, (): ()) {
            self.pending = true;
        }

        fn has_work(&self) -> bool {
            self.pending
        }

        fn run_step(&mut self, _clock: &dyn Fn() -> Instant) {
            self.released.recv().expect("released");
            self.pending = false;
        }

        fn rest_after(&self, _worked: Duration) -> Duration {
            2 * STALL_TIMEOUT
        }

        fn abort_all(&mut self, _error: WorkError) {}
    }

    fn eventually(version: &ModelVersion, health: Result<(), &str>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while version.health(STALL_TIMEOUT) != health {
            assert!(Instant::now() < deadline, "never {health:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_model_is_stuck_while_its_step_hangs_and_not_while_it_rests() {
        let gate = Gate::new(1, Drain::default(), GovernorHandle::default());
        let version = ModelVersion::new(gate);
        let (release, released) = sync_channel(1);
        let (requests, queue) = sync_channel(1);
        let heartbeat = version.heartbeat.clone();
        let thread = std::thread::spawn(move || {
            let worker = HangingWorker {
                released,
                pending: false,
            };
            worker::run(worker, &queue, &heartbeat, &|| false);
        });
        assert_eq!(version.health(STALL_TIMEOUT), Ok(()));
        requests.send(()).expect("it runs");
        eventually(&version, Err("stuck"));
        release.send(()).expect("it hangs");
        eventually(&version, Ok(()));
        drop(requests);
        while !thread.is_finished() {
            assert_eq!(version.health(STALL_TIMEOUT), Ok(()), "it only rests");
            std::thread::yield_now();
        }
        thread.join().expect("no panic");
    }
}
