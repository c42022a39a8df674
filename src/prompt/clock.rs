//! `strftime_now` for templates that state today's date (Llama 3.x does).
//!
//! Python's directives, in UTC: a gateway's prompts should not change with where it happens to hang.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};

/// The present time by `format`.
pub(super) fn strftime_now(format: &str) -> String {
    // A clock may stand anywhere.
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    strftime(format, now)
}

/// A time by `format`; a directive that is not known stands as it is. Those
/// that jiff knows and Python does not are jiff's.
fn strftime(format: &str, time: Timestamp) -> String {
    let python = Config::new().custom(PosixCustom::new()).lenient(true);
    let text = BrokenDownTime::from(time).to_string_with_config(&python, microseconds(format));
    text.unwrap_or_else(|_| format.to_owned())
}

/// `%f` has six digits in Python, and nine in jiff unless it is told how many.
fn microseconds(format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        out.push(char);
        if char == '%' {
            match chars.next() {
                Some('f') => out.push_str("6f"),
                Some(directive) => out.push(directive),
                None => {}
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    fn strftime(format: &str, seconds: i64) -> String {
        super::strftime(format, Timestamp::from_second(seconds).expect("a time"))
    }

    #[test]
    fn dates_are_written_as_python_writes_them() {
        // 2024-07-26 15:04:05 UTC, a Friday; 2024 is a leap year.
        let then = 1_722_006_245;
        assert_eq!(strftime("%d %b %Y", then), "26 Jul 2024");
        assert_eq!(
            strftime("%A, %B %-d, %Y %I:%M:%S %p", then),
            "Friday, July 26, 2024 03:04:05 PM"
        );
        assert_eq!(
            strftime("%F %T %j %y %a %e %%", then),
            "2024-07-26 15:04:05 208 24 Fri 26 %"
        );
        assert_eq!(strftime("%f %%f", then), "000000 %f");
        assert_eq!(
            strftime("%c %Z %z", then),
            "Fri Jul 26 15:04:05 2024 UTC +0000"
        );
    }

    #[test]
    fn leap_days_and_year_ends_are_right() {
        assert_eq!(strftime("%F", 0), "1970-01-01");
        assert_eq!(strftime("%F", 951_782_400), "2000-02-29");
        assert_eq!(strftime("%F", 1_735_603_200), "2024-12-31");
        assert_eq!(strftime("%F", 1_735_689_600), "2025-01-01");
    }

    #[test]
    fn unknown_and_unfinished_directives_stand_as_they_are() {
        assert_eq!(strftime("%! 100%", 0), "%! 100%");
        assert_eq!(strftime("%-", 0), "%-");
    }
}
