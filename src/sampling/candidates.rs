//! Selecting and drawing among candidates without sorting the vocabulary.
//!
//! A row has 150,000 logits and a step has many rows, so every pass over all of them is a plain
//! loop that compilers turn into vector instructions, and there are as few as the request needs:
//! one to find the best, one to add up the probabilities, one to pick out those that count.
//!
//! A draw is an exponential race: of all candidates the one with the highest weight divided by an
//! exponentially distributed number of its own, which depends on seed, index and token alone. So the
//! last digits of the logits, which change with what else is in a batch, change a draw only where two
//! candidates come in almost together.

use crate::engine::Token;

use super::SamplingParams;
use super::noise::Noise;

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
    let first = logits.iter().position(|logit| *logit >= best);
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
                    * (0.240_226_5
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

/// The natural logarithm of the sum of e to the power of each logit, to 10⁻⁵.
pub(super) fn log_sum_exp(logits: &[f32]) -> f32 {
    let best = highest(logits);
    if !best.is_finite() {
        return best;
    }
    let scale = Scale {
        best,
        inverse_temperature: 1.0,
    };
    let sum: f64 = logits.chunks(BLOCK).map(|block| scale.sum(block)).sum();
    #[allow(clippy::cast_possible_truncation)] // a logarithm of at most 150,000
    let log = sum.ln() as f32;
    best + log
}

/// The `count` highest logits, highest first; the lower token among equals.
pub(super) fn highest_logits(logits: &[f32], count: usize) -> Vec<(Token, f32)> {
    let mut top: Vec<(Token, f32)> = Vec::with_capacity(count + 1);
    for (index, logit) in logits.iter().enumerate() {
        let enters = match top.last() {
            _ if logit.is_nan() => false,
            Some(lowest) if top.len() == count => *logit > lowest.1,
            _ => top.len() < count,
        };
        if enters {
            let at = top.partition_point(|(_, other)| other >= logit);
            top.insert(at, (token(index), *logit));
            top.truncate(count);
        }
    }
    top
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
}

impl Candidates {
    /// Draws a token; the temperature is above 0.
    pub(super) fn pick(&mut self, logits: &[f32], params: &SamplingParams, noise: Noise) -> Token {
        let scale = Scale {
            best: highest(logits),
            inverse_temperature: params.temperature.recip(),
        };
        // A temperature so near 0 that its inverse is infinite is 0.
        if !scale.best.is_finite() || !scale.inverse_temperature.is_finite() {
            return argmax(logits);
        }
        let top_k = params.top_k as usize;
        let picked = if top_k > 0 && top_k < logits.len() {
            self.list_at_least(logits, scale, |list| list.len() >= top_k);
            self.keep_top_k(top_k);
            let total = total(&self.list);
            self.keep_top_p(params.top_p, total);
            self.draw(params.min_p, noise)
        } else if params.top_p < 1.0 {
            let all = logits.chunks(BLOCK).map(|block| scale.sum(block)).sum();
            let wanted = f64::from(params.top_p) * all;
            self.list_at_least(logits, scale, |list| total(list) >= wanted);
            self.keep_top_p(params.top_p, all);
            self.draw(params.min_p, noise)
        } else if params.min_p > 0.0 {
            self.list_above(logits, scale, params.min_p.ln() - 0.001);
            self.draw(params.min_p, noise)
        } else {
            draw_from_all(logits, scale, noise)
        };
        picked.unwrap_or_else(|| argmax(logits))
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
            if highest(logits) <= least {
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

    /// The winner among those that weigh enough. The best candidate weighs 1.
    fn draw(&mut self, min_p: f32, noise: Noise) -> Option<Token> {
        let runs = |candidate: &Candidate| {
            let id = u32::try_from(candidate.token.0).unwrap_or(0);
            (candidate.weight / noise.exponential(id), candidate.token)
        };
        let fit = self.list.iter().filter(|c| c.weight >= min_p);
        fit.map(runs)
            .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
            .map(|(_, token)| token)
    }
}

/// The winner among all: no list is made.
fn draw_from_all(logits: &[f32], scale: Scale, noise: Noise) -> Option<Token> {
    let mut best = (f32::NEG_INFINITY, 0, 0);
    let mut speeds = [0.0; BLOCK];
    for (block, logits) in logits.chunks(BLOCK).enumerate() {
        let speeds = &mut speeds[..logits.len()];
        race(logits, scale, noise, block * BLOCK, speeds);
        let fastest = highest(speeds);
        if fastest > best.0 {
            let at = speeds.iter().position(|speed| *speed >= fastest)?;
            best = (fastest, block, at);
        }
    }
    Some(token(best.1 * BLOCK + best.2))
}

/// By itself, since the compiler sees the loop for what it is only where little stands around it.
#[inline(never)]
fn race(logits: &[f32], scale: Scale, noise: Noise, first: usize, speeds: &mut [f32]) {
    let mut id = u32::try_from(first).unwrap_or(u32::MAX);
    for (speed, logit) in speeds.iter_mut().zip(logits) {
        *speed = scale.weight(*logit) / noise.exponential(id);
        id = id.wrapping_add(1);
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
            index in any::<u32>(),
        ) {
            let params = params(temperature, top_k, top_p, min_p);
            let picked = Candidates::default().pick(&logits, &params, Noise::new(7, index));
            prop_assert!(allowed(&logits, &params).contains(&picked));
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        const DRAWS: u32 = 20_000;
        let logits = [0.0, 1.0_f32.exp().ln() + 1.0, -2.0];
        let params = params(1.0, 0, 1.0, 0.0);
        let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = [0_u32; 3];
        let mut candidates = Candidates::default();
        for index in 0..DRAWS {
            let drawn = candidates.pick(&logits, &params, Noise::new(1, index));
            counts[usize::try_from(drawn.0).expect("a token of three")] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let share = weight / total;
            let expected = share * f64::from(DRAWS);
            let deviation = (expected * (1.0 - share)).sqrt();
            assert!(
                (f64::from(*count) - expected).abs() < 4.0 * deviation,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_last_digits_of_logits_hardly_ever_change_a_draw() {
        let logits: Vec<f32> = (0..2000_u16).map(|i| f32::from(i % 97) / 12.0).collect();
        let other: Vec<f32> = logits
            .iter()
            .enumerate()
            .map(|(i, logit)| logit + if i % 2 == 0 { 1e-3 } else { -1e-3 })
            .collect();
        let params = params(1.0, 0, 1.0, 0.0);
        let mut candidates = Candidates::default();
        let changed = (0..1000).filter(|index| {
            let noise = Noise::new(42, *index);
            candidates.pick(&logits, &params, noise) != candidates.pick(&other, &params, noise)
        });
        assert!(changed.count() < 10);
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
    fn a_temperature_next_to_nothing_is_greedy() {
        for temperature in [1e-39, 1e-30, 1e-6] {
            for top_p in [1.0, 0.9] {
                let params = params(temperature, 0, top_p, 0.0);
                let picked =
                    Candidates::default().pick(&[1.0, 3.0, 2.0], &params, Noise::new(5, 9));
                assert_eq!(picked, Token(1), "{temperature}");
            }
        }
    }

    #[test]
    fn of_many_equals_each_is_drawn_alike() {
        let logits = vec![1.0; 10_000];
        let mut candidates = Candidates::default();
        let params = params(1.0, 0, 1.0, 0.0);
        let mut tenths = [0_u32; 10];
        for index in 0..5000 {
            let drawn = candidates.pick(&logits, &params, Noise::new(3, index));
            tenths[usize::try_from(drawn.0 / 1000).expect("a tenth")] += 1;
        }
        assert!(
            tenths.iter().all(|count| (410..590).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn hopeless_logits_still_give_a_token() {
        let logits = [f32::NEG_INFINITY, f32::NAN];
        let picked =
            Candidates::default().pick(&logits, &params(1.0, 0, 0.9, 0.1), Noise::new(0, 0));
        assert_eq!(picked, Token(0));
    }
}
