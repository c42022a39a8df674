//! Clients that vanish at every stage of a request: nothing of them is left, and others go on.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::gateway::{Gateway, eventually, long_answer, question, read, send};

const PATH: &str = "/v1/chat/completions";
const MAX_RUNNING: usize = 2;

/// A server that takes two requests and so many more at once.
fn small_gateway(max_waiting: usize) -> Gateway {
    Gateway::with_env(&[
        ("EDGELLM__MODELS__MAX_RUNNING", &MAX_RUNNING.to_string()),
        ("EDGELLM__ADMISSION__MAX_WAITING", &max_waiting.to_string()),
        // A long prompt takes dozens of steps.
        ("EDGELLM__SCHEDULER__MAX_BATCH_TOKENS", "18"),
    ])
}

fn waits_for(gateway: &Gateway, gauge: &str, value: &str) {
    eventually(&format!("{gauge} {value}"), || {
        gateway.metric(gauge) == value
    });
}

/// No row, no place at the gate and no cell is taken: as many as ever are answered together. One whose client left while
/// its prompt was laid out has its place until that is done, and shows in no gauge.
fn nothing_is_left(gateway: &Gateway, max_waiting: usize) {
    waits_for(gateway, "edgellm_requests_running", "0");
    waits_for(gateway, "edgellm_requests_waiting", "0");
    waits_for(gateway, "edgellm_kv_cache_usage_ratio", "0");
    let mut body = question("hello");
    body["max_tokens"] = json!(2);
    let body = body.to_string();
    eventually("all places are free", || {
        let asked: Vec<_> = (0..MAX_RUNNING + max_waiting)
            .map(|_| gateway.send("POST", PATH, &body))
            .collect();
        let statuses: Vec<_> = asked.into_iter().map(|it| read(it).status).collect();
        assert!(
            statuses.iter().all(|status| [200, 503].contains(status)),
            "{statuses:?}"
        );
        statuses.iter().all(|status| *status == 200)
    });
    // The gauge follows at the end of a step, after the answers: who looks next must not see these.
    waits_for(gateway, "edgellm_requests_running", "0");
}

fn streamed(mut body: Value) -> String {
    body["stream"] = json!(true);
    body.to_string()
}

/// Asks for a stream and leaves once a line of it holds `text`.
fn leave_at(address: SocketAddr, body: &str, text: &str) {
    let stream = send(address, "POST", PATH, body);
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(text)), "no {text}");
}

#[test]
fn clients_that_vanish_from_the_queue_leave_nothing_and_those_before_them_go_on() {
    let gateway = small_gateway(4);
    let running: Vec<_> = (0..2)
        .map(|_| gateway.send("POST", PATH, &streamed(long_answer(1900))))
        .collect();
    waits_for(&gateway, "edgellm_requests_running", "2");
    for _ in 0..3 {
        let queued: Vec<_> = (0..4)
            .map(|_| gateway.send("POST", PATH, &long_answer(1900).to_string()))
            .collect();
        waits_for(&gateway, "edgellm_requests_waiting", "4");
        drop(queued);
        waits_for(&gateway, "edgellm_requests_waiting", "0");
    }
    for stream in running {
        assert!(read(stream).body.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(gateway.metric("edgellm_requests_cancelled_total"), "12");
    nothing_is_left(&gateway, 4);
}

#[test]
fn clients_that_vanish_while_their_prompts_are_computed_leave_nothing() {
    let gateway = small_gateway(4);
    for round in 0..3 {
        let leaving: Vec<TcpStream> = (0..2)
            .map(|client| {
                // They have nothing in common, or one would wait for the other's prompt.
                let milk = "Milk is in aisle four. ".repeat(250);
                let body = json!({"prompt": format!("{client}{round} {milk}"), "max_tokens": 200, "ignore_eos": true});
                gateway.send("POST", "/v1/completions", &body.to_string())
            })
            .collect();
        waits_for(&gateway, "edgellm_requests_running", "2");
        drop(leaving);
        nothing_is_left(&gateway, 4);
    }
    // A closed connection is probed after half a second; a fast machine may have ended an answer by then.
    let cancelled: u32 = gateway
        .metric("edgellm_requests_cancelled_total")
        .parse()
        .expect("a count");
    assert!((1..=6).contains(&cancelled), "{cancelled}");
}

#[test]
fn clients_that_vanish_at_any_token_leave_nothing() {
    // Room for those that come while others still leave.
    let gateway = small_gateway(60);
    let address = gateway.address;
    for round in 0..10 {
        let tokens = 1 + round % 3;
        let leaving: Vec<_> = [
            "\"role\":\"assistant\"",
            "\"content\":",
            "\"finish_reason\":\"length\"",
            "[DONE]",
        ]
        .map(|text| {
            let body = streamed(long_answer(tokens));
            std::thread::spawn(move || leave_at(address, &body, text))
        })
        .into();
        // And one that never reads its whole answer, which may be on its way.
        drop(gateway.send("POST", PATH, &long_answer(tokens).to_string()));
        for client in leaving {
            client.join().expect("it came so far");
        }
    }
    nothing_is_left(&gateway, 60);
}
