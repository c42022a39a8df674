//! Reading and locking the keys file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::file_stamp::FileStamp;
use crate::replace_file::{OWNER_ONLY, beside, parent};

/// Ten thousand keys take less. Reading TOML takes more than a hundred times its size.
const MOST_BYTES: u64 = 2 << 20;

/// Reads a whole file.
///
/// # Errors
/// Also when it is no file, or is larger than any keys file.
pub(super) fn read(path: &Path) -> io::Result<(String, FileStamp)> {
    let metadata = std::fs::metadata(path)?;
    // Opening a pipe would wait for somebody who writes.
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let file = File::open(path)?;
    let stamp = FileStamp::of(&file.metadata()?);
    let mut text = String::new();
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MOST_BYTES {
        return Err(io::Error::other(format!(
            "it is larger than {MOST_BYTES} bytes"
        )));
    }
    Ok((text, stamp))
}

#[cfg(test)]
/// Whether others than its owner may read a file.
pub(super) fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

/// The file that is locked.
pub(super) fn lock_of(path: &Path) -> PathBuf {
    beside(path, "lock")
}

/// Holds a lock on the file beside `path`, so that two who change it do so one after the other.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let path = &lock_of(path);
    let made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(OWNER_ONLY)
        .open(path);
    let lock = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new()
            .write(true)
            // Whoever owns the folder could let a link lead to a file that is not its own.
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?,
        made => {
            let lock = made?;
            // Root may be the first, and the service must be able to take it as well.
            if let Ok(folder) = std::fs::metadata(parent(path)) {
                let _ = fchown(&lock, Some(folder.uid()), Some(folder.gid()));
            }
            lock
        }
    };
    lock.lock()?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::file_stamp::FileStamp;
    use crate::replace_file::replace_file;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_stays_its_owners_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys.toml");
        replace_file(&path, "one", OWNER_ONLY).expect("written");
        let (text, stamp) = read(&path).expect("read");
        assert_eq!(text, "one");
        assert!(!is_readable_by_others(&path));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("changed");
        replace_file(&path, "two", OWNER_ONLY).expect("written");
        assert!(is_readable_by_others(&path), "as it was");
        assert_ne!(FileStamp::look(&path).expect("there"), stamp);
        assert!(!beside(&path, "new").exists());
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (keys, others) = (
            directory.path().join("keys.toml"),
            directory.path().join("others"),
        );
        std::fs::write(&others, "not ours").expect("written");
        std::os::unix::fs::symlink(&others, lock_of(&keys)).expect("a link");
        assert!(lock(&keys).is_err());
        std::fs::remove_file(lock_of(&keys)).expect("removed");
        drop(lock(&keys).expect("made"));
        drop(lock(&keys).expect("there"));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(read(directory.path()).is_err());
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo runs").success());
        assert!(read(&pipe).is_err());
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys.toml");
        let file = File::create(&path).expect("created");
        file.set_len(1 << 40).expect("sparse");
        let error = read(&path).expect_err("too large");
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
