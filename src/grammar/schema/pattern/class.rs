//! Sets of characters.

use std::fmt::Write as _;

/// Some characters, or all others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CharClass {
    /// Ranges of code points, in no order until the class is written or compared.
    pub(super) ranges: Vec<(u32, u32)>,
    /// Properties of Unicode, as both syntaxes write them: `\p{L}`.
    pub(super) properties: Vec<String>,
    pub(super) negated: bool,
}

const LAST: u32 = char::MAX as u32;
const DIGITS: [(u32, u32); 1] = [(0x30, 0x39)];
const WORD: [(u32, u32); 4] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
/// ECMA-262's `WhiteSpace` and `LineTerminator`.
const SPACE: [(u32, u32); 10] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];
/// The characters that the dot does not match.
const LINE_ENDS: [(u32, u32); 3] = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)];

impl CharClass {
    pub(super) fn one(letter: char) -> Self {
        Self {
            ranges: vec![(letter.into(), letter.into())],
            ..Self::default()
        }
    }

    pub(super) fn dot() -> Self {
        Self {
            ranges: LINE_ENDS.to_vec(),
            negated: true,
            ..Self::default()
        }
    }

    /// Returns the class of `\d`, `\W` and so on.
    pub(super) fn escaped(letter: char) -> Option<Self> {
        let ranges = match letter.to_ascii_lowercase() {
            'd' => DIGITS.to_vec(),
            'w' => WORD.to_vec(),
            's' => SPACE.to_vec(),
            _ => return None,
        };
        Some(Self {
            ranges,
            negated: letter.is_ascii_uppercase(),
            ..Self::default()
        })
    }

    /// The characters of `other` in addition; false where that cannot be written.
    pub(super) fn add(&mut self, other: Self) -> bool {
        if other.negated && !other.properties.is_empty() {
            return false;
        }
        if other.negated {
            self.ranges.extend(others(&merged(&other.ranges)));
        } else {
            self.ranges.extend(other.ranges);
            self.properties.extend(other.properties);
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.properties.is_empty()
    }

    /// Whether a character is one of them; nothing where Unicode's tables would say.
    pub(super) fn contains(&self, letter: char) -> Option<bool> {
        let point = u32::from(letter);
        let listed = self
            .ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&point));
        if !listed && !self.properties.is_empty() {
            return None;
        }
        Some(listed != self.negated)
    }

    /// Whether no character is in both, for certain.
    pub(super) fn is_apart_from(&self, other: &Self) -> bool {
        if !self.properties.is_empty() || !other.properties.is_empty() {
            return false;
        }
        let (ours, others) = (self.all(), other.all());
        ours.iter().all(|(first, last)| {
            let meets = |(from, to): &(u32, u32)| from <= last && first <= to;
            !others.iter().any(meets)
        })
    }

    fn all(&self) -> Vec<(u32, u32)> {
        let ranges = merged(&self.ranges);
        if self.negated {
            others(&ranges)
        } else {
            ranges
        }
    }

    /// Where it has all control characters but not the quote or the backslash: the same without
    /// U+0000. derivre 0.3 writes such a class in JSON as if it had both (`quote_byteset`).
    fn without_nul(&self) -> Option<Self> {
        if !self.properties.is_empty() {
            return None;
        }
        let all = self.all();
        let has = |letter: u32| {
            let holds = |(first, last): &(u32, u32)| (*first..=*last).contains(&letter);
            all.iter().any(holds)
        };
        let has_controls = (0..32).all(|control| control == u32::from('\n') || has(control));
        let lacks = !has('"'.into()) || !has('\\'.into());
        (has_controls && lacks).then(|| Self {
            ranges: all
                .iter()
                .filter(|(_, last)| *last > 0)
                .map(|(first, last)| ((*first).max(1), *last))
                .collect(),
            negated: false,
            properties: Vec::new(),
        })
    }

    pub(super) fn write(&self, text: &mut String) {
        if let Some(spared) = self.without_nul() {
            return spared.write(text);
        }
        let ranges = merged(&self.ranges);
        if let ([(first, last)], [], false) = (&*ranges, &*self.properties, self.negated)
            && first == last
        {
            return push(*first, text);
        }
        if let ([], [property]) = (&*ranges, &*self.properties) {
            let property = if self.negated {
                property.replacen("\\p", "\\P", 1)
            } else {
                property.clone()
            };
            return text.push_str(&property);
        }
        text.push_str(if self.negated { "[^" } else { "[" });
        // Nothing but what is not there: everything.
        if self.is_empty() {
            text.pop();
            text.push_str("\\u{0}-\\u{10ffff}");
        }
        for (first, last) in ranges {
            push(first, text);
            if first < last {
                text.push('-');
                push(last, text);
            }
        }
        self.properties
            .iter()
            .for_each(|property| text.push_str(property));
        text.push(']');
    }
}

/// Sorts ranges, and joins those that touch.
fn merged(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Returns the characters that are not in `ranges`, which are sorted.
fn others(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut others = Vec::new();
    let mut next = 0;
    for (first, last) in ranges {
        if next < *first {
            others.push((next, first - 1));
        }
        next = last + 1;
    }
    if next <= LAST {
        others.push((next, LAST));
    }
    // Rust has no characters here.
    let outside = |(first, last): (u32, u32)| {
        let below = (first < 0xD800).then(|| (first, last.min(0xD7FF)));
        let above = (last > 0xDFFF).then(|| (first.max(0xE000), last));
        [below, above]
    };
    others.into_iter().flat_map(outside).flatten().collect()
}

/// Writes one character so that it has no special meaning, within a class and outside.
fn push(point: u32, text: &mut String) {
    match char::from_u32(point) {
        Some(letter) if letter.is_ascii_alphanumeric() || " _,:;'\"=<>!@%".contains(letter) => {
            text.push(letter);
        }
        Some(letter) if letter.is_ascii_punctuation() => {
            text.push('\\');
            text.push(letter);
        }
        // Writing to a string cannot fail.
        _ => drop(write!(text, "\\u{{{point:x}}}")),
    }
}
