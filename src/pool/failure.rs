//! Why a model could not be loaded, and when it is tried again.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::decision::MemoryShortage;

/// After the first failure a model is tried again so soon; each further failure doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Why a model could not be loaded.
#[derive(Debug, Clone)]
pub struct LoadFailure {
    /// What went wrong.
    pub cause: FailureCause,
    /// When a request or a pinned model's manager may try again.
    pub retry_at: Instant,
    pub(super) attempts: u32,
    /// The file as it was: another one is tried at once.
    pub(super) file: FileStamp,
}

/// What went wrong with a model.
#[derive(Debug, Clone)]
pub enum FailureCause {
    /// Its file cannot be loaded; the message has the remedy.
    Unloadable(String),
    /// There is not enough memory.
    TooLarge(MemoryShortage),
    /// Its thread crashed; the log says where.
    Crashed,
}

impl std::fmt::Display for FailureCause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unloadable(message) => out.write_str(message),
            Self::TooLarge(shortage) => shortage.fmt(out),
            Self::Crashed => out.write_str("its thread crashed; the log says where"),
        }
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp(Option<(u64, SystemTime)>);

impl FileStamp {
    pub(super) fn of(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.and_then(|file| Some((file.len(), file.modified().ok()?))))
    }

    /// Its bytes, and nanoseconds from 1970 to when it was written; none of a file that is not there.
    pub(super) fn in_numbers(self) -> Option<(u64, u64)> {
        let (bytes, written) = self.0?;
        let since = written.duration_since(UNIX_EPOCH).ok()?;
        Some((bytes, u64::try_from(since.as_nanos()).ok()?))
    }
}

/// How long after so many failures in a row a model is tried again.
pub(super) fn retry_after(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    FIRST_RETRY.saturating_mul(doubled).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_fails_again_and_again_is_tried_less_often() {
        let seconds: Vec<_> = (1..10).map(|times| retry_after(times).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(retry_after(u32::MAX), LONGEST_RETRY);
    }
}
