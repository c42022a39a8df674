//! Speculation: tokens that an answer may well go on with are computed along with its next one,
//! and kept as far as the sampler then picks the same. Wrong ones cost time, never text.
//!
//! Drafts need no second model. A kiosk's answer copies from the store's prompt, so what followed
//! the last few tokens where they stood before is a good guess (prompt lookup decoding); and a
//! client may send a `prediction` of its own. How long drafts are follows from two measurements:
//! how often guesses of the same kind were right, and what rows of a batch cost.

use crate::engine::Token;

use super::job::Predicted;

/// Longest run of tokens that a guess is compared by.
const LONGEST_MATCH: usize = 8;
/// Tokens that one answer drafts at most in a step.
pub(super) const LONGEST_DRAFT: usize = 16;
/// Drafting has to promise this much more than not drafting.
const WORTH: f64 = 1.1;
/// Weight of the newest token in a kind's mean.
const NEWEST: f64 = 0.05;
/// How fast the mean of a kind that is never tried returns to its first guess, to be tried again.
const FORGETTING: f64 = 0.002;
/// How many of its own tokens an answer needs to outweigh the mean of the kind.
const OWN_WEIGHT: f64 = 8.0;

/// Where a guess comes from, which says how good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(usize);

impl Kind {
    /// What the client said the answer would be, as long as it is.
    const PREDICTION: Self = Self(LONGEST_MATCH + 1);
    const COUNT: usize = LONGEST_MATCH + 2;

    /// The last `tokens` tokens stood there before.
    fn lookup(tokens: usize) -> Self {
        Self(tokens.min(LONGEST_MATCH))
    }
}

/// How an answer may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guess<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) kind: Kind,
}

/// What followed the last place where `text` had the tokens that it ends with, the longest run of
/// them that it had before; nothing if not even the last one did.
pub(super) fn lookup(text: &[Token]) -> Option<Guess<'_>> {
    let (last, before) = text.split_last()?;
    let mut best = (0, 0);
    for (place, token) in before.iter().enumerate().rev() {
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
    (run > 0).then(|| Guess {
        tokens: &text[place + 1..(place + 1 + LONGEST_DRAFT).min(text.len())],
        kind: Kind::lookup(run),
    })
}

/// OpenAI's `prediction`: what the client expects the answer to be, followed along.
#[derive(Debug)]
pub(super) struct Prediction {
    tokens: Vec<Token>,
    /// The next one expected; `None` where the answer has left it.
    at: Option<usize>,
    accepted: usize,
}

impl Prediction {
    /// An answer that has left it has to repeat this much of it to be back.
    const REJOIN: usize = 3;

    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self {
            tokens,
            at: Some(0),
            accepted: 0,
        }
    }

    /// `answer` has got one more token.
    pub(super) fn follow(&mut self, answer: &[Token]) {
        let expected = self.at.and_then(|at| self.tokens.get(at));
        if expected.is_some() && expected == answer.last() {
            self.accepted += 1;
            self.at = self.at.map(|at| at + 1);
            return;
        }
        let from = answer.len().saturating_sub(Self::REJOIN);
        let tail = &answer[from..];
        self.at = self
            .tokens
            .windows(Self::REJOIN)
            .position(|window| window == tail)
            .map(|place| place + Self::REJOIN);
    }

    pub(super) fn guess(&self) -> Option<Guess<'_>> {
        let tokens = self.tokens.get(self.at?..)?;
        (!tokens.is_empty()).then(|| Guess {
            tokens: &tokens[..tokens.len().min(LONGEST_DRAFT)],
            kind: Kind::PREDICTION,
        })
    }

    pub(super) fn usage(&self) -> Predicted {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let accepted = self.accepted.min(self.tokens.len());
        Predicted {
            accepted: count(accepted),
            rejected: count(self.tokens.len() - accepted),
        }
    }
}

/// How often an answer's own drafted tokens were right, the latest counting most.
#[derive(Debug, Default)]
pub(super) struct Record {
    right: f64,
    tried: f64,
}

impl Record {
    fn add(&mut self, outcome: Outcome) {
        const KEPT: f64 = 0.9;
        self.right = self.right * KEPT + outcome.right();
        self.tried = self.tried * KEPT + outcome.tried();
    }

    fn fade(&mut self) {
        const KEPT: f64 = 0.995;
        self.right *= KEPT;
        self.tried *= KEPT;
    }
}

/// What became of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) drafted: usize,
    pub(super) accepted: usize,
}

#[allow(clippy::cast_precision_loss)] // a draft has a handful of tokens
impl Outcome {
    fn right(self) -> f64 {
        self.accepted as f64
    }

    /// What stands behind the first wrong one says nothing.
    fn tried(self) -> f64 {
        (self.accepted + usize::from(self.accepted < self.drafted)) as f64
    }
}

/// Shares of drafted tokens that were right, by the kind of their guess.
#[derive(Debug)]
pub(super) struct Acceptance {
    means: [f64; Kind::COUNT],
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            means: std::array::from_fn(first_guess),
        }
    }
}

/// One common token says little; a run of them that comes again mostly goes on as before.
fn first_guess(kind: usize) -> f64 {
    match kind {
        0 => 0.0,
        1 => 0.2,
        2 => 0.5,
        3 => 0.6,
        _ => 0.7,
    }
}

impl Acceptance {
    /// How likely the next token of a guess is right.
    pub(super) fn chance(&self, kind: Kind, own: &Record) -> f64 {
        (self.means[kind.0] * OWN_WEIGHT + own.right) / (OWN_WEIGHT + own.tried)
    }

    pub(super) fn learn(&mut self, kind: Kind, own: &mut Record, outcome: Outcome) {
        own.add(outcome);
        let mean = &mut self.means[kind.0];
        for token in 0..outcome.drafted.min(outcome.accepted + 1) {
            let right = f64::from(u8::from(token < outcome.accepted));
            *mean += NEWEST * (right - *mean);
        }
    }

    /// There was a guess and it was not worth trying.
    pub(super) fn skip(&mut self, kind: Kind, own: &mut Record) {
        let mean = &mut self.means[kind.0];
        *mean += FORGETTING * (first_guess(kind.0) - *mean);
        own.fade();
    }
}

/// A running answer that could draft.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Offer {
    /// How likely each next token is right, given that those before it are.
    pub(super) chance: f64,
    /// Tokens there are.
    pub(super) most: usize,
}

/// How many tokens each offer drafts, so that tokens come fastest: `answers` rows are computed in
/// any case, at most `room` can be added, and `seconds` tells how long a step of so many rows is.
pub(super) fn allot(
    offers: &[Offer],
    answers: usize,
    room: usize,
    seconds: impl Fn(usize) -> f64,
) -> Vec<usize> {
    let mut lengths = vec![0; offers.len()];
    // Of each offer the chance that its next token counts.
    let mut gains: Vec<f64> = offers.iter().map(|offer| offer.chance).collect();
    #[allow(clippy::cast_precision_loss)] // a batch has hundreds of answers at most
    let mut tokens = answers as f64;
    let mut best_rate = WORTH * tokens / seconds(answers);
    let mut best = lengths.clone();
    for extra in 1..=room {
        let open = (0..offers.len()).filter(|i| lengths[*i] < offers[*i].most);
        let Some(next) = open.max_by(|a, b| gains[*a].total_cmp(&gains[*b])) else {
            break;
        };
        tokens += gains[next];
        lengths[next] += 1;
        gains[next] *= offers[next].chance;
        // A row more may cost nothing, or as much as four: so the last best counts, not the first.
        let rate = tokens / seconds(answers + extra);
        if rate > best_rate {
            best_rate = rate;
            best.clone_from(&lengths);
        }
    }
    best
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
        lookup(&text).map(|guess| {
            let bytes = guess.tokens.iter().map(|token| token.0.unsigned_abs());
            let bytes = bytes.map(|byte| u8::try_from(byte).expect("a byte"));
            (
                String::from_utf8(bytes.collect()).expect("ASCII"),
                guess.kind.0,
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

    fn predicted(accepted: u32, rejected: u32) -> Predicted {
        Predicted { accepted, rejected }
    }

    #[test]
    fn a_prediction_is_followed_left_and_joined_again() {
        let mut prediction = Prediction::new(tokens("price: 4, aisle: 7"));
        let mut answer = Vec::new();
        for token in tokens("price: 5, ai") {
            answer.push(token);
            prediction.follow(&answer);
        }
        let guess = prediction.guess().expect("joined again");
        assert_eq!(guess.tokens, tokens("sle: 7"));
        // "price: ", and "i" after ", a" had brought it back.
        assert_eq!(prediction.usage(), predicted(8, 10));
    }

    #[test]
    fn a_prediction_at_its_end_guesses_nothing() {
        let mut prediction = Prediction::new(tokens("ab"));
        prediction.follow(&tokens("a"));
        prediction.follow(&tokens("ab"));
        assert_eq!(prediction.guess(), None);
        prediction.follow(&tokens("abc"));
        assert_eq!(prediction.usage(), predicted(2, 0));
    }

    /// A step of `rows`: 10 units, and `row` for each row after the first.
    #[allow(clippy::cast_precision_loss)]
    fn linear(row: f64) -> impl Fn(usize) -> f64 {
        move |rows| 10.0 + row * (rows as f64 - 1.0)
    }

    #[test]
    fn drafts_are_longer_where_rows_are_cheaper_and_guesses_better() {
        let length = |chance, row| allot(&[Offer { chance, most: 16 }], 1, 64, linear(row))[0];
        assert_eq!(length(0.9, 10.0), 0, "a row costs what it brings");
        assert_eq!(length(0.05, 1.0), 0);
        assert!(length(0.5, 1.0) >= 1);
        assert!(length(0.9, 1.0) > length(0.5, 1.0));
        assert!(length(0.9, 0.2) > length(0.9, 1.0));
    }

    #[test]
    fn a_step_in_the_cost_is_seen_past() {
        // Rows 2 and 3 cost as much as 1 each, rows 4 to 8 nothing beyond that.
        let seconds = |rows: usize| [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 9.0][rows.min(9)];
        let offer = Offer {
            chance: 0.95,
            most: 16,
        };
        assert_eq!(allot(&[offer], 1, 8, seconds), [7]);
    }

    #[test]
    fn what_is_never_right_is_given_up_and_tried_again_much_later() {
        let (mut acceptance, mut own) = (Acceptance::default(), Record::default());
        let kind = Kind::lookup(3);
        let wrong = Outcome {
            drafted: 4,
            accepted: 0,
        };
        let drafts = |chance| allot(&[Offer { chance, most: 4 }], 1, 8, linear(2.0))[0];
        assert!(drafts(acceptance.chance(kind, &own)) > 0);
        let mut tries = 0;
        while drafts(acceptance.chance(kind, &own)) > 0 {
            acceptance.learn(kind, &mut own, wrong);
            tries += 1;
        }
        assert!(tries < 20, "{tries}");
        let mut skipped = 0;
        while drafts(acceptance.chance(kind, &own)) == 0 {
            acceptance.skip(kind, &mut own);
            skipped += 1;
        }
        assert!(skipped > 10, "{skipped}");
    }

    proptest! {
        #[test]
        fn drafts_fit_and_never_promise_less(
            offers in prop::collection::vec((0.0_f64..1.0, 0_usize..17), 0..20),
            room in 0_usize..40,
            row in 0.0_f64..10.0,
        ) {
            let offers: Vec<Offer> = offers
                .into_iter()
                .map(|(chance, most)| Offer { chance, most })
                .collect();
            let answers = offers.len().max(1);
            let lengths = allot(&offers, answers, room, linear(row));
            prop_assert!(lengths.iter().sum::<usize>() <= room);
            prop_assert!(lengths.iter().zip(&offers).all(|(length, offer)| *length <= offer.most));
        }

        #[test]
        fn what_is_looked_up_did_follow(text in "[ab]{0,40}") {
            let text = tokens(&text);
            if let Some(guess) = lookup(&text) {
                let run = &text[text.len() - guess.kind.0..];
                let mut with_next = run.to_vec();
                with_next.push(guess.tokens[0]);
                prop_assert!(text.windows(with_next.len()).any(|window| window == with_next));
            }
        }
    }
}
