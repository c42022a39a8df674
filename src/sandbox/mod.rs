//! The process shuts itself off from what it does not need: files, ports, other processes (Landlock).
//!
//! Whoever takes over the process through a defect finds its models, its keys' hashes and its sensors, and no shell to start,
//! no other file to read and nobody to call. docs/sandbox.md says it for people.
//!
//! The kernel restricts the calling thread and what it starts later, so it is done before the first other thread, and
//! what may be reached is decided once: by the settings and by where links lead at that moment. Nothing here is a reason
//! not to serve. An old kernel knows less of it or nothing, and then the systemd unit is the wall.
//!
//! | file | does |
//! |---|---|
//! | `surroundings` | looks up what the settings do not say |
//! | `needs` | decides what is needed; pure |
//! | `links` | from names to the folders that they lead through |
//! | `enter` | makes rules of that, and has the kernel keep them |
//! | `probe` | finds out whether asking the kernel would end the process |
//! | `self_test` | enters it and tries what must fail and what must work |

mod enter;
mod links;
mod needs;
#[cfg(test)]
mod needs_tests;
mod probe;
mod self_test;
mod surroundings;

use std::path::PathBuf;

use prometheus::IntGauge;

use crate::config::Settings;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::MetricsError;

pub use probe::{COMMAND as PROBE_COMMAND, probe};
pub use self_test::{SelfTest, self_test};

use enter::Entered;
use surroundings::Surroundings;

/// The newest version of the kernel's interface whose restrictions were tried. Later ones are about UDP and Unix sockets.
pub const NEWEST_ABI: u32 = 7;

/// How far the process is shut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    abi: u32,
}

impl Sandbox {
    /// Shuts this thread off, and all that it starts from here on, and says so in the log.
    #[must_use]
    pub fn enter(settings: &Settings, config_files: &[PathBuf]) -> Self {
        if !settings.server.sandbox {
            tracing::warn!(
                "server.sandbox is false: the process may reach whatever its user may (docs/sandbox.md)"
            );
            return Self { abi: 0 };
        }
        let surroundings = Surroundings::look(config_files);
        let needs = needs::needs(settings, &surroundings);
        match enter::enter(&needs, NEWEST_ABI) {
            Ok(entered) => Self::told(&entered),
            Err(reason) => {
                tracing::warn!(
                    "the process is not shut off from other files by itself: {reason}; the systemd unit remains the wall \
                     (docs/sandbox.md)"
                );
                Self { abi: 0 }
            }
        }
    }

    fn told(entered: &Entered) -> Self {
        for (setting, place) in &entered.missing {
            tracing::warn!(
                "{setting} {place}: there is nothing yet, and what comes there later is out of reach until a restart \
                 (server.sandbox, docs/sandbox.md)"
            );
        }
        let abi = entered.abi;
        tracing::info!(
            landlock_abi = abi,
            "sandbox: the process reaches {}",
            in_words(abi)
        );
        Self { abi }
    }

    /// Shows it among the metrics.
    ///
    /// # Errors
    /// [`MetricsError`] on a defect of the name below.
    pub fn show(self, metrics: &Metrics) -> Result<(), MetricsError> {
        let abi = IntGauge::new(
            "edgellm_sandbox_landlock_abi",
            "Version of Landlock by which the kernel keeps the process from other files (1 and more) and ports (4 and more); 0: it does not, because it cannot or server.sandbox is false.",
        )?;
        abi.set(self.abi.into());
        metrics.register(Box::new(abi))
    }
}

/// What is kept at a version of the interface.
fn in_words(abi: u32) -> &'static str {
    match abi {
        0..=3 => {
            "no files but its own; this kernel cannot keep it from ports (Linux 6.7) and other processes (6.12)"
        }
        4..=5 => {
            "no files but its own and connects to no TCP port; this kernel cannot keep it from other processes (Linux 6.12)"
        }
        _ => "no files but its own, connects to no TCP port and signals no other process",
    }
}
