//! Configuration: what was written, checked and turned into what the program uses.
//!
//! A gateway is configured by someone who cannot ask its authors, often through a file that a
//! fleet tool wrote. So [`load`] reports *every* mistake at once, each with its key, its source and
//! the form that was expected, and it never ignores a key that it does not know.
//!
//! Layers, weakest first: the defaults of [`schema`], TOML files in the order given, environment
//! variables `EDGELLM__SECTION__KEY`, command-line flags. Tables merge key by key; a later file
//! that has `[[models]]` replaces the whole list of an earlier one. Variables and flags change
//! single keys of a model by its index. Each layer is checked by itself before the merge, so a
//! mistake is found even where a stronger layer hides it.
//!
//! | file | holds |
//! |---|---|
//! | `schema` | the one table of sections and keys: kind, range, default, explanation |
//! | `layer`, `keys` | one source, checked against the table; how variables and flags spell a key |
//! | `resolve` | the merged layers, made into [`Settings`], with the checks across keys |
//! | `settings`, `effective` | the typed structs, and their way back to TOML |
//! | `governor`, `pool` | all of these for the longest section, and for what models share |
//! | `model_names` | the checks of names across models: ids, aliases, the default, siblings |
//! | `mistake`, `nearest` | what is said when something is wrong |

mod effective;
mod governor;
mod keys;
mod layer;
mod mistake;
mod model_names;
mod nearest;
mod pool;
mod resolve;
pub mod schema;
mod settings;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use governor::{BudgetScope, GovernorSettings, Watts};
pub use mistake::{ConfigError, ConfigMistake};
pub use pool::{AdapterSettings, PoolSettings, StateSettings};
pub use settings::{
    AdmissionSettings, AttentionChoice, AuthSettings, CachedTokens, LogFormat, LogLevel,
    MetricsAccess, ModelSettings, PrefixSharing, SchedulerSettings, ServerSettings, Settings,
    Speculation, TelemetrySettings,
};

/// Everything that [`load`] looks at; it reads nothing else of its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// TOML files, weakest first. A relative path inside a file is relative to that file's directory.
    pub files: Vec<PathBuf>,
    /// Environment variables; those that do not begin with `EDGELLM__` set nothing.
    ///
    /// [`std::env::vars`] panics on text that is not Unicode, so fill this from
    /// [`std::env::vars_os`].
    pub env: Vec<(String, String)>,
    /// Command-line flags, strongest; the later wins over an earlier one with the same key.
    pub overrides: Vec<SettingOverride>,
}

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingOverride {
    /// The key it sets, like `server.listen` or `models[0].path`.
    pub key: String,
    /// The flag as the user typed it, like `--listen`; messages name it.
    pub flag: String,
    /// The value as text; it is read according to the key's kind.
    pub value: String,
}

/// Merges and checks all sources.
///
/// Having no model is not an error here, since not every command needs one; see
/// [`Settings::require_models`].
///
/// # Errors
/// Returns every mistake of every source: files that cannot be read or are not TOML, unknown keys,
/// values of the wrong type or out of range, models without a path, names used twice.
pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    let mut reader = layer::Reader::new();
    for file in &sources.files {
        reader.file(file);
    }
    reader.environment(&sources.env);
    reader.overrides(&sources.overrides);
    resolve::settings(reader)
}

impl ModelSettings {
    /// Returns the settings of a model of which nothing is said but its file; `None` where the file's name cannot
    /// be an id.
    #[must_use]
    pub fn of_file(path: &std::path::Path) -> Option<Self> {
        let sources = Sources {
            overrides: vec![SettingOverride {
                key: "models[0].path".to_owned(),
                flag: "pool.models_dir".to_owned(),
                value: path.to_str()?.to_owned(),
            }],
            ..Sources::default()
        };
        load(&sources).ok()?.models.pop()
    }
}
