//! The watchdog: systemd hears that the process is alive only while every loop of the pool makes progress.
//!
//! That the async runtime runs is shown by the task that tells it: where the runtime stands still, nothing is told.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::pool::{BusyLoop, Pool};

use super::messages::Messages;

/// Times that the watchdog is fed in the time after which systemd ends the process.
const FEEDS: u32 = 3;

/// The loop whose step has taken longest of those that have taken longer than `limit`.
fn hanging(busy: Vec<BusyLoop>, limit: Duration) -> Option<BusyLoop> {
    let too_long = busy.into_iter().filter(|one| one.busy_for > limit);
    too_long.max_by_key(|one| one.busy_for)
}

/// Feeds it for ever. `timeout` is systemd's; a step that takes longer than `limit` hangs.
pub(super) async fn feed(messages: Messages, pool: Arc<Pool>, timeout: Duration, limit: Duration) {
    let mut ticks = tokio::time::interval(timeout / FEEDS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hung: Option<BusyLoop> = None;
    loop {
        ticks.tick().await;
        match hanging(pool.busy_loops(), limit) {
            None => {
                messages.send(&[NotifyState::Watchdog]);
                if let Some(hung) = hung.take() {
                    tracing::warn!("{} goes on, and the watchdog is fed again", hung.name);
                }
            }
            Some(hangs) => {
                if hung.is_none() {
                    report(&hangs, timeout);
                }
                hung = Some(hangs);
            }
        }
    }
}

fn report(hangs: &BusyLoop, timeout: Duration) {
    tracing::error!(
        seconds = hangs.busy_for.as_secs(),
        "{} hangs: its step has taken longer than server.stall_timeout_seconds; the watchdog is not fed, and systemd \
         ends and restarts the process within {} s unless the step ends",
        hangs.name,
        timeout.as_secs_f64()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    fn found(busy: &[(&str, u64)]) -> Option<String> {
        let busy = busy.iter().map(|(name, seconds)| BusyLoop {
            name: (*name).to_owned(),
            busy_for: Duration::from_secs(*seconds),
        });
        hanging(busy.collect(), LIMIT).map(|one| one.name)
    }

    #[test]
    fn whoever_rests_or_takes_no_longer_than_allowed_is_alive() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("a", 0), ("b", 120)]), None);
    }

    #[test]
    fn one_loop_that_hangs_is_enough_and_the_longest_is_named() {
        assert_eq!(found(&[("a", 1), ("b", 121)]).as_deref(), Some("b"));
        assert_eq!(found(&[("a", 300), ("b", 121)]).as_deref(), Some("a"));
    }
}
