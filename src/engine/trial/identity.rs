//! How a file is recognized as the one that passed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::model_file::ModelFile;

/// A file in one state: whoever writes to it, or puts another in its place, changes this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Its length.
    pub bytes: u64,
    /// Where it lies: the number of its device.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// When it was last written to: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// When it was last changed in any way, which nobody can set.
    pub changed: (i64, i64),
}

/// A model file, all of its parts, and the program that tried it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The path of the (first) file.
    pub path: PathBuf,
    /// The file, or its parts in their order.
    pub files: Vec<FileIdentity>,
    /// The program: another llama.cpp may fail where this one did not.
    pub program: Option<FileIdentity>,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The parts of an open model.
    pub(super) fn of_parts(source: &ModelFile) -> io::Result<Vec<Self>> {
        let parts = source.parts().iter();
        parts.map(|part| Ok(Self::of(&part.metadata()?))).collect()
    }
}

impl TrialRecord {
    pub(super) fn of(source: &ModelFile, program: &Path) -> io::Result<Self> {
        Ok(Self {
            path: source.path().to_owned(),
            files: FileIdentity::of_parts(source)?,
            program: fs::metadata(program).ok().as_ref().map(FileIdentity::of),
        })
    }
}
