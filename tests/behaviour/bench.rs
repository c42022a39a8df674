//! The load generator against the server.

use std::process::Command;

use serde_json::Value;

use crate::gateway::Gateway;

#[test]
fn a_burst_of_kiosks_is_answered_and_measured() {
    let gateway = Gateway::start();
    let url = format!("http://{}", gateway.address);
    let output = Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["bench", &url, "--clients", "4", "--rounds", "1", "--json"])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for round in ["cold", "warm"] {
        assert_eq!(report[round]["answers"], 4);
        assert_eq!(report[round]["errors"], 0);
        assert!(report[round]["time_to_first_token"]["p50"].is_number());
    }
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
