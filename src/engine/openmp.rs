//! How ggml's threads wait for each other.
//!
//! ggml meets at an OpenMP barrier after every operation, hundreds of times a
//! token. libgomp by default spins 300,000 times there before it sleeps: some
//! 20 ms on processors with a long `pause`. That never happens on a machine of
//! its own, but as soon as another program takes one of the cores every barrier
//! burns that long, and an answer of 0.1 s takes many seconds. A short spin
//! keeps the usual wait, which is microseconds, and gives the core away in the
//! other case. libgomp reads its environment before `main`, hence the restart.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Of the order of 0.1 ms.
const SPINS: &str = "2000";

/// The variable that has a child process spin no longer.
pub(super) const SHORT_SPINS: (&str, &str) = ("GOMP_SPINCOUNT", SPINS);

/// Replaces this process by itself with `GOMP_SPINCOUNT` set, unless that or
/// `OMP_WAIT_POLICY` is: then, or if it fails, it returns and nothing changes.
pub fn restart_with_short_spins() {
    let decided = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"]
        .iter()
        .any(|name| env::var_os(name).is_some());
    if decided || !cfg!(target_os = "linux") {
        return;
    }
    let mut arguments = env::args_os();
    // By its own path, so that it keeps its name in lists of processes.
    let Ok(path) = env::current_exe() else {
        return;
    };
    let mut program = Command::new(path);
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    // Returns only on failure, and then things go on as they would have.
    let _ = program.args(arguments).env("GOMP_SPINCOUNT", SPINS).exec();
}
