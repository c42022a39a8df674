//! The way back: settings printed as the TOML that would load them.
//!
//! Every struct is taken apart without `..`, so a field that is not printed does not compile, and a
//! test holds the printed names against the schema.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use super::{AdapterSettings, governor, pool};
use super::{
    AdmissionSettings, AuthSettings, ModelSettings, SchedulerSettings, ServerSettings, Settings,
    TelemetrySettings,
};

/// Names with their values, already in TOML's notation.
pub(super) type Lines<const N: usize> = [(&'static str, String); N];

impl Settings {
    /// The effective configuration as TOML, every key included.
    ///
    /// Paths are made absolute with the working directory, so that the text means the same files
    /// wherever it is saved; with paths that were absolute, it loads to equal settings.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Self {
            server: server_settings,
            auth: auth_settings,
            models,
            pool: pool_settings,
            state: state_settings,
            scheduler: scheduler_settings,
            admission: admission_settings,
            governor: governor_settings,
            telemetry: telemetry_settings,
        } = self;
        let mut out = String::new();
        section(&mut out, "[server]", server(server_settings));
        section(&mut out, "[auth]", auth(auth_settings));
        for entry in models {
            section(&mut out, "[[models]]", model(entry));
        }
        section(&mut out, "[pool]", pool::pool_lines(pool_settings));
        section(&mut out, "[state]", pool::state_lines(state_settings));
        section(&mut out, "[scheduler]", scheduler(scheduler_settings));
        section(&mut out, "[admission]", admission(admission_settings));
        section(&mut out, "[governor]", governor::lines(governor_settings));
        section(&mut out, "[telemetry]", telemetry(telemetry_settings));
        out
    }
}

fn section<const N: usize>(out: &mut String, heading: &str, lines: Lines<N>) {
    let blank = if out.is_empty() { "" } else { "\n" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{blank}{heading}");
    for (name, value) in lines {
        let _ = writeln!(out, "{name} = {value}");
    }
}

fn server(server: &ServerSettings) -> Lines<13> {
    let ServerSettings {
        listen,
        max_connections,
        max_connections_per_address,
        header_timeout,
        body_timeout,
        max_body_bytes,
        write_timeout,
        max_unsent_bytes,
        stall_timeout,
        shutdown_grace,
        store_max_responses,
        store_max_bytes,
        store_time,
    } = server;
    [
        ("listen", quoted(&listen.to_string())),
        ("max_connections", max_connections.to_string()),
        (
            "max_connections_per_address",
            max_connections_per_address
                .map_or(0, NonZeroU32::get)
                .to_string(),
        ),
        (
            "header_timeout_seconds",
            header_timeout.as_secs().to_string(),
        ),
        ("body_timeout_seconds", body_timeout.as_secs().to_string()),
        ("max_body_bytes", max_body_bytes.to_string()),
        ("write_timeout_seconds", write_timeout.as_secs().to_string()),
        ("max_unsent_bytes", max_unsent_bytes.to_string()),
        ("stall_timeout_seconds", stall_timeout.as_secs().to_string()),
        (
            "shutdown_grace_seconds",
            shutdown_grace.as_secs().to_string(),
        ),
        ("store_max_responses", store_max_responses.to_string()),
        ("store_max_bytes", store_max_bytes.to_string()),
        ("store_seconds", store_time.as_secs().to_string()),
    ]
}

fn auth(auth: &AuthSettings) -> Lines<4> {
    let AuthSettings {
        keys_file,
        open,
        share_prefixes,
        metrics,
    } = auth;
    let keys_file = keys_file.as_deref().map(absolute).unwrap_or_default();
    [
        ("keys_file", quoted(&keys_file)),
        ("open", open.to_string()),
        ("share_prefixes", quoted(share_prefixes.as_str())),
        ("metrics", quoted(metrics.as_str())),
    ]
}

fn model(model: &ModelSettings) -> Lines<14> {
    let ModelSettings {
        path,
        id,
        context,
        max_running,
        threads,
        attention,
        deterministic,
        aliases,
        default,
        pinned,
        preload,
        keep_alive,
        siblings,
        adapters,
    } = model;
    let keep_alive = keep_alive.map_or(0, |time| time.as_secs());
    let adapters = adapters
        .iter()
        .map(|AdapterSettings { name, path }| format!("{name}={}", absolute(path)));
    [
        ("path", quoted(&absolute(path))),
        ("id", quoted(id)),
        ("context", context.to_string()),
        ("max_running", max_running.to_string()),
        ("threads", threads.map_or(0, NonZeroU32::get).to_string()),
        ("attention", quoted(attention.as_str())),
        ("deterministic", deterministic.to_string()),
        ("aliases", list(aliases)),
        ("default", default.to_string()),
        ("pinned", pinned.to_string()),
        ("preload", preload.to_string()),
        ("keep_alive", keep_alive.to_string()),
        ("siblings", list(siblings)),
        ("adapters", list(adapters)),
    ]
}

fn scheduler(scheduler: &SchedulerSettings) -> Lines<4> {
    let SchedulerSettings {
        target_inter_token,
        max_batch_tokens,
        parked_bytes,
        speculation,
    } = scheduler;
    [
        (
            "target_inter_token_ms",
            target_inter_token.as_millis().to_string(),
        ),
        ("max_batch_tokens", max_batch_tokens.to_string()),
        ("parked_bytes", parked_bytes.to_string()),
        ("speculation", quoted(speculation.as_str())),
    ]
}

fn admission(admission: &AdmissionSettings) -> Lines<4> {
    let AdmissionSettings {
        max_waiting,
        deadline,
        priority_deadline,
        flex_deadline,
    } = admission;
    let milliseconds =
        |time: &Option<Duration>| time.map_or(0, |time| time.as_millis()).to_string();
    [
        ("max_waiting", max_waiting.to_string()),
        ("deadline_ms", milliseconds(deadline)),
        ("priority_deadline_ms", milliseconds(priority_deadline)),
        ("flex_deadline_ms", milliseconds(flex_deadline)),
    ]
}

fn telemetry(telemetry: &TelemetrySettings) -> Lines<5> {
    let TelemetrySettings {
        log_format,
        log_level,
        log_prompts,
        energy_in_usage,
        cached_tokens_in_usage,
    } = telemetry;
    [
        ("log_format", quoted(log_format.as_str())),
        ("log_level", quoted(log_level.as_str())),
        ("log_prompts", log_prompts.to_string()),
        ("energy_in_usage", energy_in_usage.to_string()),
        (
            "cached_tokens_in_usage",
            quoted(cached_tokens_in_usage.as_str()),
        ),
    ]
}

pub(super) fn absolute(path: &Path) -> String {
    // Fails only where there is no working directory; then the path as it is says most.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.display().to_string()
}

/// An array of basic strings.
fn list(entries: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let quoted: Vec<_> = entries
        .into_iter()
        .map(|entry| quoted(entry.as_ref()))
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// A basic string of TOML 1.0.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
