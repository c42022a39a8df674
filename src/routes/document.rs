//! `GET /openapi.json`: the description of all routes, with the names of the models.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::http::openapi::{Operation, Schemas};
use crate::inference::Inference;
use crate::pool::ModelEntry;

use super::routes;

/// The document without the names of the models, which is the same for every server.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| routes().into_document());

pub(crate) async fn show(State(inference): State<Inference>) -> Json<Value> {
    let mut document = DOCUMENT.clone();
    let ids = |suits: fn(&ModelEntry) -> bool| -> Vec<Value> {
        let entries = inference.pool().entries();
        let suited = entries.iter().filter(|entry| suits(entry));
        suited.map(|entry| entry.id.as_str().into()).collect()
    };
    for (schema, ids) in [
        ("ChatModel", ids(|entry| !entry.embeds())),
        ("EmbeddingModel", ids(ModelEntry::embeds)),
        ("AnyModel", ids(|_| true)),
    ] {
        // An `enum` may not be empty.
        if !ids.is_empty() {
            document["components"]["schemas"][schema]["enum"] = ids.into();
        }
    }
    Json(document)
}

/// Returns the parameters in the body of a POST request.
#[cfg(any(test, fuzzing))]
pub(crate) fn parameters(path: &str) -> Option<&'static serde_json::Map<String, Value>> {
    let operation = &DOCUMENT["paths"][path]["post"];
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let pointer = schema["$ref"].as_str()?.strip_prefix('#')?;
    DOCUMENT.pointer(pointer)?["properties"].as_object()
}

pub(crate) fn describe(_: &mut Schemas) -> Operation {
    Operation::new("describe", "This description.")
        .responds("application/json", &json!({"type": "object"}))
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
