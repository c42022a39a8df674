//! What web pages may do here.
//!
//! A browser lets any page send requests to any server; without CORS the page only cannot read the answers. But a
//! request that is computed costs the box as much as one whose answer is read, so what a stranger's page sends is refused
//! before anything is done. Browsers say which page asks, in headers that pages cannot write: `Origin` with every request
//! that could do something, and `Sec-Fetch-Site`, if the server is reached by TLS or on the same machine, with each.
//! Programs that are no browsers send neither, and nothing here concerns them.
//!
//! Pages whose origins are in `server.cors_origins` may ask and read. All answers to them have the headers for that, also
//! those that refuse them for another reason, so that the page can say why.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::authority::Authority;
use super::error::ApiError;
use super::forwarded::ForwardedHosts;

const FETCH_SITE: &str = "sec-fetch-site";
const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";

/// How long a browser may remember that a page may ask: as long as Chromium does at most.
const LONGEST_REMEMBERED: Duration = Duration::from_secs(7200);

/// The headers of our answers that clients read; pages see no others but a few such as `content-type`.
const EXPOSED: [&str; 12] = [
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-estimated-ms",
    "x-edgellm-model",
    "x-edgellm-model-reason",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// Which pages of other servers may ask. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CorsOrigins(Arc<[String]>);

/// Who asks, as far as browsers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskingPage {
    /// No page, or one of this server.
    OurOwn,
    /// A page whose origin is in `server.cors_origins`.
    Listed,
    /// A page of another server, with its origin if that is told.
    Foreign(Option<String>),
}

impl CorsOrigins {
    /// Lets pages of these origins ask, which are in lower case.
    pub(crate) fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    fn include(&self, origin: &str) -> bool {
        // Pages out of files have no origin; Chromium writes `null`, WebViews and Electron write `file://`.
        let origin = if origin == "file://" { "null" } else { origin };
        (self.0.iter()).any(|listed| listed == "*" || listed.eq_ignore_ascii_case(origin))
    }

    pub(super) fn asking_page(&self, request: &Request) -> AskingPage {
        let headers = request.headers();
        let origin = origin(headers);
        if let Some(Ok(origin)) = origin
            && self.include(origin)
        {
            return AskingPage::Listed;
        }
        let site = headers.get(FETCH_SITE);
        if site.is_some_and(|site| site == "same-origin" || site == "none") {
            return AskingPage::OurOwn;
        }
        match origin {
            Some(Ok(origin)) if site.is_none() && is_own(origin, request) => AskingPage::OurOwn,
            Some(origin) => AskingPage::Foreign(Some(origin.unwrap_or("unreadable").to_owned())),
            None if site.is_none() || opens_a_page(request) => AskingPage::OurOwn,
            None => AskingPage::Foreign(None),
        }
    }
}

/// Several origins, or one that is no text: no browser sends such.
#[derive(Debug, Clone, Copy)]
struct UnreadableOrigin;

fn origin(headers: &HeaderMap) -> Option<Result<&str, UnreadableOrigin>> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next()?;
    if origins.next().is_some() {
        return Some(Err(UnreadableOrigin));
    }
    Some(origin.to_str().map_err(|_| UnreadableOrigin))
}

/// Whether this is the origin that the request asks for, or that a trusted proxy was asked for.
fn is_own(origin: &str, request: &Request) -> bool {
    let (usual_port, authority) = match origin.split_once("://") {
        Some(("http", authority)) => (80, authority),
        Some(("https", authority)) => (443, authority),
        _ => return false,
    };
    let Some(origin) = Authority::parse(authority) else {
        return false;
    };
    let asked = Authority::of(request).ok().flatten();
    let forwarded = request.extensions().get::<ForwardedHosts>();
    // The client's own is the first.
    let forwarded = forwarded.and_then(|hosts| hosts.iter().next().flatten());
    let forwarded = forwarded.and_then(Authority::parse);
    (asked.into_iter().chain(forwarded)).any(|own| own.is_same(&origin, usual_port))
}

/// Whether somebody follows a link to this server: the browser leaves the other page, which sees nothing of the answer.
/// Forms that send something are not meant; those have an `Origin`. Nor are frames.
fn opens_a_page(request: &Request) -> bool {
    let is = |name: &str, value: &str| request.headers().get(name).is_some_and(|is| is == value);
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    reads && is(FETCH_MODE, "navigate") && is(FETCH_DEST, "document")
}

/// Whether a browser asks beforehand what a page may send.
fn is_preflight(request: &Request) -> bool {
    let asks = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    request.method() == Method::OPTIONS && asks
}

/// Refuses what pages of other servers send, unless they are listed: those get the headers by which they may read the
/// answer, and their browsers are told so beforehand, whatever path they ask for, so that the page can read a 404, too.
pub(crate) async fn answer_pages(
    State(origins): State<CorsOrigins>,
    request: Request,
    next: Next,
) -> Response {
    let may_differ = !origins.0.is_empty();
    let mut response = match origins.asking_page(&request) {
        AskingPage::Listed if request.method() != Method::OPTIONS || is_preflight(&request) => {
            let Ok(response) = cors().layer(next).oneshot(request).await;
            return response;
        }
        AskingPage::Listed | AskingPage::OurOwn => next.run(request).await,
        AskingPage::Foreign(origin) => ApiError::OriginNotAllowed(origin).into_response(),
    };
    if may_differ {
        let origin = HeaderValue::from_static("origin");
        response.headers_mut().append(header::VARY, origin);
    }
    response
}

/// The headers for a page that may ask. It has no cookies here, and keys are no credentials in the sense of CORS.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        // Chromium before 142 asks so before a page of the internet may reach an address of the shop's network.
        .allow_private_network(true)
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(LONGEST_REMEMBERED)
}

/// Sets what every answer has against pages that would have it for something else than it is, or take it into
/// themselves. Pages that read by CORS are not concerned by the latter.
///
/// No `strict-transport-security`: browsers would keep to TLS for a name for months, and boxes have certificates of their
/// own, which may be replaced or given up.
pub(crate) fn with_safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
#[path = "browsers_tests.rs"]
mod tests;
