//! The last step: valid layers become settings.
//!
//! The checks that need more than one key begin here; each stands with the section that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ::config::builder::DefaultState;
use ::config::{Config, ConfigBuilder, Value, ValueKind};

use super::declare::{Declared, Misfit, Part, Values};
use super::layer::{Layer, Reader};
use super::mistake::{entry_key, entry_name};
use super::schema::{Key, KeyDefault, Schema, Section};
use super::sections::{self, AuthSettings, GovernorSettings, ModelSettings, ServerSettings};
use super::{ConfigError, ConfigMistake, Settings, model_names, network};

/// The checked values of all sources, with the defaults.
#[derive(Debug)]
pub(super) struct Merged {
    /// The entries of each section; one where the section stands once.
    sections: BTreeMap<&'static str, Vec<Values>>,
    /// The full names of the keys whose values come from a source, and not from a default or another key.
    set: BTreeSet<String>,
}

/// Merges what the reader has read, and checks it as a whole.
pub(super) fn settings(reader: Reader) -> Result<Settings, ConfigError> {
    settings_and_keys_set(reader).map(|(settings, _)| settings)
}

/// The same, with the full names of the keys that a source sets.
pub(super) fn settings_and_keys_set(
    reader: Reader,
) -> Result<(Settings, BTreeSet<String>), ConfigError> {
    let (mut merged, mut mistakes) = merge(reader)?;
    check(&merged, &mut mistakes);
    let set = std::mem::take(&mut merged.set);
    Ok((merged.into_settings(mistakes)?, set))
}

/// Merges what the reader has read.
pub(super) fn merge(reader: Reader) -> Result<(Merged, Vec<ConfigMistake>), ConfigError> {
    let Reader {
        layers,
        mut mistakes,
        schema,
        ..
    } = reader;
    match Merged::of(schema, layers, &mut mistakes) {
        Ok(merged) => Ok((merged, mistakes)),
        Err(error) => Err(defect(&error)),
    }
}

impl Merged {
    fn of(
        schema: Schema,
        layers: Vec<Layer>,
        mistakes: &mut Vec<ConfigMistake>,
    ) -> Result<Self, ::config::ConfigError> {
        let merged = layers
            .into_iter()
            .fold(Config::builder(), ConfigBuilder::<DefaultState>::add_source)
            .build()?;
        let mut sections = BTreeMap::new();
        let mut set = BTreeSet::new();
        for section in schema.0 {
            let entries = if section.entry.is_some() {
                let entries = merged.get_array(section.name)?.into_iter().enumerate();
                entries
                    .map(|(index, value)| {
                        if let ValueKind::Table(values) = &value.kind {
                            set.extend(keys_set(section, index, values));
                        }
                        complete(section, index, value, mistakes)
                    })
                    .collect()
            } else {
                let values = merged.get_table(section.name)?;
                set.extend(keys_set(section, 0, &values));
                vec![values]
            };
            sections.insert(section.name, entries);
        }
        Ok(Self { sections, set })
    }

    /// The entries of a section.
    pub(super) fn entries(&self, section: &str) -> &[Values] {
        self.sections.get(section).map_or(&[], Vec::as_slice)
    }

    /// A section, where no key of it was refused.
    fn part<P: Part>(&self) -> Option<P> {
        P::read(self.entries(P::SECTION.name)).ok()
    }

    /// All sections, where there is no mistake.
    pub(super) fn into_settings<S: Declared>(
        self,
        mistakes: Vec<ConfigMistake>,
    ) -> Result<S, ConfigError> {
        if !mistakes.is_empty() {
            return Err(ConfigError::new(mistakes));
        }
        S::read(|section| self.entries(section)).map_err(|Misfit { key }| defect(&key))
    }
}

fn defect(detail: &dyn ToString) -> ConfigError {
    let detail = detail.to_string();
    ConfigMistake::Defect { detail }.into()
}

/// The checks across keys, of those sections that could be read.
fn check(merged: &Merged, mistakes: &mut Vec<ConfigMistake>) {
    model_names::check(merged.entries("models"), mistakes);
    if let Some(governor) = merged.part::<GovernorSettings>() {
        sections::check_governor(&governor, mistakes);
    }
    if let Some(models) = merged.part::<Vec<ModelSettings>>() {
        sections::check_models(&models, mistakes);
    }
    if let (Some(server), Some(auth)) = (
        merged.part::<ServerSettings>(),
        merged.part::<AuthSettings>(),
    ) {
        network::check(&server, &auth, mistakes);
    }
}

/// The full names of the keys that a source sets.
fn keys_set(section: &Section, index: usize, values: &Values) -> impl Iterator<Item = String> {
    let is_set = |key: &&Key| {
        let value = values.get(key.name);
        value.is_some_and(|value| value.origin().is_some())
    };
    let keys = section.keys.iter().filter(is_set);
    keys.map(move |key| section.full_key(index, key))
}

/// Gives an entry the defaults of the keys that it leaves out.
fn complete(
    section: &Section,
    index: usize,
    value: Value,
    mistakes: &mut Vec<ConfigMistake>,
) -> Values {
    let entry = entry_name(section.name, index);
    let entry_origin = value.origin().map(str::to_owned);
    let mut values = match value.kind {
        ValueKind::Table(table) => table,
        // A place that only a refused variable or flag named.
        _ => Values::new(),
    };
    let origin = entry_origin
        .or_else(|| {
            let mut values = section.keys.iter().filter_map(|key| values.get(key.name));
            values.find_map(Value::origin).map(str::to_owned)
        })
        .unwrap_or_else(|| entry.clone());
    for key in section.keys {
        let full = entry_key(section.name, index, key.name);
        if values.contains_key(key.name) || is_mistaken(mistakes, &entry, &full) {
            continue;
        }
        let default = match key.default {
            KeyDefault::StemOf(file) => match values.get(file) {
                Some(path) => file_stem(path, key),
                // The path was refused, and nothing can be said about what follows from it.
                None => continue,
            },
            other => other.value().map(|value| Value::new(None, value)),
        };
        if let Some(value) = default {
            values.insert(key.name.to_owned(), value);
        } else {
            mistakes.push(ConfigMistake::Missing {
                key: full,
                origin: origin.clone(),
                expected: key.expected(),
            });
        }
    }
    values
}

/// The name that follows from a path, if it would be valid.
fn file_stem(path: &Value, key: &Key) -> Option<Value> {
    let ValueKind::String(text) = &path.kind else {
        return None;
    };
    let stem = ValueKind::from(Path::new(text).file_stem()?.to_str()?);
    let origin = path.origin().map(str::to_owned);
    key.kind
        .accepts(&stem)
        .then(|| Value::new(origin.as_ref(), stem))
}

/// Whether a mistake about this key, or about the entry as a whole, has been noted already.
fn is_mistaken(mistakes: &[ConfigMistake], entry: &str, key: &str) -> bool {
    mistakes
        .iter()
        .filter_map(ConfigMistake::key)
        .any(|mistaken| mistaken == key || mistaken == entry)
}
