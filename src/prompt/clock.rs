//! `strftime_now` for templates that state today's date (Llama 3.x does).
//!
//! Python's directives, in UTC: a gateway's prompts should not change with where it happens to hang.

use crate::clock::unix_seconds;
use std::fmt::Write as _;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The present time by `format`.
pub(super) fn strftime_now(format: &str) -> String {
    strftime(format, unix_seconds())
}

/// `seconds` after 1970-01-01 UTC by `format`; a directive that is not known stands as it is.
fn strftime(format: &str, seconds: u64) -> String {
    let date = Date::of(seconds);
    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            // glibc's `%-d`: no leading zero.
            Some('-') => match chars.next() {
                Some(directive) => {
                    let padded = date.directive(directive);
                    let bare = padded.trim_start_matches(['0', ' ']);
                    out.push_str(if bare.is_empty() { "0" } else { bare });
                }
                None => out.push_str("%-"),
            },
            Some(directive) => out.push_str(&date.directive(directive)),
            None => out.push('%'),
        }
    }
    out
}

struct Date {
    year: u64,
    /// From 0.
    month: usize,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Sunday.
    weekday: usize,
    second_of_day: u64,
}

impl Date {
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let (mut year, mut left) = (1970, days);
        while left >= 365 + u64::from(leap(year)) {
            left -= 365 + u64::from(leap(year));
            year += 1;
        }
        let day_of_year = left + 1;
        let february = 28 + u64::from(leap(year));
        let mut month = 0;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if left < length {
                break;
            }
            left -= length;
            month += 1;
        }
        // 1970-01-01 was a Thursday.
        let weekday = usize::try_from((days + 4) % 7).unwrap_or(0);
        Self {
            year,
            month,
            day: left + 1,
            day_of_year,
            weekday,
            second_of_day: seconds % 86_400,
        }
    }

    fn directive(&self, directive: char) -> String {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let hour12 = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = match directive {
            'Y' => write!(out, "{}", self.year),
            'y' => write!(out, "{:02}", self.year % 100),
            'm' => write!(out, "{:02}", self.month + 1),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'j' => write!(out, "{:03}", self.day_of_year),
            'B' => write!(out, "{}", MONTHS[self.month]),
            'b' | 'h' => write!(out, "{}", &MONTHS[self.month][..3]),
            'A' => write!(out, "{}", DAYS[self.weekday]),
            'a' => write!(out, "{}", &DAYS[self.weekday][..3]),
            'H' => write!(out, "{hour:02}"),
            'I' => write!(out, "{hour12:02}"),
            'M' => write!(out, "{minute:02}"),
            'S' => write!(out, "{:02}", self.second_of_day % 60),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'F' => write!(out, "{}", strftime_parts(self, "Y-m-d")),
            'T' => write!(out, "{}", strftime_parts(self, "H:M:S")),
            'Z' => write!(out, "UTC"),
            'z' => write!(out, "+0000"),
            '%' => write!(out, "%"),
            other => write!(out, "%{other}"),
        };
        out
    }
}

/// A compound directive from single ones: letters are directives, the rest stands.
fn strftime_parts(date: &Date, parts: &str) -> String {
    parts
        .chars()
        .map(|part| match part {
            'Y' | 'm' | 'd' | 'H' | 'M' | 'S' => date.directive(part),
            separator => separator.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::strftime;

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
        assert_eq!(strftime("%Q 100%", 0), "%Q 100%");
        assert_eq!(strftime("%-", 0), "%-");
    }
}
