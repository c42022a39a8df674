//! Configuration: what was written, checked and turned into what the program uses.
//!
//! A gateway is configured by someone who cannot ask its authors, often through a file that a
//! fleet tool wrote. So [`load`] reports *every* mistake at once, each with its key, its source and
//! the form that was expected, and it never ignores a key that it does not know.
//!
//! Layers, weakest first: the defaults, TOML files in the order given, environment
//! variables `EDGELLM__SECTION__KEY`, command-line flags. Tables merge key by key; a later file
//! that has `[[models]]` replaces the whole list of an earlier one. Variables and flags change
//! single keys of a model by its index. Each layer is checked by itself before the merge, so a
//! mistake is found even where a stronger layer hides it.
//!
//! A setting is declared once, in `sections/`: two lines give a key its documentation, type, bounds
//! and default. The structs, the schema, what is printed, `config/edgellm.toml` and `docs/settings.md`
//! all follow from that.
//!
//! | file | holds |
//! |---|---|
//! | `sections/`, `settings` | the declarations, each with the checks across its keys |
//! | `declare`, `setting` | the macros behind them; the kinds of settings with their types in Rust |
//! | `schema` | what a declaration becomes for those who read sources: sections, keys, kinds |
//! | `layer`, `keys` | one source, checked against the schema; how variables and flags spell a key |
//! | `resolve` | the merged layers, made into [`Settings`] |
//! | `print` | the way back: effective settings, the example file, the table of the documentation |
//! | `model_names`, `adapter` | the checks of names across models; how an adapter is written |
//! | `mistake`, `nearest` | what is said when something is wrong |

mod adapter;
mod declare;
mod keys;
mod layer;
mod listen;
mod mistake;
mod model_names;
mod nearest;
mod network;
mod print;
mod resolve;
mod schema;
mod sections;
mod setting;
mod settings;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use adapter::AdapterSettings;
pub use listen::{ListenAddress, TrustedProxy};
pub use mistake::{ConfigError, ConfigMistake};
pub use print::{reference, template};
pub use sections::*;
pub use settings::Settings;

use declare::Declared;

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
    resolve::settings(read(Settings::SCHEMA, sources))
}

fn read(schema: schema::Schema, sources: &Sources) -> layer::Reader {
    let mut reader = layer::Reader::new(schema);
    for file in &sources.files {
        reader.file(file);
    }
    reader.environment(&sources.env);
    reader.overrides(&sources.overrides);
    reader
}
