//! How far estimates are from what came of them, learnt: what the simulation leaves out (requests that come
//! later, drafts, pauses of the governor, the way to the client) is then in the next estimates.

use crate::admission::LogMean;

/// Answers at one level of load after which that level is known for itself.
const LEAST_AT_A_LEVEL: u32 = 3;
/// A single answer cannot show more than this: one that waited while the governor paused the engine says
/// little about others.
const PLAUSIBLE: (f64, f64) = (0.1, 10.0);

/// How much is going on when an estimate is made: the number of other requests, in powers of two. Who comes
/// first of many is overtaken by the load, who comes last is not, so these are learnt apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadLevel(usize);

impl LoadLevel {
    const COUNT: usize = 10;

    pub(super) fn of(others: usize) -> Self {
        Self(((others + 1).ilog2() as usize).min(Self::COUNT - 1))
    }
}

/// The ratio of actual to estimated times.
#[derive(Debug, Default)]
pub(super) struct Correction {
    all: LogMean,
    by_level: [LogMean; LoadLevel::COUNT],
}

impl Correction {
    /// Learns that `estimated` seconds became `actual` ones.
    pub(super) fn learn(&mut self, level: LoadLevel, estimated: f64, actual: f64) {
        if estimated <= 0.0 || actual <= 0.0 {
            return;
        }
        let ratio = (actual / estimated).clamp(PLAUSIBLE.0, PLAUSIBLE.1);
        self.all.learn(ratio);
        self.by_level[level.0].learn(ratio);
    }

    /// What to multiply an estimate by.
    pub(super) fn factor(&self, level: LoadLevel) -> f64 {
        let of_level = &self.by_level[level.0];
        let known = of_level.count() >= LEAST_AT_A_LEVEL;
        let mean = if known {
            of_level.mean()
        } else {
            self.all.mean()
        };
        mean.unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systematic_error_disappears_at_each_level_of_load() {
        let mut correction = Correction::default();
        let (alone, busy) = (LoadLevel::of(0), LoadLevel::of(12));
        assert!((correction.factor(alone) - 1.0).abs() < 1e-9);
        for _ in 0..30 {
            correction.learn(alone, 1.0, 3.0);
            correction.learn(busy, 4.0, 2.0);
        }
        assert!((correction.factor(alone) - 3.0).abs() < 1e-6);
        assert!((correction.factor(busy) - 0.5).abs() < 1e-6);
        let unknown = correction.factor(LoadLevel::of(200));
        assert!(
            (0.5..3.0).contains(&unknown),
            "between what is known: {unknown}"
        );
    }

    #[test]
    fn one_strange_answer_changes_little() {
        let mut correction = Correction::default();
        let level = LoadLevel::of(3);
        for _ in 0..30 {
            correction.learn(level, 1.0, 1.0);
        }
        correction.learn(level, 1.0, 1e6);
        assert!(correction.factor(level) < 1.2);
        correction.learn(level, 0.0, 1.0);
        correction.learn(level, 1.0, 0.0);
        assert!(correction.factor(level).is_finite());
    }

    #[test]
    fn levels_are_powers_of_two_without_an_end() {
        let levels = [0, 1, 2, 3, 6, 7, usize::MAX - 1].map(|others| LoadLevel::of(others).0);
        assert_eq!(levels, [0, 1, 1, 2, 2, 3, 9]);
    }
}
