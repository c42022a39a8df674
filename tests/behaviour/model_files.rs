//! Model files that are not what they were, or never were a model.

use std::fs::{self, OpenOptions};

use crate::gateway::{Gateway, MODEL, question};

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))] // elsewhere this file is read and not mapped
fn a_mapped_file_that_is_truncated_ends_the_process_with_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiosk.gguf");
    fs::copy(MODEL, &path).expect("copied");
    let mut gateway = Gateway::with_model(&path, &[]);
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("it is there");
    file.set_len(100_000).expect("truncated");
    // Nobody answers.
    let asked = question("How much is the oat milk?").to_string();
    let _waiting = gateway.send("POST", "/v1/chat/completions", &asked);
    let line = gateway.log_line("SIGBUS");
    assert!(line.contains("kiosk.gguf was truncated"), "{line}");
    assert!(line.contains("renaming"), "{line}");
    // By the signal, so that systemd sees a crash and starts it again.
    assert_eq!(gateway.exit_code(), None);
}

#[test]
fn a_file_that_is_cut_off_is_refused_with_the_tensor_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("half.gguf");
    let whole = fs::read(MODEL).expect("the shipped model");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    let mut gateway = Gateway::launch(&path, &[]);
    let line = gateway.log_line("half.gguf: the tensor");
    assert!(
        line.contains("cut off") && line.contains("checksum"),
        "{line}"
    );
    assert_eq!(gateway.exit_code(), Some(1));
}
