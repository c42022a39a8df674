//! What is refused before a body is read.

use axum::http::HeaderMap;

use crate::http::error::ApiError;
use crate::inference::Inference;

/// Known and not built, hence not silently dropped.
pub(crate) fn refuse_deadline(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("x-deadline-ms") {
        let why = "is not supported by this version; leave the header out";
        return Err(ApiError::unsupported("x-deadline-ms", why));
    }
    Ok(())
}

/// Whoever would be refused in any case need not send a body first.
pub(crate) fn refuse_if_all_do(inference: &Inference) -> Result<(), ApiError> {
    inference.would_admit().map_err(ApiError::Refused)
}
