//! What schemas allow, text by text.

use serde_json::{Value, json};

use super::compile::Compiler;
use super::{GrammarError, Schema};

/// Tries texts on schemas.
struct Trial(Compiler);

impl Trial {
    fn new() -> Self {
        Self(Compiler::for_bytes().expect("a compiler"))
    }

    fn allows(&self, schema: &Value, text: &str) -> bool {
        let checked = Schema::new(schema.clone(), false);
        let checked = checked.unwrap_or_else(|schema_error| panic!("{schema}: {schema_error}"));
        let compiled = self.0.compile(&format!("start: {checked}"));
        let mut parser = compiled
            .unwrap_or_else(|error| panic!("{schema}: {error}"))
            .parser;
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        let taken = parser.consume_while_valid(&bytes).expect("simple");
        taken == bytes.len() && (parser.is_stopped() || parser.is_accepting().expect("simple"))
    }

    fn refusal(&self, schema: &Value) -> Option<GrammarError> {
        let checked = Schema::new(schema.clone(), false).expect("well formed");
        self.0.compile(&format!("start: {checked}")).err()
    }

    /// Each schema with texts that it allows, and texts that it does not.
    fn all(&self, cases: &[(Value, &[&str], &[&str])]) {
        for (schema, right, wrong) in cases {
            for text in *right {
                assert!(
                    self.allows(schema, text),
                    "{text} is not allowed by {schema}"
                );
            }
            for text in *wrong {
                assert!(!self.allows(schema, text), "{text} is allowed by {schema}");
            }
        }
    }
}

#[test]
fn what_a_class_excludes_does_not_come_escaped() {
    let pattern = |pattern: &str| json!({"type": "string", "pattern": pattern});
    Trial::new().all(&[
        (
            pattern(r#"^[^"\\]+$"#),
            &[r#""a b""#, r#""é""#, r#""a\nb""#],
            &[r#""a\"b""#, r#""a\\b""#, r#""""#],
        ),
        (
            pattern(r#"^[^"]{2,9}$"#),
            &[r#""a b""#, r#""a\\b""#],
            &[r#""a\"b""#, r#""\"\"""#],
        ),
        (
            pattern(r"^[^\\]{2,9}$"),
            &[r#""a b""#, r#""a\"b""#],
            &[r#""a\\b""#],
        ),
        (pattern(r#"^[^"\n]+x$"#), &[r#""a\tx""#], &[r#""\"x""#]),
    ]);
}

#[test]
fn an_excluded_bound_beyond_2_to_the_53_is_not_allowed() {
    const FAR: i64 = 1 << 53;
    const FARTHER: i64 = 1_000_000_000_000_000_000;
    Trial::new().all(&[
        (
            json!({"type": "integer", "exclusiveMinimum": FAR, "exclusiveMaximum": FAR + 4}),
            &["9007199254740994"],
            &["9007199254740992", "9007199254740996"],
        ),
        (
            json!({"type": "integer", "exclusiveMinimum": FARTHER, "exclusiveMaximum": FARTHER + 256}),
            &["1000000000000000128"],
            &["1000000000000000000", "1000000000000000256"],
        ),
        (
            json!({"type": "integer", "exclusiveMaximum": -FAR, "minimum": -FAR - 2}),
            &["-9007199254740994"],
            &["-9007199254740992", "-9007199254740996"],
        ),
        (
            json!({"type": ["integer", "null"], "minimum": FAR, "exclusiveMinimum": true,
                   "maximum": FAR + 2}),
            &["9007199254740994", "null"],
            &["9007199254740992"],
        ),
        (
            json!({"type": "number", "exclusiveMinimum": FAR, "exclusiveMaximum": FAR + 4}),
            &["9007199254740994"],
            &["9007199254740992", "9007199254740992.0", "9007199254740996"],
        ),
        (
            json!({"allOf": [{"type": "integer", "minimum": FAR, "maximum": FAR + 2},
                             {"exclusiveMinimum": FAR, "maximum": FAR + 2}]}),
            &["9007199254740994"],
            &["9007199254740992"],
        ),
        (
            json!({"type": "integer", "minimum": 0, "exclusiveMaximum": 999_999_999_999_999_i64}),
            &["999999999999998"],
            &["999999999999999"],
        ),
    ]);
}

#[test]
fn an_excluded_bound_is_not_allowed_wherever_it_stands() {
    let above = json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5});
    Trial::new().all(&[
        (above.clone(), &["0.1", "0.5", "0.001"], &["0", "0.0", "-0", "-0.1", "0.6"]),
        (
            json!({"type": "number", "exclusiveMinimum": 10, "exclusiveMaximum": 10.5}),
            &["10.25", "10.4999"],
            &["10", "10.0", "10.5", "10.50", "10.00000000000000000000001"],
        ),
        (
            json!({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}),
            &["-0.25", "-0.5"],
            &["0", "-0", "-0.0", "0.1"],
        ),
        (
            json!({"type": "number", "minimum": -1.5, "exclusiveMaximum": -1}),
            &["-1.25", "-1.5"],
            &["-1", "-1.0", "-1.6"],
        ),
        (
            json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
            &["0", "0.5", "0.9", "0.99"],
            &["1", "1.0"],
        ),
        (
            json!({"type": ["number", "null"], "minimum": 1, "exclusiveMinimum": true, "maximum": 1.5}),
            &["1.5", "null"],
            &["1", "1.0"],
        ),
        (
            json!({"exclusiveMinimum": 3, "maximum": 3.5}),
            &["3.25", "\"3\"", "true"],
            &["3", "3.0"],
        ),
        (
            json!({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}),
            &["0.25"],
            &["0", "0.0"],
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5, "multipleOf": 0.25}),
            &["0.25"],
            &["0", "0.0", "0.3"],
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1, "multipleOf": 1}),
            &["1"],
            &["0", "0.5"],
        ),
        (
            json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}),
            &["1", "2"],
            &["0", "3"],
        ),
        (
            json!({"allOf": [{"type": "integer"}, {"exclusiveMinimum": 0}, {"exclusiveMaximum": 3}]}),
            &["1", "2"],
            &["0", "3"],
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-12}),
            &["0.0000000000005"],
            &["0", "0.1"],
        ),
        (
            json!({"type": "array", "items": {"$ref": "#/$defs/p"}, "$defs": {"p": above}}),
            &["[0.25]"],
            &["[0]", "[0.25, 0]"],
        ),
    ]);
}

#[test]
fn properties_that_are_counted_may_be_any_of_the_optional_ones() {
    let one = json!({"enum": [1]});
    let abc = json!({"a": one, "b": one, "c": one});
    let object = |more: Value| {
        let mut object =
            json!({"type": "object", "properties": abc, "additionalProperties": false});
        for (key, value) in more.as_object().expect("an object") {
            object[key] = value.clone();
        }
        object
    };
    let (all, pair) = (r#"{"a": 1, "b": 1, "c": 1}"#, r#"{"a": 1, "c": 1}"#);
    let (b, c) = (r#"{"b": 1}"#, r#"{"c": 1}"#);
    let open = json!({"additionalProperties": one});
    let mut open_least = object(open);
    open_least["minProperties"] = 1.into();
    Trial::new().all(&[
        (
            object(json!({"maxProperties": 2})),
            &["{}", b, c, pair],
            &[all],
        ),
        (
            object(json!({"maxProperties": 1})),
            &["{}", b, c],
            &[pair, all],
        ),
        (object(json!({"maxProperties": 0})), &["{}"], &[b]),
        (
            object(json!({"minProperties": 2})),
            &[pair, all],
            &["{}", b],
        ),
        (
            object(json!({"minProperties": 1, "maxProperties": 1})),
            &[b, c],
            &["{}", pair],
        ),
        (
            object(json!({"minProperties": 2, "maxProperties": 2})),
            &[pair],
            &["{}", b, all],
        ),
        (object(json!({"minProperties": 3})), &[all], &[pair]),
        (
            object(json!({"maxProperties": 2, "required": ["c"]})),
            &[c, pair],
            &["{}", b, all],
        ),
        (
            object(json!({"maxProperties": 1, "patternProperties": {"^[0-9]$": one}})),
            &["{}", b],
            &[r#"{"b": 1, "1": 1}"#],
        ),
        (open_least, &[b, r#"{"b": 1, "x": 1}"#], &["{}"]),
        (
            json!({"type": ["object", "null"], "properties": abc, "maxProperties": 1}),
            &["null", "{}", b],
            &[pair],
        ),
        (
            json!({"properties": abc, "maxProperties": 1}),
            &["3", b],
            &[pair],
        ),
        (
            json!({"type": "array", "items": object(json!({"maxProperties": 1}))}),
            &[r#"[{"c": 1}, {"a": 1}]"#],
            &[r#"[{"a": 1, "c": 1}]"#],
        ),
    ]);
}

#[test]
fn prescribed_numbers_are_multiples_by_their_digits() {
    let trial = Trial::new();
    trial.all(&[
        (
            json!({"enum": [0.3, 0.35, 0.7, 1, "a", 9_007_199_254_740_993_u64], "multipleOf": 0.1}),
            &["0.3", "0.7", "1", r#""a""#, "9007199254740993"],
            &["0.35"],
        ),
        (json!({"const": 4.35, "multipleOf": 0.01}), &["4.35"], &[]),
        (
            json!({"enum": [0.14, 0.15], "multipleOf": 0.07}),
            &["0.14"],
            &["0.15"],
        ),
        (
            json!({"enum": [9, 10, 7.5], "multipleOf": 2.5}),
            &["10", "7.5"],
            &["9"],
        ),
    ]);
    let none = json!({"const": 0.35, "multipleOf": 0.1});
    assert!(trial.refusal(&none).is_some());
}

#[test]
fn counts_that_nobody_would_keep_are_refused() {
    let trial = Trial::new();
    let ab = json!({"type": "object", "properties": {"a": {}, "b": {}}});
    for schema in [
        json!({"allOf": [ab, {"maxProperties": 1}]}),
        json!({"$ref": "#/$defs/ab", "maxProperties": 1, "$defs": {"ab": ab}}),
        json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false,
               "minProperties": 2, "maxProperties": 2}),
    ] {
        let refused = trial.refusal(&schema).expect("refused").to_string();
        assert!(refused.contains("Properties"), "{refused}");
    }
}

#[test]
fn numbers_are_ones_that_doubles_hold_also_where_anything_may_stand() {
    let right: &[&str] = &[
        "9",
        "-0.5",
        "999999999999999",
        "[1, [2]]",
        r#"{"a": {"b": [1.5]}}"#,
        "null",
    ];
    let wrong: &[&str] = &[
        "9999999999999999",
        "1e400",
        "[1e400]",
        "[[1, 9999999999999999]]",
        r#"{"a": {"b": [1e400]}}"#,
    ];
    let lists: (&[&str], &[&str]) = (&["[]", "[1]"], &["[1e400]", "[[9999999999999999]]"]);
    let objects: (&[&str], &[&str]) = (
        &["{}", r#"{"x": [1, "y"]}"#],
        &[r#"{"x": 1e400}"#, r#"{"x": [9999999999999999]}"#],
    );
    let any_object = Schema::object();
    let compiler = Trial::new();
    compiler.all(&[
        (json!({}), right, wrong),
        (json!(true), right, wrong),
        (json!({"title": "Anything"}), right, wrong),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {}}}),
            right,
            wrong,
        ),
        (json!({"anyOf": [{}, {"type": "null"}]}), right, wrong),
        (json!({"description": "", "minLength": 1}), right, wrong),
        (json!({"type": "array"}), lists.0, lists.1),
        (
            json!({"type": "array", "prefixItems": [{}]}),
            lists.0,
            lists.1,
        ),
        (json!({"type": "array", "items": {}}), lists.0, lists.1),
        (json!({"type": "object"}), objects.0, objects.1),
        (
            json!({"type": "object", "additionalProperties": true}),
            objects.0,
            objects.1,
        ),
        (
            json!({"type": "object", "properties": {"x": {}}}),
            objects.0,
            objects.1,
        ),
        (
            json!({"type": "object", "patternProperties": {"^x": {}}}),
            objects.0,
            objects.1,
        ),
    ]);
    let parser = compiler
        .0
        .compile(&format!("start: {any_object}"))
        .expect("ours");
    let text = br#"{"x": 1e"#.map(u32::from);
    assert_eq!(
        parser.parser.clone().consume_while_valid(&text),
        Ok(text.len() - 1)
    );
}

#[test]
fn schemas_that_are_intersected_stay_as_open_as_they_were() {
    Trial::new().all(&[
        (
            json!({"allOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object"}]}),
            &[r#"{"a": {"b": [1]}, "c": 2}"#],
            &["1"],
        ),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            &[r#"{"a": [1]}"#, r#"{"b": {}}"#],
            &["{}"],
        ),
        (
            json!({"$ref": "#/$defs/a", "minItems": 1, "$defs": {"a": {"type": "array"}}}),
            &["[[1]]"],
            &["[]"],
        ),
        (
            json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                   "$defs": {"a": {"type": "object"}, "b": {"properties": {"x": {"$ref": "#/$defs/a"}}}}}),
            &[r#"{"x": {"y": {}}}"#],
            &[r#"{"x": 1}"#],
        ),
    ]);
}

#[test]
fn escapes_of_patterns_are_those_of_ecma_262() {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    Trial::new().all(&[
        (text(r"^\cJ$"), &[r#""\n""#], &[r#""J""#, r#""cJ""#]),
        (text(r"^[\cA-\cZ]$"), &[r#""\t""#], &[r#""A""#]),
        (text(r"^[\b]$"), &[r#""\b""#], &[r#""b""#]),
        (text("^[^]$"), &[r#""x""#, r#""\n""#], &[r#""""#]),
        (text("^{$"), &[r#""{""#], &[r#""""#]),
        (text("^a{,2}$"), &[r#""a{,2}""#], &[r#""aa""#]),
        (text(r"^\<b\>$"), &[r#""<b>""#], &[r#""b""#]),
    ]);
}

#[test]
fn times_have_nine_digits_of_a_second_at_most() {
    let time = json!({"type": "string", "format": "time"});
    Trial::new().all(&[(
        time,
        &[
            r#""12:34:56Z""#,
            r#""12:34:56.123456789Z""#,
            r#""12:34:56.5+01:00""#,
        ],
        &[
            r#""12:34:56.1234567890Z""#,
            r#""12:34:56.Z""#,
            r#""12:34:56""#,
        ],
    )]);
}
