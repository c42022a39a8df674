//! Whether two runs say the same, but for roundings.

use std::fmt;

use edgellm::engine::Token;

/// What both runs held of the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The largest difference between their logits.
    pub apart: f32,
    /// The other token that the plain driver would have gone on with, and by how much it preferred that one.
    pub parting: Option<(Token, f32)>,
}

impl Step {
    /// Of logits `ours`, out of which `picked` was picked, and `plain` of the plain driver.
    pub fn new(ours: &[f32], plain: &[f32], picked: Token) -> Self {
        assert_eq!(ours.len(), plain.len(), "the same vocabulary");
        let apart = ours.iter().zip(plain).map(|(a, b)| (a - b).abs());
        // What is no number is as wrong as can be.
        let apart = apart.fold(0.0, |most: f32, next| {
            if next <= most {
                most
            } else if next.is_nan() {
                f32::INFINITY
            } else {
                next
            }
        });
        let best = best(plain);
        let logit = |token: Token| plain[usize::try_from(token.0).expect("a token")];
        let gap = logit(best) - logit(picked);
        Self {
            apart,
            parting: (best != picked).then_some((best, gap)),
        }
    }

    /// Whether it parts from the plain driver where roundings could not make it.
    pub fn is_wrong(self) -> bool {
        self.parting.is_some_and(|(_, gap)| gap > 2.0 * self.apart)
    }
}

/// The token with the highest logit, the first of them.
pub fn best(logits: &[f32]) -> Token {
    let better = |best: usize, next: usize| {
        if logits[next] > logits[best] {
            next
        } else {
            best
        }
    };
    let best = (0..logits.len()).reduce(better).expect("a vocabulary");
    Token(i32::try_from(best).expect("a token"))
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// Answers, and those of them that are the plain driver's to the last token.
    pub answers: usize,
    pub same: usize,
    /// Differences of logits in each answer, one a step.
    pub apart: Vec<Vec<f32>>,
    /// Where answers part.
    pub partings: Vec<String>,
    /// What nobody can explain.
    pub wrong: Vec<String>,
    /// What the scheduler did on the way.
    pub deeds: String,
}

impl Report {
    /// How far apart logits are: at most, and in the middle of the answer where they are most so. A wrong
    /// cell goes on to be one: it moves every logit that comes behind, and roundings few.
    pub fn distance(&self) -> Distance {
        let middle = |answer: &Vec<f32>| quantile(answer.clone(), 0.5);
        Distance {
            most: quantile(self.apart.concat(), 1.0),
            middle: self.apart.iter().map(middle).fold(0.0, f32::max),
        }
    }

    /// What is wrong, where differences up to `rounding` are not.
    pub fn faults(&self, rounding: Distance) -> Vec<String> {
        let mut faults = self.wrong.clone();
        let distance = self.distance();
        if distance.exceeds(rounding) {
            faults.push(format!(
                "logits differ by {distance:?}; roundings make {rounding:?} at most"
            ));
        }
        faults
    }
}

/// How far apart the logits of two runs are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// At the step where they are most so.
    pub most: f32,
    /// At half of the steps of some answer, they are so far apart or further.
    pub middle: f32,
}

impl Distance {
    pub fn exceeds(self, other: Self) -> bool {
        self.most > other.most || self.middle > other.middle
    }
}

/// So large are that part of `values`; 0 where there are none.
fn quantile(mut values: Vec<f32>, part: f32) -> f32 {
    values.sort_by(f32::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let place = (values.len().saturating_sub(1) as f32 * part) as usize;
    values.get(place).copied().unwrap_or(0.0)
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Distance { most, middle } = self.distance();
        let all = self.apart.concat();
        write!(
            out,
            "{} of {} answers the same, {} tokens; logits apart by {:.3} (median), {middle:.3} (worst \
             median of an answer), {most:.3} (most); {}",
            self.same,
            self.answers,
            all.len(),
            quantile(all.clone(), 0.5),
            self.deeds
        )?;
        for parting in &self.partings {
            write!(out, "\n    parts: {parting}")?;
        }
        for wrong in &self.wrong {
            write!(out, "\n    WRONG: {wrong}")?;
        }
        Ok(())
    }
}

#[test]
fn answers_may_part_where_two_tokens_are_as_likely_as_roundings_make_them() {
    let plain = [1.0, 3.0, 2.9, -4.0];
    let ours = [1.0, 2.94, 2.96, -4.0];
    let step = Step::new(&ours, &plain, Token(2));
    assert!((step.apart - 0.06).abs() < 1e-5 && step.parting.is_some());
    assert!(!step.is_wrong());
}

#[test]
fn a_token_that_neither_run_prefers_is_wrong_however_close_their_logits_are() {
    let plain = [1.0, 3.0, 2.9, -4.0];
    let ours = [1.0, 3.01, 2.9, -4.0];
    assert!(!Step::new(&ours, &plain, Token(1)).is_wrong());
    assert!(Step::new(&ours, &plain, Token(2)).is_wrong());
}

#[test]
fn what_is_no_number_is_as_far_apart_as_can_be() {
    let step = Step::new(&[1.0, f32::NAN, 2.0], &[1.0, 3.0, 2.0], Token(1));
    assert!(step.apart.is_infinite());
    let last = Step::new(&[f32::NAN, 1.0], &[0.0, 1.0], Token(1));
    assert!(last.apart.is_infinite());
}
