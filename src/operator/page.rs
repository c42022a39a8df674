//! `GET /`: the operator page and its files.
//!
//! The files are embedded in the binary: there is no build step, and nothing comes from another host, because
//! a store may be offline. The page uses only public routes, so it can do nothing that other clients cannot.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};

/// What the browser may do: run and style with our files, ask this server, and nothing else. Trusted
/// types make it an error to turn text into HTML.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct PageFile {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        PageFile {
            name: $name,
            content_type: $content_type,
            text: include_str!(concat!("page/", $name)),
        }
    };
}

const INDEX: PageFile = file!("index.html", HTML);

/// The files that `index.html` loads.
const PAGE_PARTS: [PageFile; 13] = [
    file!("page.css", CSS),
    file!("icon.svg", SVG),
    file!("main.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("server.js", SCRIPT),
    file!("session.js", SCRIPT),
    file!("login.js", SCRIPT),
    file!("metrics.js", SCRIPT),
    file!("panels.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("models.js", SCRIPT),
    file!("memory.js", SCRIPT),
    file!("chat.js", SCRIPT),
];

/// One `ETag` for all files, so that a browser with an older binary's page fetches every file anew.
static PAGE_ETAG: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in std::iter::once(&INDEX).chain(&PAGE_PARTS) {
        hash.update(file.text);
    }
    format!("\"{:.16}\"", format!("{:x}", hash.finalize()))
});

const NOT_MODIFIED_TEXT: &str = "The browser has the same already.";

pub(crate) fn describe_index(_: &mut Schemas) -> Operation {
    Operation::new("page", "The page that operators look at.")
        .responds(HTML, &json!({"type": "string"}))
        .responds_empty(StatusCode::NOT_MODIFIED, NOT_MODIFIED_TEXT)
}

pub(crate) async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

pub(crate) fn describe_part(_: &mut Schemas) -> Operation {
    let names = PAGE_PARTS.each_ref().map(|file| file.name);
    let name = json!({"type": "string", "enum": names});
    let operation = Operation::new("pagePart", "A file of that page.")
        .path("file", "Its name.", &name)
        .responds_empty(StatusCode::NOT_MODIFIED, NOT_MODIFIED_TEXT)
        .fails(&[404]);
    [CSS, SCRIPT, SVG]
        .iter()
        .fold(operation, |operation, kind| {
            operation.responds(kind, &json!({"type": "string"}))
        })
}

pub(crate) async fn part(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::NotFound("this path".to_owned()))?;
    PAGE_PARTS
        .iter()
        .find(|file| file.name == name)
        .map(|file| answer(file, &headers))
        .ok_or_else(|| ApiError::NotFound(format!("/page/{name}")))
}

fn answer(file: &PageFile, headers: &HeaderMap) -> Response {
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // Whoever opened the page, or is opened by it, has no hold on its window, which may hold an administrator's key.
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        // Cached, but revalidated before each use: after an update no browser mixes old and new files.
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, PAGE_ETAG.as_str()),
    ];
    if has_current(headers) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, file.content_type)];
    (fixed, content_type, file.text).into_response()
}

/// Whether the client has this version already.
fn has_current(headers: &HeaderMap) -> bool {
    let Some(tags) = headers.get(header::IF_NONE_MATCH) else {
        return false;
    };
    let known = |tag: &str| tag == "*" || tag.trim_start_matches("W/") == PAGE_ETAG.as_str();
    tags.to_str()
        .is_ok_and(|tags| tags.split(',').map(str::trim).any(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn asked_with(tag: &str) -> StatusCode {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::IF_NONE_MATCH,
            HeaderValue::from_str(tag).expect("a header"),
        );
        answer(&INDEX, &headers).status()
    }

    #[test]
    fn a_browser_that_has_this_version_gets_no_body() {
        assert_eq!(asked_with(&PAGE_ETAG), StatusCode::NOT_MODIFIED);
        assert_eq!(
            asked_with(&format!("\"old\", W/{}", *PAGE_ETAG)),
            StatusCode::NOT_MODIFIED
        );
        assert_eq!(asked_with("\"old\""), StatusCode::OK);
    }

    #[test]
    fn every_file_that_the_page_names_exists_and_every_file_is_named() {
        let everything: String = std::iter::once(&INDEX)
            .chain(&PAGE_PARTS)
            .map(|file| file.text)
            .collect();
        for file in &PAGE_PARTS {
            let named = [format!("page/{}", file.name), format!("./{}", file.name)];
            assert!(
                named.iter().any(|name| everything.contains(name)),
                "{} is never asked for",
                file.name
            );
        }
        for (_, rest) in everything
            .match_indices("\"page/")
            .chain(everything.match_indices("\"./"))
            .map(|(at, start)| (at, &everything[at + start.len()..]))
        {
            let name = rest.split('"').next().unwrap_or_default();
            assert!(
                PAGE_PARTS.iter().any(|file| file.name == name),
                "{name} does not exist"
            );
        }
    }
}
