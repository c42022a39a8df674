//! The first key of a box.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::ApiKey;
use super::edit::{EditError, KeyChange, KeysLock, NewKey};
use crate::replace_file::{OWNER_ONLY, replace_file};

const NAME: &str = "admin";
/// The file beside the keys file in which the first key lies until somebody takes it away.
const PLACE: &str = "first-admin-key";

/// Makes a keys file with a key of an administrator, if there is no file. Returns where the key lies.
///
/// # Errors
/// When it cannot be written.
pub fn make_first(keys_file: &Path) -> Result<Option<PathBuf>, EditError> {
    if exists(keys_file)? {
        return Ok(None);
    }
    // Another start of the server may be doing the same.
    let lock = KeysLock::take(keys_file)?;
    if exists(keys_file)? {
        return Ok(None);
    }
    let key = ApiKey::generate().map_err(|error| EditError::NoRandomness(error.to_string()))?;
    let place = keys_file.with_file_name(PLACE);
    // First, or a power cut in between would leave a box whose only key nobody has.
    replace_file(&place, &format!("{}\n", key.reveal()), OWNER_ONLY)
        .map_err(|error| EditError::unwritable(&place, error))?;
    let admin = NewKey {
        admin: true,
        ..NewKey::named(NAME)
    };
    lock.edit(&KeyChange::Add(admin, Some(key.sha256())))?;
    Ok(Some(place))
}

fn exists(keys_file: &Path) -> Result<bool, EditError> {
    match std::fs::symlink_metadata(keys_file) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(EditError::unwritable(keys_file, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::keys::KeyRing;

    #[test]
    fn the_first_key_is_an_administrators_and_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let place = make_first(&file).expect("made").expect("the first");
        assert!(!crate::keys::files::is_readable_by_others(&place));
        let key = std::fs::read_to_string(place).expect("readable");
        let ring = KeyRing::open(&file, false).expect("sound");
        let found = ring.find(key.trim(), SystemTime::now()).expect("known");
        assert!(found.is_admin);
        assert_eq!(make_first(&file).expect("there"), None);
    }

    #[test]
    fn several_first_starts_at_once_make_one_key_that_lies_where_it_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let made = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| make_first(&file))).collect();
            let made = starts
                .into_iter()
                .map(|start| start.join().expect("no panic"));
            made.filter_map(|made| made.expect("made or there")).count()
        });
        assert_eq!(made, 1);
        let key = std::fs::read_to_string(directory.path().join(PLACE)).expect("readable");
        let ring = KeyRing::open(&file, false).expect("sound");
        assert!(ring.find(key.trim(), SystemTime::now()).is_ok());
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let error = make_first(Path::new("/nowhere/at/all/keys.toml")).expect_err("no directory");
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
