//! `GET /metrics`: all metrics in Prometheus' text format.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};
use crate::http::state::HttpState;

pub(crate) fn describe(_: &mut Schemas) -> Operation {
    Operation::new("metrics", "Everything that is measured, for Prometheus.")
        .responds("text/plain; version=0.0.4", &json!({"type": "string"}))
        .fails(&[500])
}

pub(crate) async fn show(State(state): State<HttpState>) -> Result<Response, ApiError> {
    let (text, content_type) = state.metrics.encode().map_err(|error| {
        tracing::error!(%error, "metrics could not be written");
        ApiError::Internal
    })?;
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
