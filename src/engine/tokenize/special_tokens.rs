//! Special tokens in texts, found as llama.cpp finds them: the longer ones first, each from left to
//! right, wherever no longer one stands (`llama_vocab::impl::tokenizer_st_partition`).

use std::collections::HashMap;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_2::vocab::LlamaVocab;

use super::super::Token;

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextPiece<'t> {
    /// Plain text, never empty.
    Text(&'t str),
    /// Text that stands for a token as a whole.
    Special(Token),
}

impl<'t> TextPiece<'t> {
    fn plain(text: &'t str) -> Option<Self> {
        (!text.is_empty()).then_some(Self::Text(text))
    }
}

/// The special tokens of a vocabulary.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// From the longest to the shortest.
    lengths: Vec<SpecialsOfLength>,
}

/// Those whose texts have the same length.
#[derive(Debug)]
struct SpecialsOfLength {
    bytes: usize,
    /// Bytes with which one of them begins, and ends.
    begins: [bool; 256],
    ends: [bool; 256],
    by_text: HashMap<Box<str>, SpecialEntry>,
}

#[derive(Debug, Clone, Copy)]
struct SpecialEntry {
    token: Token,
    /// A control token: its text stands for it only where markup is read.
    hidden: bool,
    /// White space before it belongs to it.
    strips_left: bool,
    /// White space behind it belongs to it.
    strips_right: bool,
}

impl SpecialTokens {
    pub(super) fn of(vocab: &LlamaVocab) -> Self {
        let mut markup = Self::default();
        for id in 0..vocab.n_tokens() {
            let attributes = vocab.attr(LlamaToken(id));
            let has = |attribute| attributes.contains(attribute);
            let hidden = has(LlamaTokenAttr::Control) || has(LlamaTokenAttr::Unknown);
            if !hidden && !has(LlamaTokenAttr::UserDefined) {
                continue;
            }
            // What is no Unicode stands in no text.
            let text = vocab
                .text(LlamaToken(id))
                .and_then(|text| text.to_str().ok());
            let special = SpecialEntry {
                token: Token(id),
                hidden,
                strips_left: has(LlamaTokenAttr::LStrip),
                strips_right: has(LlamaTokenAttr::RStrip),
            };
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                markup.add(text, special);
            }
        }
        markup
            .lengths
            .sort_by_key(|same| std::cmp::Reverse(same.bytes));
        markup
    }

    fn add(&mut self, text: &str, special: SpecialEntry) {
        let at = self
            .lengths
            .iter()
            .position(|same| same.bytes == text.len());
        let at = at.unwrap_or_else(|| {
            self.lengths.push(SpecialsOfLength {
                bytes: text.len(),
                begins: [false; 256],
                ends: [false; 256],
                by_text: HashMap::new(),
            });
            self.lengths.len() - 1
        });
        let same = &mut self.lengths[at];
        let bytes = text.as_bytes();
        same.begins[usize::from(bytes[0])] = true;
        same.ends[usize::from(bytes[bytes.len() - 1])] = true;
        same.by_text.insert(text.into(), special);
    }

    /// Bytes of the longest one.
    pub(super) fn longest(&self) -> usize {
        self.lengths.first().map_or(0, |same| same.bytes)
    }

    /// The pieces of a text; `all` where control tokens count as well.
    pub(super) fn split<'t>(&self, text: &'t str, all: bool) -> Vec<TextPiece<'t>> {
        let mut pieces = Vec::from_iter(TextPiece::plain(text));
        for same in &self.lengths {
            let found = |piece: &TextPiece| match *piece {
                TextPiece::Text(text) => same.find(text, all).is_some(),
                TextPiece::Special(_) => false,
            };
            let Some(first) = pieces.iter().position(found) else {
                continue;
            };
            let rest = pieces.split_off(first);
            for piece in rest {
                match piece {
                    TextPiece::Text(text) => same.split(text, all, &mut pieces),
                    TextPiece::Special(_) => pieces.push(piece),
                }
            }
        }
        pieces
    }
}

impl SpecialsOfLength {
    /// Where the first one stands.
    fn find(&self, text: &str, all: bool) -> Option<(usize, SpecialEntry)> {
        let bytes = text.as_bytes();
        let last = bytes.len().checked_sub(self.bytes)?;
        (0..=last).find_map(|at| {
            let end = at + self.bytes;
            let likely =
                self.begins[usize::from(bytes[at])] && self.ends[usize::from(bytes[end - 1])];
            if !likely {
                return None;
            }
            let special = self.by_text.get(text.get(at..end)?)?;
            (all || !special.hidden).then_some((at, *special))
        })
    }

    fn split<'t>(&self, text: &'t str, all: bool, pieces: &mut Vec<TextPiece<'t>>) {
        // C's `isspace`.
        let is_space = |char: char| matches!(char, ' ' | '\t'..='\r');
        let mut rest = text;
        while let Some((at, special)) = self.find(rest, all) {
            let before = &rest[..at];
            let before = if special.strips_left {
                before.trim_end_matches(is_space)
            } else {
                before
            };
            pieces.extend(TextPiece::plain(before));
            pieces.push(TextPiece::Special(special.token));
            rest = &rest[at + self.bytes..];
            if special.strips_right {
                rest = rest.trim_start_matches(is_space);
            }
        }
        pieces.extend(TextPiece::plain(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::TextPiece::{Special as Found, Text};
    use super::*;

    fn markup(specials: &[(&str, bool)]) -> SpecialTokens {
        let mut markup = SpecialTokens::default();
        for (id, (text, hidden)) in (0..).zip(specials) {
            let special = SpecialEntry {
                token: Token(id),
                hidden: *hidden,
                strips_left: text.contains("mask"),
                strips_right: text.contains("end"),
            };
            markup.add(text, special);
        }
        markup
            .lengths
            .sort_by_key(|same| std::cmp::Reverse(same.bytes));
        markup
    }

    #[test]
    fn longer_specials_win_over_shorter_ones_that_begin_before() {
        let markup = markup(&[("aa", false), ("abc", false)]);
        let pieces = markup.split("aabcaa", false);
        assert_eq!(pieces, [Text("a"), Found(Token(1)), Found(Token(0))]);
        assert_eq!(markup.split("", true), []);
        assert_eq!(markup.split("éa", true), [Text("éa")]);
    }

    #[test]
    fn control_tokens_are_text_unless_markup_is_read() {
        let markup = markup(&[("<s>", true), ("<t>", false)]);
        let text = "a<s><t>";
        assert_eq!(markup.split(text, false), [Text("a<s>"), Found(Token(1))]);
        let all = [Text("a"), Found(Token(0)), Found(Token(1))];
        assert_eq!(markup.split(text, true), all);
    }

    #[test]
    fn white_space_beside_a_special_that_strips_it_is_gone() {
        let markup = markup(&[("<mask>", false), ("<end>", false)]);
        let pieces = markup.split("a \n<mask> b<end> \t<end>c", false);
        let end = Found(Token(1));
        assert_eq!(
            pieces,
            [Text("a"), Found(Token(0)), Text(" b"), end, end, Text("c")]
        );
    }
}
