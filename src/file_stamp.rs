//! Following files that others change while the server runs: when are they to be read again?
//!
//! A changed file is read at the second look that finds it the same, because at the first it may still be being written.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How a file looks from outside: another stamp is another content. The time alone would not do: a clock may
/// step back, and two changes may come within one tick of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    /// Also of a file that was written with its old times.
    changed: (i64, i64),
}

impl FileStamp {
    /// Takes it from what the system says of a file.
    #[must_use]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Looks at a file.
    ///
    /// # Errors
    /// When the system cannot say.
    pub(crate) fn look(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&std::fs::metadata(path)?))
    }
}

/// Says when files are to be read again. `S` is how they look.
#[derive(Debug)]
pub(crate) struct FileFollower<S> {
    /// Of what is in use.
    current: S,
    /// Seen once; to be read when it is the same at the next look.
    seen: Option<S>,
    /// Of what was wrong, and stays so until it is changed.
    failed: Option<S>,
    /// The last problem that was told, so that it is told once.
    reported: Option<String>,
}

impl<S: Copy + PartialEq> FileFollower<S> {
    /// Follows files of which `current` was read.
    #[must_use]
    pub(crate) fn new(current: S) -> Self {
        Self {
            current,
            seen: None,
            failed: None,
            reported: None,
        }
    }

    /// Whether to read now what looks like `stamp`. Whoever does says how that went: [`FileFollower::took`], or
    /// else it counts as wrong.
    pub(crate) fn is_to_be_read(&mut self, stamp: S) -> bool {
        if stamp == self.current {
            (self.seen, self.failed, self.reported) = (None, None, None);
            return false;
        }
        if self.failed == Some(stamp) || self.seen.replace(stamp) != Some(stamp) {
            return false;
        }
        self.failed = Some(stamp);
        true
    }

    /// Whether what looks like `stamp` is in use.
    pub(crate) fn is_current(&self, stamp: S) -> bool {
        stamp == self.current
    }

    /// What looked like `stamp` when it was read is now in use.
    pub(crate) fn took(&mut self, stamp: S) {
        *self = Self::new(stamp);
    }

    /// Whether this problem is another than the last one, and so is to be told.
    pub(crate) fn is_news(&mut self, problem: &str) -> bool {
        let is_news = self.reported.as_deref() != Some(problem);
        self.reported = Some(problem.to_owned());
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_when_it_has_settled_and_what_is_wrong_only_once() {
        let mut follower = FileFollower::new(1);
        assert!(!follower.is_to_be_read(1));
        assert!(!follower.is_to_be_read(2), "it may still be being written");
        assert!(!follower.is_to_be_read(3), "and so it was");
        assert!(follower.is_to_be_read(3));
        assert!(!follower.is_to_be_read(3), "it was wrong");
        assert!(!follower.is_to_be_read(4));
        assert!(follower.is_to_be_read(4));
        follower.took(4);
        assert!(!follower.is_to_be_read(4));
    }

    #[test]
    fn a_problem_is_told_once_and_again_when_the_files_were_well_between() {
        let mut follower = FileFollower::new(1);
        assert!(follower.is_news("half a file"));
        assert!(!follower.is_news("half a file"));
        assert!(follower.is_news("no file"));
        assert!(!follower.is_to_be_read(1));
        assert!(follower.is_news("no file"));
    }
}
