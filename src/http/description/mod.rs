//! `GET /openapi.json`: what the server can do, in OpenAPI's words.
//!
//! Schemas are made of the types that read requests and write answers, bounds are the numbers that
//! requests are checked with, and [`Routes`] takes no route without its description.

mod operation;
mod schemas;

use std::sync::LazyLock;

use axum::extract::State;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::pool::Entry;

use crate::http::state::AppState;
use crate::openai::models::embeds;
use crate::routes::routes;
pub(crate) use operation::Operation;
use operation::failures;
pub(crate) use schemas::{
    AnyModel, ChatModel, EmbeddingModel, LogitBias, Metadata, Refused, Schemas, among, at_least,
    each, only_in_streams, within,
};

/// Routes and what is said of them.
pub(crate) struct Routes {
    router: Router<AppState>,
    paths: Map<String, Value>,
    schemas: Schemas,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            router: Router::new(),
            paths: Map::new(),
            schemas: Schemas::new(),
        }
    }

    pub(crate) fn get<H, T>(
        self,
        path: &str,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(path, "get", on(MethodFilter::GET, handler), describe)
    }

    pub(crate) fn post<H, T>(
        self,
        path: &str,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(path, "post", on(MethodFilter::POST, handler), describe)
    }

    pub(crate) fn delete<H, T>(
        self,
        path: &str,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(path, "delete", on(MethodFilter::DELETE, handler), describe)
    }

    fn add(
        mut self,
        path: &str,
        method: &str,
        handler: axum::routing::MethodRouter<AppState>,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self {
        self.router = self.router.route(path, handler);
        // OpenAPI has no sign for a parameter that may hold slashes.
        let path = path.replace("{*", "{");
        let operation = describe(&mut self.schemas).into_value();
        let operations = self.paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = operation;
        self
    }

    pub(crate) fn into_router(self) -> Router<AppState> {
        self.router
    }

    fn into_document(mut self) -> Value {
        let responses = failures(&mut self.schemas);
        let schemas: Map<String, Value> = self
            .schemas
            .into_definitions()
            .into_iter()
            .flatten()
            .collect();
        json!({
            "openapi": "3.1.1",
            "info": {
                "title": "edgellm",
                "version": env!("CARGO_PKG_VERSION"),
                "summary": env!("CARGO_PKG_DESCRIPTION"),
                "description": "Parameters that are not described are ignored; a `null` says as much as \
                    leaving the parameter out. What is wrong is answered with an error that names the \
                    parameter.",
                "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
            },
            "paths": self.paths,
            "components": {"schemas": schemas, "responses": responses},
        })
    }
}

/// The same for every server but for the names of its models.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| routes().into_document());

pub(crate) async fn show(State(state): State<AppState>) -> Json<Value> {
    let mut document = DOCUMENT.clone();
    let ids = |suits: fn(&Entry) -> bool| -> Vec<Value> {
        let entries = state.pool.entries().iter();
        let suited = entries.filter(|entry| suits(entry));
        suited.map(|entry| entry.id.as_str().into()).collect()
    };
    for (schema, ids) in [
        ("ChatModel", ids(|entry| !embeds(entry))),
        ("EmbeddingModel", ids(embeds)),
        ("AnyModel", ids(|_| true)),
    ] {
        // An `enum` may not be empty.
        if !ids.is_empty() {
            document["components"]["schemas"][schema]["enum"] = ids.into();
        }
    }
    Json(document)
}

/// The parameters in the body of a POST request.
#[cfg(any(test, fuzzing))]
pub(crate) fn parameters(path: &str) -> Option<&'static Map<String, Value>> {
    let operation = &DOCUMENT["paths"][path]["post"];
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let pointer = schema["$ref"].as_str()?.strip_prefix('#')?;
    DOCUMENT.pointer(pointer)?["properties"].as_object()
}

pub(crate) fn describe(_: &mut Schemas) -> Operation {
    Operation::new("describe", "This description.")
        .tells("application/json", &json!({"type": "object"}))
}

#[cfg(test)]
mod tests;
