//! What is refused before a body is read.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};

use crate::http::access::{drain_guard, principal};
use crate::http::error::ApiError;
use crate::inference::Inference;

/// The header that says within how many milliseconds the answer is wanted.
pub(crate) const DEADLINE: &str = "x-deadline-ms";

/// Milliseconds that a request may allow: up to a day.
pub(crate) const DEADLINE_MS: RangeInclusive<u64> = 1..=86_400_000;

/// Returns the time that a request allows for its answer, where it has the header.
pub(crate) fn allowed_time(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut all = headers.get_all(DEADLINE).iter().map(milliseconds);
    let Some(first) = all.next() else {
        return Ok(None);
    };
    // A proxy may repeat a header; two that differ say nothing.
    let milliseconds = first.filter(|_| all.all(|other| other == first));
    let (least, most) = DEADLINE_MS.into_inner();
    let message = format!(
        "`{DEADLINE}` must be a whole number of milliseconds from {least} to {most}, once: the time for the answer"
    );
    milliseconds
        .map(|milliseconds| Some(Duration::from_millis(milliseconds)))
        .ok_or_else(|| ApiError::invalid(DEADLINE, message))
}

fn milliseconds(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    // Rust's numbers may have a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.filter(|number| DEADLINE_MS.contains(number))
}

/// Refuses a request before its body is sent, if every request like it would be refused now.
pub(crate) fn refuse_if_all_do(inference: &Inference, request: &Request) -> Result<(), ApiError> {
    let drain_guard = drain_guard(request);
    inference
        .has_room(principal(request).tenant, drain_guard.as_ref())
        .map_err(ApiError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(values: &[&str]) -> Result<Option<Duration>, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(DEADLINE, HeaderValue::from_str(value).expect("a header"));
        }
        allowed_time(&headers)
    }

    #[test]
    fn a_deadline_is_a_number_of_milliseconds_up_to_a_day() {
        assert_eq!(allowed(&[]), Ok(None));
        for (text, milliseconds) in [("1", 1), ("0250", 250), (" 86400000 ", 86_400_000)] {
            let time = Duration::from_millis(milliseconds);
            assert_eq!(allowed(&[text]), Ok(Some(time)), "{text}");
        }
        assert_eq!(allowed(&["5", "5"]), Ok(Some(Duration::from_millis(5))));
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let wrong = [
            "",
            "0",
            "-1",
            "+5",
            "1.5",
            "1e3",
            "soon",
            "0x10",
            "86400001",
            "99999999999999999999999",
            "5,5",
            "5 5",
        ];
        for text in wrong {
            let error = allowed(&[text]).expect_err(text);
            assert_eq!(error.status(), 400);
            assert_eq!(error.body()["error"]["param"], DEADLINE);
        }
        for values in [["5", "6"], ["5", "x"], ["x", "5"]] {
            assert!(allowed(&values).is_err(), "{values:?}");
        }
    }
}
