//! How far estimates are from what came of them, learnt: what the simulation leaves out (requests that come
//! later, drafts, pauses of the governor, the way to the client) is then in the next estimates.

use std::collections::HashMap;

use crate::admission::LogMean;

use super::kind::RequestKind;

/// A single answer cannot show more than this: one that waited while the governor paused the engine says
/// little about others.
const PLAUSIBLE: (f64, f64) = (0.1, 10.0);
/// After [`FIRST_ANSWERS`] a single answer counts for no more than this many times what was expected, or this part
/// of it, so that a rush changes the estimates of quiet hours little.
const SURPRISE: f64 = 2.0;
const FIRST_ANSWERS: u32 = 8;
/// How many answers a kind has to have before it is known better than requests in general: the first of its kind
/// may have been answered while the machine was busy with something else.
const PRIOR_ANSWERS: f64 = 4.0;

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

/// The ratio of actual to estimated times: a factor of all requests, one of the level of load beside that, and one
/// of the kind of request beside both.
#[derive(Debug, Default)]
pub(super) struct Correction {
    all: LogMean,
    by_level: [LogMean; LoadLevel::COUNT],
    /// A few hundred kinds at most: each is two logarithms.
    by_kind: HashMap<RequestKind, LogMean>,
}

impl Correction {
    /// Learns that `estimated` seconds became `actual` ones.
    pub(super) fn learn(
        &mut self,
        level: LoadLevel,
        kind: RequestKind,
        estimated: f64,
        actual: f64,
    ) {
        if estimated <= 0.0 || actual <= 0.0 {
            return;
        }
        let mut ratio = (actual / estimated).clamp(PLAUSIBLE.0, PLAUSIBLE.1);
        let of_kind = self.by_kind.entry(kind).or_default();
        let level = &mut self.by_level[level.0];
        for (prior, mean) in [(0.0, &mut self.all), (0.0, level), (PRIOR_ANSWERS, of_kind)] {
            learn(mean, prior, ratio);
            // The next learns what this leaves over.
            ratio /= factor(mean);
        }
    }

    /// What to multiply an estimate by.
    pub(super) fn factor(&self, level: LoadLevel, kind: RequestKind) -> f64 {
        let of_kind = self.by_kind.get(&kind).map_or(1.0, factor);
        factor(&self.all) * factor(&self.by_level[level.0]) * of_kind
    }
}

fn factor(mean: &LogMean) -> f64 {
    mean.mean().unwrap_or(1.0)
}

fn learn(mean: &mut LogMean, prior: f64, ratio: f64) {
    let expected = factor(mean);
    let surprise = if mean.count() < FIRST_ANSWERS {
        f64::INFINITY
    } else {
        SURPRISE
    };
    mean.learn_beside(prior, ratio.clamp(expected / surprise, expected * surprise));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> RequestKind {
        RequestKind::of(700, 32)
    }

    #[test]
    fn a_systematic_error_disappears_at_each_level_of_load_and_for_each_kind() {
        let mut correction = Correction::default();
        let (alone, busy) = (LoadLevel::of(0), LoadLevel::of(12));
        let short = RequestKind::of(20, 128);
        assert!((correction.factor(alone, kind()) - 1.0).abs() < 1e-9);
        for _ in 0..200 {
            correction.learn(alone, kind(), 1.0, 3.0);
            correction.learn(busy, kind(), 4.0, 2.0);
            correction.learn(busy, short, 1.0, 1.0);
        }
        let near = |level, kind, expected: f64| {
            let found = correction.factor(level, kind);
            assert!(
                (found / expected - 1.0).abs() < 0.3,
                "{found}, not {expected}"
            );
        };
        near(alone, kind(), 3.0);
        near(busy, kind(), 0.5);
        near(busy, short, 1.0);
        let unknown = correction.factor(LoadLevel::of(200), kind());
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
            correction.learn(level, kind(), 1.0, 1.0);
        }
        correction.learn(level, kind(), 1.0, 1e6);
        assert!(correction.factor(level, kind()) < 1.2);
        correction.learn(level, kind(), 0.0, 1.0);
        correction.learn(level, kind(), 1.0, 0.0);
        assert!(correction.factor(level, kind()).is_finite());
    }

    #[test]
    fn levels_are_powers_of_two_without_an_end() {
        let levels = [0, 1, 2, 3, 6, 7, usize::MAX - 1].map(|others| LoadLevel::of(others).0);
        assert_eq!(levels, [0, 1, 1, 2, 2, 3, 9]);
    }
}
