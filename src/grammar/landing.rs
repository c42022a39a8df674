//! Bringing a grammar to its end before the tokens run out.
//!
//! A model that loops in a string or a number would leave half a JSON document when `max_tokens` is
//! reached, which no client can read. So a guide asks from time to time how many tokens the shortest
//! way out takes, and takes it while that still fits.

use std::cmp::Reverse;
use std::collections::VecDeque;

use llguidance::Matcher;
use llguidance::toktrie::{TokTrie, TokenId};

/// Digits, sign, point and exponent of a double that is written out.
const LONGEST_NUMBER: usize = 24;
/// Bytes of a string that says so much with a period of at most so many is a loop.
const LOOP: usize = 96;
const LONGEST_PERIOD: usize = 16;
/// A way out that is longer is not looked for.
const LONGEST: u32 = 512;

/// Of so many tokens the longest is looked for, of more any one is good.
const FEW: usize = 64;
/// Tokens that end several things at once.
const MOST_ENDS: usize = 24;

/// Tokens that a way out is made of.
#[derive(Debug)]
pub(super) struct Exits {
    /// What ends things comes first, then values that are short.
    outside: Vec<Exit>,
    /// Inside of a string all but its end are part of it.
    inside: Vec<Exit>,
    /// One for each byte that text has.
    bytes: Vec<TokenId>,
}

/// Tokens with a common beginning.
#[derive(Debug)]
struct Exit {
    /// The beginning alone: where it cannot come, none of them can.
    shortest: TokenId,
    /// The best first.
    longer: Vec<TokenId>,
}

impl Exits {
    pub(super) fn of(trie: &TokTrie) -> Self {
        let exit = |beginning: &[u8], rest: &dyn Fn(&[u8]) -> bool| {
            let shortest = trie.token_id_at_bytes(beginning)?;
            let count = u32::try_from(trie.vocab_size()).unwrap_or(u32::MAX);
            let mut longer: Vec<TokenId> = (0..count)
                .filter(|token| {
                    let rest_of = trie.token(*token).strip_prefix(beginning);
                    rest_of.is_some_and(|bytes| !bytes.is_empty() && rest(bytes))
                })
                .collect();
            longer.sort_by_key(|token| Reverse(trie.token_len(*token)));
            longer.truncate(MOST_ENDS);
            Some(Exit { shortest, longer })
        };
        let ends = |bytes: &[u8]| bytes.iter().all(|byte| b"}]".contains(byte));
        let none = |_: &[u8]| false;
        let mut outside = vec![
            exit(b"}", &ends),
            exit(b"]", &ends),
            exit(b",", &none),
            exit(b"n", &|bytes| b"ull".starts_with(bytes)),
            exit(b"\"", &none),
        ];
        // Not -0.000 and so on.
        outside.extend((b'0'..=b'9').rev().map(|digit| exit(&[digit], &none)));
        let text = (b' '..=b'~').chain([b'\n']);
        Self {
            outside: outside.into_iter().flatten().collect(),
            inside: exit(b"\"", &ends).into_iter().collect(),
            bytes: text
                .filter_map(|byte| trie.token_id_at_bytes(&[byte]))
                .collect(),
        }
    }

    /// The token that soonest leads to the end: of what ends things most at once, else of what the
    /// grammar prescribes. Looks at each candidate by itself where it can: among all of
    /// a large vocabulary that is much cheaper than to find out what may come.
    pub(super) fn next(
        &self,
        matcher: &mut Matcher,
        in_string: bool,
        trie: &TokTrie,
    ) -> Option<TokenId> {
        let mut fits = |token: TokenId| matcher.validate_tokens(&[token]).unwrap_or(0) == 1;
        let exits = if in_string {
            &self.inside
        } else {
            &self.outside
        };
        if let Some(exit) = exits.iter().find(|exit| fits(exit.shortest)) {
            let longer = exit.longer.iter().copied().find(|token| fits(*token));
            return Some(longer.unwrap_or(exit.shortest));
        }
        let allowed = matcher.compute_mask().ok()?;
        if allowed.num_set() <= FEW {
            // Text that is prescribed comes in long tokens; what is not begins nothing new in short ones.
            let length = |token: &TokenId| trie.token_len(*token);
            return if in_string {
                allowed.iter().max_by_key(length)
            } else {
                allowed.iter().min_by_key(length)
            };
        }
        let byte = self.bytes.iter().find(|token| allowed.is_allowed(**token));
        byte.copied().or_else(|| allowed.iter().next())
    }
}

/// Where JSON that comes in pieces is: within a string or not, and whether what stands there goes on
/// without getting on.
#[derive(Debug, Clone, Default)]
pub(super) struct Quotes {
    open: bool,
    escaped: bool,
    /// Of the string or number at the end, its last bytes.
    scalar: VecDeque<u8>,
}

impl Quotes {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.open => self.escaped = true,
                b'"' => {
                    self.open = !self.open;
                    self.scalar.clear();
                    continue;
                }
                _ if self.open || b"+-.0123456789eE".contains(byte) => {}
                _ => {
                    self.scalar.clear();
                    continue;
                }
            }
            if self.scalar.len() == LOOP {
                self.scalar.pop_front();
            }
            self.scalar.push_back(*byte);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a number has more digits than mean anything, or a string has long said the same again
    /// and again.
    pub(super) fn is_stuck(&self) -> bool {
        if !self.open {
            return self.scalar.len() > LONGEST_NUMBER;
        }
        let bytes = &self.scalar;
        bytes.len() == LOOP
            && (1..=LONGEST_PERIOD)
                .any(|period| (period..LOOP).all(|at| bytes[at] == bytes[at - period]))
    }
}

/// When to take the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Descent {
    /// Not before so few tokens are left; then look again. So many are kept in reserve, because the
    /// next one may make the way out longer.
    At(u32, u32),
    /// Now, to the end.
    Landing,
}

impl Descent {
    /// Of a grammar whose shortest answer has `shortest` tokens. No part of an answer, an element of
    /// a list for example, is expected to need more than all of it.
    pub(super) fn begin(shortest: Option<u32>) -> Self {
        match shortest {
            Some(shortest) => Self::At(u32::MAX, shortest.max(8)),
            None => Self::NEVER,
        }
    }

    /// It could not be whole anyway: better a good beginning.
    const NEVER: Self = Self::At(0, 0);

    /// Decides with `left` tokens to go; `way_out` counts the tokens of the way out.
    pub(super) fn go_on(self, left: u32, way_out: impl FnOnce() -> Option<u32>) -> Self {
        match self {
            Self::At(next, reserve) if left > 0 && left <= next => match way_out() {
                Some(length) if length <= left => match left.saturating_sub(length + reserve) {
                    0 => Self::Landing,
                    spare => Self::At(left - spare.div_ceil(2), reserve),
                },
                Some(_) | None => Self::NEVER,
            },
            descent => descent,
        }
    }
}

/// Tokens from here to the end, ending everything as soon as the grammar allows.
pub(super) fn way_out(
    matcher: &Matcher,
    quotes: &Quotes,
    exits: &Exits,
    trie: &TokTrie,
) -> Option<u32> {
    let mut matcher = matcher.clone();
    let mut quotes = quotes.clone();
    for length in 0..=LONGEST {
        if matcher.is_stopped() || matcher.is_accepting().ok()? {
            return Some(length);
        }
        let token = exits.next(&mut matcher, quotes.is_open(), trie)?;
        matcher.consume_token(token).ok()?;
        quotes.read(trie.token(token));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_more_often_the_nearer_the_end_and_lands_in_time() {
        let mut descent = Descent::begin(Some(12));
        let mut looks = 0;
        for left in (1..=100).rev() {
            descent = descent.go_on(left, || {
                looks += 1;
                Some(12)
            });
            if matches!(descent, Descent::Landing) {
                assert!(left >= 12 + 12, "{left}");
                assert!(looks < 12);
                return;
            }
        }
        panic!("it never landed");
    }

    #[test]
    fn what_cannot_be_whole_is_left_alone() {
        let descent = Descent::begin(Some(30)).go_on(10, || Some(30));
        assert_eq!(descent.go_on(1, || Some(1)), Descent::NEVER);
        let endless = Descent::begin(None);
        assert_eq!(endless.go_on(1, || Some(1)), Descent::NEVER);
    }

    #[test]
    fn loops_are_told_from_long_texts() {
        let mut looping = Quotes::default();
        looping.read(format!("{{\"a\": \"{}", "so. ".repeat(30)).as_bytes());
        assert!(looping.is_stuck());
        let mut long = Quotes::default();
        let text = (0..100).map(|i| i.to_string()).collect::<Vec<_>>();
        let text = text.join(" and ");
        long.read(format!("{{\"a\": \"{text}").as_bytes());
        assert!(!long.is_stuck());
        let mut number = Quotes::default();
        number.read(b"{\"price\": 3.137345901888888888");
        assert!(!number.is_stuck());
        number.read(b"8888888");
        assert!(number.is_stuck());
        number.read(b", ");
        assert!(!number.is_stuck());
    }

    #[test]
    fn quotes_open_and_close_strings() {
        let mut quotes = Quotes::default();
        quotes.read(b"{\"a\\\"");
        assert!(quotes.is_open());
        quotes.read(b"b\": ");
        assert!(!quotes.is_open());
    }
}
