//! Whole texts to tokens and back, as the makers of a model's vocabulary mean it.

use llama_cpp_2::token::LlamaToken;

use super::{Model, Token};

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Whether the tokens that the model wants around a text (its begin, its end) are added.
    pub bounds: bool,
    /// Whether the text of a control token stands for that token; otherwise it is plain text.
    pub markup: bool,
}

impl Model {
    /// The tokens of a whole text.
    #[must_use]
    pub fn tokenize(&self, text: &str, reading: Reading) -> Vec<Token> {
        let vocab = self.weights().vocab();
        let tokens = vocab.tokenize(text.as_bytes(), reading.bounds, reading.markup);
        tokens.into_iter().map(|token| Token(token.0)).collect()
    }

    /// The text of tokens, control tokens written out; U+FFFD stands for bytes that are no text.
    /// The ids must be in the vocabulary.
    #[must_use]
    pub fn detokenize(&self, tokens: &[Token]) -> String {
        let tokens: Vec<_> = tokens.iter().map(|token| LlamaToken(token.0)).collect();
        let bytes = self.weights().vocab().detokenize(&tokens, false, true);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How the vocabulary writes a token, e.g. `Ġthe` or `▁the`.
    #[must_use]
    pub fn token_text(&self, token: Token) -> String {
        let vocab = self.weights().vocab();
        let text = vocab.text(LlamaToken(token.0));
        text.map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}
