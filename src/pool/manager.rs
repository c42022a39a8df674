//! The thread that loads and unloads models: it looks, has `decision` decide, and acts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::MemoryKind;
use super::decision::{ModelView, Phase, PoolAction, PoolSnapshot, UnloadReason, decide};
use super::entry::{ModelEntry, ModelState};
use super::failure::FileStamp;
use super::model_thread::ModelThread;
use super::shared::PoolShared;
use super::version::{ModelVersion, VersionEnd, VersionState};

/// How often it looks though nobody has called.
const GLANCE: Duration = Duration::from_millis(500);
/// The same while somebody waits for a model that cannot be loaded yet.
const SHORT_GLANCE: Duration = Duration::from_millis(50);

/// A model that nobody has waited for since it was wanted is no longer wanted after this.
const UNWANTED: Duration = Duration::from_secs(1);

pub(super) struct Manager {
    pub(super) shared: Arc<PoolShared>,
    pub(super) calls: Receiver<()>,
    /// Threads of versions that have not ended, by the model's id.
    pub(super) threads: BTreeMap<String, RunningVersion>,
}

pub(super) struct RunningVersion {
    version: Arc<ModelVersion>,
    thread: JoinHandle<()>,
    /// The file as it was when the load began.
    file: FileStamp,
    began: Instant,
    is_announced: bool,
}

impl Manager {
    /// Runs until the pool stops and the last version has ended.
    pub(super) fn run(mut self) {
        loop {
            self.shared.heartbeat.beat();
            let is_stopping = self.shared.is_stopping();
            self.settle();
            if is_stopping {
                if self.threads.is_empty() {
                    self.shared.heartbeat.rest();
                    return;
                }
                // One may have been wanted in the moment in which the pool was stopped.
                self.shared.end_all();
            } else {
                self.look();
                // What was refused is over at once.
                self.settle();
            }
            let pause = if self.is_awaited() || is_stopping {
                SHORT_GLANCE
            } else {
                GLANCE
            };
            self.shared.heartbeat.rest();
            // The pool holds the sender for as long as this thread is waited for.
            let _ = self.calls.recv_timeout(pause);
        }
    }

    /// Whether somebody waits for a model that is not there.
    fn is_awaited(&self) -> bool {
        let entries = self.shared.entries();
        entries.iter().any(|entry| {
            matches!(
                entry.state(),
                ModelState::Queued | ModelState::Draining | ModelState::Unloading
            )
        })
    }

    /// Notes what has loaded and what has ended since the last look.
    fn settle(&mut self) {
        for entry in self.shared.entries().iter() {
            if let Some(running) = self.threads.get_mut(&entry.id) {
                if !running.is_announced
                    && matches!(running.version.state(), VersionState::Ready(_))
                {
                    running.is_announced = true;
                    running.version.gate.restart_idle_time();
                    let took = running.began.elapsed();
                    self.shared.has_loaded(entry, &running.version, took);
                    if running.version.gate.is_closed() {
                        // It was unloaded while it loaded, with requests inside.
                        running.version.drain();
                    }
                }
                if let VersionState::Draining(_) = running.version.state()
                    && running.version.gate.close_if_empty()
                {
                    running.version.end(false);
                }
                let has_ended = matches!(running.version.state(), VersionState::Ended(_));
                if !has_ended && !running.thread.is_finished() {
                    continue;
                }
                let Some(ended) = self.threads.remove(&entry.id) else {
                    continue;
                };
                // It has no more to do. A panic in it was reported when it happened.
                let _ = ended.thread.join();
                self.shared.has_ended(entry, &ended.version, ended.file);
            } else if let Some(version) = entry.version()
                && let VersionState::Ended(_) = version.state()
            {
                // It never had a thread.
                let file = FileStamp::of(&entry.spec.path);
                self.shared.has_ended(entry, &version, file);
            }
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.shared.look_into_folder();
        let entries = self.shared.entries();
        for entry in entries.iter() {
            entry.learn_purpose();
            if entry.is_displaced() && self.has_room_again(entry, &entries) {
                entry.may_come_back();
            }
            if !entry.is_displaced() {
                entry.want_if_due(now);
            }
        }
        self.shared.tell_room();
        let snapshot = self.snapshot(&entries, now);
        for action in decide(&snapshot) {
            self.act(action, &entries);
        }
        self.shared.show();
    }

    /// Whether memory is so short that a model makes way for a smaller sibling.
    fn gives_way(&self, entry: &ModelEntry, entries: &[Arc<ModelEntry>]) -> bool {
        self.shared.gives_way() && entry.sibling(entries).is_some()
    }

    /// Whether a model that has left for a sibling would not have to leave again at once: there is as much as it takes
    /// and a tenth of everything besides, once its siblings have left for it.
    fn has_room_again(&self, entry: &ModelEntry, entries: &[Arc<ModelEntry>]) -> bool {
        if self.gives_way(entry, entries) {
            return false;
        }
        let Some(available) = self.shared.available() else {
            return true;
        };
        let spare = self.shared.budget.unwrap_or(available) / 10;
        let siblings = entry.terms.siblings.iter();
        let siblings = siblings.filter_map(|id| entries.iter().find(|entry| entry.id == **id));
        let leaving = siblings.filter(|sibling| !sibling.terms.is_pinned());
        let leaving: u64 = leaving.map(|sibling| sibling.memory().total()).sum();
        available + leaving >= self.shared.estimated_bytes(entry) + spare
    }

    fn snapshot(&self, entries: &[Arc<ModelEntry>], now: Instant) -> PoolSnapshot {
        let models = entries.iter().map(|entry| ModelView {
            phase: phase(entry),
            bytes: self.shared.expected_memory(entry).total() + self.shared.kept_by(entry),
            is_pinned: entry.terms.is_pinned(),
            keep_alive: entry.terms.keep_alive,
            gives_way: self.gives_way(entry, entries),
        });
        PoolSnapshot {
            now,
            budget: self.shared.budget,
            fixed: self.shared.held_by(|kind| kind == MemoryKind::Program),
            others: self.shared.held_by(|kind| kind != MemoryKind::Program),
            available: self.shared.available(),
            models: models.collect(),
        }
    }

    fn act(&mut self, action: PoolAction, entries: &[Arc<ModelEntry>]) {
        match action {
            PoolAction::Load(place) => self.load(&entries[place]),
            PoolAction::Evict(place, reason) => {
                let entry = &entries[place];
                // Somebody may have come in since the look.
                if let Some(version) = entry.version()
                    && version.gate.close_if_empty()
                {
                    self.shared.leaves(entry, reason);
                    version.end(false);
                }
            }
            PoolAction::Drain(place, reason) => {
                let entry = &entries[place];
                if let Some(version) = entry.version() {
                    self.shared.leaves(entry, reason);
                    version.drain();
                    self.shared.context.changed();
                }
                if reason == UnloadReason::Sibling {
                    // The sibling is there when the larger one has left, and the larger one comes back.
                    if let Some(sibling) = entry.sibling(entries) {
                        sibling.want_now();
                    }
                    entry.is_displaced_now();
                }
            }
            PoolAction::Forget(place) => {
                if let Some(version) = entries[place].version()
                    && version.gate.close_if_empty()
                {
                    version.end(false);
                }
            }
            PoolAction::Refuse(place, shortage) => {
                if let Some(version) = entries[place].version() {
                    version.gate.close();
                    version.advance(VersionState::Ended(VersionEnd::TooLarge(shortage)));
                }
            }
        }
    }
}

impl Manager {
    fn load(&mut self, entry: &Arc<ModelEntry>) {
        let Some(version) = entry.version() else {
            return;
        };
        version.set_memory(self.shared.expected_memory(entry));
        if !version.advance(VersionState::Loading) {
            // It was unloaded since the look.
            return;
        }
        let file = FileStamp::of(&entry.spec.path);
        let began = Instant::now();
        let thread = ModelThread {
            spec: entry.spec.clone(),
            queue: version.gate.most_inside(),
            version: Arc::clone(&version),
            context: Arc::clone(&self.shared.context),
        };
        match thread.spawn() {
            Ok(thread) => {
                let running = RunningVersion {
                    version,
                    thread,
                    file,
                    began,
                    is_announced: false,
                };
                self.threads.insert(entry.id.clone(), running);
                self.shared.context.changed();
            }
            Err(error) => {
                tracing::error!(model = entry.id, %error, "the system gives no thread");
                version.gate.close();
                version.advance(VersionState::Ended(VersionEnd::Crashed));
            }
        }
    }
}

/// Where a model is on its way.
fn phase(entry: &ModelEntry) -> Phase {
    let Some(version) = entry.version() else {
        return Phase::Cold;
    };
    match version.state() {
        VersionState::Queued => Phase::Queued {
            since: version.wanted_since,
            // Whoever wanted it a moment ago may be about to come in.
            is_wanted: entry.is_due()
                || version.gate.empty_since().is_none()
                || version.wanted_since.elapsed() < UNWANTED,
        },
        VersionState::Loading => Phase::Loading,
        VersionState::Ready(_) => Phase::Ready {
            idle_since: version.gate.empty_since(),
        },
        VersionState::Draining(_) | VersionState::Unloading | VersionState::Ended(_) => {
            Phase::Leaving
        }
    }
}
