//! The description holds together, and what it says of numbers is what requests are checked with.

use std::collections::HashSet;

use serde_json::Value;

use super::*;

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
    let mut routes = routes();
    failures(&mut routes.schemas);
    let [read, written] = routes.schemas.into_definitions();
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
