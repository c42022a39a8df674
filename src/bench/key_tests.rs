//! Runs against servers in this process that want a key.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::tests::{KIOSKS, plan, three_tokens};
use super::*;

/// What a server was sent as `Authorization`, in the order of arrival.
type Credentials = Arc<Mutex<Vec<Option<String>>>>;

/// A server that answers who sends this key, and so many requests of them at most.
async fn serve_to(key: &'static str, most: usize) -> (String, Credentials) {
    let seen = Credentials::default();
    let noted = Arc::clone(&seen);
    let check = move |request: Request, next: Next| {
        let sent = request.headers().get(header::AUTHORIZATION);
        let sent = sent.map(|value| value.to_str().expect("a text").to_owned());
        let is_good = sent.as_deref() == Some(&format!("Bearer {key}"));
        let mut seen = noted.lock().expect("no panic");
        seen.push(sent);
        let is_good = is_good && seen.len() <= most;
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

fn key(key: &str) -> Option<BearerKey> {
    Some(BearerKey::new(key).expect("a key"))
}

#[tokio::test]
async fn each_server_gets_its_own_key_with_every_request() {
    let (ours, asked_of_us) = serve_to("k1", usize::MAX).await;
    let (theirs, asked_of_them) = serve_to("k2", usize::MAX).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: key("k1"),
            against: key("k2"),
        },
        ..plan(KIOSKS, 1)
    };
    let report = run(&[ours, theirs], &plan, &|| ()).await.expect("a report");
    assert_eq!(report.servers[1].parts[&LoadPart::Warm].answers, 3);
    assert!(!json!(report).to_string().contains("k1"));
    for (seen, key) in [(asked_of_us, "Bearer k1"), (asked_of_them, "Bearer k2")] {
        let seen = seen.lock().expect("no panic");
        assert_eq!(seen.len(), 7);
        assert!(seen.iter().all(|sent| sent.as_deref() == Some(key)));
    }
}

#[tokio::test]
async fn a_key_goes_to_the_first_server_alone() {
    let (ours, _) = serve_to("k1", usize::MAX).await;
    let (theirs, asked_of_them) = serve_to("k2", usize::MAX).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: key("k1"),
            against: None,
        },
        ..plan(KIOSKS, 1)
    };
    let error = run(&[ours, theirs.clone()], &plan, &|| ()).await;
    let error = error.expect_err("no key for it").to_string();
    assert!(
        error.starts_with(&theirs) && error.contains("--against-key"),
        "{error}"
    );
    assert_eq!(*asked_of_them.lock().expect("no panic"), [None]);
}

#[tokio::test]
async fn a_key_that_ends_during_the_run_ends_the_run() {
    // The list of models, and one of the three kiosks.
    let (url, seen) = serve_to("k1", 2).await;
    let plan = BenchPlan {
        keys: BenchKeys {
            key: key("k1"),
            against: None,
        },
        ..plan(KIOSKS, 500)
    };
    let error = run(&[url], &plan, &|| ()).await;
    let error = error.expect_err("denied").to_string();
    let expected = "answers 401: this API key has expired; give a key that may ask for this in EDGELLM_API_KEY";
    assert!(error.contains(expected), "{error}");
    assert!(seen.lock().expect("no panic").len() <= 4);
}
