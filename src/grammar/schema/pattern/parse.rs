//! Reading a pattern as ECMA-262 has it, with and without its flag `u`, where that makes no difference.

use std::iter::Peekable;
use std::str::Chars;

use super::class::CharClass;
use super::{PatternNode, UnsupportedPattern};

/// How deep groups may be nested.
const DEEPEST_GROUP: usize = 60;

pub(super) fn parse(pattern: &str) -> Result<PatternNode, UnsupportedPattern> {
    let mut parser = PatternParser {
        rest: pattern.chars().peekable(),
        depth: 0,
    };
    // As Python and Rust write it at the beginning of a pattern.
    let folds = pattern.starts_with("(?i)");
    if folds {
        parser.rest = pattern["(?i)".len()..].chars().peekable();
    }
    let root = parser.either()?;
    match parser.rest.next() {
        None if folds => Ok(PatternNode::AnyCase(Box::new(root))),
        None => Ok(root),
        Some(_) => Err(UnsupportedPattern::malformed(
            "a parenthesis that closes nothing",
        )),
    }
}

struct PatternParser<'p> {
    rest: Peekable<Chars<'p>>,
    depth: usize,
}

/// What an escape stands for.
enum Escape {
    Letter(char),
    Class(CharClass),
}

impl PatternParser<'_> {
    fn either(&mut self) -> Result<PatternNode, UnsupportedPattern> {
        let mut options = vec![self.concat()?];
        while self.rest.next_if_eq(&'|').is_some() {
            options.push(self.concat()?);
        }
        Ok(match options.len() {
            1 => options.swap_remove(0),
            _ => PatternNode::Either(options),
        })
    }

    fn concat(&mut self) -> Result<PatternNode, UnsupportedPattern> {
        let mut parts = Vec::new();
        while let Some(next) = self.rest.peek()
            && !"|)".contains(*next)
        {
            let atom = self.atom()?;
            let part = self.repeated(atom)?;
            match part {
                // What a group holds is part of the sequence that it stands in.
                PatternNode::Concat(inner) => parts.extend(inner),
                part => parts.push(part),
            }
        }
        Ok(match parts.len() {
            1 => parts.swap_remove(0),
            _ => PatternNode::Concat(parts),
        })
    }

    fn atom(&mut self) -> Result<PatternNode, UnsupportedPattern> {
        let Some(letter) = self.rest.next() else {
            return Ok(PatternNode::Concat(Vec::new()));
        };
        match letter {
            '^' => Ok(PatternNode::Start),
            '$' => Ok(PatternNode::End),
            '.' => Ok(PatternNode::Class(CharClass::dot())),
            '[' => self.class().map(PatternNode::Class),
            '(' => self.group(),
            '\\' => Ok(PatternNode::Class(match self.escape(false)? {
                Escape::Letter(letter) => CharClass::one(letter),
                Escape::Class(class) => class,
            })),
            '*' | '+' | '?' => Err(UnsupportedPattern::malformed("nothing to repeat")),
            '{' if counts(self.rest.clone()).is_some() => {
                Err(UnsupportedPattern::malformed("nothing to repeat"))
            }
            letter => Ok(PatternNode::Class(CharClass::one(letter))),
        }
    }

    fn group(&mut self) -> Result<PatternNode, UnsupportedPattern> {
        self.depth += 1;
        if self.depth > DEEPEST_GROUP {
            return Err(UnsupportedPattern::new("groups that are nested too deep"));
        }
        let folds = self.group_head()?;
        let inner = self.either()?;
        if self.rest.next() != Some(')') {
            return Err(UnsupportedPattern::malformed(
                "a parenthesis that is not closed",
            ));
        }
        self.depth -= 1;
        Ok(if folds {
            PatternNode::AnyCase(Box::new(inner))
        } else {
            inner
        })
    }

    /// Reads what says of which kind a group is; whether it is of letters in either case.
    fn group_head(&mut self) -> Result<bool, UnsupportedPattern> {
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(false);
        }
        match self.rest.next() {
            Some(':') => Ok(false),
            Some('=' | '!') => Err(UnsupportedPattern::new("look-ahead, such as `(?=a)`")),
            Some('<') if matches!(self.rest.peek(), Some('=' | '!')) => {
                Err(UnsupportedPattern::new("look-behind, such as `(?<=a)`"))
            }
            Some('<') => self.skip_name().map(|()| false),
            Some('P') if self.rest.next_if_eq(&'<').is_some() => self.skip_name().map(|()| false),
            Some('i') if self.rest.next_if_eq(&':').is_some() => Ok(true),
            _ => Err(UnsupportedPattern::new("a group of an unknown kind")),
        }
    }

    fn skip_name(&mut self) -> Result<(), UnsupportedPattern> {
        if self.rest.any(|letter| letter == '>') {
            return Ok(());
        }
        Err(UnsupportedPattern::malformed("a name that is not closed"))
    }

    fn repeated(&mut self, atom: PatternNode) -> Result<PatternNode, UnsupportedPattern> {
        let Some((least, most)) = self.quantifier()? else {
            return Ok(atom);
        };
        // Which of several matches is taken makes no difference here.
        let _ = self.rest.next_if_eq(&'?');
        if self.quantifier()?.is_some() {
            return Err(UnsupportedPattern::malformed(
                "something that is repeated twice",
            ));
        }
        if matches!(atom, PatternNode::Start | PatternNode::End) {
            return Err(UnsupportedPattern::malformed(
                "a `^` or `$` that is repeated",
            ));
        }
        Ok(PatternNode::Repeat(Box::new(atom), least, most))
    }

    fn quantifier(&mut self) -> Result<Option<(u32, Option<u32>)>, UnsupportedPattern> {
        let found = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counts(),
            _ => return Ok(None),
        };
        self.rest.next();
        Ok(Some(found))
    }

    /// The counts in braces, if there are any.
    fn counts(&mut self) -> Result<Option<(u32, Option<u32>)>, UnsupportedPattern> {
        let mut ahead = self.rest.clone();
        ahead.next();
        let Some((least, most)) = counts(ahead.by_ref()) else {
            return Ok(None);
        };
        let number = |text: String| {
            let number = text.parse::<u32>();
            number.map_err(|_| UnsupportedPattern::new("a count that is too high"))
        };
        let (least, most) = (number(least)?, most.map(number).transpose()?);
        if most.is_some_and(|most| most < least) {
            return Err(UnsupportedPattern::malformed("counts in the wrong order"));
        }
        self.rest = ahead;
        Ok(Some((least, most)))
    }

    fn class(&mut self) -> Result<CharClass, UnsupportedPattern> {
        let mut class = CharClass {
            negated: self.rest.next_if_eq(&'^').is_some(),
            ..CharClass::default()
        };
        loop {
            let first = match self.class_part()? {
                None => break,
                Some(Escape::Class(other)) => {
                    if !class.add(other) {
                        return Err(UnsupportedPattern::new(
                            "a negated property within brackets",
                        ));
                    }
                    continue;
                }
                Some(Escape::Letter(letter)) => letter,
            };
            let last = self.range_end(first)?;
            class.ranges.push((first.into(), last.into()));
        }
        if class.is_empty() && !class.negated {
            return Err(UnsupportedPattern::new(
                "an empty class, which nothing fits",
            ));
        }
        Ok(class)
    }

    /// The next character or class within brackets, if they are not closed.
    fn class_part(&mut self) -> Result<Option<Escape>, UnsupportedPattern> {
        match self.rest.next() {
            None => Err(UnsupportedPattern::malformed(
                "a bracket that is not closed",
            )),
            Some(']') => Ok(None),
            Some('\\') => self.escape(true).map(Some),
            Some(letter) => Ok(Some(Escape::Letter(letter))),
        }
    }

    /// Where the range that begins with `first` ends, which may be there.
    fn range_end(&mut self, first: char) -> Result<char, UnsupportedPattern> {
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('-') || matches!(ahead.peek(), None | Some(']')) {
            return Ok(first);
        }
        // Before a class such as `\d` the hyphen is one.
        if ahead.next() == Some('\\')
            && matches!(
                ahead.next(),
                Some('d' | 'D' | 'w' | 'W' | 's' | 'S' | 'p' | 'P')
            )
        {
            return Ok(first);
        }
        self.rest.next();
        match self.class_part()? {
            Some(Escape::Letter(last)) if first <= last => Ok(last),
            _ => Err(UnsupportedPattern::malformed("a range in the wrong order")),
        }
    }

    fn escape(&mut self, in_class: bool) -> Result<Escape, UnsupportedPattern> {
        let Some(letter) = self.rest.next() else {
            return Err(UnsupportedPattern::malformed("a backslash at its end"));
        };
        if let Some(class) = CharClass::escaped(letter) {
            return Ok(Escape::Class(class));
        }
        let plain = match letter {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'v' => '\u{B}',
            'f' => '\u{C}',
            'b' if in_class => '\u{8}',
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => '\0',
            'x' => self
                .hex(2)
                .and_then(char::from_u32)
                .ok_or_else(|| no_escape('x'))?,
            'u' => self.unicode()?,
            'c' => self.control()?,
            'p' | 'P' => return self.property(letter == 'P').map(Escape::Class),
            '1'..='9' | 'k' if !in_class => {
                return Err(UnsupportedPattern::new(r"a back reference, such as `\1`"));
            }
            'b' | 'B' => {
                return Err(UnsupportedPattern::new(format!(
                    r"`\{letter}`, the border of a word"
                )));
            }
            letter if letter.is_ascii_alphanumeric() => return Err(no_escape(letter)),
            letter => letter,
        };
        Ok(Escape::Letter(plain))
    }

    /// Reads what follows `\c`: the letter of a control character.
    fn control(&mut self) -> Result<char, UnsupportedPattern> {
        let letter = self.rest.next_if(char::is_ascii_alphabetic);
        let letter = letter.and_then(|letter| u8::try_from(letter).ok());
        let control = letter.map(|letter| char::from(letter & 0x1F));
        control.ok_or_else(|| no_escape('c'))
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        let text: String = self.rest.by_ref().take(digits).collect();
        let is_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u32::from_str_radix(&text, 16).ok())
            .flatten()
    }

    /// Reads what follows `\u`: four digits, two times four of a character beyond the first plane, or braces.
    fn unicode(&mut self) -> Result<char, UnsupportedPattern> {
        if self.rest.next_if_eq(&'{').is_some() {
            let text: String = self
                .rest
                .by_ref()
                .take_while(|letter| *letter != '}')
                .collect();
            let point = u32::from_str_radix(&text, 16).ok();
            return point.and_then(char::from_u32).ok_or_else(|| no_escape('u'));
        }
        let first = self.hex(4).ok_or_else(|| no_escape('u'))?;
        if let Some(letter) = char::from_u32(first) {
            return Ok(letter);
        }
        let mut ahead = self.rest.clone();
        let second = (ahead.next() == Some('\\') && ahead.next() == Some('u')).then(|| {
            self.rest = ahead;
            self.hex(4)
        });
        let pair = second
            .flatten()
            .map(|second| char::decode_utf16([first, second].map(unit)).next());
        match pair {
            Some(Some(Ok(letter))) => Ok(letter),
            _ => Err(UnsupportedPattern::new("half of a surrogate pair")),
        }
    }

    /// General categories and scripts. What else Unicode knows of characters makes automata of a size that
    /// llguidance does not take.
    fn property(&mut self, negated: bool) -> Result<CharClass, UnsupportedPattern> {
        let mut name = String::new();
        if self.rest.next_if_eq(&'{').is_some() {
            name = self
                .rest
                .by_ref()
                .take_while(|letter| *letter != '}')
                .collect();
        }
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_=".contains(&byte));
        let known = match name.split_once('=') {
            Some(("sc" | "scx" | "Script" | "Script_Extensions", script)) => !script.is_empty(),
            Some(("gc" | "General_Category", category)) => CATEGORIES.contains(&category),
            Some(_) => false,
            None => CATEGORIES.contains(&&*name),
        };
        if !plain || !known {
            return Err(UnsupportedPattern::new(format!(r"`\p{{{name:.40}}}`")));
        }
        Ok(CharClass {
            properties: vec![format!(r"\p{{{name}}}")],
            negated,
            ..CharClass::default()
        })
    }
}

/// Reads what follows a brace: `3}`, `3,}` or `3,5}`; anything else is text.
fn counts(mut rest: impl Iterator<Item = char>) -> Option<(String, Option<String>)> {
    let mut inside = String::new();
    loop {
        match rest.next()? {
            '}' => break,
            letter if letter == ',' || letter.is_ascii_digit() => inside.push(letter),
            _ => return None,
        }
    }
    let is_count = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (least, most) = match inside.split_once(',') {
        None => (&*inside, Some(&*inside)),
        Some((least, "")) => (least, None),
        Some((least, most)) => (least, Some(most)),
    };
    let is_whole = is_count(least) && most.is_none_or(is_count);
    is_whole.then(|| (least.to_owned(), most.map(str::to_owned)))
}

/// Those that ECMA-262 knows by these names.
const CATEGORIES: [&str; 46] = [
    "L",
    "Lu",
    "Ll",
    "Lt",
    "LC",
    "Lm",
    "Lo",
    "M",
    "Mn",
    "Mc",
    "Me",
    "N",
    "Nd",
    "Nl",
    "No",
    "P",
    "Pc",
    "Pd",
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Po",
    "S",
    "Sm",
    "Sc",
    "Sk",
    "So",
    "Z",
    "Zs",
    "Zl",
    "Zp",
    "C",
    "Cc",
    "Cf",
    "Co",
    "Letter",
    "Uppercase_Letter",
    "Lowercase_Letter",
    "Mark",
    "Number",
    "Decimal_Number",
    "Punctuation",
    "Symbol",
    "Separator",
    "Other_Letter",
];

fn no_escape(letter: char) -> UnsupportedPattern {
    UnsupportedPattern::new(format!(r"the escape `\{letter}`, which has no meaning"))
}

/// A code unit, which four digits always are.
fn unit(point: u32) -> u16 {
    u16::try_from(point).unwrap_or(0)
}
