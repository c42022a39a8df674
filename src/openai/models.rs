//! `GET /v1/models` and `/v1/models/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use schemars::JsonSchema;
use serde::Serialize;

use crate::engine::Purpose;
use crate::http::access::Asker;
use crate::http::error::ApiError;
use crate::http::openapi::{AnyModel, Operation, Schemas, among};
use crate::inference::Inference;
use crate::pool::{LoadedModel, ModelEntry, ModelState, NamedModel};

/// OpenAI's list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "The models that this server has.")]
pub(crate) struct ModelList {
    #[schemars(transform = among(["list"]))]
    object: &'static str,
    data: Vec<Model>,
}

/// OpenAI's model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(description = "A model.")]
pub(crate) struct Model {
    id: String,
    #[schemars(transform = among(["model"]))]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
    edgellm: ModelDetails,
}

/// What OpenAI does not tell.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(
    rename = "ModelDetails",
    description = "What this server adds to OpenAI's model."
)]
struct ModelDetails {
    /// `cold` (a request loads it), `queued`, `loading`, `ready`, `draining`, `unloading` or `failed`.
    state: &'static str,
    /// How much of its file has been read, in percent, while it is being loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_percent: Option<u8>,
    /// Further names, and patterns of names, that mean it.
    aliases: Vec<String>,
    /// The model whose LoRA adapter this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_of: Option<String>,
    /// Absent while nobody has read that in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = among(["chat", "embedding"]))]
    kind: Option<&'static str>,
    #[serde(flatten)]
    loaded: Option<LoadedDetails>,
}

/// What is known of a loaded model.
#[derive(Debug, Serialize, JsonSchema)]
struct LoadedDetails {
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

pub(crate) fn describe_list(schemas: &mut Schemas) -> Operation {
    Operation::new("listModels", "Which models there are.")
        .responds("application/json", &schemas.written::<ModelList>())
}

pub(crate) async fn list(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: inference
            .models_of(&principal)
            .iter()
            .flat_map(|entry| with_adapters(entry))
            .collect(),
    })
}

pub(crate) fn describe_show(schemas: &mut Schemas) -> Operation {
    let id = schemas.read::<AnyModel>();
    Operation::new("showModel", "One model.")
        .path("id", "The model's id; slashes in it need no escape.", &id)
        .responds("application/json", &schemas.written::<Model>())
        .fails(&[404])
}

pub(crate) async fn show(
    Shared(inference): Shared<Inference>,
    Asker(principal): Asker,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NotFound("this path".to_owned()))?;
    let NamedModel { entry, adapter, .. } = inference.named(&id, &principal)?;
    let base = model(&entry);
    Ok(Json(match adapter {
        Some(adapter) => adapted(base, &adapter),
        None => base,
    }))
}

/// A model, and behind it its adapters.
fn with_adapters(entry: &ModelEntry) -> Vec<Model> {
    let mut models = vec![model(entry)];
    let adapters = entry.adapters().into_iter();
    models.extend(adapters.map(|adapter| adapted(model(entry), &adapter)));
    models
}

/// The same model with an adapter.
fn adapted(base: Model, adapter: &str) -> Model {
    Model {
        id: format!("{}+{adapter}", base.id),
        edgellm: ModelDetails {
            aliases: Vec::new(),
            adapter_of: Some(base.id),
            ..base.edgellm
        },
        ..base
    }
}

fn model(entry: &ModelEntry) -> Model {
    let state = entry.state();
    let kind = entry.purpose().map(|purpose| match purpose {
        Purpose::Generation => "chat",
        Purpose::Embedding => "embedding",
    });
    let loaded = match &state {
        ModelState::Ready(serving) => Some(loaded_details(serving)),
        _ => None,
    };
    Model {
        id: entry.id.clone(),
        object: "model",
        created: entry.created,
        owned_by: "edgellm",
        edgellm: ModelDetails {
            state: state.as_str(),
            loaded_percent: matches!(state, ModelState::Loading).then(|| entry.loaded_percent()),
            aliases: entry.terms.aliases.clone(),
            adapter_of: None,
            kind,
            loaded,
        },
    }
}

fn loaded_details(serving: &LoadedModel) -> LoadedDetails {
    let info = serving.tokenizer().info();
    LoadedDetails {
        dimensions: match serving {
            LoadedModel::Generation(_) => None,
            LoadedModel::Embedding(_) => Some(info.dimensions),
        },
        architecture: info.architecture.clone(),
        quantization: info.quantization.clone(),
        parameters: info.parameters,
        size: info.size_bytes,
        context: serving.context(),
        digest: format!("sha256:{}", info.digest),
    }
}
