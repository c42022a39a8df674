//! The types of instances.

use serde_json::Value;

use super::numbers::whole;
use super::reference::resolve;

/// References that are followed to find out the type of a schema.
const MOST_FOLLOWED: usize = 32;

/// Returns the names of types, of one or several.
pub(super) fn listed(kinds: &Value) -> impl Iterator<Item = &Value> {
    match kinds {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    }
    .iter()
}

/// Whether a value is of a type, by its name in a schema.
pub(super) fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            whole(value).is_some() || value.as_f64().is_some_and(|double| double.fract() == 0.0)
        }
        _ => false,
    }
}

/// Whether all instances of the type `own` are of the type `kind`.
fn has(kind: &Value, own: &Value) -> bool {
    kind == own || (kind == "number" && own == "integer")
}

/// Whether a schema names only types that are not among these.
pub(super) fn is_never(schema: &Value, kinds: &Value) -> bool {
    let own = schema.as_object().and_then(|schema| schema.get("type"));
    own.is_some_and(|own| {
        let meets = |own: &Value| listed(kinds).any(|kind| has(kind, own) || has(own, kind));
        !listed(own).any(meets)
    })
}

/// Whether all instances of a schema in `root` are of one of these types anyway.
pub(super) fn is_always(root: &Value, schema: &Value, kinds: &Value) -> bool {
    follow(root, schema, kinds, 0)
}

fn follow(root: &Value, schema: &Value, kinds: &Value, followed: usize) -> bool {
    let Some(object) = schema.as_object().filter(|_| followed < MOST_FOLLOWED) else {
        return false;
    };
    if let Some(own) = object.get("type") {
        return listed(own).all(|own| listed(kinds).any(|kind| has(kind, own)));
    }
    let is_of_one = |value: &Value| {
        listed(kinds)
            .filter_map(Value::as_str)
            .any(|kind| is_of_type(value, kind))
    };
    if let Some(value) = object.get("const") {
        return is_of_one(value);
    }
    if let Some(Value::Array(values)) = object.get("enum") {
        return values.iter().all(is_of_one);
    }
    if let Some(target) = object.get("$ref").and_then(Value::as_str) {
        let target = resolve(root, target);
        return target.is_some_and(|target| follow(root, target.schema, kinds, followed + 1));
    }
    let options = object.get("anyOf").or_else(|| object.get("oneOf"));
    let mut options = options
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .peekable();
    options.peek().is_some() && options.all(|option| follow(root, option, kinds, followed + 8))
}
