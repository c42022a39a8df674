//! JSON schemas of requests and responses, generated from the types that parse and serialize them.

use std::ops::RangeInclusive;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::inference::bounds::{
    LOGIT_BIAS, LONGEST_METADATA, LONGEST_METADATA_KEY, MOST_METADATA, MOST_TOKEN_IDS,
};

/// Generates schemas of parsed and of serialized types, which differ for `Option` and `default`.
pub(crate) struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12()
                .with(|settings| {
                    settings.definitions_path = "/components/schemas".into();
                    settings.meta_schema = None;
                })
                .with_transform(RecursiveTransform(bound_integers))
        };
        Self {
            read: settings().for_deserialize().into_generator(),
            written: settings().for_serialize().into_generator(),
        }
    }

    /// Returns the schema of a type that is parsed from requests.
    pub(crate) fn read<T: JsonSchema>(&mut self) -> Value {
        self.read.subschema_for::<T>().to_value()
    }

    /// Returns the schema of a type that is serialized into responses.
    pub(crate) fn written<T: JsonSchema>(&mut self) -> Value {
        self.written.subschema_for::<T>().to_value()
    }

    /// Returns all schemas used so far by name: of parsed types, then of serialized ones.
    pub(super) fn into_definitions(mut self) -> [Map<String, Value>; 2] {
        [
            self.read.take_definitions(true),
            self.written.take_definitions(true),
        ]
    }
}

/// Adds the bounds of `i64`: JSON itself does not bound integers.
fn bound_integers(schema: &mut Schema) {
    if schema.get("format").is_some_and(|format| format == "int64") {
        let bounds = [("minimum", i64::MIN), ("maximum", i64::MAX)];
        let object = schema.ensure_object();
        for (key, bound) in bounds {
            object.entry(key).or_insert_with(|| bound.into());
        }
    }
}

/// Bounds a number by `range`.
pub(crate) fn within<T: Into<Value> + Copy>(range: RangeInclusive<T>) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("minimum".to_owned(), (*range.start()).into());
        schema.insert("maximum".to_owned(), (*range.end()).into());
    }
}

/// Bounds an integer from below.
pub(crate) fn at_least(least: i64) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("minimum".to_owned(), least.into());
    }
}

/// Restricts a value to one of these, or `null` if the type allows it.
pub(crate) fn among<T: Into<Value>>(
    values: impl IntoIterator<Item = T>,
) -> impl FnMut(&mut Schema) {
    let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
    move |schema| {
        let types = schema.get("type").and_then(Value::as_array);
        if types.is_some_and(|types| types.contains(&json!("null"))) {
            values.push(Value::Null);
        }
        schema.insert("enum".to_owned(), std::mem::take(&mut values).into());
    }
}

/// Applies a transformation to the schema of a list's entries.
pub(crate) fn each(mut of: impl FnMut(&mut Schema)) -> impl FnMut(&mut Schema) {
    move |schema| {
        let items = schema.get_mut("items");
        if let Some(items) = items.and_then(|items| items.try_into().ok()) {
            of(items);
        }
    }
}

/// Requires `stream` in a request that has `stream_options`.
pub(crate) fn only_in_streams(schema: &mut Schema) {
    let asked = json!({
        "properties": {"stream_options": {"type": "object"}},
        "required": ["stream_options"],
    });
    let streams = json!({"properties": {"stream": {"const": true}}, "required": ["stream"]});
    schema.insert("if".to_owned(), asked);
    schema.insert("then".to_owned(), streams);
}

/// A schema that no Rust type has by itself.
macro_rules! schema {
    ($(#[$doc:meta])* $type:ident, $inline:literal, $schema:tt) => {
        $(#[$doc])*
        pub(crate) struct $type;

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                $inline
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

schema!(
    /// Token ids and what is added to their likelihood.
    LogitBias,
    true,
    {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": {"type": "number", "minimum": *LOGIT_BIAS.start(), "maximum": *LOGIT_BIAS.end()},
        "maxProperties": MOST_TOKEN_IDS,
    }
);

schema!(
    /// What clients attach for themselves.
    Metadata,
    true,
    {
        "type": "object",
        "propertyNames": {"maxLength": LONGEST_METADATA_KEY},
        "additionalProperties": {"type": "string", "maxLength": LONGEST_METADATA},
        "maxProperties": MOST_METADATA,
    }
);

schema!(
    /// A parameter that only `null` passes for.
    NullOnly,
    true,
    {"type": "null"}
);

schema!(
    /// The id of a model that chats; [`show`](super::show) adds which there are.
    ChatModel,
    false,
    {"type": "string", "description": "The id of a model that generates text, see `GET /v1/models`."}
);

schema!(
    /// The id of a model that embeds; [`show`](super::show) adds which there are.
    EmbeddingModel,
    false,
    {"type": "string", "description": "The id of an embedding model, see `GET /v1/models`."}
);

schema!(
    /// The id of any model; [`show`](super::show) adds which there are.
    AnyModel,
    false,
    {"type": "string", "description": "The id of a model, see `GET /v1/models`."}
);
