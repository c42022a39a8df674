//! One source at a time: its keys looked up in the schema, its values checked, its mistakes noted.
//!
//! A refused value does not enter its layer, so that the merge sees valid values only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ::config::{FileFormat, Format, Map, Source, Value, ValueKind};

use super::keys::{KeyTarget, PREFIX, key_of, meant_by, variable_of};
use super::mistake::entry_name;
use super::nearest::{key_hint, section_hint};
use super::schema::{Key, KeyKind, Schema, Section};
use super::{AdapterSettings, ConfigMistake, SettingOverride};

/// The valid values of one source.
#[derive(Debug, Clone)]
pub(super) struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads sources from the weakest to the strongest, and goes on after a mistake.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) layers: Vec<Layer>,
    pub(super) mistakes: Vec<ConfigMistake>,
    pub(super) schema: Schema,
    /// How many entries of each section that repeats the sources read so far configure.
    entries: BTreeMap<&'static str, usize>,
}

/// A file while it is being checked.
struct Scope<'a> {
    origin: String,
    directory: &'a Path,
}

/// A variable or flag.
struct Text<'a> {
    key: String,
    origin: String,
    value: &'a str,
}

impl Reader {
    /// A reader that has read the defaults.
    pub(super) fn new(schema: Schema) -> Self {
        let mut defaults = Map::new();
        for section in schema.0 {
            if section.entry.is_some() {
                defaults.insert(section.name.to_owned(), Vec::<Value>::new().into());
                continue;
            }
            for key in section.keys {
                if let Some(value) = key.default.value() {
                    let full = format!("{}.{}", section.name, key.name);
                    defaults.insert(full, Value::new(None, value));
                }
            }
        }
        Self {
            layers: vec![Layer(defaults)],
            mistakes: Vec::new(),
            schema,
            entries: BTreeMap::new(),
        }
    }

    /// Reads a TOML file.
    pub(super) fn file(&mut self, file: &Path) {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                self.mistakes.push(ConfigMistake::Unreadable {
                    file: file.to_owned(),
                    reason: error.to_string(),
                });
                return;
            }
        };
        let scope = Scope {
            origin: file.display().to_string(),
            directory: file.parent().unwrap_or(Path::new("")),
        };
        let tables = match parse(&scope.origin, &text) {
            Ok(tables) => tables,
            Err(detail) => {
                self.mistakes.push(ConfigMistake::Syntax {
                    file: file.to_owned(),
                    detail,
                });
                return;
            }
        };
        let mut layer = Map::new();
        for (name, value) in tables {
            let checked = match self.schema.section(&name) {
                Some(section) if section.entry.is_some() => self.list(section, value, &scope),
                Some(section) => Some(self.table(section, &name, value, &scope)),
                None => {
                    self.unknown_at_top(name, &value, &scope);
                    continue;
                }
            };
            if let Some(value) = checked {
                layer.insert(name, value);
            }
        }
        self.layers.push(Layer(layer));
    }

    /// Reads environment variables.
    pub(super) fn environment(&mut self, variables: &[(String, String)]) {
        let ours = |name: &str| name.starts_with(PREFIX);
        for (name, _) in variables.iter().filter(|(name, _)| !ours(name)) {
            if let Some(meant) = meant_by(self.schema, name) {
                self.mistakes.push(ConfigMistake::Misspelt {
                    name: name.clone(),
                    meant,
                });
            }
        }
        let mut texts: Vec<_> = variables
            .iter()
            .filter_map(|(name, value)| {
                Some(Text {
                    key: key_of(name.strip_prefix(PREFIX)?),
                    origin: format!("environment variable {name}"),
                    value,
                })
            })
            .collect();
        // The environment has no order; mistakes should have one.
        texts.sort_by(|a, b| a.origin.cmp(&b.origin));
        let mut targets = self.targets(texts, Some(variable_of));
        let mut first_origins = BTreeMap::<String, String>::new();
        targets.retain(|(target, text)| {
            let key = target.to_string();
            if let Some(first) = first_origins.get(&key) {
                self.mistakes.push(ConfigMistake::SetTwice {
                    key,
                    first: first.clone(),
                    second: text.origin.clone(),
                });
                return false;
            }
            first_origins.insert(key, text.origin.clone());
            true
        });
        self.texts(targets);
    }

    /// Reads command-line flags.
    pub(super) fn overrides(&mut self, overrides: &[SettingOverride]) {
        let texts = overrides
            .iter()
            .map(|given| Text {
                key: given.key.clone(),
                origin: given.flag.clone(),
                value: &given.value,
            })
            .collect();
        let targets = self.targets(texts, None);
        self.texts(targets);
    }

    /// Finds the keys, in the order of their entries so that gaps show.
    fn targets<'a>(
        &mut self,
        texts: Vec<Text<'a>>,
        variable: Option<fn(&str) -> String>,
    ) -> Vec<(KeyTarget, Text<'a>)> {
        let mut found = Vec::new();
        for text in texts {
            match KeyTarget::parse(self.schema, &text.key) {
                Some(target) => found.push((target, text)),
                None => self.mistakes.push(ConfigMistake::UnknownKey {
                    hint: key_hint(self.schema, &text.key, variable),
                    key: text.key,
                    origin: text.origin,
                }),
            }
        }
        found.sort_by_key(|(target, _)| target.index);
        found
    }

    fn texts(&mut self, texts: Vec<(KeyTarget, Text<'_>)>) {
        let mut layer = Map::new();
        for (target, text) in texts {
            let full = target.to_string();
            if let Some((index, entry)) = target.index.zip(target.section.entry) {
                let section = target.section.name;
                let configured = self.entries.entry(section).or_default();
                if index > *configured {
                    self.mistakes.push(ConfigMistake::Gap {
                        key: full,
                        origin: text.origin,
                        configured: *configured,
                        section,
                        entry,
                    });
                    continue;
                }
                *configured = (*configured).max(index + 1);
            }
            let value = target.key.kind.read(text.value);
            if let Some(unfit) = target.key.kind.unfit(&value) {
                self.wrong(full, &text.origin, target.key.expected(), unfit);
            } else {
                layer.insert(full, Value::new(Some(&text.origin), value));
            }
        }
        self.layers.push(Layer(layer));
    }

    fn list(
        &mut self,
        section: &'static Section,
        value: Value,
        scope: &Scope<'_>,
    ) -> Option<Value> {
        let ValueKind::Array(entries) = value.kind else {
            let expected = format!("a list, each entry headed {}", section.heading());
            self.wrong(
                section.name.to_owned(),
                &scope.origin,
                expected,
                &value.kind,
            );
            return None;
        };
        self.entries.insert(section.name, entries.len());
        let checked: Vec<_> = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let prefix = entry_name(section.name, index);
                self.table(section, &prefix, entry, scope)
            })
            .collect();
        Some(Value::new(Some(&scope.origin), checked))
    }

    fn table(&mut self, section: &Section, prefix: &str, value: Value, scope: &Scope<'_>) -> Value {
        let mut checked = Map::new();
        if let ValueKind::Table(table) = value.kind {
            for (name, value) in table.into_iter().collect::<BTreeMap<_, _>>() {
                let full = format!("{prefix}.{name}");
                if let Some(key) = section.key(&name) {
                    if let Some(value) = self.value(key, full, value.kind, scope) {
                        checked.insert(name, value);
                    }
                } else {
                    self.mistakes.push(ConfigMistake::UnknownKey {
                        hint: key_hint(self.schema, &full, None),
                        key: full,
                        origin: scope.origin.clone(),
                    });
                }
            }
        } else {
            let expected = format!("a section, headed {}", section.heading());
            self.wrong(prefix.to_owned(), &scope.origin, expected, &value.kind);
        }
        Value::new(Some(&scope.origin), checked)
    }

    fn value(
        &mut self,
        key: &Key,
        full: String,
        value: ValueKind,
        scope: &Scope<'_>,
    ) -> Option<Value> {
        if let Some(unfit) = key.kind.unfit(&value) {
            self.wrong(full, &scope.origin, key.expected(), unfit);
            return None;
        }
        let value = match (key.kind, value) {
            (KeyKind::OptionalPath, ValueKind::String(path)) if path.is_empty() => path.into(),
            (KeyKind::Path { .. } | KeyKind::OptionalPath, ValueKind::String(path)) => {
                self.joined(&full, Path::new(&path), scope)?.into()
            }
            (KeyKind::Adapters, ValueKind::Array(entries)) => {
                let adapters = entries.into_iter().filter_map(|entry| match entry.kind {
                    ValueKind::String(text) => AdapterSettings::parse(&text),
                    _ => None,
                });
                let joined = adapters.map(|AdapterSettings { name, path }| {
                    let path = self.joined(&full, &path, scope)?;
                    Some(format!("{name}={path}").into())
                });
                joined.collect::<Option<Vec<Value>>>()?.into()
            }
            (_, value) => value,
        };
        Some(Value::new(Some(&scope.origin), value))
    }

    /// A path as it is from the directory of the file in which it stands.
    fn joined(&mut self, full: &str, path: &Path, scope: &Scope<'_>) -> Option<String> {
        let joined = scope.directory.join(path).to_str().map(str::to_owned);
        if joined.is_none() {
            let expected = "absolute: the name of the file's directory is not Unicode";
            let found = path.display().to_string().into();
            self.wrong(full.to_owned(), &scope.origin, expected.to_owned(), &found);
        }
        joined
    }

    fn unknown_at_top(&mut self, name: String, value: &Value, scope: &Scope<'_>) {
        let origin = scope.origin.clone();
        let is_section = match &value.kind {
            ValueKind::Table(_) => true,
            ValueKind::Array(entries) => entries
                .iter()
                .any(|entry| matches!(entry.kind, ValueKind::Table(_))),
            _ => false,
        };
        self.mistakes.push(if is_section {
            ConfigMistake::UnknownSection {
                hint: section_hint(self.schema, &name),
                section: name,
                origin,
            }
        } else {
            ConfigMistake::UnknownKey {
                hint: key_hint(self.schema, &name, None),
                key: name,
                origin,
            }
        });
    }

    fn wrong(&mut self, key: String, origin: &str, expected: String, found: &ValueKind) {
        self.mistakes.push(ConfigMistake::WrongValue {
            key,
            origin: origin.to_owned(),
            expected,
            found: describe(found),
        });
    }
}

/// Parses a file, its sections sorted by name.
fn parse(origin: &String, text: &str) -> Result<BTreeMap<String, Value>, String> {
    let parsed = |text: &str| {
        Format::parse(&FileFormat::Toml, Some(origin), text)
            .map_err(|error| error.to_string().trim_end().to_owned())
    };
    let detail = match parsed(text) {
        Ok(tables) => return Ok(tables.into_iter().collect()),
        Err(detail) => detail,
    };
    if detail.contains(" at line ") {
        return Err(detail);
    }
    // A number too large for 64 bits is refused without its place: look for the first line that brings it.
    let mut end = 0;
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        end += content.len();
        if parsed(&text[..end]).is_err_and(|error| error == detail) {
            return Err(format!("line {line}: {detail}: {}", content.trim()));
        }
    }
    Err(detail)
}

/// A value in words.
fn describe(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => format!("the text {text:?}"),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Table(_) => "a section".to_owned(),
        other => other.to_string(),
    }
}
