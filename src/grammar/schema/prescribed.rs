//! Lowers prescribed values: `enum` and `const`.

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::lower::HEARD;
use super::numbers::{exclusive_bounds, is_known, is_within, needs_exact};
use super::path::{SchemaPath, schema_error};
use super::types::{is_of_type, listed};

/// Our own keyword for numbers that no double equals, as they are written. llguidance does not know it, and
/// [`super::exact`] removes it again.
pub(super) const EXACTLY: &str = "x-exactly";
/// Our own keyword for the paths of those numbers.
pub(super) const EXACTLY_AT: &str = "x-exactly-at";

/// Keywords that may stand beside a number that llguidance would round.
const BESIDE_EXACT: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];
/// Returns the values of alternatives that are nothing but values, mostly with titles, as those of an `enum`.
pub(super) fn alternatives_of_values(object: &Map<String, Value>) -> Option<Value> {
    if object.contains_key("enum") || object.contains_key("const") {
        return None;
    }
    let options = match (object.get("anyOf"), object.get("oneOf")) {
        (Some(options), None) | (None, Some(options)) => options.as_array()?,
        _ => return None,
    };
    let mut all = Vec::new();
    for option in options {
        let said = option
            .as_object()?
            .iter()
            .filter(|(key, _)| HEARD.contains(&key.as_str()));
        match said.collect::<Vec<_>>()[..] {
            [(key, value)] if key == "const" => all.push(value.clone()),
            [(key, Value::Array(values))] if key == "enum" => all.extend(values.iter().cloned()),
            _ => return None,
        }
    }
    // Where no number is too long for llguidance, it can do this itself.
    all.iter().any(needs_exact).then_some(Value::Array(all))
}

/// The values of `enum` and `const` that fit what else is said of them.
pub(super) fn prescribed(
    mut heard: Map<String, Value>,
    path: &SchemaPath,
) -> Result<Value, SchemaError> {
    exclusive_bounds(&mut heard);
    let key = if heard.contains_key("enum") {
        "enum"
    } else {
        "const"
    };
    let constant = heard.shift_remove("const");
    let mut allowed = match heard.shift_remove("enum") {
        Some(Value::Array(list)) => list,
        _ => constant.iter().cloned().collect(),
    };
    if !allowed.iter().chain(&constant).all(is_known) {
        let why = "has a number of more than 64 bits, or one beyond 2^53 with a point or an exponent: it \
                   was rounded when it was read";
        return Err(schema_error(&path.under(key), why));
    }
    let kinds = heard.get("type").cloned();
    allowed.retain(|value| {
        let is_of_type = |kind: &Value| kind.as_str().is_some_and(|kind| is_of_type(value, kind));
        constant.as_ref().is_none_or(|constant| constant == value)
            && kinds
                .as_ref()
                .is_none_or(|kinds| listed(kinds).any(is_of_type))
            && is_within(value, &heard)
    });
    // All that it could say is in the values now.
    for key in [
        "type",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ] {
        heard.shift_remove(key);
    }
    let (exact, others): (Vec<_>, Vec<_>) = allowed.into_iter().partition(needs_exact);
    let other = heard
        .keys()
        .find(|key| !BESIDE_EXACT.contains(&key.as_str()));
    if let Some(other) = other.filter(|_| !exact.is_empty()) {
        let why = format!("has a number beyond 2^53, which cannot be followed beside `{other}`");
        return Err(schema_error(&path.under(key), why));
    }
    let mut alternatives: Vec<Value> = exact
        .into_iter()
        .map(|value| exactly(value, &path.under(key)))
        .collect();
    if alternatives.is_empty() || !others.is_empty() {
        // Nothing fits no values at all, which llguidance has no `enum` for.
        let (key, values) = if others.is_empty() {
            ("anyOf", Vec::new())
        } else {
            ("enum", others)
        };
        heard.insert(key.to_owned(), values.into());
        alternatives.insert(0, Value::Object(heard));
    }
    Ok(match alternatives.len() {
        1 => alternatives.swap_remove(0),
        _ => json!({"anyOf": alternatives}),
    })
}

/// A value that has a number in it that llguidance would round.
fn exactly(value: Value, path: &SchemaPath) -> Value {
    if !needs_exact(&value) {
        return json!({"const": value});
    }
    match value {
        Value::Array(items) => {
            let count = items.len();
            let items: Vec<_> = items.into_iter().map(|item| exactly(item, path)).collect();
            json!({"type": "array", "prefixItems": items, "items": false, "minItems": count,
                   "maxItems": count})
        }
        Value::Object(members) => {
            let required: Vec<_> = members.keys().cloned().collect();
            let members = members
                .into_iter()
                .map(|(name, member)| (name, exactly(member, path)));
            json!({"type": "object", "properties": members.collect::<Map<_, _>>(),
                   "required": required, "additionalProperties": false})
        }
        number => json!({EXACTLY: [number.to_string()], EXACTLY_AT: path.to_string()}),
    }
}
