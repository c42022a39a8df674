//! Numbers of JSON as they are written, of any length.
//!
//! A double has some sixteen digits. Whether one still is what somebody wrote, and whether 0.3 is a multiple of
//! 0.1, is a matter of the digits alone.

/// A number as a whole number times a power of ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    is_negative: bool,
    /// Without zeros at either end; none for zero.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// None where `text` is no number as JSON writes them, or has an exponent of more digits than anybody needs.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if has_leading_zero || !is_digits(whole) || fraction.is_some_and(|text| !is_digits(text)) {
            return None;
        }
        let fraction = fraction.unwrap_or_default();
        let written = format!("{whole}{fraction}");
        let digits = written.trim_end_matches('0');
        let moved = i64::try_from(written.len() - digits.len()).ok()?;
        let places = i64::try_from(fraction.len()).ok()?;
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some(Self {
                is_negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        Some(Self {
            is_negative,
            digits: digits.to_owned(),
            exponent: exponent - places + moved,
        })
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether it is a whole number of times `divisor`. None where the divisor is 0 or has more digits than
    /// can be calculated with.
    pub(crate) fn is_multiple_of(&self, divisor: &Self) -> Option<bool> {
        let by: u64 = divisor.digits.parse().ok()?;
        if self.is_zero() {
            return Some(true);
        }
        // It has more places than the divisor, and does not end with zeros.
        let Ok(zeros) = u64::try_from(self.exponent - divisor.exponent) else {
            return Some(false);
        };
        let by = u128::from(by);
        let digits = self.digits.bytes().map(|digit| u128::from(digit - b'0'));
        let rest = digits.fold(0, |rest, digit| (rest * 10 + digit) % by);
        Some((rest * power_of_ten(zeros, by)).is_multiple_of(by))
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Whatever is added to it stays within 64 bits.
    let exponent: i32 = is_digits(digits).then(|| text.parse().ok()).flatten()?;
    Some(exponent.into())
}

/// 10 to the power of `exponent`, divided by `by`: what is left.
fn power_of_ten(mut exponent: u64, by: u128) -> u128 {
    let (mut power, mut square) = (1 % by, 10 % by);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power = power * square % by;
        }
        square = square * square % by;
        exponent /= 2;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text} is no number"))
    }

    #[test]
    fn numbers_are_equal_however_they_are_written() {
        for [one, other] in [
            ["1", "1.0"],
            ["100", "1e2"],
            ["0.5", "5E-1"],
            ["-0", "0.00"],
            ["1.10e+3", "1100"],
            ["0.001e3", "1"],
        ] {
            assert_eq!(number(one), number(other), "{one}, {other}");
        }
        for [one, other] in [
            ["12345678901234567890123", "12345678901234567890124"],
            ["1", "-1"],
            ["1e-400", "0"],
            ["0.1", "0.10000000000000000001"],
        ] {
            assert_ne!(number(one), number(other), "{one}, {other}");
        }
    }

    #[test]
    fn what_is_no_number_of_json_is_none() {
        for text in [
            "",
            "-",
            "+1",
            "01",
            ".5",
            "1.",
            "1e",
            "1e+",
            "0x1",
            "1 ",
            "NaN",
            "1e99999999999",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn multiples_are_those_of_the_digits_and_not_of_doubles() {
        for (value, divisor, expected) in [
            ("0.3", "0.1", true),
            ("0.35", "0.1", false),
            ("-0.7", "0.1", true),
            ("1e300", "0.1", true),
            ("1e-300", "0.1", false),
            ("0", "0.1", true),
            ("4.35", "0.01", true),
            ("1.005", "0.005", true),
            ("9007199254740993", "3", true),
            ("9007199254740992", "3", false),
            ("12345678901234567890123", "0.5", true),
            ("7.5", "2.5", true),
            ("20", "8", false),
            ("1e3", "8", true),
        ] {
            let found = number(value).is_multiple_of(&number(divisor));
            assert_eq!(found, Some(expected), "{value} of {divisor}");
        }
        assert_eq!(number("1").is_multiple_of(&number("0")), None);
    }
}
