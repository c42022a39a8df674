//! Whole texts to tokens and back, as the makers of a model's vocabulary mean it.

use std::borrow::Cow;

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
        // `LlamaVocab::vocab_type` panics over most of the types.
        let kind = self.weights().meta_val_str("tokenizer.ggml.model");
        let text = if kind.is_ok_and(|kind| kind == "bert") {
            decompose_hangul(text)
        } else {
            Cow::Borrowed(text)
        };
        self.tokenizer().tokens(self.weights(), &text, reading)
    }

    /// The text of tokens, control tokens written out; U+FFFD stands for bytes that are no text.
    /// Ids that are not in the vocabulary have none.
    #[must_use]
    pub fn detokenize(&self, tokens: &[Token]) -> String {
        let vocab = self.weights().vocab();
        let known: Vec<_> = tokens
            .iter()
            .filter_map(|token| self.known(*token))
            .collect();
        // llama.cpp counts the bytes in 31 bits. Behind a division it tidies up as at a beginning.
        let longest = self
            .info()
            .longest_piece
            .max(self.tokenizer().longest_special());
        let most = i32::MAX as usize / longest;
        let texts = known
            .chunks(most)
            .map(|tokens| vocab.detokenize(tokens, false, true));
        String::from_utf8_lossy(&texts.collect::<Vec<_>>().concat()).into_owned()
    }

    /// How the vocabulary writes a token, e.g. `Ġthe` or `▁the`; empty for ids that are not in it.
    #[must_use]
    pub fn token_text(&self, token: Token) -> String {
        let vocab = self.weights().vocab();
        self.known(token)
            .and_then(|token| vocab.text(token))
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// llama.cpp ends the process over ids that are not in the vocabulary.
    fn known(&self, token: Token) -> Option<LlamaToken> {
        let id = usize::try_from(token.0).ok()?;
        (id < self.info().vocabulary).then_some(LlamaToken(token.0))
    }
}

/// Korean syllables as the letters that they are made of (Unicode 3.12, "Hangul Syllable
/// Decomposition"), which is how `WordPiece` vocabularies have them. llama.cpp, where it should
/// decompose, keeps the first letter of each syllable and loses the others.
fn decompose_hangul(text: &str) -> Cow<'_, str> {
    const SYLLABLES: std::ops::RangeInclusive<char> = '\u{AC00}'..='\u{D7A3}';
    const LEADS: u32 = 0x1100;
    const VOWELS: u32 = 0x1161;
    // The letter before the first: no tail is tail 0.
    const TAILS: u32 = 0x11A7;
    const VOWEL_COUNT: u32 = 21;
    const TAIL_COUNT: u32 = 28;
    if !text.contains(|char| SYLLABLES.contains(&char)) {
        return Cow::Borrowed(text);
    }
    let letters = text.chars().flat_map(|char| {
        if !SYLLABLES.contains(&char) {
            return [Some(char), None, None];
        }
        let index = u32::from(char) - u32::from(*SYLLABLES.start());
        let tail = index % TAIL_COUNT;
        [
            char::from_u32(LEADS + index / (VOWEL_COUNT * TAIL_COUNT)),
            char::from_u32(VOWELS + index / TAIL_COUNT % VOWEL_COUNT),
            (tail > 0).then(|| char::from_u32(TAILS + tail)).flatten(),
        ]
    });
    Cow::Owned(letters.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn korean_syllables_become_letters_and_other_text_stays() {
        assert_eq!(
            decompose_hangul("커피 2 한"),
            "\u{110F}\u{1165}\u{1111}\u{1175} 2 \u{1112}\u{1161}\u{11AB}"
        );
        assert_eq!(
            decompose_hangul("\u{AC00}\u{D7A3}"),
            "\u{1100}\u{1161}\u{1112}\u{1175}\u{11C2}"
        );
        assert!(matches!(decompose_hangul("Kaffee é"), Cow::Borrowed(_)));
    }
}
