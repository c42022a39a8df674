//! How long a request for vectors will take, from what the batcher has to do and from how long earlier
//! requests took.
//!
//! Every batch takes texts of each request in turn, so that no request is held up by more of another than it
//! has itself: what counts of a long one is as much as the newcomer's own. Seconds for each of these tokens are
//! learnt by their number, because a few take longer than their share of many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{LogMean, MissedDeadline, Trust, retry_after, to_duration};
use crate::sync::{Mutex, MutexGuard};

/// What an embedding model has to do, shared with those who admit requests.
#[derive(Debug, Clone, Default)]
pub struct EmbeddingLoadBoard(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    /// The tokens of each request that is waiting or being computed.
    requests: Vec<(u64, usize)>,
    next: u64,
    /// Seconds for each token that goes before the end of a request.
    pace: LogMean,
    /// The same, by the binary logarithm of the number of these tokens.
    pace_by_size: [LogMean; 32],
    trust: Trust,
}

/// A request that counts in what there is to do until this is dropped.
#[derive(Debug)]
pub struct EmbeddingForecast {
    board: EmbeddingLoadBoard,
    number: u64,
    own: usize,
    /// Tokens that go before its end.
    before: usize,
    made: Instant,
}

impl EmbeddingLoadBoard {
    /// Estimates how long a request of so many tokens takes from its arrival, and notes it. There is no
    /// estimate while too little is known.
    ///
    /// # Errors
    /// That its deadline has passed, or cannot be met.
    pub fn announce(
        &self,
        tokens: usize,
        arrived: Instant,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(EmbeddingForecast, Option<Duration>), MissedDeadline> {
        let mut board = self.board();
        let before = board.before(tokens);
        let waited = now.saturating_duration_since(arrived);
        let whole = |seconds: f64| waited.saturating_add(to_duration(seconds));
        let estimate = board.seconds(before).map(whole);
        if let Some(deadline) = deadline {
            let allowed = deadline.saturating_duration_since(arrived);
            if waited >= allowed {
                return Err(MissedDeadline::passed(allowed));
            }
            if let Some(estimate) = estimate
                && !board.trust.may_be_within(estimate, allowed, now)
            {
                board.trust.refused();
                let alone = board.seconds(tokens).map_or(estimate, to_duration);
                return Err(MissedDeadline::foreseen(allowed, estimate, alone > allowed));
            }
        }
        let number = board.next;
        board.next += 1;
        board.requests.push((number, tokens));
        let forecast = EmbeddingForecast {
            board: self.clone(),
            number,
            own: tokens,
            before,
            made: now,
        };
        Ok((forecast, estimate))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock()
    }
}

impl EmbeddingForecast {
    /// The request was answered: how long that took tells how long others take.
    pub(super) fn answered(&self, now: Instant) {
        let took = now.saturating_duration_since(self.made);
        self.board.board().learn(self.before, took, now);
    }

    /// When a request that was too late is likely to be answered within `allowed`.
    pub(super) fn retry_after(&self, allowed: Duration) -> Duration {
        let board = self.board.board();
        let seconds = board.seconds(board.before(self.own)).unwrap_or(0.0);
        retry_after(to_duration(seconds), allowed)
    }
}

impl Drop for EmbeddingForecast {
    fn drop(&mut self) {
        let mut board = self.board.board();
        board.requests.retain(|(number, _)| *number != self.number);
    }
}

impl Board {
    /// Tokens that are computed before a newcomer of so many tokens is complete, its own among them.
    fn before(&self, own: usize) -> usize {
        let others = self.requests.iter().map(|(_, tokens)| (*tokens).min(own));
        own + others.sum::<usize>()
    }

    #[allow(clippy::cast_precision_loss)] // a gateway holds millions of tokens at most
    fn seconds(&self, before: usize) -> Option<f64> {
        let pace = self.pace_by_size[size(before)]
            .mean()
            .or(self.pace.mean())?;
        Some(pace * before as f64)
    }

    #[allow(clippy::cast_precision_loss)] // as above
    fn learn(&mut self, before: usize, took: Duration, now: Instant) {
        let pace = took.as_secs_f64() / before.max(1) as f64;
        self.pace.learn(pace);
        self.pace_by_size[size(before)].learn(pace);
        self.trust.compared(now);
    }
}

fn size(tokens: usize) -> usize {
    (tokens.max(1).ilog2() as usize).min(31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A board that has seen requests of 100 tokens that took a second each.
    fn experienced(now: Instant) -> EmbeddingLoadBoard {
        let board = EmbeddingLoadBoard::default();
        for _ in 0..10 {
            let (forecast, _) = board.announce(100, now, None, now).expect("no deadline");
            forecast.answered(now + SECOND);
        }
        board
    }

    #[test]
    fn nothing_is_refused_before_anything_was_measured() {
        let now = Instant::now();
        let board = EmbeddingLoadBoard::default();
        let tight = Some(now + Duration::from_millis(1));
        let (_forecast, estimate) = board.announce(100_000, now, tight, now).expect("admitted");
        assert_eq!(estimate, None);
    }

    #[test]
    fn a_request_waits_for_no_more_of_another_than_it_has_itself() {
        let now = Instant::now();
        let board = experienced(now);
        let estimate = |tokens| {
            let (_, estimate) = board.announce(tokens, now, None, now).expect("no deadline");
            estimate.expect("measured").as_secs_f64()
        };
        assert!((estimate(100) - 1.0).abs() < 1e-6);
        let _long = board.announce(10_000, now, None, now).expect("no deadline");
        let _short = board.announce(10, now, None, now).expect("no deadline");
        assert!((estimate(100) - 2.1).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_met_is_refused_and_not_counted() {
        let now = Instant::now();
        let board = experienced(now);
        let soon = Some(now + SECOND / 2);
        let missed = board.announce(100, now, soon, now).expect_err("refused");
        assert_eq!((missed.allowed, missed.even_alone), (SECOND / 2, true));
        assert_eq!(board.board().requests, []);
        let passed = board
            .announce(1, now, soon, now + SECOND)
            .expect_err("refused");
        assert_eq!(passed.estimated, None);
        assert!(board.announce(10, now, soon, now).is_ok());
    }
}
