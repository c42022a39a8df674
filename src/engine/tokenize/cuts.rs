//! Where a text may be divided, and how long a match of a pre-tokenizer can get in it.
//!
//! The patterns (`llm_tokenizer_bpe` in `llama-vocab.cpp`) are many, but none matches on across a
//! *barrier*: from a character that is not white space to a space behind it, or from a line end to
//! what is not white space. So a match is at most as long as what lies between two barriers, which
//! in prose is a word, and in code a line's indentation.

use super::special_tokens::TextPiece;

/// What a pre-tokenizer does that others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizerQuirk {
    /// Nothing of the following.
    Usual,
    /// A match goes on from word to word (`exaone-moe`).
    JoinsWords,
    /// White space at the end of a text is looked for from each character of white space there is
    /// (`deepseek-llm`): a run takes the square of its length, unless it ends the portion.
    SeeksLastBlanks,
    /// A run of white space takes the square of its length by 512, and is divided by 512 anyway
    /// (`jais-2`).
    DividesBlanks,
    /// Groups of three digits are looked for from each digit there is (`superbpe`): a run takes the
    /// square of its length.
    SeeksDigitGroups,
    /// Nothing but line ends divides the text, and tokens span words (`gemma4`).
    SpansWords,
    /// Between marks the text is read in another way, so that it cannot be divided (`hybriddna`).
    KeepsState,
}

/// Runs of white space that a `deepseek-llm` pattern may look through again and again.
const MOST_BLANKS: usize = 32;
/// A multiple of 512.
const MOST_DIVIDED_BLANKS: usize = 4096;
/// Portions of so many bytes end at the next word, whatever is there.
const LONGEST_PORTION: usize = 2 << 20;
/// Runs of digits that a `superbpe` pattern may look through again and again.
const MOST_DIGITS: usize = 24;

impl PreTokenizerQuirk {
    /// Of the kind and the pre-tokenizer that a GGUF names.
    pub(super) fn of(model: &str, pre: &str) -> Self {
        match (model, pre) {
            ("hybriddna", _) => Self::KeepsState,
            ("gemma4", _) | (_, "gemma4" | "granite-embed-multi-311m" | "sarvam-moe") => {
                Self::SpansWords
            }
            (_, "exaone-moe") => Self::JoinsWords,
            (_, "deepseek-llm") => Self::SeeksLastBlanks,
            (_, "jais-2") => Self::DividesBlanks,
            (_, "superbpe") => Self::SeeksDigitGroups,
            _ => Self::Usual,
        }
    }

    fn is_barrier(self, before: char, after: char) -> bool {
        if before == '\n' {
            return !after.is_whitespace();
        }
        let is_letter = !before.is_ascii() || before.is_ascii_alphabetic();
        let may_be_joined = self == Self::JoinsWords && is_letter;
        after == ' ' && !before.is_whitespace() && !may_be_joined
    }

    /// Whether no token spans this place, so that its sides can be read apart.
    fn is_seam(self, before: char, after: char, next: Option<char>) -> bool {
        match self {
            Self::KeepsState => false,
            Self::SpansWords => before == '\n' && after != '\n',
            _ => {
                self.is_barrier(before, after)
                    && (before.is_ascii_alphanumeric() || self == Self::JoinsWords)
                    && next.is_some_and(|next| next.is_ascii_alphabetic())
            }
        }
    }
}

/// Pieces of a text, each of which llama.cpp is to be given by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenizePlan<'t> {
    pub(super) portions: Vec<TextPiece<'t>>,
    /// Characters of the longest match that there can be; 0 where nothing recurses.
    pub(super) longest_match: usize,
}

impl<'t> TokenizePlan<'t> {
    /// Divides texts so that no match is longer than `most` characters, and no portion much longer
    /// than `portion` bytes.
    pub(super) fn of(
        pieces: &[TextPiece<'t>],
        habit: Option<PreTokenizerQuirk>,
        most: usize,
        portion: usize,
    ) -> Self {
        let Some(habit) = habit else {
            return Self {
                portions: pieces.to_vec(),
                longest_match: 0,
            };
        };
        let mut plan = Self {
            portions: Vec::with_capacity(pieces.len()),
            longest_match: 0,
        };
        for piece in pieces {
            match *piece {
                TextPiece::Special(_) => plan.portions.push(*piece),
                TextPiece::Text(text) => {
                    let mut divider = Divider {
                        text,
                        begin: 0,
                        plan: &mut plan,
                    };
                    divider.divide(habit, most, portion);
                }
            }
        }
        plan
    }
}

/// What has been seen of a text.
struct Divider<'p, 't> {
    text: &'t str,
    /// Where the portion begins that is not yet in the plan.
    begin: usize,
    plan: &'p mut TokenizePlan<'t>,
}

impl Divider<'_, '_> {
    fn cut(&mut self, at: usize) {
        if at > self.begin {
            let portion = &self.text[self.begin..at];
            self.plan.portions.push(TextPiece::Text(portion));
            self.begin = at;
        }
    }

    fn divide(&mut self, habit: PreTokenizerQuirk, most: usize, portion: usize) {
        let mut before: Option<char> = None;
        let mut length = 0;
        let mut blanks = 0;
        let mut chars = self.text.char_indices().peekable();
        while let Some((at, char)) = chars.next() {
            match habit {
                PreTokenizerQuirk::SeeksLastBlanks => {
                    blanks = self.behind_blanks(at, char, before, blanks);
                }
                PreTokenizerQuirk::DividesBlanks => {
                    blanks = if char.is_whitespace() { blanks + 1 } else { 0 };
                    if blanks > MOST_DIVIDED_BLANKS {
                        self.cut(at);
                        (blanks, length) = (1, 0);
                    }
                }
                PreTokenizerQuirk::SeeksDigitGroups => {
                    let goes_on = before.is_some_and(|before| before.is_ascii_digit());
                    if char.is_ascii_digit() && !goes_on {
                        self.digits(at);
                    }
                    // In what is divided already nothing is long.
                    if at < self.begin {
                        length = 0;
                    }
                }
                _ => {}
            }
            if let Some(before) = before {
                if habit.is_barrier(before, char) {
                    length = 0;
                }
                let next = chars.peek().map(|&(_, next)| next);
                let behind = at.saturating_sub(self.begin);
                let is_seam = behind >= portion && habit.is_seam(before, char, next);
                // One line of megabytes: that a token may be another is better than its memory.
                let is_late = behind >= LONGEST_PORTION && habit.is_barrier(before, char);
                if is_seam || (is_late && habit != PreTokenizerQuirk::KeepsState) {
                    self.cut(at);
                }
            }
            if length == most {
                self.cut(at);
                length = 0;
            }
            length += 1;
            self.plan.longest_match = self.plan.longest_match.max(length);
            before = Some(char);
        }
        self.cut(self.text.len());
    }

    /// Lets a long run of white space end a portion where the pattern would seek for its end. Digits
    /// and Han are taken apart from white space in any case; of what else may follow, a space before
    /// it is its part.
    fn behind_blanks(
        &mut self,
        at: usize,
        char: char,
        before: Option<char>,
        blanks: usize,
    ) -> usize {
        if char.is_whitespace() && !matches!(char, '\r' | '\n') {
            return blanks + 1;
        }
        if blanks > MOST_BLANKS && !matches!(char, '\r' | '\n') {
            let stands_apart = char.is_numeric() || matches!(char, '一'..='龥' | '가'..='\u{D7FF}');
            let last = before.map_or(0, char::len_utf8);
            self.cut(if stands_apart { at } else { at - last });
        }
        0
    }

    /// Divides a long run of digits that begins here as the pattern will: into threes, from its end.
    fn digits(&mut self, begin: usize) {
        let rest = &self.text.as_bytes()[begin..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count > MOST_DIGITS {
            let first = begin + count % 3;
            for at in (first..begin + count).step_by(3) {
                self.cut(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        habit: PreTokenizerQuirk,
        text: &str,
        most: usize,
        portion: usize,
    ) -> (Vec<&str>, usize) {
        let plan = TokenizePlan::of(&[TextPiece::Text(text)], Some(habit), most, portion);
        let texts = plan.portions.iter().map(|piece| match piece {
            TextPiece::Text(text) => *text,
            TextPiece::Special(_) => unreachable!("there is none"),
        });
        (texts.collect(), plan.longest_match)
    }

    #[test]
    fn matches_end_with_words_and_lines() {
        let habit = PreTokenizerQuirk::Usual;
        let (texts, longest) = plan(habit, "some words\n\n\tand-others", 64, 1000);
        assert_eq!(texts, ["some words\n\n\tand-others"]);
        // " words", two line ends and a tab; what is behind the tab is one with it.
        assert_eq!(longest, "\u{20}words\n\n\tand-others".len());
        let (_, longest) = plan(habit, "some words\nand others", 64, 1000);
        assert_eq!(longest, "\u{20}others".len());
        let joined = PreTokenizerQuirk::of("gpt2", "exaone-moe");
        assert_eq!(plan(joined, "ab cd. ef", 64, 1000).1, "ab cd.".len());
    }

    #[test]
    fn long_matches_are_cut_between_characters() {
        let word = "é".repeat(10);
        let (texts, longest) = plan(PreTokenizerQuirk::Usual, &word, 4, 1000);
        assert_eq!(texts, ["éééé", "éééé", "éé"]);
        assert_eq!(longest, 4);
    }

    #[test]
    fn long_texts_are_divided_where_no_token_spans() {
        let text = "one two, three  four 5 six";
        let (texts, _) = plan(PreTokenizerQuirk::Usual, text, 64, 1);
        assert_eq!(texts, ["one", " two, three  four 5", " six"]);
        let lines = PreTokenizerQuirk::of("gemma4", "");
        let (texts, _) = plan(lines, "a b\n\nc d\ne", 64, 1);
        assert_eq!(texts, ["a b\n\n", "c d\n", "e"]);
        let line = "word ".repeat(1 << 20);
        let (texts, _) = plan(lines, &line, 64, 1);
        assert_eq!(texts.len(), 3);
        assert!(texts[1].starts_with(" word"));
    }

    #[test]
    fn digits_are_divided_into_threes_from_their_end_and_blanks_end_a_portion() {
        let digits = PreTokenizerQuirk::of("gpt2", "superbpe");
        let number = "1234567890123456789012345";
        let text = format!("a{number}b");
        let (texts, _) = plan(digits, &text, 64, 1000);
        assert_eq!(texts.concat(), text);
        assert_eq!(texts[..3], ["a1", "234", "567"]);
        assert_eq!(plan(digits, &number[1..], 64, 1000).0.len(), 1);

        let blanks = PreTokenizerQuirk::of("gpt2", "deepseek-llm");
        let run = " ".repeat(MOST_BLANKS + 1);
        let pieces = |char| plan(blanks, &format!("{run}{char}"), 64, 1000).0.join("|");
        assert_eq!(pieces('7'), format!("{run}|7"));
        assert_eq!(pieces('x'), format!("{}| x", &run[1..]));
        assert_eq!(pieces('\n'), format!("{run}\n"));
    }
}
