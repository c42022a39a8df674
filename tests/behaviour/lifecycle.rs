//! Starting and stopping.

use std::io::Read;
use std::path::Path;

use serde_json::json;

use crate::gateway::{Gateway, MODEL, long_answer, question};

#[test]
fn when_the_grace_time_is_over_streams_end_with_an_error() {
    let mut gateway = Gateway::with_env(&[("EDGELLM__SERVER__SHUTDOWN_GRACE_SECONDS", "0")]);
    let mut body = long_answer(1900);
    body["stream"] = json!(true);
    let mut running = gateway.send("POST", "/v1/chat/completions", &body.to_string());
    running.read_exact(&mut [0; 64]).expect("it has begun");
    gateway.signal("TERM");
    let mut rest = String::new();
    running.read_to_string(&mut rest).expect("the end");
    assert!(rest.contains("\"code\":\"draining\""), "{rest}");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn every_log_line_of_a_request_carries_its_id_and_none_its_words() {
    let gateway = Gateway::start();
    let mut body = question("Where is the purple umbrella?");
    body["max_tokens"] = json!(3);
    let response = gateway.chat(&body);
    let id = response
        .head
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .expect("an id")
        .to_owned();
    let line = gateway.log_line("answered");
    assert!(line.contains(&id), "{line}");
    assert!(!line.contains("umbrella"));
}

#[test]
fn what_a_client_got_wrong_is_logged_without_its_words() {
    let gateway = Gateway::start();
    let body = json!({"messages": "my secret illness"});
    assert_eq!(gateway.chat(&body).status, 400);
    let line = gateway.log_line("answered");
    assert!(line.contains("invalid_request_error: messages"), "{line}");
    assert!(!line.contains("illness"));
}

#[test]
fn whoever_starts_in_vain_is_told_why_even_without_a_log() {
    let model = Path::new("/nowhere/model.gguf");
    for level in ["info", "off"] {
        let mut gateway = Gateway::launch(model, &[("EDGELLM__TELEMETRY__LOG_LEVEL", level)]);
        gateway.log_line("/nowhere/model.gguf");
        assert_eq!(gateway.exit_code(), Some(1));
    }
}

#[test]
fn a_model_whose_context_has_no_room_for_a_question_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("short.gguf");
    let mut file = std::fs::read(MODEL).expect("the shipped model");
    let key = b"qwen3.context_length";
    let at = file.windows(key.len()).position(|bytes| bytes == key);
    // Behind the key stands the type of its value.
    let value = at.expect("the key") + key.len() + 4;
    file[value..value + 4].copy_from_slice(&8_u32.to_le_bytes());
    std::fs::write(&path, file).expect("written");
    let mut gateway = Gateway::launch(&path, &[]);
    gateway.log_line("less than 16 tokens");
    assert_eq!(gateway.exit_code(), Some(1));
}

#[test]
fn sigterm_while_a_model_loads_ends_the_process() {
    // Takes minutes to read: it begins with a model, and goes on with zeros.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endless.gguf");
    std::fs::copy(MODEL, &path).expect("copied");
    let file = std::fs::File::options().append(true).open(&path);
    file.expect("opened").set_len(1 << 40).expect("sparse");
    let mut gateway = Gateway::launch(&path, &[]);
    gateway.log_line("listening");
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}
