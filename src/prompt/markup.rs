//! The special tokens of a vocabulary, found in text by the longest match.

use std::collections::HashMap;

use crate::engine::{SpecialKind, SpecialToken};

/// Special tokens by their text.
pub(super) struct Markup<'v> {
    by_text: HashMap<&'v str, &'v SpecialToken>,
    /// By first character: the lengths in bytes that occur, longest first.
    lengths: HashMap<char, Vec<usize>>,
}

impl<'v> Markup<'v> {
    /// Leaves out what is not markup: single characters, and the runs of white space that Gemma's
    /// vocabulary lists as user-defined, which belong to ordinary text.
    pub(super) fn new(specials: &'v [SpecialToken]) -> Self {
        let mut by_text: HashMap<&str, &SpecialToken> = HashMap::new();
        let mut lengths: HashMap<char, Vec<usize>> = HashMap::new();
        for special in specials {
            let text = special.text.as_str();
            let mut chars = text.chars();
            let (Some(first), Some(_)) = (chars.next(), chars.next()) else {
                continue;
            };
            // U+2581 is SentencePiece's space.
            let blank = text
                .chars()
                .all(|char| char.is_whitespace() || char == '\u{2581}');
            if blank && special.kind == SpecialKind::UserDefined {
                continue;
            }
            lengths.entry(first).or_default().push(text.len());
            let entry = by_text.entry(text).or_insert(special);
            if special.kind == SpecialKind::Control {
                *entry = special;
            }
        }
        for lengths in lengths.values_mut() {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        Self { by_text, lengths }
    }

    /// The longest special with which `text` begins.
    pub(super) fn at_start(&self, text: &str) -> Option<&'v SpecialToken> {
        let lengths = self.lengths.get(&text.chars().next()?)?;
        lengths
            .iter()
            .find_map(|&length| self.by_text.get(text.get(..length)?))
            .copied()
    }

    /// Cuts `text` so that no piece holds the whole text of a special.
    pub(super) fn pieces<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, char) in text.char_indices() {
            if self.at_start(&text[at..]).is_some() {
                let end = at + char.len_utf8();
                pieces.push(&text[start..end]);
                start = end;
            }
        }
        if start < text.len() {
            pieces.push(&text[start..]);
        }
        pieces
    }

    /// All of it, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'v SpecialToken> + Clone {
        self.by_text.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Markup;
    use crate::engine::{SpecialKind, SpecialToken, Token};

    fn specials(texts: &[&str]) -> Vec<SpecialToken> {
        (0..)
            .zip(texts)
            .map(|(id, text)| SpecialToken {
                text: (*text).into(),
                token: Token(id),
                kind: SpecialKind::UserDefined,
            })
            .collect()
    }

    #[test]
    fn the_longest_special_wins() {
        let specials = specials(&["<a", "<a>", "<a>b"]);
        let markup = Markup::new(&specials);
        assert_eq!(markup.at_start("<a>bc").map(|s| s.token), Some(Token(2)));
        assert_eq!(markup.at_start("<a>é").map(|s| s.token), Some(Token(1)));
        assert_eq!(markup.at_start("x<a>"), None);
    }

    #[test]
    fn pieces_hold_no_special_even_where_specials_overlap() {
        let specials = specials(&["aba", "<s>"]);
        let markup = Markup::new(&specials);
        assert_eq!(markup.pieces("xababa<s>"), ["xa", "ba", "ba<", "s>"]);
        assert_eq!(markup.pieces("plain"), ["plain"]);
        assert!(markup.pieces("").is_empty());
    }

    #[test]
    fn white_space_and_single_characters_are_ordinary_text() {
        let specials = specials(&["\n\n", "\u{2581}\u{2581}", "x"]);
        let markup = Markup::new(&specials);
        assert_eq!(markup.iter().count(), 0);
    }
}
