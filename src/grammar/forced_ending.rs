//! Brings an answer to the end of its grammar before the tokens run out.
//!
//! A model that loops in a string or a number would leave half a JSON document when `max_tokens` is
//! reached, which no client can read. So a constraint computes from time to time how many tokens the
//! shortest ending takes, and forces that ending while it still fits.

mod search;

use std::cmp::Reverse;
use std::collections::VecDeque;

use llguidance::toktrie::{TokTrie, TokenId};

use super::parser::GrammarParser;
use search::{Scalar, shortest};

/// Characters of the longest number that means anything: digits, sign, point and exponent of a double.
const LONGEST_NUMBER: usize = 24;
/// Bytes that make a string a loop where they repeat with a period of at most [`LONGEST_PERIOD`] bytes.
const LOOP_BYTES: usize = 96;
const LONGEST_PERIOD: usize = 16;
/// Tokens of the longest ending that is looked for.
const LONGEST_ENDING: u32 = 512;

/// Lexer states that are visited for all strings and numbers of one ending: some 5 µs each.
const MOST_LOOKED_AT: usize = 2400;
/// Tokens that are kept in reserve for properties that the answer may still have to write.
const RESERVE: u32 = 32;
/// Tokens of the longest ending that is computed anew at each token.
const LONGEST_CAREFUL: u32 = 64;

/// Allowed tokens up to which the longest or shortest is chosen; of more, any one will do.
const FEW: usize = 64;
/// Tokens that are kept of those that close several things at once.
const MOST_ENDS: usize = 24;

/// The tokens that endings are made of.
#[derive(Debug)]
pub(super) struct ClosingTokens {
    /// Outside of strings: first what closes objects and arrays, then short values.
    outside: Vec<ClosingToken>,
    /// Digits, for where a number begins. Without a sign, which could lead to `-0.000` and on.
    digits: Vec<ClosingToken>,
    /// Inside of a string, where every other token is part of it: what closes the string.
    inside: Vec<ClosingToken>,
    /// One token for each byte that ordinary text has.
    bytes: Vec<TokenId>,
}

/// Tokens with a common first byte.
#[derive(Debug)]
struct ClosingToken {
    /// The token of that byte alone: where it cannot come, none of them can.
    shortest: TokenId,
    /// The other tokens, those that close most first.
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

    /// Returns the next token of the shortest ending: the one that closes most at once, else the next one
    /// towards the end of the current string or number, else one that the grammar prescribes. Tests single
    /// candidates where it can, because a mask over a large vocabulary costs much more.
    pub(super) fn next(
        &self,
        parser: &mut GrammarParser,
        position: &JsonPosition,
        ending: &mut ScalarEnding,
    ) -> Option<TokenId> {
        let closing: &[ClosingToken] = match (position.open, position.escaped) {
            // A quote after a backslash is part of the string and ends nothing.
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

    fn whatever_fits(&self, parser: &mut GrammarParser, in_string: bool) -> Option<TokenId> {
        let allowed = parser.mask().ok()?;
        if allowed.num_set() <= FEW {
            // Prescribed text is done soonest in long tokens; outside of strings, short ones open least.
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

/// Returns, of the first group of tokens that may come, the one that closes most.
fn first_that_fits(closing: &[ClosingToken], parser: &mut GrammarParser) -> Option<TokenId> {
    let closing = closing
        .iter()
        .find(|closing| parser.allows(closing.shortest))?;
    let longer = closing.longer.iter().copied();
    let longer = longer.clone().find(|token| parser.allows(*token));
    Some(longer.unwrap_or(closing.shortest))
}

/// The bytes that still end the current string or number, while they are being written.
#[derive(Debug, Clone)]
pub(super) struct ScalarEnding {
    ahead: Vec<u8>,
    /// The token that has to come next for `ahead` to stay valid.
    next: Option<TokenId>,
    /// Whether no ending was found in the current string or number, so that none is looked for again.
    lost: bool,
    /// Lexer states that may still be visited.
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
    /// Notes that a string, number or something else ends with `token`.
    fn end(&mut self, token: TokenId) -> TokenId {
        self.lost = false;
        self.leave_for(token)
    }

    fn leave_for(&mut self, token: TokenId) -> TokenId {
        self.ahead.clear();
        self.next = None;
        token
    }

    /// Gives the next search the full budget of lexer states.
    pub(super) fn refill(&mut self) {
        self.budget = MOST_LOOKED_AT;
    }

    fn go_on(&mut self, parser: &mut GrammarParser, scalar: Scalar) -> Option<TokenId> {
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

    /// Notes the token that came.
    pub(super) fn read(&mut self, token: TokenId) {
        if self.next.take() != Some(token) {
            self.ahead.clear();
        }
    }
}

/// Follows JSON that comes in pieces: whether its end is within a string, and whether the string or number
/// there loops.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonPosition {
    open: bool,
    escaped: bool,
    /// The last bytes of the string or number at the end.
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
            if self.scalar.len() == LOOP_BYTES {
                self.scalar.pop_front();
            }
            self.scalar.push_back(*byte);
        }
    }

    /// Returns the string or number that is open at the end.
    fn scalar(&self) -> Option<Scalar> {
        if self.open {
            return Some(Scalar::String(self.escaped));
        }
        (!self.scalar.is_empty()).then_some(Scalar::Number)
    }

    /// Whether the number has more digits than mean anything, or the string has long repeated itself.
    pub(super) fn is_stuck(&self) -> bool {
        if !self.open {
            return self.scalar.len() > LONGEST_NUMBER;
        }
        let bytes = &self.scalar;
        bytes.len() == LOOP_BYTES
            && (1..=LONGEST_PERIOD)
                .any(|period| (period..LOOP_BYTES).all(|at| bytes[at] == bytes[at - period]))
    }
}

/// When to force the ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndingPlan {
    /// Compute the ending again when only the first number of tokens is left. The second number is kept in
    /// reserve, because the next token may make the ending longer.
    CheckAt(u32, u32),
    /// Soon: compute the ending at each token, and refuse the first one after which it would not fit.
    Careful,
    /// Now, up to the end of the answer.
    Forced,
}

impl EndingPlan {
    /// Makes the plan for a grammar whose shortest answer has `shortest` tokens. One token is expected to
    /// lengthen the ending by no more than that, or than the name and value of a property.
    pub(super) fn begin(shortest: Option<u32>) -> Self {
        match shortest {
            Some(shortest) => Self::CheckAt(u32::MAX, shortest.max(RESERVE)),
            None => Self::NEVER,
        }
    }

    /// The answer could not be completed anyway, so it is left as the model writes it.
    const NEVER: Self = Self::CheckAt(0, 0);

    /// Returns the plan with `left` tokens to go; `tokens_to_end` counts the tokens of the ending.
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

/// Returns the tokens from here to the end, where everything is closed as soon as the grammar allows;
/// `None` where there is no ending within reach.
pub(super) fn tokens_to_end(
    parser: &GrammarParser,
    position: &JsonPosition,
    closing: &ClosingTokens,
) -> Option<u32> {
    let mut parser = parser.clone();
    let mut position = position.clone();
    let mut ending = ScalarEnding::default();
    for length in 0..=LONGEST_ENDING {
        if parser.is_stopped() || parser.is_accepting().ok()? {
            return Some(length);
        }
        let token = closing.next(&mut parser, &position, &mut ending)?;
        // In a string that has no end within reach, no token brings the end nearer.
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
    fn it_checks_more_often_the_nearer_the_end_and_ends_in_time() {
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
    fn an_answer_that_cannot_be_completed_is_left_alone() {
        let plan = EndingPlan::begin(Some(30)).go_on(10, || Some(30));
        assert_eq!(plan.go_on(1, || Some(1)), EndingPlan::NEVER);
        let endless = EndingPlan::begin(None);
        assert_eq!(endless.go_on(1, || Some(1)), EndingPlan::NEVER);
    }

    /// Returns the bytes of the shortest answer that is found.
    fn shortest_answer(schema: &str) -> Option<u32> {
        let bytes = Compiler::for_bytes().expect("a compiler");
        let compiled = bytes.compile(&format!("start: %json {schema}"));
        compiled.expect("sound").shortest
    }

    #[test]
    fn the_shortest_ending_of_a_pattern_is_found_whatever_repeats_in_it() {
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
    fn the_shortest_ending_of_a_number_is_found() {
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
    fn loops_are_distinguished_from_long_texts() {
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
