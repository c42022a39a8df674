//! Tries a model file in a child process before it is loaded here.
//!
//! The header's checks know what a file says of itself. What they cannot know is found by using the file once
//! where nothing else is lost: an assertion deep in llama.cpp, a product that never ends, memory without bounds,
//! a disk that fails. The child reads the vocabulary, maps the weights, and computes a few tokens in a small
//! context, with limits of memory and time. It rearranges no weights, so it takes little besides pages of the
//! file that loading needs next anyway.
//!
//! A file that passed is not tried again as long as it is the same ([`PassedFiles`]).

mod child;
mod identity;

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::model_file::ModelFile;
use super::openmp::SHORT_SPINS;
use super::{LoadError, LoadWatch};

pub use child::{TrialOutcome, try_model};
pub use identity::{FileIdentity, TrialRecord};

/// The hidden subcommand that runs [`try_model`].
pub const COMMAND: &str = "try-model";

/// Time for what does not depend on the size of a file.
const LEAST_TIME: Duration = Duration::from_secs(60);
/// Bytes a second that the slowest disk reads.
const SLOWEST_DISK: u64 = 10 << 20;
/// Between two looks at whether loading was given up.
const GLANCE: Duration = Duration::from_millis(100);
/// Bytes of a verdict, and of the last words of a child, that are kept.
const MOST_OUTPUT: u64 = 256 << 10;

/// Which files have passed, over all starts of the server.
pub trait PassedFiles: fmt::Debug + Send + Sync {
    /// Returns whether just this file has passed.
    fn have(&self, file: &TrialRecord) -> bool;

    /// Keeps that this file has passed; one that had the same path before is forgotten.
    fn remember(&self, file: TrialRecord);
}

/// Tries model files in child processes.
#[derive(Debug, Clone)]
pub struct ModelTrial {
    program: PathBuf,
    passed: Option<Arc<dyn PassedFiles>>,
}

/// What the child says on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    Passed(Vec<FileIdentity>),
    Refused(String),
}

impl ModelTrial {
    /// Makes a trial whose children run this same program. Without a memory of what passed, every file is tried
    /// each time.
    ///
    /// # Errors
    /// When the system does not say where the program is.
    pub fn of_this_program(passed: Option<Arc<dyn PassedFiles>>) -> io::Result<Self> {
        // By this name the running program is found also after its file was replaced by an update.
        let itself = PathBuf::from("/proc/self/exe");
        let program = if itself.exists() {
            itself
        } else {
            std::env::current_exe()?
        };
        Ok(Self::of(program, passed))
    }

    /// Makes a trial whose children run the edgellm at this path.
    #[must_use]
    pub fn of(program: PathBuf, passed: Option<Arc<dyn PassedFiles>>) -> Self {
        Self { program, passed }
    }

    /// Returns once the file has passed, now or at an earlier time.
    pub(super) fn pass(&self, source: &ModelFile, watch: &LoadWatch) -> Result<(), LoadError> {
        let path = source.path();
        let record =
            TrialRecord::of(source, &self.program).map_err(|source| unreadable(path, source))?;
        if let Some(passed) = &self.passed
            && passed.have(&record)
        {
            return Ok(());
        }
        let files = self.run(path, source.header().file_bytes, watch)?;
        if files != record.files {
            return Err(failed(path, "it was replaced while it was looked at"));
        }
        if let Some(passed) = &self.passed {
            passed.remember(record);
        }
        Ok(())
    }

    /// Returns what the child had before it, if that passed.
    fn run(
        &self,
        path: &Path,
        bytes: u64,
        watch: &LoadWatch,
    ) -> Result<Vec<FileIdentity>, LoadError> {
        let started = Instant::now();
        let deadline = started + time_for(bytes);
        let mut child = self.start(path, bytes).map_err(LoadError::NoTrial)?;
        let ended = wait(&mut child, deadline, watch);
        // It has ended, or is to end.
        let _ = child.kill();
        let status = child.wait().map_err(LoadError::NoTrial)?;
        let ended = match ended {
            Wait::Ended(ended) => ended,
            Wait::Abandoned => return Err(LoadError::Abandoned),
            Wait::TooLong => {
                let seconds = time_for(bytes).as_secs();
                return Err(failed(path, &format!("it took more than {seconds} s")));
            }
        };
        let verdict = serde_json::from_slice(&ended.verdict);
        tracing::debug!(
            model = %path.display(),
            seconds = started.elapsed().as_secs_f64(),
            "tried in a child process"
        );
        match (status.success(), verdict) {
            (true, Ok(Verdict::Passed(files))) => Ok(files),
            (true, Ok(Verdict::Refused(message))) => Err(LoadError::RefusedOnTrial(message)),
            _ => Err(failed(path, &end_in_words(status, &ended.last_words))),
        }
    }

    fn start(&self, path: &Path, bytes: u64) -> io::Result<Child> {
        Command::new(&self.program)
            .arg0("edgellm")
            .arg(COMMAND)
            .arg(path)
            .arg(time_for(bytes).as_secs().to_string())
            // It needs no secrets, and must not read the server's configuration.
            .env_clear()
            // It would start a debugger where there is one.
            .env("GGML_NO_BACKTRACE", "1")
            .env(SHORT_SPINS.0, SHORT_SPINS.1)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

fn time_for(bytes: u64) -> Duration {
    LEAST_TIME + Duration::from_secs(bytes / SLOWEST_DISK)
}

enum Wait {
    Ended(Ended),
    Abandoned,
    TooLong,
}

#[derive(Default)]
struct Ended {
    verdict: Vec<u8>,
    last_words: Vec<u8>,
}

/// Waits until the child has closed what it writes to.
fn wait(child: &mut Child, deadline: Instant, watch: &LoadWatch) -> Wait {
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Wait::Ended(Ended::default());
    };
    let (said, all) = channel();
    // Both end when the child does, which is killed if it does not end by itself.
    thread::spawn(move || {
        let errors = thread::spawn(move || read(errors));
        let ended = Ended {
            verdict: read(output),
            last_words: errors.join().unwrap_or_default(),
        };
        // Nobody waits any more.
        let _ = said.send(ended);
    });
    loop {
        match all.recv_timeout(GLANCE) {
            Ok(ended) => return Wait::Ended(ended),
            Err(RecvTimeoutError::Disconnected) => return Wait::Ended(Ended::default()),
            Err(RecvTimeoutError::Timeout) if watch.is_given_up() => {
                return Wait::Abandoned;
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => return Wait::TooLong,
            // It does not go on for ever: there is the deadline.
            Err(RecvTimeoutError::Timeout) => watch.moved(),
        }
    }
}

/// Reads until the other side ends; what is too much is read and forgotten.
fn read(mut input: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = (&mut input).take(MOST_OUTPUT).read_to_end(&mut bytes);
    let _ = io::copy(&mut input, &mut io::sink());
    bytes
}

/// How a child ended that gave no verdict.
fn end_in_words(status: ExitStatus, last_words: &[u8]) -> String {
    let last_words = String::from_utf8_lossy(last_words);
    let told = last_words
        .lines()
        .rev()
        .find(|line| line.contains("GGML_") || line.contains("memory allocation"))
        // A path of the machine that compiled llama.cpp comes first.
        .map(|line| line.rsplit_once('/').map_or(line, |(_, rest)| rest).trim());
    let how = match status.signal() {
        Some(libc::SIGXCPU) => "it took too much time".to_owned(),
        Some(libc::SIGBUS) => "it became shorter meanwhile, or its disk fails".to_owned(),
        Some(libc::SIGKILL) => "the system ended it, most often for want of memory".to_owned(),
        _ => format!("it ended the process ({status})"),
    };
    match told {
        Some(told) => format!("{how}: {told}"),
        None => how,
    }
}

fn failed(path: &Path, fault: &str) -> LoadError {
    LoadError::FailedTrial {
        path: path.to_owned(),
        fault: fault.to_owned(),
    }
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    LoadError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {

    use crate::sync::Mutex;

    use super::super::gguf_editor::KIOSK;
    use super::*;

    #[derive(Debug, Default)]
    struct Memory(Mutex<Vec<TrialRecord>>);

    impl PassedFiles for Memory {
        fn have(&self, file: &TrialRecord) -> bool {
            self.0.lock().contains(file)
        }

        fn remember(&self, file: TrialRecord) {
            self.0.lock().push(file);
        }
    }

    /// A child that ends without a verdict, as after a crash.
    const WITHOUT_A_WORD: &str = "/bin/false";

    #[test]
    fn a_file_whose_trial_ends_without_a_verdict_is_refused_by_name_and_not_remembered() {
        let memory = Arc::new(Memory::default());
        let trial = ModelTrial::of(WITHOUT_A_WORD.into(), Some(Arc::clone(&memory) as _));
        let source = ModelFile::open(Path::new(KIOSK)).expect("it ships");
        let error = trial.pass(&source, &LoadWatch::default());
        let text = error.expect_err("it was not tried").to_string();
        assert!(text.contains("kiosk.gguf"), "{text}");
        assert!(memory.0.lock().is_empty());
    }

    #[test]
    fn a_file_that_has_passed_is_not_tried_again() {
        let source = ModelFile::open(Path::new(KIOSK)).expect("it ships");
        let memory = Memory::default();
        let record = TrialRecord::of(&source, Path::new(WITHOUT_A_WORD));
        memory.remember(record.expect("a file"));
        let trial = ModelTrial::of(WITHOUT_A_WORD.into(), Some(Arc::new(memory)));
        let passed = trial.pass(&source, &LoadWatch::default());
        passed.expect("nothing is run");
    }
}
