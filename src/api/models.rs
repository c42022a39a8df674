//! `GET /v1/models` and `/v1/models/{id}`, and finding the model of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use serde_json::{Value, json};

use crate::admission::{Reason, Refusal};
use crate::pool::{Entry, Loaded, State};

use super::error::ApiError;
use super::state::AppState;

pub(super) async fn list(Shared(state): Shared<AppState>) -> Json<Value> {
    let data: Vec<Value> = state.pool.entries().iter().map(|e| describe(e)).collect();
    Json(json!({"object": "list", "data": data}))
}

pub(super) async fn show(
    Shared(state): Shared<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NotFound("this path".to_owned()))?;
    find_model(&state, Some(&id)).map(|entry| Json(describe(entry)))
}

fn describe(entry: &Entry) -> Value {
    let state = entry.state();
    let mut edgellm = json!({"state": state.as_str()});
    if let State::Ready(loaded) = &state {
        let info = loaded.model.info();
        edgellm["architecture"] = json!(info.architecture);
        edgellm["quantization"] = json!(info.quantization);
        edgellm["parameters"] = json!(info.parameters);
        edgellm["size"] = json!(info.size_bytes);
        edgellm["context"] = json!(loaded.context());
        edgellm["digest"] = json!(format!("sha256:{}", info.digest));
    }
    json!({
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": "edgellm",
        "edgellm": edgellm,
    })
}

/// The model of this name, or the first when a request names none.
pub(super) fn find_model<'a>(
    state: &'a AppState,
    id: Option<&str>,
) -> Result<&'a Arc<Entry>, ApiError> {
    let entries = state.pool.entries();
    let found = match id {
        Some(id) => state.pool.find(id),
        None => entries.first(),
    };
    found.ok_or_else(|| {
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
        ApiError::ModelNotFound {
            // Long enough to recognize, short enough to send back.
            name: id.unwrap_or_default().chars().take(100).collect(),
            available: ids.join(", "),
        }
    })
}

/// The model's inside, if it can answer.
pub(super) fn ready(entry: &Entry) -> Result<Arc<Loaded>, ApiError> {
    let refused = |reason, seconds| {
        Err(ApiError::Refused(Refusal {
            reason,
            retry_after: Duration::from_secs(seconds),
        }))
    };
    match entry.state() {
        State::Ready(loaded) => Ok(loaded),
        State::Loading => refused(Reason::Loading, 2),
        State::Stopped => refused(Reason::Draining, 5),
        State::Unloadable(_) | State::Crashed => Err(ApiError::ModelUnavailable(entry.id.clone())),
    }
}
