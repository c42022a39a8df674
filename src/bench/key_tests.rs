//! Runs against servers in this process that want a key.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::tests::{KIOSKS, plan, three_tokens};
use super::*;
use crate::sync::Mutex;

/// What a server was sent as `Authorization`, in the order of arrival.
type Credentials = Arc<Mutex<Vec<Option<String>>>>;

const FLOOD: LoadProfile = LoadProfile::Flood {
    clients: 2,
    products: 1,
    requests: 1,
    target_inter_token_ms: 150,
};

/// A server that answers who sends one of these keys, and so many requests of them at most.
async fn serve_to(keys: &'static [&'static str], most: usize) -> (String, Credentials) {
    let seen = Credentials::default();
    let noted = Arc::clone(&seen);
    let check = move |request: Request, next: Next| {
        let sent = request.headers().get(header::AUTHORIZATION);
        let sent = sent.map(|value| value.to_str().expect("a text").to_owned());
        let key = sent
            .as_deref()
            .and_then(|sent| sent.strip_prefix("Bearer "));
        let is_known = key.is_some_and(|key| keys.contains(&key));
        let mut seen = noted.lock();
        seen.push(sent);
        let is_good = is_known && seen.len() <= most;
        drop(seen);
        async move {
            if is_good {
                return next.run(request).await;
            }
            let refusal = json!({"error": {"message": "this API key has expired"}});
            (StatusCode::UNAUTHORIZED, Json(refusal)).into_response()
        }
    };
    let router = Router::new()
        .route(
            "/v1/models",
            get(|| async { Json(json!({"data": [{"id": "m"}]})) }),
        )
        .route("/v1/chat/completions", post(|| async { three_tokens() }))
        .layer(middleware::from_fn(check));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, seen)
}

fn key(key: &str) -> BearerKey {
    BearerKey::new(key).expect("a key")
}

#[tokio::test]
async fn each_server_gets_its_own_key_with_every_request() {
    let (ours, asked_of_us) = serve_to(&["k1"], usize::MAX).await;
    let (theirs, asked_of_them) = serve_to(&["k2"], usize::MAX).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: Some(key("k1")),
            against: Some(key("k2")),
            flood: None,
        },
        ..plan(KIOSKS, 1)
    };
    let report = run(&[ours, theirs], &plan, &|| ()).await.expect("a report");
    assert_eq!(report.servers[1].parts[&LoadPart::Warm].answers, 3);
    assert!(!json!(report).to_string().contains("k1"));
    for (seen, key) in [(asked_of_us, "Bearer k1"), (asked_of_them, "Bearer k2")] {
        let seen = seen.lock();
        assert_eq!(seen.len(), 7);
        assert!(seen.iter().all(|sent| sent.as_deref() == Some(key)));
    }
}

#[tokio::test]
async fn a_key_goes_to_the_first_server_alone() {
    let (ours, _) = serve_to(&["k1"], usize::MAX).await;
    let (theirs, asked_of_them) = serve_to(&["k2"], usize::MAX).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: Some(key("k1")),
            ..BenchKeys::default()
        },
        ..plan(KIOSKS, 1)
    };
    let error = run(&[ours, theirs.clone()], &plan, &|| ()).await;
    let error = error.expect_err("no key for it").to_string();
    assert!(
        error.starts_with(&theirs) && error.contains("--against-key"),
        "{error}"
    );
    assert_eq!(*asked_of_them.lock(), [None]);
}

#[tokio::test]
async fn a_key_that_ends_during_the_run_ends_the_run() {
    // The list of models, and one of the three kiosks.
    let (url, seen) = serve_to(&["k1"], 2).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: Some(key("k1")),
            ..BenchKeys::default()
        },
        ..plan(KIOSKS, 500)
    };
    let error = run(&[url], &plan, &|| ()).await;
    let error = error.expect_err("denied").to_string();
    let expected = "answers 401: this API key has expired; give a key that may ask for this in EDGELLM_API_KEY";
    assert!(error.contains(expected), "{error}");
    assert!(seen.lock().len() <= 4);
}

#[tokio::test]
async fn a_flood_asks_with_its_own_key_until_the_questions_are_answered() {
    let (url, seen) = serve_to(&["k1", "k2"], usize::MAX).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: Some(key("k1")),
            flood: Some(key("k2")),
            ..BenchKeys::default()
        },
        ..plan(FLOOD, 1)
    };
    let ended = Mutex::new(0);
    let report = run(&[url], &plan, &|| *ended.lock() += 1).await;
    let mut report = report.expect("a report");
    assert_eq!(*ended.lock(), plan.requests());
    let server = report.servers.remove(0);
    assert_eq!(server.parts[&LoadPart::Calm].answers, 1);
    assert_eq!(server.parts[&LoadPart::Flooded].answers, 1);
    let flood = &server.parts[&LoadPart::Flood];
    assert!(flood.answers > 2 && flood.errors == 0, "{flood:?}");
    assert!(server.flood.expect("a flood").ratio.is_some());
    let seen = seen.lock();
    let of = |key: &str| {
        seen.iter()
            .filter(|sent| sent.as_deref() == Some(key))
            .count()
    };
    // One asks for the list of models.
    assert_eq!(of("Bearer k1"), 3);
    assert!(of("Bearer k2") >= flood.answers);
}
