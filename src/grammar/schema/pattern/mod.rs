//! Patterns of clients, which are ECMA-262's, in the syntax of llguidance, which is Rust's.
//!
//! llguidance hands a pattern to Rust's parser almost as it is. That refuses some patterns and silently takes
//! others for something else (`[a&&b]` is an intersection there), so patterns are read here and written
//! anew. What no automaton can follow, look-around and back references among it, is named.

mod class;
mod parse;
mod write;

use class::CharClass;

/// The part of a pattern that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnsupportedPattern {
    /// The words that follow "has" in a message.
    pub(super) what: String,
    /// Whether ECMA-262 calls it a syntax error, with and without its flag `u`.
    pub(super) is_malformed: bool,
}

impl UnsupportedPattern {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_malformed: false,
        }
    }

    fn malformed(what: impl Into<String>) -> Self {
        Self {
            is_malformed: true,
            ..Self::new(what)
        }
    }
}

/// A pattern that can be followed.
#[derive(Debug)]
pub(super) struct Pattern {
    root: PatternNode,
}

#[derive(Debug, Clone, PartialEq)]
enum PatternNode {
    Class(CharClass),
    Start,
    End,
    Concat(Vec<PatternNode>),
    Either(Vec<PatternNode>),
    Repeat(Box<PatternNode>, u32, Option<u32>),
    /// Letters in either case.
    AnyCase(Box<PatternNode>),
}

/// Characters at the beginning of a pattern that are compared with those of another.
const LONGEST_PREFIX: usize = 32;
/// Characters of the longest name, and steps of the longest match, that are tried.
const LONGEST_NAME: usize = 200;
const MOST_STEPS: usize = 20_000;

impl Pattern {
    /// # Errors
    /// [`UnsupportedPattern`] at the first thing that cannot be followed.
    pub(super) fn new(pattern: &str) -> Result<Self, UnsupportedPattern> {
        let root = parse::parse(pattern)?;
        check_anchors(&root, true, true)?;
        Ok(Self { root })
    }

    /// Returns the pattern in llguidance's syntax.
    pub(super) fn in_rust(&self) -> String {
        write::write(&self.root)
    }

    /// Whether no text fits both, for certain.
    pub(super) fn is_apart_from(&self, other: &Self) -> bool {
        let (ours, others) = (prefix(&self.root), prefix(&other.root));
        ours.iter().zip(&others).any(|(a, b)| a.is_apart_from(b))
    }

    /// Whether `name` fits; `None` where finding out would take too long.
    pub(super) fn fits(&self, name: &str) -> Option<bool> {
        let text: Vec<char> = name.chars().take(LONGEST_NAME + 1).collect();
        if text.len() > LONGEST_NAME {
            return None;
        }
        let mut matching = Matching {
            text: &text,
            steps: 0,
        };
        for start in 0..=text.len() {
            if matching.node(&self.root, start, &mut |_, _| Some(true))? {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// llguidance knows where a text begins and ends only at the two ends of a pattern.
fn check_anchors(
    node: &PatternNode,
    at_start: bool,
    at_end: bool,
) -> Result<(), UnsupportedPattern> {
    match node {
        PatternNode::Class(_) => Ok(()),
        PatternNode::Start if at_start => Ok(()),
        PatternNode::End if at_end => Ok(()),
        PatternNode::Start => Err(UnsupportedPattern::new(
            "a `^` that is not at its beginning",
        )),
        PatternNode::End => Err(UnsupportedPattern::new("a `$` that is not at its end")),
        PatternNode::Either(options) => options
            .iter()
            .try_for_each(|option| check_anchors(option, at_start, at_end)),
        PatternNode::Concat(parts) => {
            let first = parts.iter().position(|part| *part != PatternNode::Start);
            let last = parts.iter().rposition(|part| *part != PatternNode::End);
            parts.iter().enumerate().try_for_each(|(index, part)| {
                let starts = first.is_none_or(|first| index <= first);
                let ends = last.is_none_or(|last| index >= last);
                check_anchors(part, at_start && starts, at_end && ends)
            })
        }
        PatternNode::AnyCase(inner) => check_anchors(inner, at_start, at_end),
        PatternNode::Repeat(inner, ..) => check_anchors(inner, false, false),
    }
}

/// The characters that a text must begin with, one class for each, as far as they are known.
fn prefix(root: &PatternNode) -> Vec<CharClass> {
    let mut classes = Vec::new();
    if let PatternNode::Concat(parts) = root
        && let Some((PatternNode::Start, rest)) = parts.split_first()
    {
        add_prefix(&PatternNode::Concat(rest.to_vec()), &mut classes);
    }
    classes
}

/// Whether what follows may be added, too.
fn add_prefix(node: &PatternNode, classes: &mut Vec<CharClass>) -> bool {
    if classes.len() >= LONGEST_PREFIX {
        return false;
    }
    match node {
        PatternNode::Class(class) => {
            classes.push(class.clone());
            true
        }
        PatternNode::Start => true,
        PatternNode::Concat(parts) => parts.iter().all(|part| add_prefix(part, classes)),
        PatternNode::Repeat(inner, least, most) => {
            let times = (*least).min(u32::try_from(LONGEST_PREFIX).unwrap_or(u32::MAX));
            let all = (0..times).all(|_| add_prefix(inner, classes));
            all && *most == Some(*least)
        }
        PatternNode::Either(options) => match options.as_slice() {
            [one] => add_prefix(one, classes),
            _ => false,
        },
        PatternNode::End | PatternNode::AnyCase(_) => false,
    }
}

/// Matches a pattern against a short text.
struct Matching<'t> {
    text: &'t [char],
    steps: usize,
}

type Rest<'r> = &'r mut dyn FnMut(&mut Matching, usize) -> Option<bool>;

impl Matching<'_> {
    fn node(&mut self, node: &PatternNode, at: usize, rest: Rest) -> Option<bool> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return None;
        }
        match node {
            PatternNode::Start => {
                if at == 0 {
                    rest(self, at)
                } else {
                    Some(false)
                }
            }
            PatternNode::End => {
                if at == self.text.len() {
                    rest(self, at)
                } else {
                    Some(false)
                }
            }
            PatternNode::Class(class) => match self.text.get(at) {
                Some(letter) if class.contains(*letter)? => rest(self, at + 1),
                _ => Some(false),
            },
            PatternNode::Concat(parts) => self.all(parts, at, rest),
            PatternNode::Either(options) => {
                for option in options {
                    if self.node(option, at, rest)? {
                        return Some(true);
                    }
                }
                Some(false)
            }
            PatternNode::Repeat(inner, least, most) => {
                self.repeat(inner, (*least, *most), at, rest)
            }
            PatternNode::AnyCase(_) => None,
        }
    }

    fn all(&mut self, parts: &[PatternNode], at: usize, rest: Rest) -> Option<bool> {
        match parts.split_first() {
            None => rest(self, at),
            Some((first, others)) => self.node(first, at, &mut |matching, at| {
                matching.all(others, at, rest)
            }),
        }
    }

    fn repeat(
        &mut self,
        inner: &PatternNode,
        (least, most): (u32, Option<u32>),
        at: usize,
        rest: Rest,
    ) -> Option<bool> {
        if least == 0 && rest(self, at)? {
            return Some(true);
        }
        if most == Some(0) {
            return Some(false);
        }
        let next = (least.saturating_sub(1), most.map(|most| most - 1));
        self.node(inner, at, &mut |matching, now| {
            // What takes nothing may do so again and again.
            if now == at {
                return if least == 0 {
                    Some(false)
                } else {
                    rest(matching, now)
                };
            }
            matching.repeat(inner, next, now, rest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(pattern: &str) -> String {
        Pattern::new(pattern).expect(pattern).in_rust()
    }

    #[test]
    fn what_both_know_is_written_so_that_it_means_the_same() {
        for (ecma, written) in [
            (r"^\d+kg$", "^[0-9]+kg$"),
            (r"^[\w-]+$", r"^[\-0-9A-Z_a-z]+$"),
            (r"^[[a]$", r"^[\[a]$"),
            (r"^[a&&b]$", r"^[\&a-b]$"),
            (r"a\/b", r"a\/b"),
            (r"^(?<year>\d{4})$", "^[0-9]{4}$"),
            (r"^(?P<year>\d{4})$", "^[0-9]{4}$"),
            (r"^\u{1F600}\u00e9\x41$", r"^\u{1f600}\u{e9}A$"),
            (r"^\ud83d\ude00$", r"^\u{1f600}$"),
            ("^a{$", r"^a\{$"),
            ("^a{2,3}?b*?$", "^a{2,3}b*$"),
            ("a|b|", "a|b|"),
            ("^(a|b)c$", "^(?:a|b)c$"),
            (r"^\p{L}\P{Lu}$", r"^\p{L}\P{Lu}$"),
            ("(?i)^abc$", "(?i:^abc$)"),
            ("^$", "^$"),
            (r"^[^\d]$", "^[^0-9]$"),
            (r"^[\b]$", r"^\u{8}$"),
            (r"^\cJ\cj[\cA-\cC]$", r"^\u{a}\u{a}[\u{1}-\u{3}]$"),
            (r"^\0$", r"^\u{0}$"),
            ("^[^]$", r"^[\u{0}-\u{10ffff}]$"),
            ("^a{,2}$", r"^a\{,2\}$"),
            (r"^\<b\>$", "^<b>$"),
            ("]}", r"\]\}"),
        ] {
            assert_eq!(rust(ecma), written, "{ecma}");
        }
    }

    #[test]
    fn what_no_automaton_follows_is_named() {
        for (pattern, what) in [
            ("(?=a)b", "look-ahead"),
            ("(?!a)b", "look-ahead"),
            ("(?<=a)b", "look-behind"),
            ("(?<!a)b", "look-behind"),
            (r"(a)\1", "back reference"),
            (r"(?<n>a)\k<n>", "back reference"),
            (r"\bab\b", r"\b"),
            (r"a\B", r"\B"),
            ("a^b", "`^`"),
            ("a$b", "`$`"),
            ("(^a)*", "`^`"),
            (r"\p{Emoji_Component}", "Emoji_Component"),
            ("(a", "parenthesis"),
            ("a)", "parenthesis"),
            ("[a", "bracket"),
            ("*a", "repeat"),
            ("a**", "repeat"),
            ("[]", "empty"),
            ("[b-a]", "range"),
            (r"\Aab\Z", r"\A"),
            (r"^\c1$", r"\c"),
            (r"a\c", r"\c"),
            (r"[\ud800-\udfff]", "surrogate"),
            (&"(".repeat(5000), "nested"),
        ] {
            let Err(told) = Pattern::new(pattern) else {
                panic!("{pattern:.40} is taken");
            };
            assert!(told.what.contains(what), "{pattern:.40}: {told:?}");
        }
    }

    /// Each of these is a `SyntaxError` in `new RegExp(…)`, with the flag `u` and without it.
    #[test]
    fn what_is_a_syntax_error_is_told_from_what_no_automaton_follows() {
        for pattern in [
            "^a{2}{3}$",
            "a**",
            "a*+",
            "a+?+",
            "a???",
            "a{2}*",
            "a{2}?{3}",
            "a*{2,}",
            "a?{2,3}",
            "(a+)+*",
            "{2}",
            "^{2}",
            "a|{2,3}",
            "({2,})",
            "*a",
            "+",
            "?",
            "^*",
            "$+",
            "(a",
            "a)",
            "[a",
            "[b-a]",
            "a{3,2}",
            "a\\",
            "(?<n",
        ] {
            let error = Pattern::new(pattern).err();
            let error = error.unwrap_or_else(|| panic!("{pattern} is taken"));
            assert!(error.is_malformed, "{pattern}: {error:?}");
        }
        for pattern in [
            "(?=a)b",
            r"(a)\1",
            r"\ba",
            "a^b",
            "[]",
            r"\p{Emoji}",
            "(?s:a)",
        ] {
            let error = Pattern::new(pattern).expect_err(pattern);
            assert!(!error.is_malformed, "{pattern}: {error:?}");
        }
    }

    #[test]
    fn braces_that_hold_no_count_are_text() {
        for (ecma, written) in [
            ("^a{2", r"^a\{2"),
            ("^a{2,", r"^a\{2,"),
            ("^a+{$", r"^a+\{$"),
            ("^a*{,2}$", r"^a*\{,2\}$"),
            ("^{$", r"^\{$"),
            ("^a{2}{b}$", r"^a{2}\{b\}$"),
        ] {
            assert_eq!(rust(ecma), written, "{ecma}");
        }
    }

    #[test]
    fn patterns_are_disjoint_where_their_prefixes_are() {
        let apart = |a, b| {
            let (a, b) = (Pattern::new(a).expect(a), Pattern::new(b).expect(b));
            a.is_apart_from(&b)
        };
        assert!(apart("^x-", "^y-"));
        assert!(apart("^x-a", "^x-b"));
        assert!(apart("^[0-9]+$", "^[a-z]+$"));
        assert!(apart("^[^a]", "^a"));
        assert!(apart("^(x)y", "^xz"));
        assert!(!apart("^a", "b$"));
        assert!(!apart("^[0-9]+$", "^[0-9a-z]+$"));
        assert!(!apart("^x-", "^x-a"));
        assert!(!apart("^a?b", "^b"));
    }

    #[test]
    fn names_are_held_against_patterns() {
        let fits = |pattern, name| Pattern::new(pattern).expect(pattern).fits(name);
        assert_eq!(fits("^a", "ab"), Some(true));
        assert_eq!(fits("^a", "ba"), Some(false));
        assert_eq!(fits("a$", "ba"), Some(true));
        assert_eq!(fits("^(a|b)+c?$", "abac"), Some(true));
        assert_eq!(fits("^(a|b){2}$", "aba"), Some(false));
        assert_eq!(fits("^(a*)*$", "aaab"), Some(false));
        assert_eq!(fits("", "anything"), Some(true));
        assert_eq!(fits(r"^\p{L}$", "a"), None);
        assert_eq!(fits("^(a|a)*(a|a)*(a|a)*b$", &"a".repeat(100)), None);
    }
}
