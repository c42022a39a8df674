//! What can be wrong with a configuration, in words for the person who wrote it.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Every mistake of a configuration, in the order of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    mistakes: Vec<ConfigMistake>,
}

/// One mistake.
///
/// `key` is the full key, like `server.listen` or `models[0].path`. `origin` is where it was
/// written: a file's path, `environment variable NAME`, or a flag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigMistake {
    /// A file could not be read.
    #[error("cannot read {}: {reason}", file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// A file is not TOML.
    #[error("{} is not valid TOML: {detail}", file.display())]
    Syntax {
        /// The file as it was named.
        file: PathBuf,
        /// Line and column, the line itself, and what is wrong with it.
        detail: String,
    },
    /// A section that does not exist.
    #[error("unknown section `{section}` in {origin}; {hint}")]
    UnknownSection {
        /// The section as it was written.
        section: String,
        /// Where it was written.
        origin: String,
        /// The nearest section, or all of them.
        hint: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}; {hint}")]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// Where it was written.
        origin: String,
        /// The nearest valid key.
        hint: String,
    },
    /// A value of the wrong type, or out of range.
    #[error("`{key}` in {origin} must be {expected}; found {found}")]
    WrongValue {
        /// The key.
        key: String,
        /// Where the value was written.
        origin: String,
        /// The form of a valid value, with an example.
        expected: String,
        /// The value that was written.
        found: String,
    },
    /// A key that has no default was left out.
    #[error("`{key}` is missing in {origin}; it must be {expected}")]
    Missing {
        /// The key.
        key: String,
        /// Where the rest of its section was written.
        origin: String,
        /// The form of a valid value, with an example.
        expected: String,
    },
    /// A variable or flag sets an entry whose index is too high.
    #[error(
        "`{key}` in {origin} leaves a gap: {configured} {entry}(s) configured before it, so the next is `{section}[{configured}]`"
    )]
    Gap {
        /// The key.
        key: String,
        /// The variable or flag.
        origin: String,
        /// How many entries the weaker sources configure.
        configured: usize,
        /// The section that repeats.
        section: &'static str,
        /// What an entry is called.
        entry: &'static str,
    },
    /// An environment variable with one underscore where two belong.
    #[error("environment variable {name} sets nothing; did you mean {meant}?")]
    Misspelt {
        /// As it was written.
        name: String,
        /// What it should be.
        meant: String,
    },
    /// Two environment variables set the same key, and nothing says which one wins.
    #[error("`{key}` is set twice, in {first} and in {second}; remove one")]
    SetTwice {
        /// The key.
        key: String,
        /// One variable.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two models answer to the same name.
    #[error(
        "`{key}` in {origin} is {id:?}, but `{first_key}` in {first_origin} already is; give each model its own id"
    )]
    DuplicateId {
        /// The key of the later model's id.
        key: String,
        /// Where the later id, or the path that it follows from, was written.
        origin: String,
        /// The id that both have.
        id: String,
        /// The key of the earlier model's id.
        first_key: String,
        /// Where the earlier id, or the path that it follows from, was written.
        first_origin: String,
    },
    /// An alias that another model answers to already.
    #[error(
        "`{key}` in {origin} has {name:?}, but `{first_key}` in {first_origin} already does; give each model names of its own"
    )]
    NameTaken {
        /// The key of the alias.
        key: String,
        /// Where the alias was written.
        origin: String,
        /// The name that both have.
        name: String,
        /// The key of the other model's id or aliases.
        first_key: String,
        /// Where the other was written.
        first_origin: String,
    },
    /// Two models that answer to names that nobody has.
    #[error(
        "`{key}` in {origin} is true, but `{first_key}` in {first_origin} already is; only one model can answer to unknown names"
    )]
    SecondDefault {
        /// The later model's key.
        key: String,
        /// Where the later was written.
        origin: String,
        /// The earlier model's key.
        first_key: String,
        /// Where the earlier was written.
        first_origin: String,
    },
    /// A sibling that is no other model.
    #[error("`{key}` in {origin} has {name:?}; it must be the id of another model{hint}")]
    UnknownSibling {
        /// The key of the siblings.
        key: String,
        /// Where they were written.
        origin: String,
        /// The sibling.
        name: String,
        /// The nearest id, in words that go on with the sentence; empty if there is no other model.
        hint: String,
    },
    /// A value that is valid by itself and not beside another.
    #[error("`{key}` is {found}; it must be {expected}")]
    Contradiction {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would fit, with the other key.
        expected: String,
    },
    /// A model is needed and none is configured.
    #[error(
        "no model to serve: pass --model FILE.gguf, or set models.path or pool.models_dir in a file"
    )]
    NoModels,
    /// A declaration contradicts itself: a defect of edgellm.
    #[error("edgellm's own configuration table is wrong, please report it: {detail}")]
    Defect {
        /// What does not fit.
        detail: String,
    },
}

impl ConfigMistake {
    /// The key that is wrong, where the mistake is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. }
            | Self::WrongValue { key, .. }
            | Self::Missing { key, .. }
            | Self::Gap { key, .. }
            | Self::SetTwice { key, .. }
            | Self::DuplicateId { key, .. }
            | Self::NameTaken { key, .. }
            | Self::SecondDefault { key, .. }
            | Self::UnknownSibling { key, .. }
            | Self::Contradiction { key, .. } => Some(key),
            Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::UnknownSection { .. }
            | Self::Misspelt { .. }
            | Self::NoModels
            | Self::Defect { .. } => None,
        }
    }
}

impl ConfigError {
    /// Wraps mistakes, of which there must be at least one for this to make sense.
    pub(super) fn new(mistakes: Vec<ConfigMistake>) -> Self {
        Self { mistakes }
    }

    /// Each mistake by itself.
    #[must_use]
    pub fn mistakes(&self) -> &[ConfigMistake] {
        &self.mistakes
    }
}

impl From<ConfigMistake> for ConfigError {
    fn from(mistake: ConfigMistake) -> Self {
        Self::new(vec![mistake])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => write!(out, "the configuration has a mistake:")?,
            count => write!(out, "the configuration has {count} mistakes:")?,
        }
        for mistake in &self.mistakes {
            // A syntax mistake shows the line of the file below its own.
            let text = mistake.to_string().replace('\n', "\n    ");
            write!(out, "\n  - {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// An entry of a section that repeats, as in `models[1]`.
pub(super) fn entry_name(section: &str, index: usize) -> String {
    format!("{section}[{index}]")
}

/// A key of such an entry, as in `models[1].path`.
pub(super) fn entry_key(section: &str, index: usize, key: &str) -> String {
    format!("{section}[{index}].{key}")
}
