//! A model's step that takes longer than `server.stall_timeout_seconds`.

use std::net::TcpStream;

use serde_json::json;

use crate::gateway::{Gateway, eventually};

/// Computes thousands of tokens in one step, which takes seconds, and each further step longer.
fn with_long_steps() -> Gateway {
    Gateway::with_env(&[
        ("EDGELLM__MODELS__CONTEXT", "65536"),
        ("EDGELLM__MODELS__MAX_RUNNING", "64"),
        ("EDGELLM__SCHEDULER__MAX_BATCH_TOKENS", "8192"),
        ("EDGELLM__SCHEDULER__TARGET_INTER_TOKEN_MS", "10000"),
        ("EDGELLM__SERVER__STALL_TIMEOUT_SECONDS", "1"),
    ])
}

/// Asks for one token behind each of many long prompts that have nothing in common.
fn ask_for_long_steps(gateway: &Gateway) -> TcpStream {
    let prompts: Vec<String> = (0..32)
        .map(|number| format!("{number} {}", "Milk is in aisle four. ".repeat(250)))
        .collect();
    let body = json!({"prompt": prompts, "max_tokens": 1});
    gateway.send("POST", "/v1/completions", &body.to_string())
}

#[test]
fn health_is_503_while_a_step_takes_longer_than_is_configured() {
    let gateway = with_long_steps();
    assert_eq!(gateway.get("/health").status, 200);
    let asked = ask_for_long_steps(&gateway);
    eventually("stuck", || gateway.get("/health").status == 503);
    let models = &gateway.get("/health").json()["models"];
    // Unless the step has ended just now.
    assert!(models.is_null() || *models == json!([{"model": "kiosk", "reason": "stuck"}]));
    drop(asked);
    eventually("well again", || gateway.get("/health").status == 200);
}

#[test]
fn a_second_signal_does_not_wait_for_a_step() {
    let mut gateway = with_long_steps();
    let _asked = ask_for_long_steps(&gateway);
    eventually("stuck", || gateway.get("/health").status == 503);
    gateway.ends_at_once_when_asked_twice();
}
