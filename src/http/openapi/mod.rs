//! Generates the OpenAPI document of `GET /openapi.json`.
//!
//! Schemas come from the types that parse requests and serialize responses, bounds from the constants that
//! requests are checked against, and [`Routes`] accepts no route without its description.

mod operation;
mod schemas;

use std::collections::HashMap;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value, json};

use crate::http::auth::RouteAccess;

pub(crate) use operation::Operation;
use operation::failures;
pub(crate) use schemas::{
    AnyModel, ChatModel, EmbeddingModel, LogitBias, Metadata, NullOnly, Schemas, among, at_least,
    each, only_in_streams, within,
};

/// Routes with their OpenAPI descriptions.
pub(crate) struct Routes<S> {
    router: Router<S>,
    paths: Map<String, Value>,
    schemas: Schemas,
    access: HashMap<String, RouteAccess>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new() -> Self {
        Self {
            router: Router::new(),
            paths: Map::new(),
            schemas: Schemas::new(),
            access: HashMap::new(),
        }
    }

    pub(crate) fn get<H, T>(
        self,
        path: &str,
        access: RouteAccess,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(
            path,
            "get",
            access,
            on(MethodFilter::GET, handler),
            describe,
        )
    }

    pub(crate) fn post<H, T>(
        self,
        path: &str,
        access: RouteAccess,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(
            path,
            "post",
            access,
            on(MethodFilter::POST, handler),
            describe,
        )
    }

    pub(crate) fn delete<H, T>(
        self,
        path: &str,
        access: RouteAccess,
        handler: H,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(
            path,
            "delete",
            access,
            on(MethodFilter::DELETE, handler),
            describe,
        )
    }

    fn add(
        mut self,
        path: &str,
        method: &str,
        access: RouteAccess,
        handler: axum::routing::MethodRouter<S>,
        describe: fn(&mut Schemas) -> Operation,
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.access.insert(path.to_owned(), access);
        // OpenAPI has no notation for a path parameter that may hold slashes.
        let path = path.replace("{*", "{");
        let operation = describe(&mut self.schemas).needs(access).into_value();
        let operations = self.paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = operation;
        self
    }

    /// Returns what each path needs of who asks.
    pub(crate) fn access(&self) -> HashMap<String, RouteAccess> {
        self.access.clone()
    }

    pub(crate) fn into_router(self) -> Router<S> {
        self.router
    }

    /// Returns the schemas of the types that are parsed, and of those that are serialized.
    #[cfg(test)]
    pub(crate) fn into_definitions(mut self) -> [Map<String, Value>; 2] {
        failures(&mut self.schemas);
        self.schemas.into_definitions()
    }

    pub(crate) fn into_document(mut self) -> Value {
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
            "components": {
                "schemas": schemas,
                "responses": responses,
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key, where the server has keys.",
                    },
                    "plain": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "x-api-key",
                        "description": "The same key, as other clients send it.",
                    },
                },
            },
        })
    }
}
