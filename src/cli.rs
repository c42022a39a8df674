//! The command line. Exit codes: 0 done, 1 failed, 2 the configuration or the
//! command line is wrong.

mod authority_file;
mod bench;
mod config;
mod core_dumps;
mod health;
mod keys;
mod models;
mod sandbox_self_test;
mod tls;
mod try_model;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, SettingOverride, Settings, Sources};
use crate::engine::{self, openmp};
use crate::systemd::Systemd;
use crate::{app, grammar, sandbox, telemetry};

#[derive(Debug, Parser)]
#[command(
    name = "edgellm",
    version,
    about = "OpenAI-compatible inference server for edge gateways"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models over HTTP until SIGTERM or Ctrl-C
    Serve(Serve),
    /// Validate the configuration and print what is in effect
    CheckConfig(Files),
    /// Print a configuration file to start from, or the table of all settings
    #[command(subcommand)]
    Config(config::Config),
    /// Put the load of a shop's kiosks on a server and measure it
    Bench(bench::Bench),
    /// Ask a server whether it is ready; exit code 0 if so
    Health(health::Health),
    /// Make, list and end API keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make certificates for TLS, and show what stands in them
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Work on model files
    #[command(subcommand)]
    Models(models::Models),
    /// What `serve` starts to try clients' grammars in
    #[command(name = grammar::COMPILE_COMMAND, hide = true)]
    CompileGrammars,
    /// What `serve` starts to try a model file in
    #[command(name = engine::TRY_MODEL_COMMAND, hide = true)]
    TryModel(try_model::TryModel),
    /// What `serve` starts to learn whether it may shut itself off
    #[command(name = sandbox::PROBE_COMMAND, hide = true)]
    SandboxProbe,
    /// Shuts itself off as `serve` does, and tries what must fail and what must work
    #[command(hide = true)]
    SandboxSelfTest(sandbox_self_test::SandboxSelfTest),
}

#[derive(Debug, Args)]
struct Files {
    /// TOML file; may be given several times, later ones win
    #[arg(long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Files {
    /// What they and the environment say.
    fn load(&self) -> Result<Settings, ConfigError> {
        crate::config::load(&Sources {
            files: self.files.clone(),
            env: environment(),
            overrides: Vec::new(),
        })
    }
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    files: Files,
    /// GGUF file to serve instead of the configured one; its id is the file's name
    #[arg(long, value_name = "PATH")]
    model: Option<String>,
    /// Address and port, e.g. 0.0.0.0:8080
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// KV cells (tokens) shared by all sequences of the model
    #[arg(long, value_name = "N")]
    context: Option<String>,
    /// Requests decoded together
    #[arg(long, value_name = "N")]
    max_running: Option<String>,
    /// Threads that compute; 0 is one for each physical core
    #[arg(long, value_name = "N")]
    threads: Option<String>,
}

impl Serve {
    fn sources(self) -> Sources {
        let mut overrides = Vec::new();
        let mut set = |key: &str, flag: &str, value: Option<String>| {
            if let Some(value) = value {
                overrides.push(SettingOverride {
                    key: key.to_owned(),
                    flag: flag.to_owned(),
                    value,
                });
            }
        };
        // A file given here must not be served under the name of the one in the configuration.
        let id = self.model.as_deref().and_then(file_stem);
        set("models[0].path", "--model", self.model);
        set("models[0].id", "--model", id);
        set("server.listen", "--listen", self.listen);
        set("models[0].context", "--context", self.context);
        set("models[0].max_running", "--max-running", self.max_running);
        set("models[0].threads", "--threads", self.threads);
        Sources {
            files: self.files.files,
            env: environment(),
            overrides,
        }
    }
}

fn file_stem(path: &str) -> Option<String> {
    let stem = std::path::Path::new(path).file_stem()?;
    Some(stem.to_string_lossy().into_owned())
}

/// All variables: which are ours the configuration knows. Text that is no Unicode is kept as far as
/// it can be read, and then refused by name.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect()
}

/// For commands that wait for a server most of the time.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::CheckConfig(files) => check_config(&files),
        Command::Config(command) => config::run(command),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Health(arguments) => health::run(arguments),
        Command::Keys(command) => keys::run(command),
        Command::Tls(command) => tls::run(command),
        Command::Models(command) => models::run(command),
        Command::CompileGrammars => compile_grammars(),
        Command::TryModel(arguments) => try_model::run(&arguments),
        Command::SandboxProbe => sandbox_probe(),
        Command::SandboxSelfTest(arguments) => sandbox_self_test::run(&arguments),
    }
}

fn serve(arguments: Serve) -> ExitCode {
    // Returns only if there is nothing to change, or it cannot be.
    openmp::restart_with_short_spins();
    // A core would hold prompts; said here and not in the unit alone, so that it holds in containers as well.
    let core_dumps = core_dumps::forbid();
    let sources = arguments.sources();
    let loaded = crate::config::load(&sources).and_then(|settings| {
        settings.require_models()?;
        Ok(settings)
    });
    let settings = match loaded {
        Ok(settings) => settings,
        Err(error) => {
            Systemd::from_environment().failed(&error);
            return wrong_config(&error);
        }
    };
    telemetry::logs::start(&settings.telemetry);
    if let Err(error) = engine::explain_bus_errors() {
        tracing::warn!(
            "a model file that is truncated will end the server without a word: {error}"
        );
    }
    if let Err(error) = core_dumps {
        tracing::warn!("a crash may leave a core dump with prompts in it: {error}");
    }
    let outcome =
        app::Startup::begin(&settings, &sources.files).and_then(|startup| run(settings, startup));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Also without a log whoever starts a server in vain has to know why.
#[allow(clippy::print_stderr)]
fn failed(error: &app::AppError) -> ExitCode {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{error}");
    } else {
        eprintln!("{error}");
    }
    if error.is_of_settings() {
        return WRONG_SETTINGS.into();
    }
    ExitCode::FAILURE
}

/// The exit code after which systemd does not try again.
const WRONG_SETTINGS: u8 = 2;

/// Its server reads in the exit code that something went wrong, and needs no more.
fn compile_grammars() -> ExitCode {
    match grammar::compile_for_parent() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Its server looks only whether it was ended by the system.
fn sandbox_probe() -> ExitCode {
    sandbox::probe();
    ExitCode::SUCCESS
}

/// Bytes of stack of a runtime's thread. A request that nests as deeply as it may takes up to 2 MB.
const THREAD_STACK: usize = 8 << 20;

/// The runtime only moves bytes and renders templates: two threads are plenty, and the
/// cores belong to the engine.
fn run(settings: Settings, startup: app::Startup) -> Result<(), app::AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        // Schemas, templates and JSON are nested; debug information and sanitizers make frames larger.
        .thread_stack_size(THREAD_STACK)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(app::serve(settings, startup));
    // Where a model hangs, so would waiting for the thread that waits for it.
    runtime.shutdown_background();
    outcome
}

#[allow(clippy::print_stdout)] // this is what the command is for
fn check_config(files: &Files) -> ExitCode {
    match files.load() {
        Ok(settings) => {
            print!("{}", settings.to_toml());
            ExitCode::SUCCESS
        }
        Err(error) => wrong_config(&error),
    }
}

#[allow(clippy::print_stderr)] // logging is configured by what is wrong here
fn wrong_config(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    WRONG_SETTINGS.into()
}
