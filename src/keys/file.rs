//! The keys file: what stands in it, and what is wrong with it.
//!
//! No message repeats a value of the file: somebody may have written a key where its digest belongs.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};
use toml_edit::Datetime;

use crate::admission::{QuotaLimits, ServiceTier};

use super::digest::KeyDigest;
use crate::tls::SubjectPattern;

/// More keys than any box has clients.
const MOST_KEYS: usize = 10_000;
const LONGEST_NAME: usize = 64;
const MOST_MODELS: usize = 1000;

/// A key, as its file describes it: an API key, a client's certificate, or either of both.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Its name, in logs and metrics.
    pub name: String,
    /// The group whose keys may share cached prefixes; without one, the key is a group of its own.
    #[serde(default)]
    pub group: Option<String>,
    /// The SHA-256 of the key, as 64 hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The common name or the whole subject of a client's certificate.
    #[serde(default)]
    pub subject: Option<String>,
    /// The SHA-256 of the key before this one, which goes on to work until `previous_until`.
    #[serde(default)]
    pub previous_sha256: Option<String>,
    /// When the key before this one ends.
    #[serde(default)]
    pub previous_until: Option<Expiry>,
    /// The highest service tier that it gets.
    #[serde(default)]
    pub tier: ServiceTier,
    /// The ids of the models that it may use; all, where this is absent.
    #[serde(default)]
    pub models: Option<Vec<String>>,
    /// Requests a minute.
    #[serde(default)]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens a minute, of prompts and answers.
    #[serde(default)]
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests at once.
    #[serde(default)]
    pub requests_at_once: Option<NonZeroU32>,
    /// How large its share of a busy engine is beside those of other keys.
    #[serde(default = "one")]
    pub share: NonZeroU32,
    /// When it ends.
    #[serde(default)]
    pub expires: Option<Expiry>,
    /// Whether it may use what is for operators.
    #[serde(default)]
    pub admin: bool,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

impl KeyEntry {
    /// The limits of its quota.
    #[must_use]
    pub fn limits(&self) -> QuotaLimits {
        QuotaLimits {
            requests_per_minute: self.requests_per_minute.map(NonZeroU32::get),
            tokens_per_minute: self.tokens_per_minute.map(NonZeroU32::get),
            requests_at_once: self.requests_at_once.map(NonZeroU32::get),
        }
    }

    /// The digests that it is known by, each with the time at which it ends.
    pub(super) fn digests(&self) -> impl Iterator<Item = (KeyDigest, Option<Expiry>)> {
        let current = self.sha256.as_deref().and_then(KeyDigest::from_hex);
        let current = current.map(|digest| (digest, self.expires));
        let previous = self
            .previous_sha256
            .as_deref()
            .and_then(KeyDigest::from_hex);
        let until = match (self.previous_until, self.expires) {
            (Some(until), Some(expires)) => Some(until.min(expires)),
            (until, expires) => until.or(expires),
        };
        current
            .into_iter()
            .chain(previous.map(|digest| (digest, until)))
    }

    /// The certificates that it is known by.
    pub(super) fn certificates(&self) -> Option<SubjectPattern> {
        self.subject.as_deref().and_then(SubjectPattern::parse)
    }
}

/// The moment from which a key is no longer good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(jiff::Timestamp);

impl Expiry {
    /// So long after `now`, in whole seconds.
    ///
    /// # Errors
    /// When that is after the year 9999.
    pub fn after(now: SystemTime, time: Duration) -> Result<Self, jiff::Error> {
        let now = jiff::Timestamp::try_from(now)?;
        let end = now.checked_add(time)?;
        Ok(Self(jiff::Timestamp::from_second(end.as_second())?))
    }

    /// Reads what TOML calls a date or a date with time. A date is meant with its whole day, and a time
    /// without a zone in UTC.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let written: Datetime = text.parse().ok()?;
        let moment = match (written.date?, written.time, written.offset) {
            (_, Some(_), Some(_)) => text.trim().parse().ok()?,
            (_, Some(_), None) => utc(text.trim().parse().ok()?)?,
            (_, None, _) => {
                let day: civil::Date = text.trim().parse().ok()?;
                utc(day.tomorrow().ok()?.into())?
            }
        };
        Some(Self(moment))
    }

    /// Whether it has come.
    #[must_use]
    pub fn has_come(self, now: SystemTime) -> bool {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(seconds).is_ok_and(|seconds| seconds >= self.0.as_second())
    }
}

fn utc(time: civil::DateTime) -> Option<jiff::Timestamp> {
    TimeZone::UTC.to_timestamp(time).ok()
}

impl fmt::Display for Expiry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let expected = "expected a date, like 2027-01-31, or 2027-01-31T18:00:00Z";
        let written =
            Datetime::deserialize(value).map_err(|_| serde::de::Error::custom(expected))?;
        Self::read(&written.to_string()).ok_or_else(|| serde::de::Error::custom(expected))
    }
}

/// What is wrong with a keys file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysFileError {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is not TOML, or a value is of the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A key cannot be as it is written.
    #[error("key {number}{}: {message}", named(.name.as_ref()))]
    Entry {
        /// Which one, from 1.
        number: usize,
        /// Its name, if that is sound.
        name: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// There are more than a box has clients.
    #[error("there are {0} keys, and {MOST_KEYS} at most are allowed")]
    TooMany(usize),
}

fn named(name: Option<&String>) -> String {
    name.map(|name| format!(" (`{name}`)")).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    #[serde(default)]
    keys: Vec<KeyEntry>,
}

/// Reads the text of a keys file.
///
/// # Errors
/// The first mistake in it.
pub fn parse(text: &str) -> Result<Vec<KeyEntry>, KeysFileError> {
    let KeysFile { keys } = toml_edit::de::from_str(text).map_err(|error| syntax(text, &error))?;
    if keys.len() > MOST_KEYS {
        return Err(KeysFileError::TooMany(keys.len()));
    }
    let mut names = BTreeMap::new();
    let mut digests = BTreeMap::new();
    let mut subjects = BTreeMap::new();
    for (number, key) in (1..).zip(&keys) {
        let name = is_name(&key.name).then(|| key.name.clone());
        let mistake = check(key).or_else(|| {
            if let Some(first) = names.insert(key.name.as_str(), number) {
                return Some(format!(
                    "key {first} has the same name: give it another one"
                ));
            }
            let mut twice = key
                .digests()
                .filter_map(|(digest, _)| digests.insert(digest, number));
            if let Some(first) = twice.next() {
                return Some(format!(
                    "it is the same key as key {first}: make a new one with `edgellm keys add`"
                ));
            }
            let subject = key.certificates()?.narrowest();
            let first = subjects.insert(subject, (number, &key.name))?;
            Some(format!(
                "its `subject` is that of key {} (`{}`): a certificate can be one key's only",
                first.0, first.1
            ))
        });
        if let Some(message) = mistake {
            return Err(KeysFileError::Entry {
                number,
                name,
                message,
            });
        }
    }
    Ok(keys)
}

const NO_SUBJECT: &str = "`subject` must be the common name of a client's certificate, like till-1, or its whole subject, like CN=till-1,O=Harbour \
     (`edgellm tls show FILE` shows it)";

/// What is wrong with a key by itself.
fn check(key: &KeyEntry) -> Option<String> {
    let names = [("name", Some(&key.name)), ("group", key.group.as_ref())];
    for (field, name) in names {
        if name.is_some_and(|name| !is_name(name)) {
            return Some(format!(
                "`{field}` must be 1 to {LONGEST_NAME} letters, digits, dots, dashes or underscores"
            ));
        }
    }
    let digests = [
        ("sha256", key.sha256.as_ref()),
        ("previous_sha256", key.previous_sha256.as_ref()),
    ];
    for (field, digest) in digests {
        if digest.is_some_and(|digest| KeyDigest::from_hex(digest).is_none()) {
            return Some(format!(
                "`{field}` must be the SHA-256 of the key, 64 hexadecimal digits (never the key itself): \
                 printf %s \"$KEY\" | sha256sum"
            ));
        }
    }
    if key.sha256.is_none() && key.subject.is_none() {
        return Some(
            "it needs `sha256`, the SHA-256 of an API key, or `subject`, that of a client's certificate, or both"
                .to_owned(),
        );
    }
    if key.subject.is_some() && key.certificates().is_none() {
        return Some(NO_SUBJECT.to_owned());
    }
    if key.previous_sha256.is_some() && key.previous_until.is_none() {
        return Some("`previous_sha256` needs `previous_until`, a date".to_owned());
    }
    if key.previous_sha256.is_some() && key.sha256.is_none() {
        return Some("`previous_sha256` needs `sha256`, the key after it".to_owned());
    }
    let models = key.models.as_deref().unwrap_or_default();
    if models.len() > MOST_MODELS || models.iter().any(String::is_empty) {
        return Some(format!(
            "`models` must be at most {MOST_MODELS} ids of models"
        ));
    }
    None
}

pub(super) fn is_name(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(sound)
}

fn syntax(text: &str, error: &toml_edit::de::Error) -> KeysFileError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    KeysFileError::Syntax {
        line: 1 + text.get(..start).unwrap_or_default().matches('\n').count(),
        message: without_values(error.message()),
    }
}

/// Serde names the value of a wrong type, as in `invalid type: string "…", expected a boolean`, and of an unknown word.
fn without_values(message: &str) -> String {
    let Some(start) = message.find(['"', '`']) else {
        return message.to_owned();
    };
    let is_about_a_name =
        message.starts_with("unknown field") || message.starts_with("missing field");
    if is_about_a_name || message.starts_with("duplicate field") {
        return message.to_owned();
    }
    let expected = message.rfind("expected").filter(|at| *at > start);
    match expected {
        Some(at) => format!("wrong value, {}", &message[at..]),
        None => "wrong value".to_owned(),
    }
}

/// Whatever stands in the file, it is a list of sound keys or refused in few words; and what can be read can be
/// changed, and read again.
///
/// # Panics
/// When it is neither.
#[cfg(any(test, fuzzing))]
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match parse(text) {
        Ok(keys) => {
            assert!(keys.iter().all(|key| is_name(&key.name)));
            super::edit::fuzz(text, &keys);
        }
        Err(error) => assert!(error.to_string().len() < 2000, "{error}"),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
