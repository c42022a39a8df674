//! Every route and every layer, top to bottom.

use std::any::Any;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::error::ApiError;
use super::state::AppState;
use super::{access, chat, completions, embeddings, health, models, page, responses, tokenize};

/// The whole HTTP surface.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/responses", post(responses::create))
        .route(
            "/v1/responses/{id}",
            get(responses::show).delete(responses::delete),
        )
        .route(
            "/v1/responses/{id}/input_items",
            get(responses::input_items),
        )
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics))
        .route("/", get(page::index))
        .route("/page/{file}", get(page::part))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            ServiceBuilder::new()
                // Outermost: a panic's answer has a request id and is counted, too.
                .layer(middleware::from_fn_with_state(
                    state.clone(),
                    access::log_and_count,
                ))
                .layer(CatchPanicLayer::custom(internal_error)),
        )
        .with_state(state)
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
