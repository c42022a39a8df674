//! The log probabilities of a token and of the likeliest alternatives.

use crate::engine::Token;

use super::candidates::{highest_logits, log_sum_exp};

/// Natural logarithms of probabilities, as the model has them: before temperature, penalties, bias
/// and grammars.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token that was picked.
    pub token: Token,
    /// Its log probability.
    pub logprob: f32,
    /// The likeliest tokens with their log probabilities, likeliest first.
    pub top: Vec<(Token, f32)>,
}

/// Returns the log probabilities of `token` and of the `top` likeliest tokens, from the logits of all.
#[must_use]
pub fn logprobs(logits: &[f32], token: Token, top: usize) -> Logprobs {
    let total = log_sum_exp(logits);
    let logit = usize::try_from(token.0)
        .ok()
        .and_then(|index| logits.get(index).copied());
    let mut top = highest_logits(logits, top);
    for (_, logit) in &mut top {
        *logit -= total;
    }
    Logprobs {
        token,
        logprob: logit.map_or(f32::NEG_INFINITY, |logit| logit - total),
        top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_a_softmax() {
        let logits = [1.0, 3.0, 2.0, f32::NAN, f32::NEG_INFINITY];
        let found = logprobs(&logits, Token(2), 2);
        let total = 1.0_f32.exp() + 2.0_f32.exp() + 3.0_f32.exp();
        let right = |logit: f32| (logit.exp() / total).ln();
        let close = |a: f32, b: f32| (a - b).abs() < 1e-4;
        assert!(close(found.logprob, right(2.0)));
        let [(first, one), (second, two)] = found.top[..] else {
            panic!("two");
        };
        assert_eq!((first, second), (Token(1), Token(2)));
        assert!(close(one, right(3.0)) && close(two, right(2.0)));
    }

    #[test]
    fn none_are_listed_unless_asked_for() {
        assert!(logprobs(&[0.0; 100], Token(7), 0).top.is_empty());
    }
}
