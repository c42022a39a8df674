//! Whether a process survives asking for Landlock. A filter of system calls that does not know the calls may end it, as
//! systemd's do unless the unit says otherwise, and a server that has been updated may be under an older unit.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use landlock::{
    AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
};

/// The hidden subcommand that runs [`probe`].
pub const COMMAND: &str = "sandbox-probe";

/// Makes all calls that the sandbox makes. What comes of them says nothing; that this returns does.
pub fn probe() {
    let _ = restrict();
}

fn restrict() -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::MakeSym)?
        .create()?;
    if let Ok(root) = PathFd::new("/") {
        ruleset = ruleset.add_rule(PathBeneath::new(root, AccessFs::MakeSym))?;
    }
    ruleset.restrict_self().map(drop)
}

/// Has a child process ask first, where there is a filter.
pub(super) fn is_survived() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !is_filtered(&status) {
        return true;
    }
    let probe = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.signal().is_none())
}

/// Whether there is a filter of system calls, by `/proc/PID/status` (`proc_pid_status(5)`).
fn is_filtered(status: &str) -> bool {
    let mut lines = status.lines();
    lines.any(|line| {
        let mode = line.strip_prefix("Seccomp:");
        mode.is_some_and(|mode| mode.trim() != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_system_calls_is_seen() {
        assert!(is_filtered(
            "Name:\tedgellm\nSeccomp:\t2\nSeccomp_filters:\t1\n"
        ));
        assert!(!is_filtered(
            "Name:\tedgellm\nSeccomp:\t0\nSeccomp_filters:\t0\n"
        ));
        assert!(!is_filtered("Name:\tedgellm\n"));
    }
}
