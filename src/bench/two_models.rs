//! Loads of two models of one server, and what they lose when both compute at the same time.

use std::sync::Arc;

use serde::Serialize;

use super::load::{Lane, LaneModel, LoadPart, LoadProfile, LoadStep, Question, at_once};
use super::runner::RequestOutcome;

/// Texts of each request for vectors.
pub(super) const TEXTS: usize = 64;

/// The clients of the first model, those of the second, and both together. Every prompt is new, and every
/// answer goes on to its last token, so that there is as much to do together as one after the other.
pub(super) fn script(
    clients: usize,
    questions: usize,
    question: impl Fn(usize) -> Question,
) -> Vec<LoadStep> {
    let number = std::cell::Cell::new(0);
    let next = |_| question(number.replace(number.get() + 1)).until_the_last_token();
    let clients_of = |model, part| -> Vec<Lane> {
        let lane = |_| Lane {
            model,
            ..at_once(part, (0..questions).map(next).collect())
        };
        (0..clients).map(lane).collect()
    };
    let (first, second) = (LaneModel::First, LaneModel::Second);
    let mut together = clients_of(first, LoadPart::FirstBeside);
    together.extend(clients_of(second, LoadPart::SecondBeside));
    vec![
        clients_of(first, LoadPart::FirstAlone),
        clients_of(second, LoadPart::SecondAlone),
        together,
    ]
}

/// The clients of the first model alone, and then beside two that have vectors made of these texts again and
/// again.
pub(super) fn embeddings(
    clients: usize,
    questions: usize,
    question: impl Fn(usize) -> Question,
    texts: Vec<String>,
) -> Vec<LoadStep> {
    let clients_of = |part, from: usize| -> Vec<Lane> {
        let lane = |client: usize| {
            let numbers = (0..questions).map(|turn| from + turn * clients + client);
            let asked = numbers.map(|number| question(number).until_the_last_token());
            at_once(part, asked.collect())
        };
        (0..clients).map(lane).collect()
    };
    let texts: Arc<[String]> = texts.into();
    let vectors = || Lane {
        model: LaneModel::Second,
        background: true,
        floods: true,
        ..at_once(
            LoadPart::SecondBeside,
            vec![question(0).for_vectors(Arc::clone(&texts))],
        )
    };
    let mut beside = clients_of(LoadPart::FirstBeside, clients * questions);
    beside.extend([vectors(), vectors()]);
    vec![clients_of(LoadPart::FirstAlone, 0), beside]
}

/// What two models take for their work, in seconds, on average over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TwoModelsFigures {
    /// Each while the other has nothing to do.
    pub alone: [f64; 2],
    /// Until both are done, when they begin at the same time.
    pub together: f64,
    /// How much longer that is than one after the other, as a share.
    pub loss: f64,
}

impl TwoModelsFigures {
    /// Of all rounds of a load; `None` if it is another one, or nothing was answered.
    pub(super) fn of(load: LoadProfile, rounds: &[Vec<RequestOutcome>]) -> Option<Self> {
        if !matches!(load, LoadProfile::TwoModels { .. }) {
            return None;
        }
        let mean = |parts: &[LoadPart]| {
            let seconds = rounds.iter().map(|round| seconds(round, parts));
            let seconds: Vec<f64> = seconds.collect::<Option<_>>()?;
            #[allow(clippy::cast_precision_loss)] // a thousand rounds at most
            Some(seconds.iter().sum::<f64>() / seconds.len() as f64)
        };
        let alone = [
            mean(&[LoadPart::FirstAlone])?,
            mean(&[LoadPart::SecondAlone])?,
        ];
        let together = mean(&[LoadPart::FirstBeside, LoadPart::SecondBeside])?;
        let in_turn: f64 = alone.iter().sum();
        (in_turn > 0.0).then(|| Self {
            alone,
            together,
            loss: together / in_turn - 1.0,
        })
    }
}

/// From the first request of these parts to the last end.
fn seconds(round: &[RequestOutcome], parts: &[LoadPart]) -> Option<f64> {
    let of_parts = || round.iter().filter(|outcome| parts.contains(&outcome.part));
    let began = of_parts().map(|outcome| outcome.clock.sent).min()?;
    let ended = of_parts().map(|outcome| outcome.clock.ended).max()?;
    Some(ended.duration_since(began).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::AnswerLimits;
    use crate::bench::chat::AnswerTimings;
    use crate::bench::runner::AnswerEnd;

    const TWO: LoadProfile = LoadProfile::TwoModels {
        clients: 2,
        questions: 3,
        products: 5,
    };

    #[test]
    fn there_is_as_much_to_do_together_as_one_after_the_other_and_no_prompt_comes_twice() {
        let answers = AnswerLimits {
            max_tokens: 8,
            ignore_eos: false,
        };
        let steps = TWO.script("r", answers, 0);
        let bodies = |step: usize, model: LaneModel| -> Vec<String> {
            let lanes = steps[step].iter().filter(|lane| lane.model == model);
            let questions = lanes.flat_map(|lane| &lane.questions);
            questions
                .map(|asked| asked.to_json("m").to_string())
                .collect()
        };
        let (first, second) = (LaneModel::First, LaneModel::Second);
        let each = [
            bodies(0, first),
            bodies(1, second),
            bodies(2, first),
            bodies(2, second),
        ];
        assert!(each.iter().all(|bodies| bodies.len() == 6));
        let mut all: Vec<_> = each.concat();
        assert!(all.iter().all(|body| body.contains("\"ignore_eos\":true")));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 24);
        assert_eq!((bodies(0, second), bodies(1, first)), (vec![], vec![]));
    }

    #[test]
    fn the_loss_is_what_both_take_together_beyond_one_after_the_other() {
        let outcome = |part, sent: u64, ended: u64| {
            let mut clock = AnswerTimings::start();
            let began = clock.sent;
            clock.sent = began + Duration::from_secs(sent);
            clock.ended = began + Duration::from_secs(ended);
            RequestOutcome {
                part,
                step: 0,
                clock,
                end: Ok(AnswerEnd::Whole),
            }
        };
        let round = vec![
            outcome(LoadPart::FirstAlone, 0, 2),
            outcome(LoadPart::FirstAlone, 2, 4),
            outcome(LoadPart::SecondAlone, 4, 10),
            outcome(LoadPart::FirstBeside, 10, 18),
            outcome(LoadPart::SecondBeside, 10, 22),
        ];
        let figures = TwoModelsFigures::of(TWO, &[round]).expect("all parts are there");
        let close = |is: f64, expected: f64| (is - expected).abs() < 0.001;
        assert!(close(figures.alone[0], 4.0) && close(figures.alone[1], 6.0));
        assert!(
            close(figures.together, 12.0) && close(figures.loss, 0.2),
            "{figures:?}"
        );
        assert_eq!(TwoModelsFigures::of(TWO, &[vec![]]), None);
    }
}
