//! What is refused before a body is read.

use axum::extract::Request;
use axum::http::HeaderMap;

use crate::http::access::drain_guard;
use crate::http::error::ApiError;
use crate::inference::Inference;

/// Refuses the deadline header, which is known but not implemented, rather than ignoring it.
pub(crate) fn refuse_deadline(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("x-deadline-ms") {
        let why = "is not supported by this version; leave the header out";
        return Err(ApiError::unsupported("x-deadline-ms", why));
    }
    Ok(())
}

/// Refuses a request before its body is sent, if every request like it would be refused now.
pub(crate) fn refuse_if_all_do(inference: &Inference, request: &Request) -> Result<(), ApiError> {
    let drain_guard = drain_guard(request);
    inference
        .has_room(drain_guard.as_ref())
        .map_err(ApiError::Refused)
}
