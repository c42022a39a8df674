//! `GET /v1/models` and `/v1/models/{id}`, and finding the model of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use schemars::JsonSchema;
use serde::Serialize;

use crate::admission::{Reason, Refusal};
use crate::pool::{Entry, Loaded, Serving, State};

use super::description::{AnyModel, Operation, Schemas, among};
use super::error::ApiError;
use super::state::AppState;

/// OpenAI's list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "The models that this server has.")]
pub(super) struct ModelList {
    #[schemars(transform = among(["list"]))]
    object: &'static str,
    data: Vec<Model>,
}

/// OpenAI's model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "A model.")]
pub(super) struct Model {
    id: String,
    #[schemars(transform = among(["model"]))]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
    edgellm: Details,
}

/// What OpenAI does not tell.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(
    rename = "ModelDetails",
    description = "What this server adds to OpenAI's model."
)]
struct Details {
    /// `loading`, `ready`, `failed` or `stopped`.
    state: &'static str,
    #[serde(flatten)]
    file: Option<FileDetails>,
}

/// What is known once the model's file was read.
#[derive(Debug, Serialize, JsonSchema)]
struct FileDetails {
    #[schemars(transform = among(["chat", "embedding"]))]
    kind: &'static str,
    /// Numbers of an embedding model's vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    architecture: String,
    quantization: String,
    parameters: u64,
    /// Bytes of the weights.
    size: u64,
    /// Tokens that prompt and answer may have together.
    context: usize,
    /// Of the model's file.
    digest: String,
}

pub(super) fn describe_list(schemas: &mut Schemas) -> Operation {
    Operation::new("listModels", "Which models there are.")
        .tells("application/json", &schemas.told::<ModelList>())
}

pub(super) async fn list(Shared(state): Shared<AppState>) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: state.pool.entries().iter().map(|e| model(e)).collect(),
    })
}

pub(super) fn describe_show(schemas: &mut Schemas) -> Operation {
    let id = schemas.sent::<AnyModel>();
    Operation::new("showModel", "One model.")
        .path("id", "The model's id; slashes in it need no escape.", &id)
        .tells("application/json", &schemas.told::<Model>())
        .fails(&[404])
}

pub(super) async fn show(
    Shared(state): Shared<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NotFound("this path".to_owned()))?;
    find_model(&state, Some(&id)).map(|entry| Json(model(entry)))
}

fn model(entry: &Entry) -> Model {
    let state = entry.state();
    let file = if let State::Ready(serving) = &state {
        let info = serving.tokenizer().info();
        let (kind, dimensions) = match serving {
            Serving::Generation(_) => ("chat", None),
            Serving::Embedding(_) => ("embedding", Some(info.dimensions)),
        };
        Some(FileDetails {
            kind,
            dimensions,
            architecture: info.architecture.clone(),
            quantization: info.quantization.clone(),
            parameters: info.parameters,
            size: info.size_bytes,
            context: serving.context(),
            digest: format!("sha256:{}", info.digest),
        })
    } else {
        None
    };
    Model {
        id: entry.id.clone(),
        object: "model",
        created: entry.created,
        owned_by: "edgellm",
        edgellm: Details {
            state: state.as_str(),
            file,
        },
    }
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
