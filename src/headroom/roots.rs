//! Where the kernel's files are, and how a single one is read.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::GovernorSettings;

/// No file of sysfs is larger than a page; those of procfs that are read here are not much more.
const MOST_BYTES: u64 = 64 << 10;
/// `EOPNOTSUPP`: what a kernel answers that was built with a feature and started without it.
const NOT_SUPPORTED: i32 = 95;
/// `ENODEV` and `ENXIO`: the device behind the file has gone.
const NO_DEVICE: [i32; 2] = [19, 6];

/// The mount points, which tests lay out for themselves.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub(crate) sysfs: PathBuf,
    pub(crate) procfs: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl Roots {
    /// Those of the configuration.
    pub(crate) fn of(settings: &GovernorSettings) -> Self {
        Self {
            sysfs: settings.sysfs_root.clone(),
            procfs: settings.procfs_root.clone(),
            cgroup: settings
                .cgroup_root
                .clone()
                .unwrap_or_else(|| settings.sysfs_root.join("fs/cgroup")),
        }
    }
}

/// Why a reading that should be there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SensorProblem {
    /// Only root may read it.
    #[error("{} may not be read: {remedy}", path.display())]
    Denied { path: PathBuf, remedy: &'static str },
    /// The driver answers with an error, as many do now and then (EAGAIN, ENODATA, EIO).
    #[error("{}: {reason}", path.display())]
    Failed { path: PathBuf, reason: String },
    /// The driver has not answered yet, or only just again.
    #[error("its driver does not answer")]
    Stuck,
    /// A defect of ours.
    #[error("its reader has ended")]
    Ended,
    /// It answers with something that cannot be true.
    #[error("{} reads {found:?}, which cannot be", path.display())]
    Garbage { path: PathBuf, found: String },
}

impl SensorProblem {
    pub(crate) fn garbage(path: &Path, found: &(impl ToString + ?Sized)) -> Self {
        Self::Garbage {
            path: path.to_owned(),
            found: found.to_string().chars().take(40).collect(),
        }
    }
}

/// The text of a file, without the space around it; `None` where there is no such file.
pub(crate) fn text(path: &Path) -> Result<Option<String>, SensorProblem> {
    let bytes = bytes(path)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// What a file holds; `None` where there is no such file.
pub(crate) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, SensorProblem> {
    let bytes = fs::metadata(path).and_then(|about| {
        // To open a pipe waits for its other end, and a device may do anything.
        if !about.is_file() {
            return Err(io::Error::other("is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let error = match bytes {
        Ok(bytes) => return Ok(Some(bytes)),
        Err(error) => error,
    };
    let code = error.raw_os_error().unwrap_or(0);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
        _ if code == NOT_SUPPORTED || NO_DEVICE.contains(&code) => Ok(None),
        ErrorKind::PermissionDenied => Err(SensorProblem::Denied {
            path: path.to_owned(),
            remedy: "run edgellm with more rights",
        }),
        _ => Err(SensorProblem::Failed {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// The number in a file; `None` where there is no such file.
pub(crate) fn number<T: FromStr>(path: &Path) -> Result<Option<T>, SensorProblem> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(SensorProblem::garbage(path, &text)),
    }
}

/// Reads a number from a file; `None` also where the file is wrong, which only means that less is known.
pub(crate) fn maybe<T: FromStr>(path: &Path) -> Option<T> {
    number(path).ok().flatten()
}

/// A label or name, fit for a metric: none if there is nothing in it.
pub(crate) fn label(path: &Path) -> Option<String> {
    let text = text(path).ok().flatten()?;
    let clean: String = text
        .chars()
        .filter(|char| !char.is_control())
        .take(64)
        .collect();
    (!clean.is_empty()).then_some(clean)
}

/// The entries of a directory that are called `prefix` and a number, in the order of that.
pub(crate) fn numbered(directory: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.strip_prefix(prefix)?;
            Some((number.parse().ok()?, path))
        })
        .collect();
    found.sort();
    found
}

/// All entries of a directory, by name.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_unknown_and_what_is_wrong_is_a_problem() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("energy_uj");
        assert_eq!(number::<u64>(&file), Ok(None));
        assert_eq!(number::<u64>(&file.join("below")), Ok(None));
        for garbage in ["", "12x", "-4", "99999999999999999999"] {
            fs::write(&file, garbage).expect("written");
            let problem = number::<u64>(&file).expect_err("garbage");
            assert!(
                matches!(problem, SensorProblem::Garbage { .. }),
                "{problem}"
            );
        }
        fs::write(&file, [0xff, 0xfe, 0]).expect("written");
        assert!(number::<u64>(&file).is_err());
        fs::write(&file, "17\n").expect("written");
        assert_eq!(number::<u64>(&file), Ok(Some(17)));
        assert!(number::<u64>(folder.path()).is_err(), "a directory");
    }

    #[test]
    fn entries_are_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["zone10", "zone2", "zone", "zonex", "other1"] {
            fs::create_dir(folder.path().join(name)).expect("created");
        }
        let numbers: Vec<u32> = numbered(folder.path(), "zone")
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(numbers, [2, 10]);
        assert!(numbered(&folder.path().join("none"), "zone").is_empty());
    }
}
