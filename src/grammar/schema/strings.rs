//! Strings: formats that end, and patterns in llguidance's syntax.

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::path::{SchemaPath, schema_error};
use super::pattern::{Pattern, UnsupportedPattern};

/// A date with February 29 in leap years alone; llguidance knows the length of the other months.
macro_rules! date {
    () => {
        "([1-9][0-9]{3}-([0-9]{2}-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|3[01]))\
         |([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
    };
}

macro_rules! time {
    () => {
        r"[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
    };
}

/// Formats narrowed to what clients' parsers accept: capital letters, nanoseconds at most, days that exist,
/// neither the year 0 nor leap seconds, and at most six digits for each part of a duration.
const NARROWED_FORMATS: [(&str, &str); 4] = [
    ("date", concat!("^", date!(), "$")),
    ("date-time", concat!("^", date!(), "T", time!(), "$")),
    ("time", concat!("^", time!(), "$")),
    ("duration", "^P(T?[0-9]{1,6}[YMWDHS])+$"),
];
/// The formats that llguidance knows.
const KNOWN_FORMATS: [&str; 11] = [
    "date",
    "date-time",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];

/// Writes `pattern` and `format` so that llguidance takes them; what it cannot follow is left out, or
/// refused where the schema is `strict`.
pub(super) fn lower(
    object: &mut Map<String, Value>,
    strict: bool,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    let pattern = object.shift_remove("pattern");
    if let Some(pattern) = pattern.as_ref().and_then(Value::as_str) {
        match Pattern::new(pattern) {
            Ok(pattern) => {
                object.insert("pattern".to_owned(), pattern.in_rust().into());
            }
            // No reader of the schema takes it, so there is nothing to leave out.
            Err(unsupported) if unsupported.is_malformed => {
                return Err(malformed(&path.under("pattern"), &unsupported));
            }
            Err(unsupported) if strict => {
                let why = format!("cannot be followed: it has {}", unsupported.what);
                return Err(schema_error(&path.under("pattern"), why));
            }
            Err(_) => {}
        }
    }
    let format = object.shift_remove("format");
    if let Some(format) = format.as_ref().and_then(Value::as_str) {
        if KNOWN_FORMATS.contains(&format) {
            object.insert("format".to_owned(), format.into());
        } else if strict {
            let why = format!(
                "must be one of {}: another cannot be followed",
                KNOWN_FORMATS[..KNOWN_FORMATS.len() - 1].join(", ")
            );
            return Err(schema_error(&path.under("format"), why));
        }
        hold(object, format);
    }
    Ok(())
}

/// Refuses a pattern that is malformed.
pub(super) fn malformed(path: &SchemaPath, unsupported: &UnsupportedPattern) -> SchemaError {
    let why = format!(
        "is no regular expression of ECMA-262: it has {}",
        unsupported.what
    );
    schema_error(path, why)
}

/// Bounds strings that could go on for ever.
fn hold(object: &mut Map<String, Value>, format: &str) {
    let held = NARROWED_FORMATS.iter().find(|(name, _)| *name == format);
    let Some((_, held)) = held else {
        return;
    };
    if !object.contains_key("pattern") {
        object.insert("pattern".to_owned(), (*held).into());
        return;
    }
    // A schema has one pattern, so the other stands beside it.
    let mut beside = json!({"pattern": held});
    if let Some(kind) = object.get("type") {
        beside["type"] = kind.clone();
    }
    let all = object.entry("allOf").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.push(beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(schema: Value, strict: bool) -> Result<Value, SchemaError> {
        let mut schema = schema;
        lower(
            schema.as_object_mut().expect("an object"),
            strict,
            &SchemaPath::ROOT,
        )?;
        Ok(schema)
    }

    #[test]
    fn what_cannot_be_followed_is_left_out_or_named() {
        let ahead = json!({"type": "string", "pattern": "^(?=a)", "format": "binary"});
        assert_eq!(lowered(ahead.clone(), false), Ok(json!({"type": "string"})));
        let refused = lowered(ahead, true).expect_err("strict");
        assert_eq!(refused.path, ".pattern");
        assert!(refused.why.contains("look-ahead"), "{refused}");
        let format = json!({"type": "string", "format": "binary"});
        assert_eq!(lowered(format, true).expect_err("strict").path, ".format");
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_and_without_strict() {
        for strict in [false, true] {
            let twice = json!({"type": "string", "pattern": "^a{2}{3}$"});
            let refused = lowered(twice, strict).expect_err("a syntax error");
            assert_eq!(refused.path, ".pattern");
            assert!(refused.why.contains("repeated twice"), "{refused}");
        }
    }

    #[test]
    fn a_time_ends_also_where_it_has_a_pattern_of_its_own() {
        let time = json!({"type": "string", "format": "time", "pattern": r"^\d\d:.*Z$"});
        let lowered = lowered(time, true).expect("sound");
        assert_eq!(lowered["allOf"][0]["type"], "string");
        assert!(
            lowered["pattern"]
                .as_str()
                .is_some_and(|pattern| pattern.contains("[0-9]"))
        );
    }
}
