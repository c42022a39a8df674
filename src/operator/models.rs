//! `GET /models`, `POST /models/load` and `POST /models/unload`, in the shape of llama-server's router, for
//! administrators.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State as Shared;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::access::Asker;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas, among};
use crate::http::parse::{Wire, only_objects};
use crate::inference::Inference;
use crate::pool::{MemoryKind, ModelEntry, ModelState, NamedModel};

/// The list of all models with their states.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "All models, loaded or not, and who holds how much memory.")]
pub(crate) struct PoolList {
    #[schemars(transform = among(["list"]))]
    object: &'static str,
    data: Vec<PoolModel>,
    edgellm: PoolMemory,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PoolModel {
    id: String,
    #[schemars(transform = among(["model"]))]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
    status: PoolStatus,
    edgellm: PoolDetails,
}

/// llama-server's words for the state of a model.
#[derive(Debug, Serialize, JsonSchema)]
struct PoolStatus {
    #[schemars(transform = among(["unloaded", "loading", "loaded"]))]
    value: &'static str,
    /// Whether it could not be loaded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

/// What this server adds.
#[derive(Debug, Serialize, JsonSchema)]
struct PoolDetails {
    /// `cold`, `queued`, `loading`, `ready`, `draining`, `unloading` or `failed`.
    state: &'static str,
    aliases: Vec<String>,
    default: bool,
    pinned: bool,
    siblings: Vec<String>,
    /// Bytes that it takes, or is going to take.
    memory: Bytes,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When it is tried again, in seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    again_in_seconds: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Bytes {
    weights: u64,
    kv_cache: u64,
    compute: u64,
}

/// Who holds how much memory.
#[derive(Debug, Serialize, JsonSchema)]
struct PoolMemory {
    /// Bytes that everything together may take; absent where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_budget: Option<u64>,
    memory: Vec<HeldMemory>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct HeldMemory {
    #[schemars(transform = among(MemoryKind::ALL.map(MemoryKind::as_str)))]
    kind: &'static str,
    bytes: u64,
}

/// Which model is to be loaded or unloaded.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "Which model is meant.")]
pub(crate) struct PoolRequest {
    /// Its id, or one of its aliases.
    model: String,
}

impl Wire for PoolRequest {}

only_objects!(PoolRequest,);

/// What was asked for has begun.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "It has begun; GET /models tells when it is done.")]
pub(crate) struct PoolReply {
    success: bool,
}

pub(crate) fn describe_list(schemas: &mut Schemas) -> Operation {
    Operation::new(
        "listPool",
        "All models with their states, for administrators.",
    )
    .responds("application/json", &schemas.written::<PoolList>())
}

pub(crate) async fn list(Shared(inference): Shared<Inference>) -> Json<PoolList> {
    let pool = inference.pool();
    let (memory, memory_budget) = pool.memory();
    let memory = memory.into_iter().map(|(kind, bytes)| HeldMemory {
        kind: kind.as_str(),
        bytes,
    });
    Json(PoolList {
        object: "list",
        data: pool
            .entries()
            .iter()
            .map(|entry| described(entry))
            .collect(),
        edgellm: PoolMemory {
            memory_budget,
            memory: memory.collect(),
        },
    })
}

fn described(entry: &ModelEntry) -> PoolModel {
    let state = entry.state();
    let value = match state {
        ModelState::Ready(_) | ModelState::Draining => "loaded",
        ModelState::Queued | ModelState::Loading => "loading",
        ModelState::Cold | ModelState::Unloading | ModelState::Failed(_) => "unloaded",
    };
    let failure = match &state {
        ModelState::Failed(failure) => Some(failure),
        _ => None,
    };
    let again = failure.map(|failure| failure.retry_at.saturating_duration_since(Instant::now()));
    let memory = entry.memory();
    PoolModel {
        id: entry.id.clone(),
        object: "model",
        created: entry.created,
        owned_by: "edgellm",
        status: PoolStatus {
            value,
            failed: failure.is_some(),
        },
        edgellm: PoolDetails {
            state: state.as_str(),
            aliases: entry.terms.aliases.clone(),
            default: entry.terms.is_default,
            pinned: entry.terms.is_pinned,
            siblings: entry.terms.siblings.clone(),
            memory: Bytes {
                weights: memory.weights,
                kv_cache: memory.kv_cache,
                compute: memory.compute,
            },
            reason: failure.map(|failure| failure.cause.to_string()),
            again_in_seconds: again.as_ref().map(Duration::as_secs),
        },
    }
}

pub(crate) fn describe_load(schemas: &mut Schemas) -> Operation {
    described_change(
        Operation::new("loadModel", "Loads a model, for administrators."),
        schemas,
    )
}

pub(crate) fn describe_unload(schemas: &mut Schemas) -> Operation {
    described_change(
        Operation::new(
            "unloadModel",
            "Lets a model finish what it does and gives its memory back, for administrators.",
        ),
        schemas,
    )
}

fn described_change(operation: Operation, schemas: &mut Schemas) -> Operation {
    operation
        .accepts(&schemas.read::<PoolRequest>())
        .fails(&[404])
        .responds("application/json", &schemas.written::<PoolReply>())
}

pub(crate) async fn load(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
    JsonBody(request, _arrival): JsonBody<PoolRequest>,
) -> Result<Json<PoolReply>, ApiError> {
    let named = named(&inference, &request)?;
    tracing::info!(
        key = principal.name,
        model = named.entry.id,
        "asked to load a model"
    );
    inference.pool().load(&named.entry);
    Ok(Json(PoolReply { success: true }))
}

pub(crate) async fn unload(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
    JsonBody(request, _arrival): JsonBody<PoolRequest>,
) -> Result<Json<PoolReply>, ApiError> {
    let named = named(&inference, &request)?;
    tracing::info!(
        key = principal.name,
        model = named.entry.id,
        "asked to unload a model"
    );
    inference.pool().unload(&named.entry).map_err(|pinned| {
        ApiError::invalid("model", format!("`model` {}: {pinned}", named.entry.id))
    })?;
    Ok(Json(PoolReply { success: true }))
}

/// The model that a request means; not the default one for a name that nobody has.
fn named(inference: &Inference, request: &PoolRequest) -> Result<NamedModel, ApiError> {
    inference.named(&request.model).map_err(ApiError::from)
}

/// What is wrong with a body, as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    crate::http::parse::read_value::<PoolRequest>(body).map(drop)
}
