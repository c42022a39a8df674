//! What systemd is told of the service, in the words of `sd_notify(3)`: that it is ready, what it does, that it
//! stops, and that it is alive.
//!
//! Only a service of `Type=notify` has `$NOTIFY_SOCKET`; without it nothing is sent.
//!
//! | file | holds |
//! |---|---|
//! | `messages` | the thread that sends |
//! | `start` | whether the start is over, and whether it gets further: a plain function |
//! | `status` | the line in `systemctl status` |
//! | `watchdog` | whether the process is alive |

mod messages;
mod start;
mod status;
mod watchdog;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::pool::Pool;

use messages::Messages;
use start::{LOAD_PATIENCE, StartProgress, StartStep, StartView};

/// How often the start is looked at though no model has changed its state.
const LOOK: Duration = Duration::from_secs(1);
/// What a stop may take beyond the times that are planned for it.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// The way to systemd; one to nowhere where systemd does not ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Systemd {
    messages: Messages,
}

impl Systemd {
    /// To whoever `$NOTIFY_SOCKET` names.
    #[must_use]
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET");
        Self {
            messages: socket.map_or_else(Messages::to_nobody, Messages::to),
        }
    }

    /// Waits until all models are loaded that are to be there from the start, or have failed, or wait for memory; says
    /// then that the service is ready. Until then it asks for more time whenever a load gets further, and only then, so
    /// that `TimeoutStartSec=` ends a load that hangs and not one that is long.
    ///
    /// Where no model can be served at all it waits for ever: the server ends, and was never ready.
    pub async fn started(&self, pool: &Pool) {
        let mut changes = pool.changes();
        let mut progress = StartProgress::begin(Instant::now());
        let mut looks = tokio::time::interval(LOOK);
        loop {
            self.show_status(pool);
            match progress.step(StartView::of(pool), Instant::now()) {
                StartStep::Ready => break,
                StartStep::Extend => self.messages.send(&[extend_by(LOAD_PATIENCE)]),
                StartStep::Wait => {}
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = looks.tick() => {}
            }
        }
        self.messages.send(&[NotifyState::Ready]);
    }

    /// Keeps the line in `systemctl status` true. It never ends.
    pub async fn follow(&self, pool: &Pool) {
        let mut changes = pool.changes();
        loop {
            self.show_status(pool);
            // The pool holds the sender.
            let _ = changes.changed().await;
        }
    }

    fn show_status(&self, pool: &Pool) {
        self.messages.set_status(&status::of(&pool.entries()));
    }

    /// Feeds the watchdog, where systemd has one for this process, while every loop of the pool gets through its steps
    /// within `stall_timeout`. Ends with the runtime.
    pub fn feed_watchdog(&self, pool: &Arc<Pool>, stall_timeout: Duration) {
        let timeout = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
        if let Some(timeout) = timeout {
            let (messages, pool) = (self.messages.clone(), Arc::clone(pool));
            tokio::spawn(watchdog::feed(messages, pool, timeout, stall_timeout));
        }
    }

    /// The service stops, which may take so long, whatever `TimeoutStopSec=` says.
    pub fn stopping(&self, longest: Duration) {
        self.messages
            .send(&[NotifyState::Stopping, extend_by(longest + STOP_MARGIN)]);
        let seconds = longest.as_secs();
        let status = format!("stopping: waiting for answers under way, {seconds} s at most");
        self.messages.set_status(&status);
    }

    /// The service ends because of this; returns when that is sent.
    pub fn failed(&self, error: &(dyn Error + 'static)) {
        if let Some(number) = os_error(error) {
            self.messages.send(&[NotifyState::Errno(number)]);
        }
        self.messages.set_status(&error.to_string());
        self.messages.flush();
    }
}

fn extend_by(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

/// The number of the system's error at the bottom of this one.
fn os_error(error: &(dyn Error + 'static)) -> Option<u32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let system = error.downcast_ref::<io::Error>();
        if let Some(number) = system.and_then(io::Error::raw_os_error) {
            return u32::try_from(number).ok();
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen: {0}")]
    struct Listen(#[source] io::Error);

    #[test]
    fn the_systems_error_is_found_below_our_own() {
        let in_use = io::Error::from_raw_os_error(98);
        assert_eq!(os_error(&Listen(in_use)), Some(98));
        assert_eq!(os_error(&Listen(io::Error::other("no"))), None);
    }

    #[test]
    fn more_time_than_the_protocol_has_room_for_is_as_much_as_it_has() {
        let text = |seconds| extend_by(Duration::from_secs(seconds)).to_string();
        assert_eq!(text(45), "EXTEND_TIMEOUT_USEC=45000000");
        assert_eq!(text(9000), "EXTEND_TIMEOUT_USEC=4294967295");
    }
}
