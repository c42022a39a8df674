//! Clients that read their answers slowly or not at all: what they hold, and for how long.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateway::{Gateway, PATIENCE, Response, eventually, long_answer, question, read};

/// Asks for an answer of some seven times `letters` bytes.
fn ask_for_much(gateway: &Gateway, letters: usize) -> TcpStream {
    let body = json!({"prompt": "a".repeat(letters), "return_token_strs": true});
    gateway.send("POST", "/tokenize", &body.to_string())
}

/// The status of an answer of which nothing more is read.
fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("a head");
    let text = std::str::from_utf8(&head[9..]).expect("text");
    text.parse().expect("a status")
}

#[test]
fn many_who_read_nothing_hold_little_and_others_are_answered() {
    // Two find room, each of the others waits some seconds for it.
    const SLOW: usize = 6;
    let gateway = Gateway::start();
    let before = gateway.megabytes("VmRSS");
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = ask_for_much(&gateway, 4_000_000);
        let status = status(&mut stream);
        slow.push((stream, status));
    }
    let answered = slow.iter().filter(|(_, status)| *status == 200).count();
    assert!(answered >= 2 && slow.iter().all(|(_, status)| [200, 503].contains(status)));
    assert!(answered < SLOW, "nobody was refused");
    let refused = gateway.metric("edgellm_requests_rejected_total{model=\"\",reason=\"memory\"}");
    assert_ne!(refused, "0");
    eventually("small", || gateway.megabytes("VmRSS") < before + 130);
    assert_eq!(gateway.chat(&question("hello")).status, 200);
    let some = read(ask_for_much(&gateway, 5_000));
    assert_eq!(some.status, 200, "a small answer needs no room");
    drop(slow);
    eventually("given back", || gateway.megabytes("VmRSS") < before + 90);
    assert_eq!(read(ask_for_much(&gateway, 4_000_000)).status, 200);
}

#[test]
fn who_reads_a_byte_now_and_then_is_ended_in_time() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__WRITE_TIMEOUT_SECONDS", "2"),
        ("EDGELLM__TELEMETRY__LOG_LEVEL", "debug"),
    ]);
    let began = Instant::now();
    let mut stream = ask_for_much(&gateway, 4_000_000);
    assert_eq!(status(&mut stream), 200);
    let reading = std::thread::spawn(move || {
        let mut byte = [0];
        while began.elapsed() < PATIENCE && stream.read_exact(&mut byte).is_ok() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    gateway.log_line("connection ended");
    let took = began.elapsed();
    // What the system's buffers took at first counts as read.
    assert!(
        took > Duration::from_millis(1500) && took < PATIENCE,
        "{took:?}"
    );
    assert_eq!(gateway.get("/health").status, 200);
    drop(gateway);
    // What lies in its buffer is all that it still gets.
    drop(reading);
}

#[test]
fn who_reads_slowly_but_on_gets_everything() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__WRITE_TIMEOUT_SECONDS", "1")]);
    let mut stream = ask_for_much(&gateway, 3_000_000);
    let began = Instant::now();
    let (mut answer, mut some) = (Vec::new(), vec![0; 512 << 10]);
    loop {
        let count = stream.read(&mut some).expect("it is not ended");
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&some[..count]);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "it waited longer in all than it may at once"
    );
    let text = String::from_utf8(answer).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(
        head.starts_with("HTTP/1.1 200")
            && head.contains(&format!("content-length: {}", body.len()))
    );
    let told: serde_json::Value = serde_json::from_str(body).expect("whole");
    let count = told["token_strs"].as_array().map(Vec::len);
    assert_eq!(count.map(|count| count as u64), told["count"].as_u64());
}

const LITTLE_ROOM: [(&str, &str); 2] = [
    ("EDGELLM__SERVER__MAX_UNSENT_BYTES", "1048576"),
    ("EDGELLM__MODELS__CONTEXT", "16384"),
];

/// Eight answers at once with all that can be told of each token: tens of megabytes.
fn much_to_stream() -> String {
    let mut body = long_answer(1900);
    body["stream"] = json!(true);
    body["n"] = json!(8);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    body.to_string()
}

#[test]
fn a_stream_that_nobody_reads_fails_alone_when_memory_for_it_is_used_up() {
    let gateway = Gateway::with_env(&LITTLE_ROOM);
    let unread = gateway.send("POST", "/v1/chat/completions", &much_to_stream());
    // The scheduler waits for nobody; the failure waits behind what is not read.
    eventually("made", || {
        gateway.metric("edgellm_generation_tokens_total") != "0"
            && gateway.metric("edgellm_requests_running") == "0"
    });
    assert_eq!(gateway.chat(&question("hello")).status, 200, "others go on");
    let Response { status, body, .. } = read(unread);
    assert_eq!(status, 200);
    let last = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .next_back();
    let last: serde_json::Value = serde_json::from_str(last.expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "memory", "{last}");
    assert_eq!(last["error"]["type"], "overloaded_error");
    let rejected = "edgellm_requests_rejected_total{model=\"kiosk\",reason=\"memory\"}";
    assert_eq!(gateway.metric(rejected), "1");
    // All of it was given back.
    assert_eq!(read(ask_for_much(&gateway, 100_000)).status, 200);
}

#[test]
fn a_stream_that_is_read_as_it_comes_needs_little_memory() {
    let gateway = Gateway::with_env(&LITTLE_ROOM);
    let answer = read(gateway.send("POST", "/v1/chat/completions", &much_to_stream()));
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "it broke off");
}

#[test]
fn an_answer_that_is_larger_than_all_that_may_wait_says_so() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__MAX_UNSENT_BYTES", "1048576")]);
    let refused = read(ask_for_much(&gateway, 1_000_000));
    assert_eq!(refused.status, 413);
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "answer_too_large");
    let message = error["message"].as_str().expect("words");
    assert!(message.contains("server.max_unsent_bytes"), "{message}");
}

#[test]
fn pipelined_requests_win_no_time() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__WRITE_TIMEOUT_SECONDS", "1"),
        ("EDGELLM__TELEMETRY__LOG_LEVEL", "debug"),
    ]);
    let mut stream = gateway.connect();
    let requests = b"GET /openapi.json HTTP/1.1\r\nhost: edgellm\r\n\r\n".repeat(1000);
    let mut other = stream.try_clone().expect("a clone");
    std::thread::spawn(move || {
        let mut byte = [0];
        // A byte of one answer after the other.
        while other.read_exact(&mut byte).is_ok() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    // The server may have given up before all of it is written.
    let _ = stream.write_all(&requests);
    gateway.log_line("connection ended");
    assert_eq!(gateway.get("/health").status, 200);
}
