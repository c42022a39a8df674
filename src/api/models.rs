//! `GET /v1/models` and `/v1/models/{id}`, and finding the model of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
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
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    find(&state, &id).map(|entry| Json(describe(entry)))
}

fn describe(entry: &Entry) -> Value {
    let state = entry.state();
    let mut edgellm = json!({"state": state.as_str()});
    if let State::Ready(loaded) = &state {
        let info = loaded.model.info();
        edgellm["architecture"] = json!(info.architecture);
        edgellm["quantization"] = json!(info.quantization);
        edgellm["parameters"] = json!(info.parameters);
        edgellm["size_bytes"] = json!(info.size_bytes);
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

fn find<'a>(state: &'a AppState, id: &str) -> Result<&'a Arc<Entry>, ApiError> {
    state.pool.find(id).ok_or_else(|| {
        let ids: Vec<_> = state.pool.entries().iter().map(|e| e.id.as_str()).collect();
        ApiError::ModelNotFound {
            // Long enough to recognize, short enough to send back.
            name: id.chars().take(100).collect(),
            available: ids.join(", "),
        }
    })
}

/// The model that a request names, or the first when it names none, if it can answer.
pub(super) fn ready_model(
    state: &AppState,
    id: Option<&str>,
) -> Result<(Arc<Entry>, Arc<Loaded>), ApiError> {
    let entry = match id {
        Some(id) => find(state, id)?,
        None => state.pool.entries().first().ok_or(ApiError::Internal)?,
    };
    match entry.state() {
        State::Ready(loaded) => Ok((Arc::clone(entry), loaded)),
        State::Loading => Err(ApiError::Refused(Refusal {
            reason: Reason::Loading,
            retry_after: Duration::from_secs(2),
        })),
        State::Stopped => Err(ApiError::Refused(Refusal {
            reason: Reason::Draining,
            retry_after: Duration::from_secs(5),
        })),
        State::Unloadable(_) | State::Crashed => Err(ApiError::ModelUnavailable(entry.id.clone())),
    }
}
