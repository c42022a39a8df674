//! An adapter of a model, as the configuration writes it.

use std::path::{Path, PathBuf};

use super::schema::{KeyDefault, KeyKind, is_file_path, is_name};
use super::setting::{Setting, absolute, entries, list};

/// An adapter of a model: a small file that changes some of its weights (`LoRA`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSettings {
    /// What clients write behind the model's name and a `+`.
    pub name: String,
    /// The GGUF file. It has not been looked at yet.
    pub path: PathBuf,
}

impl AdapterSettings {
    /// Reads `PATH` or `NAME=PATH`; without a name it is the file's without its extension.
    ///
    /// A path with `=` in it needs a name before it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, path),
            None => (Path::new(text).file_stem()?.to_str()?, text),
        };
        (is_name(name) && !name.contains(['+', '=']) && is_file_path(path)).then(|| Self {
            name: name.to_owned(),
            path: path.into(),
        })
    }
}

/// A list of adapters, empty unless it is set.
pub(super) const fn adapters() -> Setting<Vec<AdapterSettings>> {
    Setting::new(
        KeyKind::Adapters,
        KeyDefault::NoEntries,
        |value| entries(value, AdapterSettings::parse),
        |adapters| {
            let written = |AdapterSettings { name, path }: &AdapterSettings| {
                format!("{name}={}", absolute(path))
            };
            list(adapters.iter().map(written))
        },
    )
}
