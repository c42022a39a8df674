//! Log lines: readable on a terminal, one JSON object a line otherwise.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, TelemetrySettings};

/// Starts logging to standard error, for the rest of the process.
pub fn start(settings: &TelemetrySettings) {
    let json = match settings.log_format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let filter = EnvFilter::new(settings.log_level.as_str());
    let lines = fmt::layer().with_writer(stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    log_panics();
    if json {
        registry
            .with(
                lines
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false),
            )
            .init();
    } else {
        registry
            .with(lines.with_ansi(stderr().is_terminal()))
            .init();
    }
}

/// A panic is a line of the log like any other, inside the span of its request.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(at, "panic: {message}");
    }));
}
