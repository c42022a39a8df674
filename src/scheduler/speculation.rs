//! Speculation: tokens that an answer may well go on with are computed along with its next one,
//! and kept as far as the sampler then picks the same. Wrong ones cost time, never text.
//!
//! Drafts need no second model. A kiosk's answer copies from the store's prompt, so what followed
//! the last few tokens where they stood before is a good proposal (prompt lookup decoding); and a
//! client may send a `prediction` of its own. How long drafts are follows from two measurements:
//! how often proposals of the same source were right, and what rows of a batch cost.

use crate::engine::Token;

use super::job::PredictionUsage;

/// Longest run of tokens that a proposal is compared by.
const LONGEST_MATCH: usize = 8;
/// Tokens that are searched for an earlier run: more would cost more than they find.
const LOOK_BACK: usize = 8192;
/// Tokens that one answer drafts at most in a step.
pub(super) const LONGEST_DRAFT: usize = 16;
/// Weight of the newest token in a source's mean.
const NEWEST_WEIGHT: f64 = 0.05;
/// How many of its own tokens an answer needs to outweigh the mean of the source.
const OWN_WEIGHT: f64 = 8.0;

/// Where a proposal comes from, which says how good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DraftSource(usize);

impl DraftSource {
    /// The client's prediction, as long as the answer follows it.
    pub(super) const PREDICTION: Self = Self(LONGEST_MATCH + 1);
    const COUNT: usize = LONGEST_MATCH + 2;

    /// An earlier place in the text where its last `tokens` tokens also stand.
    fn prompt_lookup(tokens: usize) -> Self {
        Self(tokens.min(LONGEST_MATCH))
    }
}

/// How an answer may go on: a piece of its own text, or of its prediction. A piece that is longer than the
/// rest of the text repeats from its start, as text in a loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DraftProposal {
    pub(super) source: DraftSource,
    pub(super) start: usize,
    pub(super) length: usize,
}

impl DraftProposal {
    /// Returns its tokens, from the text that it is a piece of.
    pub(super) fn tokens(self, text: &[Token]) -> impl Iterator<Item = Token> {
        text[self.start..].iter().copied().cycle().take(self.length)
    }
}

/// Proposes what followed the last place that has the longest run of the tokens that `text` ends with;
/// `None` where not even its last token occurs earlier.
pub(super) fn prompt_lookup(text: &[Token]) -> Option<DraftProposal> {
    let (last, before) = text.split_last()?;
    let mut best = (0, 0);
    for (place, token) in before.iter().enumerate().rev().take(LOOK_BACK) {
        if token != last {
            continue;
        }
        let run = text[..place]
            .iter()
            .rev()
            .zip(before.iter().rev())
            .take(LONGEST_MATCH - 1)
            .take_while(|(there, here)| there == here)
            .count();
        if run + 1 > best.0 {
            best = (run + 1, place);
        }
        if best.0 == LONGEST_MATCH {
            break;
        }
    }
    let (run, place) = best;
    let start = place + 1;
    let rest = text.len() - start;
    // The text ends in a piece of which it had all, or much, just before: it repeats itself.
    let repeats = run >= rest.min(LONGEST_MATCH);
    (run > 0).then(|| DraftProposal {
        source: DraftSource::prompt_lookup(run),
        start,
        length: if repeats {
            LONGEST_DRAFT
        } else {
            LONGEST_DRAFT.min(rest)
        },
    })
}

/// OpenAI's `prediction`: what the client expects the answer to be, followed along.
#[derive(Debug)]
pub(super) struct Prediction {
    tokens: Vec<Token>,
    /// The next one expected; `None` where the answer has left it.
    at: Option<usize>,
    /// The position after the last token that the answer had.
    left: usize,
    accepted: usize,
}

impl Prediction {
    /// An answer that has left it has to repeat this much of it to be back.
    const REJOIN: usize = 3;

    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self {
            tokens,
            at: Some(0),
            left: 0,
            accepted: 0,
        }
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// `answer` has got one more token.
    pub(super) fn follow(&mut self, answer: &[Token]) {
        if let Some(at) = self.at
            && let Some(expected) = self.tokens.get(at)
            && answer.last() == Some(expected)
        {
            self.accepted += 1;
            self.left = at + 1;
            self.at = Some(at + 1);
            return;
        }
        let from = answer.len().saturating_sub(Self::REJOIN);
        // Only ahead of where it left: none counts twice, and lists repeat themselves.
        let ahead = self.left.saturating_sub(Self::REJOIN);
        self.at = self.tokens[ahead..]
            .windows(Self::REJOIN)
            .position(|window| window == &answer[from..])
            .map(|place| ahead + place + Self::REJOIN)
            .filter(|at| *at >= self.left);
    }

    pub(super) fn proposal(&self) -> Option<DraftProposal> {
        let start = self.at?;
        let length = LONGEST_DRAFT.min(self.tokens.len() - start);
        (length > 0).then_some(DraftProposal {
            source: DraftSource::PREDICTION,
            start,
            length,
        })
    }

    pub(super) fn usage(&self) -> PredictionUsage {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let accepted = self.accepted.min(self.tokens.len());
        PredictionUsage {
            accepted: count(accepted),
            rejected: count(self.tokens.len() - accepted),
        }
    }
}

/// How often an answer's own drafted tokens were right, the latest counting most.
#[derive(Debug, Default)]
pub(super) struct AcceptanceRecord {
    right: f64,
    tried: f64,
}

impl AcceptanceRecord {
    fn add(&mut self, outcome: DraftOutcome) {
        const KEPT: f64 = 0.9;
        self.right = self.right * KEPT + outcome.right();
        self.tried = self.tried * KEPT + outcome.tried();
    }
}

/// How many tokens of a draft were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DraftOutcome {
    pub(super) drafted: usize,
    pub(super) accepted: usize,
}

#[allow(clippy::cast_precision_loss)] // a draft has a handful of tokens
impl DraftOutcome {
    fn right(self) -> f64 {
        self.accepted as f64
    }

    /// Tokens after the first wrong one say nothing.
    fn tried(self) -> f64 {
        (self.accepted + usize::from(self.accepted < self.drafted)) as f64
    }
}

/// How often drafted tokens were right, by the source of their proposal.
#[derive(Debug)]
pub(super) struct AcceptanceRates {
    means: [f64; DraftSource::COUNT],
}

impl Default for AcceptanceRates {
    fn default() -> Self {
        Self {
            means: std::array::from_fn(first_rate),
        }
    }
}

/// One common token says little; a run of them that comes again often goes on as before. What is
/// not drafted is watched, so these need not be high to be corrected.
fn first_rate(source: usize) -> f64 {
    match source {
        0 => 0.0,
        1 => 0.2,
        2 => 0.4,
        3..=LONGEST_MATCH => 0.5,
        // A client's prediction.
        _ => 0.8,
    }
}

impl AcceptanceRates {
    /// Returns the probability that the next token of a proposal is right.
    pub(super) fn chance(&self, source: DraftSource, own: &AcceptanceRecord) -> f64 {
        (self.means[source.0] * OWN_WEIGHT + own.right) / (OWN_WEIGHT + own.tried)
    }

    pub(super) fn learn(
        &mut self,
        source: DraftSource,
        own: &mut AcceptanceRecord,
        outcome: DraftOutcome,
    ) {
        own.add(outcome);
        // How good one client's predictions are says nothing about another's.
        if source == DraftSource::PREDICTION {
            return;
        }
        let mean = &mut self.means[source.0];
        for token in 0..outcome.drafted.min(outcome.accepted + 1) {
            let right = f64::from(u8::from(token < outcome.accepted));
            *mean += NEWEST_WEIGHT * (right - *mean);
        }
    }
}

/// A running answer that could draft.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DraftCandidate {
    /// Which one.
    pub(super) running: usize,
    pub(super) proposal: DraftProposal,
    /// How likely each next token is right, given that those before it are.
    pub(super) chance: f64,
}

/// How many tokens each candidate drafts: `answers` rows are computed in any case, at most `room` can be
/// added, and `seconds` tells how long a step takes by its rows.
///
/// What is made as large as can be is the product of the speeds of all answers: an answer that gets
/// on twice as fast must not slow ten others down by a tenth each.
pub(super) fn allot_drafts(
    candidates: &[DraftCandidate],
    answers: usize,
    room: usize,
    seconds: impl Fn(usize) -> f64,
) -> Vec<usize> {
    /// Each answer has to get faster by this much on the average, and one more by that: the times
    /// are no surer.
    const WORTH: f64 = 1.08;
    let mut lengths = vec![0; candidates.len()];
    // Of each candidate the tokens that it brings, and the chance that its next one counts.
    let mut tokens = vec![1.0; candidates.len()];
    let mut chances: Vec<f64> = candidates
        .iter()
        .map(|candidate| candidate.chance)
        .collect();
    #[allow(clippy::cast_precision_loss)] // a batch has hundreds of answers at most
    let everyone = answers as f64;
    let undrafted = seconds(answers);
    let mut gained = 0.0;
    let mut best_gain = (everyone + 1.0) * f64::ln(WORTH);
    let mut best = lengths.clone();
    for extra in 1..=room {
        let took = seconds(answers + extra);
        let open = (0..candidates.len()).filter(|i| lengths[*i] < candidates[*i].proposal.length);
        let gain = |i: usize| (1.0 + chances[i] / tokens[i]).ln();
        let Some(next) = open.max_by(|a, b| gain(*a).total_cmp(&gain(*b))) else {
            break;
        };
        if !took.is_finite() {
            break;
        }
        gained += gain(next);
        tokens[next] += chances[next];
        chances[next] *= candidates[next].chance;
        lengths[next] += 1;
        // A row more may cost nothing, or as much as four: so the best counts, not the first.
        let all = gained - everyone * (took / undrafted).ln();
        if all > best_gain {
            best_gain = all;
            best.clone_from(&lengths);
        }
    }
    best
}

/// How many tokens an answer drafts that is alone and has to come out the same each time: so by
/// nothing that was measured, neither of time nor of other answers. A row more is taken to cost half
/// of the first, between what it costs large models and small ones.
pub(super) fn lone_draft_length(proposal: DraftProposal, own: &AcceptanceRecord) -> usize {
    const MORE: f64 = 0.5;
    let candidate = DraftCandidate {
        running: 0,
        proposal,
        chance: AcceptanceRates::default().chance(proposal.source, own),
    };
    #[allow(clippy::cast_precision_loss)] // a draft has a handful of tokens
    let seconds = |rows: usize| 1.0 + MORE * (rows - 1) as f64;
    allot_drafts(&[candidate], 1, LONGEST_DRAFT, seconds)[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(|byte| Token(i32::from(byte))).collect()
    }

    fn found(text: &str) -> Option<(String, usize)> {
        let text = tokens(text);
        prompt_lookup(&text).map(|proposal| {
            let bytes = proposal.tokens(&text).map(|token| token.0.unsigned_abs());
            let bytes = bytes.map(|byte| u8::try_from(byte).expect("a byte"));
            (
                String::from_utf8(bytes.collect()).expect("ASCII"),
                proposal.source.0,
            )
        })
    }

    #[test]
    fn the_longest_run_wins_and_of_equals_the_last() {
        assert_eq!(
            found("tea 4, soap 9, tea"),
            Some((" 4, soap 9, tea".into(), 3))
        );
        assert_eq!(found("xa1 xa2 a3 xa"), Some(("2 a3 xa".into(), 3)));
        assert_eq!(found("abc"), None);
        assert_eq!(found(""), None);
        assert_eq!(
            found("0123456789abcdefghijk 9"),
            Some(("abcdefghijk 9".into(), 1))
        );
    }

    #[test]
    fn what_repeats_itself_is_guessed_to_go_on() {
        assert_eq!(found("4, 4, 4, "), Some(("4, 4, 4, 4, 4, 4".into(), 6)));
        assert_eq!(found("a=="), Some(("================".into(), 1)));
        assert_eq!(found("tea, tin, t"), Some(("in, t".into(), 3)));
    }

    fn predicted(accepted: u32, rejected: u32) -> PredictionUsage {
        PredictionUsage { accepted, rejected }
    }

    #[test]
    fn a_prediction_is_followed_left_and_joined_again() {
        let mut prediction = Prediction::new(tokens("price: 4, aisle: 7"));
        let mut answer = Vec::new();
        for token in tokens("price: 5, ai") {
            answer.push(token);
            prediction.follow(&answer);
        }
        let proposal = prediction.proposal().expect("joined again");
        assert_eq!(prediction.tokens()[proposal.start..], tokens("sle: 7"));
        // "price: ", and "i" after ", a" had brought it back.
        assert_eq!(prediction.usage(), predicted(8, 10));
    }

    #[test]
    fn a_list_is_joined_again_where_it_was_left() {
        let mut prediction =
            Prediction::new(tokens("tea 4 in stock, soap 7 in stock, oil 9 in stock"));
        let mut answer = Vec::new();
        for token in tokens("tea 4 in stock, soap 8 in") {
            answer.push(token);
            prediction.follow(&answer);
        }
        let proposal = prediction.proposal().expect("joined again");
        assert_eq!(
            prediction.tokens()[proposal.start..],
            tokens(" stock, oil 9 in stock")
        );
    }

    #[test]
    fn a_prediction_at_its_end_guesses_nothing() {
        let mut prediction = Prediction::new(tokens("ab"));
        prediction.follow(&tokens("a"));
        prediction.follow(&tokens("ab"));
        assert_eq!(prediction.proposal(), None);
        prediction.follow(&tokens("abc"));
        assert_eq!(prediction.usage(), predicted(2, 0));
    }

    /// A step of `rows`: 10 units, and `row` for each row after the first.
    #[allow(clippy::cast_precision_loss)]
    fn linear(row: f64) -> impl Fn(usize) -> f64 {
        move |rows| 10.0 + row * (rows as f64 - 1.0)
    }

    fn candidate(chance: f64, length: usize) -> DraftCandidate {
        let proposal = DraftProposal {
            source: DraftSource::prompt_lookup(3),
            start: 0,
            length,
        };
        DraftCandidate {
            running: 0,
            proposal,
            chance,
        }
    }

    #[test]
    fn drafts_are_longer_where_rows_are_cheaper_and_guesses_better() {
        let length = |chance, row| allot_drafts(&[candidate(chance, 16)], 1, 64, linear(row))[0];
        assert_eq!(length(0.9, 10.0), 0, "a row costs what it brings");
        assert_eq!(length(0.05, 1.0), 0);
        assert!(length(0.5, 1.0) >= 1);
        assert!(length(0.9, 1.0) > length(0.5, 1.0));
        assert!(length(0.9, 0.2) > length(0.9, 1.0));
    }

    #[test]
    fn one_that_copies_does_not_slow_the_others_down() {
        let alone = allot_drafts(&[candidate(0.97, 16)], 1, 64, linear(1.5))[0];
        let in_company = allot_drafts(&[candidate(0.97, 16)], 8, 64, linear(1.5))[0];
        assert!(alone > 4, "{alone}");
        assert!(in_company < 2, "{in_company}");
        let all_copy = allot_drafts(&[candidate(0.97, 16); 8], 8, 64, linear(0.2));
        assert!(all_copy.iter().all(|length| *length > 2), "{all_copy:?}");
    }

    #[test]
    fn a_step_in_the_cost_is_seen_past() {
        // Rows 2 and 3 cost as much as 1 each, rows 4 to 8 nothing beyond that.
        let seconds = |rows: usize| [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 9.0][rows.min(9)];
        assert_eq!(allot_drafts(&[candidate(0.95, 16)], 1, 8, seconds), [7]);
    }

    #[test]
    fn what_is_never_right_is_given_up_until_watching_it_shows_otherwise() {
        let (mut acceptance, mut own) = (AcceptanceRates::default(), AcceptanceRecord::default());
        let source = DraftSource::prompt_lookup(3);
        let mut learn = |accepted, times: usize| {
            for _ in 0..times {
                let outcome = DraftOutcome {
                    drafted: 1,
                    accepted,
                };
                acceptance.learn(source, &mut own, outcome);
            }
            allot_drafts(
                &[candidate(acceptance.chance(source, &own), 4)],
                1,
                8,
                linear(2.0),
            )[0]
        };
        assert!(learn(1, 0) > 0);
        assert_eq!(learn(0, 20), 0);
        assert!(learn(1, 40) > 0);
    }

    proptest! {
        #[test]
        fn drafts_fit_and_promise_more_than_none(
            candidates in prop::collection::vec((0.0_f64..1.0, 0_usize..17), 0..20),
            room in 0_usize..40,
            row in 0.0_f64..10.0,
        ) {
            let candidates: Vec<DraftCandidate> = candidates
                .into_iter()
                .map(|(chance, length)| candidate(chance, length))
                .collect();
            let answers = candidates.len().max(1);
            let lengths = allot_drafts(&candidates, answers, room, linear(row));
            prop_assert!(lengths.iter().sum::<usize>() <= room);
            let within = |(length, candidate): (&usize, &DraftCandidate)| *length <= candidate.proposal.length;
            prop_assert!(lengths.iter().zip(&candidates).all(within));
            let drafted: usize = lengths.iter().sum();
            if drafted > 0 {
                let brings = |(length, candidate): (&usize, &DraftCandidate)| -> f64 {
                    (0..=*length).map(|n| candidate.chance.powi(i32::try_from(n).unwrap_or(0))).sum()
                };
                let gain: f64 = lengths.iter().zip(&candidates).map(brings).map(f64::ln).sum();
                #[allow(clippy::cast_precision_loss)]
                let everyone = answers as f64;
                let slower = linear(row)(answers + drafted) / linear(row)(answers);
                prop_assert!(gain > everyone * slower.ln());
            }
        }

        #[test]
        fn what_is_looked_up_did_follow(text in "[ab]{0,40}") {
            let text = tokens(&text);
            if let Some(proposal) = prompt_lookup(&text) {
                let run = &text[text.len() - proposal.source.0..];
                let mut with_next = run.to_vec();
                with_next.push(text[proposal.start]);
                prop_assert!(text.windows(with_next.len()).any(|window| window == with_next));
            }
        }
    }
}
