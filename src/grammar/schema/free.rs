//! Places where anything may stand: `{}`, lists without `items`, properties that nobody declared.
//!
//! llguidance has a rule of its own for those, in which a number may have any number of digits and any
//! exponent. Here they become references to [`ANY`], which allows the same but for numbers that a
//! double does not hold.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::exact::{exact_definitions, leads_to, parts, referred};
use super::lower::HEARD;
use super::numbers::{HIGHEST_NUMBER, has_numbers};
use super::types::listed;

/// The name of the definition of anything. Other definitions are called `r0`, `s0` and so on.
const ANY: &str = "any";
/// Keywords that llguidance intersects with what stands beside them.
const JOINING: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];

/// Rewrites a lowered schema so that each place where anything may stand refers to [`ANY`].
///
/// Not where llguidance intersects schemas, below `allOf` as a rule: two references to what refers to itself
/// have no intersection that it would find.
pub(super) fn hold_free(lowered: Value) -> Value {
    let mut root = match lowered {
        Value::Object(root) => root,
        Value::Bool(true) => Map::new(),
        other => return other,
    };
    let mut definitions = match root.shift_remove("$defs") {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    let mut root = Value::Object(root);
    let exact = exact_definitions(&definitions).into_iter();
    let exact: Vec<String> = exact.map(ToOwned::to_owned).collect();
    let joined = joined_definitions(&root, &definitions);
    let mut free = FreePartFiller {
        exact: exact.iter().map(String::as_str).collect(),
        is_used: false,
    };
    free.fill(&mut root);
    for (name, definition) in &mut definitions {
        if !joined.contains(name) {
            free.fill(definition);
        }
    }
    if free.is_used {
        definitions.insert(ANY.to_owned(), anything());
    }
    if !definitions.is_empty()
        && let Some(root) = root.as_object_mut()
    {
        root.insert("$defs".to_owned(), definitions.into());
    }
    root
}

fn anything() -> Value {
    json!({
        "type": ["null", "boolean", "number", "string", "array", "object"],
        "minimum": -HIGHEST_NUMBER,
        "maximum": HIGHEST_NUMBER,
        "items": reference(),
        "additionalProperties": reference(),
    })
}

fn reference() -> Value {
    json!({"$ref": format!("#/$defs/{ANY}")})
}

/// Whether llguidance intersects what stands in a schema with something else.
fn joins(schema: &Map<String, Value>) -> bool {
    let is_joining = |key: &str| JOINING.contains(&key);
    let said = schema.keys().filter(|key| HEARD.contains(&key.as_str()));
    schema.contains_key("allOf") || (schema.keys().any(|key| is_joining(key)) && said.count() > 1)
}

/// Returns the names of the definitions that intersected schemas lead to.
fn joined_definitions(root: &Value, definitions: &Map<String, Value>) -> HashSet<String> {
    let mut joined = HashSet::new();
    let mut next = Vec::new();
    find_joined(root, false, &mut next);
    definitions
        .values()
        .for_each(|definition| find_joined(definition, false, &mut next));
    while let Some(name) = next.pop() {
        if let Some(definition) = definitions.get(name)
            && joined.insert(name.to_owned())
        {
            find_joined(definition, true, &mut next);
        }
    }
    joined
}

/// Collects the names of definitions that are referred to where schemas are intersected.
fn find_joined<'s>(schema: &'s Value, joined: bool, found: &mut Vec<&'s str>) {
    let joined = joined || schema.as_object().is_some_and(joins);
    if joined {
        found.extend(referred(schema));
    }
    parts(schema).for_each(|part| find_joined(part, joined, found));
}

struct FreePartFiller<'n> {
    /// Definitions that lead to numbers which are written in Lark.
    exact: HashSet<&'n str>,
    is_used: bool,
}

impl FreePartFiller<'_> {
    fn any(&mut self) -> Value {
        self.is_used = true;
        reference()
    }

    fn fill(&mut self, schema: &mut Value) {
        if is_anything(schema) {
            *schema = self.any();
            return;
        }
        let is_exact = leads_to(schema, &self.exact);
        let Value::Object(object) = schema else {
            return;
        };
        if joins(object) {
            return;
        }
        // Such objects have the declared properties alone, and such lists the declared items.
        if !is_exact {
            self.fill_open(object);
        }
        self.fill_parts(object);
    }

    fn fill_parts(&mut self, object: &mut Map<String, Value>) {
        for (key, value) in object {
            match (key.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(named)) => {
                    named.values_mut().for_each(|schema| self.fill(schema));
                }
                ("prefixItems" | "anyOf" | "oneOf", Value::Array(list)) => {
                    for schema in list {
                        self.fill(schema);
                    }
                }
                ("items" | "additionalProperties", schema) => self.fill(schema),
                _ => {}
            }
        }
    }

    /// Says of items, properties and numbers what the schema leaves open.
    fn fill_open(&mut self, object: &mut Map<String, Value>) {
        let decided = JOINING.into_iter().chain(["enum", "const"]);
        if decided.into_iter().any(|key| object.contains_key(key)) {
            return;
        }
        let kinds = object.get("type").cloned();
        let may_be = |kind: &str| {
            kinds
                .as_ref()
                .is_none_or(|kinds| listed(kinds).any(|own| own == kind))
        };
        for (kind, key) in [("array", "items"), ("object", "additionalProperties")] {
            if may_be(kind) && !object.contains_key(key) {
                let any = self.any();
                object.insert(key.to_owned(), any);
            }
        }
        if may_be("number") && !has_numbers(object) {
            object.insert("minimum".to_owned(), (-HIGHEST_NUMBER).into());
            object.insert("maximum".to_owned(), HIGHEST_NUMBER.into());
        }
    }
}

fn is_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(is_anything) => *is_anything,
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_stand_anywhere_is_one_definition() {
        let any = reference();
        for (given, expected) in [
            (json!(true), any.clone()),
            (json!({}), any.clone()),
            (
                json!({"type": "array"}),
                json!({"type": "array", "items": any}),
            ),
            (
                json!({"type": ["object", "null"], "properties": {"a": {}}}),
                json!({"type": ["object", "null"], "properties": {"a": any}, "additionalProperties": any}),
            ),
            (
                json!({"type": "array", "prefixItems": [true], "items": false}),
                json!({"type": "array", "prefixItems": [any], "items": false}),
            ),
            (
                json!({"anyOf": [{}, {"type": "null"}]}),
                json!({"anyOf": [any, {"type": "null"}]}),
            ),
        ] {
            let mut held = hold_free(given.clone());
            let definitions = held
                .as_object_mut()
                .and_then(|held| held.shift_remove("$defs"));
            assert_eq!(held, expected, "{given}");
            assert_eq!(definitions, Some(json!({ANY: anything()})), "{given}");
        }
        let untyped = hold_free(json!({"minLength": 3}));
        assert_eq!(untyped["maximum"], HIGHEST_NUMBER);
        assert_eq!(untyped["items"], any);
    }

    #[test]
    fn what_says_all_or_is_intersected_stays_as_it_is() {
        for schema in [
            json!(false),
            json!({"type": "string"}),
            json!({"enum": [1]}),
            json!({"type": "object", "additionalProperties": false}),
            json!({"allOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}),
            json!({"type": "object", "anyOf": [{"properties": {"a": {}}}]}),
            json!({"allOf": [{"$ref": "#/$defs/r0"}, {"type": "array"}],
                   "$defs": {"r0": {"type": "array", "items": {"$ref": "#/$defs/r1"}}, "r1": {}}}),
        ] {
            assert_eq!(hold_free(schema.clone()), schema);
        }
    }
}
