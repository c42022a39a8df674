//! How long answers usually are, learnt from those that ended.

use std::collections::HashMap;

use crate::admission::LogMean;

use super::kind::RequestKind;

/// What is known of an answer's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnswerBounds {
    /// Tokens that it may have at most.
    pub(super) most: u32,
    /// Whether it goes on until it has that many.
    pub(super) ignores_end: bool,
    pub(super) kind: RequestKind,
}

/// The usual number of tokens of an answer, by the kind of request: clients that allow more get longer answers,
/// but rarely all that they allow.
#[derive(Debug, Default)]
pub(super) struct UsualLengths {
    all: LogMean,
    /// With and without the length of the prompt. A few hundred kinds at most: each is two logarithms.
    by_kind: HashMap<RequestKind, LogMean>,
}

impl UsualLengths {
    /// Learns from an answer that ended by itself with so many tokens.
    pub(super) fn learn(&mut self, bounds: AnswerBounds, generated: u32) {
        if bounds.ignores_end || bounds.most == 0 {
            return;
        }
        let generated = f64::from(generated.max(1));
        self.all.learn(generated);
        for kind in [bounds.kind, bounds.kind.by_most()] {
            self.by_kind.entry(kind).or_default().learn(generated);
        }
    }

    /// Learns that an answer was not complete with so many tokens.
    pub(super) fn learn_at_least(&mut self, bounds: AnswerBounds, generated: u32) {
        let usual = self.expected(bounds, 0);
        if usual.is_some_and(|usual| f64::from(generated) > usual) {
            self.learn(bounds, generated);
        }
    }

    /// How many tokens an answer is expected to have beyond the `generated` ones; `None` before any
    /// answer has ended.
    pub(super) fn expected(&self, bounds: AnswerBounds, generated: u32) -> Option<f64> {
        let left = f64::from(bounds.most.saturating_sub(generated));
        if bounds.ignores_end || bounds.most == 0 {
            return Some(left);
        }
        let of = |kind| self.by_kind.get(&kind).and_then(LogMean::mean);
        let usual = of(bounds.kind)
            .or_else(|| of(bounds.kind.by_most()))
            .or_else(|| self.all.mean())?;
        // One that is longer than usual may end any time, or go on for as long again.
        let more = (usual - f64::from(generated)).max(usual / 4.0).max(1.0);
        Some(more.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(most: u32) -> AnswerBounds {
        AnswerBounds {
            most,
            ignores_end: false,
            kind: RequestKind::of(700, most),
        }
    }

    #[test]
    fn nothing_is_expected_before_an_answer_has_ended_unless_its_length_is_given() {
        let lengths = UsualLengths::default();
        assert_eq!(lengths.expected(up_to(100), 0), None);
        let given = AnswerBounds {
            ignores_end: true,
            ..up_to(100)
        };
        assert_eq!(lengths.expected(given, 30), Some(70.0));
    }

    #[test]
    fn a_length_is_learnt_for_those_that_allow_as_much_and_bounded_by_it() {
        let mut lengths = UsualLengths::default();
        for _ in 0..20 {
            lengths.learn(up_to(32), 20);
            lengths.learn(up_to(4000), 300);
        }
        let near = |found: Option<f64>, expected: f64| {
            let found = found.expect("learnt");
            assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
        };
        near(lengths.expected(up_to(32), 0), 20.0);
        near(lengths.expected(up_to(32), 15), 5.0);
        near(lengths.expected(up_to(2048), 0), 300.0);
        near(lengths.expected(up_to(3), 0), 3.0);
        near(lengths.expected(up_to(2048), 900), 75.0);
    }

    #[test]
    fn an_answer_that_was_cut_off_teaches_only_that_they_can_be_longer() {
        let mut lengths = UsualLengths::default();
        lengths.learn(up_to(1000), 100);
        lengths.learn_at_least(up_to(1000), 5);
        assert_eq!(lengths.all.count(), 1);
        lengths.learn_at_least(up_to(1000), 400);
        assert!(lengths.expected(up_to(1000), 0) > Some(150.0));
    }
}
