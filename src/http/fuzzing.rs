//! What holds for the headers of a request, whatever they are.

use std::sync::LazyLock;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::TrustedProxy;

use super::access::client_id;
use super::auth::sent_keys;
use super::body::{declares_json, refuse_before_it_is_sent};
use super::browsers::{AskingPage, CorsOrigins};
use super::error::ApiError;
use super::forwarded::{ForwardedHosts, TrustedProxies, client_address};
use super::hosts::AllowedHosts;
use super::precheck::allowed_time;
use super::resume::last_event;

#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub use super::resume::fuzzing::resume_streams;

/// Reads headers or refuses them; panics where it took what it should not have taken.
type Read = fn(&HeaderMap) -> Result<(), ApiError>;

/// Everything that may refuse headers, and the header that a refusal names.
const READERS: [(&str, Read); 4] = [
    ("last-event-id", read_last_event),
    ("content-type", read_content_type),
    ("content-length", |headers| {
        refuse_before_it_is_sent(headers, 1 << 20)
    }),
    ("x-deadline-ms", |headers| allowed_time(headers).map(drop)),
];

/// Headers, a line each, are taken or refused in words that name the header.
///
/// # Panics
/// When they are neither.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn read_headers(lines: &[u8]) {
    let headers = headers(lines);
    check_client_id(&headers);
    for key in sent_keys(&headers) {
        assert!(!key.is_empty() && key.trim() == key, "{key:?}");
    }
    for (name, read) in READERS {
        if let Err(error) = read(&headers) {
            check(name, &error);
        }
    }
    check_walls(headers);
}

/// Who asks, for which host and by which proxy is told or refused in words, also when the proxy is trusted.
fn check_walls(headers: HeaderMap) {
    static HOSTS: LazyLock<AllowedHosts> =
        LazyLock::new(|| AllowedHosts::new(&["*.shop.example".to_owned()]));
    let proxies = TrustedProxies::new(&[TrustedProxy::UnixSocket]);
    if let Some(address) = client_address(&headers, &proxies) {
        assert_eq!(address, address.to_canonical());
    }
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers;
    ForwardedHosts::believe(&mut request);
    if let Err(error) = HOSTS.check(&request, Instant::now()) {
        assert!([400, 403].contains(&error.status().as_u16()), "{error}");
        assert!(error.body().to_string().len() < 1000);
    }
    let kiosk = "https://kiosk.shop.example";
    let origins = CorsOrigins::new(&[kiosk.to_owned()]);
    if origins.asking_page(&request) == AskingPage::Listed {
        let origin = request.headers()[header::ORIGIN].as_bytes();
        assert!(origin.eq_ignore_ascii_case(kiosk.as_bytes()), "{origin:?}");
    }
}

/// What hyper makes of these lines; it refuses those that are no headers.
fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts
            .next()
            .and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts.next().unwrap_or_default().trim_ascii();
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn check(name: &str, error: &ApiError) {
    let status = error.status().as_u16();
    assert!([400, 413, 415].contains(&status), "{name}: {status}");
    let body = error.body();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{name}: nothing is said");
    if status == 400 {
        assert_eq!(body["error"]["param"], name, "{message}");
    }
}

/// An id that is not fit is not refused: the server makes another.
fn check_client_id(headers: &HeaderMap) {
    if let Some(id) = client_id(headers) {
        assert!(!id.is_empty() && id.len() <= 128, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        assert!(HeaderValue::from_str(&id).is_ok(), "it is echoed");
    }
}

fn read_last_event(headers: &HeaderMap) -> Result<(), ApiError> {
    let told = last_event(headers)?;
    let written = headers.get("last-event-id").map(HeaderValue::as_bytes);
    match (told, written) {
        (None, None) => {}
        (Some(told), Some(written)) => {
            let written = String::from_utf8_lossy(written);
            let significant = written.trim_start_matches('0');
            assert_eq!(told.to_string().trim_start_matches('0'), significant);
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

fn read_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if !declares_json(headers) {
        return Err(ApiError::NotJson);
    }
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let value = value.unwrap_or_default().to_ascii_lowercase();
    assert!(value.windows(4).any(|bytes| bytes == b"json"), "{value:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join("fuzz/seeds").join(target);
        let seeds = fs::read_dir(folder).expect("seeds");
        let read = |seed: std::io::Result<fs::DirEntry>| fs::read(seed.expect("a file").path());
        let seeds: Vec<_> = seeds.map(|seed| read(seed).expect("readable")).collect();
        assert!(seeds.len() >= 3);
        seeds
    }

    #[test]
    fn headers_of_the_seeds_are_taken_or_refused_in_words() {
        for seed in seeds("headers") {
            for end in 0..=seed.len() {
                read_headers(&seed[..end]);
            }
        }
    }

    #[test]
    fn the_streams_of_the_seeds_are_resumed_without_a_gap() {
        for seed in seeds("resume") {
            for end in 0..=seed.len() {
                resume_streams(&seed[..end]);
            }
        }
    }

    #[test]
    fn a_number_of_an_event_is_digits_and_nothing_else() {
        for (value, told) in [
            ("7", Some(7)),
            ("007", Some(7)),
            ("+7", None),
            ("-7", None),
            ("", None),
            ("7.0", None),
        ] {
            let headers = headers(format!("last-event-id:{value}").as_bytes());
            assert_eq!(last_event(&headers).ok(), told.map(Some), "{value:?}");
        }
    }

    /// The headers of pages and proxies.
    const OF_WALLS: [&str; 4] = ["host", "origin", "x-forwarded-for", "x-forwarded-host"];

    proptest! {
        #[test]
        fn any_value_of_any_header_is_taken_or_refused_in_words(
            name in prop::sample::select([READERS.map(|(name, _)| name), OF_WALLS].concat()),
            value in "[ -~]{0,40}",
        ) {
            read_headers(format!("expect: 100-continue\n{name}: {value}").as_bytes());
        }

        #[test]
        fn streams_are_resumed_without_a_gap_whatever_happens(
            choices in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            resume_streams(&choices);
        }
    }
}
