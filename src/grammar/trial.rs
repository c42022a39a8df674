//! Compiles clients' grammars on trial in child processes, apart from the server.
//!
//! A compiler that recurses too deep or runs out of memory ends its process, and one that does not
//! end cannot be stopped in a thread. So a new grammar is first compiled in a small child process of
//! this same program, with limits of memory, stack and time, and only a grammar that passes is compiled
//! here. The child cannot send its result: llguidance has no way to serialize a compiled grammar. That
//! costs the time of compiling once more, some milliseconds for a new grammar, and nothing for a cached
//! one.
//!
//! The child lives on for the next grammar. It reads requests from its standard input and writes
//! verdicts to its standard output, and ends when its input does.

mod child;
mod frame;

use std::fmt::Write as _;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::GrammarError;
use super::compile::{FIRST_SPECIAL, SPECIALS};
use crate::sync::{Mutex, MutexGuard};

pub use child::{MEMORY as TRIAL_MEMORY, serve};
use frame::{TrialVerdict, VERDICT_HEAD, request_head};

/// The hidden subcommand that runs [`serve`].
pub const COMMAND: &str = "compile-grammars";

/// The signal that ends a process which used more processor time than it may.
const OUT_OF_TIME: i32 = libc::SIGXCPU;

/// Child processes that compile grammars on trial. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrialCompiler(Arc<ProcessPool>);

#[derive(Debug)]
struct ProcessPool {
    program: PathBuf,
    /// Processes that wait for a grammar, as many as ever worked at once.
    idle: Mutex<Vec<TrialProcess>>,
}

#[derive(Debug)]
struct TrialProcess {
    /// Killed when it is dropped.
    child: Child,
    requests: ChildStdin,
    verdicts: ChildStdout,
}

impl TrialCompiler {
    /// Makes a trial compiler whose children run this same program.
    ///
    /// # Errors
    /// When the system does not say where the program is.
    pub fn of_this_program() -> io::Result<Self> {
        // By this name the running program is found also after its file was replaced by an update.
        let itself = PathBuf::from("/proc/self/exe");
        if itself.exists() {
            return Ok(Self::of(itself));
        }
        std::env::current_exe().map(Self::of)
    }

    /// Makes a trial compiler whose children run the edgellm at this path.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        Self(Arc::new(ProcessPool {
            program,
            idle: Mutex::default(),
        }))
    }

    /// Compiles a grammar in a child process for at most `longest`; returns the memory that it takes, in
    /// bytes.
    pub(super) async fn try_out(
        &self,
        text: &str,
        longest: Duration,
    ) -> Result<usize, GrammarError> {
        // An idle process may have been killed meanwhile, by the system or by a person.
        if let Some(process) = self.take_idle()
            && let Ok(verdict) = self.ask(process, text, longest).await
        {
            return verdict;
        }
        let process = self.start()?;
        let verdict = self.ask(process, text, longest).await;
        verdict.unwrap_or_else(|status| {
            tracing::warn!(status, "a grammar ended the process that compiled it");
            Err(GrammarError::TooLarge)
        })
    }

    /// Returns the verdict, or else how the process ended without one.
    async fn ask(
        &self,
        mut process: TrialProcess,
        text: &str,
        longest: Duration,
    ) -> Result<Result<usize, GrammarError>, String> {
        let trial = on_trial(text);
        match tokio::time::timeout(longest, process.ask(&trial)).await {
            Ok(Ok(verdict)) => {
                self.idle().push(process);
                Ok(verdict)
            }
            Err(_) => {
                // Dropping the process kills it. A new one is started at once for the next grammar.
                drop(process);
                self.warm_up();
                Ok(Err(GrammarError::TooSlow))
            }
            Ok(Err(error)) => {
                // Where the process has ended already, `wait` still returns how it ended itself.
                let _ = process.child.start_kill();
                match process.child.wait().await {
                    Ok(status) if status.signal() == Some(OUT_OF_TIME) => {
                        Ok(Err(GrammarError::TooSlow))
                    }
                    Ok(status) => Err(status.to_string()),
                    Err(_) => Err(error.to_string()),
                }
            }
        }
    }

    /// Starts an idle process, so that the next grammar need not wait for one.
    pub fn warm_up(&self) {
        match self.start() {
            Ok(process) => self.idle().push(process),
            Err(error) => tracing::debug!(%error, "no process for grammars yet"),
        }
    }

    fn take_idle(&self) -> Option<TrialProcess> {
        self.idle().pop()
    }

    fn start(&self) -> Result<TrialProcess, GrammarError> {
        let failed = |error: io::Error| {
            tracing::error!(%error, "no process to compile grammars in");
            GrammarError::Unavailable
        };
        let mut child = Command::new(&self.0.program)
            .arg0("edgellm")
            .arg(COMMAND)
            // It needs no secrets, and must not read the server's configuration.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let missing = || failed(io::ErrorKind::BrokenPipe.into());
        let requests = child.stdin.take().ok_or_else(missing)?;
        let verdicts = child.stdout.take().ok_or_else(missing)?;
        Ok(TrialProcess {
            child,
            requests,
            verdicts,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<TrialProcess>> {
        self.0.idle.lock()
    }
}

/// Replaces the model's tokens that our rules name by number with tokens of the child's vocabulary, which
/// has no model but single bytes. Clients' words stand in lines with `%json`, which stay as they are.
fn on_trial(text: &str) -> String {
    let mut numbers: Vec<&str> = Vec::new();
    let mut trial = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.contains("%json") {
            trial.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some((before, number, after)) = next_token(rest) {
            let known = numbers.iter().position(|other| *other == number);
            let index = known.unwrap_or_else(|| {
                numbers.push(number);
                numbers.len() - 1
            });
            trial.push_str(before);
            // A format has few tags, so each gets a token of its own.
            let token = FIRST_SPECIAL + u32::try_from(index).unwrap_or(0) % SPECIALS;
            // Writing to a string cannot fail.
            let _ = write!(trial, "<[{token}]>");
            rest = after;
        }
        trial.push_str(rest);
    }
    trial
}

/// Returns the first token that is named by number (`<[7]>`), with what stands before and after it.
fn next_token(rules: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = rules.split_once("<[")?;
    let (number, after) = rest.split_once("]>")?;
    Some((before, number, after))
}

impl TrialProcess {
    async fn ask(&mut self, text: &str) -> io::Result<Result<usize, GrammarError>> {
        self.requests.write_all(&request_head(text)).await?;
        self.requests.write_all(text.as_bytes()).await?;
        self.requests.flush().await?;
        let mut head = [0; VERDICT_HEAD];
        self.verdicts.read_exact(&mut head).await?;
        let verdict = TrialVerdict::read(head)?;
        let mut message = vec![0; verdict.message_length];
        self.verdicts.read_exact(&mut message).await?;
        if verdict.is_sound {
            return Ok(Ok(verdict.memory));
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        Ok(Err(GrammarError::Refused(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn tokens_get_numbers_of_the_trial_and_clients_words_stay() {
        let rules = "call: <[151657]> a <[151658]> | <[151657]>\na: %json {\"const\": \"<[9]>\"}\n";
        let trial = "call: <[257]> a <[258]> | <[257]>\na: %json {\"const\": \"<[9]>\"}\n";
        assert_eq!(on_trial(rules), trial);
        assert_eq!(on_trial("a: \"<[\" b"), "a: \"<[\" b");
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_refuses_and_one_that_is_not_there_says_so() {
        let ends = TrialCompiler::of(PathBuf::from("/bin/true"));
        let verdict = ends.try_out("start: \"a\"", LONG).await;
        assert_eq!(verdict, Err(GrammarError::TooLarge));
        let missing = TrialCompiler::of(PathBuf::from("/nowhere/edgellm"));
        let verdict = missing.try_out("start: \"a\"", LONG).await;
        assert_eq!(verdict, Err(GrammarError::Unavailable));
    }

    #[tokio::test]
    async fn a_program_that_answers_something_else_is_not_believed() {
        // `cat` sends the request back, whose first byte is no verdict's.
        let echo = TrialCompiler::of(PathBuf::from("/bin/cat"));
        let verdict = echo.try_out("start: \"a\"", LONG).await;
        assert_eq!(verdict, Err(GrammarError::TooLarge));
    }
}
