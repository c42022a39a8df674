//! Arithmetic of energy: counters that wrap, and what a second of the engine costs.

use std::time::{Duration, Instant};

/// No package, board or rail of a gateway draws more.
pub(crate) const MOST_WATTS: f64 = 2000.0;
/// Two readings that are nearer say more about the clock than about the power.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// A counter that has not moved for so long does not count.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// Microjoules from `before` to `now` of a counter that starts again at 0 after `range`. None if it
/// went backwards and nobody knows where it wraps, or was beyond that.
pub(crate) fn advance(before: u64, now: u64, range: Option<u64>) -> Option<u64> {
    if now >= before {
        return Some(now - before);
    }
    let range = range.filter(|range| before <= *range)?;
    Some(range - before + now)
}

/// What a reading of a counter tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Nothing yet: it is the first, or too near to the last.
    Unknown,
    /// It is as it was for too long.
    Still,
    /// It went back, or by more than there can be.
    Jumped,
    /// So much since the last time.
    Moved { joules: f64, watts: f64 },
}

/// Counters of microjoules that are read together and summed.
#[derive(Debug, Clone, Default)]
pub(crate) struct EnergyCounter {
    last: Option<(Vec<u64>, Instant)>,
}

impl EnergyCounter {
    /// `raw` has the microjoules of each counter and where it wraps, always in the same order.
    pub(crate) fn observe(&mut self, raw: &[(u64, Option<u64>)], now: Instant) -> Step {
        let values: Vec<u64> = raw.iter().map(|(value, _)| *value).collect();
        let Some((before, at)) = &self.last else {
            self.last = Some((values, now));
            return Step::Unknown;
        };
        let interval = now.saturating_duration_since(*at);
        if interval < LEAST_INTERVAL {
            return Step::Unknown;
        }
        if values == *before {
            // It may count in coarse steps: what comes next is for all of the time.
            return if interval < STANDS_STILL {
                Step::Unknown
            } else {
                Step::Still
            };
        }
        let moved = before
            .iter()
            .zip(raw)
            .map(|(before, (now, range))| advance(*before, *now, *range))
            .sum::<Option<u64>>();
        let comparable = before.len() == values.len();
        self.last = Some((values, now));
        let Some(moved) = moved.filter(|_| comparable) else {
            return Step::Jumped;
        };
        #[allow(clippy::cast_precision_loss)] // far below 2^52 microjoules in any real interval
        let joules = moved as f64 / 1e6;
        let watts = joules / interval.as_secs_f64();
        if watts > MOST_WATTS {
            return Step::Jumped;
        }
        Step::Moved { joules, watts }
    }
}

/// What a second of the engine costs, in watts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tariff {
    /// What is drawn in any case; none while it is not known, and then in `work`.
    pub idle: Option<f64>,
    /// What is drawn because the engine works.
    pub work: f64,
}

impl Tariff {
    /// Joules of so many seconds of the engine, with its share of what is drawn in any case.
    #[must_use]
    pub fn gross(&self, seconds: f64) -> f64 {
        (self.idle.unwrap_or(0.0) + self.work) * seconds
    }
}

/// Below the first share of the time the engine counts as idle, above the second as at work.
const IDLE_SHARE: f64 = 0.02;
const WORK_SHARE: f64 = 0.05;
/// Weight of the newest interval.
const NEWEST: f64 = 0.15;
/// An interval with another program's burst in it may say double or half, and counts as that.
const PLAUSIBLE: f64 = 2.0;

/// Learns from intervals what a source draws at rest and how much more for each second of the
/// engine: a straight line through rest by least squares, since an interval with little work in it
/// says little about it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PowerModel {
    idle: Option<f64>,
    /// Sums of work squared, and of work times draw above rest, that fade.
    squares: f64,
    products: f64,
    /// While nothing is known of rest: all that is drawn at work.
    whole: Option<f64>,
}

impl PowerModel {
    /// For a source whose draw at rest is declared.
    pub(crate) fn with_idle(idle: Option<f64>) -> Self {
        Self {
            idle,
            ..Self::default()
        }
    }

    /// Learns from an interval in which `watts` were drawn and the engine was busy for the share
    /// `busy` of the time (more than 1 where several are).
    pub(crate) fn observe(&mut self, watts: f64, busy: f64) {
        if busy < IDLE_SHARE {
            let known = self.idle.unwrap_or(watts);
            self.idle = Some(known + NEWEST * (watts - known));
        } else if busy >= WORK_SHARE {
            let whole = watts / busy.max(1.0);
            let known = self.whole.unwrap_or(whole);
            self.whole = Some(known + NEWEST * (whole - known));
            if let Some(idle) = self.idle {
                let seen = ((watts - idle) / busy).max(0.02 * watts);
                let known = self.work().unwrap_or(seen);
                let seen = seen.clamp(known / PLAUSIBLE, known * PLAUSIBLE);
                self.squares = (1.0 - NEWEST) * self.squares + busy * busy;
                self.products = (1.0 - NEWEST) * self.products + busy * busy * seen;
            }
        }
    }

    fn work(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| self.products / self.squares)
    }

    pub(crate) fn tariff(&self) -> Option<Tariff> {
        match (self.idle, self.work()) {
            (Some(_), Some(work)) => Some(Tariff {
                idle: self.idle,
                work,
            }),
            _ => Some(Tariff {
                idle: None,
                work: self.whole?,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_wrap_is_counted_through() {
        assert_eq!(advance(90, 10, Some(100)), Some(20));
        assert_eq!(advance(10, 90, Some(100)), Some(80));
        assert_eq!(advance(90, 10, None), None);
        assert_eq!(advance(190, 10, Some(100)), None);
    }

    #[test]
    fn a_counter_that_stands_still_or_jumps_says_nothing() {
        let start = Instant::now();
        let mut counter = EnergyCounter::default();
        let range = Some(262_143_328_850);
        assert_eq!(counter.observe(&[(5, range)], start), Step::Unknown);
        assert_eq!(
            counter.observe(&[(5, range)], after(start, 1.0)),
            Step::Unknown
        );
        assert_eq!(
            counter.observe(&[(5, range)], after(start, 11.0)),
            Step::Still
        );
        let moved = counter.observe(&[(24_000_005, range)], after(start, 12.0));
        let Step::Moved { joules, watts } = moved else {
            panic!("{moved:?}");
        };
        assert!((joules - 24.0).abs() < 1e-9 && (watts - 2.0).abs() < 1e-9);
        // A machine that slept starts again at 0, which looks like a wrap.
        assert_eq!(
            counter.observe(&[(7, range)], after(start, 13.0)),
            Step::Jumped
        );
        assert!(matches!(
            counter.observe(&[(8_000_007, range)], after(start, 14.0)),
            Step::Moved { .. }
        ));
    }

    #[test]
    fn rest_and_work_are_told_apart_and_without_rest_work_is_all() {
        let mut model = PowerModel::default();
        assert_eq!(model.tariff(), None);
        model.observe(20.0, 1.0);
        let all = Tariff {
            idle: None,
            work: 20.0,
        };
        assert_eq!(model.tariff(), Some(all));
        for _ in 0..50 {
            model.observe(8.0, 0.0);
            model.observe(14.0, 0.5);
        }
        let tariff = model.tariff().expect("known");
        assert!((tariff.idle.expect("known") - 8.0).abs() < 0.01);
        assert!((tariff.work - 12.0).abs() < 0.01);
        assert!((tariff.gross(2.0) - 40.0).abs() < 0.1);
    }

    proptest! {
        /// Any draw, any interval, any place of the wrap: the sum of the steps is what was drawn.
        #[test]
        fn no_joule_is_lost_or_counted_twice_across_wraps(
            range in 1_000_000_u64..70_000_000_000,
            first in any::<u64>(),
            steps in prop::collection::vec((1_u64..400, 0.1_f64..4.0), 1..60),
        ) {
            let mut counter = EnergyCounter::default();
            let mut now = Instant::now();
            let mut raw = first % range;
            let (mut drawn, mut counted) = (0.0, 0.0);
            counter.observe(&[(raw, Some(range))], now);
            for (watts, seconds) in steps {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let microjoules = (watts as f64 * seconds * 1e6) as u64;
                // More than one wrap in an interval cannot be seen by anybody.
                prop_assume!(microjoules < range);
                raw = (raw + microjoules) % range;
                now += Duration::from_secs_f64(seconds);
                #[allow(clippy::cast_precision_loss)]
                let joules = microjoules as f64 / 1e6;
                drawn += joules;
                match counter.observe(&[(raw, Some(range))], now) {
                    Step::Moved { joules: moved, watts: seen } => {
                        counted += moved;
                        #[allow(clippy::cast_precision_loss)]
                        let expected = watts as f64;
                        prop_assert!((seen - expected).abs() < 1e-3 * expected);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!((drawn - counted).abs() < 1e-6 * drawn.max(1.0));
        }
    }
}
