//! What the values of keywords are. llguidance would say so, too, but not where in the schema.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::SchemaError;
use super::path::{SchemaPath, schema_error};

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];
const NUMBERS: [&str; 3] = ["minimum", "maximum", "multipleOf"];
/// In draft 4 these say whether the others are exclusive.
const EXCLUSIVE: [&str; 2] = ["exclusiveMinimum", "exclusiveMaximum"];
const TEXTS: [&str; 3] = ["pattern", "format", "$ref"];

pub(super) fn kinds_of_values(
    object: &Map<String, Value>,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    types(object, path)?;
    let check = |keys: &[&str], fits: fn(&Value) -> bool, why: &str| {
        let unfit = |key: &&&str| object.get(**key).is_some_and(|value| !fits(value));
        match keys.iter().find(unfit) {
            None => Ok(()),
            Some(key) => Err(schema_error(&path.under(key), why)),
        }
    };
    check(&NUMBERS, Value::is_number, "must be a number")?;
    check(
        &EXCLUSIVE,
        |value| value.is_number() || value.is_boolean(),
        "must be a number",
    )?;
    check(&TEXTS, Value::is_string, "must be a text")?;
    let are_texts = |value: &Value| {
        let list = value.as_array();
        list.is_some_and(|list| list.iter().all(Value::is_string))
    };
    check(&["required"], are_texts, "must be an array of names")
}

/// Each type that is listed is compiled with all keywords of the schema.
fn types(object: &Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
    let listed = match object.get("type") {
        None => return Ok(()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let at = path.under("type");
    let is_known = |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
    let known = TYPES.join("`, `");
    if listed.is_empty() {
        return Err(schema_error(
            &at,
            format!("must be one or several of `{known}`"),
        ));
    }
    if let Some(other) = listed.iter().find(|kind| !is_known(kind)) {
        let why = format!(
            "must be one or several of `{known}`; {:.40} is none",
            other.to_string()
        );
        return Err(schema_error(&at, why));
    }
    let mut seen = HashSet::new();
    if !listed.iter().all(|kind| seen.insert(kind.as_str())) {
        return Err(schema_error(&at, "must name each type once"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_keyword_cannot_be_is_refused_at_its_place() {
        for (schema, place) in [
            (json!({"type": "str"}), ".type"),
            (json!({"type": ["string", 5]}), ".type"),
            (json!({"type": []}), ".type"),
            (json!({"type": null}), ".type"),
            (json!({"type": ["null", "null"]}), ".type"),
            (json!({"minimum": "3"}), ".minimum"),
            (json!({"exclusiveMaximum": null}), ".exclusiveMaximum"),
            (json!({"pattern": 5}), ".pattern"),
            (json!({"format": ["date"]}), ".format"),
            (json!({"$ref": {}}), ".$ref"),
            (json!({"required": "a"}), ".required"),
            (json!({"required": ["a", 1]}), ".required"),
        ] {
            let object = schema.as_object().expect("an object");
            let refused = kinds_of_values(object, &SchemaPath::ROOT).expect_err("refused");
            assert_eq!(refused.path, place, "{schema}");
        }
    }
}
