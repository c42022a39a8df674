//! SIGTERM: who is still answered, and who is told to come back.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::gateway::{
    Gateway, Response, eventually, long_answer, question, read, read_all, request, stream_events,
};

const PATH: &str = "/v1/chat/completions";

fn short_answer() -> Value {
    let mut body = question("Where is the oat milk?");
    body["max_tokens"] = json!(3);
    body
}

/// Several answers together, which take longer than new requests still come in.
fn long_answers() -> Value {
    let mut body = long_answer(1900);
    body["n"] = json!(3);
    body
}

fn long_stream() -> Value {
    let mut body = long_answers();
    body["stream"] = json!(true);
    body
}

fn is_running(gateway: &Gateway) {
    eventually("running", || {
        gateway.metric("edgellm_requests_running") != "0"
    });
}

/// Waits until nobody comes in any more, and returns what a client is told then.
fn refusal(gateway: &Gateway) -> Response {
    loop {
        let response = gateway.chat(&short_answer());
        if response.status != 200 {
            return response;
        }
    }
}

/// Sends all but the end of a request, and returns that.
fn begin_to_send(gateway: &Gateway, sent: impl Fn(&str) -> usize) -> (TcpStream, String) {
    let request = request("POST", PATH, &short_answer().to_string());
    let (begin, end) = request.split_at(sent(&request));
    let mut stream = gateway.connect();
    stream.write_all(begin.as_bytes()).expect("sent");
    (stream, end.to_owned())
}

#[test]
fn a_drain_lets_streams_end_whole_and_tells_new_requests_when_to_come_back() {
    let mut gateway = Gateway::start();
    let running = gateway.send("POST", PATH, &long_stream().to_string());
    is_running(&gateway);
    gateway.signal("TERM");
    eventually("said", || gateway.get("/ready").status == 503);
    assert_eq!(gateway.get("/ready").json()["status"], "draining");
    let refused = refusal(&gateway);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "draining");
    for header in ["retry-after: 5", "connection: close"] {
        assert!(refused.head.contains(header), "{}", refused.head);
    }
    let end = stream_events(&read(running).body).pop().expect("events");
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn requests_that_were_sent_before_the_signal_are_answered() {
    let mut gateway = Gateway::start();
    let mut waiting: Vec<_> = (0..20)
        .map(|_| gateway.send("POST", PATH, &short_answer().to_string()))
        .collect();
    // The heads of these were sent.
    let slow: Vec<_> = (0..5)
        .map(|_| begin_to_send(&gateway, |request| request.len() - 10))
        .collect();
    let running = gateway.send("POST", PATH, &long_stream().to_string());
    gateway.signal("TERM");
    assert_eq!(refusal(&gateway).json()["error"]["code"], "draining");
    for (mut stream, end) in slow {
        stream.write_all(end.as_bytes()).expect("sent");
        waiting.push(stream);
    }
    for stream in waiting {
        let response = read(stream);
        assert_eq!(response.status, 200, "{}", response.body);
    }
    stream_events(&read(running).body);
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn connections_that_waited_to_be_accepted_at_the_signal_are_answered() {
    let mut gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__MAX_CONNECTIONS", "3"),
        ("EDGELLM__SERVER__MAX_CONNECTIONS_PER_ADDRESS", "3"),
    ]);
    let mut body = long_stream();
    body["n"] = json!(1);
    let running: Vec<_> = (0..3)
        .map(|_| gateway.send("POST", PATH, &body.to_string()))
        .collect();
    // No connection is left to ask with.
    let waiting: Vec<_> = (0..12)
        .map(|_| gateway.send("POST", PATH, &short_answer().to_string()))
        .collect();
    gateway.signal("TERM");
    gateway.log_line("draining: no new requests");
    for stream in running {
        stream_events(&read(stream).body);
    }
    for stream in waiting {
        let response = read(stream);
        assert_eq!(response.status, 200, "{}", response.body);
    }
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn what_was_pipelined_behind_a_long_answer_is_answered() {
    let mut gateway = Gateway::start();
    let keep_alive = |body: &Value| {
        request("POST", PATH, &body.to_string()).replace("connection: close\r\n", "")
    };
    let mut stream = gateway.connect();
    let requests = [long_answers(), short_answer(), short_answer()].map(|body| keep_alive(&body));
    stream
        .write_all(requests.concat().as_bytes())
        .expect("sent");
    is_running(&gateway);
    gateway.signal("TERM");
    assert_eq!(refusal(&gateway).json()["error"]["code"], "draining");
    let answers = read_all(stream);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 3]);
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut gateway = Gateway::start();
    let _running = gateway.send("POST", PATH, &long_stream().to_string());
    is_running(&gateway);
    gateway.ends_at_once_when_asked_twice();
}
