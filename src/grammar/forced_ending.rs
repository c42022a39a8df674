//! Bringing a grammar to its end before the tokens run out.
//!
//! A model that loops in a string or a number would leave half a JSON document when `max_tokens` is
//! reached, which no client can read. So a guide asks from time to time how many tokens the shortest
//! way out takes, and takes it while that still fits.

mod search;

use std::cmp::Reverse;
use std::collections::VecDeque;

use llguidance::toktrie::{TokTrie, TokenId};

use super::parser::Parser;
use search::{Scalar, shortest};

/// Digits, sign, point and exponent of a double that is written out.
const LONGEST_NUMBER: usize = 24;
/// Bytes of a string that says so much with a period of at most so many is a loop.
const LOOP: usize = 96;
const LONGEST_PERIOD: usize = 16;
/// A way out that is longer is not looked for.
const LONGEST: u32 = 512;

/// States of the lexer that are looked at for all strings and numbers of one way out: some 5 µs each.
const MOST_LOOKED_AT: usize = 2400;
/// Tokens that are kept for what may have to be written yet.
const RESERVE: u32 = 32;
/// A longer way out is not looked for again at each token.
const LONGEST_CAREFUL: u32 = 64;

/// Of so many tokens the longest is looked for, of more any one is good.
const FEW: usize = 64;
/// Tokens that end several things at once.
const MOST_ENDS: usize = 24;

/// Tokens that a way out is made of.
#[derive(Debug)]
pub(super) struct ClosingTokens {
    /// What ends things comes first, then values that are short.
    outside: Vec<ClosingToken>,
    /// Where a number begins. Not -0.000 and so on.
    digits: Vec<ClosingToken>,
    /// Inside of a string all but its end are part of it.
    inside: Vec<ClosingToken>,
    /// One for each byte that text has.
    bytes: Vec<TokenId>,
}

/// Tokens with a common beginning.
#[derive(Debug)]
struct ClosingToken {
    /// The beginning alone: where it cannot come, none of them can.
    shortest: TokenId,
    /// The best first.
    longer: Vec<TokenId>,
}

impl ClosingTokens {
    pub(super) fn of(trie: &TokTrie) -> Self {
        let closing = |beginning: &[u8], rest: &dyn Fn(&[u8]) -> bool| {
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
            Some(ClosingToken { shortest, longer })
        };
        let ends = |bytes: &[u8]| bytes.iter().all(|byte| b"}]".contains(byte));
        let none = |_: &[u8]| false;
        let outside = [
            closing(b"}", &ends),
            closing(b"]", &ends),
            closing(b",", &none),
            closing(b"n", &|bytes| b"ull".starts_with(bytes)),
            closing(b"\"", &none),
        ];
        let digits = (b'0'..=b'9').rev().map(|digit| closing(&[digit], &none));
        let text = (b' '..=b'~').chain([b'\n']);
        Self {
            outside: outside.into_iter().flatten().collect(),
            digits: digits.flatten().collect(),
            inside: closing(b"\"", &ends).into_iter().collect(),
            bytes: text
                .filter_map(|byte| trie.token_id_at_bytes(&[byte]))
                .collect(),
        }
    }

    /// The token that soonest leads to the end: of what ends things most at once, else the next one on
    /// the way to the end of the string or number at hand, else of what the grammar prescribes. Looks at each
    /// candidate by itself where it can: among all of a large vocabulary that is much cheaper than to
    /// find out what may come.
    pub(super) fn next(
        &self,
        parser: &mut Parser,
        position: &JsonPosition,
        ending: &mut ScalarEnding,
    ) -> Option<TokenId> {
        let closing: &[ClosingToken] = match (position.open, position.escaped) {
            // A quote behind a backslash is part of the string and ends nothing.
            (true, true) => &[],
            (true, false) => &self.inside,
            (false, _) => &self.outside,
        };
        if let Some(token) = first_that_fits(closing, parser) {
            return Some(ending.end(token));
        }
        if let Some(scalar) = position.scalar()
            && let Some(token) = ending.go_on(parser, scalar)
        {
            return Some(token);
        }
        if !position.open
            && let Some(token) = first_that_fits(&self.digits, parser)
        {
            return Some(ending.leave_for(token));
        }
        let token = self.whatever_fits(parser, position.open)?;
        Some(ending.leave_for(token))
    }

    fn whatever_fits(&self, parser: &mut Parser, in_string: bool) -> Option<TokenId> {
        let allowed = parser.mask().ok()?;
        if allowed.num_set() <= FEW {
            // Text that is prescribed comes in long tokens; what is not begins nothing new in short ones.
            let length = |token: &TokenId| parser.trie().token_len(*token);
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

/// Of the first exit that can be taken, what ends most.
fn first_that_fits(closing: &[ClosingToken], parser: &mut Parser) -> Option<TokenId> {
    let closing = closing
        .iter()
        .find(|closing| parser.allows(closing.shortest))?;
    let longer = closing.longer.iter().copied();
    let longer = longer.clone().find(|token| parser.allows(*token));
    Some(longer.unwrap_or(closing.shortest))
}

/// The way to the end of a string or a number, while it is taken.
#[derive(Debug, Clone)]
pub(super) struct ScalarEnding {
    ahead: Vec<u8>,
    /// What is to come next, if `ahead` is to hold.
    next: Option<TokenId>,
    /// Whether none was found in the string or number at hand: it is not looked for again.
    lost: bool,
    /// States that may still be looked at.
    budget: usize,
}

impl Default for ScalarEnding {
    fn default() -> Self {
        Self {
            ahead: Vec::new(),
            next: None,
            lost: false,
            budget: MOST_LOOKED_AT,
        }
    }
}

impl ScalarEnding {
    /// A string, number or something else ends.
    fn end(&mut self, token: TokenId) -> TokenId {
        self.lost = false;
        self.leave_for(token)
    }

    fn leave_for(&mut self, token: TokenId) -> TokenId {
        self.ahead.clear();
        self.next = None;
        token
    }

    /// Lets the next search look at as many states as any.
    pub(super) fn refill(&mut self) {
        self.budget = MOST_LOOKED_AT;
    }

    fn go_on(&mut self, parser: &mut Parser, scalar: Scalar) -> Option<TokenId> {
        if self.ahead.is_empty() {
            if self.lost {
                return None;
            }
            let found = shortest(parser, scalar, &mut self.budget);
            self.lost = found.is_none();
            self.ahead = found.filter(|bytes| !bytes.is_empty())?;
        }
        let (mut token, mut length) = parser.trie().prefix_token_id(&self.ahead);
        if !parser.allows(token) {
            (token, length) = (parser.trie().token_id_at_bytes(&self.ahead[..1])?, 1);
        }
        self.ahead.drain(..length);
        self.next = Some(token);
        Some(token)
    }

    /// Takes note of what came.
    pub(super) fn read(&mut self, token: TokenId) {
        if self.next.take() != Some(token) {
            self.ahead.clear();
        }
    }
}

/// Where JSON that comes in pieces is: within a string or not, and whether what stands there goes on
/// without getting on.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonPosition {
    open: bool,
    escaped: bool,
    /// Of the string or number at the end, its last bytes.
    scalar: VecDeque<u8>,
}

impl JsonPosition {
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

    /// What is begun and not ended.
    fn scalar(&self) -> Option<Scalar> {
        if self.open {
            return Some(Scalar::String(self.escaped));
        }
        (!self.scalar.is_empty()).then_some(Scalar::Number)
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
pub(super) enum EndingPlan {
    /// Not before so few tokens are left; then look again. So many are kept in reserve, because the
    /// next one may make the way out longer.
    CheckAt(u32, u32),
    /// Soon: each token is looked at, and the first one that leaves too few for the way out is not taken.
    Careful,
    /// Now, to the end.
    Forced,
}

impl EndingPlan {
    /// Of a grammar whose shortest answer has `shortest` tokens. No token is expected to make the way out
    /// longer by more than that, or than it takes to write the name and value of a property.
    pub(super) fn begin(shortest: Option<u32>) -> Self {
        match shortest {
            Some(shortest) => Self::CheckAt(u32::MAX, shortest.max(RESERVE)),
            None => Self::NEVER,
        }
    }

    /// It could not be whole anyway: better a good beginning.
    const NEVER: Self = Self::CheckAt(0, 0);

    /// Decides with `left` tokens to go; `tokens_to_end` counts the tokens of the way out.
    pub(super) fn go_on(self, left: u32, tokens_to_end: impl FnOnce() -> Option<u32>) -> Self {
        match self {
            Self::CheckAt(next, reserve) if left > 0 && left <= next => match tokens_to_end() {
                Some(length) if length <= left => match left.saturating_sub(length + reserve) {
                    0 if length <= LONGEST_CAREFUL => Self::Careful,
                    0 => Self::Forced,
                    spare => Self::CheckAt(left - spare.div_ceil(2), reserve),
                },
                Some(_) | None => Self::NEVER,
            },
            plan => plan,
        }
    }
}

/// Tokens from here to the end, ending everything as soon as the grammar allows.
pub(super) fn tokens_to_end(
    parser: &Parser,
    position: &JsonPosition,
    closing: &ClosingTokens,
) -> Option<u32> {
    let mut parser = parser.clone();
    let mut position = position.clone();
    let mut ending = ScalarEnding::default();
    for length in 0..=LONGEST {
        if parser.is_stopped() || parser.is_accepting().ok()? {
            return Some(length);
        }
        let token = closing.next(&mut parser, &position, &mut ending)?;
        // Whatever comes in a string that has no end within reach does not bring it nearer.
        if ending.lost && position.open {
            return None;
        }
        parser.consume(token).ok()?;
        ending.read(token);
        position.read(parser.trie().token(token));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::compile::Compiler;
    use super::*;

    #[test]
    fn it_looks_more_often_the_nearer_the_end_and_lands_in_time() {
        let mut plan = EndingPlan::begin(Some(12));
        let mut looks = 0;
        for left in (1..=100).rev() {
            plan = plan.go_on(left, || {
                looks += 1;
                Some(12)
            });
            if matches!(plan, EndingPlan::Careful) {
                assert!(left >= 12 + RESERVE, "{left}");
                assert!(looks < 12);
                return;
            }
        }
        panic!("it never landed");
    }

    #[test]
    fn what_cannot_be_whole_is_left_alone() {
        let plan = EndingPlan::begin(Some(30)).go_on(10, || Some(30));
        assert_eq!(plan.go_on(1, || Some(1)), EndingPlan::NEVER);
        let endless = EndingPlan::begin(None);
        assert_eq!(endless.go_on(1, || Some(1)), EndingPlan::NEVER);
    }

    /// Bytes of the shortest answer that the way out finds.
    fn shortest_answer(schema: &str) -> Option<u32> {
        let bytes = Compiler::for_bytes().expect("a compiler");
        let compiled = bytes.compile(&format!("start: %json {schema}"));
        compiled.expect("sound").shortest
    }

    #[test]
    fn the_shortest_way_out_of_a_pattern_is_found_whatever_repeats_in_it() {
        for (pattern, length) in [
            (r"^\\d+kg$", 3),
            (r"^.+\\.(jpg|png)$", 5),
            ("^[a-z ]+!$", 2),
            ("^[0-9a-f]{8}-[0-9a-f]{4}$", 13),
            ("^(a|b)*c(d|e)*f$", 2),
            ("^é+ü$", 4),
            ("^[^a]+a$", 2),
            (r"^\\n+x$", 3),
            ("^\\\\u0022+x$", 3),
            ("x[0-9]*y", 2),
            ("^(0|1)*101$", 3),
            ("^[0-9]{3,}z{5}$", 8),
            // What has to come is escaped in JSON, and what repeats before it may be.
            (r"^.+\\n$", 3),
            (r"^.+\\t$", 3),
            (r"^.+\\\\$", 3),
            (r"^#+ .+\\n$", 5),
            (r#"^.+\"$"#, 3),
            (r#"^[^\"]+\\n$"#, 3),
            (r"^[^x]+\\n\\t$", 5),
            (r"^(.|\\n)*\\n$", 2),
        ] {
            let schema = format!(r#"{{"type": "string", "pattern": "{pattern}"}}"#);
            assert_eq!(shortest_answer(&schema), Some(length + 2), "{pattern}");
        }
        for (format, length) in [("email", 3), ("uri", 2), ("hostname", 1), ("uuid", 36)] {
            let schema = format!(r#"{{"type": "string", "format": "{format}"}}"#);
            assert_eq!(shortest_answer(&schema), Some(length + 2), "{format}");
        }
        let both = r#"{"type": "string", "pattern": "^[a-z]+x$", "minLength": 40}"#;
        assert_eq!(shortest_answer(both), Some(42));
        let far = r#"{"type": "string", "minLength": 9000}"#;
        assert_eq!(shortest_answer(far), None);
    }

    #[test]
    fn the_shortest_way_out_of_a_number_is_found() {
        for (number, length) in [
            (r#""exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2"#, 4),
            (r#""minimum": 0.5, "maximum": 0.7"#, 3),
            (r#""minimum": 1, "multipleOf": 8"#, 2),
            (r#""minimum": 1, "multipleOf": 10"#, 2),
            (r#""multipleOf": 0.25, "minimum": 0"#, 4),
        ] {
            let schema = format!(
                r#"{{"type": "array", "items": {{"type": "number", {number}}}, "minItems": 1}}"#
            );
            let most = Some(length + 2);
            assert!(
                shortest_answer(&schema) <= most,
                "{number}: {:?}",
                shortest_answer(&schema)
            );
            assert!(shortest_answer(&schema).is_some());
        }
    }

    #[test]
    fn loops_are_told_from_long_texts() {
        let mut looping = JsonPosition::default();
        looping.read(format!("{{\"a\": \"{}", "so. ".repeat(30)).as_bytes());
        assert!(looping.is_stuck());
        let mut long = JsonPosition::default();
        let text = (0..100).map(|i| i.to_string()).collect::<Vec<_>>();
        let text = text.join(" and ");
        long.read(format!("{{\"a\": \"{text}").as_bytes());
        assert!(!long.is_stuck());
        let mut number = JsonPosition::default();
        number.read(b"{\"price\": 3.137345901888888888");
        assert!(!number.is_stuck());
        number.read(b"8888888");
        assert!(number.is_stuck());
        number.read(b", ");
        assert!(!number.is_stuck());
    }

    #[test]
    fn quotes_open_and_close_strings() {
        let mut position = JsonPosition::default();
        position.read(b"{\"a\\\"");
        assert!(position.open);
        position.read(b"b\": ");
        assert!(!position.open);
    }
}
