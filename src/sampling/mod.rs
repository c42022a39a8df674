//! From logits to a token.
//!
//! The order is Hugging Face's: penalties and bias, temperature, top-k, top-p,
//! min-p. Only what a request uses costs anything: greedy decoding is one
//! argmax, and only candidates that can still matter are ever sorted.

mod candidates;

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::engine::Token;
use candidates::Candidates;

/// What one request asks of sampling; already within range.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the most likely candidates up to this total probability; 1 keeps all.
    pub top_p: f32,
    /// Keep this many candidates; 0 keeps all.
    pub top_k: u32,
    /// Drop candidates less likely than this fraction of the best; 0 drops none.
    pub min_p: f32,
    /// Subtracted once from every token already generated (OpenAI).
    pub presence_penalty: f32,
    /// Subtracted for every time a token was generated (OpenAI).
    pub frequency_penalty: f32,
    /// Divides positive logits of tokens in prompt or answer, multiplies
    /// negative ones (CTRL, arXiv:1909.05858); 1 is off.
    pub repeat_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// Same seed, same prompt, same model: same answer.
    pub seed: u64,
}

impl Default for SamplingParams {
    /// OpenAI's defaults, with a fixed seed.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    fn penalizes_repeats(&self) -> bool {
        (self.repeat_penalty - 1.0).abs() > f32::EPSILON
    }

    fn adjusts_logits(&self) -> bool {
        self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.penalizes_repeats()
            || !self.logit_bias.is_empty()
    }
}

/// How often a token has been seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    in_prompt: bool,
    generated: u32,
}

/// The sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    seen: HashMap<Token, Seen>,
    adjusted: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// `prompt` matters to `repeat_penalty` only.
    #[must_use]
    pub fn new(params: SamplingParams, prompt: &[Token]) -> Self {
        let mut seen = HashMap::new();
        if params.penalizes_repeats() {
            for token in prompt {
                seen.entry(*token).or_insert(Seen {
                    in_prompt: true,
                    generated: 0,
                });
            }
        }
        Self {
            params,
            seen,
            adjusted: Vec::new(),
            candidates: Candidates::default(),
        }
    }

    /// Picks the `index`-th token of the answer (from 0). The draw depends on
    /// the seed and the index alone, so a token that has to be sampled again
    /// comes out the same.
    pub fn sample(&mut self, logits: &[f32], index: u32) -> Token {
        let logits = if self.params.adjusts_logits() {
            self.adjust(logits);
            &self.adjusted
        } else {
            logits
        };
        if self.params.temperature <= 0.0 {
            return candidates::argmax(logits);
        }
        self.candidates
            .pick(logits, &self.params, uniform(self.params.seed, index))
    }

    /// Takes note of a generated token.
    pub fn accept(&mut self, token: Token) {
        if self.params.adjusts_logits() {
            self.seen.entry(token).or_default().generated += 1;
        }
    }

    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^24
    fn adjust(&mut self, logits: &[f32]) {
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        let params = &self.params;
        let mut change = |token: Token, by: &dyn Fn(f32) -> f32| {
            let slot = usize::try_from(token.0)
                .ok()
                .and_then(|index| self.adjusted.get_mut(index));
            if let Some(logit) = slot {
                *logit = by(*logit);
            }
        };
        for (token, seen) in &self.seen {
            change(*token, &|mut logit| {
                if seen.in_prompt || seen.generated > 0 {
                    logit = if logit > 0.0 {
                        logit / params.repeat_penalty
                    } else {
                        logit * params.repeat_penalty
                    };
                }
                if seen.generated > 0 {
                    logit -=
                        params.presence_penalty + params.frequency_penalty * seen.generated as f32;
                }
                logit
            });
        }
        for (token, bias) in &params.logit_bias {
            change(*token, &|logit| logit + bias);
        }
    }
}

/// A number in [0, 1) from seed and index: `ChaCha8`'s stream at place `index`.
#[allow(clippy::cast_precision_loss)] // 53 bits are exactly what an f64 holds
fn uniform(seed: u64, index: u32) -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_word_pos(u128::from(index) * 2);
    (random.next_u64() >> 11) as f64 * (-53_f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.9, -1.0, f32::NAN];

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, &[])
    }

    #[test]
    fn greedy_takes_the_likeliest_and_survives_nan() {
        let params = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        assert_eq!(sampler(params).sample(&LOGITS, 0), Token(1));
    }

    #[test]
    fn the_same_seed_and_index_draw_the_same_token() {
        let draw = |seed, index| {
            let params = SamplingParams {
                seed,
                ..SamplingParams::default()
            };
            sampler(params).sample(&LOGITS, index)
        };
        for index in 0..50 {
            assert_eq!(draw(7, index), draw(7, index));
        }
        let one: Vec<_> = (0..50).map(|index| draw(1, index)).collect();
        let two: Vec<_> = (0..50).map(|index| draw(2, index)).collect();
        assert_ne!(one, two);
    }

    #[test]
    fn a_frequency_penalty_pushes_repeated_tokens_back() {
        let params = SamplingParams {
            temperature: 0.0,
            frequency_penalty: 0.2,
            ..SamplingParams::default()
        };
        let mut sampler = sampler(params);
        assert_eq!(sampler.sample(&LOGITS, 0), Token(1));
        sampler.accept(Token(1));
        assert_eq!(sampler.sample(&LOGITS, 1), Token(2));
    }

    #[test]
    fn a_repeat_penalty_counts_the_prompt() {
        let params = SamplingParams {
            temperature: 0.0,
            repeat_penalty: 1.5,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params, &[Token(1)]);
        assert_eq!(sampler.sample(&LOGITS, 0), Token(2));
    }

    #[test]
    fn a_bias_of_minus_100_bans_a_token() {
        let params = SamplingParams {
            logit_bias: vec![(Token(1), -100.0), (Token(2), -100.0)],
            ..SamplingParams::default()
        };
        let mut sampler = sampler(params);
        for index in 0..100 {
            assert!(![Token(1), Token(2)].contains(&sampler.sample(&LOGITS, index)));
        }
    }
}
