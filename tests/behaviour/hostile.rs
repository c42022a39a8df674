//! Clients that break off, stall or flood. None of them may cost the others anything.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateway::{Gateway, eventually, long_answer, question, read};

#[test]
fn a_client_that_leaves_in_mid_stream_frees_its_place() {
    let gateway = Gateway::start();
    let mut body = long_answer(1900);
    body["stream"] = json!(true);
    let mut stream = gateway.send("POST", "/v1/chat/completions", &body.to_string());
    let mut some = [0; 64];
    stream.read_exact(&mut some).expect("it has begun");
    drop(stream);
    eventually("cancelled", || {
        gateway.metric("edgellm_requests_cancelled_total") == "1"
    });
    assert_eq!(gateway.metric("edgellm_requests_running"), "0");
    assert_eq!(gateway.metric("edgellm_kv_cache_usage_ratio"), "0");
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_plain_answer_frees_its_place() {
    let gateway = Gateway::start();
    let stream = gateway.send(
        "POST",
        "/v1/chat/completions",
        &long_answer(1900).to_string(),
    );
    eventually("running", || {
        gateway.metric("edgellm_requests_running") == "1"
    });
    drop(stream);
    eventually("cancelled", || {
        gateway.metric("edgellm_requests_cancelled_total") == "1"
    });
}

#[test]
fn a_client_that_leaves_is_noticed_whatever_it_sent_behind_its_request() {
    let gateway = Gateway::start();
    let more = ["\r\n", "GET /health HTTP/1.1\r\nhost: edgellm\r\n\r\n"];
    for more in more {
        let mut body = long_answer(1900);
        body["n"] = json!(8);
        let body = body.to_string();
        let before = gateway.metric("edgellm_requests_cancelled_total");
        let mut stream = gateway.connect();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: edgellm\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}{more}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        eventually("running", || {
            gateway.metric("edgellm_requests_running") != "0"
        });
        // The server does not read this before it has answered.
        stream.write_all(more.as_bytes()).expect("sent");
        drop(stream);
        eventually("cancelled", || {
            gateway.metric("edgellm_requests_cancelled_total") != before
        });
    }
}

/// Everything that comes for a request of a client that closes its side behind it.
fn answer_to_half_closed(gateway: &Gateway, version: &str, body: &str) -> String {
    let mut stream = gateway.connect();
    let request = format!(
        "POST /v1/chat/completions HTTP/{version}\r\nhost: edgellm\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    let mut answer = String::new();
    // A connection that is cut may also be reset.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_client_that_closes_only_its_own_side_gets_its_answer() {
    let gateway = Gateway::start();
    for (tokens, stream) in [(3, false), (3, true), (1900, false), (1900, true)] {
        let mut body = long_answer(tokens);
        body["stream"] = json!(stream);
        let answer = answer_to_half_closed(&gateway, "1.1", &body.to_string());
        let whole = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(whole.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(whole.contains("\"finish_reason\":\"length\""), "{answer}");
    }
    assert_eq!(gateway.metric("edgellm_requests_cancelled_total"), "0");
    let refused = answer_to_half_closed(&gateway, "1.1", "{");
    assert!(refused.contains(" 400 Bad Request\r\n"), "{refused}");
    // HTTP/1.0 has no way to ask whether anybody is there.
    let cut = answer_to_half_closed(&gateway, "1.0", &long_answer(1900).to_string());
    assert_eq!(cut, "");
}

#[test]
fn a_client_that_closes_its_own_side_and_then_leaves_frees_its_place() {
    let gateway = Gateway::start();
    let mut body = long_answer(1900);
    body["n"] = json!(8);
    let stream = gateway.send("POST", "/v1/chat/completions", &body.to_string());
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    eventually("running", || {
        gateway.metric("edgellm_requests_running") != "0"
    });
    drop(stream);
    eventually("cancelled", || {
        gateway.metric("edgellm_requests_cancelled_total") != "0"
    });
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__WRITE_TIMEOUT_SECONDS", "1"),
        ("EDGELLM__TELEMETRY__LOG_LEVEL", "debug"),
    ]);
    let mut stream = gateway.connect();
    // Answers of some 10 KB each: more than the sockets' buffers hold.
    let requests = b"GET /metrics HTTP/1.1\r\nhost: edgellm\r\n\r\n".repeat(3000);
    // The server may have given up before all of it is written.
    let _ = stream.write_all(&requests);
    gateway.log_line("connection ended");
    assert_eq!(gateway.get("/health").status, 200);
}

#[test]
fn headers_that_never_end_are_cut_off() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__HEADER_TIMEOUT_SECONDS", "1")]);
    let mut stream = gateway.connect();
    stream.write_all(b"POST /v1/chat/compl").expect("sent");
    let began = Instant::now();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(gateway.get("/health").status, 200);
}

#[test]
fn a_body_that_never_ends_is_a_408() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__BODY_TIMEOUT_SECONDS", "1")]);
    let mut stream = gateway.connect();
    stream
        .write_all(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: edgellm\r\nconnection: close\r\n\
              content-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"mess",
        )
        .expect("sent");
    let response = read(stream);
    assert_eq!(response.status, 408);
    assert_eq!(response.json()["error"]["type"], "timeout_error");
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__MAX_CONNECTIONS", "2"),
        ("EDGELLM__SERVER__MAX_CONNECTIONS_PER_ADDRESS", "2"),
    ]);
    let idle = [gateway.connect(), gateway.connect()];
    let waiting = gateway.send("GET", "/health", "");
    drop(idle);
    assert_eq!(read(waiting).status, 200);
}

#[test]
fn a_full_queue_is_a_503_that_says_when_to_come_back() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__MODELS__MAX_RUNNING", "1"),
        ("EDGELLM__ADMISSION__MAX_WAITING", "0"),
    ]);
    let first = gateway.send(
        "POST",
        "/v1/chat/completions",
        &long_answer(1900).to_string(),
    );
    eventually("running", || {
        gateway.metric("edgellm_requests_running") == "1"
    });
    let refused = gateway.chat(&question("hello"));
    assert_eq!(refused.status, 503);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("overloaded_error"), &json!("queue_full"))
    );
    assert!(refused.head.contains("retry-after: "));
    assert_eq!(gateway.get("/ready").status, 503);
    assert_eq!(read(first).status, 200);
    assert_eq!(gateway.get("/ready").status, 200);
}

#[test]
fn endless_lists_are_refused_before_they_cost_every_token() {
    let gateway = Gateway::start();
    for (param, value) in [
        ("stop", json!(["x".repeat(1025)])),
        ("stop", json!(vec!["x"; 65])),
        ("stop_token_ids", json!(vec![1; 1025])),
    ] {
        let mut body = question("hello");
        body[param] = value;
        let response = gateway.chat(&body);
        assert_eq!(response.status, 400);
        assert_eq!(response.json()["error"]["param"], param);
    }
}

#[test]
fn a_message_far_beyond_the_context_is_refused_at_once() {
    let gateway = Gateway::start();
    let response = gateway.chat(&question(&"a".repeat(4 << 20 >> 1)));
    assert_eq!(response.status, 400);
    assert_eq!(response.json()["error"]["code"], "context_length_exceeded");
}

#[test]
fn a_text_to_complete_that_is_too_long_is_refused_by_its_own_name() {
    let gateway = Gateway::start();
    let body = json!({"prompt": vec![300; 2048]}).to_string();
    let response = read(gateway.send("POST", "/v1/completions", &body));
    assert_eq!(response.status, 400);
    let error = &response.json()["error"];
    assert_eq!(error["param"], "prompt");
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(!response.body.contains("messages"), "{}", response.body);
}

#[test]
fn hostile_bodies_are_refused_and_the_server_goes_on() {
    let gateway = Gateway::start();
    let deep = format!(
        "{{\"messages\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let large = format!("{{\"messages\":\"{}\"}}", "x".repeat(5 << 20));
    for (body, status) in [
        ("", 400),
        ("null", 400),
        ("[]", 400),
        (
            "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}",
            400,
        ),
        (deep.as_str(), 400),
        (large.as_str(), 413),
    ] {
        let response = read(gateway.send("POST", "/v1/chat/completions", body));
        assert_eq!(response.status, status, "{}", response.body);
        assert!(response.json()["error"]["message"].is_string());
    }
    assert_eq!(gateway.chat(&question("hello")).status, 200);
}
