//! Values without a bound of their own get one, so that an answer ends.

use serde_json::{Map, Value};

pub(super) const HIGHEST_NUMBER: i64 = 999_999_999_999_999;

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
pub(super) fn bound(schema: &mut Value) {
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
            if has_numbers(object) {
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

/// Whether an instance may be a number, of which something is said.
pub(super) fn has_numbers(object: &Map<String, Value>) -> bool {
    let is_number = |kind: &Value| kind == "number" || kind == "integer";
    match object.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is_number),
        Some(kind) => is_number(kind),
        None => false,
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
