//! `GET /health`: does the process get on? `GET /ready`: would a request be admitted?

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::models;
use super::state::AppState;

pub(super) async fn health(Shared(state): Shared<AppState>) -> Response {
    let ill: Vec<_> = state
        .pool
        .entries()
        .iter()
        .filter_map(|entry| {
            let reason = entry.health().err()?;
            Some(json!({"model": entry.id, "reason": reason}))
        })
        .collect();
    if ill.is_empty() {
        Json(json!({"status": "ok"})).into_response()
    } else {
        let body = json!({"status": "unhealthy", "models": ill});
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}

pub(super) async fn ready(Shared(state): Shared<AppState>) -> Response {
    let mut not_ready = Vec::new();
    for entry in state.pool.entries() {
        let reason = match (entry.gate.would_admit(), models::serving(entry)) {
            (Err(refusal), _) => refusal.reason.as_str(),
            (_, Err(_)) => entry.state().as_str(),
            (Ok(()), Ok(_)) => continue,
        };
        not_ready.push(json!({"model": entry.id, "reason": reason}));
    }
    if not_ready.is_empty() {
        return Json(json!({"status": "ready"})).into_response();
    }
    let status = not_ready[0]["reason"].clone();
    let body = json!({"status": status, "models": not_ready});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}
