//! `GET /v1/models` and `/v1/models/{id}`, and finding the model of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use serde_json::{Value, json};

use crate::admission::{Reason, Refusal};
use crate::pool::{Entry, Loaded, Serving, State};

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
    if let State::Ready(serving) = &state {
        let info = serving.model().info();
        match serving {
            Serving::Generation(_) => edgellm["kind"] = json!("chat"),
            Serving::Embedding(_) => {
                edgellm["kind"] = json!("embedding");
                edgellm["dimensions"] = json!(info.dimensions);
            }
        }
        edgellm["architecture"] = json!(info.architecture);
        edgellm["quantization"] = json!(info.quantization);
        edgellm["parameters"] = json!(info.parameters);
        edgellm["size"] = json!(info.size_bytes);
        edgellm["context"] = json!(serving.context());
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

/// The model of this name, or the first that chats when a request names none.
pub(super) fn find_model<'a>(
    state: &'a AppState,
    id: Option<&str>,
) -> Result<&'a Arc<Entry>, ApiError> {
    find(state, id, |entry| !embeds(entry))
}

/// The model of this name, or the first that embeds when a request names none.
pub(super) fn find_embedder<'a>(
    state: &'a AppState,
    id: Option<&str>,
) -> Result<&'a Arc<Entry>, ApiError> {
    find(state, id, embeds)
}

/// Whether it is an embedding model, as far as that is known by now.
pub(super) fn embeds(entry: &Entry) -> bool {
    matches!(entry.state(), State::Ready(Serving::Embedding(_)))
}

fn find<'a>(
    state: &'a AppState,
    id: Option<&str>,
    suits: impl Fn(&Entry) -> bool,
) -> Result<&'a Arc<Entry>, ApiError> {
    let entries = state.pool.entries();
    let found = if let Some(id) = id {
        state.pool.find(id)
    } else {
        let suited = entries.iter().find(|entry| suits(entry));
        suited.or(entries.first())
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

/// The inside of a model that generates, if it can answer.
pub(super) fn ready(entry: &Entry) -> Result<Arc<Loaded>, ApiError> {
    match serving(entry)? {
        Serving::Generation(loaded) => Ok(loaded),
        Serving::Embedding(_) => Err(ApiError::invalid(
            "model",
            format!(
                "`{}` is an embedding model, for POST /v1/embeddings; GET /v1/models shows which \
                 models chat",
                entry.id
            ),
        )),
    }
}

/// The model's inside, if it can answer.
pub(super) fn serving(entry: &Entry) -> Result<Serving, ApiError> {
    let refused = |reason, seconds| {
        Err(ApiError::Refused(Refusal {
            reason,
            retry_after: Duration::from_secs(seconds),
        }))
    };
    match entry.state() {
        State::Ready(serving) => Ok(serving),
        State::Loading => refused(Reason::Loading, 2),
        State::Stopped => refused(Reason::Draining, 5),
        State::Unloadable(_) | State::Crashed => Err(ApiError::ModelUnavailable(entry.id.clone())),
    }
}
