//! Far more clients at once than the server has places for.

use std::io::Read;
use std::net::SocketAddr;
use std::thread::{Builder, JoinHandle};

use serde_json::json;

use crate::gateway::{Gateway, eventually, long_answer, question, send};

const CLIENTS: usize = 400;
/// What later floods may add to the memory that the first one took.
const MOST_GROWTH_MEGABYTES: u64 = 64;

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    ToldToComeBack,
}

/// Asks as a client of its own, and panics unless it gets a whole answer or is told when to come back.
fn ask(address: SocketAddr, number: usize) -> Outcome {
    let mut body = long_answer(8);
    body["stream"] = json!(number.is_multiple_of(2));
    let text = format!("{number}: {}", "is there any milk? ".repeat(number % 40));
    body["messages"][1]["content"] = json!(text);
    let mut stream = send(address, "POST", "/v1/chat/completions", &body.to_string());
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("no reset");
    let text = String::from_utf8(bytes).expect("text");
    let is_whole = text.contains("\"finish_reason\":\"length\"")
        && (text.contains("data: [DONE]") || text.ends_with('}'));
    match text.get(9..12) {
        Some("200") if is_whole => Outcome::Answered,
        Some("429" | "503") if text.contains("\r\nretry-after: ") => Outcome::ToldToComeBack,
        _ => panic!("client {number} got: {text}"),
    }
}

fn flood(address: SocketAddr) -> Vec<Outcome> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            Builder::new()
                .stack_size(256 << 10)
                .spawn(move || ask(address, number))
                .expect("a thread")
        })
        .collect();
    let outcomes = clients.into_iter().map(JoinHandle::join);
    outcomes
        .map(|outcome| outcome.expect("as it should be"))
        .collect()
}

/// Memory in megabytes, without the prompts that are kept on purpose: the clients that are answered are others
/// each time, and so are the prompts that are parked, up to `scheduler.parked_bytes`.
fn memory(gateway: &Gateway) -> u64 {
    let parked = "edgellm_model_memory_bytes{kind=\"parked_prompts\",model=\"kiosk\"}";
    let parked: u64 = gateway.metric(parked).parse().expect("bytes");
    gateway.megabytes("RssAnon").saturating_sub(parked >> 20)
}

#[test]
fn four_hundred_clients_three_times_over_are_answered_or_told_when_to_come_back() {
    let gateway = Gateway::start();
    let mut after_floods = Vec::new();
    for _ in 0..3 {
        let outcomes = flood(gateway.address);
        for outcome in [Outcome::Answered, Outcome::ToldToComeBack] {
            assert!(outcomes.contains(&outcome), "none was {outcome:?}");
        }
        eventually("over", || {
            ["edgellm_requests_running", "edgellm_requests_waiting"]
                .iter()
                .all(|gauge| gateway.metric(gauge) == "0")
        });
        assert_eq!(gateway.chat(&question("hello")).status, 200);
        eventually("empty", || {
            gateway.metric("edgellm_kv_cache_usage_ratio") == "0"
        });
        after_floods.push(memory(&gateway));
    }
    eprintln!("memory in MB after each flood: {after_floods:?}");
    let most = after_floods[0] + MOST_GROWTH_MEGABYTES;
    assert!(
        after_floods.iter().all(|after| *after <= most),
        "{after_floods:?}"
    );
    assert_eq!(gateway.get("/ready").status, 200);
}
