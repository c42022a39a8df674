//! Why a file cannot be read although its permissions allow it.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to say behind an error of opening this file for reading: nothing, unless a sandbox is the reason. "Permission denied"
/// alone would send people to permissions that are right.
#[must_use]
pub fn sandbox_hint(path: &Path, error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied && its_mode_allows_reading(path) {
        " (its permissions allow it, so a sandbox does not: with server.sandbox the server reaches only the folders that its \
         settings and their links led to when it started; restart it, or see docs/sandbox.md)"
    } else {
        ""
    }
}

/// Owners and modes alone decide this; Landlock has no say in it.
fn its_mode_allows_reading(path: &Path) -> bool {
    CString::new(path.as_os_str().as_bytes()).is_ok_and(|path| {
        // SAFETY: the text ends with a NUL and lives during the call.
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::R_OK, libc::AT_EACCESS) == 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_be_read_and_is_denied_lies_outside_of_a_sandbox() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(sandbox_hint(file.path(), &denied).contains("server.sandbox"));
        assert_eq!(sandbox_hint(Path::new("/nowhere/at/all"), &denied), "");
        let other = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(sandbox_hint(file.path(), &other), "");
    }
}
