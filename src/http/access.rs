//! Around every request: its id, its log span, and the count of answers that
//! no [`RequestAccount`](crate::inference::RequestAccount) counts.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::admission::{ClientId, DrainGuard, Principal};

use crate::http::error::ApiError;
use crate::http::peer::Peer;
use crate::http::state::HttpState;
use crate::inference::RequestOutcome;
use crate::inference::arrival::Arrival;

const REQUEST_ID: &str = "x-request-id";

/// A response, and what counts it in the metrics.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Its request's account counts it, when that ends.
    Accounted(Response),
    /// [`log_and_count`] counts it, because nothing else does.
    Uncounted(Response),
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Accounted(mut response) => {
                response.extensions_mut().insert(AccountedMarker);
                response
            }
            Self::Uncounted(response) => response,
        }
    }
}

/// Marks a response that its request's account counts.
#[derive(Debug, Clone, Copy)]
struct AccountedMarker;

pub(crate) async fn log_and_count(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    let id = client_id(request.headers())
        .unwrap_or_else(|| format!("req_{}", uuid::Uuid::new_v4().simple()));
    // Of the highest level, so that no log level leaves a line without its id.
    let span = tracing::error_span!("request", id, key = tracing::field::Empty);
    let path = request.extensions().get::<MatchedPath>();
    // What browsers ask before a page's request is none of an endpoint's: its share of failures is looked at.
    let endpoint = path
        .filter(|_| request.method() != Method::OPTIONS)
        .map_or("other", MatchedPath::as_str)
        .to_owned();

    let peer = Peer::of(request.extensions());
    let mut response = next.run(request).instrument(span.clone()).await;

    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if response.extensions().get::<AccountedMarker>().is_none() {
        span.in_scope(|| count(&state, &endpoint, peer, &response));
    }
    response
}

fn count(state: &HttpState, endpoint: &str, peer: Peer, response: &Response) {
    let status = response.status();
    let outcome = if status.is_success() {
        RequestOutcome::Done
    } else {
        RequestOutcome::Failed
    };
    state
        .metrics
        .request_answered("", endpoint, status.as_u16(), outcome.as_str());
    let error = response.extensions().get::<ApiError>();
    let asker = response.extensions().get::<Asker>();
    if let Some(name) = asker.and_then(|asker| asker.0.name.as_deref()) {
        let refused = error.and_then(|error| error.summary().refused);
        state.metrics.key_answered(name, status.as_u16(), refused);
    }
    if let Some(error) = error {
        tracing::info!(
            endpoint,
            status = status.as_u16(),
            error = error.label(),
            refused = error.stranger(),
            from = error.stranger().map(|_| tracing::field::display(peer)),
            "answered"
        );
    } else {
        // Probes and scrapes come every few seconds.
        tracing::debug!(endpoint, status = status.as_u16(), "answered");
    }
}

/// Returns which client sent a request.
pub(crate) fn client(request: &Request) -> ClientId {
    let known = request.extensions().get().copied();
    // Absent only if there is no socket, as in tests.
    known.unwrap_or_else(|| ClientId::of((Ipv4Addr::LOCALHOST, 0).into()))
}

/// Returns who asks.
pub(crate) fn principal(request: &Request) -> Arc<Principal> {
    principal_in(request.extensions())
}

fn principal_in(extensions: &Extensions) -> Arc<Principal> {
    let known = extensions.get().cloned();
    known.unwrap_or_else(|| Arc::new(Principal::anyone()))
}

/// Who asks, for handlers that do not take the whole request; on a response, who asked.
#[derive(Debug, Clone)]
pub(crate) struct Asker(pub(crate) Arc<Principal>);

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(principal_in(&parts.extensions)))
    }
}

/// Returns what makes a shutdown wait for a request. The server gives it to each whose head it read before
/// the shutdown, see [`crate::http::exchange`].
pub(crate) fn drain_guard(request: &Request) -> Option<DrainGuard> {
    request.extensions().get().cloned()
}

/// Notes that a request has come.
pub(crate) fn arrival(request: &Request) -> Arrival {
    Arrival {
        at: Instant::now(),
        client: client(request),
        principal: principal(request),
        quota: None,
        drain_guard: drain_guard(request),
        deadline: None,
        memory: None,
    }
}

/// Notes that a request has come which counts: it takes one of its key's quota.
pub(crate) fn counted_arrival(request: &Request) -> Result<Arrival, ApiError> {
    let mut arrival = arrival(request);
    arrival.quota = Some(arrival.principal.quota.admit()?);
    Ok(arrival)
}

/// Returns the client's `x-request-id`, if it is fit for a header and a log line.
pub(crate) fn client_id(headers: &HeaderMap) -> Option<String> {
    const LONGEST: usize = 128;
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sound = (1..=LONGEST).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic());
    sound.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(value).expect("a header"));
        client_id(&headers)
    }

    #[tokio::test]
    async fn a_handler_is_told_who_asks_and_that_it_is_anyone_without_keys() {
        let till = Arc::new(Principal {
            name: Some("till".to_owned()),
            ..Principal::anyone()
        });
        let asker = async |request: Request| {
            let (mut parts, _) = request.into_parts();
            let Ok(Asker(principal)) = Asker::from_request_parts(&mut parts, &()).await;
            principal
        };
        let mut request = Request::default();
        request.extensions_mut().insert(Arc::clone(&till));
        assert!(Arc::ptr_eq(&asker(request).await, &till));
        assert_eq!(asker(Request::default()).await.name, None);
    }

    #[test]
    fn a_clients_id_is_kept_if_it_is_short_and_printable() {
        assert_eq!(id("till-3:42").as_deref(), Some("till-3:42"));
        assert_eq!(id(""), None);
        assert_eq!(id("two words"), None);
        assert_eq!(id(&"x".repeat(129)), None);
    }
}
