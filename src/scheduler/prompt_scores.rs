//! How likely the tokens of a prompt are, for requests that ask for it.

use crate::engine::Token;
use crate::sampling::{self, Logprobs};

/// Collects how likely each token of a prompt is, given those before it. The first token has none.
#[derive(Debug)]
pub(super) struct PromptScores {
    /// How many rivals of each token are listed with it.
    top: usize,
    scores: Vec<Logprobs>,
}

impl PromptScores {
    pub(super) fn new(top: usize) -> Self {
        Self {
            top,
            scores: Vec::new(),
        }
    }

    /// The first position of the prompt whose logits are still needed.
    pub(super) fn position(&self) -> usize {
        self.scores.len()
    }

    /// Scores what `count` rows of a batch tell, the first of which is row `first` and computed
    /// position `computed` of the `prompt`.
    pub(super) fn score<'a>(
        &mut self,
        prompt: &[Token],
        computed: usize,
        first: usize,
        count: usize,
        logits: &dyn Fn(usize) -> &'a [f32],
    ) {
        for (row, position) in (first..first + count).zip(computed..) {
            if position == self.scores.len()
                && let Some(token) = prompt.get(position + 1)
            {
                let scores = sampling::logprobs(logits(row), *token, self.top);
                self.scores.push(scores);
            }
        }
    }

    /// Whether every token of `prompt` after the first has its score.
    pub(super) fn is_complete(&self, prompt: &[Token]) -> bool {
        self.scores.len() + 1 >= prompt.len()
    }

    pub(super) fn into_scores(self) -> Vec<Logprobs> {
        self.scores
    }
}
