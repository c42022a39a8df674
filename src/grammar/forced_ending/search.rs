//! The shortest way to the end of a string or a number.
//!
//! The lexer of a grammar is an automaton whose states can be told apart, so a search that goes through
//! them in the order of their distance, and through each once, finds the shortest way to the end, whatever the
//! pattern is. A rule of thumb such as "the first byte that is allowed" does not: it goes in circles
//! where a byte that repeats comes before the one that ends.

use std::collections::{HashSet, VecDeque};

use llguidance::earley::ParserRecognizer;
use llguidance::toktrie::Recognizer;

use super::super::parser::Parser;

/// States that are looked at, and how far away the end may be, in bytes.
const MOST_STATES: usize = 600;
const LONGEST: usize = 512;
/// Work of the lexer, which has 100,000 for each token, and states of the 10,000 that all answers with
/// a grammar share: what the search takes must not end an answer.
const MOST_FUEL: usize = 40_000;
const MOST_LEXER_STATES: usize = 6_000;
/// States that are looked at between two looks at what that took.
const AT_ONCE: usize = 8;

/// What is to be brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    /// A string, up to the quote; `true` where a backslash stands before.
    String(bool),
    /// A number, up to what stands behind it.
    Number,
}

/// The bytes up to the end of the scalar that `parser` is in, without what ends it; none where it is too
/// far away.
/// `budget` is how many states may be looked at, and is reduced.
pub(super) fn shortest(parser: &mut Parser, scalar: Scalar, budget: &mut usize) -> Option<Vec<u8>> {
    parser.refuel().ok()?;
    let before = parser.lexer_use();
    let mut search = Search::new(scalar);
    loop {
        *budget = budget.checked_sub(AT_ONCE)?;
        let found = parser.look(|recognizer| search.go_on(recognizer)).ok()?;
        match found {
            SearchProgress::Found(bytes) => return Some(bytes),
            SearchProgress::Nowhere => return None,
            SearchProgress::NotYet => {}
        }
        let now = parser.lexer_use();
        if now.fuel - before.fuel > MOST_FUEL || now.states > MOST_LEXER_STATES {
            return None;
        }
    }
}

enum SearchProgress {
    Found(Vec<u8>),
    Nowhere,
    NotYet,
}

struct Search {
    scalar: Scalar,
    seen: HashSet<llguidance::derivre::StateID>,
    /// The bytes that lead to what is still to be looked at, the nearest first.
    waiting: VecDeque<Vec<u8>>,
    /// Where the recognizer is.
    at: Vec<u8>,
}

impl Search {
    fn new(scalar: Scalar) -> Self {
        Self {
            scalar,
            seen: HashSet::new(),
            waiting: VecDeque::from([Vec::new()]),
            at: Vec::new(),
        }
    }

    fn go_on(&mut self, recognizer: &mut ParserRecognizer<'_>) -> SearchProgress {
        recognizer.trie_started("ending");
        let step = self.some(recognizer);
        recognizer.pop_bytes(self.at.len());
        self.at.clear();
        recognizer.trie_finished();
        step
    }

    fn some(&mut self, recognizer: &mut ParserRecognizer<'_>) -> SearchProgress {
        for _ in 0..AT_ONCE {
            let Some(path) = self.waiting.pop_front() else {
                return SearchProgress::Nowhere;
            };
            if !self.go_to(&path, recognizer) {
                continue;
            }
            if self.ends(recognizer) {
                return SearchProgress::Found(path);
            }
            if path.len() < LONGEST {
                self.look_around(&path, recognizer);
            }
        }
        SearchProgress::NotYet
    }

    fn go_to(&mut self, path: &[u8], recognizer: &mut ParserRecognizer<'_>) -> bool {
        let same = self.at.iter().zip(path);
        let same = same.take_while(|(at, to)| at == to).count();
        recognizer.pop_bytes(self.at.len() - same);
        self.at.truncate(same);
        for byte in &path[same..] {
            if !recognizer.try_push_byte(*byte) {
                return false;
            }
            self.at.push(*byte);
        }
        true
    }

    /// Whether the scalar may end here.
    fn ends(&self, recognizer: &mut ParserRecognizer<'_>) -> bool {
        match self.scalar {
            Scalar::String(escaped) => {
                !is_escaped(escaped, &self.at) && recognizer.byte_allowed(b'"')
            }
            Scalar::Number => b",}]".iter().any(|byte| recognizer.byte_allowed(*byte)),
        }
    }

    fn look_around(&mut self, path: &[u8], recognizer: &mut ParserRecognizer<'_>) {
        let escaped = match self.scalar {
            Scalar::String(escaped) => is_escaped(escaped, path),
            Scalar::Number => false,
        };
        for byte in bytes(self.scalar, escaped) {
            if self.seen.len() >= MOST_STATES {
                return;
            }
            if recognizer.try_push_byte(byte) {
                if self.seen.insert(recognizer.lexer_state()) {
                    let mut next = path.to_vec();
                    next.push(byte);
                    self.waiting.push_back(next);
                }
                recognizer.pop_bytes(1);
            }
        }
    }
}

/// Whether what comes behind `bytes` belongs to a backslash.
fn is_escaped(before: bool, bytes: &[u8]) -> bool {
    let next = |escaped: bool, byte: &u8| !escaped && *byte == b'\\';
    bytes.iter().fold(before, next)
}

/// What may come, in the order in which it is preferred: letters are in most texts, and backslashes in few.
fn bytes(scalar: Scalar, escaped: bool) -> impl Iterator<Item = u8> {
    let (letters, others) = match scalar {
        Scalar::String(_) => (b'a'..=b'z', b' '..=u8::MAX),
        Scalar::Number => (b'0'..=b'9', b'+'..=b'e'),
    };
    let quote = escaped.then_some(b'"');
    let plain = |byte: &u8| !byte.is_ascii_lowercase() && !b"\"\\\x7F".contains(byte);
    let digits = b'0'..=b'9';
    let backslash = matches!(scalar, Scalar::String(_)).then_some(b'\\');
    letters
        .chain(digits)
        .chain(others.filter(move |byte| matches!(scalar, Scalar::Number) || plain(byte)))
        .chain(quote)
        .chain(backslash)
}
