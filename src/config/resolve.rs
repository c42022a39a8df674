//! The last step: valid layers become settings.
//!
//! Here are the checks that need more than one key; those of models' names are in `model_names`.

use std::path::Path;

use ::config::builder::DefaultState;
use ::config::{Config, ConfigBuilder, Map, Value, ValueKind};

use super::layer::{Layer, Reader};
use super::schema::{Key, KeyDefault, KeyKind, MODELS};
use super::{
    AttentionChoice, ConfigError, ConfigMistake, ModelSettings, Settings, governor, model_names,
};

/// Merges what the reader has read.
pub(super) fn settings(reader: Reader) -> Result<Settings, ConfigError> {
    let mut mistakes = reader.mistakes;
    let settings = assemble(reader.layers, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(ConfigError::new(mistakes));
    }
    settings.map_err(|error| {
        let detail = error.to_string();
        ConfigMistake::Defect { detail }.into()
    })
}

/// Fails only after a mistake, since refused values are not in the layers.
fn assemble(
    layers: Vec<Layer>,
    mistakes: &mut Vec<ConfigMistake>,
) -> Result<Settings, ::config::ConfigError> {
    let merged = layers
        .into_iter()
        .fold(Config::builder(), ConfigBuilder::<DefaultState>::add_source)
        .build()?;
    let models: Vec<_> = merged
        .get_array(MODELS.name)?
        .into_iter()
        .enumerate()
        .map(|(index, value)| complete(index, value, mistakes))
        .collect();
    model_names::check(&models, mistakes);
    let governor = merged.get("governor")?;
    governor::check(&governor, mistakes);
    let models: Vec<ModelSettings> = models
        .into_iter()
        .map(|model| Value::new(None, model).try_deserialize())
        .collect::<Result<_, _>>()?;
    for (index, model) in models.iter().enumerate() {
        if model.deterministic && model.attention == AttentionChoice::Flash {
            mistakes.push(ConfigMistake::Contradiction {
                key: format!("{}.attention", entry_name(index)),
                found: model.attention.as_str().to_owned(),
                expected:
                    "\"plain\" or \"auto\" with models.deterministic: flash rounds by the size \
                           of the batch"
                        .to_owned(),
            });
        }
    }
    let settings = Settings {
        server: merged.get("server")?,
        auth: merged.get("auth")?,
        models,
        pool: merged.get("pool")?,
        state: merged.get("state")?,
        scheduler: merged.get("scheduler")?,
        admission: merged.get("admission")?,
        governor,
        telemetry: merged.get("telemetry")?,
    };
    if settings.is_open_to_the_network() && !settings.auth.open {
        mistakes.push(ConfigMistake::Contradiction {
            key: "server.listen".to_owned(),
            found: settings.server.listen.to_string(),
            expected: "an address of this machine alone, like 127.0.0.1:8080, while there are no keys: set \
                       auth.keys_file to the file for keys (a first one is made), or auth.open to true if \
                       anybody on the network may ask"
                .to_owned(),
        });
    }
    Ok(settings)
}

/// Gives a model the defaults of the keys that it leaves out.
fn complete(index: usize, value: Value, mistakes: &mut Vec<ConfigMistake>) -> Map<String, Value> {
    let entry = entry_name(index);
    let entry_origin = value.origin().map(str::to_owned);
    let mut model = match value.kind {
        ValueKind::Table(table) => table,
        // A place that only a refused variable or flag named.
        _ => Map::new(),
    };
    let origin = entry_origin
        .or_else(|| Some(model.values().find_map(Value::origin)?.to_owned()))
        .unwrap_or_else(|| entry.clone());
    for key in MODELS.keys {
        if model.contains_key(key.name) || is_mistaken(mistakes, &entry, key) {
            continue;
        }
        let default = match key.default {
            KeyDefault::FileStem => match model.get("path") {
                Some(path) => file_stem(path),
                // The path was refused, and nothing can be said about the id.
                None => continue,
            },
            other => other.value().map(|value| Value::new(None, value)),
        };
        if let Some(value) = default {
            model.insert(key.name.to_owned(), value);
        } else {
            mistakes.push(ConfigMistake::Missing {
                key: format!("{entry}.{}", key.name),
                origin: origin.clone(),
                expected: key.expected(),
            });
        }
    }
    model
}

/// The id that follows from a path, if it would be valid as one.
fn file_stem(path: &Value) -> Option<Value> {
    let ValueKind::String(text) = &path.kind else {
        return None;
    };
    let stem = ValueKind::from(Path::new(text).file_stem()?.to_str()?);
    let origin = path.origin().map(str::to_owned);
    KeyKind::Name
        .accepts(&stem)
        .then(|| Value::new(origin.as_ref(), stem))
}

pub(super) fn entry_name(index: usize) -> String {
    format!("{}[{index}]", MODELS.name)
}

/// Whether a mistake about this key, or about the entry as a whole, has been noted already.
fn is_mistaken(mistakes: &[ConfigMistake], entry: &str, key: &Key) -> bool {
    let full = format!("{entry}.{}", key.name);
    mistakes
        .iter()
        .filter_map(ConfigMistake::key)
        .any(|mistaken| mistaken == full || mistaken == entry)
}
