//! `GET /health`: is every model making progress? `GET /ready`: would a request be admitted now?

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::http::access::Asker;
use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};
use crate::inference::Inference;
use crate::pool::ModelEntry;

/// The body of both responses.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Condition", description = "How the server is.")]
struct ServerHealth {
    /// `ok`, `ready`, or what is wrong in one word.
    status: &'static str,
    /// Those that something is wrong with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<UnhealthyModel>,
}

/// What is wrong with a model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Trouble", description = "What is wrong with a model.")]
struct UnhealthyModel {
    model: String,
    reason: &'static str,
}

impl IntoResponse for ServerHealth {
    fn into_response(self) -> Response {
        let status = if self.models.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, Json(self)).into_response()
    }
}

pub(crate) fn describe_health(schemas: &mut Schemas) -> Operation {
    let condition = schemas.written::<ServerHealth>();
    Operation::new("health", "Whether every model gets on with its work.")
        .responds("application/json", &condition)
        .responds_with(
            StatusCode::SERVICE_UNAVAILABLE,
            "A model hangs or has failed.",
            "application/json",
            &condition,
        )
}

pub(crate) async fn health(Shared(inference): Shared<Inference>) -> Response {
    let entries = inference.pool().entries();
    let models: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            let reason = entry.health().err()?;
            let model = entry.id.clone();
            Some(UnhealthyModel { model, reason })
        })
        .collect();
    let status = if models.is_empty() { "ok" } else { "unhealthy" };
    ServerHealth { status, models }.into_response()
}

/// The query of `/ready`.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadyQuery {
    /// Asks for one model instead of those that are expected to be loaded.
    model: Option<String>,
}

pub(crate) fn describe_ready(schemas: &mut Schemas) -> Operation {
    let condition = schemas.written::<ServerHealth>();
    let name = json!({"type": "string"});
    Operation::new(
        "ready",
        "Whether a request sent now would be admitted: by all models that are pinned or preloaded, or by one.",
    )
    .query("model", "Asks whether this model answers at once.", &name)
    .responds("application/json", &condition)
    .fails(&[404])
    .responds_with(
        StatusCode::SERVICE_UNAVAILABLE,
        "It would not: a model is being loaded, the server is short of something or shuts down.",
        "application/json",
        &condition,
    )
}

pub(crate) async fn ready(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
    query: Result<Query<ReadyQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::invalid("model", error.body_text()))?;
    let not_ready = match query.model {
        Some(name) => {
            if principal.is_stranger() {
                // Which models there are is for those who have a key.
                return Err(ApiError::KeyMissing);
            }
            let model = inference.named(&name, &principal)?.entry;
            let is_loaded = model.serving().is_some();
            let reason = if is_loaded {
                refused(&model)
            } else {
                Some(model.state().as_str())
            };
            reason
                .map(|reason| (model.id.clone(), reason))
                .into_iter()
                .collect()
        }
        None => not_ready(&inference),
    };
    let models: Vec<_> = not_ready
        .into_iter()
        .map(|(model, reason)| UnhealthyModel { model, reason })
        .collect();
    let status = models.first().map_or("ready", |first| first.reason);
    Ok(ServerHealth { status, models }.into_response())
}

/// Models that are expected to be loaded and are not, and those whose gates admit nobody.
fn not_ready(inference: &Inference) -> Vec<(String, &'static str)> {
    let entries = inference.pool().entries();
    let reason = |entry: &Arc<ModelEntry>| {
        let is_missing = entry.is_expected() && entry.serving().is_none();
        let missing = is_missing.then(|| entry.state().as_str());
        // Whoever shuts down says so, whatever else is the case.
        refused(entry).or(missing)
    };
    let reasons: Vec<_> = (entries.iter())
        .filter_map(|entry| Some((entry, reason(entry)?)))
        .collect();
    let concerns = |entry: &ModelEntry| {
        let nobody_is_expected = !entries.iter().any(|entry| entry.terms.is_preloaded());
        nobody_is_expected || entry.terms.is_preloaded()
    };
    let concerned = reasons.into_iter().filter(|(entry, _)| concerns(entry));
    concerned
        .map(|(entry, reason)| (entry.id.clone(), reason))
        .collect()
}

/// Why a model's gate admits nobody, if it does not.
fn refused(entry: &ModelEntry) -> Option<&'static str> {
    let refusal = entry.would_admit().err()?;
    Some(refusal.reason.as_str())
}
