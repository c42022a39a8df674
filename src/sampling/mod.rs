//! Picks tokens from logits.
//!
//! The order is Hugging Face's: penalties and bias, temperature, top-k, top-p,
//! min-p. Only what a request uses costs anything: greedy decoding is one
//! argmax, and only candidates that can still matter are ever sorted.

mod candidates;
mod logprobs;
mod noise;

use std::collections::HashMap;

use crate::engine::Token;
use crate::grammar::Constraint;
use candidates::Candidates;
use noise::Noise;

pub use crate::grammar::ConstraintError;
pub use logprobs::{Logprobs, logprobs};

/// The sampling parameters of one request, already checked to be within range.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Temperature; 0 is greedy.
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
    /// The seed of the random numbers: with the same prompt and model it gives the same answer.
    pub seed: u64,
}

impl Default for SamplingParams {
    /// Returns OpenAI's defaults, with a fixed seed.
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

/// How often a token occurred in the prompt and in the answer.
#[derive(Debug, Clone, Copy, Default)]
struct TokenCounts {
    in_prompt: bool,
    generated: u32,
}

/// The sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    counts: HashMap<Token, TokenCounts>,
    adjusted: Vec<f32>,
    candidates: Candidates,
    constraint: Option<Constraint>,
}

impl Sampler {
    /// `prompt` matters to `repeat_penalty` only; only what `constraint` allows is ever picked.
    #[must_use]
    pub fn new(params: SamplingParams, prompt: &[Token], constraint: Option<Constraint>) -> Self {
        let mut counts = HashMap::new();
        if params.penalizes_repeats() {
            for token in prompt {
                counts.entry(*token).or_insert(TokenCounts {
                    in_prompt: true,
                    generated: 0,
                });
            }
        }
        Self {
            params,
            counts,
            adjusted: Vec::new(),
            candidates: Candidates::default(),
            constraint,
        }
    }

    /// Picks the `index`-th token of the answer (from 0), which may have `most` tokens, and advances by
    /// it. The draw depends on the seed and the index alone.
    ///
    /// A constrained answer gets the token that a free one would get where the grammar allows it. Only
    /// where the grammar does not, the logits are masked and the draw is repeated with the same noise:
    /// greedily and by temperature alone that is the same as masking at once.
    ///
    /// # Errors
    /// [`ConstraintError`] when the constraint cannot follow its grammar any more.
    pub fn sample(
        &mut self,
        logits: &[f32],
        index: u32,
        most: u32,
    ) -> Result<Token, ConstraintError> {
        let adjusts = self.params.adjusts_logits();
        if adjusts {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            self.adjust();
        }
        let mut token = if adjusts {
            pick(&mut self.candidates, &self.adjusted, &self.params, index)
        } else {
            pick(&mut self.candidates, logits, &self.params, index)
        };
        let left = most.saturating_sub(index);
        // A mask costs much, and a model that knows the format seldom picks a token that is not allowed.
        if let Some(constraint) = &mut self.constraint
            && !constraint.allows(token, left)
        {
            if !adjusts {
                self.adjusted.clear();
                self.adjusted.extend_from_slice(logits);
            }
            constraint.mask(&mut self.adjusted, left)?;
            token = pick(&mut self.candidates, &self.adjusted, &self.params, index);
        }
        if adjusts {
            self.counts.entry(token).or_default().generated += 1;
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        Ok(token)
    }

    /// Whether the grammar lets nothing follow what was picked so far.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.constraint
            .as_ref()
            .is_some_and(Constraint::is_complete)
    }

    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^24
    fn adjust(&mut self) {
        let params = &self.params;
        let mut change = |token: Token, by: &dyn Fn(f32) -> f32| {
            let slot = usize::try_from(token.0)
                .ok()
                .and_then(|index| self.adjusted.get_mut(index));
            if let Some(logit) = slot {
                *logit = by(*logit);
            }
        };
        for (token, counts) in &self.counts {
            change(*token, &|mut logit| {
                if counts.in_prompt || counts.generated > 0 {
                    logit = if logit > 0.0 {
                        logit / params.repeat_penalty
                    } else {
                        logit * params.repeat_penalty
                    };
                }
                if counts.generated > 0 {
                    logit -= params.presence_penalty
                        + params.frequency_penalty * counts.generated as f32;
                }
                logit
            });
        }
        for (token, bias) in &params.logit_bias {
            change(*token, &|logit| logit + bias);
        }
    }
}

fn pick(candidates: &mut Candidates, logits: &[f32], params: &SamplingParams, index: u32) -> Token {
    if params.temperature <= 0.0 {
        candidates::argmax(logits)
    } else {
        candidates.pick(logits, params, Noise::new(params.seed, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.9, -1.0, f32::NAN];

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, &[], None)
    }

    #[test]
    fn greedy_takes_the_likeliest_and_survives_nan() {
        let params = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        assert_eq!(sampler(params).sample(&LOGITS, 0, 64), Ok(Token(1)));
    }

    #[test]
    fn the_same_seed_and_index_draw_the_same_token() {
        let draw = |seed, index| {
            let params = SamplingParams {
                seed,
                ..SamplingParams::default()
            };
            sampler(params).sample(&LOGITS, index, 64)
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
        assert_eq!(sampler.sample(&LOGITS, 0, 64), Ok(Token(1)));
        assert_eq!(sampler.sample(&LOGITS, 1, 64), Ok(Token(2)));
    }

    #[test]
    fn a_repeat_penalty_counts_the_prompt() {
        let params = SamplingParams {
            temperature: 0.0,
            repeat_penalty: 1.5,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params, &[Token(1)], None);
        assert_eq!(sampler.sample(&LOGITS, 0, 64), Ok(Token(2)));
    }

    #[test]
    fn a_bias_of_minus_100_bans_a_token() {
        let params = SamplingParams {
            logit_bias: vec![(Token(1), -100.0), (Token(2), -100.0)],
            ..SamplingParams::default()
        };
        let mut sampler = sampler(params);
        for index in 0..100 {
            let drawn = sampler.sample(&LOGITS, index, 64).expect("no grammar");
            assert!(![Token(1), Token(2)].contains(&drawn));
        }
    }
}
