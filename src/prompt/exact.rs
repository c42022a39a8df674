//! Numbers that no value of JSON holds here, kept as they are written.
//!
//! 12345678901234567890123 would become 1.2345678901234568e22 on its way through a template. So such numbers
//! travel as strings with a prefix, which [`super::client_marks`] turns into the number without quotes in the
//! prompt. A client that writes such a string itself gets what it would get for the number.

use std::borrow::Cow;

use serde_json::{Number, Value};

use crate::decimal::Decimal;

/// What is before the digits: a Unicode noncharacter and a word.
const PREFIX: &str = "\u{FDEF}number:";

/// JSON in which every number that would be rounded when it is read is such a string.
#[must_use]
pub fn with_exact_numbers(json: &str) -> Cow<'_, str> {
    let mut out = String::new();
    // What is copied so far.
    let mut copied = 0;
    for (at, number) in numbers(json).filter(|(_, number)| would_be_rounded(number)) {
        out.push_str(&json[copied..at]);
        out.push_str(&Value::from(format!("{PREFIX}{number}")).to_string());
        copied = at + number.len();
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(&json[copied..]);
    Cow::Owned(out)
}

/// The first number that would be 0 when it is read, and is not.
#[must_use]
pub fn vanishing_number(json: &str) -> Option<&str> {
    let vanishes = |number: &str| {
        // All others are a double.
        let may_be_small = number.len() > 300 || number.contains(['e', 'E']);
        may_be_small
            && number.parse() == Ok(0.0)
            && Decimal::parse(number).is_some_and(|number| !number.is_zero())
    };
    numbers(json)
        .map(|(_, number)| number)
        .find(|number| vanishes(number))
}

/// What stands in JSON where a number may, and where it stands.
fn numbers(json: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = json.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            match bytes.get(at)? {
                b'"' => at = end_of_string(bytes, at),
                b'-' | b'0'..=b'9' => {
                    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                    let length = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
                    let start = at;
                    at += length;
                    return Some((start, &json[start..at]));
                }
                _ => at += 1,
            }
        }
    })
}

/// Whether a string is such a number.
#[must_use]
pub fn is_exact_number(text: &str) -> bool {
    exact_number(text).is_some()
}

/// The number that such a string is.
pub(super) fn exact_number(text: &str) -> Option<&str> {
    let number = text.strip_prefix(PREFIX)?;
    Decimal::parse(number).map(|_| number)
}

/// Behind the string that begins at `start`, or at the end of what is no JSON.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            None => return bytes.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Whether a number is another one once it is read, or cannot be read. Its digits count, not how they
/// are written: `1e3` is 1000.0.
fn would_be_rounded(number: &str) -> bool {
    /// Every number of at most this many characters without an exponent is read exactly.
    const SHORT: usize = 15;
    let is_short = number.len() <= SHORT && !number.contains(['e', 'E']);
    if is_short {
        return false;
    }
    let Some(written) = Decimal::parse(number) else {
        return false;
    };
    let read: Option<Number> = serde_json::from_str(number).ok();
    let read = read.and_then(|read| Decimal::parse(&read.to_string()));
    read != Some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_be_rounded_are_kept_and_all_else_stays() {
        for number in [
            "12345678901234567890123",
            "-12345678901234567890123",
            "18446744073709551616",
            "0.1234567890123456789",
            "9007199254740993.0",
            "1e400",
            "1e-400",
            "-1E+999",
        ] {
            let json = format!(r#"{{"a": [{number}], "b":{number}}}"#);
            let kept = with_exact_numbers(&json);
            let kept: Value = serde_json::from_str(&kept).expect("JSON");
            for kept in [&kept["a"][0], &kept["b"]] {
                let kept = kept
                    .as_str()
                    .unwrap_or_else(|| panic!("{number} is rounded"));
                assert_eq!(exact_number(kept), Some(number));
            }
        }
        for json in [
            r#"{"a": 18446744073709551615, "b": -9223372036854775808, "c": 0.1, "d": 1e3, "e": 1.50}"#,
            r#"["12345678901234567890123", "\"12345678901234567890123", 1e22, 5e-324]"#,
            r#"{"12345678901234567890123": "a\\"}"#,
            "[0.30000000000000004, 100000000000000000000]",
            "not JSON 012345678901234567890123 \"",
            "\"never closed \\",
            "",
        ] {
            assert!(
                matches!(with_exact_numbers(json), Cow::Borrowed(_)),
                "{json}"
            );
        }
    }

    #[test]
    fn numbers_that_would_be_0_are_found() {
        assert_eq!(vanishing_number(r#"{"a": [0, 1e-400]}"#), Some("1e-400"));
        let long = format!("0.{}1", "0".repeat(400));
        assert_eq!(vanishing_number(&long), Some(&*long));
        for json in ["[0, 0.0, 0e-400, -0, 5e-324, 1e-300]", r#""1e-400""#, "1e-"] {
            assert_eq!(vanishing_number(json), None, "{json}");
        }
    }

    #[test]
    fn what_holds_no_number_is_a_string_like_others() {
        for text in [
            "12",
            "\u{FDEF}number:",
            "\u{FDEF}number:1, 2",
            "\u{FDEF}number:a",
        ] {
            assert_eq!(exact_number(text), None, "{text}");
        }
    }
}
