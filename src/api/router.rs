//! Every route and every layer, top to bottom.

use std::any::Any;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::description::{Operation, Routes, Schemas};
use super::error::ApiError;
use super::state::AppState;
use super::{
    access, chat, completions, description, embeddings, health, models, outgoing, page, responses,
    tokenize,
};

/// Every route with its description.
#[rustfmt::skip] // a table
pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/chat/completions", chat::completions, chat::describe)
        .post("/v1/completions", completions::completions, completions::describe)
        .post("/v1/embeddings", embeddings::create, embeddings::describe)
        .post("/v1/responses", responses::create, responses::describe)
        .get("/v1/responses/{id}", responses::show, responses::describe_show)
        .delete("/v1/responses/{id}", responses::delete, responses::describe_delete)
        .get("/v1/responses/{id}/input_items", responses::input_items, responses::describe_input_items)
        .post("/v1/responses/{id}/cancel", responses::cancel, responses::describe_cancel)
        .get("/v1/models", models::list, models::describe_list)
        .get("/v1/models/{*id}", models::show, models::describe_show)
        .post("/tokenize", tokenize::tokenize, tokenize::describe_tokenize)
        .post("/detokenize", tokenize::detokenize, tokenize::describe_detokenize)
        .get("/health", health::health, health::describe_health)
        .get("/ready", health::ready, health::describe_ready)
        .get("/metrics", metrics, describe_metrics)
        .get("/openapi.json", description::show, description::describe)
        .get("/", page::index, page::describe_index)
        .get("/page/{file}", page::part, page::describe_part)
}

/// The whole HTTP surface.
pub fn router(state: AppState) -> Router {
    routes()
        .into_router()
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            ServiceBuilder::new()
                // Outermost: a panic's answer has a request id and is counted, too.
                .layer(middleware::from_fn_with_state(
                    state.clone(),
                    access::log_and_count,
                ))
                .layer(middleware::from_fn_with_state(
                    state.clone(),
                    outgoing::count_large_answers,
                ))
                .layer(CatchPanicLayer::custom(internal_error)),
        )
        .with_state(state)
}

fn describe_metrics(_: &mut Schemas) -> Operation {
    Operation::new("metrics", "Everything that is measured, for Prometheus.")
        .tells("text/plain; version=0.0.4", &json!({"type": "string"}))
        .fails(&[500])
}

async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let (text, content_type) = state.metrics.encode().map_err(|error| {
        tracing::error!(%error, "metrics could not be written");
        ApiError::Internal
    })?;
    Ok(([(axum::http::header::CONTENT_TYPE, content_type)], text).into_response())
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound(uri.path().to_owned())
}

async fn method_not_allowed(method: Method, _request: Request) -> ApiError {
    ApiError::MethodNotAllowed {
        method: method.to_string(),
    }
}

/// The panic itself is in the log already.
#[allow(clippy::needless_pass_by_value)] // the signature that the layer wants
fn internal_error(_panic: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::Internal.into_response()
}
