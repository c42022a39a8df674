//! Which models there are and what state each is in.
//!
//! Every model has one OS thread that loads it, makes its context and runs its
//! scheduler. Weights and contexts are the thread's locals, so unloading a model
//! is returning from the thread. What others hold of it ([`GenerationModel`],
//! [`EmbeddingModel`]) has no more than its vocabulary, metadata and grammars.

mod adapters;
mod embedding_model;
mod job_sender;
mod model_thread;
mod spec;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::admission::{Drain, Gate};
use crate::clock::unix_seconds;
use crate::engine::{AdapterFile, LoadError, Tokenizer};
use crate::governor::GovernorHandle;
use crate::grammar::{Grammars, TrialCompiler};
use crate::prompt::{Prompter, TemplateError};
use crate::scheduler::{GenerationJob, LoadBoard, SchedulerRequest};
use crate::telemetry::Metrics;
use crate::worker::Heartbeat;

use adapters::Adapters;
use job_sender::JobSender;

pub use adapters::{AdapterChangeError, LoadedAdapter};
pub use embedding_model::EmbeddingModel;
pub use spec::ModelSpec;

/// The life cycle of a model.
#[derive(Debug, Clone)]
pub enum ModelState {
    /// Its file is being read.
    Loading,
    /// It answers.
    Ready(LoadedModel),
    /// It could not be loaded.
    Unloadable(Arc<LoadError>),
    /// Its thread died of a defect.
    Crashed,
    /// Its thread has ended, as asked.
    Stopped,
}

impl ModelState {
    /// Returns the state as one word, for people and machines.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready(_) => "ready",
            Self::Unloadable(_) | Self::Crashed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// A loaded model, by its purpose.
#[derive(Debug, Clone)]
pub enum LoadedModel {
    /// It generates text.
    Generation(Arc<GenerationModel>),
    /// It turns texts into vectors.
    Embedding(Arc<EmbeddingModel>),
}

impl LoadedModel {
    /// Returns the vocabulary and metadata.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        match self {
            Self::Generation(loaded) => &loaded.tokenizer,
            Self::Embedding(loaded) => &loaded.tokenizer,
        }
    }

    /// Takes no more requests, which lets the model's thread end.
    fn close(&self) {
        match self {
            Self::Generation(loaded) => loaded.jobs.close(),
            Self::Embedding(loaded) => loaded.jobs.close(),
        }
    }

    /// Returns the most tokens of one request, or of one text to embed.
    #[must_use]
    pub fn context(&self) -> usize {
        match self {
            Self::Generation(loaded) => loaded.context(),
            Self::Embedding(loaded) => loaded.context,
        }
    }
}

/// A model that generates.
#[derive(Debug)]
pub struct GenerationModel {
    /// Vocabulary and metadata.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub prompter: Result<Prompter, TemplateError>,
    /// The grammars to which answers can be constrained.
    pub grammars: Grammars,
    /// KV cells, shared by all requests.
    pub cells: usize,
    /// What its scheduler has to do.
    pub load: LoadBoard,
    adapters: Adapters,
    jobs: JobSender<SchedulerRequest<AdapterFile>>,
}

impl GenerationModel {
    /// Returns the most tokens that prompt and answer of one request may have together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.cells
            .min(self.tokenizer.info().trained_context as usize)
    }

    /// Hands a request to the scheduler; gives it back when the scheduler is gone.
    pub fn submit(&self, job: GenerationJob) -> Result<(), Box<GenerationJob>> {
        let sent = self.jobs.submit(SchedulerRequest::Generate(Box::new(job)));
        sent.or_else(|request| match *request {
            SchedulerRequest::Generate(job) => Err(job),
            // It was a job that came back.
            SchedulerRequest::Change(_) => Ok(()),
        })
    }
}

/// One model of the pool.
#[derive(Debug)]
pub struct ModelEntry {
    /// The name that clients use.
    pub id: String,
    /// When it was added, seconds since 1970.
    pub created: u64,
    /// Admits requests to the model.
    pub gate: Gate,
    heartbeat: Heartbeat,
    /// A step that takes longer is taken for a hang.
    stall_timeout: Duration,
    state: watch::Sender<ModelState>,
}

impl ModelEntry {
    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> ModelState {
        self.state.borrow().clone()
    }

    /// Whether it is an embedding model; false while it is being loaded.
    #[must_use]
    pub fn embeds(&self) -> bool {
        matches!(
            *self.state.borrow(),
            ModelState::Ready(LoadedModel::Embedding(_))
        )
    }

    /// Checks that its worker loop makes progress; `Err` says what is wrong.
    pub fn health(&self) -> Result<(), &'static str> {
        if matches!(*self.state.borrow(), ModelState::Crashed) {
            return Err("crashed");
        }
        match self.heartbeat.busy_for() {
            Some(busy) if busy > self.stall_timeout => Err("stuck"),
            _ => Ok(()),
        }
    }

    /// Waits for a state that `wanted` accepts, and returns it.
    pub async fn reaches(&self, wanted: impl Fn(&ModelState) -> bool) -> ModelState {
        let mut state = self.state.subscribe();
        match state.wait_for(wanted).await {
            Ok(reached) => reached.clone(),
            // The entry itself holds the sender.
            Err(_) => ModelState::Stopped,
        }
    }
}

/// All models.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Arc<ModelEntry>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Makes the loops fail what still runs.
    abort: Arc<AtomicBool>,
}

impl Pool {
    /// Starts a thread for every model; they load side by side.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        specs: Vec<ModelSpec>,
        metrics: &Metrics,
        drain: &Drain,
        governed: &GovernorHandle,
        trial_compiler: &TrialCompiler,
    ) -> std::io::Result<Self> {
        let abort = Arc::new(AtomicBool::new(false));
        let mut entries = Vec::new();
        let mut threads = Vec::new();
        for spec in specs {
            let state = watch::Sender::new(ModelState::Loading);
            let gate = Gate::new(spec.capacity(), drain.clone(), governed.clone());
            let heartbeat = Heartbeat::default();
            let id = spec.id.clone();
            let stall_timeout = spec.stall_timeout;
            let thread = model_thread::ModelThread {
                queue: gate.most_inside(),
                spec,
                state: state.clone(),
                heartbeat: heartbeat.clone(),
                metrics: metrics.clone(),
                governed: governed.clone(),
                trial_compiler: trial_compiler.clone(),
                abort: Arc::clone(&abort),
            };
            threads.push(thread.spawn()?);
            entries.push(Arc::new(ModelEntry {
                id,
                created: unix_seconds(),
                gate,
                heartbeat,
                stall_timeout,
                state,
            }));
        }
        Ok(Self {
            entries,
            threads: Mutex::new(threads),
            abort,
        })
    }

    /// The models in the order of the configuration.
    #[must_use]
    pub fn entries(&self) -> &[Arc<ModelEntry>] {
        &self.entries
    }

    /// The model of this name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<ModelEntry>> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// Ends all threads and waits for them. Requests that still run end with an error.
    pub fn stop(&self) {
        self.abort.store(true, Ordering::SeqCst);
        for entry in &self.entries {
            // Closes the way into the thread, which ends its loop, whoever still holds it; a
            // thread that is still loading finds that nobody waits for it any more.
            entry.state.send_if_modified(|state| {
                if let ModelState::Ready(serving) = state {
                    serving.close();
                }
                let alive = matches!(state, ModelState::Ready(_) | ModelState::Loading);
                if alive {
                    *state = ModelState::Stopped;
                }
                alive
            });
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic in it was reported when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::Instant;

    use super::*;
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

    fn entry() -> ModelEntry {
        ModelEntry {
            id: "kiosk".to_owned(),
            created: 0,
            gate: Gate::new(1, Drain::default(), GovernorHandle::default()),
            heartbeat: Heartbeat::default(),
            stall_timeout: STALL_TIMEOUT,
            state: watch::Sender::new(ModelState::Loading),
        }
    }

    fn eventually(entry: &ModelEntry, health: Result<(), &str>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while entry.health() != health {
            assert!(Instant::now() < deadline, "never {health:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_model_is_stuck_while_its_step_hangs_and_not_while_it_rests() {
        let entry = entry();
        let (release, released) = sync_channel(1);
        let (requests, queue) = sync_channel(1);
        let heartbeat = entry.heartbeat.clone();
        let thread = std::thread::spawn(move || {
            let worker = HangingWorker {
                released,
                pending: false,
            };
            worker::run(worker, &queue, &heartbeat, &|| false);
        });
        assert_eq!(entry.health(), Ok(()));
        requests.send(()).expect("it runs");
        eventually(&entry, Err("stuck"));
        release.send(()).expect("it hangs");
        eventually(&entry, Ok(()));
        drop(requests);
        while !thread.is_finished() {
            assert_eq!(entry.health(), Ok(()), "it only rests");
            std::thread::yield_now();
        }
        thread.join().expect("no panic");
    }
}
