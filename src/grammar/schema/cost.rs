//! How much a schema grows when its alternatives are multiplied out.
//!
//! llguidance compiles `allOf`, and whatever stands beside `anyOf`, `oneOf`, `enum` or `$ref`, by
//! intersecting each alternative of one side with each of the other, and clones what both hold
//! (`Schema::intersect` in its `json/schema.rs`). A few kilobytes of JSON can become hundreds of
//! megabytes so. [`Growth`] tells from the JSON alone how much it would be, and always too much
//! rather than too little, but for members of one name that are intersected in turn.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::check::ANNOTATIONS;
use super::reference::resolve;

/// JSON Schema's types (`integer` is a number), as places of a [`Weight`].
const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
const ARRAY: usize = 4;
const OBJECT: usize = 5;
/// Keywords that are multiplied with what stands beside them.
const APPLICATORS: [&str; 6] = ["allOf", "anyOf", "oneOf", "enum", "const", "$ref"];

/// What a schema becomes, for each type: those of different types do not multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weight {
    /// Schemas of which an instance must fit one.
    alternatives: [u64; TYPES.len()],
    /// Schemas in all of them together.
    schemas: [u64; TYPES.len()],
}

impl Weight {
    /// Nothing to multiply with.
    const NEUTRAL: Self = Self {
        alternatives: [1; TYPES.len()],
        schemas: [0; TYPES.len()],
    };
    const NONE: Self = Self {
        alternatives: [0; TYPES.len()],
        schemas: [0; TYPES.len()],
    };
    const ENDLESS: Self = Self {
        alternatives: [1; TYPES.len()],
        schemas: [u64::MAX; TYPES.len()],
    };
    /// One schema of any type that is not looked into.
    const OPAQUE: Self = Self {
        alternatives: [1; TYPES.len()],
        schemas: [0, 0, 0, 0, 0, 1],
    };

    /// Of one type, with so many schemas.
    fn of(kind: usize, schemas: u64) -> Self {
        let mut weight = Self::NONE;
        weight.alternatives[kind] = 1;
        weight.schemas[kind] = schemas;
        weight
    }

    /// An instance that is prescribed: each value in it becomes a schema of its own.
    fn of_value(value: &Value) -> Self {
        let kind = match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => ARRAY,
            Value::Object(_) => OBJECT,
        };
        Self::of(kind, values(value))
    }

    /// One or the other.
    fn or(mut self, other: Self) -> Self {
        for kind in 0..TYPES.len() {
            self.alternatives[kind] =
                self.alternatives[kind].saturating_add(other.alternatives[kind]);
            self.schemas[kind] = self.schemas[kind].saturating_add(other.schemas[kind]);
        }
        self
    }

    /// Both at once: each alternative with each of the same type.
    fn and(mut self, other: Self) -> Self {
        for kind in 0..TYPES.len() {
            let (ours, others) = (self.alternatives[kind], other.alternatives[kind]);
            self.alternatives[kind] = ours.saturating_mul(others);
            let repeated = self.schemas[kind].saturating_mul(others);
            let more = other.schemas[kind].saturating_mul(ours);
            self.schemas[kind] = repeated.saturating_add(more);
            if ours > 1 && others > 1 {
                // Each pair becomes a schema, also where neither side says anything.
                self.schemas[kind] = self.schemas[kind].max(self.alternatives[kind]);
            }
        }
        self
    }

    fn all_schemas(self) -> u64 {
        self.schemas.into_iter().fold(0, u64::saturating_add)
    }
}

/// Weighs the schemas of one document.
pub(super) struct Growth<'s> {
    root: &'s Value,
    /// By address. What is being weighed counts as one schema: a circle is cut where it closes.
    weighed: HashMap<*const Value, Weight>,
    /// References that lead from one to the next and are being followed.
    followed: usize,
}

/// More than so many references, each within what the one before leads to, weigh without end.
const MOST_FOLLOWED: usize = 64;

impl<'s> Growth<'s> {
    pub(super) fn of(root: &'s Value) -> Self {
        Self {
            root,
            weighed: HashMap::new(),
            followed: 0,
        }
    }

    /// Schemas that `schema` becomes, references in its members not followed.
    pub(super) fn schemas(&mut self, schema: &'s Value) -> u64 {
        self.weigh(schema, false).all_schemas()
    }

    /// `joined`: something stands beside it that it is multiplied with, so references are followed.
    fn weigh(&mut self, schema: &'s Value, joined: bool) -> Weight {
        let Value::Object(object) = schema else {
            return Weight::OPAQUE;
        };
        let says = |key: &&String| !ANNOTATIONS.contains(&key.as_str());
        let joined = joined || object.keys().filter(says).count() > 1;
        let is_plain = |key: &String| !APPLICATORS.contains(&key.as_str());
        let mut weight = Weight::NEUTRAL;
        if object.keys().filter(says).any(is_plain) {
            weight = weight.and(self.plain(object));
        }
        for part in list(object, "allOf") {
            weight = weight.and(self.weigh(part, true));
        }
        for key in ["anyOf", "oneOf"] {
            if object.contains_key(key) {
                let options = list(object, key);
                weight = weight.and(options.fold(Weight::NONE, |sum, option| {
                    sum.or(self.weigh(option, joined))
                }));
            }
        }
        if object.contains_key("enum") {
            let options = list(object, "enum").map(Weight::of_value);
            weight = weight.and(options.fold(Weight::NONE, Weight::or));
        }
        if let Some(value) = object.get("const") {
            weight = weight.and(Weight::of_value(value));
        }
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            weight = weight.and(self.referred(reference, joined));
        }
        weight
    }

    fn referred(&mut self, reference: &str, joined: bool) -> Weight {
        let target = resolve(self.root, reference).filter(|_| joined);
        let Some(target) = target.map(|target| target.schema) else {
            return Weight::OPAQUE;
        };
        let address = std::ptr::from_ref(target);
        if let Some(weight) = self.weighed.get(&address) {
            return *weight;
        }
        if self.followed == MOST_FOLLOWED {
            return Weight::ENDLESS;
        }
        self.weighed.insert(address, Weight::OPAQUE);
        self.followed += 1;
        let weight = self.weigh(target, true);
        self.followed -= 1;
        self.weighed.insert(address, weight);
        weight
    }

    /// Of the keywords that say something of one type.
    fn plain(&mut self, object: &'s Map<String, Value>) -> Weight {
        let is_named = |name: &str| match object.get("type") {
            None => true,
            Some(Value::Array(names)) => names.iter().any(|other| is_type(other, name)),
            Some(other) => is_type(other, name),
        };
        let mut weight = Weight::NONE;
        for (kind, name) in TYPES.into_iter().enumerate() {
            if is_named(name) {
                weight = weight.or(Weight::of(kind, 1));
            }
        }
        let maps = ["properties", "patternProperties"].into_iter();
        let named = maps.filter_map(|key| object.get(key)?.as_object());
        let named = named.flat_map(Map::values);
        let members = self.sum(named.chain(object.get("additionalProperties")));
        weight.schemas[OBJECT] = weight.schemas[OBJECT].saturating_add(members);
        let listed = ["items", "prefixItems"].into_iter();
        let listed = listed.flat_map(|key| list(object, key));
        let others = ["items", "additionalItems"].into_iter();
        let others = others.filter_map(|key| object.get(key));
        let items = self.sum(listed.chain(others));
        weight.schemas[ARRAY] = weight.schemas[ARRAY].saturating_add(items);
        weight
    }

    fn sum(&mut self, schemas: impl Iterator<Item = &'s Value>) -> u64 {
        schemas.fold(0, |sum: u64, schema| {
            sum.saturating_add(self.schemas(schema))
        })
    }
}

/// Whether the name of a type in a schema is that of `kind`.
fn is_type(name: &Value, kind: &str) -> bool {
    name == kind || (name == "integer" && kind == "number")
}

fn list<'v>(object: &'v Map<String, Value>, key: &str) -> impl Iterator<Item = &'v Value> {
    object
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Values in a value, itself among them: each becomes a schema of its own.
pub(super) fn values(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<u64>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schemas(schema: &Value) -> u64 {
        Growth::of(schema).schemas(schema)
    }

    #[test]
    fn members_are_added_up() {
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}});
        // An empty schema has no parts; the object itself and `a` count.
        assert_eq!(schemas(&object), 2);
        assert_eq!(schemas(&json!({"minLength": 1})), 6);
        assert_eq!(schemas(&json!({"enum": [1, [2, 3], {"a": 4}]})), 1 + 3 + 2);
        let list = json!({"type": "array", "items": {"type": "integer"}});
        assert_eq!(schemas(&list), 2);
    }

    #[test]
    fn alternatives_are_multiplied_with_what_stands_beside_them() {
        let options = json!([{"type": "string"}, {"type": "string"}, {"type": "string"}]);
        let both = json!({"allOf": [{"anyOf": options}, {"anyOf": options}]});
        // Nine alternatives, each of one schema from either side.
        assert_eq!(schemas(&both), 18);
        let large: Map<_, _> = (0..100)
            .map(|i| (format!("k{i}"), json!({"type": "null"})))
            .collect();
        let large = json!({"type": "object", "properties": large});
        let beside = json!({"allOf": [large, {"anyOf": vec![json!({"type": "object"}); 50]}]});
        assert_eq!(schemas(&beside), 50 * 101 + 50);
    }

    #[test]
    fn alternatives_that_say_nothing_are_multiplied_as_well() {
        let empty = json!({"oneOf": vec![json!({}); 300]});
        let all = json!({"allOf": vec![empty; 3]});
        assert!(schemas(&all) >= 300 * 300 * 300);
    }

    #[test]
    fn what_says_nothing_of_a_type_multiplies_nothing() {
        let mut definitions = Map::new();
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/a{}", level + 1), "nullable": true});
            let one = json!({"type": "object", "properties": {"next": next}});
            definitions.insert(format!("a{level}"), one);
        }
        definitions.insert("a30".to_owned(), json!({"type": "string"}));
        let nullable = json!({"$ref": "#/$defs/a0", "nullable": true, "$defs": definitions});
        assert!(schemas(&nullable) < 1000, "{}", schemas(&nullable));
    }

    #[test]
    fn references_count_where_they_are_multiplied_and_circles_end() {
        let tree = json!({
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        });
        assert_eq!(schemas(&tree), 3);
        let itself = json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]});
        assert!(schemas(&itself) < 10);
        let doubled: Map<_, _> = (0..60)
            .map(|i| {
                let next = json!({"$ref": format!("#/$defs/a{}", i + 1)});
                let twice = json!({"anyOf": [next, next], "minLength": 1});
                (format!("a{i}"), twice)
            })
            .chain([("a60".to_owned(), json!({"type": "string"}))])
            .collect();
        let doubled = json!({"$ref": "#/$defs/a0", "type": "string", "$defs": doubled});
        assert!(schemas(&doubled) > 1 << 50);
    }
}
