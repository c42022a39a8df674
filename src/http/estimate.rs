//! The header that tells how long an answer was estimated to take.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::Response;

/// Milliseconds from the arrival of a request with a deadline to the end of its answer, as estimated when it was
/// admitted.
pub(crate) const ESTIMATED: &str = "x-estimated-ms";

/// Adds the estimate to a response, if there is one.
pub(crate) fn estimated(mut response: Response, estimate: Option<Duration>) -> Response {
    if let Some(estimate) = estimate {
        let milliseconds = u64::try_from(estimate.as_millis()).unwrap_or(u64::MAX);
        let value = HeaderValue::from(milliseconds);
        response.headers_mut().insert(ESTIMATED, value);
    }
    response
}
