//! The settings as the program uses them: every value is of the type that its use needs, and valid.
//!
//! Serde reads them from the merged and checked layers only; names and ranges are in
//! [`schema`](super::schema).

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{
    AdapterSettings, ConfigError, ConfigMistake, GovernorSettings, PoolSettings, StateSettings,
};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP server.
    pub server: ServerSettings,
    /// Who may ask.
    pub auth: AuthSettings,
    /// The models, each with an id of its own; possibly none.
    pub models: Vec<ModelSettings>,
    /// What the models share.
    pub pool: PoolSettings,
    /// What outlasts a restart.
    pub state: StateSettings,
    /// How running requests share the processor.
    pub scheduler: SchedulerSettings,
    /// Which requests are let in.
    pub admission: AdmissionSettings,
    /// What is done about power, heat and memory.
    pub governor: GovernorSettings,
    /// What is logged.
    pub telemetry: TelemetrySettings,
}

/// Section `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to serve on. Port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// Connections open at the same time.
    pub max_connections: NonZeroU32,
    /// Connections open at the same time from one address; `None` is half of all.
    #[serde(deserialize_with = "zero_is_none")]
    pub max_connections_per_address: Option<NonZeroU32>,
    /// Time for a client to send its request headers.
    #[serde(rename = "header_timeout_seconds", deserialize_with = "seconds")]
    pub header_timeout: Duration,
    /// Time for a client to send its request body.
    #[serde(rename = "body_timeout_seconds", deserialize_with = "seconds")]
    pub body_timeout: Duration,
    /// Largest request body accepted, in bytes.
    pub max_body_bytes: usize,
    /// How long a client may let its answer wait, in all; what it reads wins some of it back.
    #[serde(rename = "write_timeout_seconds", deserialize_with = "seconds")]
    pub write_timeout: Duration,
    /// Memory for answers that clients have not read yet, in bytes.
    pub max_unsent_bytes: usize,
    /// A step of a model that takes longer is taken for a hang.
    #[serde(rename = "stall_timeout_seconds", deserialize_with = "seconds")]
    pub stall_timeout: Duration,
    /// Time for running answers to finish on shutdown; zero waits for none of them.
    #[serde(rename = "shutdown_grace_seconds", deserialize_with = "seconds")]
    pub shutdown_grace: Duration,
    /// Most responses stored for clients that continue from them; 0 stores none.
    pub store_max_responses: usize,
    /// Memory for stored responses, in bytes.
    pub store_max_bytes: usize,
    /// How long each stored response is kept.
    #[serde(rename = "store_seconds", deserialize_with = "seconds")]
    pub store_time: Duration,
}

/// Section `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// The file of API keys, which need not exist yet.
    #[serde(deserialize_with = "empty_is_none")]
    pub keys_file: Option<PathBuf>,
    /// Whether a server without keys may listen beyond this machine.
    pub open: bool,
    /// Whose prompts may share cached prefixes.
    pub share_prefixes: PrefixSharing,
    /// Who may read the metrics once there are keys.
    pub metrics: MetricsAccess,
}

/// Whose prompts may share cached prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixSharing {
    /// Everybody's.
    All,
    /// Those of keys of one group.
    Group,
}

/// Who may read the metrics once there are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsAccess {
    /// Administrators.
    Admin,
    /// Whoever has a key.
    Key,
    /// Everybody.
    Open,
}

/// An entry of `[[models]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // each is a key that stands for itself
pub struct ModelSettings {
    /// The GGUF file. It has not been looked at yet.
    pub path: PathBuf,
    /// The name that clients use, unique among the models.
    pub id: String,
    /// KV cells (tokens) shared by all sequences, at least 128.
    pub context: NonZeroU32,
    /// Rows decoded together.
    pub max_running: NonZeroU32,
    /// Threads to compute with; `None` is as many as there are physical cores.
    #[serde(deserialize_with = "zero_is_none")]
    pub threads: Option<NonZeroU32>,
    /// How attention is computed.
    pub attention: AttentionChoice,
    /// Whether an answer is the same whatever else is asked meanwhile.
    pub deterministic: bool,
    /// Other names that it answers to, or patterns in which `*` is any text. None is the id, or an
    /// exact alias, of another model; of patterns that fit both, the first model's wins.
    pub aliases: Vec<String>,
    /// Whether it answers to names that no model has; true for one model at most.
    pub default: bool,
    /// Whether it never leaves the memory; it is loaded at the start then, whatever `preload` says.
    pub pinned: bool,
    /// Whether it is loaded at the start.
    pub preload: bool,
    /// Time without a request after which it leaves; `None` is when another needs its memory.
    #[serde(deserialize_with = "optional_seconds")]
    pub keep_alive: Option<Duration>,
    /// Ids of the models that answer in its place while power, heat or memory are short, best first.
    pub siblings: Vec<String>,
    /// Its adapters, whose names differ.
    pub adapters: Vec<AdapterSettings>,
}

/// Two ways to the same numbers, but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionChoice {
    /// Whichever suits the model.
    Auto,
    /// One matrix product over all rows and cells.
    Plain,
    /// Cell by cell, for each row those that it sees only.
    Flash,
}

/// Whether answers may draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speculation {
    /// Unless the model is very small.
    Auto,
    /// Where it is measured to be faster.
    On,
    /// Never.
    Off,
}

/// Section `[scheduler]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerSettings {
    /// The time between two tokens of a running answer that prefill must not exceed.
    #[serde(rename = "target_inter_token_ms", deserialize_with = "milliseconds")]
    pub target_inter_token: Duration,
    /// Most tokens in one step.
    pub max_batch_tokens: NonZeroU32,
    /// Bytes for prefixes that are offloaded from the KV cache, for each model.
    pub parked_bytes: usize,
    /// Whether answers may draft tokens that they seem to copy.
    pub speculation: Speculation,
}

/// Section `[admission]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionSettings {
    /// Requests that may wait; 0 refuses whatever cannot start at once.
    pub max_waiting: u32,
    /// Time for an answer of a request that sets none; `None` is no limit.
    #[serde(rename = "deadline_ms", deserialize_with = "optional_milliseconds")]
    pub deadline: Option<Duration>,
    /// The same for the tier `priority`; `None` is as `deadline`.
    #[serde(
        rename = "priority_deadline_ms",
        deserialize_with = "optional_milliseconds"
    )]
    pub priority_deadline: Option<Duration>,
    /// The same for the tier `flex`; `None` is as `deadline`.
    #[serde(
        rename = "flex_deadline_ms",
        deserialize_with = "optional_milliseconds"
    )]
    pub flex_deadline: Option<Duration>,
}

/// Section `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The form of log lines.
    pub log_format: LogFormat,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether prompts may appear in the log.
    pub log_prompts: bool,
    /// Whether usage tells clients what their answer cost.
    pub energy_in_usage: bool,
    /// How exactly usage tells what of a prompt was cached.
    pub cached_tokens_in_usage: CachedTokens,
}

/// How exactly a response says how much of its prompt was in the cache, which all clients share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachedTokens {
    /// Rounded down, so that single tokens of another client's prompt cannot be guessed one by one.
    Rounded,
    /// As it is.
    Exact,
    /// Always 0.
    Hidden,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Defects and failures.
    Error,
    /// Also what may become a failure.
    Warn,
    /// Also one line for each request.
    Info,
    /// Also decisions.
    Debug,
    /// Everything.
    Trace,
}

impl Settings {
    /// Whether anybody on the network may ask: there are no keys, and it listens beyond this machine.
    #[must_use]
    pub fn is_open_to_the_network(&self) -> bool {
        let listen = self.server.listen.ip().to_canonical();
        self.auth.keys_file.is_none() && !listen.is_loopback()
    }

    /// Checks that there is a model, or a folder of them, for commands that serve one.
    ///
    /// # Errors
    /// Returns [`ConfigMistake::NoModels`], whose text says how to name one.
    pub fn require_models(&self) -> Result<(), ConfigError> {
        if self.models.is_empty() && self.pool.models_dir.is_none() {
            return Err(ConfigMistake::NoModels.into());
        }
        Ok(())
    }
}

impl PrefixSharing {
    /// Returns the word that the configuration uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Group => "group",
        }
    }
}

impl MetricsAccess {
    /// Returns the word that the configuration uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Key => "key",
            Self::Open => "open",
        }
    }
}

impl AttentionChoice {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::Flash => "flash",
        }
    }
}

impl Speculation {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl CachedTokens {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rounded => "rounded",
            Self::Exact => "exact",
            Self::Hidden => "hidden",
        }
    }
}

impl LogFormat {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl LogLevel {
    /// The word in the configuration, which is also a `tracing` level filter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_secs)
}

fn optional_seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    Ok(Some(seconds(value)?).filter(|time| !time.is_zero()))
}

fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

fn optional_milliseconds<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    Ok(Some(milliseconds(value)?).filter(|time| !time.is_zero()))
}

pub(super) fn empty_is_none<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<PathBuf>, D::Error> {
    Ok(Some(PathBuf::deserialize(value)?).filter(|path| !path.as_os_str().is_empty()))
}

fn zero_is_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<NonZeroU32>, D::Error> {
    u32::deserialize(value).map(NonZeroU32::new)
}
