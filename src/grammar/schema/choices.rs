//! `minProperties` and `maxProperties` beside properties that need not be there.
//!
//! llguidance does not count those. Where they are few, an object becomes alternatives, one for each choice
//! of properties that have to be there, or that alone may be there.

use serde_json::{Map, Value};

use super::cost::values;

/// Alternatives of one object at most: as many as there are ways to take 4 of 8.
const MOST_ALTERNATIVES: usize = 70;
/// JSON values in all alternatives together at most.
const MOST_VALUES: u64 = 4000;
/// Keywords with which an object is not split into alternatives: those would be multiplied.
const BESIDE: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];

/// Returns the alternatives of a lowered object whose optional properties are counted; `None` where none
/// are counted, or there are too many.
pub(super) fn counted(object: &Map<String, Value>) -> Option<Vec<Value>> {
    let count = |key: &str| {
        let count = object.get(key).and_then(Value::as_u64);
        count.map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    };
    let (least, most) = (count("minProperties").unwrap_or(0), count("maxProperties"));
    let properties = object.get("properties")?.as_object()?;
    let required = object.get("required").and_then(Value::as_array);
    let required: Vec<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let optional: Vec<&str> = properties
        .keys()
        .map(String::as_str)
        .filter(|name| !required.contains(name))
        .collect();
    let needed = required.len();
    let is_joined = BESIDE.iter().any(|key| object.contains_key(*key));
    let is_free = least <= needed && most.is_none();
    if is_joined || is_free || optional.is_empty() || most.is_some_and(|most| most < needed) {
        return None;
    }
    let least = least.saturating_sub(needed);
    let room = most.map_or(optional.len(), |most| (most - needed).min(optional.len()));
    if least > room {
        return None;
    }
    let count = ways(optional.len(), room).saturating_mul(ways(room, least));
    let size = u64::try_from(count).ok()?.saturating_mul(size(object));
    if count > MOST_ALTERNATIVES || size > MOST_VALUES {
        return None;
    }
    let allowed = choices(&optional, room).into_iter();
    let pairs = allowed.flat_map(|allowed| {
        let forced = choices(&allowed, least).into_iter();
        forced.map(move |forced| (allowed.clone(), forced))
    });
    let alternatives = pairs.map(|(allowed, forced)| {
        let left_out = |name: &&&str| !allowed.contains(*name);
        let left_out: Vec<&str> = optional.iter().filter(left_out).copied().collect();
        alternative(object, &left_out, &forced, most.is_some())
    });
    Some(alternatives.collect())
}

/// Returns `object` without the properties `left_out`, and with those in `forced` required.
fn alternative(
    object: &Map<String, Value>,
    left_out: &[&str],
    forced: &[&str],
    is_closed: bool,
) -> Value {
    let mut object = object.clone();
    object.shift_remove("minProperties");
    object.shift_remove("maxProperties");
    if is_closed {
        object.shift_remove("patternProperties");
        object.insert("additionalProperties".to_owned(), false.into());
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.retain(|name, _| !left_out.contains(&name.as_str()));
    }
    if !forced.is_empty() {
        let required = object
            .entry("required")
            .or_insert_with(|| Vec::<Value>::new().into());
        if let Value::Array(required) = required {
            required.extend(forced.iter().map(|name| Value::from(*name)));
        }
    }
    object.into()
}

fn size(object: &Map<String, Value>) -> u64 {
    object.values().map(values).sum()
}

/// Returns in how many ways `count` of `all` can be taken.
fn ways(all: usize, count: usize) -> usize {
    (0..count.min(all - count)).fold(1, |ways: usize, index| {
        ways.saturating_mul(all - index) / (index + 1)
    })
}

/// Returns all ways to take `count` of `all`, those with the first ones first.
fn choices<'n>(all: &[&'n str], count: usize) -> Vec<Vec<&'n str>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let firsts = 0..=all.len().saturating_sub(count);
    let mut found = Vec::new();
    for first in firsts.filter(|first| *first < all.len()) {
        for rest in choices(&all[first + 1..], count - 1) {
            found.push([&all[first..=first], &rest[..]].concat());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alternatives(schema: &Value) -> Option<usize> {
        counted(schema.as_object().expect("an object")).map(|found| found.len())
    }

    fn properties(count: usize) -> Value {
        let named = (0..count).map(|index| (format!("k{index}"), json!({"type": "null"})));
        Value::Object(named.collect())
    }

    #[test]
    fn each_choice_of_counted_properties_is_an_alternative() {
        for (count, counts, expected) in [
            (4, json!({"maxProperties": 2}), Some(6)),
            (4, json!({"minProperties": 1}), Some(4)),
            (3, json!({"minProperties": 1, "maxProperties": 2}), Some(6)),
            (3, json!({"minProperties": 3}), Some(1)),
            (8, json!({"maxProperties": 4}), Some(70)),
            (9, json!({"maxProperties": 4}), None),
            (3, json!({"minProperties": 4}), None),
            (3, json!({}), None),
            (
                3,
                json!({"maxProperties": 1, "required": ["k0", "k1"]}),
                None,
            ),
            (3, json!({"maxProperties": 2, "required": ["k0"]}), Some(2)),
            (3, json!({"maxProperties": 2, "anyOf": []}), None),
        ] {
            let mut schema = counts.clone();
            schema["properties"] = properties(count);
            assert_eq!(alternatives(&schema), expected, "{count} {counts}");
        }
    }

    #[test]
    fn others_come_beside_them_unless_there_is_a_highest_number() {
        let open = json!({"properties": properties(2), "minProperties": 1});
        let found = counted(open.as_object().expect("an object")).expect("few");
        let first = json!({"properties": properties(2), "required": ["k0"]});
        assert_eq!(found[0], first);
        let closed =
            json!({"properties": properties(2), "maxProperties": 1, "additionalProperties": true});
        let found = counted(closed.as_object().expect("an object")).expect("few");
        let first = json!({"properties": properties(1), "additionalProperties": false});
        assert_eq!(found[0], first);
    }
}
