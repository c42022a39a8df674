//! Selecting and drawing among candidates without sorting the vocabulary.
//!
//! A row has 150,000 logits and a step has many rows, so every pass over all of them is a plain
//! loop that compilers turn into vector instructions, and there are as few as the request needs:
//! one to find the best, one to add up the probabilities, one to pick out those that count.

use crate::engine::Token;

use super::SamplingParams;

/// Scaled logits this far below the best are never picked out: all 150,000 of them together weigh
/// less than 10⁻⁸.
const NEGLIGIBLE: f32 = -30.0;
/// Where to look for those that count, first where there are few.
const FLOORS: [f32; 5] = [-4.0, -8.0, -12.0, -16.0, NEGLIGIBLE];
/// Logits summed in single precision before they are added to the rest.
const BLOCK: usize = 512;
const LANES: usize = 16;

/// The first of the highest logits; NaN counts as lowest.
pub(super) fn argmax(logits: &[f32]) -> Token {
    let best = highest(logits);
    let first = logits.iter().position(|logit| *logit == best);
    token(first.unwrap_or(0))
}

fn token(index: usize) -> Token {
    Token(i32::try_from(index).unwrap_or(i32::MAX))
}

/// Not by `f32::max`, whose rule for NaN costs the vector instruction.
fn highest(logits: &[f32]) -> f32 {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *logit);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, higher)
}

/// e to the power of `x`, for x from -80 to 0, to a relative error of 10⁻⁵; what is below, or NaN,
/// counts as -80. Without a branch, a table or a call, so that loops over it become vector code:
/// 2 to the power of a whole number is made in the exponent's bits, the rest by the series of 2ˣ.
fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -80.0 { x } else { -80.0 };
    let power = x * std::f32::consts::LOG2_E;
    let rounded = power + ROUND;
    let rest = power - (rounded - ROUND);
    let series = 1.0
        + rest
            * (std::f32::consts::LN_2
                + rest
                    * (0.240_226_51
                        + rest
                            * (0.055_504_11
                                + rest
                                    * (0.009_618_129
                                        + rest * (0.001_333_355_8 + rest * 0.000_154_035_3)))));
    series * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// Logits as probabilities that have not been divided by their sum.
#[derive(Debug, Clone, Copy)]
struct Scale {
    best: f32,
    inverse_temperature: f32,
}

impl Scale {
    /// The exponent: 0 for the best.
    fn exponent(self, logit: f32) -> f32 {
        (logit - self.best) * self.inverse_temperature
    }

    fn weight(self, logit: f32) -> f32 {
        exp(self.exponent(logit))
    }

    /// By itself, since the compiler sees the loop for what it is only where little stands around it.
    #[inline(never)]
    fn sum(self, block: &[f32]) -> f64 {
        let mut lanes = [0.0_f32; LANES];
        let chunks = block.chunks_exact(LANES);
        let rest: f32 = chunks
            .remainder()
            .iter()
            .map(|logit| self.weight(*logit))
            .sum();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += self.weight(*logit);
            }
        }
        lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + f64::from(rest)
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    weight: f32,
}

/// Reused between steps so that sampling does not allocate.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// Sums of weights, block by block.
    sums: Vec<f64>,
}

impl Candidates {
    /// Draws a token; `uniform` is in [0, 1), the temperature above 0.
    pub(super) fn pick(&mut self, logits: &[f32], params: &SamplingParams, uniform: f64) -> Token {
        let scale = Scale {
            best: highest(logits),
            inverse_temperature: params.temperature.recip(),
        };
        if !scale.best.is_finite() {
            return argmax(logits);
        }
        let top_k = params.top_k as usize;
        let picked = if top_k > 0 && top_k < logits.len() {
            self.list_at_least(logits, scale, |list| list.len() >= top_k);
            self.keep_top_k(top_k);
            let total = total(&self.list);
            self.keep_top_p(params.top_p, total);
            self.draw(params.min_p, uniform)
        } else if params.top_p < 1.0 {
            let all = self.sum(logits, scale);
            let wanted = f64::from(params.top_p) * all;
            self.list_at_least(logits, scale, |list| total(list) >= wanted);
            self.keep_top_p(params.top_p, all);
            self.draw(params.min_p, uniform)
        } else if params.min_p > 0.0 {
            self.list_above(logits, scale, params.min_p.ln() - 0.001);
            self.draw(params.min_p, uniform)
        } else {
            self.draw_from_all(logits, scale, uniform)
        };
        picked.unwrap_or_else(|| argmax(logits))
    }

    /// Of all logits, in the order of their tokens: no list is made.
    fn draw_from_all(&mut self, logits: &[f32], scale: Scale, uniform: f64) -> Option<Token> {
        let mut left = uniform * self.sum(logits, scale);
        let mut last = None;
        for (block, (logits, sum)) in logits.chunks(BLOCK).zip(&self.sums).enumerate() {
            if left >= *sum {
                left -= sum;
                continue;
            }
            for (index, logit) in logits.iter().enumerate() {
                let weight = f64::from(scale.weight(*logit));
                if weight > 0.0 {
                    last = Some(token(block * BLOCK + index));
                }
                left -= weight;
                if left < 0.0 {
                    return last;
                }
            }
            // Rounded otherwise than the block's sum: the border between two blocks.
            left = 0.0;
        }
        last
    }

    fn sum(&mut self, logits: &[f32], scale: Scale) -> f64 {
        self.sums.clear();
        self.sums
            .extend(logits.chunks(BLOCK).map(|block| scale.sum(block)));
        self.sums.iter().sum()
    }

    /// Lists the best ones until there are `enough`, or none is left that counts.
    fn list_at_least(
        &mut self,
        logits: &[f32],
        scale: Scale,
        enough: impl Fn(&[Candidate]) -> bool,
    ) {
        for floor in FLOORS {
            self.list_above(logits, scale, floor);
            if enough(&self.list) {
                break;
            }
        }
    }

    /// Lists those whose exponent is above `floor`, in the order of their tokens.
    fn list_above(&mut self, logits: &[f32], scale: Scale, floor: f32) {
        self.list.clear();
        let least = scale.best + floor / scale.inverse_temperature;
        for (block, logits) in logits.chunks(LANES).enumerate() {
            // Mostly none of them is.
            if !logits
                .iter()
                .fold(false, |any, logit| any | (*logit > least))
            {
                continue;
            }
            for (index, logit) in logits.iter().enumerate() {
                if *logit > least {
                    self.list.push(Candidate {
                        token: token(block * LANES + index),
                        weight: scale.weight(*logit),
                    });
                }
            }
        }
    }

    fn keep_top_k(&mut self, k: usize) {
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, descending);
            self.list.truncate(k);
        }
    }

    /// Keeps the heaviest until they have the share `p` of `total`, by halving the part of the
    /// list in which the last of them is.
    fn keep_top_p(&mut self, p: f32, total: f64) {
        /// So few are sorted faster than halved.
        const FEW: usize = 64;
        if p >= 1.0 {
            return;
        }
        let wanted = f64::from(p) * total;
        let (mut from, mut to, mut mass) = (0, self.list.len(), 0.0);
        while to - from > FEW {
            let middle = usize::midpoint(from, to);
            self.list[from..to].select_nth_unstable_by(middle - from, descending);
            let heavier = self::total(&self.list[from..middle]);
            if mass + heavier >= wanted {
                to = middle;
            } else {
                mass += heavier;
                from = middle;
            }
        }
        self.list[from..to].sort_unstable_by(descending);
        while from < to && mass < wanted {
            mass += f64::from(self.list[from].weight);
            from += 1;
        }
        self.list.truncate(from.max(1));
    }

    /// Walks the candidates in the order of their tokens, so that the draw does not depend on how
    /// the selection happened to leave them. The best candidate weighs 1.
    fn draw(&mut self, min_p: f32, uniform: f64) -> Option<Token> {
        self.list.retain(|candidate| candidate.weight >= min_p);
        self.list.sort_unstable_by_key(|candidate| candidate.token);
        let mut left = uniform * total(&self.list);
        for candidate in &self.list {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        self.list.last().map(|candidate| candidate.token)
    }
}

fn total(list: &[Candidate]) -> f64 {
    list.iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
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
    fn the_exponential_is_exact_enough_everywhere() {
        for step in 0..60_000_u16 {
            let x = -f32::from(step) / 750.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) - right).abs() <= 1e-5 * right, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-34 && exp(f32::NAN) < 1e-34);
    }

    #[test]
    fn of_many_equals_each_is_drawn_alike() {
        let logits = vec![1.0; 10_000];
        let mut candidates = Candidates::default();
        let params = params(1.0, 0, 1.0, 0.0);
        for i in 0..1000_i32 {
            let drawn = candidates.pick(&logits, &params, f64::from(i) / 1000.0);
            assert!((drawn.0 - 10 * i).abs() <= 1, "{i}: {drawn:?}");
        }
    }

    #[test]
    fn hopeless_logits_still_give_a_token() {
        let logits = [f32::NEG_INFINITY, f32::NAN];
        let picked = Candidates::default().pick(&logits, &params(1.0, 0, 0.9, 0.1), 0.5);
        assert_eq!(picked, Token(0));
    }
}
