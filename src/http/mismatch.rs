//! Why a JSON value is not of a type.
//!
//! serde's error says where, in a sentence of its own for programmers. What is wrong there, and which names on
//! the way are ours, is found by holding the place against the type's schema.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use schemars::{JsonSchema, schema_for};
use serde::de::Unexpected;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::field::FieldPath;
use crate::sync::Mutex;

use super::json_path::JsonKind;

/// References and alternatives within each other that are followed.
const DEEPEST_ALTERNATIVE: usize = 16;

/// A place in a value that does not fit its type.
#[derive(Debug, PartialEq)]
pub(super) struct Mismatch {
    /// The place, from the value's root.
    pub(super) place: FieldPath,
    /// What is wrong there, where the schema tells.
    pub(super) problem: Option<String>,
}

/// Finds out why a value is not a `T`, as an error at `path` says, where `found` is.
pub(super) fn explain<T: JsonSchema + 'static>(found: Option<&JsonKind>, path: &Path) -> Mismatch {
    let schema = schema_of::<T>();
    let root: &Value = &schema;
    let mut schemas = alternatives(root, root, 0);
    let mut place = FieldPath::default();
    for segment in path {
        let next: Vec<&Value> = match segment {
            Segment::Seq { index } => {
                place = place.index(*index);
                let items = schemas.iter().filter_map(|schema| schema.get("items"));
                items.collect()
            }
            Segment::Map { key } => {
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
        let next = next.into_iter();
        schemas = next
            .flat_map(|schema| alternatives(root, schema, 0))
            .collect();
    }
    let problem = found.and_then(|found| problem(found, &schemas, &mut place));
    Mismatch { place, problem }
}

/// The schema of a type, made once: making it takes longer than reading most bodies.
fn schema_of<T: JsonSchema + 'static>() -> Arc<Value> {
    static SCHEMAS: LazyLock<Mutex<HashMap<TypeId, Arc<Value>>>> = LazyLock::new(Mutex::default);
    let mut schemas = SCHEMAS.lock();
    let schema = schemas.entry(TypeId::of::<T>());
    Arc::clone(schema.or_insert_with(|| Arc::new(schema_for!(T).to_value())))
}

/// The schemas that a value may fit: references followed, alternatives apart, but for null.
fn alternatives<'s>(root: &'s Value, schema: &'s Value, depth: usize) -> Vec<&'s Value> {
    if depth == DEEPEST_ALTERNATIVE || schema.get("type").is_some_and(|kind| kind == "null") {
        return Vec::new();
    }
    let target = schema.get("$ref").and_then(Value::as_str);
    let target = target.and_then(|target| root.pointer(target.strip_prefix('#')?));
    let lists = ["anyOf", "oneOf"].into_iter();
    let lists = lists.filter_map(|key| schema.get(key)?.as_array());
    let within: Vec<&Value> = lists.flatten().chain(target).collect();
    if within.is_empty() {
        return vec![schema];
    }
    let within = within.into_iter();
    within
        .flat_map(|schema| alternatives(root, schema, depth + 1))
        .collect()
}

/// What is wrong with a value that does not fit the one schema that it may fit. Where there are several, the
/// type's own words for that are better. A field that is missing is a place of its own.
fn problem(found: &JsonKind, schemas: &[&Value], place: &mut FieldPath) -> Option<String> {
    let [schema] = schemas else {
        return None;
    };
    let types: Vec<&str> = types(schema).filter(|name| *name != "null").collect();
    let name = match (types.as_slice(), found) {
        (["object"], JsonKind::Object(names)) => {
            let mut required = schema.get("required")?.as_array()?.iter();
            let is_missing = |name: &&str| !names.contains(*name);
            let missing = required
                .by_ref()
                .filter_map(Value::as_str)
                .find(is_missing)?;
            *place = place.known_name(missing);
            return Some(format!("missing field `{missing}`"));
        }
        (["integer"], JsonKind::Number(number)) if number.is_i64() || number.is_u64() => {
            let range = range(schema.get("format")?.as_str()?)?;
            return Some(format!(
                "invalid value: {}, expected one from {range}",
                unexpected(found)
            ));
        }
        (["integer"], _) => "an integer",
        (["number"], _) => "a number",
        (["object"], _) => "an object",
        _ => return None,
    };
    Some(format!(
        "invalid type: {}, expected {name}",
        unexpected(found)
    ))
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let kinds = match schema.get("type") {
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
        None => &[],
    };
    kinds.iter().filter_map(Value::as_str)
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
fn unexpected(found: &JsonKind) -> String {
    let unexpected = match found {
        JsonKind::Null => return "null".to_owned(),
        JsonKind::Number(number) if number.is_f64() => return format!("floating point `{number}`"),
        JsonKind::Number(number) => return format!("integer `{number}`"),
        JsonKind::Bool(value) => Unexpected::Bool(*value),
        JsonKind::String(text) => Unexpected::Str(text),
        JsonKind::Array => Unexpected::Seq,
        JsonKind::Object(_) => Unexpected::Map,
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
    #[serde(untagged, expecting = "expected a word or one of two objects")]
    enum Several {
        Word(String),
        Role { role: String },
        Name { name: String },
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Outer {
        list: Option<Vec<Inner>>,
        map: Option<BTreeMap<String, f64>>,
        one: Option<Inner>,
        several: Option<Several>,
    }

    fn explained(value: &Value) -> (String, String, Option<String>) {
        let text = value.to_string();
        let mut json = serde_json::Deserializer::from_str(&text);
        let error = serde_path_to_error::deserialize::<_, Outer>(&mut json).expect_err("another");
        let found = JsonKind::in_text(text.as_bytes(), error.path());
        assert_eq!(found, JsonKind::in_value(value, error.path()), "{value}");
        let Mismatch { place, problem } = explain::<Outer>(found.as_ref(), error.path());
        (place.to_string(), place.known().to_string(), problem)
    }

    #[test]
    fn the_place_and_the_problem_are_found_without_reading_a_sentence() {
        for (value, place, known, problem) in [
            (
                json!(7),
                "",
                "",
                "invalid type: integer `7`, expected an object",
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
                json!({"list": [{"role": "a", "count": 1e300}]}),
                "list[0].count",
                "list[0].count",
                "invalid type: floating point `1e+300`, expected an integer",
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

    #[test]
    fn where_several_would_do_the_types_own_words_stand() {
        let value = json!({"several": {"count": 1}});
        assert_eq!(
            explained(&value),
            ("several".to_owned(), "several".to_owned(), None)
        );
    }

    #[test]
    fn a_place_is_found_in_a_text_that_is_no_json_after_it() {
        let text = br#"{"deep": [[{"x": "\ud800"}]], "one": {"count": 1}} and more"#;
        let mut json = serde_json::Deserializer::from_slice(text);
        let error = serde_path_to_error::deserialize::<_, Outer>(&mut json).expect_err("no role");
        let found = JsonKind::in_text(text, error.path());
        let Mismatch { place, .. } = explain::<Outer>(found.as_ref(), error.path());
        assert_eq!(place.to_string(), "one.role");
    }
}
