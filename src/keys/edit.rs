//! Changes of the keys file, as `edgellm keys` makes them. Comments and the order of a file stay.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value, value};

use crate::admission::ServiceTier;

use super::file::{Expiry, KeysFileError, is_name, parse};
use super::files;
use crate::replace_file::{OWNER_ONLY, replace_file};

/// A key that is to be added, all but the key itself.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Option<String>,
    /// The common name or the whole subject of a client's certificate.
    pub subject: Option<String>,
    /// The highest service tier that it gets.
    pub tier: ServiceTier,
    /// The ids of the models that it may use; none is all.
    pub models: Vec<String>,
    /// Requests a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens a minute.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests at once.
    pub requests_at_once: Option<NonZeroU32>,
    /// Its share of a busy engine.
    pub share: Option<NonZeroU32>,
    /// When it ends, as TOML writes it.
    pub expires: Option<toml_edit::Datetime>,
    /// Whether it may use what is for operators.
    pub admin: bool,
}

impl NewKey {
    /// A key of this name that has the default of everything else.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            group: None,
            subject: None,
            tier: ServiceTier::Default,
            models: Vec::new(),
            requests_per_minute: None,
            tokens_per_minute: None,
            requests_at_once: None,
            share: None,
            expires: None,
            admin: false,
        }
    }

    fn table(&self, sha256: Option<&str>) -> Table {
        let mut table = Table::new();
        let mut set = |name: &str, item: Option<Value>| {
            if let Some(item) = item {
                table.insert(name, value(item));
            }
        };
        let count = |count: Option<NonZeroU32>| count.map(|count| i64::from(count.get()).into());
        set("name", Some(self.name.as_str().into()));
        set("group", self.group.as_deref().map(Value::from));
        set("sha256", sha256.map(Value::from));
        set("subject", self.subject.as_deref().map(Value::from));
        let is_usual = self.tier == ServiceTier::default();
        set("tier", (!is_usual).then(|| self.tier.as_str().into()));
        let models = self.models.iter().map(String::as_str).collect();
        set(
            "models",
            (!self.models.is_empty()).then_some(Value::Array(models)),
        );
        set("requests_per_minute", count(self.requests_per_minute));
        set("tokens_per_minute", count(self.tokens_per_minute));
        set("requests_at_once", count(self.requests_at_once));
        set("share", count(self.share));
        set("expires", self.expires.map(Value::from));
        set("admin", self.admin.then(|| true.into()));
        table
    }
}

/// A change of the file.
#[derive(Debug)]
pub enum KeyChange {
    /// A new key, with the SHA-256 of it; a client's certificate may do without.
    Add(NewKey, Option<String>),
    /// This key ends now.
    Revoke(String),
    /// This key is replaced.
    Rotate {
        /// Its name.
        name: String,
        /// The SHA-256 of the new key.
        sha256: String,
        /// Until when the old key works beside the new one; `None` is not at all.
        previous_until: Option<Expiry>,
    },
}

/// Why a keys file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is wrong as it is.
    #[error("{}: {problem}", .file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: KeysFileError,
    },
    /// It cannot be written.
    #[error("{}: cannot be written: {source}", .file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no key of this name.
    #[error("there is no key `{0}`; `edgellm keys list` shows those that there are")]
    NoSuchKey(String),
    /// There is one of this name.
    #[error("there is a key `{0}` already: choose another name, or `edgellm keys rotate {0}`")]
    NameTaken(String),
    /// There is no API key to replace.
    #[error(
        "`{0}` is known by its certificate alone (`subject`), so there is no API key to replace: give the client a new \
         certificate of the same subject, or `edgellm keys revoke {0}`"
    )]
    CertificateOnly(String),
    /// The name cannot be one.
    #[error(
        "the name of a key is 1 to 64 letters, digits, dots, dashes or underscores, like till-3"
    )]
    BadName,
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    NoRandomness(String),
}

impl EditError {
    pub(super) fn unwritable(file: &Path, source: io::Error) -> Self {
        Self::Unwritable {
            file: file.to_owned(),
            source,
        }
    }
}

/// Changes a keys file, which is made if there is none.
///
/// # Errors
/// See [`EditError`]; then the file is as it was.
pub fn edit(file: &Path, change: &KeyChange) -> Result<(), EditError> {
    KeysLock::take(file)?.edit(change)
}

/// The right to change a keys file, which others wait for.
#[derive(Debug)]
pub(super) struct KeysLock {
    /// The file itself, where the name is a link to it.
    file: PathBuf,
    _lock: File,
}

impl KeysLock {
    /// Waits for the right to change a file, which need not exist.
    pub(super) fn take(file: &Path) -> Result<Self, EditError> {
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let lock = files::lock(&file)
            .map_err(|error| EditError::unwritable(&files::lock_of(&file), error))?;
        Ok(Self { file, _lock: lock })
    }

    /// Changes the file.
    pub(super) fn edit(&self, change: &KeyChange) -> Result<(), EditError> {
        let file = &*self.file;
        let unwritable = |source| EditError::unwritable(file, source);
        let wrong = |problem| EditError::Wrong {
            file: file.to_owned(),
            problem,
        };
        let text = match files::read(file) {
            Ok((text, _)) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEADING.to_owned(),
            Err(error) => return Err(wrong(KeysFileError::Unreadable(error.to_string()))),
        };
        parse(&text).map_err(wrong)?;
        let mut document: DocumentMut = text
            .parse()
            .map_err(|_| wrong(KeysFileError::Unreadable("it is not TOML".to_owned())))?;
        apply(&mut document, change)?;
        let text = document.to_string();
        // Whatever was changed must be a keys file again.
        parse(&text).map_err(wrong)?;
        replace_file(file, &text, OWNER_ONLY).map_err(unwritable)
    }
}

const HEADING: &str = "# Who may ask: docs/keys.md of edgellm. `edgellm keys add|list|revoke|rotate` changes this file; a\n\
    # running server follows within seconds. The keys themselves are nowhere: sha256 is their SHA-256.\n";

fn apply(document: &mut DocumentMut, change: &KeyChange) -> Result<(), EditError> {
    let end = document.trailing().as_str().unwrap_or_default().to_owned();
    if matches!(change, KeyChange::Add(..)) {
        document.set_trailing("");
    }
    let keys = document
        .entry("keys")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    // An inline list is as good a list, only not to add tables to. An empty one has no tables to be made of.
    if keys.as_array().is_some_and(toml_edit::Array::is_empty) {
        *keys = Item::ArrayOfTables(ArrayOfTables::new());
    }
    if keys.is_array()
        && let Ok(tables) = keys.clone().into_array_of_tables()
    {
        *keys = Item::ArrayOfTables(tables);
    }
    let Some(keys) = keys.as_array_of_tables_mut() else {
        return Err(EditError::NoSuchKey(String::new()));
    };
    let place = |keys: &ArrayOfTables, name: &str| {
        let named = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name);
        keys.iter().position(named)
    };
    match change {
        KeyChange::Add(key, sha256) => {
            if !is_name(&key.name) {
                return Err(EditError::BadName);
            }
            if place(keys, &key.name).is_some() {
                return Err(EditError::NameTaken(key.name.clone()));
            }
            let mut table = key.table(sha256.as_deref());
            // A comment at the end of the file stays where it is, before the new key.
            table.decor_mut().set_prefix(format!("{end}\n"));
            keys.push(table);
        }
        KeyChange::Revoke(name) => {
            let place = place(keys, name).ok_or_else(|| EditError::NoSuchKey(name.clone()))?;
            keys.remove(place);
        }
        KeyChange::Rotate {
            name,
            sha256,
            previous_until,
        } => {
            let place = place(keys, name);
            let table = place.and_then(|place| keys.get_mut(place));
            let table = table.ok_or_else(|| EditError::NoSuchKey(name.clone()))?;
            if !table.contains_key("sha256") {
                return Err(EditError::CertificateOnly(name.clone()));
            }
            let old = table.insert("sha256", value(sha256));
            let until = previous_until.and_then(|until| until.to_string().parse().ok());
            if let Some((old, until)) = old.zip(until) {
                table.insert("previous_sha256", old);
                table.insert("previous_until", value::<toml_edit::Datetime>(until));
            } else {
                table.remove("previous_sha256");
                table.remove("previous_until");
            }
        }
    }
    Ok(())
}

/// A key that is added to a file with these keys is there after the others, and gone when it is revoked.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str, keys: &[super::file::KeyEntry]) {
    let digest = "f".repeat(64);
    let name = "added-by-the-fuzzer";
    let is_taken = |key: &super::file::KeyEntry| {
        let known = [key.sha256.as_ref(), key.previous_sha256.as_ref()];
        let mut known = known.into_iter().flatten();
        key.name == name || known.any(|known| known.eq_ignore_ascii_case(&digest))
    };
    if keys.iter().any(is_taken) {
        return;
    }
    let changed = |text: &str, change: &KeyChange| {
        let mut document: DocumentMut = text.parse().expect("it was read already");
        apply(&mut document, change).expect("nothing is in the way");
        document.to_string()
    };
    let with = changed(
        text,
        &KeyChange::Add(NewKey::named(name), Some(digest.clone())),
    );
    let more = parse(&with).expect("still a keys file");
    assert_eq!(&more[..keys.len()], keys);
    assert_eq!(more.last().map(|key| &*key.name), Some(name));
    let without = changed(&with, &KeyChange::Revoke(name.to_owned()));
    assert_eq!(parse(&without).as_deref(), Ok(keys));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::keys::{ApiKey, KeyRing};

    fn add(file: &Path, key: NewKey) -> Result<ApiKey, EditError> {
        let secret = ApiKey::generate().expect("random");
        edit(file, &KeyChange::Add(key, Some(secret.sha256())))?;
        Ok(secret)
    }

    fn find(file: &Path, key: &ApiKey, now: SystemTime) -> Option<String> {
        let ring = KeyRing::open(file, false).expect("sound");
        ring.find(key.reveal(), now).ok()?.name.clone()
    }

    #[test]
    fn keys_come_and_go_and_comments_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let now = SystemTime::now();
        let one = add(&file, NewKey::named("one")).expect("added");
        let text = std::fs::read_to_string(&file).expect("there");
        std::fs::write(&file, text + "# the office's\n").expect("written");
        let everything = NewKey {
            group: Some("kiosks".to_owned()),
            tier: ServiceTier::Priority,
            models: vec!["kiosk".to_owned(), "large".to_owned()],
            requests_per_minute: NonZeroU32::new(60),
            tokens_per_minute: NonZeroU32::new(6000),
            requests_at_once: NonZeroU32::new(2),
            share: NonZeroU32::new(3),
            expires: Some("2999-01-31".parse().expect("a date")),
            admin: true,
            ..NewKey::named("two")
        };
        let two = add(&file, everything).expect("added");
        let text = std::fs::read_to_string(&file).expect("there");
        assert!(
            text.starts_with("# Who may ask") && text.contains("# the office's"),
            "{text}"
        );
        assert!(!text.contains(two.reveal()), "never the key");
        let entries = parse(&text).expect("sound");
        assert_eq!((entries[1].share.get(), entries[1].admin), (3, true));
        assert_eq!(entries[1].models.as_ref().map(Vec::len), Some(2));
        assert_eq!(find(&file, &two, now).as_deref(), Some("two"));
        assert!(matches!(
            add(&file, NewKey::named("one")),
            Err(EditError::NameTaken(_))
        ));
        assert!(matches!(
            add(&file, NewKey::named("a b")),
            Err(EditError::BadName)
        ));
        edit(&file, &KeyChange::Revoke("one".to_owned())).expect("revoked");
        assert_eq!(find(&file, &one, now), None);
        assert_eq!(find(&file, &two, now).as_deref(), Some("two"));
        let gone = edit(&file, &KeyChange::Revoke("one".to_owned()));
        assert!(matches!(gone, Err(EditError::NoSuchKey(_))));
    }

    #[test]
    fn a_rotated_key_may_work_beside_the_new_one_for_a_while() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let now = SystemTime::now();
        let first = add(&file, NewKey::named("till")).expect("added");
        let rotate = |previous_until| {
            let key = ApiKey::generate().expect("random");
            let change = KeyChange::Rotate {
                name: "till".to_owned(),
                sha256: key.sha256(),
                previous_until,
            };
            edit(&file, &change).expect("rotated");
            key
        };
        let hour = Duration::from_secs(3600);
        let second = rotate(Some(Expiry::after(now, hour).expect("soon")));
        for key in [&first, &second] {
            assert_eq!(find(&file, key, now).as_deref(), Some("till"));
        }
        assert_eq!(find(&file, &first, now + 2 * hour), None);
        assert_eq!(
            find(&file, &second, now + 2 * hour).as_deref(),
            Some("till")
        );
        let third = rotate(None);
        assert_eq!(find(&file, &second, now), None);
        assert_eq!(find(&file, &third, now).as_deref(), Some("till"));
    }

    #[test]
    fn a_certificate_alone_has_no_key_to_rotate_and_one_beside_a_key_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let till = |name: &str| NewKey {
            subject: Some(name.to_owned()),
            ..NewKey::named(name)
        };
        edit(&file, &KeyChange::Add(till("till-1"), None)).expect("added");
        add(&file, till("till-2")).expect("added");
        let rotate = |name: &str| {
            let sha256 = ApiKey::generate().expect("random").sha256();
            let name = name.to_owned();
            edit(
                &file,
                &KeyChange::Rotate {
                    name,
                    sha256,
                    previous_until: None,
                },
            )
        };
        let error = rotate("till-1").expect_err("no key");
        assert!(matches!(error, EditError::CertificateOnly(_)), "{error}");
        rotate("till-2").expect("rotated");
        let entries = parse(&std::fs::read_to_string(&file).expect("there")).expect("sound");
        assert_eq!(
            (&entries[0].sha256, entries[0].subject.as_deref()),
            (&None, Some("till-1"))
        );
        assert_eq!(
            (entries[1].sha256.is_some(), entries[1].subject.as_deref()),
            (true, Some("till-2"))
        );
        let again = edit(
            &file,
            &KeyChange::Add(
                NewKey {
                    subject: Some("CN=till-1".to_owned()),
                    ..NewKey::named("x")
                },
                None,
            ),
        );
        let error = again.expect_err("taken").to_string();
        assert!(
            error.contains("(`x`)") && error.contains("(`till-1`)"),
            "{error}"
        );
        edit(&file, &KeyChange::Revoke("till-1".to_owned())).expect("revoked");
        let entries = parse(&std::fs::read_to_string(&file).expect("there")).expect("sound");
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn a_file_that_is_wrong_is_not_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        std::fs::write(&file, "[[keys]]\nname = \"till\"\n").expect("written");
        let error = add(&file, NewKey::named("one")).expect_err("wrong");
        assert!(error.to_string().contains("it needs `sha256`"), "{error}");
        let text = std::fs::read_to_string(&file).expect("there");
        assert_eq!(text, "[[keys]]\nname = \"till\"\n");
    }

    #[test]
    fn two_who_change_it_at_once_lose_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let file = &file;
                scope.spawn(move || add(file, NewKey::named(format!("key-{number}"))));
            }
        });
        let text = std::fs::read_to_string(&file).expect("there");
        assert_eq!(parse(&text).expect("sound").len(), 8);
    }

    #[test]
    fn where_the_name_is_a_link_the_file_itself_is_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (
            directory.path().join("keys.toml"),
            directory.path().join("link"),
        );
        add(&file, NewKey::named("a")).expect("added");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        edit(&link, &KeyChange::Revoke("a".to_owned())).expect("revoked");
        assert_eq!(
            parse(&std::fs::read_to_string(&file).expect("there")),
            Ok(Vec::new())
        );
        assert!(link.is_symlink());
    }

    #[test]
    fn an_inline_list_is_changed_as_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let digest = "0".repeat(64);
        std::fs::write(
            &file,
            format!("keys = [{{name = \"a\", sha256 = \"{digest}\"}}]\n"),
        )
        .expect("written");
        add(&file, NewKey::named("b")).expect("added");
        let text = std::fs::read_to_string(&file).expect("there");
        let names: Vec<_> = parse(&text)
            .expect("sound")
            .into_iter()
            .map(|key| key.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
