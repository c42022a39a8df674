//! Which pages may ask, and what each is answered.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::post;

use super::*;

fn listing(origins: &[&str]) -> CorsOrigins {
    CorsOrigins(origins.iter().map(|origin| (*origin).to_owned()).collect())
}

fn request(method: &Method, uri: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).expect("a request");
    // As if a trusted proxy sent it.
    ForwardedHosts::believe(&mut request);
    request
}

fn foreign(origin: &str) -> AskingPage {
    AskingPage::Foreign(Some(origin.to_owned()))
}

#[test]
fn a_page_is_known_by_its_origin_or_by_what_its_browser_says_of_it() {
    let kiosk = "https://kiosk.example";
    let origins = listing(&[kiosk]);
    let post =
        |headers: &[(&str, &str)]| origins.asking_page(&request(&Method::POST, "/", headers));
    for (headers, expected) in [
        // No browser.
        (vec![("host", "box")], AskingPage::OurOwn),
        (vec![("sec-fetch-mode", "cors")], AskingPage::OurOwn),
        (vec![("origin", kiosk)], AskingPage::Listed),
        (
            vec![("origin", "HTTPS://KIOSK.EXAMPLE")],
            AskingPage::Listed,
        ),
        (
            vec![("origin", kiosk), ("sec-fetch-site", "cross-site")],
            AskingPage::Listed,
        ),
        (
            vec![("origin", "https://evil.example")],
            foreign("https://evil.example"),
        ),
        (
            vec![("origin", "https://kiosk.example.evil.example")],
            foreign("https://kiosk.example.evil.example"),
        ),
        (vec![("origin", "null")], foreign("null")),
        (vec![("origin", "file://")], foreign("file://")),
        (
            vec![("origin", kiosk), ("origin", "https://evil.example")],
            foreign("unreadable"),
        ),
        (vec![("origin", "caf\u{e9}")], foreign("unreadable")),
        // This server's own page, over plain HTTP; the usual port may be left out.
        (
            vec![("origin", "http://box:8080"), ("host", "Box:8080")],
            AskingPage::OurOwn,
        ),
        (
            vec![("origin", "http://box"), ("host", "box:80")],
            AskingPage::OurOwn,
        ),
        (
            vec![
                ("origin", "http://[fd00::5]:8080"),
                ("host", "[fd00:0::5]:8080"),
            ],
            AskingPage::OurOwn,
        ),
        (
            vec![("origin", "http://box:3000"), ("host", "box:8080")],
            foreign("http://box:3000"),
        ),
        (
            vec![
                ("origin", "http://localhost:8080"),
                ("host", "127.0.0.1:8080"),
            ],
            foreign("http://localhost:8080"),
        ),
        (
            vec![("origin", "ftp://box"), ("host", "box")],
            foreign("ftp://box"),
        ),
        // Behind a proxy whose word is taken; the client's own host is the first.
        (
            vec![
                ("origin", "https://shop.example"),
                ("host", "127.0.0.1:8080"),
                ("x-forwarded-host", "shop.example, inner.example"),
            ],
            AskingPage::OurOwn,
        ),
        (
            vec![
                ("origin", "https://inner.example"),
                ("host", "127.0.0.1:8080"),
                ("x-forwarded-host", "shop.example, inner.example"),
            ],
            foreign("https://inner.example"),
        ),
        // What the browser says of the page counts more than names that look alike.
        (
            vec![
                ("origin", "https://a"),
                ("sec-fetch-site", "same-origin"),
                ("host", "b"),
            ],
            AskingPage::OurOwn,
        ),
        (vec![("sec-fetch-site", "none")], AskingPage::OurOwn),
        (
            vec![
                ("origin", "http://box"),
                ("sec-fetch-site", "same-site"),
                ("host", "box"),
            ],
            foreign("http://box"),
        ),
        (
            vec![("sec-fetch-site", "cross-site")],
            AskingPage::Foreign(None),
        ),
    ] {
        assert_eq!(post(&headers), expected, "{headers:?}");
    }
}

#[test]
fn from_another_page_one_may_follow_a_link_here_and_take_in_nothing() {
    let origins = listing(&[]);
    let get = |method, site, mode, dest| {
        let headers = [
            ("sec-fetch-site", site),
            ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
        ];
        origins.asking_page(&request(&method, "/v1/models", &headers))
    };
    for site in ["cross-site", "same-site", "whatever"] {
        let open = get(Method::GET, site, "navigate", "document");
        assert_eq!(open, AskingPage::OurOwn, "{site}");
        for (method, mode, dest) in [
            (Method::GET, "no-cors", "image"),
            (Method::GET, "no-cors", "script"),
            (Method::GET, "navigate", "iframe"),
            (Method::GET, "navigate", "embed"),
            (Method::POST, "navigate", "document"),
            (Method::GET, "no-cors", "empty"),
        ] {
            let page = get(method, site, mode, dest);
            assert_eq!(page, AskingPage::Foreign(None), "{site} {mode} {dest}");
        }
    }
    let own = get(Method::GET, "same-origin", "no-cors", "image");
    assert_eq!(own, AskingPage::OurOwn);
}

#[test]
fn every_page_and_pages_out_of_files_can_be_listed() {
    for (listed, origin, included) in [
        ("*", "https://any.example", true),
        ("*", "null", true),
        ("null", "null", true),
        ("null", "file://", true),
        ("null", "https://any.example", false),
        ("tauri://localhost", "tauri://localhost", true),
        ("http://tauri.localhost", "tauri://localhost", false),
    ] {
        assert_eq!(listing(&[listed]).include(origin), included, "{origin}");
    }
}

/// Answers as a server that lists `https://kiosk.example`, where every path but `/v1/chat` is a 404, and `/v1/chat`
/// wants a key.
async fn answer(method: Method, uri: &str, headers: &[(&str, &str)]) -> Response {
    let router = Router::new()
        .route("/v1/chat", post(|| async { ApiError::KeyMissing }))
        .fallback(|| async { ApiError::NotFound("this".to_owned()) })
        .layer(
            tower::ServiceBuilder::new()
                .map_response(with_safe_headers)
                .layer(axum::middleware::from_fn_with_state(
                    listing(&["https://kiosk.example"]),
                    answer_pages,
                )),
        );
    let response = router.oneshot(request(&method, uri, headers)).await;
    response.expect("an answer")
}

const KIOSK: (&str, &str) = ("origin", "https://kiosk.example");

#[tokio::test]
async fn a_listed_pages_browser_is_told_beforehand_what_it_may_send() {
    let preflight = [
        KIOSK,
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type,x-stainless-os",
        ),
        ("access-control-request-private-network", "true"),
    ];
    for path in ["/v1/chat", "/nowhere"] {
        let response = answer(Method::OPTIONS, path, &preflight).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "https://kiosk.example"),
            ("access-control-allow-methods", "GET,POST,DELETE"),
            (
                "access-control-allow-headers",
                "authorization,content-type,x-stainless-os",
            ),
            ("access-control-allow-private-network", "true"),
            ("access-control-max-age", "7200"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let credentials = response.headers().get("access-control-allow-credentials");
        assert_eq!(credentials, None);
    }
}

#[tokio::test]
async fn a_listed_page_can_read_why_it_is_refused() {
    for (method, path, status) in [
        (Method::POST, "/v1/chat", StatusCode::UNAUTHORIZED),
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
    ] {
        let response = answer(method, path, &[KIOSK]).await;
        assert_eq!(response.status(), status);
        let headers = response.headers();
        assert_eq!(
            headers["access-control-allow-origin"],
            "https://kiosk.example"
        );
        assert!(headers.get_all("vary").iter().any(|vary| {
            let vary = vary.to_str().expect("a text").to_ascii_lowercase();
            vary.contains("origin")
        }));
        let exposed = headers["access-control-expose-headers"]
            .to_str()
            .expect("a text");
        assert_eq!(exposed.split(',').collect::<Vec<_>>(), EXPOSED);
    }
}

#[tokio::test]
async fn another_page_is_refused_before_anything_is_done_and_can_read_nothing() {
    let origin = ("origin", "https://evil.example");
    let asked = ("access-control-request-method", "POST");
    let private = ("access-control-request-private-network", "true");
    for (method, headers) in [
        (Method::POST, vec![origin, ("content-type", "text/plain")]),
        (Method::OPTIONS, vec![origin, asked, private]),
    ] {
        let response = answer(method, "/v1/chat", &headers).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert!(
            !names.iter().any(|name| name.starts_with("access-control-")),
            "{names:?}"
        );
        assert_eq!(response.headers()["vary"], "origin");
        let error = response.extensions().get::<ApiError>().expect("an error");
        let body = error.body();
        assert_eq!(body["error"]["code"], "origin_not_allowed");
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.contains("server.cors_origins"), "{message}");
        assert!(message.contains("\"https://evil.example\""), "{message}");
    }
}

#[tokio::test]
async fn programs_are_answered_as_ever_but_for_the_headers_that_keep_pages_away() {
    let response = answer(Method::OPTIONS, "/v1/chat", &[]).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(
        response.headers()["cross-origin-resource-policy"],
        "same-origin"
    );
    // No preflight either: it does not say what it is to be for.
    let response = answer(Method::OPTIONS, "/v1/chat", &[KIOSK]).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}
