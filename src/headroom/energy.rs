//! Arithmetic of energy: counters that wrap, and what a second of the engine costs.

use std::time::{Duration, Instant};

/// No package, board or rail of a gateway draws more.
pub(crate) const MOST_WATTS: f64 = 2000.0;
/// Two readings that are nearer say more about the clock than about the power.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// A counter that has not moved for this long does not work.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// Whether a number of watts is a limit: registers that are not set are 0 or as high as can be.
pub(crate) fn is_limit(watts: f64) -> bool {
    watts > 0.0 && watts <= MOST_WATTS
}

/// Microjoules from `before` to `now` of a counter that starts again at 0 after `range`. `None` if it
/// went backwards and nobody knows where it wraps, or was beyond that.
pub(crate) fn advance(before: u64, now: u64, range: Option<u64>) -> Option<u64> {
    if now >= before {
        return Some(now - before);
    }
    let range = range.filter(|range| before <= *range)?;
    Some(range - before + now)
}

/// The change of a counter since its last reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CounterStep {
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
    pub(crate) fn observe(&mut self, raw: &[(u64, Option<u64>)], now: Instant) -> CounterStep {
        let values: Vec<u64> = raw.iter().map(|(value, _)| *value).collect();
        let Some((before, at)) = &self.last else {
            self.last = Some((values, now));
            return CounterStep::Unknown;
        };
        let interval = now.saturating_duration_since(*at);
        if interval < LEAST_INTERVAL {
            return CounterStep::Unknown;
        }
        if values == *before {
            // It may count in coarse steps: what comes next is for all of the time.
            return if interval < STANDS_STILL {
                CounterStep::Unknown
            } else {
                CounterStep::Still
            };
        }
        let moved = before
            .iter()
            .zip(raw)
            .map(|(before, (now, range))| advance(*before, *now, *range))
            .try_fold(0_u64, |sum, moved| sum.checked_add(moved?));
        let comparable = before.len() == values.len();
        self.last = Some((values, now));
        let Some(moved) = moved.filter(|_| comparable) else {
            return CounterStep::Jumped;
        };
        #[allow(clippy::cast_precision_loss)] // far below 2^52 microjoules in any real interval
        let joules = moved as f64 / 1e6;
        let watts = joules / interval.as_secs_f64();
        if watts > MOST_WATTS {
            return CounterStep::Jumped;
        }
        CounterStep::Moved { joules, watts }
    }
}

/// The power, in watts, that goes with the time in which the engine computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyRate {
    /// Drawn in any case; absent while it is not known, and then part of `work`.
    pub idle: Option<f64>,
    /// Drawn because the engine computes.
    pub work: f64,
}

impl EnergyRate {
    /// Returns the joules of `seconds` of computing: `work` and what is drawn in any case.
    #[must_use]
    pub fn gross(&self, seconds: f64) -> f64 {
        (self.idle.unwrap_or(0.0) + self.work) * seconds
    }
}

/// What an interval weighs less than the next, in the line and in its place.
const FADES: f64 = 0.97;
const NEWEST: f64 = 0.15;
/// The slope is believed only of intervals that differ: in their share of work by so much
/// (variance), and by so much of its mean.
const LEAST_VARIANCE: f64 = 0.0005;
const LEAST_VARIATION: f64 = 0.15;
/// Weight of a new slope.
const TURNS: f64 = 0.2;
/// Bursts of other programs may make it look double or half, and count as that.
const PLAUSIBLE: f64 = 2.0;
/// An engine that works for more of the time than this leaves nothing to be seen of rest.
const ALWAYS: f64 = 0.9;

/// The draw as a straight line over the share of the time that engines compute, learnt from
/// intervals. Its slope is what work costs, and comes from intervals that differ; its start is what
/// is drawn in any case, and follows every interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PowerModel {
    /// Sums that fade: of intervals, their busy shares and watts, squares and products.
    weight: f64,
    busy: f64,
    watts: f64,
    squares: f64,
    products: f64,
    /// Short averages of watts and busy shares.
    now: Option<(f64, f64)>,
    slope: Option<f64>,
}

impl PowerModel {
    /// Learns from an interval in which `watts` were drawn and engines were busy for the share
    /// `busy` of the time (more than 1 where there are several).
    pub(crate) fn observe(&mut self, watts: f64, busy: f64) {
        let (mean_watts, mean_busy) = self.now.unwrap_or((watts, busy));
        self.now = Some((
            mean_watts + NEWEST * (watts - mean_watts),
            mean_busy + NEWEST * (busy - mean_busy),
        ));
        let fade = |sum: &mut f64, more: f64| *sum = FADES * *sum + more;
        fade(&mut self.weight, 1.0);
        fade(&mut self.busy, busy);
        fade(&mut self.watts, watts);
        fade(&mut self.squares, busy * busy);
        fade(&mut self.products, busy * watts);
        if let Some(seen) = self.seen_slope() {
            let known = self.slope.unwrap_or(seen);
            let seen = seen.clamp(known / PLAUSIBLE, known * PLAUSIBLE);
            self.slope = Some(known + TURNS * (seen - known));
        }
    }

    /// The slope by least squares, where the intervals tell it.
    fn seen_slope(&self) -> Option<f64> {
        let (busy, watts) = (self.busy / self.weight, self.watts / self.weight);
        let variance = self.squares / self.weight - busy * busy;
        let least = LEAST_VARIANCE.max((LEAST_VARIATION * busy).powi(2));
        if variance < least {
            return None;
        }
        let slope = (self.products / self.weight - busy * watts) / variance;
        // Work that costs nothing, or more than all there is, was another program's doing.
        let most = watts / busy;
        (slope > 0.0).then(|| slope.clamp(0.02 * watts, most))
    }

    pub(crate) fn energy_rate(&self) -> Option<EnergyRate> {
        let (watts, busy) = self.now?;
        match self.slope {
            Some(work) => Some(EnergyRate {
                idle: Some((watts - work * busy).max(0.0)),
                work,
            }),
            None if busy >= ALWAYS => Some(EnergyRate {
                idle: None,
                work: watts / busy.max(1.0),
            }),
            None => None,
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
        assert_eq!(counter.observe(&[(5, range)], start), CounterStep::Unknown);
        assert_eq!(
            counter.observe(&[(5, range)], after(start, 1.0)),
            CounterStep::Unknown
        );
        assert_eq!(
            counter.observe(&[(5, range)], after(start, 11.0)),
            CounterStep::Still
        );
        let moved = counter.observe(&[(24_000_005, range)], after(start, 12.0));
        let CounterStep::Moved { joules, watts } = moved else {
            panic!("{moved:?}");
        };
        assert!((joules - 24.0).abs() < 1e-9 && (watts - 2.0).abs() < 1e-9);
        // A machine that slept starts again at 0, which looks like a wrap.
        assert_eq!(
            counter.observe(&[(7, range)], after(start, 13.0)),
            CounterStep::Jumped
        );
        assert!(matches!(
            counter.observe(&[(8_000_007, range)], after(start, 14.0)),
            CounterStep::Moved { .. }
        ));
    }

    #[test]
    fn rest_and_work_are_told_apart_by_intervals_that_differ() {
        let mut model = PowerModel::default();
        assert_eq!(model.energy_rate(), None);
        for _ in 0..5 {
            model.observe(20.0, 1.0);
        }
        let all = EnergyRate {
            idle: None,
            work: 20.0,
        };
        assert_eq!(model.energy_rate(), Some(all), "no rest was ever seen");
        let mut paced = PowerModel::default();
        for _ in 0..50 {
            paced.observe(12.0, 1.0 / 3.0);
        }
        assert_eq!(paced.energy_rate(), None, "it may be anything");
        for busy in [0.0, 0.5, 0.0, 0.05, 0.0, 0.0, 0.3] {
            model.observe(8.0 + 12.0 * busy, busy);
        }
        for _ in 0..200 {
            model.observe(8.0 + 12.0 * 0.3, 0.3);
        }
        let energy_rate = model.energy_rate().expect("known");
        assert!(
            (energy_rate.idle.expect("known") - 8.0).abs() < 0.05,
            "{energy_rate:?}"
        );
        assert!((energy_rate.work - 12.0).abs() < 0.1, "{energy_rate:?}");
        assert!((energy_rate.gross(2.0) - 40.0).abs() < 0.3);
    }

    #[test]
    fn short_requests_now_and_then_are_enough() {
        let mut model = PowerModel::default();
        for second in 0..60 {
            let busy = if second % 7 == 0 { 0.08 } else { 0.0 };
            let noise = 0.1 * f64::from(second % 5 - 2);
            model.observe(8.0 + 12.0 * busy + noise, busy);
        }
        let energy_rate = model.energy_rate().expect("known");
        assert!(
            (energy_rate.idle.expect("known") - 8.0).abs() < 0.3,
            "{energy_rate:?}"
        );
        assert!((energy_rate.work - 12.0).abs() < 6.0, "{energy_rate:?}");
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
                    CounterStep::Moved { joules: moved, watts: seen } => {
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
