//! Whole runs against a server in this process whose answers are canned.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::sync::Mutex;

/// How a request is answered.
type CannedAnswer = Arc<dyn Fn(&Value) -> Response + Send + Sync>;

#[derive(Clone)]
struct CannedServer {
    answer: CannedAnswer,
    /// What was asked, in the order of arrival.
    asked: Arc<Mutex<Vec<Value>>>,
}

/// A server on a free port.
async fn serve(
    answer: impl Fn(&Value) -> Response + Send + Sync + 'static,
) -> (String, CannedServer) {
    let canned = CannedServer {
        answer: Arc::new(answer),
        asked: Arc::default(),
    };
    let router = Router::new()
        .route(
            "/v1/models",
            get(|| async { Json(json!({"data": [{"id": "m"}]})) }),
        )
        .route(
            "/v1/chat/completions",
            post(
                |State(canned): State<CannedServer>,
                 headers: HeaderMap,
                 Json(mut body): Json<Value>| async move {
                    if let Some(deadline) = headers.get("x-deadline-ms") {
                        body["deadline"] = json!(deadline.to_str().expect("a text"));
                    }
                    canned.asked.lock().push(body.clone());
                    (canned.answer)(&body)
                },
            ),
        )
        .with_state(canned.clone());
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, canned)
}

fn event(json: &Value) -> Event {
    Event::default().data(json.to_string())
}

fn text(text: &str) -> Event {
    event(&json!({"choices": [{"delta": {"content": text}}]}))
}

/// Two texts of three tokens in all.
pub(super) fn three_tokens() -> Response {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 700, "completion_tokens": 3}});
    let events = [
        text("a"),
        text("bc"),
        event(&usage),
        Event::default().data("[DONE]"),
    ];
    Sse::new(stream::iter(events.map(Ok::<_, Infallible>))).into_response()
}

pub(super) fn plan(load: LoadProfile, rounds: usize) -> BenchPlan {
    BenchPlan {
        load,
        answers: AnswerLimits {
            max_tokens: 16,
            ignore_eos: true,
        },
        rounds,
        seed: 1,
        keys: BenchKeys::default(),
        trust: None,
        model: None,
        second_model: None,
        timeout: Duration::from_secs(60),
        deadline: None,
    }
}

pub(super) const KIOSKS: LoadProfile = LoadProfile::Kiosk {
    clients: 3,
    questions: 2,
    products: 4,
};

#[tokio::test]
async fn every_request_is_sent_and_counted() {
    let (url, canned) = serve(|_| three_tokens()).await;
    let ended = Mutex::new(0);
    let progress = || *ended.lock() += 1;
    let plan = plan(KIOSKS, 2);
    let report = run(&[url], &plan, &progress).await.expect("a report");
    assert_eq!(*ended.lock(), plan.requests());
    assert_eq!(canned.asked.lock().len(), 12);
    let server = &report.servers[0];
    assert_eq!(
        (server.model.as_str(), server.prompt_tokens),
        ("m", Some(700))
    );
    for part in [LoadPart::Cold, LoadPart::Warm] {
        let figures = &server.parts[&part];
        assert_eq!((figures.answers, figures.errors), (6, 0));
        assert!(figures.time_to_first_token.is_some());
    }
    assert!(report.advantage.is_none());
}

#[tokio::test]
async fn two_servers_get_the_same_requests_and_are_compared() {
    let (ours, asked_of_us) = serve(|_| three_tokens()).await;
    let (theirs, asked_of_them) = serve(|_| three_tokens()).await;
    let report = run(&[ours, theirs], &plan(KIOSKS, 2), &|| ()).await;
    let report = report.expect("a report");
    let prompts = |canned: &CannedServer| {
        let asked = canned.asked.lock();
        let mut bodies: Vec<_> = asked.iter().map(Value::to_string).collect();
        bodies.sort();
        bodies
    };
    assert_eq!(prompts(&asked_of_us), prompts(&asked_of_them));
    let advantage = report.advantage.expect("two servers");
    assert!(advantage[&LoadPart::Warm].tokens_per_second.is_some());
    let json = json!(report.servers[1]);
    assert_eq!(json["rounds"][1]["cold"]["answers"], 3);
}

#[tokio::test]
async fn a_deadline_is_sent_and_estimates_are_compared_with_what_came() {
    let (url, canned) = serve(|_| {
        let mut response = three_tokens();
        // As good as never: the canned answer is there at once.
        let estimate = HeaderValue::from_static("3600000");
        response.headers_mut().insert("x-estimated-ms", estimate);
        response
    })
    .await;
    let plan = BenchPlan {
        deadline: Some(Duration::from_secs(60)),
        ..plan(KIOSKS, 1)
    };
    let report = run(&[url], &plan, &|| ()).await.expect("a report");
    let figures = report.servers[0].parts[&LoadPart::Warm].deadline;
    let expected = DeadlineFigures {
        estimated: 3,
        ..DeadlineFigures::default()
    };
    assert_eq!(figures, Some(expected));
    let asked = canned.asked.lock();
    assert!(asked.iter().all(|body| body["deadline"] == "60000"));
}

#[test]
fn who_goes_first_changes_with_every_round() {
    let rounds: Vec<Vec<usize>> = (0..3).map(|round| order(round, 2).collect()).collect();
    assert_eq!(rounds, [[0, 1], [1, 0], [0, 1]]);
}

#[tokio::test]
async fn refusals_errors_and_broken_answers_are_told_apart() {
    let number = Mutex::new(0);
    let (url, _) = serve(move |_| {
        let mut number = number.lock();
        *number += 1;
        match *number {
            1 => three_tokens(),
            2 => StatusCode::TOO_MANY_REQUESTS.into_response(),
            3 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            4 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            5 => Sse::new(stream::iter([Ok::<_, Infallible>(text("a"))])).into_response(),
            _ => {
                let error = event(&json!({"error": {"message": "out of paper"}}));
                Sse::new(stream::iter([Ok::<_, Infallible>(error)])).into_response()
            }
        }
    })
    .await;
    let arrivals = LoadProfile::Arrivals {
        rate: 1e6,
        requests: 5,
        products: 1,
    };
    let report = run(&[url], &plan(arrivals, 1), &|| ()).await;
    let parts = report.expect("a report").servers.remove(0).parts;
    assert_eq!(parts[&LoadPart::Cold].answers, 1);
    let figures = &parts[&LoadPart::Arrivals];
    assert_eq!(
        (figures.answers, figures.refused, figures.errors),
        (0, 2, 3)
    );
}

/// Long answers say something, wait for the newcomer, say something again and never end.
#[tokio::test]
async fn running_answers_are_cut_when_the_newcomer_is_served() {
    let came = Arc::new(watch::Sender::new(0));
    let (url, _) = serve(move |body| {
        let cold_prompt = body["messages"][0]["role"] == "system";
        if cold_prompt {
            came.send_modify(|came| *came += 1);
            return three_tokens();
        }
        let mut came = came.subscribe();
        let second = stream::once(async move {
            // The first to come is alone.
            let _ = came.wait_for(|came| *came == 2).await;
            text("b")
        });
        let events = stream::iter([text("a")])
            .chain(second)
            .chain(stream::pending());
        Sse::new(events.map(Ok::<_, Infallible>)).into_response()
    })
    .await;
    let intruder = LoadProfile::Intruder {
        clients: 2,
        products: 4,
    };
    let report = run(&[url], &plan(intruder, 1), &|| ()).await;
    let parts = report.expect("a report").servers.remove(0).parts;
    assert_eq!(parts[&LoadPart::Alone].answers, 1);
    assert_eq!(parts[&LoadPart::Newcomer].answers, 1);
    let running = &parts[&LoadPart::Running];
    assert_eq!((running.cut, running.answers, running.errors), (2, 0, 0));
}

/// An answer that never comes would otherwise keep the newcomer waiting for it to speak.
#[tokio::test]
async fn running_answers_that_fail_do_not_hold_up_the_newcomer() {
    let (url, _) = serve(|body| {
        if body["messages"][0]["role"] == "system" {
            three_tokens()
        } else {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    })
    .await;
    let intruder = LoadProfile::Intruder {
        clients: 2,
        products: 4,
    };
    let report = run(&[url], &plan(intruder, 1), &|| ()).await;
    let parts = report.expect("a report").servers.remove(0).parts;
    assert_eq!(parts[&LoadPart::Newcomer].answers, 1);
    assert_eq!(parts[&LoadPart::Running].refused, 2);
}

#[tokio::test]
async fn a_server_that_is_no_such_server_is_named() {
    let (url, _) = serve(|_| three_tokens()).await;
    let router = Router::new().route("/v1/models", get(|| async { "hello" }));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let other = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let error = run(&[url, other.clone()], &plan(KIOSKS, 1), &|| ()).await;
    let error = error.expect_err("no list of models").to_string();
    assert!(
        error.contains(&other) && error.contains("OpenAI-compatible"),
        "{error}"
    );
}
