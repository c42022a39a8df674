//! Why a JSON value is not of a type.
//!
//! serde's error says where, in a sentence of its own for programmers. What is wrong there, and which names on
//! the way are ours, is found by holding the value against the type's schema.

use schemars::{JsonSchema, schema_for};
use serde::de::Unexpected;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::field::FieldPath;

/// A place in a value that does not fit its type.
#[derive(Debug, PartialEq)]
pub(super) struct Mismatch {
    /// The place, from the value's root.
    pub(super) place: FieldPath,
    /// What is wrong there, where the schema tells.
    pub(super) problem: Option<String>,
}

/// Finds out why `value` is not a `T`, as an error at `path` says.
pub(super) fn explain<T: JsonSchema>(value: Option<&Value>, path: &Path) -> Mismatch {
    let schema = schema_for!(T);
    let root = schema.as_value();
    let mut schemas = alternatives(root, root);
    let (mut place, mut value) = (FieldPath::default(), value);
    for segment in path {
        let next: Vec<&Value> = match segment {
            Segment::Seq { index } => {
                place = place.index(*index);
                value = value.and_then(|value| value.get(index));
                let items = schemas.iter().filter_map(|schema| schema.get("items"));
                items.collect()
            }
            Segment::Map { key } => {
                value = value.and_then(|value| value.get(key));
                let properties = schemas.iter();
                let declared = properties.filter_map(|schema| schema.get("properties")?.get(key));
                let declared: Vec<&Value> = declared.collect();
                if declared.is_empty() {
                    // The key of a map: a client chose it.
                    place = place.key(key);
                    let others = schemas.iter();
                    let others = others.filter_map(|schema| schema.get("additionalProperties"));
                    others.collect()
                } else {
                    place = place.known_name(key);
                    declared
                }
            }
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        schemas = next
            .into_iter()
            .flat_map(|schema| alternatives(root, schema))
            .collect();
    }
    let problem = value.and_then(|value| problem(value, &schemas, &mut place));
    Mismatch { place, problem }
}

/// The schemas that a value may fit: references followed, alternatives apart.
fn alternatives<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let target = schema.get("$ref").and_then(Value::as_str);
    let target = target.and_then(|target| root.pointer(target.strip_prefix('#')?));
    let lists = ["anyOf", "oneOf", "allOf"].into_iter();
    let lists = lists
        .filter_map(|key| schema.get(key)?.as_array())
        .flatten();
    let within = lists
        .chain(target)
        .flat_map(|schema| alternatives(root, schema));
    std::iter::once(schema).chain(within).collect()
}

/// What is wrong with a value that fits none of these schemas; a field that is missing is a place of its own.
fn problem(value: &Value, schemas: &[&Value], place: &mut FieldPath) -> Option<String> {
    let types: Vec<&str> = schemas
        .iter()
        .flat_map(|schema| types(schema))
        .filter(|name| *name != "null")
        .collect();
    if let Value::Object(members) = value
        && types.contains(&"object")
    {
        let required = schemas
            .iter()
            .filter_map(|schema| schema.get("required")?.as_array());
        let mut names = required.flatten().filter_map(Value::as_str);
        let missing = names.find(|name| !members.contains_key(*name))?;
        *place = place.known_name(missing);
        return Some(format!("missing field `{missing}`"));
    }
    let found = found(value);
    match types[..] {
        ["integer"] if value.is_i64() || value.is_u64() => {
            let range = schemas
                .iter()
                .find_map(|schema| range(schema.get("format")?.as_str()?))?;
            Some(format!("invalid value: {found}, expected one from {range}"))
        }
        ["integer"] => Some(format!("invalid type: {found}, expected an integer")),
        ["number"] => Some(format!("invalid type: {found}, expected a number")),
        ["object"] => Some(format!("invalid type: {found}, expected an object")),
        _ => None,
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The integers of one of Rust's types, by schemars' name of it.
fn range(format: &str) -> Option<&'static str> {
    match format {
        "int64" => Some("-9223372036854775808 to 9223372036854775807"),
        "uint32" => Some("0 to 4294967295"),
        "uint64" | "uint" => Some("0 to 18446744073709551615"),
        _ => None,
    }
}

/// A value as serde calls it.
fn found(value: &Value) -> String {
    let unexpected = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Unexpected::Unsigned(number),
            (None, Some(number)) => Unexpected::Signed(number),
            (None, None) => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
    };
    unexpected.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Inner {
        role: String,
        count: Option<i64>,
        size: Option<u32>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Outer {
        list: Option<Vec<Inner>>,
        map: Option<BTreeMap<String, f64>>,
        one: Option<Inner>,
    }

    fn explained(value: &Value) -> (String, String, Option<String>) {
        let error = serde_path_to_error::deserialize::<_, Outer>(value).expect_err("no such type");
        let Mismatch { place, problem } = explain::<Outer>(Some(value), error.path());
        (place.to_string(), place.known().to_string(), problem)
    }

    #[test]
    fn the_place_and_the_problem_are_found_without_reading_a_sentence() {
        for (value, place, known, problem) in [
            (
                json!([]),
                "",
                "",
                "invalid type: sequence, expected an object",
            ),
            (
                json!({"list": [{"role": "a"}, {}]}),
                "list[1].role",
                "list[1].role",
                "missing field `role`",
            ),
            (
                json!({"one": {"count": 1}}),
                "one.role",
                "one.role",
                "missing field `role`",
            ),
            (
                json!({"list": [{"role": "a", "count": 1.5}]}),
                "list[0].count",
                "list[0].count",
                "invalid type: floating point `1.5`, expected an integer",
            ),
            (
                json!({"one": {"role": "a", "count": u64::MAX}}),
                "one.count",
                "one.count",
                "invalid value: integer `18446744073709551615`, expected one from -9223372036854775808 to \
                 9223372036854775807",
            ),
            (
                json!({"one": {"role": "a", "size": -1}}),
                "one.size",
                "one.size",
                "invalid value: integer `-1`, expected one from 0 to 4294967295",
            ),
            (
                json!({"map": {"secret": "x"}}),
                "map.secret",
                "map",
                "invalid type: string \"x\", expected a number",
            ),
            (
                json!({"list": ["x"]}),
                "list[0]",
                "list[0]",
                "invalid type: string \"x\", expected an object",
            ),
        ] {
            let expected = (place.to_owned(), known.to_owned(), Some(problem.to_owned()));
            assert_eq!(explained(&value), expected, "{value}");
        }
    }
}
