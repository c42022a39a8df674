//! Turns token bytes into text that may be sent: whole characters only, and no part of a stop string, not
//! even its first bytes.

#[cfg(test)]
mod stop_tests;
mod stops;

use std::collections::VecDeque;

use crate::sampling::Logprobs;

use super::job::{AnswerText, FinishReason};
pub use stops::Stops;
use stops::{ReleaseDecision, StopFinder};

/// The text that may be sent after one more token.
#[derive(Debug, PartialEq)]
pub(super) enum PushOutcome {
    /// Text that can be sent now; may be empty.
    Text(AnswerText),
    /// The text before a stop string, which is the last text.
    Stopped(AnswerText),
}

/// A token whose text was not sent yet.
#[derive(Debug)]
struct PendingToken {
    /// Where its bytes begin among those that are held back.
    start: usize,
    logprobs: Option<Logprobs>,
}

/// Holds back what may still become a stop string or a character.
#[derive(Debug, Default)]
pub(super) struct TextAssembler {
    finder: StopFinder,
    /// Whole characters that were not sent yet.
    pending: String,
    /// After them, the first bytes of a character.
    bytes: Vec<u8>,
    tokens: VecDeque<PendingToken>,
}

impl TextAssembler {
    #[must_use]
    pub(super) fn new(stops: Stops) -> Self {
        Self {
            finder: StopFinder::new(stops),
            ..Self::default()
        }
    }

    /// Adds the bytes of one token.
    pub(super) fn push(&mut self, piece: &[u8], logprobs: Option<Logprobs>) -> PushOutcome {
        self.begin_token(logprobs);
        self.bytes.extend_from_slice(piece);
        let from = self.pending.len();
        self.decode(whole_characters(&self.bytes));
        self.finder.push(&self.pending[from..]);
        self.release()
    }

    /// Adds a token that is no text for the client, but by which the answer is parsed. No stop string
    /// extends across it, and it is released whole.
    pub(super) fn push_tag(&mut self, tag: &str, logprobs: Option<Logprobs>) -> PushOutcome {
        // A character that was begun before the tag is not completed after it.
        let from = self.pending.len();
        self.decode(self.bytes.len());
        self.finder.push(&self.pending[from..]);
        self.begin_token(logprobs);
        self.pending.push_str(tag);
        self.finder.push_tag(tag);
        self.release()
    }

    /// Returns what was held back, when no more output comes; a character that was cut off is left out.
    #[must_use]
    pub(super) fn finish(mut self, reason: FinishReason) -> AnswerText {
        if reason == FinishReason::Stop {
            self.finder.end();
            if let ReleaseDecision::Stop(at) = self.finder.verdict(&self.pending) {
                return self.take(at);
            }
        }
        let mut last = self.take(self.pending.len());
        last.tokens += u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        let rest = self.tokens.into_iter();
        last.logprobs
            .extend(rest.filter_map(|token| token.logprobs));
        last
    }

    fn begin_token(&mut self, logprobs: Option<Logprobs>) {
        let start = self.pending.len() + self.bytes.len();
        self.tokens.push_back(PendingToken { start, logprobs });
    }

    /// Decodes the first `length` bytes; what is not UTF-8 becomes replacement characters.
    fn decode(&mut self, length: usize) {
        let bytes: Vec<u8> = self.bytes.drain(..length).collect();
        for chunk in bytes.utf8_chunks() {
            self.pending.push_str(chunk.valid());
            let invalid = chunk.invalid().len();
            if invalid > 0 {
                // Its length differs from that of the bytes, so tokens after it move.
                let after = self.pending.len() + invalid;
                self.pending.push(char::REPLACEMENT_CHARACTER);
                for token in self.tokens.iter_mut().filter(|token| token.start >= after) {
                    token.start = token.start - after + self.pending.len();
                }
            }
        }
    }

    /// Takes the text that may be sent.
    fn release(&mut self) -> PushOutcome {
        match self.finder.verdict(&self.pending) {
            ReleaseDecision::Free(length) => PushOutcome::Text(self.take(length)),
            ReleaseDecision::Stop(at) => {
                let last = self.take(at);
                *self = Self::default();
                PushOutcome::Stopped(last)
            }
        }
    }

    /// Takes the first `length` bytes and the tokens that begin in them.
    fn take(&mut self, length: usize) -> AnswerText {
        self.finder.release(length);
        let rest = self.pending.split_off(length);
        let text = std::mem::replace(&mut self.pending, rest);
        let begun = self.tokens.partition_point(|token| token.start < length);
        let mut taken = AnswerText {
            text,
            tokens: u32::try_from(begun).unwrap_or(u32::MAX),
            logprobs: Vec::new(),
        };
        let tokens = self.tokens.drain(..begun);
        taken
            .logprobs
            .extend(tokens.filter_map(|token| token.logprobs));
        for token in &mut self.tokens {
            token.start -= length;
        }
        taken
    }
}

/// Returns the length of `bytes` without an incomplete character at the end, which later bytes may still
/// complete.
fn whole_characters(bytes: &[u8]) -> usize {
    let longest = bytes.len().min(3);
    for tail in 1..=longest {
        let byte = bytes[bytes.len() - tail];
        let needs = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        let incomplete = needs > tail
            && std::str::from_utf8(&bytes[bytes.len() - tail..])
                .is_err_and(|error| error.error_len().is_none());
        return if incomplete {
            bytes.len() - tail
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::OutputParser;
    use proptest::prelude::*;

    /// For a client that reads all text.
    fn assembler(stops: &[&str]) -> TextAssembler {
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        TextAssembler::new(Stops::new(stops, &OutputParser::new(None, None)))
    }

    /// All the text that comes out, and whether a stop string ended it.
    fn run(pieces: &[&[u8]], stops: &[&str]) -> (String, bool) {
        let mut assembler = assembler(stops);
        let mut all = String::new();
        for piece in pieces {
            match assembler.push(piece, None) {
                PushOutcome::Text(text) => all.push_str(&text.text),
                // Nothing may be left for the end.
                PushOutcome::Stopped(text) => {
                    return (
                        all + &text.text + &assembler.finish(FinishReason::Stop).text,
                        true,
                    );
                }
            }
        }
        (all + &assembler.finish(FinishReason::Stop).text, false)
    }

    /// The text that comes out after one more token, and whether it is the last.
    fn push(assembler: &mut TextAssembler, piece: &[u8]) -> (String, bool) {
        match assembler.push(piece, None) {
            PushOutcome::Text(text) => (text.text, false),
            PushOutcome::Stopped(text) => (text.text, true),
        }
    }

    #[test]
    fn a_character_spread_over_tokens_comes_out_whole() {
        let mut assembler = assembler(&[]);
        let euro = "€".as_bytes();
        assert_eq!(push(&mut assembler, &euro[..1]).0, "");
        assert_eq!(push(&mut assembler, &euro[1..2]).0, "");
        assert_eq!(push(&mut assembler, &euro[2..]), ("€".to_owned(), false));
    }

    #[test]
    fn a_character_that_is_cut_off_at_the_end_is_left_out() {
        assert_eq!(
            run(&[b"ok ", &"😀".as_bytes()[..2]], &[]),
            ("ok ".to_owned(), false)
        );
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_leaked_in_part() {
        let mut assembler = assembler(&["END"]);
        assert_eq!(push(&mut assembler, b"x E"), ("x ".to_owned(), false));
        assert_eq!(push(&mut assembler, b"N"), (String::new(), false));
        assert_eq!(push(&mut assembler, b"D y"), (String::new(), true));
    }

    #[test]
    fn a_tag_comes_out_whole_whatever_is_held_and_stops_nothing() {
        let mut assembler = assembler(&["x[T", "T]"]);
        assert_eq!(push(&mut assembler, b"a x"), ("a ".to_owned(), false));
        let PushOutcome::Text(text) = assembler.push_tag("[T]", None) else {
            panic!("no stop string");
        };
        assert_eq!((text.text.as_str(), text.tokens), ("x[T]", 1));
        assert_eq!(push(&mut assembler, b"b"), ("b".to_owned(), false));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_sent_after_all() {
        assert_eq!(
            run(&[b"EN", b"EN", b"x"], &["END"]),
            ("ENENx".to_owned(), false)
        );
        assert_eq!(run(&[b"EN"], &["END"]), ("EN".to_owned(), false));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_wins() {
        assert_eq!(
            run(&[b"a\n\nb. c"], &[". ", "\n\n"]),
            ("a".to_owned(), true)
        );
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters_at_once() {
        let mut assembler = assembler(&[]);
        assert_eq!(push(&mut assembler, &[0xFF]).0, "\u{FFFD}");
        assert_eq!(push(&mut assembler, &[0xE2, 0x28]).0, "\u{FFFD}(");
    }

    #[test]
    fn tokens_come_with_the_text_in_which_they_begin() {
        let mut assembler = assembler(&["END"]);
        let counts = [&b"a "[..], b"", b"E", b"x", b" EN", b"D"].map(|piece| {
            let (PushOutcome::Text(text) | PushOutcome::Stopped(text)) =
                assembler.push(piece, None);
            (text.text, text.tokens)
        });
        let expected = [("a ", 1), ("", 0), ("", 0), ("Ex", 3), (" ", 1), ("", 0)];
        assert_eq!(
            counts,
            expected.map(|(text, count)| (text.to_owned(), count))
        );
    }

    #[test]
    fn a_token_stays_with_its_text_where_bytes_before_it_are_no_text() {
        let mut assembler = assembler(&["xEND"]);
        assert_eq!(push(&mut assembler, &[0xE2]).0, "");
        let tokens = |pushed| match pushed {
            PushOutcome::Text(text) | PushOutcome::Stopped(text) => (text.text, text.tokens),
        };
        let first = tokens(assembler.push(b"(x", None));
        assert_eq!(first, ("\u{FFFD}(".to_owned(), 2));
        assert_eq!(tokens(assembler.push(b"y", None)), ("xy".to_owned(), 1));
    }

    proptest! {
        #[test]
        fn how_text_is_cut_into_tokens_does_not_matter(
            text in "[abc €😀]{0,40}",
            stops in prop::collection::vec("[abc €]{1,4}", 0..3),
            cuts in prop::collection::vec(1_usize..5, 0..80),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            // Within one token the earliest stop string wins; across tokens the one that is
            // complete first. Either way the text ends where a stop string begins.
            let (got, stopped) = run(&pieces, &stops);
            if stopped {
                prop_assert!(text.starts_with(&got));
                prop_assert!(stops.iter().any(|stop| text[got.len()..].starts_with(stop)));
                prop_assert!(!stops.iter().any(|stop| got.contains(stop)));
            } else {
                prop_assert_eq!(&got, &text);
                prop_assert!(!stops.iter().any(|stop| text.contains(stop)));
            }
        }
    }
}
