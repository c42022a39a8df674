//! Answers that must have a form have it, however little the model understands of it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use edgellm::admission::ClientId;
use edgellm::engine::{LoadWatch, Pieces, Token, Tokenizer, Vocabulary, load_model};
use edgellm::grammar::{
    Caller, Constraint, Grammar, GrammarError, Grammars, Schema, TrialCompiler, Trigger,
};
use edgellm::prompt::{
    AnswerPart, CallableFunction, OutputParser, OutputPiece, ToolFormat, calls, opened_calls,
};
use edgellm::sampling::{Sampler, SamplingParams};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::gateway::MODEL;

fn grammars() -> (Arc<Tokenizer>, Grammars) {
    let model = load_model(Path::new(MODEL), &LoadWatch::default());
    let (_, tokenizer) = model.expect("the shipped model");
    let tokenizer = Arc::new(tokenizer);
    (
        Arc::clone(&tokenizer),
        Grammars::new(tokenizer, trial_compiler()),
    )
}

fn constraint_of(grammars: &Grammars, grammar: &Grammar) -> Result<Constraint, GrammarError> {
    let (caller, _here) = Caller::new(ClientId::of(([127, 0, 0, 1], 0).into()));
    runtime().block_on(grammars.constraint(grammar, &caller))
}

/// One runtime for all tests: the child processes of the trial compiler belong to it.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// The program that was built with this one tries grammars out.
fn trial_compiler() -> TrialCompiler {
    TrialCompiler::of(env!("CARGO_BIN_EXE_edgellm").into())
}

/// Noise that is the same at every run: what a model says that understands nothing.
fn noise(seed: u64, step: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(u16::try_from(state >> 48).expect("16 bits")) / 4096.0
    };
    (0..count).map(next).collect()
}

/// What comes out of noise that is held to `schema`, in at most `most` tokens.
fn answer(
    tokenizer: &Tokenizer,
    grammars: &Grammars,
    schema: &Schema,
    seed: u64,
    most: u32,
) -> String {
    let constraint = constraint_of(grammars, &Grammar::schema(schema));
    let bytes = constrained(
        tokenizer,
        constraint.expect("a sound schema"),
        None,
        seed,
        most,
    );
    String::from_utf8(bytes).expect("whole characters")
}

/// What comes out of noise that is led by `constraint`; of noise and `opener` at the tenth token.
fn constrained(
    tokenizer: &Tokenizer,
    constraint: Constraint,
    opener: Option<Token>,
    seed: u64,
    most: u32,
) -> Vec<u8> {
    let params = SamplingParams {
        seed,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, &[], Some(constraint));
    let mut bytes = Vec::new();
    for index in 0..most {
        let mut logits = noise(seed, index.into(), tokenizer.info().vocabulary);
        if let Some(Token(id)) = opener.filter(|_| index == 9) {
            logits[usize::try_from(id).expect("positive")] = 100.0;
        }
        let token = sampler
            .sample(&logits, index, most)
            .expect("not too complex");
        if tokenizer.is_end(token) {
            break;
        }
        bytes.extend_from_slice(tokenizer.piece(token));
        if sampler.is_complete() {
            break;
        }
    }
    bytes
}

#[test]
fn noise_becomes_json_that_fits_its_schema_and_its_tokens() {
    let (tokenizer, grammars) = grammars();
    let article = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string", "enum": ["food", "other"]},
            "price": {"type": "number"},
            "aisle": {"type": "integer", "minimum": 1, "maximum": 20},
            "since": {"type": ["string", "null"], "format": "date"},
            "parts": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
        },
        "required": ["name", "kind", "price", "aisle", "since", "parts"],
    });
    let strict = Schema::new(article, true).expect("strict");
    for seed in 0..20 {
        for most in [120, 200, 400] {
            let text = answer(&tokenizer, &grammars, &strict, seed, most);
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{error} in {most} tokens of seed {seed}: {text}"));
            assert!(["food", "other"].contains(&value["kind"].as_str().expect("a kind")));
            let aisle = value["aisle"].as_i64().expect("an integer");
            assert!((1..=20).contains(&aisle));
            assert!(value["price"].as_f64().is_some_and(f64::is_finite));
        }
    }
}

#[test]
fn a_call_that_noise_makes_of_itself_fits_the_schema_of_the_tool() {
    let (tokenizer, grammars) = grammars();
    let price = json!({
        "type": "object", "additionalProperties": false,
        "properties": {"article": {"enum": ["milk", "hose"]}, "number": {"type": "integer"}},
        "required": ["article", "number"],
    });
    let functions = [
        CallableFunction {
            name: "price".to_owned(),
            arguments: Schema::new(price, true).expect("strict"),
        },
        CallableFunction {
            name: "help".to_owned(),
            arguments: Schema::object(),
        },
    ];
    let format = ToolFormat::Hermes;
    let opener = format.opener().expect("a tag");
    let special = |text| {
        tokenizer
            .specials()
            .iter()
            .find(|special| special.text == text)
    };
    let token = special(opener).expect("a token").token;
    let mut prices = 0;
    for seed in 0..20 {
        let grammar = opened_calls(format, &functions, &*tokenizer);
        let constraint = constraint_of(&grammars, &grammar).expect("sound");
        let constraint = constraint.after(Trigger::new(opener));
        let text = constrained(&tokenizer, constraint, Some(token), seed, 200);
        let text = String::from_utf8_lossy(&text);
        let mut parser = OutputParser::new(None, Some(format));
        let mut pieces = parser.push(&text);
        pieces.extend(parser.finish());
        let named = pieces
            .iter()
            .position(|p| matches!(p, OutputPiece::Part(AnswerPart::Call { .. })));
        let named = named.unwrap_or_else(|| panic!("no call of seed {seed}: {text}"));
        let OutputPiece::Part(AnswerPart::Arguments(json)) = &pieces[named + 1] else {
            panic!("no arguments: {pieces:?}");
        };
        let arguments: Value = serde_json::from_str(json).expect("JSON");
        let is_price = pieces[named]
            == OutputPiece::Part(AnswerPart::Call {
                name: "price".to_owned(),
            });
        if is_price {
            assert!(
                ["milk", "hose"].contains(&arguments["article"].as_str().expect("one of them"))
            );
            assert!(arguments["number"].is_i64());
            prices += 1;
        }
        assert!(arguments.is_object());
        // Before and behind it noise says what it likes.
        assert!(named > 0, "{text}");
    }
    assert!(prices > 0);
}

/// What comes out of noise that is held to a property of this schema, seed by seed.
fn values(schema: &Value, strict: bool, most: u32) -> Vec<Value> {
    let (tokenizer, grammars) = grammars();
    let mut object = json!({
        "type": "object", "properties": {"v": schema}, "required": ["v"],
        "additionalProperties": false,
    });
    if let Some(definitions) = schema.get("$defs") {
        object["$defs"] = definitions.clone();
    }
    let checked = Schema::new(object, strict).unwrap_or_else(|schema_error| {
        panic!("{schema}: {} {schema_error}", schema_error.path);
    });
    let whole = |seed| {
        let text = answer(&tokenizer, &grammars, &checked, seed, most);
        let whole: Result<Value, _> = serde_json::from_str(&text);
        let mut whole = whole.unwrap_or_else(|error| panic!("{error} of {schema}: {text}"));
        whole["v"].take()
    };
    (0..6).map(whole).collect()
}

#[test]
fn a_string_of_any_pattern_is_whole_when_the_tokens_run_out() {
    let patterns = [
        r"^\d+kg$",
        r"^.+\.(jpg|png)$",
        "^[a-z ]+!$",
        "^[0-9]+[.,][0-9]{2} ?€$",
        "^(a|b)*c(d|e)*f$",
        r"^[A-Z]{2,}-\d{3,}$",
        r"^\+?[0-9 ]+#$",
        "^[^x]+x$",
        "^(0|1)+2$",
        // Found anywhere in a text.
        "[0-9]",
        "a|b",
        "x",
        "(^a|b$)",
        "^#",
        "-[A-Z]{2}$",
        "(?i)kg",
    ];
    let patterns = patterns.map(|pattern| json!({"type": "string", "pattern": pattern}));
    let formats = [
        "email",
        "uri",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "duration",
        "date-time",
    ];
    let formats = formats.map(|format| json!({"type": "string", "format": format}));
    let others = [
        json!({"type": "string", "format": "date-time",
               "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$"}),
        json!({"type": "string", "pattern": r"^\d+kg$", "minLength": 12}),
        json!({"type": "array", "items": {"type": "string", "pattern": "^[0-9]+x$"}, "minItems": 2}),
        json!({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2}}),
    ];
    for schema in patterns.iter().chain(&formats).chain(&others) {
        for most in [80, 200] {
            values(schema, true, most);
        }
    }
}

#[test]
fn what_nests_as_deep_as_it_likes_is_whole_when_the_tokens_run_out() {
    let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
    let reference = json!({"$ref": "#/$defs/N"});
    for beside in [
        json!({}),
        json!({"required": ["m"]}),
        json!({"type": "object"}),
    ] {
        let mut next = reference.clone();
        for (key, value) in beside.as_object().expect("an object") {
            next[key] = value.clone();
        }
        let node = json!({
            "type": "object", "properties": {"number": digit, "m": digit, "the next one of them": next},
            "required": ["number"], "additionalProperties": false,
        });
        let list = json!({"type": "array", "items": {"anyOf": [node, {"type": "array", "items": reference}]}});
        let is_object = beside.get("type").is_some();
        let definitions = [Some(node), Some(list).filter(|_| !is_object)];
        for definition in definitions.into_iter().flatten() {
            let schema = json!({"$ref": "#/$defs/N", "$defs": {"N": definition}});
            for most in [50, 80, 120] {
                values(&schema, false, most);
            }
        }
    }
}

#[test]
fn what_may_be_anything_is_whole_and_has_numbers_that_doubles_hold() {
    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Number(number) => vec![number.as_f64().expect("a double")],
            Value::Array(items) => items.iter().flat_map(numbers).collect(),
            Value::Object(members) => members.values().flat_map(numbers).collect(),
            _ => Vec::new(),
        }
    }
    for schema in [
        json!({}),
        json!({"minimum": 0}),
        json!({"type": "array", "minItems": 1}),
        json!({"type": "object", "minProperties": 1}),
        json!({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}),
        json!({"type": "object", "required": ["a"]}),
    ] {
        for most in [60, 120] {
            let found = values(&schema, false, most);
            let found: Vec<f64> = found.iter().flat_map(numbers).collect();
            assert!(
                found.iter().all(|number| number.abs() < 1e15),
                "{found:?} of {schema}"
            );
        }
    }
}

#[test]
fn an_excluded_bound_never_comes() {
    for (schema, fits) in [
        (
            json!({"type": "number", "exclusiveMinimum": 10, "maximum": 10.5}),
            (|value| value > 10.0 && value <= 10.5) as fn(f64) -> bool,
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}),
            |value| value > 0.0 && value < 0.5,
        ),
        (
            json!({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}),
            |value| (-0.5..0.0).contains(&value),
        ),
    ] {
        for strict in [true, false] {
            for most in [16, 40, 80] {
                for value in values(&schema, strict, most) {
                    assert!(value.as_f64().is_some_and(fits), "{value} of {schema}");
                }
            }
        }
    }
}

#[test]
fn numbers_that_no_double_is_come_as_they_are() {
    for (schema, allowed) in [
        (
            json!({"const": 1_234_567_890_123_456_789_u64}),
            vec!["1234567890123456789"],
        ),
        (
            json!({"enum": [9_007_199_254_740_993_u64]}),
            vec!["9007199254740993"],
        ),
        (json!({"const": u64::MAX}), vec!["18446744073709551615"]),
        (json!({"const": i64::MIN}), vec!["-9223372036854775808"]),
        (
            json!({"type": "integer", "enum": [1, 1_000_000_000_000_001_u64, i64::MAX]}),
            vec!["1", "1000000000000001", "9223372036854775807"],
        ),
        (
            json!({"type": ["integer", "null"], "enum": [9_007_199_254_740_993_u64, null]}),
            vec!["9007199254740993", "null"],
        ),
        (
            json!({"type": "string", "enum": [9_007_199_254_740_993_u64, "a"], "maxLength": 3}),
            vec!["\"a\""],
        ),
        (
            json!({"type": "integer", "enum": [3, u64::MAX], "minimum": 4}),
            vec!["18446744073709551615"],
        ),
        (
            json!({"anyOf": [{"const": u64::MAX, "title": "all"}, {"const": 1}], "type": "integer"}),
            vec!["18446744073709551615", "1"],
        ),
        (
            json!({"const": [1, {"a": u64::MAX}]}),
            vec![r#"[1,{"a":18446744073709551615}]"#],
        ),
        (
            json!({"type": "array", "items": {"const": u64::MAX}, "minItems": 1, "maxItems": 2}),
            vec![
                "[18446744073709551615]",
                "[18446744073709551615,18446744073709551615]",
            ],
        ),
        (
            json!({"type": ["object", "null"], "properties": {"a": {"const": u64::MAX}, "b": {"enum": [1]}}}),
            vec![
                "null",
                "{}",
                r#"{"a":18446744073709551615}"#,
                r#"{"b":1}"#,
                r#"{"a":18446744073709551615,"b":1}"#,
            ],
        ),
        (
            json!({"anyOf": [{"$ref": "#/$defs/big"}, {"type": "null"}], "$defs": {"big": {"const": u64::MAX}}}),
            vec!["18446744073709551615", "null"],
        ),
    ] {
        for value in values(&schema, false, 120) {
            assert!(
                allowed.contains(&&*value.to_string()),
                "{value} of {schema}"
            );
        }
    }
}

#[test]
fn a_number_that_cannot_come_exactly_is_refused_at_its_place() {
    let big = json!({"const": u64::MAX});
    for (schema, place) in [
        (
            json!({"properties": {"a": {"const": 1e20}}}),
            ".properties.a.const",
        ),
        (
            json!({"properties": {"a": {"enum": [1, 1e17]}}}),
            ".properties.a.enum",
        ),
        (
            json!({"properties": {"a": big}, "patternProperties": {"^b": {}}}),
            ".properties.a.const",
        ),
        (json!({"items": {"minimum": 1e30}}), ".items.minimum"),
    ] {
        let refused = Schema::new(schema.clone(), false).expect_err("refused");
        assert_eq!(refused.path, place, "{schema}");
    }
}

#[test]
fn numbers_have_as_many_digits_as_mean_anything_whatever_they_are_called() {
    for name in [
        "default",
        "const",
        "enum",
        "examples",
        "properties",
        "$ref",
        "type",
        "required",
        "not",
    ] {
        for kind in ["integer", "number"] {
            let inner = json!({
                "type": "object", "properties": {name: {"type": kind}}, "required": [name],
                "additionalProperties": false,
            });
            let outer = json!({
                "type": "object", "properties": {name: inner}, "required": [name],
                "additionalProperties": false,
            });
            for value in values(&outer, true, 200) {
                let number = value[name][name].as_f64().expect("a number");
                assert!(number.abs() <= 9_007_199_254_740_992.0, "{value}");
            }
        }
    }
    for (schema, least, most) in [
        (
            json!({"type": "integer", "exclusiveMaximum": false}),
            -1e15,
            1e15,
        ),
        (
            json!({"type": "integer", "minimum": 1e15, "maximum": 9_999_999_999_999_999_u64}),
            1e15,
            9_999_999_999_999_998.0,
        ),
        (
            json!({"type": "integer", "minimum": 9_007_199_254_740_993_u64}),
            9_007_199_254_740_994.0,
            9.3e18,
        ),
        (
            json!({"minimum": 3, "type": ["integer", "null"]}),
            3.0,
            1e15,
        ),
    ] {
        for value in values(&schema, false, 200) {
            assert!(
                value
                    .as_f64()
                    .is_none_or(|value| (least..=most).contains(&value)),
                "{value} of {schema}"
            );
        }
    }
}

#[test]
fn what_stands_beside_a_reference_in_a_circle_is_followed_or_says_nothing() {
    let beside = [
        json!({"nullable": true}),
        json!({"deprecated": true, "x-order": 3, "$comment": "none", "readOnly": true}),
        json!({"type": "object"}),
        json!({"type": ["object", "null"]}),
        json!({"minProperties": 1}),
    ];
    for beside in beside {
        for form in ["plain", "allOf", "typed"] {
            let mut reference = json!({"$ref": "#/$defs/Node"});
            if form == "allOf" {
                reference = json!({"allOf": [reference]});
            }
            for (key, value) in beside.as_object().expect("an object") {
                reference[key] = value.clone();
            }
            let mut next = json!({"anyOf": [reference, {"type": "null"}]});
            if form == "typed" {
                next["type"] = json!(["object", "null"]);
            }
            let node = json!({
                "type": "object", "properties": {"name": {"enum": ["x", "y"]}, "next": next},
                "required": ["name", "next"], "additionalProperties": false,
            });
            let schema = json!({"$ref": "#/$defs/Node", "$defs": {"Node": node}});
            for value in values(&schema, false, 200) {
                assert!(
                    ["x", "y"].contains(&value["name"].as_str().expect("a name")),
                    "{value}"
                );
            }
        }
    }
}

#[test]
fn what_patterns_and_names_say_holds_as_far_as_it_can_be_followed() {
    let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
    let is_digit = |value: &Value| value.as_u64().is_some_and(|value| value < 10);
    for patterns in [
        json!({"^a": digit, "b$": digit}),
        json!({"^a": {}, "^ab": digit, "c": digit}),
    ] {
        let schema = json!({
            "type": "object", "patternProperties": patterns, "properties": {"xb": digit},
            "maxProperties": 1,
        });
        for value in values(&schema, false, 200) {
            for (name, value) in value.as_object().expect("an object") {
                assert!(is_digit(value), "{name}: {value} of {schema}");
            }
        }
    }
    for (names, fits) in [
        (
            json!({"enum": ["p", "q"]}),
            (|name| ["p", "q"].contains(&name)) as fn(&str) -> bool,
        ),
        (json!({"pattern": "^[a-c]{2}$"}), |name| {
            name.len() == 2 && name.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
        }),
        (json!({"maxLength": 3}), |name| name.chars().count() <= 3),
    ] {
        let schema = json!({
            "type": "object", "propertyNames": names, "additionalProperties": digit,
            "minProperties": 1, "maxProperties": 2,
        });
        for value in values(&schema, false, 200) {
            for (name, value) in value.as_object().expect("an object") {
                assert!(fits(name) && is_digit(value), "{name}: {value} of {schema}");
            }
        }
    }
    let digits = json!({"a": digit, "b": digit, "c": digit});
    for (counts, closed) in [
        (json!({"minProperties": 2}), true),
        (json!({"minProperties": 1, "maxProperties": 2}), true),
        (json!({"maxProperties": 1}), false),
        (json!({"minProperties": 4, "maxProperties": 4}), false),
        (
            json!({"minProperties": 2, "maxProperties": 2, "required": ["c"]}),
            false,
        ),
    ] {
        let mut schema = json!({"type": "object", "properties": digits});
        let others = if closed { json!(false) } else { digit.clone() };
        schema["additionalProperties"] = others;
        for (key, value) in counts.as_object().expect("an object") {
            schema[key] = value.clone();
        }
        for value in values(&schema, false, 200) {
            let count = value.as_object().expect("an object").len();
            let bound = |key: &str, default| {
                counts[key]
                    .as_u64()
                    .map_or(default, |bound| usize::try_from(bound).expect("small"))
            };
            assert!(
                (bound("minProperties", 0)..=bound("maxProperties", 9)).contains(&count),
                "{value} of {schema}"
            );
        }
    }
    // Not strict, what no automaton follows is left out of account.
    for pattern in [
        "^(?=a)b",
        "(?<!a)b",
        r"^\bab\b$",
        r"(a)\1",
        r"\p{Emoji_Component}",
        "a^b",
    ] {
        let schema = json!({"type": "string", "pattern": pattern, "maxLength": 9});
        assert!(values(&schema, false, 60).iter().all(Value::is_string));
    }
    let no_pattern = json!({"type": "string", "pattern": "^("});
    assert!(Schema::new(no_pattern, false).is_err());
    for (pattern, allowed) in [
        ("^[a&&b]$", "a&b"),
        ("^[[a]$", "[a"),
        (r"^[\]x]$", "]x"),
        ("^[~~|]$", "~|"),
    ] {
        for value in values(&json!({"type": "string", "pattern": pattern}), true, 60) {
            assert!(
                allowed.contains(value.as_str().expect("a text")),
                "{value} of {pattern}"
            );
        }
    }
}

#[test]
fn a_duration_has_six_digits_in_a_row_at_most() {
    for value in values(&json!({"type": "string", "format": "duration"}), true, 200) {
        let text = value.as_str().expect("a text");
        let longest = text
            .split(|letter: char| !letter.is_ascii_digit())
            .map(str::len)
            .max();
        assert!(longest.is_some_and(|longest| longest <= 6), "{text}");
    }
}

#[test]
fn any_object_is_whole_when_the_tokens_run_out() {
    let (tokenizer, grammars) = grammars();
    for seed in 0..20 {
        let text = answer(&tokenizer, &grammars, &Schema::object(), seed, 60);
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error} of seed {seed}: {text}"));
        assert!(value.is_object());
    }
}

#[test]
fn a_schema_that_nothing_fits_is_refused_in_words() {
    let (_, grammars) = grammars();
    let impossible = json!({"type": "integer", "minimum": 3, "maximum": 2});
    let schema = Schema::new(impossible, false).expect("well formed");
    let error = constraint_of(&grammars, &Grammar::schema(&schema));
    assert!(
        error
            .expect_err("nothing fits")
            .to_string()
            .contains("minimum")
    );
}

#[test]
fn a_schema_without_end_is_refused_before_it_is_compiled() {
    let (_, grammars) = grammars();
    let values: Vec<String> = (0..1000).map(|value| format!("{value:0600}")).collect();
    let schema = Schema::new(json!({"enum": values}), false).expect("well formed");
    let error = constraint_of(&grammars, &Grammar::schema(&schema));
    let message = error.expect_err("600 KB").to_string();
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn calls_can_be_followed_in_every_format_one_or_several_of_them() {
    let (tokenizer, grammars) = grammars();
    let function = CallableFunction {
        name: "f".to_owned(),
        arguments: Schema::object(),
    };
    for format in [
        ToolFormat::Hermes,
        ToolFormat::Llama,
        ToolFormat::Mistral,
        ToolFormat::MistralNamed,
    ] {
        for several in [false, true] {
            let grammar = calls(
                format,
                std::slice::from_ref(&function),
                several,
                None,
                &*tokenizer,
            );
            let constraint = constraint_of(&grammars, &grammar);
            assert!(
                constraint.is_ok(),
                "{format:?}, several: {several}: {:?}",
                constraint.err()
            );
        }
    }
}
