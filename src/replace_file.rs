//! Files that are there as a whole or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Read and written by its owner only.
pub(crate) const OWNER_ONLY: u32 = 0o600;

/// Replaces a file in one step: whoever reads it finds the old text or the new one, also after a power cut. It keeps its
/// owner and mode; a new file gets `mode`, and the owner of its directory, so that the service can read what root made.
pub(crate) fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, text, mode, NewFileOwner::OfItsFolder)
}

/// Replaces a file in the same way; but a new one stays with who runs this, so that the service cannot read what root made.
pub(crate) fn replace_own_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, text, mode, NewFileOwner::Writer)
}

/// Whose a file is that was not there before.
#[derive(Clone, Copy)]
enum NewFileOwner {
    OfItsFolder,
    Writer,
}

fn replace(path: &Path, text: &str, mode: u32, new_owner: NewFileOwner) -> io::Result<()> {
    let next = beside(path, "new");
    let _ = std::fs::remove_file(&next);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(OWNER_ONLY)
        .open(&next)?;
    let directory = parent(path);
    let (like, mode) = match (std::fs::metadata(path), new_owner) {
        (Ok(old), _) => (old.clone(), old.mode() & 0o7777),
        (Err(_), NewFileOwner::OfItsFolder) => (std::fs::metadata(directory)?, mode),
        (Err(_), NewFileOwner::Writer) => (file.metadata()?, mode),
    };
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Only root can, and for others there is nothing to give away.
        let _ = fchown(&file, Some(like.uid()), Some(like.gid()));
    }
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    // The name must survive a power cut as well.
    File::open(directory)?.sync_all()
}

/// The folder in which a file lies.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// The file that is called like another, with an ending more.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}
