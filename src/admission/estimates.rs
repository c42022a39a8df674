//! What estimates of a request's duration have in common, whatever kind of model answers it.

use std::time::{Duration, Instant};

/// Answers that have to end before an estimate is good enough to refuse a request by.
const LEAST_ANSWERS: u32 = 4;
/// After so long without an answer that ended, a measurement may be wrong by a factor of two, after twice that
/// by four, and so on up to [`MOST_DOUBT`]. Without this, a server that became slow for a while would refuse
/// all that would show it that it is fast again.
const DOUBLED_DOUBT: Duration = Duration::from_secs(60);
const MOST_DOUBT: f64 = 16.0;

/// An exponential mean of ratios or sizes, of which each counts by its logarithm: half as much and twice as
/// much cancel each other out.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogMean {
    count: u32,
    log: f64,
}

impl LogMean {
    /// Weight of the newest value once there are enough.
    const NEWEST_WEIGHT: f64 = 1.0 / 16.0;

    /// Adds a value; one that is not above 0 has no logarithm and is left out.
    pub fn learn(&mut self, value: f64) {
        self.learn_beside(0.0, value);
    }

    /// Adds a value to a mean that is taken to be 1 until there are clearly more values than `prior`.
    pub fn learn_beside(&mut self, prior: f64, value: f64) {
        let log = value.ln();
        if !log.is_finite() {
            return;
        }
        self.count = self.count.saturating_add(1);
        let seen = f64::from(self.count) + prior;
        let weight = seen.recip().max(Self::NEWEST_WEIGHT);
        self.log += weight * (log - self.log);
    }

    /// The mean; `None` of nothing.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.log.exp())
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// So many refusals in a row, without an answer that ended in between, double the doubt as well: where all are
/// refused, one of them has to show now and then that it is right.
const DOUBLING_REFUSALS: f64 = 16.0;

/// How far estimates may be relied on: not at all until some have been compared with what came of them, and
/// less the longer ago that was and the more was refused since.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust {
    answers: u32,
    /// When an answer last ended.
    latest: Option<Instant>,
    /// Requests that were refused since then.
    refused: u32,
}

impl Trust {
    /// An answer has ended, and its estimate was compared with how long it took.
    pub fn compared(&mut self, now: Instant) {
        self.answers = self.answers.saturating_add(1);
        self.latest = Some(now);
        self.refused = 0;
    }

    /// A request was refused by its estimate.
    pub fn refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// Whether an answer that is estimated to take so long may well be there within `allowed`.
    #[must_use]
    pub fn may_be_within(&self, estimated: Duration, allowed: Duration, now: Instant) -> bool {
        let Some(latest) = self.latest.filter(|_| self.answers >= LEAST_ANSWERS) else {
            return true;
        };
        let age = now.saturating_duration_since(latest).as_secs_f64();
        let doublings =
            age / DOUBLED_DOUBT.as_secs_f64() + f64::from(self.refused) / DOUBLING_REFUSALS;
        let doubt = doublings.exp2().min(MOST_DOUBT);
        estimated.as_secs_f64() <= allowed.as_secs_f64() * doubt
    }
}

/// A computed number of seconds as a duration: the longest one instead of what is none.
#[must_use]
pub fn to_duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_and_half_cancel_each_other_out_and_the_latest_count_most() {
        let mut mean = LogMean::default();
        assert_eq!(mean.mean(), None);
        for value in [2.0, 0.5, 0.0, -1.0, f64::NAN, f64::INFINITY] {
            mean.learn(value);
        }
        assert_eq!(mean.count(), 2);
        assert!((mean.mean().expect("two") - 1.0).abs() < 1e-9);
        (0..100).for_each(|_| mean.learn(8.0));
        assert!((mean.mean().expect("many") - 8.0).abs() < 0.1);
    }

    #[test]
    fn a_mean_that_is_taken_to_be_1_needs_more_than_one_value_to_change() {
        let mut mean = LogMean::default();
        mean.learn_beside(4.0, 32.0);
        assert!((mean.mean().expect("one") - 2.0).abs() < 1e-9);
        (0..60).for_each(|_| mean.learn_beside(4.0, 32.0));
        assert!(mean.mean() > Some(28.0));
    }

    #[test]
    fn a_fresh_server_refuses_nothing_on_a_guess() {
        let now = Instant::now();
        let (long, short) = (Duration::from_secs(100), Duration::from_secs(1));
        let mut trust = Trust::default();
        for _ in 0..LEAST_ANSWERS {
            assert!(trust.may_be_within(long, short, now));
            trust.compared(now);
        }
        assert!(!trust.may_be_within(long, short, now));
        assert!(trust.may_be_within(short, short, now));
    }

    #[test]
    fn where_all_are_refused_one_is_let_in_now_and_then() {
        let now = Instant::now();
        let mut trust = Trust::default();
        (0..LEAST_ANSWERS).for_each(|_| trust.compared(now));
        let allowed = Duration::from_secs(1);
        let refused = |trust: &mut Trust, seconds| {
            let estimated = Duration::from_secs(seconds);
            let is_refused = |trust: &Trust| !trust.may_be_within(estimated, allowed, now);
            let refusals = (0..1000).take_while(|_| {
                let refused = is_refused(trust);
                trust.refused();
                refused
            });
            refusals.count()
        };
        assert_eq!(refused(&mut trust, 2), 16);
        trust.compared(now);
        assert_eq!(refused(&mut trust, 2), 16, "again from the beginning");
        trust.compared(now);
        assert_eq!(refused(&mut trust, 17), 1000, "too far off to be a mistake");
    }

    #[test]
    fn an_old_measurement_is_doubted_until_there_is_a_new_one() {
        let now = Instant::now();
        let mut trust = Trust::default();
        (0..LEAST_ANSWERS).for_each(|_| trust.compared(now));
        let within = |trust: Trust, later| {
            let (estimated, allowed) = (Duration::from_secs(7), Duration::from_secs(1));
            trust.may_be_within(estimated, allowed, now + later)
        };
        assert!(!within(trust, Duration::ZERO));
        assert!(!within(trust, 2 * DOUBLED_DOUBT));
        assert!(within(trust, 3 * DOUBLED_DOUBT));
        trust.compared(now + 3 * DOUBLED_DOUBT);
        assert!(!within(trust, 3 * DOUBLED_DOUBT));
        let never = Duration::from_secs(1000);
        let allowed = Duration::from_secs(1);
        assert!(!trust.may_be_within(never, allowed, now + 100 * DOUBLED_DOUBT));
    }
}
