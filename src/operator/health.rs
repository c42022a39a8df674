//! `GET /health`: is every model making progress? `GET /ready`: would a request be admitted now?

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::openapi::{Operation, Schemas};
use crate::inference::{Inference, serving};

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
    let entries = inference.pool().entries().iter();
    let models: Vec<_> = entries
        .filter_map(|entry| {
            let reason = entry.health().err()?;
            let model = entry.id.clone();
            Some(UnhealthyModel { model, reason })
        })
        .collect();
    let status = if models.is_empty() { "ok" } else { "unhealthy" };
    ServerHealth { status, models }.into_response()
}

pub(crate) fn describe_ready(schemas: &mut Schemas) -> Operation {
    let condition = schemas.written::<ServerHealth>();
    Operation::new("ready", "Whether a request sent now would be admitted.")
        .responds("application/json", &condition)
        .responds_with(
            StatusCode::SERVICE_UNAVAILABLE,
            "It would not: a model is being loaded, the server is short of something or shuts down.",
            "application/json",
            &condition,
        )
}

pub(crate) async fn ready(Shared(inference): Shared<Inference>) -> Response {
    let mut not_ready = Vec::new();
    for entry in inference.pool().entries() {
        let reason = match (entry.gate.would_admit(), serving(entry)) {
            (Err(refusal), _) => refusal.reason.as_str(),
            (_, Err(_)) => entry.state().as_str(),
            (Ok(()), Ok(_)) => continue,
        };
        not_ready.push(UnhealthyModel {
            model: entry.id.clone(),
            reason,
        });
    }
    ServerHealth {
        status: not_ready.first().map_or("ready", |first| first.reason),
        models: not_ready,
    }
    .into_response()
}
