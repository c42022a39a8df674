//! Selecting and drawing among candidates without sorting the vocabulary.

use crate::engine::Token;

use super::SamplingParams;

/// Scaled logits this far below the best are never drawn: all 150,000 of them
/// together weigh less than 10⁻⁸.
const NEGLIGIBLE: f32 = 30.0;

/// The first of the highest logits; NaN counts as lowest.
pub(super) fn argmax(logits: &[f32]) -> Token {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (index, *logit);
        }
    }
    token(best.0)
}

fn token(index: usize) -> Token {
    Token(i32::try_from(index).unwrap_or(i32::MAX))
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    /// Scaled logit minus the best, then its exponential.
    weight: f32,
}

/// Reused between steps so that sampling does not allocate.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// Draws a token; `uniform` is in [0, 1), the temperature above 0.
    pub(super) fn pick(&mut self, logits: &[f32], params: &SamplingParams, uniform: f64) -> Token {
        let best = logits
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        if !best.is_finite() {
            return argmax(logits);
        }
        let scale = params.temperature.recip();
        self.list.clear();
        self.list
            .extend(logits.iter().enumerate().filter_map(|(index, logit)| {
                let weight = (logit - best) * scale;
                (weight > -NEGLIGIBLE).then_some(Candidate {
                    token: token(index),
                    weight,
                })
            }));
        self.keep_top_k(params.top_k as usize);
        for candidate in &mut self.list {
            candidate.weight = candidate.weight.exp();
        }
        if params.top_p < 1.0 {
            self.keep_top_p(f64::from(params.top_p));
        }
        if params.min_p > 0.0 {
            // The best candidate weighs 1.
            self.list
                .retain(|candidate| candidate.weight >= params.min_p);
        }
        self.draw(uniform).unwrap_or_else(|| argmax(logits))
    }

    fn keep_top_k(&mut self, k: usize) {
        if k > 0 && k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, descending);
            self.list.truncate(k);
        }
    }

    /// Sorts only as far as needed: a few hundred candidates hold the mass
    /// nearly always.
    fn keep_top_p(&mut self, p: f64) {
        let wanted = p * self.total();
        let (mut sorted, mut mass, mut width) = (0, 0.0, 256);
        while sorted < self.list.len() {
            let rest = &mut self.list[sorted..];
            let width_now = width.min(rest.len());
            if width_now < rest.len() {
                rest.select_nth_unstable_by(width_now - 1, descending);
            }
            rest[..width_now].sort_unstable_by(descending);
            for _ in 0..width_now {
                mass += f64::from(self.list[sorted].weight);
                sorted += 1;
                if mass >= wanted {
                    self.list.truncate(sorted);
                    return;
                }
            }
            width *= 8;
        }
    }

    /// Walks the candidates in the order of their tokens, so that the draw
    /// does not depend on how the selection happened to leave them.
    fn draw(&mut self, uniform: f64) -> Option<Token> {
        let mut left = uniform * self.total();
        self.list.sort_unstable_by_key(|candidate| candidate.token);
        for candidate in &self.list {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        self.list.last().map(|candidate| candidate.token)
    }

    fn total(&self) -> f64 {
        self.list
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum()
    }
}

/// Heaviest first; the lower token among equals.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that sorting wants
fn descending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight
        .total_cmp(&a.weight)
        .then_with(|| a.token.cmp(&b.token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SamplingParams {
        SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
            ..SamplingParams::default()
        }
    }

    /// What `pick` may return, computed the plain way: sort everything.
    fn allowed(logits: &[f32], params: &SamplingParams) -> Vec<Token> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        if params.top_k > 0 {
            order.truncate(params.top_k as usize);
        }
        let best = logits[order[0]];
        let weight =
            |index: &usize| f64::from(((logits[*index] - best) / params.temperature).exp());
        let total: f64 = order.iter().map(weight).sum();
        let mut mass = 0.0;
        let mut kept = Vec::new();
        for index in order {
            if params.top_p < 1.0 && mass >= f64::from(params.top_p) * total + 1e-6 {
                break;
            }
            mass += weight(&index);
            if weight(&index) + 1e-6 >= f64::from(params.min_p) {
                kept.push(token(index));
            }
        }
        kept
    }

    proptest! {
        #[test]
        fn every_draw_is_one_that_sorting_everything_would_allow(
            logits in prop::collection::vec(-20.0_f32..20.0, 1..600),
            temperature in 0.1_f32..3.0,
            top_k in 0_u32..40,
            top_p in 0.05_f32..1.0,
            min_p in 0.0_f32..0.5,
            uniform in 0.0_f64..1.0,
        ) {
            let params = params(temperature, top_k, top_p, min_p);
            let picked = Candidates::default().pick(&logits, &params, uniform);
            prop_assert!(allowed(&logits, &params).contains(&picked));
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 1.0_f32.exp().ln() + 1.0, -2.0];
        let params = params(1.0, 0, 1.0, 0.0);
        let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = [0_u32; 3];
        let mut candidates = Candidates::default();
        for i in 0..10_000 {
            let drawn = candidates.pick(&logits, &params, f64::from(i) / 10_000.0);
            counts[usize::try_from(drawn.0).expect("a token of three")] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let expected = weight / total * 10_000.0;
            assert!((f64::from(*count) - expected).abs() < 2.0);
        }
    }

    #[test]
    fn hopeless_logits_still_give_a_token() {
        let logits = [f32::NEG_INFINITY, f32::NAN];
        let picked = Candidates::default().pick(&logits, &params(1.0, 0, 0.9, 0.1), 0.5);
        assert_eq!(picked, Token(0));
    }
}
