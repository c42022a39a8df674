//! The description holds together, and what it says of numbers is what requests are checked with.

use std::collections::HashSet;

use serde_json::Value;

use super::*;
use crate::routes::fuzzing::READERS;

/// Every `$ref` below `value`.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    let mut found = Vec::new();
    references(&DOCUMENT, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
    }
    let found: HashSet<&str> = found.into_iter().collect();
    for part in ["schemas", "responses"] {
        let components = DOCUMENT["components"][part].as_object().expect("an object");
        for name in components.keys() {
            let reference = format!("#/components/{part}/{name}");
            assert!(found.contains(reference.as_str()), "{name} is of no use");
        }
    }
}

#[test]
fn no_two_types_have_the_same_name() {
    let [read, written] = routes().into_definitions();
    for (name, schema) in &read {
        assert!(
            written.get(name).is_none_or(|other| other == schema),
            "{name}"
        );
    }
    // The library tells two types of one name apart by a number.
    for name in read.keys().chain(written.keys()) {
        assert!(!name.ends_with(char::is_numeric), "{name}");
    }
}

#[test]
fn operations_have_names_of_their_own_and_an_answer() {
    let mut ids = HashSet::new();
    for (path, operations) in DOCUMENT["paths"].as_object().expect("an object") {
        for (method, operation) in operations.as_object().expect("an object") {
            assert!(ids.insert(&operation["operationId"]), "{method} {path}");
            let responses = operation["responses"].as_object().expect("an object");
            assert!(!responses.is_empty(), "{method} {path}");
        }
    }
}

/// Bodies that lack nothing, and what some parameters need beside them.
const BODIES: [(&str, &str); 6] = [
    (
        "/v1/chat/completions",
        r#"{"messages": [{"role": "user", "content": "a"}], "logprobs": true}"#,
    ),
    ("/v1/completions", r#"{"prompt": "a"}"#),
    ("/v1/embeddings", r#"{"input": "a"}"#),
    ("/v1/responses", r#"{"input": "a"}"#),
    ("/tokenize", r#"{"prompt": "a"}"#),
    ("/detokenize", r#"{"tokens": []}"#),
];

/// Whether this value is taken for a parameter.
fn takes(path: &str, name: &str, value: &Value) -> bool {
    let [(_, body)] = BODIES
        .iter()
        .filter(|(known, _)| *known == path)
        .collect::<Vec<_>>()[..]
    else {
        panic!("{path} has no body here");
    };
    let mut body: Value = serde_json::from_str(body).expect("JSON");
    body[name] = value.clone();
    if name == "best_of" {
        body["n"] = value.clone();
    }
    let readers = READERS.iter().filter(|(known, _)| *known == path);
    let [(_, read)] = readers.collect::<Vec<_>>()[..] else {
        panic!("nothing reads {path}");
    };
    read(body.to_string().as_bytes()).is_ok()
}

#[test]
fn bounds_and_names_that_are_described_are_those_that_are_checked() {
    let mut checked = 0;
    for (path, _) in READERS {
        for (name, schema) in parameters(path).expect("described") {
            let mut expect = |value: Value, taken: bool| {
                assert_eq!(takes(path, name, &value), taken, "{path}: {name} {value}");
                checked += 1;
            };
            let whole = schema["format"] == "int64";
            let beyond = |bound: &Value, step: i32| match bound.as_i64() {
                // Beyond these nothing is an integer to whoever reads it.
                Some(bound) if whole => bound.checked_add(step.into()).map(Value::from),
                _ => bound.as_f64().map(|bound| json!(bound + f64::from(step))),
            };
            for (key, step) in [("minimum", -1), ("maximum", 1)] {
                if let Some(bound) = schema.get(key) {
                    expect(bound.clone(), true);
                    if let Some(value) = beyond(bound, step) {
                        expect(value, false);
                    }
                }
            }
            if let Some(known) = schema.get("enum").and_then(Value::as_array) {
                for value in known {
                    expect(value.clone(), true);
                }
                let text = known.iter().any(Value::is_string);
                expect(if text { json!("other") } else { json!(true) }, false);
            }
            if schema["type"] == "null" {
                expect(Value::Null, true);
                expect(json!({}), false);
            }
        }
    }
    assert!(checked > 150, "{checked}");
}
