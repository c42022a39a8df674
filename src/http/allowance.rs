//! Decides how long a client may keep writes waiting; the socket enforces it.
//!
//! A limit for each write alone would let a client read a byte a minute and hold its answer for days.
//! So each connection has one allowance. It is spent while a write waits, and every byte that the client
//! reads restores some of it: a client that reads at [`LEAST_RATE`] or faster never runs out, a slower one
//! does. Time in which no write waits changes nothing, so neither a slow stream nor an idle connection
//! gains or loses allowance.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that a client should read while something waits for it: 128 kbit/s, less than the
/// slowest link that a shop has, and enough for hundreds of tokens a second.
const LEAST_RATE: u64 = 16 << 10;

/// The allowance of one connection.
#[derive(Debug)]
pub(crate) struct Allowance {
    most: Duration,
    left: Duration,
    /// When the current wait began, if a write waits.
    waits_since: Option<Instant>,
}

impl Allowance {
    /// Creates a full allowance of `most`.
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            left: most,
            waits_since: None,
        }
    }

    /// Records that a write waits, and returns when the allowance will be used up.
    pub(crate) fn waits(&mut self, now: Instant) -> Instant {
        *self.waits_since.get_or_insert(now) + self.left
    }

    /// Records that the client's side took `bytes`.
    pub(crate) fn took(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.waits_since.take() {
            let waited = now.saturating_duration_since(since);
            self.left = self.left.saturating_sub(waited);
        }
        let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000 / LEAST_RATE);
        let won = Duration::from_nanos(nanoseconds);
        self.left = self.left.saturating_add(won).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// When a client is ended that takes `bytes` at once and then waits for `pause`, again and again.
    fn ended(bytes: usize, pause: Duration) -> Option<Duration> {
        let began = Instant::now();
        let (mut now, mut allowance) = (began, Allowance::new(MOST));
        for _ in 0..100_000 {
            let end = allowance.waits(now);
            if end <= now + pause {
                return Some(end - began);
            }
            now += pause;
            allowance.took(bytes, now);
        }
        None
    }

    #[test]
    fn who_reads_nothing_is_ended_after_the_allowance() {
        assert_eq!(ended(0, 10 * SECOND), Some(MOST));
    }

    #[test]
    fn a_byte_now_and_then_buys_no_more_than_its_time() {
        let end = ended(1, SECOND).expect("ended");
        assert!(end >= MOST && end < MOST + SECOND, "{end:?}");
        let half = ended(8 << 10, SECOND).expect("ended");
        assert!(half > MOST + 58 * SECOND && half <= 2 * MOST, "{half:?}");
    }

    #[test]
    fn who_reads_at_the_least_rate_gets_everything() {
        assert_eq!(ended(16 << 10, SECOND), None);
        assert_eq!(ended(160 << 10, 10 * SECOND), None);
    }

    #[test]
    fn time_in_which_nothing_waits_neither_costs_nor_wins_anything() {
        let began = Instant::now();
        let mut allowance = Allowance::new(MOST);
        assert_eq!(allowance.waits(began), began + MOST);
        allowance.took(1, began + 50 * SECOND);
        let later = began + 1000 * SECOND;
        let left = allowance.waits(later) - later;
        assert!(left >= 10 * SECOND && left < 11 * SECOND, "{left:?}");
        // Asking again does not begin anew.
        assert_eq!(allowance.waits(later + SECOND), later + left);
    }

    #[test]
    fn no_more_is_won_than_there_was_at_first() {
        let began = Instant::now();
        let mut allowance = Allowance::new(MOST);
        allowance.took(usize::MAX, began);
        assert_eq!(allowance.waits(began), began + MOST);
    }
}
