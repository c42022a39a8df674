//! The composition root: the only file that sees all rooms. It wires them,
//! waits for a signal, and takes them down in order.

mod network;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::admission::Drain;
use crate::config::{AuthSettings, PrefixSharing, Settings};
use crate::engine::{self, cpu};
use crate::governor::Governor;
use crate::grammar::TrialCompiler;
use crate::headroom::{HeadroomMetrics, anonymous_memory, available_memory};
use crate::http::{Authenticator, InheritedSockets, ListenError, Server, ServerStops};
use crate::inference::Inference;
use crate::keys::{self, EditError, KeyRing, KeysFileError};
use crate::openai::AppState;
use crate::pool::{
    MemoryKind, MemoryLedger, ModelSpec, ModelTerms, Pool, PoolNeighbours, PoolOptions,
    memory_budget,
};
use crate::routes::router;
use crate::sandbox::Sandbox;
use crate::systemd::Systemd;
use crate::telemetry::{Logbook, Metrics};
use crate::tls::{self, TlsFilesError};

/// Time for connections to say good-bye when all answers are out.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long requests still come in after the signal: so long may it take until the head of one that was sent
/// before is read.
const LAME_DUCK: Duration = Duration::from_millis(500);
/// How long models may take to stop: a step that was begun is computed to its end. A step that hangs never
/// ends.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The same for whoever asked twice.
const SHORT_STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Why the server did not start or ended early.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The kernels do not fit the processor.
    #[error(transparent)]
    Cpu(#[from] cpu::UnsupportedCpu),
    /// A socket cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What systemd handed over would be open to everybody, which nobody has allowed.
    #[error(
        "systemd's socket {0} is reached from the network, and there are no keys: set auth.keys_file to the file for keys (a \
         first one is made), or auth.open to true if anybody on the network may ask"
    )]
    OpenSocket(SocketAddr),
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    /// The keys file cannot be used.
    #[error(
        "auth.keys_file {}: {problem}; mend the file, or restore an older one: without it nobody may ask",
        .file.display()
    )]
    Keys {
        /// As configured.
        file: PathBuf,
        /// What is wrong with it.
        problem: KeysFileError,
    },
    /// There is no keys file, and none can be made.
    #[error("auth.keys_file does not exist, and a first key cannot be made: {0}")]
    FirstKey(#[from] EditError),
    /// A model cannot be served; the message has the remedy.
    #[error("model `{id}`: {message}")]
    Model {
        /// Its id.
        id: String,
        /// What went wrong.
        message: String,
    },
    /// The system refused a thread, a signal handler or the like.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
    /// A defect in the table of metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] crate::telemetry::metrics::MetricsError),
}

impl AppError {
    /// Whether trying again does not help before a setting is another.
    #[must_use]
    pub fn is_of_settings(&self) -> bool {
        matches!(self, Self::OpenSocket(_))
    }
}

/// What a process takes while it has one thread, because it cannot later.
#[derive(Debug)]
pub struct Startup {
    inherited: InheritedSockets,
    sandbox: Sandbox,
}

impl Startup {
    /// Makes the first key where there is none, takes the sockets that systemd hands over, and then shuts the process off
    /// from what it does not need. `files` are those of the configuration.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn begin(settings: &Settings, files: &[PathBuf]) -> Result<Self, AppError> {
        Self::take(settings, files).inspect_err(|error| Systemd::from_environment().failed(error))
    }

    fn take(settings: &Settings, files: &[PathBuf]) -> Result<Self, AppError> {
        make_first_key(settings)?;
        let inherited = InheritedSockets::take()?;
        // Last, because it holds from here on.
        let sandbox = Sandbox::enter(settings, files);
        Ok(Self { inherited, sandbox })
    }
}

/// Makes the keys file if it is configured and there is none. Called before the sandbox is closed, within which the
/// server cannot write keys.
fn make_first_key(settings: &Settings) -> Result<(), AppError> {
    let Some(file) = &settings.auth.keys_file else {
        return Ok(());
    };
    if let Some(place) = keys::make_first(file)? {
        tracing::warn!(
            "made {} with a first key, of an administrator; it lies in {}: take it from there, keep it safe, and \
             remove that file",
            file.display(),
            place.display()
        );
    }
    Ok(())
}

/// Serves until SIGTERM or SIGINT, then drains and returns. Ends the process, with the exit code 0, where
/// threads would hold that up.
///
/// # Errors
/// See [`AppError`].
pub async fn serve(settings: Settings, startup: Startup) -> Result<(), AppError> {
    let logbook = Logbook::open();
    let systemd = Systemd::from_environment();
    let outcome = serve_until_told(settings, startup, logbook.as_ref(), &systemd).await;
    if let Err(error) = &outcome {
        systemd.failed(error);
    }
    if let Some(logbook) = logbook {
        logbook.close(outcome.is_ok());
    }
    match outcome {
        Ok(Ending::Orderly) => Ok(()),
        Ok(Ending::Abrupt) => engine::end_process(),
        Err(error) => Err(error),
    }
}

/// How the server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All threads have ended, or will end soon.
    Orderly,
    /// Threads may be at work for long, or hang, and nobody is to wait for them.
    Abrupt,
}

async fn serve_until_told(
    settings: Settings,
    startup: Startup,
    logbook: Option<&Logbook>,
    systemd: &Systemd,
) -> Result<Ending, AppError> {
    let Startup { inherited, sandbox } = startup;
    engine::route_logs();
    engine::return_large_blocks();
    cpu::prepare()?;
    let metrics = Metrics::new()?;
    sandbox.show(&metrics)?;
    if let Some(logbook) = logbook {
        logbook.show(&metrics)?;
    }
    let ring = open_keys(&settings)?;
    let drain = Drain::default();
    let tls = network::open_tls(&settings.server, &metrics)?;
    let listeners = network::open_listeners(&settings, inherited).await?;
    let urls: Vec<_> = listeners.all().collect();
    let options = network::server_options(&settings.server);
    let server = Server::new(listeners, tls.as_ref(), options);
    let mut signals = Signals::new()?;

    let governor = Governor::start(&settings.governor, HeadroomMetrics::new(&metrics)?)?;
    let trial_compiler = TrialCompiler::of_this_program()?;
    trial_compiler.warm_up();
    let ledger = MemoryLedger::default();
    let neighbours = PoolNeighbours {
        metrics: metrics.clone(),
        drain: drain.clone(),
        governed: governor.handle(),
        trial_compiler,
    };
    let pool = Pool::start(pool_options(&settings, ledger.clone()), neighbours)?;
    let pool = Arc::new(pool);
    systemd.feed_watchdog(&pool, settings.server.stall_timeout);
    let inference = Inference::new(&settings, Arc::clone(&pool), metrics.clone());
    let authenticator = Authenticator::new(ring.clone(), settings.auth.metrics);
    let state = AppState::new(&settings, inference, metrics.clone(), authenticator);
    let hosts = state.allowed_hosts();
    let kinds = [
        MemoryKind::Bodies,
        MemoryKind::Streams,
        MemoryKind::Responses,
    ];
    for (kind, held) in kinds.into_iter().zip(state.held_bytes()) {
        ledger.add(kind, held);
    }
    // It ends with the runtime.
    if let Some(ring) = ring {
        tokio::spawn(keys::watch(ring));
    }
    if let Some(tls) = tls {
        hosts.set_certificate_names(tls.names());
        let renewed = move |names| hosts.set_certificate_names(names);
        tokio::spawn(tls::watch(tls, renewed));
    }
    tracing::info!("listening on {}", urls.join(", "));
    let url = urls.into_iter().next().unwrap_or_default();

    let backlog_is_empty = server.backlog_is_empty();
    let handing_over = watch::Sender::new(false);
    let stopping = watch::Sender::new(false);
    let stops = ServerStops {
        handing_over: handing_over.subscribe(),
        settling: LAME_DUCK / 2,
        stopping: stopping.subscribe(),
        farewell: FAREWELL,
    };
    let serving = tokio::spawn(server.serve(router(state), drain.clone(), metrics, stops));

    let outcome = tokio::select! {
        failed = nothing_to_serve(&pool) => Err(failed),
        () = announce(&pool, &url, systemd) => unreachable!("it announces and then waits for ever"),
        name = signals.next() => {
            tracing::info!(signal = name, running = drain.inside(), "draining: no new requests");
            Ok(())
        }
    };
    let grace = settings.server.shutdown_grace;
    systemd.stopping(grace + LAME_DUCK + STOP_PATIENCE + FAREWELL);
    drain.begin();
    handing_over.send_replace(true);
    let mut is_asked_twice = false;
    if outcome.is_ok() {
        let answered = answered(&drain, backlog_is_empty);
        is_asked_twice = wait_for_answers(&drain, answered, grace, &mut signals).await;
    }
    drain.close();
    let ending = stop_models(&pool, is_asked_twice, &mut signals).await;
    stopping.send_replace(true);
    let _ = serving.await;
    outcome?;
    tracing::info!("stopped");
    Ok(ending)
}

/// Opens the keys file, if there is to be one.
fn open_keys(settings: &Settings) -> Result<Option<Arc<KeyRing>>, AppError> {
    let AuthSettings {
        keys_file,
        share_prefixes,
        ..
    } = &settings.auth;
    let Some(file) = keys_file else {
        return Ok(None);
    };
    let ring = KeyRing::open(file, *share_prefixes == PrefixSharing::Group).map_err(|problem| {
        let file = file.clone();
        AppError::Keys { file, problem }
    })?;
    let keys = ring.count();
    if keys == 0 {
        tracing::warn!("{} has no keys: nobody may ask", file.display());
    } else {
        tracing::info!(keys, "only who has a key may ask");
    }
    Ok(Some(Arc::new(ring)))
}

/// What the pool is made of.
fn pool_options(settings: &Settings, ledger: MemoryLedger) -> PoolOptions {
    let cores = cpu::usable_cores();
    let budget = memory_budget(settings);
    let models = settings.models.iter().map(|model| {
        let spec = ModelSpec::new(model, settings, cores, budget);
        (spec, ModelTerms::from(model))
    });
    let program = anonymous_memory().unwrap_or(0);
    ledger.add(MemoryKind::Program, move || program);
    let governor = settings.governor.clone();
    PoolOptions {
        models: models.collect(),
        folder: settings.pool.models_dir.clone().map(|folder| {
            let make = ModelSpec::maker(settings, cores, budget);
            (folder, make)
        }),
        budget,
        available: Box::new(move || available_memory(&governor)),
        state: settings.state.learnt(),
        ledger,
        trial_program: None,
    }
}

/// Resolves when no model can be served any more; while one can or may, never.
async fn nothing_to_serve(pool: &Pool) -> AppError {
    let mut changes = pool.changes();
    loop {
        if let Some((id, cause)) = pool.failure_of_all() {
            let message = cause.to_string();
            return AppError::Model { id, message };
        }
        // The pool holds the sender.
        let _ = changes.changed().await;
    }
}

/// Says when all models are loaded that are to be, and what to do then. It never ends.
async fn announce(pool: &Pool, url: &str, systemd: &Systemd) {
    systemd.started(pool).await;
    let entries = pool.entries();
    let served = entries.iter().filter(|entry| !entry.has_failed());
    let ids: Vec<_> = served.map(|entry| entry.id.as_str()).collect();
    if ids.is_empty() {
        tracing::warn!("ready: {url}/v1 serves nothing yet; put a GGUF file into pool.models_dir");
    } else {
        tracing::info!("ready: {url}/v1 serves {}", ids.join(", "));
    }
    systemd.follow(pool).await;
}

/// Waits until every request is answered that was sent before the drain began. Nothing tells these from those
/// that come right after it, so both are let in for a short time: until no connection waits to be accepted, and
/// the heads of the last ones are surely read.
async fn answered(drain: &Drain, mut backlog_is_empty: watch::Receiver<bool>) {
    // The sender ends with the server only.
    let _ = backlog_is_empty.wait_for(|is_empty| *is_empty).await;
    tokio::time::sleep(LAME_DUCK).await;
    drain.close();
    drain.empty().await;
}

/// Waits for answers, but not for ever; returns whether it was asked again not to wait.
async fn wait_for_answers(
    drain: &Drain,
    answered: impl Future<Output = ()>,
    grace: Duration,
    signals: &mut Signals,
) -> bool {
    tokio::select! {
        () = answered => false,
        () = tokio::time::sleep(grace) => {
            tracing::warn!(running = drain.inside(), "grace time over, ending what still runs");
            false
        }
        name = signals.next() => {
            tracing::warn!(signal = name, running = drain.inside(), "asked again, ending what still runs");
            true
        }
    }
}

/// Stops the models, whose running answers are told why they end.
async fn stop_models(pool: &Arc<Pool>, is_asked_twice: bool, signals: &mut Signals) -> Ending {
    let patience = if is_asked_twice {
        SHORT_STOP_PATIENCE
    } else {
        STOP_PATIENCE
    };
    // Threads are joined off the runtime.
    let stopping = Arc::clone(pool);
    let stopping = tokio::task::spawn_blocking(move || stopping.stop());
    tokio::select! {
        stopped = tokio::time::timeout(patience, stopping) => {
            if stopped.is_ok() && !is_asked_twice {
                Ending::Orderly
            } else {
                Ending::Abrupt
            }
        }
        name = signals.next() => {
            tracing::warn!(signal = name, "asked again, not waiting for models to stop");
            Ending::Abrupt
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
