//! What models share, what the server keeps across restarts, and the adapters of a model: rows of the
//! table, structs, and the way back to TOML.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::effective::{Lines, absolute, quoted};
use super::schema::{Key, KeyDefault, KeyKind, Section, is_file_path, is_name};
use super::settings::empty_is_none;

/// Less than this cannot hold any model together with what is computed in it.
const LEAST_MEMORY: i64 = 64 * 1024 * 1024;

pub(super) const POOL: Section = Section {
    name: "pool",
    repeated: false,
    keys: &[
        Key {
            name: "memory_budget",
            kind: KeyKind::OptionalWhole {
                min: LEAST_MEMORY,
                max: 1 << 50,
                unit: "bytes",
            },
            default: KeyDefault::Whole(0),
            doc: "Memory that the server may take, models and all, in bytes; 0 is what the machine and its control groups allow.",
        },
        Key {
            name: "models_dir",
            kind: KeyKind::OptionalPath,
            default: KeyDefault::Text(""),
            doc: "A folder whose GGUF files are served as well, each under its name without .gguf; empty is none.",
        },
    ],
};

pub(super) const STATE: Section = Section {
    name: "state",
    repeated: false,
    keys: &[Key {
        name: "path",
        kind: KeyKind::OptionalPath,
        default: KeyDefault::Text(""),
        doc: "A folder in which the server keeps what it has learnt, like the memory that models take; empty keeps nothing.",
    }],
};

/// Section `[pool]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// Bytes for all models together, at least 64 MiB; `None` is the tightest limit of the machine.
    #[serde(deserialize_with = "zero_is_none")]
    pub memory_budget: Option<u64>,
    /// A folder of GGUF files. It has not been looked at yet.
    #[serde(deserialize_with = "empty_is_none")]
    pub models_dir: Option<PathBuf>,
}

/// Section `[state]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// A folder for what the server has learnt, which need not exist yet; `None` keeps nothing.
    #[serde(deserialize_with = "empty_is_none")]
    pub path: Option<PathBuf>,
}

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

impl<'de> Deserialize<'de> for AdapterSettings {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        // The layers hold what the table accepts only.
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("adapter {text:?}")))
    }
}

pub(super) fn pool_lines(pool: &PoolSettings) -> Lines<2> {
    let PoolSettings {
        memory_budget,
        models_dir,
    } = pool;
    [
        ("memory_budget", memory_budget.unwrap_or(0).to_string()),
        ("models_dir", optional_path(models_dir.as_deref())),
    ]
}

pub(super) fn state_lines(state: &StateSettings) -> Lines<1> {
    let StateSettings { path } = state;
    [("path", optional_path(path.as_deref()))]
}

fn optional_path(path: Option<&Path>) -> String {
    quoted(&path.map(absolute).unwrap_or_default())
}

fn zero_is_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    Ok(Some(u64::deserialize(value)?).filter(|bytes| *bytes != 0))
}
