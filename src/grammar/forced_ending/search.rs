//! Finds the shortest ending of a string or a number.
//!
//! The lexer of a grammar is an automaton whose states can be compared, so a breadth-first search that
//! visits each state once finds the shortest ending, whatever the pattern is. A rule of thumb such as "the
//! first byte that is allowed" does not: it loops where a byte that repeats comes before the one that ends.

use std::collections::{HashSet, VecDeque};

use llguidance::earley::ParserRecognizer;
use llguidance::toktrie::Recognizer;

use super::super::parser::GrammarParser;

/// Lexer states that one search visits.
const MOST_STATES: usize = 600;
/// Bytes of the longest ending.
const LONGEST_ENDING: usize = 512;
/// Lexer fuel that one search may use, of the 100,000 for each token: a search must not fail an answer.
const MOST_FUEL: usize = 40_000;
/// Lexer states from which on no search goes on, of the 10,000 that all answers with a grammar share.
const MOST_LEXER_STATES: usize = 6_000;
/// States that are visited between two checks of the fuel.
const STATES_A_CHECK: usize = 8;

/// What has to be brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    /// A string, up to the quote; `true` where a backslash stands before.
    String(bool),
    /// A number, up to what stands after it.
    Number,
}

/// Returns the bytes up to the end of the scalar that `parser` is in, without what ends it; `None` where the
/// end is too far away. `budget` is how many states may be visited, and is reduced.
pub(super) fn shortest(
    parser: &mut GrammarParser,
    scalar: Scalar,
    budget: &mut usize,
) -> Option<Vec<u8>> {
    parser.refuel().ok()?;
    let before = parser.lexer_use();
    let mut search = Search::new(scalar);
    loop {
        *budget = budget.checked_sub(STATES_A_CHECK)?;
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
    /// The paths to states that are still to be visited, in bytes, the shortest first.
    waiting: VecDeque<Vec<u8>>,
    /// The bytes that the recognizer has been given.
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
        for _ in 0..STATES_A_CHECK {
            let Some(path) = self.waiting.pop_front() else {
                return SearchProgress::Nowhere;
            };
            if !self.go_to(&path, recognizer) {
                continue;
            }
            if self.ends(recognizer) {
                return SearchProgress::Found(path);
            }
            if path.len() < LONGEST_ENDING {
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

/// Whether what comes after `bytes` is escaped by a backslash.
fn is_escaped(before: bool, bytes: &[u8]) -> bool {
    let next = |escaped: bool, byte: &u8| !escaped && *byte == b'\\';
    bytes.iter().fold(before, next)
}

/// Returns the bytes to try, the preferred first: letters are in most texts, and backslashes in few.
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
