//! `GET /models`, `POST /models/load` and `POST /models/unload`, in the shape of llama-server's router, for
//! administrators.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State as Shared;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admission::{AdmissionRefusal, Principal, RefusalReason};
use crate::http::access::Asker;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas, among};
use crate::http::parse::{Wire, only_objects};
use crate::inference::Inference;
use crate::pool::{
    AdapterChangeError, GenerationModel, LoadedModel, MemoryKind, ModelEntry, ModelState,
    NamedModel,
};

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
    /// How much of its file has been read, in percent, while it is being loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_percent: Option<u8>,
    aliases: Vec<String>,
    default: bool,
    pinned: bool,
    siblings: Vec<String>,
    /// Those of its LoRA adapters that can be asked for, as `id+adapter`.
    adapters: Vec<String>,
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
    /// Its id, one of its aliases, or `id+adapter` for an adapter of a loaded model.
    model: String,
    /// For an adapter that the configuration does not name: its file in `pool.models_dir`.
    file: Option<String>,
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
            loaded_percent: matches!(state, ModelState::Loading).then(|| entry.loaded_percent()),
            aliases: entry.terms.aliases.clone(),
            default: entry.terms.is_default,
            pinned: entry.terms.is_pinned(),
            siblings: entry.terms.siblings.clone(),
            adapters: entry.adapters(),
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
    tracing::info!(key = principal.name, model = request.model, "asked to load");
    match target(&inference, &request, &principal)? {
        Target::Model(entry) => {
            if request.file.is_some() {
                let message = "`file` is for an adapter: name it in `model` as `id+adapter`";
                return Err(ApiError::invalid("file", message));
            }
            inference.pool().load(&entry);
        }
        Target::Adapter(entry, name) => {
            let file = adapter_file(&inference, &entry, &name, request.file.as_deref())?;
            let loaded = generating(&entry)?;
            loaded
                .add_adapter(&name, &file)
                .await
                .map_err(|error| refused(&error))?;
        }
    }
    Ok(Json(PoolReply { success: true }))
}

pub(crate) async fn unload(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
    JsonBody(request, _arrival): JsonBody<PoolRequest>,
) -> Result<Json<PoolReply>, ApiError> {
    tracing::info!(
        key = principal.name,
        model = request.model,
        "asked to unload"
    );
    match target(&inference, &request, &principal)? {
        Target::Model(entry) => {
            inference.pool().unload(&entry).map_err(|pinned| {
                ApiError::invalid("model", format!("`model` {}: {pinned}", entry.id))
            })?;
        }
        Target::Adapter(entry, name) => {
            let loaded = generating(&entry)?;
            let removed = inference.pool().remove_adapter(&entry, &loaded, &name);
            if !removed.await.map_err(|error| refused(&error))? {
                return Err(ApiError::invalid(
                    "model",
                    format!("`model`: there is no adapter `{name}` of {}", entry.id),
                ));
            }
        }
    }
    Ok(Json(PoolReply { success: true }))
}

/// What is to be loaded or unloaded.
enum Target {
    Model(Arc<ModelEntry>),
    /// An adapter of a model, whether it is there or not.
    Adapter(Arc<ModelEntry>, String),
}

/// Finds what a request means; not the default model for a name that nobody has.
fn target(
    inference: &Inference,
    request: &PoolRequest,
    principal: &Principal,
) -> Result<Target, ApiError> {
    let error = match inference.named(&request.model, principal) {
        Ok(NamedModel {
            entry,
            adapter: Some(adapter),
            ..
        }) => return Ok(Target::Adapter(entry, adapter)),
        Ok(NamedModel { entry, .. }) => return Ok(Target::Model(entry)),
        Err(error) => error,
    };
    // An adapter that is not there yet, or is no more.
    let (base, adapter) = request.model.rsplit_once('+').ok_or(error)?;
    let named = inference.named(base, principal)?;
    Ok(Target::Adapter(named.entry, adapter.to_owned()))
}

/// Returns the file of an adapter: the one in the folder of models that the request names, or the one of the
/// configuration.
fn adapter_file(
    inference: &Inference,
    entry: &ModelEntry,
    name: &str,
    file: Option<&str>,
) -> Result<PathBuf, ApiError> {
    let Some(file) = file else {
        let configured = entry.configured_adapter(name).map(Path::to_owned);
        return configured.ok_or_else(|| {
            let message = format!(
                "`file` is needed: the configuration (models.adapters) names no adapter `{name}` of {}; give the name \
                 of a file in pool.models_dir",
                entry.id
            );
            ApiError::invalid("file", message)
        });
    };
    let is_name = Path::new(file).components().count() == 1 && !file.starts_with('.');
    let folder = inference.pool().models_dir().filter(|_| is_name);
    folder.map(|folder| folder.join(file)).ok_or_else(|| {
        let message = "`file` must be the name of a file in pool.models_dir, without a folder";
        ApiError::invalid("file", message)
    })
}

/// Returns a model that generates and is loaded: others have no adapters.
fn generating(entry: &ModelEntry) -> Result<Arc<GenerationModel>, ApiError> {
    match entry.serving() {
        Some(LoadedModel::Generation(loaded)) => Ok(loaded),
        Some(LoadedModel::Embedding(_)) => {
            let message = format!("`model`: {} makes vectors, and has no adapters", entry.id);
            Err(ApiError::invalid("model", message))
        }
        None => {
            let message = format!("`model`: {} is not loaded; load it first", entry.id);
            Err(ApiError::invalid("model", message))
        }
    }
}

/// What an administrator is told whose adapter was refused.
fn refused(error: &AdapterChangeError) -> ApiError {
    match error {
        AdapterChangeError::Busy => ApiError::Refused(AdmissionRefusal {
            reason: RefusalReason::Loading,
            retry_after: Duration::from_secs(2),
        }),
        AdapterChangeError::Unloadable(_) => {
            // Its words name a path of this machine, which are for the log.
            tracing::warn!(%error, "an adapter was refused");
            let message = "`model`: the adapter cannot be loaded; the server's log says why";
            ApiError::invalid("model", message)
        }
        AdapterChangeError::NameTaken(_)
        | AdapterChangeError::TooMany
        | AdapterChangeError::NoRoom { .. } => {
            ApiError::invalid("model", format!("`model`: {error}"))
        }
    }
}

/// What is wrong with a body, as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    crate::http::parse::read_value::<PoolRequest>(body).map(drop)
}
