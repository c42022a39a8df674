//! How much a schema grows when its alternatives are multiplied out.
//!
//! llguidance compiles `allOf`, and whatever stands beside `anyOf`, `oneOf`, `enum` or `$ref`, by
//! intersecting each alternative of one side with each of the other, members of one name and items of one
//! place among them, and clones what both hold (`Schema::intersect` in its `json/schema.rs`). A few
//! kilobytes of JSON can become hundreds of megabytes so. [`Growth`] estimates from the JSON alone how much
//! it would be, and always too much rather than too little, but for names that patterns of the other side match.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::check::ANNOTATIONS;
use super::numbers::has_numbers;
use super::reference::resolve;

/// JSON Schema's types (`integer` is a number), by their index in a [`Weight`].
const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
const NUMBER: usize = 2;
const ARRAY: usize = 4;
const OBJECT: usize = 5;
/// Keywords that are multiplied with what stands beside them.
const APPLICATORS: [&str; 6] = ["allOf", "anyOf", "oneOf", "enum", "const", "$ref"];
/// Other schemas that take as long to compile as one number with bounds, each a pattern of its own.
const NUMBER_SCHEMAS: u64 = 50;

/// What a schema becomes, for each type: those of different types do not multiply.
#[derive(Debug, Clone, PartialEq)]
struct Weight<'s> {
    /// By type, the schemas of which an instance must fit one.
    alternatives: [u64; TYPES.len()],
    /// By type, the schemas in all alternatives together, except those in `parts`.
    schemas: [u64; TYPES.len()],
    /// The schemas of members and items, in all alternatives together.
    parts: HashMap<PartPlace<'s>, PartSchemas<'s>>,
}

/// Which part of an instance a schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PartPlace<'s> {
    Member(&'s str),
    Pattern(&'s str),
    OtherMembers,
    Item(usize),
    OtherItems,
}

impl PartPlace<'_> {
    fn kind(self) -> usize {
        match self {
            Self::Member(_) | Self::Pattern(_) | Self::OtherMembers => OBJECT,
            Self::Item(_) | Self::OtherItems => ARRAY,
        }
    }

    /// Returns the part of the other side that this one is intersected with where the other side does not
    /// name it.
    fn others(self) -> Self {
        if self.kind() == OBJECT {
            Self::OtherMembers
        } else {
            Self::OtherItems
        }
    }
}

/// Several schemas, each with its count, of which an instance fits one.
type PartSchemas<'s> = Vec<(u64, PartSchema<'s>)>;

#[derive(Debug, Clone, PartialEq)]
enum PartSchema<'s> {
    /// A schema that is weighed only when it is multiplied with something.
    Schema(&'s Value),
    Weighed(Rc<Weight<'s>>),
}

impl Weight<'_> {
    /// How many pieces its parts have.
    fn pieces(&self) -> usize {
        self.parts.values().map(Vec::len).sum()
    }

    /// Returns the weight of a schema that constrains nothing.
    fn neutral() -> Self {
        Self {
            alternatives: [1; TYPES.len()],
            schemas: [0; TYPES.len()],
            parts: HashMap::new(),
        }
    }

    fn none() -> Self {
        Self {
            alternatives: [0; TYPES.len()],
            ..Self::neutral()
        }
    }

    fn endless() -> Self {
        Self {
            schemas: [u64::MAX; TYPES.len()],
            ..Self::neutral()
        }
    }

    /// Returns the weight of one schema of any type that is not inspected.
    fn opaque() -> Self {
        Self {
            schemas: [0, 0, 0, 0, 0, 1],
            ..Self::neutral()
        }
    }

    /// Returns the weight of one type, with `schemas` schemas.
    fn of(kind: usize, schemas: u64) -> Self {
        let mut weight = Self::none();
        weight.alternatives[kind] = 1;
        weight.schemas[kind] = schemas;
        weight
    }

    /// Returns the weight of a prescribed instance, of which each value becomes a schema of its own.
    fn of_value(value: &Value) -> Self {
        let kind = match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => NUMBER,
            Value::String(_) => 3,
            Value::Array(_) => ARRAY,
            Value::Object(_) => OBJECT,
        };
        Self::of(kind, values(value))
    }

    /// Returns the weight of `self` or `other` as alternatives.
    fn or(mut self, other: Self) -> Self {
        for kind in 0..TYPES.len() {
            self.alternatives[kind] =
                self.alternatives[kind].saturating_add(other.alternatives[kind]);
            self.schemas[kind] = self.schemas[kind].saturating_add(other.schemas[kind]);
        }
        for (place, mut part) in other.parts {
            self.parts.entry(place).or_default().append(&mut part);
        }
        self
    }

    /// Returns the weight of `times` copies.
    fn times(mut self, times: u64) -> Self {
        for kind in 0..TYPES.len() {
            self.alternatives[kind] = self.alternatives[kind].saturating_mul(times);
            self.schemas[kind] = self.schemas[kind].saturating_mul(times);
        }
        for part in self.parts.values_mut() {
            repeat(part, times);
        }
        self
    }
}

fn repeat(part: &mut PartSchemas<'_>, times: u64) {
    for (count, _) in part {
        *count = count.saturating_mul(times);
    }
}

/// Weighs the schemas of one document.
pub(super) struct Growth<'s> {
    root: &'s Value,
    /// Weights by the address of the schema. A schema that is being weighed counts as one: a circle is cut
    /// where it closes.
    weighed: HashMap<*const Value, Rc<Weight<'s>>>,
    /// By address, how many schemas each schema becomes.
    added_up: HashMap<*const Value, u64>,
    /// How deep references, or parts within each other, are being followed.
    followed: usize,
    /// Work so far: schemas that were weighed, and pieces that were looked at or moved, eight as one.
    steps: usize,
}

/// References within each other, beyond which the weight counts as endless.
const MOST_FOLLOWED: usize = 64;
/// Steps beyond which the weight counts as endless: alternatives of parts within parts can take for ever to
/// weigh.
const MOST_STEPS: usize = 300_000;
/// Pieces that are moved in the time of one step.
const PIECES_A_STEP: usize = 8;

impl<'s> Growth<'s> {
    pub(super) fn of(root: &'s Value) -> Self {
        Self {
            root,
            weighed: HashMap::new(),
            added_up: HashMap::new(),
            followed: 0,
            steps: 0,
        }
    }

    /// Returns how many schemas `schema` becomes, without following the references in its members.
    pub(super) fn schemas(&mut self, schema: &'s Value) -> u64 {
        let address = std::ptr::from_ref(schema);
        if let Some(schemas) = self.added_up.get(&address) {
            return *schemas;
        }
        self.added_up.insert(address, 1);
        let weight = self.weigh(schema, false);
        let schemas = self.all_schemas(&weight);
        self.added_up.insert(address, schemas);
        schemas
    }

    fn all_schemas(&mut self, weight: &Weight<'s>) -> u64 {
        let own = weight.schemas.into_iter().fold(0, u64::saturating_add);
        let pieces = weight.parts.values().flatten();
        pieces.fold(own, |sum: u64, (times, piece)| {
            if self.is_too_much(1) {
                return u64::MAX;
            }
            let schemas = match piece {
                PartSchema::Schema(schema) => self.schemas(schema),
                PartSchema::Weighed(weight) => self.all_schemas(weight),
            };
            sum.saturating_add(schemas.saturating_mul(*times))
        })
    }

    /// `joined`: something stands beside it that it is multiplied with, so references are followed.
    fn weigh(&mut self, schema: &'s Value, joined: bool) -> Weight<'s> {
        let Value::Object(object) = schema else {
            return Weight::opaque();
        };
        if self.is_too_much(1) {
            return Weight::endless();
        }
        let says = |key: &&String| !ANNOTATIONS.contains(&key.as_str());
        let joined = joined || object.keys().filter(says).count() > 1;
        let is_plain = |key: &String| !APPLICATORS.contains(&key.as_str());
        let mut weight = Weight::neutral();
        if object.keys().filter(says).any(is_plain) {
            weight = plain(object);
        }
        for part in list(object, "allOf") {
            let part = self.weigh(part, true);
            weight = self.both(&weight, &part);
        }
        for key in ["anyOf", "oneOf"] {
            if object.contains_key(key) {
                let mut options = Weight::none();
                for option in list(object, key) {
                    let option = self.weigh(option, joined);
                    options = self.either(options, option);
                }
                weight = self.both(&weight, &options);
            }
        }
        if object.contains_key("enum") {
            let options = list(object, "enum").map(Weight::of_value);
            weight = self.both(&weight, &options.fold(Weight::none(), Weight::or));
        }
        if let Some(value) = object.get("const") {
            weight = self.both(&weight, &Weight::of_value(value));
        }
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let referred = self.referred(reference, joined);
            weight = self.both(&weight, &referred);
        }
        weight
    }

    fn referred(&mut self, reference: &str, joined: bool) -> Rc<Weight<'s>> {
        let target = resolve(self.root, reference).filter(|_| joined);
        let Some(target) = target.map(|target| target.schema) else {
            return Rc::new(Weight::opaque());
        };
        let address = std::ptr::from_ref(target);
        if let Some(weight) = self.weighed.get(&address) {
            return Rc::clone(weight);
        }
        self.weighed.insert(address, Rc::new(Weight::opaque()));
        let weight = Rc::new(self.follow(|growth| growth.weigh(target, true)));
        self.weighed.insert(address, Rc::clone(&weight));
        weight
    }

    /// Counts so many steps more; whether they are too many in all.
    fn is_too_much(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_add(steps);
        self.steps > MOST_STEPS
    }

    fn either(&mut self, one: Weight<'s>, other: Weight<'s>) -> Weight<'s> {
        if self.is_too_much(other.pieces() / PIECES_A_STEP) {
            return Weight::endless();
        }
        one.or(other)
    }

    /// Follows one reference more, unless that is too deep.
    fn follow(&mut self, step: impl FnOnce(&mut Self) -> Weight<'s>) -> Weight<'s> {
        if self.followed == MOST_FOLLOWED {
            return Weight::endless();
        }
        self.followed += 1;
        let weight = step(self);
        self.followed -= 1;
        weight
    }

    /// Returns the weight of the intersection: each alternative with each of the same type.
    fn both(&mut self, one: &Weight<'s>, other: &Weight<'s>) -> Weight<'s> {
        if self.is_too_much((one.pieces() + other.pieces()) / PIECES_A_STEP) {
            return Weight::endless();
        }
        let mut both = Weight::none();
        for kind in 0..TYPES.len() {
            let (ours, others) = (one.alternatives[kind], other.alternatives[kind]);
            both.alternatives[kind] = ours.saturating_mul(others);
            let repeated = one.schemas[kind].saturating_mul(others);
            let more = other.schemas[kind].saturating_mul(ours);
            both.schemas[kind] = repeated.saturating_add(more);
            if ours > 1 && others > 1 {
                // Each pair becomes a schema, also where neither side says anything.
                both.schemas[kind] = both.schemas[kind].max(both.alternatives[kind]);
            }
        }
        for (&place, part) in &one.parts {
            let beside = other
                .parts
                .get(&place)
                .or_else(|| other.parts.get(&place.others()));
            let part = match beside {
                Some(beside) => self.both_parts(part, beside),
                None => repeated(part, other.alternatives[place.kind()]),
            };
            both.parts.insert(place, part);
        }
        for (&place, part) in &other.parts {
            if one.parts.contains_key(&place) {
                continue;
            }
            let part = match one.parts.get(&place.others()) {
                Some(beside) => self.both_parts(beside, part),
                None => repeated(part, one.alternatives[place.kind()]),
            };
            both.parts.insert(place, part);
        }
        both
    }

    fn both_parts(&mut self, one: &PartSchemas<'s>, other: &PartSchemas<'s>) -> PartSchemas<'s> {
        let weight = self.follow(|growth| {
            let (one, other) = (growth.any_of(one), growth.any_of(other));
            growth.both(&one, &other)
        });
        vec![(1, PartSchema::Weighed(Rc::new(weight)))]
    }

    fn any_of(&mut self, part: &PartSchemas<'s>) -> Weight<'s> {
        let mut sum = Weight::none();
        for (times, piece) in part {
            let weight = match piece {
                PartSchema::Schema(schema) => self.weigh(schema, true),
                PartSchema::Weighed(weight) => Weight::clone(weight),
            };
            sum = self.either(sum, weight.times(*times));
        }
        sum
    }
}

fn repeated<'s>(part: &PartSchemas<'s>, times: u64) -> PartSchemas<'s> {
    let mut part = part.clone();
    repeat(&mut part, times);
    part
}

/// Of the keywords that say something of one type.
fn plain(object: &Map<String, Value>) -> Weight<'_> {
    let is_named = |name: &str| match object.get("type") {
        None => true,
        Some(Value::Array(names)) => names.iter().any(|other| is_type(other, name)),
        Some(other) => is_type(other, name),
    };
    let mut weight = Weight::none();
    for (kind, name) in TYPES.into_iter().enumerate() {
        if is_named(name) {
            let is_range = kind == NUMBER && has_numbers(object);
            let schemas = if is_range { NUMBER_SCHEMAS } else { 1 };
            weight = weight.or(Weight::of(kind, schemas));
        }
    }
    let named = |key: &str| {
        object
            .get(key)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
    };
    let members = named("properties").map(|(name, schema)| (PartPlace::Member(name), schema));
    let patterns =
        named("patternProperties").map(|(pattern, schema)| (PartPlace::Pattern(pattern), schema));
    let others = object.get("additionalProperties").into_iter();
    let others = others.map(|schema| (PartPlace::OtherMembers, schema));
    let items = ["items", "prefixItems"]
        .into_iter()
        .flat_map(|key| list(object, key).enumerate());
    let items = items.map(|(index, schema)| (PartPlace::Item(index), schema));
    let other_items = ["items", "additionalItems"].into_iter();
    let other_items = other_items.filter_map(|key| object.get(key));
    let other_items = other_items.filter(|schema| !schema.is_array());
    let other_items = other_items.map(|schema| (PartPlace::OtherItems, schema));
    let parts = members.chain(patterns).chain(others);
    for (place, schema) in parts.chain(items).chain(other_items) {
        if weight.alternatives[place.kind()] > 0 {
            let part = weight.parts.entry(place).or_default();
            part.push((1, PartSchema::Schema(schema)));
        }
    }
    weight
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

/// Returns the number of values in a value, itself included: each becomes a schema of its own.
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
        let list = json!({"type": "array", "items": {"type": "null"}});
        assert_eq!(schemas(&list), 2);
        let number = json!({"type": "array", "items": {"type": "integer"}});
        assert_eq!(schemas(&number), 1 + NUMBER_SCHEMAS);
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
    fn parts_of_one_place_are_multiplied_as_well() {
        let options = |count| json!({"anyOf": vec![json!({"type": "boolean"}); count]});
        let beside = |one: Value, other: Value| schemas(&json!({"allOf": [one, other]}));
        let object =
            |name: &str, count| json!({"type": "object", "properties": {name: options(count)}});
        assert_eq!(beside(object("a", 20), object("a", 30)), 2 + 2 * 20 * 30);
        assert_eq!(beside(object("a", 20), object("b", 30)), 2 + 20 + 30);
        let others = json!({"type": "object", "additionalProperties": options(20)});
        assert_eq!(beside(others, object("a", 30)), 2 + 2 * 20 * 30 + 20);
        let patterns = json!({"type": "object", "patternProperties": {"^a": options(20)}});
        assert_eq!(beside(patterns.clone(), patterns), 2 + 2 * 20 * 20);
        let items = |count| json!({"type": "array", "items": options(count)});
        assert_eq!(beside(items(20), items(30)), 2 + 2 * 20 * 30);
        let deep = |inner: Value| json!({"type": "object", "properties": {"a": inner}});
        let within = beside(deep(items(20)), deep(items(30)));
        assert_eq!(within, 2 + 2 + 2 * 20 * 30);
        let two = json!({"anyOf": [object("a", 20), object("a", 20)]});
        assert_eq!(beside(two, object("a", 30)), 2 + 2 + 2 * 2 * 20 * 30);
    }

    #[test]
    fn long_chains_and_circles_need_little_stack() {
        let nested =
            |inner: Value, wrap: fn(Value) -> Value| (0..28).fold(inner, |inner, _| wrap(inner));
        let wraps: [fn(Value) -> Value; 4] = [
            |inner| json!({"properties": {"a": inner}, "type": "object"}),
            |inner| json!({"items": inner, "type": "array"}),
            |inner| json!({"allOf": [inner, {"type": "object"}]}),
            |inner| json!({"anyOf": [inner], "minLength": 1}),
        ];
        for wrap in wraps {
            let definitions: Map<_, _> = (0..64)
                .map(|i| {
                    let next = format!("#/$defs/d{}", (i + 1) % 64);
                    let next = json!({"$ref": next, "minLength": 1});
                    (format!("d{i}"), nested(next, wrap))
                })
                .collect();
            let first = json!({"$ref": "#/$defs/d0", "maxLength": 1});
            let chain =
                json!({"properties": {"a": first}, "allOf": [first, first], "$defs": definitions});
            // Half of what the server's threads have: see `cli`.
            let counting = std::thread::Builder::new().stack_size(4 << 20);
            let counted = counting.spawn(move || schemas(&chain)).expect("a thread");
            assert!(counted.join().expect("no overflow") > 1);
        }
    }

    #[test]
    fn parts_that_lead_to_more_parts_end() {
        let both = json!({"$ref": "#/$defs/a"});
        let node = json!({"type": "object", "properties": {"a": both, "b": both}});
        let nodes = json!({"allOf": [both, node.clone()], "$defs": {"a": node}});
        assert_eq!(schemas(&nodes), u64::MAX);
        let mut definitions: Map<_, _> = (0..40)
            .map(|i| {
                let next = json!({"$ref": format!("#/$defs/a{}", i + 1)});
                let node = json!({"type": "object", "properties": {"a": next, "b": next}});
                (format!("a{i}"), node)
            })
            .collect();
        definitions.insert("a40".to_owned(), json!({"type": "string"}));
        let first = json!({"$ref": "#/$defs/a0"});
        let doubled = json!({"allOf": [first, definitions["a0"]], "$defs": definitions});
        assert!(schemas(&doubled) > 1 << 50);
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
