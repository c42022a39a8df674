//! Enters the sandbox and tries it: an expectation for each attempt, and what came of it.

mod arena;
mod attempts;

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;
use std::thread;

use crate::config::Settings;

use super::Surroundings;
use super::enter::{NoSandbox, enter};
use super::needs::needs;

use arena::Arena;

/// What is to be tried.
#[derive(Debug)]
pub struct SelfTest {
    /// Those of the server. It writes into a folder of its own in place of `state.path`.
    pub settings: Settings,
    /// Where they come from.
    pub config_files: Vec<PathBuf>,
    /// No newer version of Landlock's interface is used; 0 is no sandbox at all, so that the test fails.
    pub newest_abi: u32,
    /// A subcommand that ends well when its standard input does.
    pub helper: &'static str,
}

/// What came of it.
#[derive(Debug)]
pub struct SelfTestReport {
    /// One for each attempt, for people.
    pub lines: Vec<String>,
    /// Whether the sandbox was entered and each attempt ended as it must.
    pub is_as_expected: bool,
}

/// What must come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Works,
    /// Refused by the kernel from this version of the interface on; works at earlier ones.
    DeniedSince(u32),
}

impl Expected {
    /// Always.
    const DENIED: Self = Self::DeniedSince(0);

    fn is_met(self, abi: u32, outcome: &io::Result<()>) -> bool {
        match (self, outcome) {
            (Self::Works, outcome) => outcome.is_ok(),
            (Self::DeniedSince(since), Ok(())) => abi < since,
            (Self::DeniedSince(since), Err(error)) => {
                // What is mounted for reading alone, as in a container, is refused before the sandbox is asked.
                let is_refused = matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                );
                abi >= since && is_refused
            }
        }
    }
}

impl Display for Expected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => out.write_str("must work"),
            Self::DeniedSince(0) => out.write_str("must be denied"),
            Self::DeniedSince(since) => write!(out, "must be denied from ABI {since} on"),
        }
    }
}

/// Something to try, and what must come of it.
struct Attempt {
    what: String,
    expected: Expected,
    run: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

/// Has a thread enter the sandbox of these settings and try it. This one stays outside, to clear up.
#[must_use]
pub fn self_test(test: &SelfTest) -> SelfTestReport {
    let prepared = Arena::make().and_then(|arena| {
        let mut settings = test.settings.clone();
        settings.state.path = Some(arena.state());
        let attempts = attempts::all(&settings, test, &arena)?;
        Ok((arena, settings, attempts))
    });
    let (_arena, settings, attempts) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return failed(format!("WRONG   the test cannot be prepared: {error}")),
    };
    let needs = needs(&settings, &Surroundings::look(&test.config_files));
    let newest_abi = test.newest_abi;
    let tried = thread::spawn(move || {
        let entered = enter(&needs, newest_abi).map(|entered| entered.abi);
        judge(&entered, attempts)
    });
    let crashed = |_| failed("WRONG   the test crashed".to_owned());
    tried.join().unwrap_or_else(crashed)
}

/// Tries everything.
fn judge(entered: &Result<u32, NoSandbox>, attempts: Vec<Attempt>) -> SelfTestReport {
    let abi = *entered.as_ref().unwrap_or(&0);
    let mut report = SelfTestReport {
        lines: vec![match entered {
            Ok(abi) => format!("ok      Landlock ABI {abi} is in force"),
            Err(reason) => format!("WRONG   the sandbox is not in force: {reason}"),
        }],
        is_as_expected: entered.is_ok(),
    };
    for attempt in attempts {
        let outcome = (attempt.run)();
        let is_met = attempt.expected.is_met(abi, &outcome);
        report.is_as_expected &= is_met;
        let mark = if is_met { "ok     " } else { "WRONG  " };
        let came = outcome.map_or_else(|error| error.to_string(), |()| "worked".to_owned());
        let Attempt { what, expected, .. } = attempt;
        report
            .lines
            .push(format!("{mark} {what}: {came} ({expected})"));
    }
    report
}

fn failed(line: String) -> SelfTestReport {
    SelfTestReport {
        lines: vec![line],
        is_as_expected: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_refuses_counts_as_denied() {
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        let missing = || Err(io::ErrorKind::NotFound.into());
        let at = |expected: Expected, abi, outcome| expected.is_met(abi, &outcome);
        assert!(at(Expected::DENIED, 1, denied()));
        assert!(!at(Expected::DENIED, 1, missing()));
        assert!(!at(Expected::DENIED, 1, Ok(())));
        assert!(at(Expected::DeniedSince(4), 2, Ok(())));
        assert!(!at(Expected::DeniedSince(4), 2, denied()));
        assert!(at(Expected::DeniedSince(4), 4, denied()));
        assert!(!at(Expected::Works, 7, denied()));
        assert!(at(Expected::Works, 7, Ok(())));
    }
}
