//! How answers kept to their deadline, and how well their duration was estimated.

use std::time::Duration;

use serde::Serialize;

use super::chat::{AnswerFailure, DEADLINE_UNREACHABLE};
use super::runner::{AnswerEnd, RequestOutcome};

/// What became of requests with a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DeadlineFigures {
    /// Refused at once, because the deadline could not be met.
    pub refused: usize,
    /// Answered after the deadline, cut off by it, or given up when it passed.
    pub late: usize,
    /// Whole answers whose duration the server had estimated (`x-estimated-ms`).
    pub estimated: usize,
    /// Those of them that took no more than twice as long and no less than half as long as estimated.
    pub within_factor_two: usize,
}

impl DeadlineFigures {
    pub(super) fn of<'a>(
        outcomes: impl Iterator<Item = &'a RequestOutcome>,
        deadline: Duration,
    ) -> Self {
        let mut figures = Self::default();
        for outcome in outcomes {
            figures.add(outcome, deadline);
        }
        figures
    }

    fn add(&mut self, outcome: &RequestOutcome, deadline: Duration) {
        let clock = &outcome.clock;
        match &outcome.end {
            Err(AnswerFailure::Refused { body, .. }) => {
                self.refused += usize::from(body.contains(DEADLINE_UNREACHABLE));
            }
            Err(AnswerFailure::DeadlinePassed) => self.late += 1,
            Ok(AnswerEnd::Whole) => {
                let took = clock.ended.duration_since(clock.sent);
                self.late += usize::from(clock.is_cut_off || took > deadline);
                if let Some(estimate) = clock.estimate.filter(|_| !clock.is_cut_off) {
                    self.estimated += 1;
                    let close = took <= 2 * estimate && estimate <= 2 * took;
                    self.within_factor_two += usize::from(close);
                }
            }
            Err(_) | Ok(AnswerEnd::Cut) => {}
        }
    }

    /// The figures of several rounds together.
    pub(super) fn sum(rounds: impl Iterator<Item = Self>) -> Option<Self> {
        rounds.reduce(|all, more| Self {
            refused: all.refused + more.refused,
            late: all.late + more.late,
            estimated: all.estimated + more.estimated,
            within_factor_two: all.within_factor_two + more.within_factor_two,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench::LoadPart;
    use crate::bench::chat::AnswerTimings;

    fn outcome(
        millis: u64,
        estimate: Option<u64>,
        end: Result<AnswerEnd, AnswerFailure>,
    ) -> RequestOutcome {
        let mut clock = AnswerTimings::start();
        clock.sent = Instant::now();
        clock.ended = clock.sent + Duration::from_millis(millis);
        clock.estimate = estimate.map(Duration::from_millis);
        RequestOutcome {
            part: LoadPart::Warm,
            step: 0,
            clock,
            end,
        }
    }

    #[test]
    fn refusals_late_answers_and_estimates_are_counted() {
        let whole = |millis, estimate| outcome(millis, estimate, Ok(AnswerEnd::Whole));
        let refused = |body: &str| {
            let failure = AnswerFailure::Refused {
                status: 503,
                body: body.to_owned(),
            };
            outcome(0, None, Err(failure))
        };
        let mut cut_off = whole(990, Some(100));
        cut_off.clock.is_cut_off = true;
        let outcomes = [
            whole(100, Some(200)),
            whole(100, Some(201)),
            whole(1200, Some(600)),
            whole(100, None),
            cut_off,
            outcome(0, Some(5), Err(AnswerFailure::DeadlinePassed)),
            refused(r#"{"error":{"code":"deadline_unreachable"}}"#),
            refused(r#"{"error":{"code":"queue_full"}}"#),
            outcome(0, None, Err(AnswerFailure::Empty)),
        ];
        let figures = DeadlineFigures::of(outcomes.iter(), Duration::from_secs(1));
        let expected = DeadlineFigures {
            refused: 1,
            late: 3,
            estimated: 3,
            within_factor_two: 2,
        };
        assert_eq!(figures, expected);
        let twice = DeadlineFigures::sum([figures, figures].into_iter()).expect("two rounds");
        assert_eq!((twice.late, twice.estimated), (6, 6));
        assert_eq!(DeadlineFigures::sum(std::iter::empty()), None);
    }
}
