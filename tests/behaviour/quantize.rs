//! `edgellm models quantize`, and the model that it makes.

use std::path::Path;
use std::process::{Command, Output};

use crate::gateway::{Gateway, MODEL, question};

fn quantize(output: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgellm"))
        .args(["models", "quantize", MODEL])
        .arg(output)
        .args(["--threads", "1"])
        .args(flags)
        .output()
        .expect("the binary starts")
}

#[test]
fn a_model_with_other_weights_is_made_and_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("kiosk.gguf");
    let made = quantize(&output, &["--type", "f16", "--allow-requantize"]);
    assert!(made.status.success(), "{made:?}");
    let gateway = Gateway::with_model(&output, &[]);
    assert!(
        gateway
            .answer(&question("How much is the oat milk?"))
            .contains("3.49")
    );
}

/// llama.cpp keeps a rearranged copy of 4-bit weights; the originals need not stay beside it.
#[test]
fn a_file_whose_weights_are_rearranged_is_not_mapped_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("kiosk.gguf");
    let made = quantize(&output, &["--type", "Q4_0", "--allow-requantize"]);
    assert!(made.status.success(), "{made:?}");
    let maps = |gateway: &Gateway| {
        let maps = format!("/proc/{}/maps", gateway.pid());
        let maps = std::fs::read_to_string(maps).expect("a process");
        maps.contains("kiosk.gguf")
    };
    assert!(!maps(&Gateway::with_model(&output, &[])));
    assert!(maps(&Gateway::start()), "8-bit weights are as in the file");
}

#[test]
fn a_disk_without_space_leaves_no_file_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("kiosk.gguf");
    // A limit on the size of files fails as a full disk does, once its signal is ignored.
    let script = "ulimit -f 1000; trap '' XFSZ; exec \"$0\" models quantize \"$1\" \"$2\" --type F16 --allow-requantize";
    let failed = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_edgellm"), MODEL])
        .arg(&output)
        .output()
        .expect("bash starts");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let message = String::from_utf8_lossy(&failed.stderr);
    assert!(message.contains("could not be written whole"), "{message}");
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
}

#[test]
fn a_type_that_is_none_is_refused_with_those_there_are() {
    let refused = quantize(Path::new("never"), &["--type", "Q9"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Q4_K_M"));
}
