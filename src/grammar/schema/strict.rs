//! The rules of `strict`, which are those of OpenAI's guide "Structured model outputs".

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::check::names;
use super::path::{SchemaPath, schema_error};

/// Keywords of JSON Schema that `strict` does not know.
const NOT_STRICT: [&str; 23] = [
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "prefixItems",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
];
/// The keywords of which a strict schema needs one, to say what its instances are.
const SAYS_WHAT: [&str; 5] = ["type", "enum", "const", "anyOf", "$ref"];

pub(super) fn strict_root(schema: &Value) -> Result<(), SchemaError> {
    let root = schema.as_object();
    if root.is_none_or(|root| root.get("type") != Some(&json!("object"))) {
        return Err(schema_error(
            &SchemaPath::ROOT,
            "must have `\"type\": \"object\"` at its root",
        ));
    }
    if root.is_some_and(|root| root.contains_key("anyOf")) {
        return Err(schema_error(
            &SchemaPath::ROOT,
            "must not have `anyOf` at its root",
        ));
    }
    Ok(())
}

pub(super) fn strict_keywords(
    object: &Map<String, Value>,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    if let Some(keyword) = NOT_STRICT.iter().find(|key| object.contains_key(**key)) {
        let why = format!("`{keyword}` is not permitted in a strict schema");
        return Err(schema_error(&path.under(keyword), why));
    }
    // An empty schema allows anything, which strict schemas never do.
    if !SAYS_WHAT.iter().any(|key| object.contains_key(*key)) {
        let why = "must have a `type`, or one of `enum`, `const`, `anyOf` and `$ref`";
        return Err(schema_error(path, why));
    }
    Ok(())
}

/// Every property is required, and no other may come.
pub(super) fn strict_object(
    object: &Map<String, Value>,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    if object.get("additionalProperties") != Some(&Value::Bool(false)) {
        let why = "`additionalProperties` must be there and be false in a strict schema";
        return Err(schema_error(&path.under("additionalProperties"), why));
    }
    let at = path.under("required");
    if object
        .get("required")
        .is_some_and(|required| !required.is_array())
    {
        return Err(schema_error(&at, "must be an array of names"));
    }
    let required = names(object.get("required"));
    let properties = object.get("properties").and_then(Value::as_object);
    let known = |name: &str| properties.is_some_and(|map| map.contains_key(name));
    // The same one each time.
    if let Some(name) = required.iter().filter(|name| !known(name)).min() {
        return Err(schema_error(
            &at,
            format!("`{name}` is not one of the properties"),
        ));
    }
    let left_out = properties
        .into_iter()
        .flat_map(Map::keys)
        .find(|name| !required.contains(&name.as_str()));
    match left_out {
        None => Ok(()),
        Some(name) => Err(schema_error(
            &at,
            format!(
                "must name every property of a strict schema; `{name}` is missing \
                 (an optional one has the type `[…, \"null\"]`)"
            ),
        )),
    }
}
