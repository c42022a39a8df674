//! The load of one key that asks too much, and what another one notices of it.

use std::time::Duration;

use serde::Serialize;

use super::load::{Lane, LaneStart, LoadPart, LoadProfile, LoadStep, Question, at_once};
use super::runner::{AnswerEnd, RequestOutcome};

/// From one short question to the next, whether the first is answered or not.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);

/// The short questions alone, and again beside the flood.
pub(super) fn script(
    clients: usize,
    requests: usize,
    short: impl Fn(usize) -> Question,
    long: impl Fn(usize) -> Question,
) -> Vec<LoadStep> {
    // The flood has the first second for itself.
    let every_second = |part, first_question: usize| {
        let mut start = Duration::ZERO;
        let lane = move |question| {
            start += BETWEEN_QUESTIONS;
            Lane {
                start: LaneStart::After(start),
                ..at_once(part, vec![question])
            }
        };
        let questions: Vec<_> = (first_question..first_question + requests)
            .map(&short)
            .collect();
        questions.into_iter().map(lane)
    };
    let flood = (0..clients).map(|client| Lane {
        background: true,
        floods: true,
        ..at_once(LoadPart::Flood, vec![long(client)])
    });
    vec![
        every_second(LoadPart::Calm, 0).collect(),
        every_second(LoadPart::Flooded, requests)
            .chain(flood)
            .collect(),
    ]
}

/// What the flood does to the first tokens of who asks once a second. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FloodFigures {
    /// First tokens without the flood.
    pub alone: FirstTokens,
    /// First tokens beside the flood.
    pub flooded: FirstTokens,
    /// Twice the 95th percentile alone and twice the server's `scheduler.target_inter_token_ms`; absent if too many
    /// had no answer.
    pub allowed: Option<f64>,
    /// The 95th percentile beside the flood over what is allowed: 1 at most is good.
    pub ratio: Option<f64>,
}

/// Times to the first token, by nearest rank, where a request without a whole answer waits for ever: what is absent is
/// among those.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FirstTokens {
    /// Of half of the requests, no more than this.
    pub p50: Option<f64>,
    /// Of 95 of 100 requests, no more than this.
    pub p95: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Requests that had no whole answer.
    pub unanswered: usize,
}

impl FloodFigures {
    /// Of all rounds of a load; `None` if it is another one.
    pub(super) fn of(load: LoadProfile, rounds: &[Vec<RequestOutcome>]) -> Option<Self> {
        let LoadProfile::Flood {
            target_inter_token_ms,
            ..
        } = load
        else {
            return None;
        };
        let of_part = |part| {
            let outcomes = rounds.iter().flatten();
            FirstTokens::of(outcomes.filter(move |outcome| outcome.part == part))
        };
        let (alone, flooded) = (of_part(LoadPart::Calm), of_part(LoadPart::Flooded));
        let target = Duration::from_millis(target_inter_token_ms).as_secs_f64();
        let allowed = alone.p95.map(|alone| 2.0 * alone + 2.0 * target);
        Some(Self {
            alone,
            flooded,
            allowed,
            ratio: flooded.p95.zip(allowed).map(|(took, may)| took / may),
        })
    }
}

impl FirstTokens {
    fn of<'a>(outcomes: impl Iterator<Item = &'a RequestOutcome>) -> Self {
        let took = |outcome: &RequestOutcome| {
            let is_whole = matches!(outcome.end, Ok(AnswerEnd::Whole));
            let first = outcome.clock.time_to_first_token();
            let first = first.filter(|_| is_whole);
            first.map_or(f64::INFINITY, |time| time.as_secs_f64())
        };
        let mut times: Vec<f64> = outcomes.map(took).collect();
        times.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).checked_sub(1)?;
            times.get(index).copied().filter(|time| time.is_finite())
        };
        Self {
            p50: rank(50),
            p95: rank(95),
            max: rank(100),
            unanswered: times.iter().filter(|time| time.is_infinite()).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench::AnswerLimits;
    use crate::bench::chat::{AnswerFailure, AnswerTimings};

    const FLOOD: LoadProfile = LoadProfile::Flood {
        clients: 3,
        products: 5,
        requests: 2,
        target_inter_token_ms: 150,
    };

    fn outcome(part: LoadPart, millis: u64) -> RequestOutcome {
        let mut clock = AnswerTimings::start();
        clock.sent = Instant::now();
        clock.text_came(clock.sent + Duration::from_millis(millis));
        RequestOutcome {
            part,
            step: 0,
            clock,
            end: Ok(AnswerEnd::Whole),
        }
    }

    #[test]
    fn a_question_comes_each_second_alone_and_then_beside_the_flood() {
        let answers = AnswerLimits {
            max_tokens: 8,
            ignore_eos: false,
        };
        let steps = FLOOD.script("r", answers, 0);
        let starts = |part| -> Vec<LaneStart> {
            let lanes = steps.iter().flatten().filter(|lane| lane.part == part);
            lanes.map(|lane| lane.start).collect()
        };
        let after = |seconds| LaneStart::After(Duration::from_secs(seconds));
        assert_eq!(starts(LoadPart::Calm), [after(1), after(2)]);
        assert_eq!(starts(LoadPart::Flooded), [after(1), after(2)]);
        assert_eq!(starts(LoadPart::Flood), [after(0); 3]);
        let asked = |lane: &Lane, count| -> Vec<String> {
            let requests = lane.requests().take(count);
            requests
                .map(|asked| asked.to_json("m").to_string())
                .collect()
        };
        let floods = |lane: &&Lane| lane.floods;
        let mut prompts: Vec<_> = steps[1]
            .iter()
            .filter(floods)
            .flat_map(|lane| asked(lane, 5))
            .collect();
        prompts.sort();
        prompts.dedup();
        assert_eq!(prompts.len(), 15, "the flood has new prompts each time");
        assert_eq!(asked(&steps[0][0], 5).len(), 1);
        assert_ne!(asked(&steps[0][0], 1), asked(&steps[1][0], 1));
    }

    #[test]
    fn the_flood_is_measured_by_what_who_asks_seldom_waits_for() {
        let calm = (1..=20).map(|n| outcome(LoadPart::Calm, n * 10));
        let flooded = (1..=20).map(|n| outcome(LoadPart::Flooded, n * 100));
        let flood = outcome(LoadPart::Flood, 60_000);
        let round: Vec<_> = calm.chain(flooded).chain([flood]).collect();
        let figures = FloodFigures::of(FLOOD, &[round]).expect("a flood");
        assert_eq!(
            (figures.alone.p50, figures.alone.p95),
            (Some(0.1), Some(0.19))
        );
        assert_eq!(
            (figures.flooded.p95, figures.flooded.max),
            (Some(1.9), Some(2.0))
        );
        let allowed = figures.allowed.expect("answers");
        assert!((allowed - 0.68).abs() < 1e-9, "{allowed}");
        let ratio = figures.ratio.expect("answers");
        assert!((ratio - 1.9 / 0.68).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn a_request_without_an_answer_waits_for_ever() {
        let mut round: Vec<_> = (1..=10).map(|n| outcome(LoadPart::Flooded, n)).collect();
        round[0].end = Err(AnswerFailure::Empty);
        let figures = FloodFigures::of(FLOOD, &[round]).expect("a flood");
        assert_eq!(
            (figures.flooded.p50, figures.flooded.p95),
            (Some(0.006), None)
        );
        assert_eq!((figures.flooded.unanswered, figures.ratio), (1, None));
        let other = LoadProfile::Short {
            clients: 1,
            questions: 1,
        };
        assert_eq!(FloodFigures::of(other, &[]), None);
    }
}
