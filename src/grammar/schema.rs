//! JSON schemas from clients: what `strict` allows, and how large they may be.
//!
//! The rules of `strict` are those of OpenAI's guide "Structured model outputs", section
//! "Supported schemas", as of 2026; `minLength` and `maxLength` are honoured beyond them.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value, json};

/// Deeper schemas are refused before any recursion of ours or of the compiler's.
const DEEPEST: usize = 64;
/// OpenAI's limits for strict schemas, which we hold all schemas to.
const MOST_PROPERTIES: usize = 5000;
const MOST_ENUM_VALUES: usize = 1000;
const DEEPEST_STRICT: usize = 10;
/// What a bound on lengths or counts may be: each unit costs the compiler memory.
const HIGHEST_COUNT: u64 = 10_000;
/// Properties of one object that need not be there: a mask looks at all that may come next.
const MOST_OPTIONAL: usize = 500;
/// What `multipleOf` may be, written without its point: each remainder is a state of the lexer.
const HIGHEST_DIVISOR: u64 = 1000;

const HIGHEST_NUMBER: i64 = 999_999_999_999_999;

/// Keywords of JSON Schema that `strict` does not know.
const NOT_STRICT: [&str; 22] = [
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
];
/// One of these says what a strict schema is of.
const SAYS_WHAT: [&str; 5] = ["type", "enum", "const", "anyOf", "$ref"];
/// Keywords whose value is one schema.
const ONE: [&str; 9] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is schemas by name.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
const COUNTS: [&str; 4] = ["minLength", "maxLength", "minItems", "maxItems"];

/// A schema that may be compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    value: Value,
    place: String,
}

/// What is wrong with a schema, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Misfit {
    /// Behind the schema's own name, such as `.properties.price`; empty for all of it.
    pub path: String,
    /// What is wrong and what is expected.
    pub why: String,
}

impl Schema {
    /// The same, known to stand at `place` of a request, such as `tools[0].function.parameters`.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// Where it stands in a request; empty where it is nobody's.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Any JSON object.
    #[must_use]
    pub fn object() -> Self {
        Self::laid_out(json!({"type": "object"}))
    }

    /// An object that holds nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::laid_out(json!({"type": "object", "properties": {}, "additionalProperties": false}))
    }

    /// Checks a client's schema, by the rules of `strict` where it asks for them. Elsewhere
    /// keywords that cannot be followed are left out of account, as OpenAI does it.
    ///
    /// # Errors
    /// [`Misfit`] at the first place that is not as it must be.
    pub fn new(schema: Value, strict: bool) -> Result<Self, Misfit> {
        let mut check = Check {
            root: &schema,
            strict,
            properties: 0,
            enum_values: 0,
        };
        if strict {
            let root = schema.as_object();
            if root.is_none_or(|root| root.get("type") != Some(&json!("object"))) {
                return Err(misfit("", "must have `\"type\": \"object\"` at its root"));
            }
            if root.is_some_and(|root| root.contains_key("anyOf")) {
                return Err(misfit("", "must not have `anyOf` at its root"));
            }
        }
        check.schema(&schema, "", 0, 0)?;
        let mut laid_out = Self::laid_out(schema);
        if !strict && let Some(options) = laid_out.options() {
            options.insert("lenient".to_owned(), true.into());
            options.insert("coerce_one_of".to_owned(), true.into());
        }
        Ok(laid_out)
    }

    /// White space as Python's `json.dumps` has it: models have read much of that, and one that is
    /// free to write white space may never stop.
    fn laid_out(mut schema: Value) -> Self {
        bound(&mut schema);
        let mut schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
            _ => Map::new(),
        };
        let layout = json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
        });
        schema.insert("x-guidance".to_owned(), layout);
        Self {
            value: Value::Object(schema),
            place: String::new(),
        }
    }

    fn options(&mut self) -> Option<&mut Map<String, Value>> {
        self.value.get_mut("x-guidance")?.as_object_mut()
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}

struct Check<'s> {
    root: &'s Value,
    strict: bool,
    properties: usize,
    enum_values: usize,
}

impl Check<'_> {
    /// `depth` counts schemas, `objects` those of them that are objects.
    fn schema(
        &mut self,
        schema: &Value,
        path: &str,
        depth: usize,
        objects: usize,
    ) -> Result<(), Misfit> {
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(_) if !self.strict => return Ok(()),
            _ => return Err(misfit(path, "must be an object")),
        };
        if depth > DEEPEST {
            return Err(misfit(path, format!("is nested deeper than {DEEPEST}")));
        }
        let is_object = object.get("type") == Some(&json!("object"));
        let objects = objects + usize::from(is_object);
        if self.strict {
            Self::strict_keywords(object, path)?;
            if objects > DEEPEST_STRICT {
                let why = format!("is nested deeper than {DEEPEST_STRICT} objects");
                return Err(misfit(path, why));
            }
            if is_object {
                strict_object(object, path)?;
            }
        }
        self.reference(object, path)?;
        counts(object, path)?;
        divisor(object, path)?;
        optional(object, path)?;
        self.enums(object, path)?;
        for key in ONE {
            if let Some(inner) = object.get(key)
                // `additionalProperties` and `items` may be plain yes or no.
                && !inner.is_boolean()
            {
                // Before 2020 `items` could be a list.
                for (at, inner) in listed(inner, &format!("{path}.{key}")) {
                    self.schema(inner, &at, depth + 1, objects)?;
                }
            }
        }
        for key in LISTS {
            if let Some(list) = object.get(key) {
                let at = format!("{path}.{key}");
                if !list.is_array() {
                    return Err(misfit(&at, "must be an array of schemas"));
                }
                for (at, inner) in listed(list, &at) {
                    self.schema(inner, &at, depth + 1, objects)?;
                }
            }
        }
        for key in MAPS {
            if let Some(map) = object.get(key) {
                let at = format!("{path}.{key}");
                let map = map
                    .as_object()
                    .ok_or_else(|| misfit(&at, "must be an object of schemas by name"))?;
                self.properties += map.len();
                if self.properties > MOST_PROPERTIES {
                    let why = format!("is beyond the {MOST_PROPERTIES}th property of the schema");
                    return Err(misfit(&at, why));
                }
                for (name, inner) in map {
                    self.schema(inner, &format!("{at}.{name}"), depth + 1, objects)?;
                }
            }
        }
        Ok(())
    }

    /// References stay within the schema, and what they name is there.
    fn reference(&self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let Some(reference) = object.get("$ref") else {
            return Ok(());
        };
        let found = reference
            .as_str()
            .and_then(|text| text.strip_prefix('#'))
            .is_some_and(|pointer| self.root.pointer(pointer.trim_end_matches('/')).is_some());
        if found {
            return Ok(());
        }
        Err(misfit(
            &format!("{path}.$ref"),
            "must name a place in this schema that is there, such as `#/$defs/name`",
        ))
    }

    fn strict_keywords(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        if let Some(keyword) = NOT_STRICT.iter().find(|key| object.contains_key(**key)) {
            let why = format!("`{keyword}` is not permitted in a strict schema");
            return Err(misfit(&format!("{path}.{keyword}"), why));
        }
        // An empty schema allows anything, which strict schemas never do.
        if !SAYS_WHAT.iter().any(|key| object.contains_key(*key)) {
            let why = "must have a `type`, or one of `enum`, `const`, `anyOf` and `$ref`";
            return Err(misfit(path, why));
        }
        Ok(())
    }

    fn enums(&mut self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let Some(values) = object.get("enum") else {
            return Ok(());
        };
        let at = format!("{path}.enum");
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(misfit(&at, "must be an array of values, and not empty"));
        };
        self.enum_values += values.len();
        if self.enum_values > MOST_ENUM_VALUES {
            let why = format!("is beyond the {MOST_ENUM_VALUES}th enum value of the schema");
            return Err(misfit(&at, why));
        }
        Ok(())
    }
}

/// Every property is required, and no other may come.
fn strict_object(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    if object.get("additionalProperties") != Some(&Value::Bool(false)) {
        let why = "`additionalProperties` must be there and be false in a strict schema";
        return Err(misfit(&format!("{path}.additionalProperties"), why));
    }
    let at = format!("{path}.required");
    if object
        .get("required")
        .is_some_and(|required| !required.is_array())
    {
        return Err(misfit(&at, "must be an array of names"));
    }
    let required = names(object.get("required"));
    let properties = object.get("properties").and_then(Value::as_object);
    let known = |name: &str| properties.is_some_and(|map| map.contains_key(name));
    // The same one each time.
    if let Some(name) = required.iter().filter(|name| !known(name)).min() {
        return Err(misfit(
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
        Some(name) => Err(misfit(
            &at,
            format!(
                "must name every property of a strict schema; `{name}` is missing \
                 (an optional one has the type `[…, \"null\"]`)"
            ),
        )),
    }
}

fn counts(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    for key in COUNTS {
        if let Some(count) = object.get(key) {
            let fits = count.as_u64().is_some_and(|count| count <= HIGHEST_COUNT);
            if !fits {
                let why = format!("must be a whole number from 0 to {HIGHEST_COUNT}");
                return Err(misfit(&format!("{path}.{key}"), why));
            }
        }
    }
    Ok(())
}

/// A bound on what `multipleOf` costs.
fn divisor(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    let Some(value) = object.get("multipleOf") else {
        return Ok(());
    };
    let fits = value.as_f64().is_some_and(|number| {
        // As a double is written shortest, such as 0.25 or 1e-7.
        let text = number.to_string();
        let digits = text.chars().filter(char::is_ascii_digit);
        let digits: String = digits.collect();
        let divisor: Result<u64, _> = digits.parse();
        number > 0.0 && divisor.is_ok_and(|divisor| divisor <= HIGHEST_DIVISOR)
    });
    if fits {
        return Ok(());
    }
    let why = format!(
        "must be a number above 0 and, written without its decimal point, at most {HIGHEST_DIVISOR}"
    );
    Err(misfit(&format!("{path}.multipleOf"), why))
}

/// A bound on what may come next in an object.
fn optional(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    let required = names(object.get("required"));
    let needed = properties
        .keys()
        .filter(|name| required.contains(name.as_str()));
    let optional = properties.len() - needed.count();
    if optional > MOST_OPTIONAL {
        let why = format!(
            "has {optional} properties that are not `required`; at most {MOST_OPTIONAL} may be optional"
        );
        return Err(misfit(&format!("{path}.properties"), why));
    }
    Ok(())
}

/// The texts of an array.
fn names(list: Option<&Value>) -> HashSet<&str> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// A date with February 29 in leap years alone; how long other months are llguidance knows.
macro_rules! date {
    () => {
        "([1-9][0-9]{3}-([0-9]{2}-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|3[01]))\
         |([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
    };
}

macro_rules! time {
    () => {
        "[0-9]{2}:[0-9]{2}:[0-5][0-9][0-9Z:.+-]{1,16}"
    };
}

/// Holds what could go on for ever: numbers without bounds get so many digits as a double keeps
/// exactly, times no more digits than clocks have.
fn bound(schema: &mut Value) {
    const VALUES: [&str; 4] = ["enum", "const", "default", "examples"];
    /// What clients' parsers take: capital letters, nanoseconds at most, days that there are, and
    /// neither the year 0 nor leap seconds.
    const FORMATS: [(&str, &str); 4] = [
        ("date", concat!("^", date!(), "$")),
        ("date-time", concat!("^", date!(), "T", time!(), "$")),
        ("time", concat!("^", time!(), "$")),
        ("duration", "^[0-9PYMWDTHS]{2,30}$"),
    ];
    match schema {
        Value::Array(list) => list.iter_mut().for_each(bound),
        Value::Object(object) => {
            let is_number = |kind: &Value| kind == "number" || kind == "integer";
            let has_numbers = match object.get("type") {
                Some(Value::Array(kinds)) => kinds.iter().any(is_number),
                Some(kind) => is_number(kind),
                None => false,
            };
            if has_numbers {
                let (least, most) = (
                    ["minimum", "exclusiveMinimum"],
                    ["maximum", "exclusiveMaximum"],
                );
                bound_number(object, least, most, -1);
                bound_number(object, most, least, 1);
            }
            let format = object.get("format").and_then(Value::as_str);
            let pattern = FORMATS.iter().find(|(name, _)| format == Some(name));
            if let Some((_, pattern)) = pattern
                && !object.contains_key("pattern")
            {
                object.insert("pattern".to_owned(), (*pattern).into());
            }
            for (key, inner) in object.iter_mut() {
                if !VALUES.contains(&key.as_str()) {
                    bound(inner);
                }
            }
        }
        _ => {}
    }
}

/// Holds a number on one side of 0, `sign`'s, where `bounds` hold it no nearer: those of 64 bits do
/// not. One that has to be beyond, by `others`, is left alone.
#[allow(clippy::cast_precision_loss)] // a double has it exactly
fn bound_number(object: &mut Map<String, Value>, bounds: [&str; 2], others: [&str; 2], sign: i64) {
    let end = HIGHEST_NUMBER as f64;
    let is_far = |value: &Value| {
        value
            .as_f64()
            .is_some_and(|value| value * sign as f64 > end)
    };
    let is_beyond = |key: &str| object.get(key).is_some_and(is_far);
    if others.into_iter().any(is_beyond) {
        return;
    }
    for bound in bounds {
        if object.get(bound).is_some_and(is_far) {
            object.remove(bound);
        }
    }
    if !bounds.iter().any(|bound| object.contains_key(*bound)) {
        object.insert(bounds[0].to_owned(), (sign * HIGHEST_NUMBER).into());
    }
}

/// The schemas of a list, or the one that is none, each with its place.
fn listed<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match value {
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, inner)| (format!("{path}[{index}]"), inner))
            .collect(),
        one => vec![(path.to_owned(), one)],
    }
}

fn misfit(path: &str, why: impl Into<String>) -> Misfit {
    Misfit {
        path: path.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_held_on_both_sides() {
        for (given, held) in [
            (json!({}), json!([-HIGHEST_NUMBER, HIGHEST_NUMBER])),
            (json!({"minimum": 0}), json!([0, HIGHEST_NUMBER])),
            (
                json!({"minimum": i64::MIN, "maximum": i64::MAX}),
                json!([-HIGHEST_NUMBER, HIGHEST_NUMBER]),
            ),
            (json!({"maximum": 5.5}), json!([-HIGHEST_NUMBER, 5.5])),
        ] {
            let mut schema = given;
            schema["type"] = json!("integer");
            bound(&mut schema);
            assert_eq!(json!([schema["minimum"], schema["maximum"]]), held);
        }
        let mut schema = json!({"type": "number", "minimum": 1e18});
        bound(&mut schema);
        assert_eq!(schema["maximum"], Value::Null);
        let mut schema = json!({"type": "number", "exclusiveMinimum": 0});
        bound(&mut schema);
        assert_eq!(schema["minimum"], Value::Null);
        assert_eq!(schema["maximum"], HIGHEST_NUMBER);
    }

    fn place(schema: Value) -> String {
        Schema::new(schema, true).expect_err("refused").path
    }

    #[allow(clippy::needless_pass_by_value)] // reads better where it is called
    fn strict(properties: Value) -> Value {
        let required: Vec<_> = properties
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        json!({
            "type": "object", "properties": properties,
            "required": required, "additionalProperties": false,
        })
    }

    #[test]
    fn strict_takes_what_openai_allows() {
        let mut schema = strict(json!({
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "price": {"type": ["number", "null"], "minimum": 0, "multipleOf": 0.01},
            "kind": {"type": "string", "enum": ["food", "other"]},
            "when": {"type": "string", "format": "date"},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        }));
        schema["$defs"] = json!({"tag": {"type": "string"}});
        assert!(Schema::new(schema, true).is_ok());
    }

    #[test]
    fn what_strict_does_not_allow_is_refused_at_its_place() {
        assert_eq!(place(json!({"type": "array", "items": {}})), "");
        let open = json!({"type": "object", "properties": {}, "required": []});
        assert_eq!(place(open.clone()), ".additionalProperties");
        assert_eq!(
            place(strict(json!({"a": open}))),
            ".properties.a.additionalProperties"
        );
        let mut optional = strict(json!({"a": {"type": "string"}}));
        optional["required"] = json!([]);
        assert_eq!(place(optional), ".required");
        let all_of = strict(json!({"a": {"type": "string", "allOf": []}}));
        assert_eq!(place(all_of), ".properties.a.allOf");
        assert_eq!(place(strict(json!({"a": {}}))), ".properties.a");
        let lost = strict(json!({"a": {"$ref": "#/$defs/b"}}));
        assert_eq!(place(lost), ".properties.a.$ref");
        let abroad = strict(json!({"a": {"$ref": "https://example.com/b"}}));
        assert_eq!(place(abroad), ".properties.a.$ref");
    }

    #[test]
    fn sizes_are_bounded_with_and_without_strict() {
        let many = json!({"enum": (0..2000).collect::<Vec<_>>()});
        let long = json!({"type": "string", "maxLength": 1_000_000_000});
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({"items": deep});
        }
        let optional: Map<_, _> = (0..600).map(|i| (format!("p{i}"), json!({}))).collect();
        let optional = json!({"properties": optional});
        let divisors = [json!(1_234_567), json!(0.12345), json!(1e300), json!(0)];
        let divisors = divisors.map(|divisor| json!({"multipleOf": divisor}));
        for schema in [many, long, deep, optional].into_iter().chain(divisors) {
            assert!(Schema::new(schema, false).is_err());
        }
    }

    #[test]
    fn divisors_that_people_use_are_taken() {
        for divisor in [json!(0.01), json!(0.25), json!(5), json!(1000), json!(1e-7)] {
            assert!(
                Schema::new(json!({"multipleOf": divisor}), false).is_ok(),
                "{divisor}"
            );
        }
    }

    #[test]
    fn other_schemas_are_followed_as_far_as_they_can_be() {
        assert!(Schema::new(json!({"properties": {"a": {"not": {}}}}), false).is_ok());
        assert!(Schema::new(json!(true), false).is_ok());
    }
}
