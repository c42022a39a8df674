//! From token bytes to text that may be sent: whole characters only, nothing
//! of a stop string, not even its beginning.

use std::collections::VecDeque;

use crate::sampling::Logprobs;

use super::job::Text;

/// What a piece of output led to.
#[derive(Debug, PartialEq)]
pub(super) enum Pushed {
    /// Text that can be sent now; may be empty.
    Text(Text),
    /// A stop string stands in the output; this came before it and is the last text.
    Stopped(Text),
}

/// A token whose text was not sent yet.
#[derive(Debug)]
struct Held {
    /// Where its bytes begin among those that are held.
    start: usize,
    logprobs: Option<Logprobs>,
}

/// Holds back what might still become a stop string or a character.
#[derive(Debug)]
pub(super) struct TextAssembler {
    stops: Vec<Vec<u8>>,
    held: Vec<u8>,
    tokens: VecDeque<Held>,
}

impl TextAssembler {
    /// Empty stop strings are ignored.
    #[must_use]
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .map(|stop| stop.as_bytes().to_vec())
                .collect(),
            held: Vec::new(),
            tokens: VecDeque::new(),
        }
    }

    /// Adds the bytes of one token.
    pub(super) fn push(&mut self, piece: &[u8], logprobs: Option<Logprobs>) -> Pushed {
        let start = self.held.len();
        self.tokens.push_back(Held { start, logprobs });
        self.held.extend_from_slice(piece);
        if let Some(at) = self.first_stop() {
            let last = self.take(at);
            self.held.clear();
            self.tokens.clear();
            return Pushed::Stopped(last);
        }
        let free = self.held.len() - self.possible_stop();
        let ready = whole_characters(&self.held[..free]);
        Pushed::Text(self.take(ready))
    }

    /// Adds a token that is no text for the client, but by which the answer is taken apart. No stop
    /// string goes through it, so nothing is held back, and it comes out whole.
    pub(super) fn push_tag(&mut self, tag: &str, logprobs: Option<Logprobs>) -> Pushed {
        let start = self.held.len();
        self.tokens.push_back(Held { start, logprobs });
        self.held.extend_from_slice(tag.as_bytes());
        Pushed::Text(self.take(self.held.len()))
    }

    /// What was held back, when no more output comes; a character that was cut off is left out.
    #[must_use]
    pub(super) fn finish(mut self) -> Text {
        let whole = whole_characters(&self.held);
        let mut last = self.take(whole);
        last.tokens += u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        let rest = self.tokens.into_iter();
        last.logprobs
            .extend(rest.filter_map(|token| token.logprobs));
        last
    }

    /// The first `length` bytes and the tokens that begin in them.
    fn take(&mut self, length: usize) -> Text {
        let text = String::from_utf8_lossy(&self.held[..length]).into_owned();
        self.held.drain(..length);
        let begun = self.tokens.partition_point(|token| token.start < length);
        let mut taken = Text {
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

    fn first_stop(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .windows(stop.len())
                    .position(|window| window == stop)
            })
            .min()
    }

    /// Length of the longest end of the held bytes with which a stop string begins.
    fn possible_stop(&self) -> usize {
        self.stops
            .iter()
            .flat_map(|stop| (1..stop.len()).rev().map(move |length| &stop[..length]))
            .filter(|beginning| self.held.ends_with(beginning))
            .map(<[u8]>::len)
            .max()
            .unwrap_or(0)
    }
}

/// Length of `bytes` without a character at its end that is still incomplete.
/// Bytes that can never become one are not waited for.
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
    use proptest::prelude::*;

    /// All the text that comes out, and whether a stop string ended it.
    fn run(pieces: &[&[u8]], stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut assembler = TextAssembler::new(&stops);
        let mut all = String::new();
        for piece in pieces {
            match assembler.push(piece, None) {
                Pushed::Text(text) => all.push_str(&text.text),
                // Nothing may be left for the end.
                Pushed::Stopped(text) => {
                    return (all + &text.text + &assembler.finish().text, true);
                }
            }
        }
        (all + &assembler.finish().text, false)
    }

    /// The text that comes out after one more token, and whether it is the last.
    fn push(assembler: &mut TextAssembler, piece: &[u8]) -> (String, bool) {
        match assembler.push(piece, None) {
            Pushed::Text(text) => (text.text, false),
            Pushed::Stopped(text) => (text.text, true),
        }
    }

    #[test]
    fn a_character_spread_over_tokens_comes_out_whole() {
        let mut assembler = TextAssembler::new(&[]);
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
        let mut assembler = TextAssembler::new(&["END".to_owned()]);
        assert_eq!(push(&mut assembler, b"x E"), ("x ".to_owned(), false));
        assert_eq!(push(&mut assembler, b"N"), (String::new(), false));
        assert_eq!(push(&mut assembler, b"D y"), (String::new(), true));
    }

    #[test]
    fn a_tag_comes_out_whole_whatever_is_held_and_stops_nothing() {
        let mut assembler = TextAssembler::new(&["x[T".to_owned(), "T]".to_owned()]);
        assert_eq!(push(&mut assembler, b"a x"), ("a ".to_owned(), false));
        let Pushed::Text(text) = assembler.push_tag("[T]", None) else {
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
        let mut assembler = TextAssembler::new(&[]);
        assert_eq!(push(&mut assembler, &[0xFF]).0, "\u{FFFD}");
        assert_eq!(push(&mut assembler, &[0xE2, 0x28]).0, "\u{FFFD}(");
    }

    #[test]
    fn tokens_come_with_the_text_in_which_they_begin() {
        let mut assembler = TextAssembler::new(&["END".to_owned()]);
        let counts = [&b"a "[..], b"", b"E", b"x", b" EN", b"D"].map(|piece| {
            let (Pushed::Text(text) | Pushed::Stopped(text)) = assembler.push(piece, None);
            (text.text, text.tokens)
        });
        let expected = [("a ", 1), ("", 0), ("", 0), ("Ex", 3), (" ", 1), ("", 0)];
        assert_eq!(
            counts,
            expected.map(|(text, count)| (text.to_owned(), count))
        );
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
