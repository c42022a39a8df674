//! Numbers: none has so many digits that it says nothing, and those that are prescribed come exactly.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

use super::SchemaError;
use super::path::{SchemaPath, schema_error};
use super::types::listed;
use crate::decimal::Decimal;

/// What a double has exactly with any digits in front: numbers without bounds of their own stay below.
pub(super) const HIGHEST_NUMBER: i64 = 999_999_999_999_999;
/// Whole numbers up to here are doubles.
const EXACT: u64 = 1 << 53;
/// Where a number has to be higher than that, it stays below the next of these: all whole doubles, and
/// the highest that 64 bits have.
const HIGHER: [i64; 2] = [1 << 53, i64::MAX - 1023];

/// How far numbers keep off a bound that is excluded, in decimal places.
const MARGIN_PLACES: i32 = 9;

const LOWER_BOUNDS: [&str; 2] = ["minimum", "exclusiveMinimum"];
const UPPER_BOUNDS: [&str; 2] = ["maximum", "exclusiveMaximum"];

/// Whether an instance may be a number, of which something is said.
pub(super) fn has_numbers(object: &Map<String, Value>) -> bool {
    let is_number = |kind: &Value| kind == "number" || kind == "integer";
    match object.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is_number),
        Some(kind) => is_number(kind),
        None => {
            let keys = LOWER_BOUNDS
                .into_iter()
                .chain(UPPER_BOUNDS)
                .chain(["multipleOf"]);
            keys.into_iter().any(|key| object.contains_key(key))
        }
    }
}

/// Writes bounds with a yes or no, as draft 4 has them, as later drafts do.
pub(super) fn exclusive_bounds(object: &mut Map<String, Value>) {
    for (inclusive, exclusive) in [
        (LOWER_BOUNDS[0], LOWER_BOUNDS[1]),
        (UPPER_BOUNDS[0], UPPER_BOUNDS[1]),
    ] {
        if let Some(Value::Bool(is_exclusive)) = object.get(exclusive) {
            let is_exclusive = *is_exclusive;
            object.shift_remove(exclusive);
            if is_exclusive && let Some(bound) = object.shift_remove(inclusive) {
                object.insert(exclusive.to_owned(), bound);
            }
        }
    }
}

/// Holds numbers on both sides of 0. Also writes bounds as llguidance reads them, as doubles.
pub(super) fn hold(object: &mut Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
    exclusive_bounds(object);
    if !has_numbers(object) {
        return Ok(());
    }
    let least = round_inwards(object, LOWER_BOUNDS, true);
    let most = round_inwards(object, UPPER_BOUNDS, false);
    if let (Some(least), Some(most)) = (&least, &most)
        && least.given <= most.given
        && least.held > most.held
    {
        let why = "leaves no number: bounds beyond 2^53 are rounded inwards to what a double has";
        return Err(schema_error(&path.under(least.key), why));
    }
    hold_side(
        object,
        LOWER_BOUNDS,
        UPPER_BOUNDS,
        -1,
        most.map(|bound| bound.key),
        path,
    )?;
    hold_side(
        object,
        UPPER_BOUNDS,
        LOWER_BOUNDS,
        1,
        least.map(|bound| bound.key),
        path,
    )?;
    if may_have_fractions(object) {
        keep_off(object, LOWER_BOUNDS, UPPER_BOUNDS, path)?;
        keep_off(object, UPPER_BOUNDS, LOWER_BOUNDS, path)?;
    }
    Ok(())
}

fn may_have_fractions(object: &Map<String, Value>) -> bool {
    let kinds = object.get("type");
    kinds.is_none_or(|kinds| listed(kinds).any(|kind| kind == "number"))
}

/// Replaces an excluded bound by one that is within it by a margin, if it is the bound nearer to 0.
///
/// llguidance would give out the excluded bound itself where it is whole and the other bound begins with
/// the same digits before the point, be that one beside it or come by `allOf`: `json/numeric.rs` takes the
/// fraction for optional there. Of the bound farther from 0 it does not, and a margin would keep 0.9 from
/// numbers below 1: it takes the first digits of 0.999999999 only with all of them.
fn keep_off(
    object: &mut Map<String, Value>,
    [inclusive, exclusive]: [&str; 2],
    others: [&str; 2],
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    let sign = if inclusive == LOWER_BOUNDS[0] {
        1.0
    } else {
        -1.0
    };
    let number = |key: &str| object.get(key).and_then(Value::as_f64);
    let Some(bound) = number(exclusive).filter(|bound| bound * sign >= 0.0) else {
        return Ok(());
    };
    // As if the bound was the lower one.
    let gaps = others.iter().filter_map(|key| number(key));
    let gap = gaps.map(|other| (other - bound) * sign);
    let gap = gap.fold(f64::INFINITY, f64::min);
    // Nothing fits, which llguidance says.
    if gap <= 0.0 {
        return Ok(());
    }
    let within = margin(bound, sign, gap, number("multipleOf"));
    if (within - bound) * sign >= gap {
        let why =
            "leaves no number between it and the other bound that a double could tell from them";
        return Err(schema_error(&path.under(exclusive), why));
    }
    if number(inclusive).is_none_or(|other| (within - other) * sign > 0.0) {
        object.insert(inclusive.to_owned(), within.into());
    }
    object.shift_remove(exclusive);
    Ok(())
}

/// The number nearest to `bound` that may come: off by 10^-9 in the direction of `sign`, or by less where
/// the other bound or the first multiple would be too near.
#[allow(clippy::cast_possible_truncation)] // the logarithm of a double is small
fn margin(bound: f64, sign: f64, gap: f64, divisor: Option<f64>) -> f64 {
    let exponent = |number: f64| number.log10().floor() as i32;
    let places = MARGIN_PLACES
        .max(3 - exponent(gap.min(1.0)))
        .max(divisor.map_or(0, |divisor| 2 - exponent(divisor)));
    let rough = bound + sign * 10_f64.powi(-places);
    // As few digits as it takes: each is a part of a pattern.
    let short = format!("{rough:.*}", usize::try_from(places).unwrap_or(0));
    let short = short.parse().unwrap_or(rough);
    if (short - bound) * sign > 0.0 {
        short
    } else if sign > 0.0 {
        bound.next_up()
    } else {
        bound.next_down()
    }
}

/// A bound at or beyond 2^53, which llguidance is given as an inclusive one.
struct FarBound {
    /// Where it was written.
    key: &'static str,
    given: i128,
    held: f64,
}

/// Writes the bounds of one side that are at or beyond 2^53 as a single inclusive one that is a double.
/// Returns it, if there is one.
///
/// llguidance adds 1 to an excluded bound of whole numbers, or takes 1 from it. To a double beyond 2^53
/// that may do nothing, and the excluded number would come.
fn round_inwards(
    object: &mut Map<String, Value>,
    [inclusive, exclusive]: [&'static str; 2],
    up: bool,
) -> Option<FarBound> {
    let far = |key| {
        let given = object.get(key).and_then(far_bound)?;
        let held = double_within(given, up, key == exclusive);
        Some(FarBound { key, given, held })
    };
    let is_tighter = |one: f64, other: f64| if up { one > other } else { one < other };
    let (included, excluded) = (far(inclusive), far(exclusive));
    if let Some(included) = &included {
        object.insert(inclusive.to_owned(), included.held.into());
    }
    let Some(excluded) = excluded else {
        return included;
    };
    object.shift_remove(exclusive);
    let other = object.get(inclusive).and_then(Value::as_f64);
    if other.is_some_and(|other| !is_tighter(excluded.held, other)) {
        return included;
    }
    object.insert(inclusive.to_owned(), excluded.held.into());
    Some(excluded)
}

/// A bound at or beyond 2^53, exactly: all of them are whole.
fn far_bound(bound: &Value) -> Option<i128> {
    let double = || bound.as_f64().filter(|double| double.fract() == 0.0);
    let exactly = whole(bound).or_else(|| double().map(exact))?;
    (exactly.unsigned_abs() >= u128::from(EXACT)).then_some(exactly)
}

/// The double nearest to a bound that may come.
#[allow(clippy::cast_precision_loss)] // it is made up for
fn double_within(bound: i128, up: bool, is_excluded: bool) -> f64 {
    let near = bound as f64;
    let order = exact(near).cmp(&bound);
    let is_within = match order {
        Ordering::Less => !up,
        Ordering::Equal => !is_excluded,
        Ordering::Greater => up,
    };
    match (is_within, up) {
        (true, _) => near,
        (false, true) => near.next_up(),
        (false, false) => near.next_down(),
    }
}

/// A whole double. One of more than 127 bits stays beyond all that numbers are held to.
#[allow(clippy::cast_possible_truncation)] // it has no fraction, and a larger one saturates
fn exact(double: f64) -> i128 {
    double as i128
}

/// Holds a number on one side of 0, `sign`'s, where `bounds` hold it no nearer: those of 64 bits do
/// not. One that has to be beyond, by `others`, is held by the next limit; `written` is the key that the
/// client wrote of them, if it is another now.
#[allow(clippy::cast_precision_loss)] // doubles have these exactly
fn hold_side(
    object: &mut Map<String, Value>,
    bounds: [&str; 2],
    others: [&str; 2],
    sign: i64,
    written: Option<&str>,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    let beyond = |value: &Value, end: i64| {
        let value = value.as_f64();
        value.is_some_and(|value| value * sign as f64 >= end as f64)
    };
    let has_to_be_beyond = |end: i64| {
        others
            .iter()
            .find(|key| object.get(**key).is_some_and(|value| beyond(value, end)))
    };
    let ends = [HIGHEST_NUMBER, HIGHER[0], HIGHER[1]];
    let Some(end) = ends
        .into_iter()
        .find(|end| has_to_be_beyond(*end).is_none())
    else {
        let key = has_to_be_beyond(HIGHER[1]).unwrap_or(&others[0]);
        let key = written.unwrap_or(key);
        let why = "must be within 64 bits";
        return Err(schema_error(&path.under(key), why));
    };
    for key in bounds {
        // An excluded end is a bound of its own: the end that would take its place is included.
        let is_end =
            |value: &Value| key == bounds[1] && value.as_f64() == Some((sign * end) as f64);
        let is_beyond = |value: &Value| beyond(value, end) && !is_end(value);
        if object.get(key).is_some_and(is_beyond) {
            object.shift_remove(key);
        }
    }
    if !bounds.iter().any(|key| object.contains_key(*key)) {
        object.insert(bounds[0].to_owned(), (sign * end).into());
    }
    Ok(())
}

/// A number as a whole one, if it is written as one.
pub(super) fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

/// Whether a prescribed value is, or has within it, a number that no double is.
pub(super) fn needs_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => is_beyond_doubles(number),
        Value::Array(items) => items.iter().any(needs_exact),
        Value::Object(members) => members.values().any(needs_exact),
        _ => false,
    }
}

fn is_beyond_doubles(number: &Number) -> bool {
    let whole = number
        .as_i64()
        .map(i64::unsigned_abs)
        .or_else(|| number.as_u64());
    match whole {
        Some(whole) => whole > EXACT,
        None => false,
    }
}

/// Whether all numbers of a prescribed value are known exactly: what is beyond 64 bits was rounded when it
/// was read.
#[allow(clippy::cast_precision_loss)] // a double has it exactly
pub(super) fn is_known(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let is_whole = number.is_i64() || number.is_u64();
            is_whole
                || number
                    .as_f64()
                    .is_some_and(|double| double.abs() < EXACT as f64)
        }
        Value::Array(items) => items.iter().all(is_known),
        Value::Object(members) => members.values().all(is_known),
        _ => true,
    }
}

/// Whether a prescribed number is within the bounds that stand beside it.
pub(super) fn is_within(value: &Value, object: &Map<String, Value>) -> bool {
    let holds = |key: &str, holds: fn(Ordering) -> bool| {
        let order = object.get(key).and_then(|bound| compare(value, bound));
        order.is_none_or(holds)
    };
    !value.is_number()
        || holds("minimum", Ordering::is_ge)
            && holds("exclusiveMinimum", Ordering::is_gt)
            && holds("maximum", Ordering::is_le)
            && holds("exclusiveMaximum", Ordering::is_lt)
            && is_multiple(value, object.get("multipleOf"))
}

/// By their digits: to a double 0.3 is no multiple of 0.1.
fn is_multiple(value: &Value, divisor: Option<&Value>) -> bool {
    let decimal = |value: &Value| Decimal::parse(&value.as_number()?.to_string());
    let fits = divisor.and_then(|divisor| decimal(value)?.is_multiple_of(&decimal(divisor)?));
    fits.unwrap_or(true)
}

fn compare(value: &Value, bound: &Value) -> Option<Ordering> {
    match (whole(value), whole(bound)) {
        (Some(value), Some(bound)) => Some(value.cmp(&bound)),
        _ => value.as_f64()?.partial_cmp(&bound.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(mut schema: Value) -> Value {
        let object = schema.as_object_mut().expect("an object");
        hold(object, &SchemaPath::ROOT).expect("within 64 bits");
        schema
    }

    fn bounds(schema: Value) -> Value {
        let held = held(schema);
        json!([held["minimum"], held["maximum"]])
    }

    #[test]
    fn numbers_are_held_on_both_sides() {
        for (mut given, expected) in [
            (json!({}), json!([-HIGHEST_NUMBER, HIGHEST_NUMBER])),
            (json!({"minimum": 0}), json!([0, HIGHEST_NUMBER])),
            (
                json!({"minimum": i64::MIN, "maximum": i64::MAX}),
                json!([-HIGHEST_NUMBER, HIGHEST_NUMBER]),
            ),
            (json!({"maximum": 5.5}), json!([-HIGHEST_NUMBER, 5.5])),
            (json!({"maximum": -1}), json!([-HIGHEST_NUMBER, -1])),
            (
                json!({"exclusiveMaximum": false}),
                json!([-HIGHEST_NUMBER, HIGHEST_NUMBER]),
            ),
            (
                json!({"minimum": 1_000_000_000_000_000_u64}),
                json!([1_000_000_000_000_000_u64, 1_u64 << 53]),
            ),
            (json!({"minimum": 1e18}), json!([1e18, i64::MAX - 1023])),
        ] {
            given["type"] = json!("integer");
            assert_eq!(bounds(given.clone()), expected, "{given}");
        }
        let above = held(json!({"type": "number", "exclusiveMinimum": 0}));
        assert_eq!(
            (&above["minimum"], &above["maximum"]),
            (&json!(1e-9), &json!(HIGHEST_NUMBER))
        );
        assert_eq!(held(json!({"minimum": 0}))["maximum"], HIGHEST_NUMBER);
        assert_eq!(held(json!({"type": "string"})), json!({"type": "string"}));
    }

    #[test]
    fn bounds_of_draft_4_become_those_of_later_ones() {
        let given = json!({"type": "integer", "minimum": 0, "exclusiveMinimum": true, "maximum": 9,
                           "exclusiveMaximum": true});
        let expected = json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9});
        assert_eq!(held(given), expected);
    }

    #[test]
    fn bounds_that_are_no_doubles_are_rounded_inwards() {
        let given = json!({"type": "integer", "minimum": 9_007_199_254_740_993_u64,
                           "maximum": 9_999_999_999_999_999_u64});
        assert_eq!(
            bounds(given),
            json!([9_007_199_254_740_994.0, 9_999_999_999_999_998.0])
        );
        let mut beyond = json!({"type": "number", "minimum": 1e20});
        let refused = hold(
            beyond.as_object_mut().expect("an object"),
            &SchemaPath::ROOT,
        );
        assert_eq!(refused.expect_err("beyond 64 bits").path, ".minimum");
    }

    #[test]
    fn excluded_bounds_from_2_to_the_53_on_become_included_ones() {
        const FAR: i64 = 1 << 53;
        const FARTHER: i64 = 1_000_000_000_000_000_000;
        for (given, expected) in [
            (
                json!({"exclusiveMinimum": FAR, "exclusiveMaximum": FAR + 4}),
                [FAR + 2, FAR + 2],
            ),
            (
                json!({"exclusiveMinimum": 9_007_199_254_740_992.0, "maximum": FAR + 4}),
                [FAR + 2, FAR + 4],
            ),
            (
                json!({"minimum": FAR - 2, "exclusiveMaximum": FAR}),
                [FAR - 2, FAR - 1],
            ),
            (
                json!({"exclusiveMinimum": FAR + 1, "maximum": FAR + 4}),
                [FAR + 2, FAR + 4],
            ),
            (
                json!({"exclusiveMinimum": FARTHER, "exclusiveMaximum": FARTHER + 512}),
                [FARTHER + 128, FARTHER + 384],
            ),
            (
                json!({"exclusiveMaximum": -FAR, "minimum": -FAR - 4}),
                [-FAR - 4, -FAR - 2],
            ),
            (
                json!({"minimum": FAR, "exclusiveMinimum": true, "maximum": FAR + 4}),
                [FAR + 2, FAR + 4],
            ),
            (
                json!({"minimum": FAR + 4, "exclusiveMinimum": FAR, "maximum": FAR + 8}),
                [FAR + 4, FAR + 8],
            ),
            (
                json!({"minimum": 0, "exclusiveMinimum": FAR, "maximum": FAR + 8}),
                [FAR + 2, FAR + 8],
            ),
            (
                json!({"minimum": HIGHEST_NUMBER + 1, "exclusiveMaximum": FAR}),
                [HIGHEST_NUMBER + 1, FAR - 1],
            ),
        ] {
            for kind in ["integer", "number"] {
                let mut given = given.clone();
                given["type"] = json!(kind);
                let held = held(given.clone());
                #[allow(clippy::cast_precision_loss)] // doubles have these exactly
                let expected = expected.map(|bound| Some(bound as f64));
                let bounds = ["minimum", "maximum"].map(|key| held[key].as_f64());
                assert_eq!(bounds, expected, "{given}");
                assert!(
                    !LOWER_BOUNDS
                        .into_iter()
                        .chain(UPPER_BOUNDS)
                        .any(|key| key.starts_with("ex") && held.get(key).is_some()),
                    "{held}"
                );
            }
        }
    }

    #[test]
    fn bounds_between_which_no_double_is_are_refused_where_they_stand() {
        const FAR: i64 = 1 << 53;
        for (given, path) in [
            (
                json!({"exclusiveMinimum": FAR, "exclusiveMaximum": FAR + 2}),
                ".exclusiveMinimum",
            ),
            (
                json!({"minimum": FAR, "exclusiveMinimum": true, "maximum": FAR + 1}),
                ".exclusiveMinimum",
            ),
            (
                json!({"minimum": -FAR - 1, "exclusiveMaximum": -FAR}),
                ".minimum",
            ),
            (json!({"minimum": FAR + 1, "maximum": FAR + 1}), ".minimum"),
        ] {
            for kind in ["integer", "number"] {
                let mut given = given.clone();
                given["type"] = json!(kind);
                let object = given.as_object_mut().expect("an object");
                let refused = hold(object, &SchemaPath::ROOT).expect_err("nothing is left");
                assert_eq!(refused.path, path);
                assert!(refused.why.contains("rounded inwards"), "{refused:?}");
            }
        }
        let mut beyond = json!({"type": "integer", "exclusiveMinimum": i64::MAX});
        let refused = hold(
            beyond.as_object_mut().expect("an object"),
            &SchemaPath::ROOT,
        );
        assert_eq!(
            refused.expect_err("beyond 64 bits").path,
            ".exclusiveMinimum"
        );
    }

    #[test]
    fn an_excluded_limit_of_all_numbers_stays_excluded() {
        let given = json!({"type": "integer", "exclusiveMaximum": HIGHEST_NUMBER,
                           "exclusiveMinimum": -HIGHEST_NUMBER});
        assert_eq!(held(given.clone()), given);
    }

    #[test]
    fn an_excluded_bound_is_kept_off_by_less_than_matters() {
        for (given, expected) in [
            (
                json!({"exclusiveMinimum": 0}),
                json!([1e-9, HIGHEST_NUMBER]),
            ),
            (
                json!({"exclusiveMinimum": 10, "maximum": 10.5}),
                json!([10.000_000_001, 10.5]),
            ),
            (
                json!({"minimum": -0.5, "exclusiveMaximum": 0}),
                json!([-0.5, -1e-9]),
            ),
            (
                json!({"exclusiveMinimum": 0, "maximum": 1e-8}),
                json!([1e-11, 1e-8]),
            ),
            (
                json!({"exclusiveMinimum": 0, "minimum": 2, "maximum": 3}),
                json!([2, 3]),
            ),
            (
                json!({"exclusiveMinimum": 2, "minimum": 2, "maximum": 3}),
                json!([2.000_000_001, 3]),
            ),
            (
                json!({"exclusiveMinimum": 0, "maximum": 1, "multipleOf": 1e-9}),
                json!([1e-11, 1]),
            ),
            (
                json!({"exclusiveMinimum": 1e14}),
                json!([1e14_f64.next_up(), HIGHEST_NUMBER]),
            ),
        ] {
            let held = held(given.clone());
            assert_eq!(
                json!([held["minimum"], held["maximum"]]),
                expected,
                "{given}"
            );
            assert!(
                held.get("exclusiveMinimum")
                    .or(held.get("exclusiveMaximum"))
                    .is_none(),
                "{held}"
            );
        }
        let mut none = json!({"exclusiveMinimum": 1, "exclusiveMaximum": 1.0_f64.next_up()});
        let refused = hold(none.as_object_mut().expect("an object"), &SchemaPath::ROOT);
        assert_eq!(
            refused.expect_err("nothing between").path,
            ".exclusiveMinimum"
        );
    }
}
