//! Every route and every layer, top to bottom.

mod document;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::any::Any;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::http::{Method, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::http::access;
use crate::http::auth::{RouteAccess, authenticate};
use crate::http::browsers::{answer_pages, with_safe_headers};
use crate::http::error::ApiError;
use crate::http::forwarded::believe_proxies;
use crate::http::hosts::check_host;
use crate::http::openapi::Routes;
use crate::http::outgoing;
use crate::http::state::HttpState;
use crate::http::unread;
use crate::openai::AppState;
use crate::openai::chat;
use crate::openai::completions;
use crate::openai::embeddings;
use crate::openai::models;
use crate::openai::responses;
use crate::openai::tokenize;
use crate::operator::health;
use crate::operator::metrics;
use crate::operator::models as pool;
use crate::operator::page;

/// Every route with its description.
#[rustfmt::skip] // a table
pub(crate) fn routes() -> Routes<AppState> {
    Routes::new()
        .post("/v1/chat/completions", RouteAccess::Key, chat::completions, chat::describe)
        .post("/v1/completions", RouteAccess::Key, completions::completions, completions::describe)
        .post("/v1/embeddings", RouteAccess::Key, embeddings::create, embeddings::describe)
        .post("/v1/responses", RouteAccess::Key, responses::create, responses::describe)
        .get("/v1/responses/{id}", RouteAccess::Key, responses::show, responses::describe_show)
        .delete("/v1/responses/{id}", RouteAccess::Key, responses::delete, responses::describe_delete)
        .get("/v1/responses/{id}/input_items", RouteAccess::Key, responses::input_items, responses::describe_input_items)
        .post("/v1/responses/{id}/cancel", RouteAccess::Key, responses::cancel, responses::describe_cancel)
        .get("/v1/models", RouteAccess::Key, models::list, models::describe_list)
        .get("/v1/models/{*id}", RouteAccess::Key, models::show, models::describe_show)
        .post("/tokenize", RouteAccess::Key, tokenize::tokenize, tokenize::describe_tokenize)
        .post("/detokenize", RouteAccess::Key, tokenize::detokenize, tokenize::describe_detokenize)
        .get("/models", RouteAccess::Admin, pool::list, pool::describe_list)
        .post("/models/load", RouteAccess::Admin, pool::load, pool::describe_load)
        .post("/models/unload", RouteAccess::Admin, pool::unload, pool::describe_unload)
        .get("/health", RouteAccess::Open, health::health, health::describe_health)
        .get("/ready", RouteAccess::Open, health::ready, health::describe_ready)
        .get("/metrics", RouteAccess::Metrics, metrics::show, metrics::describe)
        .get("/openapi.json", RouteAccess::Open, document::show, document::describe)
        .get("/", RouteAccess::Page, page::index, page::describe_index)
        .get("/page/{file}", RouteAccess::Page, page::part, page::describe_part)
}

/// The whole HTTP surface.
pub fn router(state: AppState) -> Router {
    // Wraps the whole router: layers within it run only after a route is found.
    let tidying = ServiceBuilder::new().map_request(with_tidy_path);
    Router::new().fallback_service(tidying.service(known_paths(state)))
}

/// Removes empty segments from the path: a base URL that ends with a slash gives paths with two, and some
/// clients append one. Both mean the route without.
fn with_tidy_path(mut request: Request) -> Request {
    let path = request.uri().path();
    let is_tidy = path == "/" || !(path.ends_with('/') || path.contains("//"));
    if is_tidy {
        return request;
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut tidy: String = segments.flat_map(|segment| ["/", segment]).collect();
    if tidy.is_empty() {
        tidy.push('/');
    }
    if let Some(query) = request.uri().query() {
        tidy.push('?');
        tidy.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    if let Ok(path) = tidy.parse() {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

fn known_paths(state: AppState) -> Router {
    let http = HttpState::from_ref(&state);
    let routes = routes();
    let authenticator = http.authenticator.clone().guarding(routes.access());
    routes
        .into_router()
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            ServiceBuilder::new()
                .map_response(with_safe_headers)
                // Around all that answers: whatever is refused has a request id and is counted, too.
                .layer(middleware::from_fn_with_state(
                    http.clone(),
                    access::log_and_count,
                ))
                .layer(middleware::from_fn_with_state(
                    http.clone(),
                    outgoing::count_large_answers,
                ))
                .layer(middleware::from_fn(unread::read_what_is_left))
                .layer(middleware::from_fn_with_state(
                    http.proxies,
                    believe_proxies,
                ))
                // Around all that may refuse a request, so that pages that may ask can read why.
                .layer(middleware::from_fn_with_state(http.origins, answer_pages))
                .layer(middleware::from_fn_with_state(http.hosts, check_host))
                .layer(CatchPanicLayer::custom(internal_error))
                .layer(middleware::from_fn_with_state(authenticator, authenticate)),
        )
        .with_state(state)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound(uri.path().to_owned())
}

async fn method_not_allowed(method: Method, _request: Request) -> ApiError {
    ApiError::MethodNotAllowed {
        method: method.to_string(),
    }
}

/// Answers a request whose handler panicked; the panic itself is logged already.
#[allow(clippy::needless_pass_by_value)] // the signature that the layer wants
fn internal_error(_panic: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::Internal.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn tidy(uri: &str) -> String {
        let request = Request::builder()
            .uri(uri)
            .body(Body::empty())
            .expect("a request");
        with_tidy_path(request).uri().to_string()
    }

    #[test]
    fn slashes_too_many_are_left_out_of_paths() {
        for (uri, expected) in [
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("/v1//chat/completions", "/v1/chat/completions"),
            ("//v1/models///?a=/b//", "/v1/models?a=/b//"),
            ("/v1/models/some/model/", "/v1/models/some/model"),
            ("/", "/"),
            ("//", "/"),
            ("/v1/models", "/v1/models"),
            ("/a%2F/", "/a%2F"),
            ("*", "*"),
        ] {
            assert_eq!(tidy(uri), expected, "{uri}");
        }
    }
}
