//! From what was observed to figures.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::chat::{AnswerFailure, AnswerTimings};
use super::deadline_figures::DeadlineFigures;
use super::load::LoadPart;
use super::runner::{AnswerEnd, RequestOutcome};

/// What one part of the load gave: in one round, or the median of several.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Figures {
    /// Whole answers.
    pub answers: usize,
    /// Answers that were cut off on purpose.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: usize,
    /// Requests that the server refused with 429 or 503, or gave up when their deadline passed.
    pub refused: usize,
    /// Requests that failed in any other way.
    pub errors: usize,
    /// What the first of these said.
    pub first_error: Option<String>,
    /// Seconds from sending to the first text; absent without answers, as all that follows.
    pub time_to_first_token: Option<Percentiles>,
    /// Seconds between two texts of an answer, each of one token or more.
    pub between_chunks: Option<Percentiles>,
    /// Seconds for each token after the first, on average over each answer.
    pub time_per_token: Option<Percentiles>,
    /// Seconds from sending to the end.
    pub duration: Option<Percentiles>,
    /// Generated tokens of all clients in a second of wall clock.
    pub tokens_per_second: Option<f64>,
    /// How answers kept to their deadline; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DeadlineFigures>,
}

/// Of some measurements; seconds unless it is a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// How many times better one server is than another, above 1 where it is better: its times are
/// the shorter ones, its tokens a second the more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Advantage {
    /// In [`Figures::time_to_first_token`].
    pub time_to_first_token: Option<Percentiles>,
    /// In [`Figures::between_chunks`].
    pub between_chunks: Option<Percentiles>,
    /// In [`Figures::time_per_token`].
    pub time_per_token: Option<Percentiles>,
    /// In [`Figures::duration`].
    pub duration: Option<Percentiles>,
    /// In [`Figures::tokens_per_second`].
    pub tokens_per_second: Option<f64>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde wants
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Figures {
    /// Of one part of a round whose answers were wanted within `deadline`.
    pub(super) fn of(part: LoadPart, round: &[RequestOutcome], deadline: Option<Duration>) -> Self {
        let of_part = || round.iter().filter(|outcome| outcome.part == part);
        let ended =
            |end| of_part().filter(move |outcome| outcome.end.as_ref().is_ok_and(|is| *is == end));
        let whole = || ended(AnswerEnd::Whole).map(|outcome| &outcome.clock);
        let spoken = of_part().filter(|outcome| outcome.end.is_ok());
        let mut failures = of_part()
            .filter_map(|outcome| outcome.end.as_ref().err())
            .filter(|failure| !is_refusal(failure));
        Self {
            answers: whole().count(),
            cut: ended(AnswerEnd::Cut).count(),
            refused: of_part()
                .filter(|outcome| outcome.end.as_ref().is_err_and(is_refusal))
                .count(),
            errors: failures.clone().count(),
            first_error: failures.next().map(ToString::to_string),
            time_to_first_token: Percentiles::of(
                whole().filter_map(AnswerTimings::time_to_first_token),
            ),
            between_chunks: Percentiles::of(spoken.flat_map(|outcome| gaps(outcome, round))),
            time_per_token: Percentiles::of(whole().filter_map(AnswerTimings::time_per_token)),
            duration: Percentiles::of(whole().map(|clock| clock.ended.duration_since(clock.sent))),
            tokens_per_second: tokens_per_second(ended(AnswerEnd::Whole)),
            deadline: deadline.map(|deadline| DeadlineFigures::of(of_part(), deadline)),
        }
    }

    /// Figure by figure, of several rounds; counts are added up.
    pub(super) fn median(rounds: &[Self]) -> Self {
        let percentiles = |of: fn(&Self) -> Option<Percentiles>| {
            let all: Vec<_> = rounds.iter().filter_map(of).collect();
            Percentiles::by(|which| median(all.iter().map(which).collect()))
        };
        Self {
            answers: rounds.iter().map(|round| round.answers).sum(),
            cut: rounds.iter().map(|round| round.cut).sum(),
            refused: rounds.iter().map(|round| round.refused).sum(),
            errors: rounds.iter().map(|round| round.errors).sum(),
            first_error: rounds.iter().find_map(|round| round.first_error.clone()),
            time_to_first_token: percentiles(|round| round.time_to_first_token),
            between_chunks: percentiles(|round| round.between_chunks),
            time_per_token: percentiles(|round| round.time_per_token),
            duration: percentiles(|round| round.duration),
            tokens_per_second: median(
                rounds
                    .iter()
                    .filter_map(|round| round.tokens_per_second)
                    .collect(),
            ),
            deadline: DeadlineFigures::sum(rounds.iter().filter_map(|round| round.deadline)),
        }
    }

    /// How much better these are than those of `other`.
    #[must_use]
    pub fn advantage_over(&self, other: &Self) -> Advantage {
        let times = |of: fn(&Self) -> Option<Percentiles>| {
            let (ours, theirs) = (of(self)?, of(other)?);
            Percentiles::by(|which| ratio(which(&theirs), which(&ours)))
        };
        Advantage {
            time_to_first_token: times(|figures| figures.time_to_first_token),
            between_chunks: times(|figures| figures.between_chunks),
            time_per_token: times(|figures| figures.time_per_token),
            duration: times(|figures| figures.duration),
            tokens_per_second: self
                .tokens_per_second
                .zip(other.tokens_per_second)
                .and_then(|(ours, theirs)| ratio(ours, theirs)),
        }
    }
}

fn is_refusal(failure: &AnswerFailure) -> bool {
    matches!(
        failure,
        AnswerFailure::Refused { .. } | AnswerFailure::DeadlinePassed
    )
}

/// Silences of an answer; of one that runs in the background, those that a newcomer of its step
/// can have caused: it waited for its first token at some time during them.
fn gaps<'a>(
    outcome: &'a RequestOutcome,
    round: &'a [RequestOutcome],
) -> impl Iterator<Item = Duration> + use<'a> {
    let waits: Vec<(Instant, Instant)> = round
        .iter()
        .filter(|other| other.part == LoadPart::Newcomer && other.step == outcome.step)
        .map(|newcomer| {
            let clock = &newcomer.clock;
            (
                clock.sent,
                clock.arrivals.first().copied().unwrap_or(clock.ended),
            )
        })
        .collect();
    let counts = move |gap: &(Instant, Instant)| {
        outcome.part != LoadPart::Running
            || waits.iter().any(|wait| gap.1 > wait.0 && gap.0 < wait.1)
    };
    let lasts = |gap: (Instant, Instant)| gap.1.duration_since(gap.0);
    outcome.clock.gaps().filter(counts).map(lasts)
}

/// Steps run one after the other, so each has a wall clock of its own.
fn tokens_per_second<'a>(answers: impl Iterator<Item = &'a RequestOutcome>) -> Option<f64> {
    let mut tokens = 0;
    let mut steps: Vec<(usize, Instant, Instant)> = Vec::new();
    for RequestOutcome { step, clock, .. } in answers {
        tokens += clock.generated_tokens();
        match steps.iter_mut().find(|(number, ..)| number == step) {
            Some((_, began, ended)) => {
                *began = clock.sent.min(*began);
                *ended = clock.ended.max(*ended);
            }
            None => steps.push((*step, clock.sent, clock.ended)),
        }
    }
    let took = |(_, began, ended): &(usize, Instant, Instant)| ended.duration_since(*began);
    let took: Duration = steps.iter().map(took).sum();
    #[allow(clippy::cast_precision_loss)] // nobody generates 2^52 tokens
    ratio(tokens as f64, took.as_secs_f64())
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// The mean of the middle two of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

impl Percentiles {
    /// By nearest rank; `None` of nothing.
    pub(super) fn of(values: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.map(|value| value.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(index).copied()
        };
        Some(Self {
            p50: rank(50)?,
            p90: rank(90)?,
            p99: rank(99)?,
            max: rank(100)?,
        })
    }

    /// Each of the four, computed the same way.
    fn by(compute: impl Fn(fn(&Self) -> f64) -> Option<f64>) -> Option<Self> {
        Some(Self {
            p50: compute(|values| values.p50)?,
            p90: compute(|values| values.p90)?,
            p99: compute(|values| values.p99)?,
            max: compute(|values| values.max)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(
        part: LoadPart,
        began: Instant,
        sent: u64,
        arrivals: &[u64],
        end: AnswerEnd,
    ) -> RequestOutcome {
        let at = |millis: &u64| began + Duration::from_millis(*millis);
        let mut clock = AnswerTimings::start();
        clock.sent = at(&sent);
        clock.arrivals = arrivals.iter().map(at).collect();
        clock.ended = clock.arrivals.last().copied().unwrap_or(clock.sent);
        RequestOutcome {
            part,
            step: 0,
            clock,
            end: Ok(end),
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values = (1..=10).map(Duration::from_secs);
        let expected = Percentiles {
            p50: 5.0,
            p90: 9.0,
            p99: 10.0,
            max: 10.0,
        };
        assert_eq!(Percentiles::of(values), Some(expected));
        assert_eq!(Percentiles::of(std::iter::empty()), None);
    }

    #[test]
    fn only_gaps_that_the_newcomer_can_have_caused_count() {
        let began = Instant::now();
        let round = [
            outcome(LoadPart::Newcomer, began, 1000, &[2000], AnswerEnd::Whole),
            // Silent for 900 ms before it came, for 1,100 ms while it waited, and for 3,000 ms after.
            outcome(
                LoadPart::Running,
                began,
                0,
                &[10, 910, 930, 2030, 5030],
                AnswerEnd::Cut,
            ),
        ];
        let running = Figures::of(LoadPart::Running, &round, None);
        assert_eq!((running.answers, running.cut), (0, 1));
        let gaps = running.between_chunks.expect("one gap");
        assert!((gaps.max - 1.1).abs() < 1e-9 && (gaps.p50 - 1.1).abs() < 1e-9);
        assert_eq!(running.tokens_per_second, None);
    }

    #[test]
    fn refusals_are_counted_apart_from_errors() {
        let began = Instant::now();
        let failed = |failure| RequestOutcome {
            end: Err(failure),
            ..outcome(LoadPart::Arrivals, began, 0, &[], AnswerEnd::Whole)
        };
        let refused = |status| AnswerFailure::Refused {
            status,
            body: String::new(),
        };
        let round = [
            outcome(LoadPart::Arrivals, began, 0, &[500], AnswerEnd::Whole),
            failed(refused(429)),
            failed(refused(503)),
            failed(AnswerFailure::Empty),
        ];
        let figures = Figures::of(LoadPart::Arrivals, &round, None);
        assert_eq!(
            (figures.answers, figures.refused, figures.errors),
            (1, 2, 1)
        );
        assert_eq!(figures.first_error, Some(AnswerFailure::Empty.to_string()));
        assert_eq!(
            Figures::of(LoadPart::Cold, &round, None),
            Figures::default()
        );
    }

    #[test]
    fn the_clock_of_tokens_a_second_stands_still_between_steps() {
        let began = Instant::now();
        let of_step = |step, sent: u64| {
            let mut outcome = outcome(LoadPart::Warm, began, sent, &[], AnswerEnd::Whole);
            outcome.step = step;
            for _ in 0..10 {
                outcome.clock.text_came(outcome.clock.sent);
            }
            outcome.clock.ended = outcome.clock.sent + Duration::from_millis(500);
            outcome
        };
        let figures = Figures::of(LoadPart::Warm, &[of_step(0, 0), of_step(1, 60_000)], None);
        assert_eq!(figures.tokens_per_second, Some(20.0));
    }

    #[test]
    fn rounds_are_summed_up_by_their_medians() {
        let round = |seconds: f64| Figures {
            answers: 2,
            tokens_per_second: Some(seconds),
            duration: Percentiles::by(|_| Some(seconds)),
            ..Figures::default()
        };
        let figures = Figures::median(&[round(1.0), round(50.0), round(2.0)]);
        assert_eq!((figures.answers, figures.tokens_per_second), (6, Some(2.0)));
        assert_eq!(figures.duration.map(|d| d.p99), Some(2.0));
        assert_eq!(figures.time_to_first_token, None);
        let even = Figures::median(&[round(1.0), round(2.0)]);
        assert_eq!(even.tokens_per_second, Some(1.5));
    }

    #[test]
    fn shorter_times_and_more_tokens_are_both_an_advantage() {
        let server = |seconds: f64, rate: f64| Figures {
            time_to_first_token: Percentiles::by(|_| Some(seconds)),
            tokens_per_second: Some(rate),
            ..Figures::default()
        };
        let advantage = server(0.5, 90.0).advantage_over(&server(2.0, 30.0));
        assert_eq!(advantage.time_to_first_token.map(|t| t.p50), Some(4.0));
        assert_eq!(advantage.tokens_per_second, Some(3.0));
        assert_eq!(advantage.duration, None);
    }
}
