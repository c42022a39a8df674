//! JSON schemas from clients: what `strict` allows, and how large they may be.
//!
//! The rules of `strict` are those of OpenAI's guide "Structured model outputs", section
//! "Supported schemas", as of 2026; `minLength` and `maxLength` are honoured beyond them.

mod check;
mod choices;
mod cost;
mod exact;
mod free;
mod keywords;
mod lower;
mod numbers;
mod objects;
mod path;
mod pattern;
mod prescribed;
mod reference;
mod strict;
mod strings;
mod types;

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::field::FieldPath;

#[cfg(test)]
pub(super) use check::MOST_LEVELS;
use check::{CheckRules, check, check_growth};
use exact::in_lark;
use free::hold_free;
use lower::lower;
use path::SchemaPath;

/// A schema that may be compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// An expression of llguidance's Lark.
    expression: String,
    /// Its path in the request; empty where no client sent it.
    place: FieldPath,
    /// The client's own JSON, if a client sent it.
    source: Option<SchemaSource>,
}

/// A client's schema, and a part of it.
#[derive(Debug, Clone, PartialEq)]
struct SchemaSource {
    root: Arc<Value>,
    strict: bool,
    /// The steps that lead to the part.
    steps: Vec<PathStep>,
}

#[derive(Debug, Clone, PartialEq)]
enum PathStep {
    Name(String),
    Index(usize),
}

/// Writes the step as messages show it.
impl fmt::Display for PathStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Names that are longer than anybody reads are cut.
            Self::Name(name) => write!(formatter, ".{name:.100}"),
            Self::Index(index) => write!(formatter, "[{index}]"),
        }
    }
}

/// Says what is wrong with a schema, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct SchemaError {
    /// The path within the schema, such as `.properties.price`; empty for the whole schema.
    pub path: String,
    /// What is wrong and what is expected.
    pub why: String,
}

impl Schema {
    /// Sets its path in the request, such as `tools[0].function.parameters`.
    #[must_use]
    pub fn at(mut self, place: impl Into<FieldPath>) -> Self {
        self.place = place.into();
        self
    }

    /// Returns its path in the request; empty where no client sent it.
    #[must_use]
    pub fn place(&self) -> &FieldPath {
        &self.place
    }

    /// Returns the schema of any JSON object.
    #[must_use]
    pub fn object() -> Self {
        Self::ours(json!({"type": "object"}))
    }

    /// Whether it is [`object`](Self::object), whoever wrote it.
    pub(super) fn is_any_object(&self) -> bool {
        self.expression == Self::object().expression
    }

    /// Returns the schema of an object without properties.
    #[must_use]
    pub fn nothing() -> Self {
        Self::ours(json!({"type": "object", "properties": {}, "additionalProperties": false}))
    }

    fn ours(schema: Value) -> Self {
        Self {
            expression: in_json(hold_free(schema), &layout(false)),
            place: FieldPath::default(),
            source: None,
        }
    }

    /// Checks a client's schema, by the rules of `strict` where it asks for them. Elsewhere
    /// keywords that cannot be followed are left out of account, as OpenAI does it.
    ///
    /// # Errors
    /// [`SchemaError`] at the first place that is not as it must be.
    pub fn new(schema: Value, strict: bool) -> Result<Self, SchemaError> {
        Self::of(SchemaSource {
            root: Arc::new(schema),
            strict,
            steps: Vec::new(),
        })
    }

    /// Checks a client's schema that nothing is held to. It may say what cannot be followed, but it must
    /// be one.
    ///
    /// # Errors
    /// [`SchemaError`] at the first place that no schema has.
    pub fn check_hint(schema: &Value) -> Result<(), SchemaError> {
        check(schema, CheckRules::Hint).map(drop)
    }

    fn of(source: SchemaSource) -> Result<Self, SchemaError> {
        let rules = if source.strict {
            CheckRules::Strict
        } else {
            CheckRules::Followed
        };
        let targets = check(&source.root, rules)?;
        let part = walk(&source.root, &source.steps);
        let path: String = source.steps.iter().map(PathStep::to_string).collect();
        let path = SchemaPath::ROOT.behind(&path);
        let lowered = lower(&source.root, (part, &path), &targets, source.strict)?;
        let lowered = hold_free(lowered);
        check_growth(&lowered)?;
        let layout = layout(source.strict);
        let expression = match in_lark(&lowered, &layout)? {
            Some(expression) => expression,
            None => in_json(lowered, &layout),
        };
        Ok(Self {
            expression,
            place: FieldPath::default(),
            source: Some(source),
        })
    }

    /// Returns the JSON as the caller wrote it.
    ///
    /// # Panics
    /// If it is one of this crate's own.
    #[cfg(test)]
    pub(crate) fn written(&self) -> &Value {
        &self.source.as_ref().expect("a caller's").root
    }

    /// The schemas directly within it, to find the one that cannot be followed. Each is made when its turn
    /// comes, for that takes as long as to make the whole.
    pub fn parts(&self) -> impl Iterator<Item = Self> {
        let source = self.source.iter();
        source.flat_map(|source| {
            let whole = walk(&source.root, &source.steps);
            steps_within(whole).into_iter().filter_map(|steps| {
                let place: String = steps.iter().map(PathStep::to_string).collect();
                let mut part = source.clone();
                part.steps.extend(steps);
                Some(Self::of(part).ok()?.at(self.place.keys(place)))
            })
        })
    }
}

/// Returns the part of a schema that these steps lead to.
fn walk<'v>(root: &'v Value, steps: &[PathStep]) -> &'v Value {
    let part = steps.iter().try_fold(root, |part, step| match step {
        PathStep::Name(name) => part.get(name),
        PathStep::Index(index) => part.get(index),
    });
    part.unwrap_or(&Value::Null)
}

/// Returns the steps from a schema to each schema directly within it.
fn steps_within(schema: &Value) -> Vec<Vec<PathStep>> {
    const NAMED: [&str; 2] = ["properties", "patternProperties"];
    const OTHERS: [&str; 6] = [
        "prefixItems",
        "items",
        "additionalProperties",
        "allOf",
        "anyOf",
        "oneOf",
    ];
    let name = |name: &str| PathStep::Name(name.to_owned());
    let mut all = Vec::new();
    for key in NAMED {
        let named = schema.get(key).and_then(Value::as_object).into_iter();
        let named = named.flat_map(Map::keys);
        all.extend(named.map(|inner| vec![name(key), name(inner)]));
    }
    for key in OTHERS {
        match schema.get(key) {
            Some(Value::Array(list)) => {
                all.extend((0..list.len()).map(|index| vec![name(key), PathStep::Index(index)]));
            }
            Some(Value::Object(_)) => all.push(vec![name(key)]),
            _ => {}
        }
    }
    all
}

/// White space as Python's `json.dumps` has it: models have read much of that, and one that is
/// free to write white space may never stop.
fn layout(strict: bool) -> Value {
    let mut layout = json!({
        "whitespace_flexible": false,
        "item_separator": ", ",
        "key_separator": ": ",
    });
    if !strict {
        layout["lenient"] = true.into();
        layout["coerce_one_of"] = true.into();
    }
    layout
}

fn in_json(schema: Value, layout: &Value) -> String {
    let mut schema = match schema {
        Value::Object(schema) => schema,
        // llguidance has no other word for what nothing fits.
        Value::Bool(false) => Map::from_iter([("anyOf".to_owned(), json!([]))]),
        _ => Map::new(),
    };
    schema.insert("x-guidance".to_owned(), layout.clone());
    format!("%json {}", Value::Object(schema))
}

/// An expression of llguidance's Lark that has the instances of the schema.
impl fmt::Display for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.expression)
    }
}

#[cfg(test)]
mod tests {
    use super::check::COUNTS;
    use super::numbers::HIGHEST_NUMBER;
    use super::*;

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

    /// A schema that fits as it is, and does not with one more.
    fn at_most(most: usize, schema: impl Fn(usize) -> Value) {
        let refused = |count| Schema::new(schema(count), false).err();
        assert_eq!(refused(most), None);
        assert!(refused(most + 1).is_some(), "one more than {most} is taken");
    }

    fn named(count: usize, prefix: &str, value: &Value) -> Value {
        let named = (0..count).map(|index| (format!("{prefix}{index}"), value.clone()));
        Value::Object(named.collect())
    }

    fn strings(count: usize) -> Value {
        (0..count).map(|index| format!("k{index}")).collect()
    }

    #[test]
    fn every_bound_holds_at_both_ends() {
        let null = &json!({"type": "null"});
        let required = |count| json!({"type": "object", "required": strings(count)});
        at_most(5000, required);
        let optional = |count| json!({"type": "object", "properties": named(count, "k", null)});
        at_most(500, optional);
        let patterns =
            |count| json!({"type": "object", "patternProperties": named(count, "^a", null)});
        at_most(16, patterns);
        let matched = |count| {
            json!({
                "type": "object", "properties": named(count, "k", null),
                "required": strings(count), "patternProperties": named(16, "^a", null),
            })
        };
        at_most(312, matched);
        at_most(
            1000,
            |count| json!({"prefixItems": vec![json!({"type": "integer"}); count]}),
        );
        at_most(1000, |count| json!({"enum": strings(count)}));
        at_most(999, |count| json!({"const": strings(count)}));
        at_most(64, |count| {
            (0..count).fold(json!({}), |inner, _| json!({"items": inner}))
        });
        for key in COUNTS {
            at_most(10_000, |count| json!({key: count}));
        }
        let large =
            json!({"type": "object", "properties": named(99, "k", null), "required": strings(99)});
        let options =
            |count| json!({"allOf": [large, {"anyOf": vec![json!({"type": "object"}); count]}]});
        at_most(990, options);
        at_most(1, |count| json!({"type": vec!["object"; count]}));
    }

    #[test]
    fn bounds_hold_wherever_a_reference_leads() {
        let hostile = json!({"type": "string", "maxLength": 1_000_000_000});
        let behind = json!({"type": "object", "required": ["a"], "properties": {"a": hostile}});
        for (at, schema) in [
            (
                ".x.properties.a.maxLength",
                json!({"$ref": "#/x", "x": behind}),
            ),
            (
                ".examples.1.maxLength",
                json!({"$ref": "#/examples/1", "examples": [1, hostile]}),
            ),
            (
                ".default.maxLength",
                json!({"items": {"$ref": "#/default"}, "default": hostile}),
            ),
            (
                ".y.z.maxLength",
                json!({"$ref": "#/x", "x": {"$ref": "#/y/z"}, "y": {"z": hostile}}),
            ),
        ] {
            let refused = Schema::new(schema, false).expect_err("refused");
            assert_eq!(refused.path, at);
        }
        let escaped = json!({"$ref": "#/x~1y", "x/y": hostile, "x~1y": {}});
        let refused = Schema::new(escaped, false).expect_err("refused");
        assert_eq!(refused.path, ".x/y.maxLength");
    }

    #[test]
    fn numbers_are_held_where_only_a_reference_leads() {
        let schema = json!({"$ref": "#/examples/0", "examples": [{"type": "integer"}]});
        let held = Schema::new(schema, false).expect("sound").to_string();
        assert!(held.contains(&HIGHEST_NUMBER.to_string()), "{held}");
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
