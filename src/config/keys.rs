//! How a key is written outside of a file: as text by flags, and as an environment variable's name.

use std::fmt;

use super::schema::{Key, Schema, Section};

/// What the name of every variable of edgellm begins with.
///
/// Two underscores: orchestrators set `EDGELLM_PORT` and the like by themselves.
pub(super) const PREFIX: &str = "EDGELLM__";

/// A key of the schema, with the index of its entry in a section that repeats.
#[derive(Debug)]
pub(super) struct KeyTarget {
    pub(super) section: &'static Section,
    pub(super) index: Option<usize>,
    pub(super) key: &'static Key,
}

impl KeyTarget {
    /// Finds `server.listen`, `models[1].path`, or `models.path`, which is short for the first entry's.
    pub(super) fn parse(schema: Schema, written: &str) -> Option<Self> {
        let (place, name) = written.split_once('.')?;
        let (section, index) = match place.strip_suffix(']') {
            Some(place) => {
                let (section, index) = place.split_once('[')?;
                (schema.section(section)?, Some(index.parse().ok()?))
            }
            None => (schema.section(place)?, None),
        };
        let repeats = section.entry.is_some();
        if index.is_some() && !repeats {
            return None;
        }
        Some(Self {
            section,
            index: repeats.then(|| index.unwrap_or(0)),
            key: section.key(name)?,
        })
    }
}

impl fmt::Display for KeyTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.section.full_key(self.index.unwrap_or(0), self.key))
    }
}

/// The variable that was meant by one in which one underscore stands where two belong, as in
/// `EDGELLM_SERVER_LISTEN`. Others of that beginning are somebody else's.
pub(super) fn meant_by(schema: Schema, variable: &str) -> Option<String> {
    if !variable.starts_with(PREFIX.trim_end_matches('_')) {
        return None;
    }
    let flat = |name: &str| name.replace("__", "_");
    let mut parts = variable.split('_');
    let index = parts.find(|part| part.parse::<usize>().is_ok());
    let mut variables = schema.0.iter().flat_map(|section| {
        let place = match index {
            Some(index) if section.entry.is_some() => format!("{}[{index}]", section.name),
            _ => section.name.to_owned(),
        };
        let keys = section.keys.iter();
        keys.map(move |key| variable_of(&format!("{place}.{}", key.name)))
    });
    variables.find(|meant| flat(meant) == flat(variable))
}

/// The key that a variable sets: `MODELS__0__PATH` is `models[0].path`.
pub(super) fn key_of(variable: &str) -> String {
    let mut key = String::new();
    for part in variable.to_lowercase().split("__") {
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            key = format!("{key}[{part}]");
        } else if key.is_empty() {
            part.clone_into(&mut key);
        } else {
            key = format!("{key}.{part}");
        }
    }
    key
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    let parts = key.replace(['.', '['], "__").replace(']', "");
    format!("{PREFIX}{}", parts.to_uppercase())
}
