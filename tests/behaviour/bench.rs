//! The load generator against the server.

use std::process::Command;

use serde_json::Value;

use crate::gateway::Gateway;

#[test]
fn a_burst_of_kiosks_is_answered_and_measured() {
    let gateway = Gateway::start();
    let url = format!("http://{}", gateway.address);
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args([
            "bench",
            &url,
            "--clients",
            "4",
            "--questions",
            "2",
            "--json",
        ])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let parts = &report["servers"][0]["parts"];
    for part in ["cold", "warm"] {
        assert_eq!(parts[part]["answers"], 4);
        assert_eq!(parts[part]["errors"], 0);
        assert!(parts[part]["time_to_first_token"]["p50"].is_number());
    }
}

#[test]
fn a_long_prompt_among_running_answers_is_measured_for_two_servers() {
    let gateway = Gateway::start();
    let url = format!("http://{}", gateway.address);
    let flags = "--profile intruder --clients 2 --products 20 --rounds 1 --against";
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["bench", &url])
        .args(flags.split(' '))
        .arg(&url)
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(
        table.contains("long prompt among running answers"),
        "{table}"
    );
    assert!(table.contains("A better by"), "{table}");
}

#[test]
fn an_address_that_is_none_is_a_mistake_of_the_command_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["bench", "localhost:8080"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("e.g. http://127.0.0.1:8080"));
}

#[test]
fn a_flag_that_means_nothing_to_the_profile_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["bench", "http://127.0.0.1:1", "--rate", "2"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--rate"));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["bench", "http://127.0.0.1:1"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}
