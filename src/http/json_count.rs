//! Counts the values in JSON text before any of them is allocated.
//!
//! Two bytes of JSON can become 400 bytes of memory (`[0]` is a list with room for four), and building a
//! prompt copies values several times. So values are counted in the text, which takes no memory.

use serde_json::Value;

use crate::field::FieldPath;
use crate::http::error::ApiError;

/// Values in the body of a request: enough for some thousand turns, or all tools with all parameters.
pub(crate) const MOST_BODY_VALUES: usize = 200_000;
/// Values in all tools together, and in one schema: enough for 128 tools of 400 each.
pub(crate) const MOST_TOOL_VALUES: usize = 50_000;
/// Values in the arguments of all earlier tool calls together.
pub(crate) const MOST_ARGUMENT_VALUES: usize = 50_000;

/// Values in all `chat_template_kwargs` together.
pub(crate) const MOST_TEMPLATE_KWARG_VALUES: usize = 10_000;

/// Which values of a JSON text are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountScope {
    /// Every value and every member name.
    All,
    /// All but the numbers in lists directly within the outermost object: token ids, which take only eight
    /// bytes each.
    AllButTokens,
}

/// Counts the values and member names in `json`: returns at least their number, at most twice that. Text
/// that is not JSON is counted all the same; its parser will refuse it.
pub(crate) fn count_in_text(json: &[u8], counted: CountScope) -> usize {
    let mut count = 0;
    // Objects that are open at this point of the text.
    let mut objects = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                count += 1;
                skip_string(&mut bytes);
            }
            b'{' => {
                objects += 1;
                count += 1;
            }
            b'}' => objects = objects.saturating_sub(1),
            b'[' => count += 1,
            _ => {}
        }
        // A value follows each of these; numbers and literals are counted here, others twice.
        let numbers_count = counted == CountScope::All || objects > 1;
        count += usize::from(numbers_count && matches!(byte, b'[' | b',' | b':'));
    }
    count
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Counts the values and member names in `value`, including `value` itself.
pub(crate) fn count_in_value(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count_in_value).sum::<usize>(),
        Value::Object(members) => {
            1 + members
                .values()
                .map(|member| 1 + count_in_value(member))
                .sum::<usize>()
        }
        _ => 1,
    }
}

/// Refuses the parameter `param` if its `count` of values exceeds `most`.
pub(crate) fn at_most(
    param: impl Into<FieldPath>,
    count: usize,
    most: usize,
) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    let param = param.into();
    let message = format!("`{param}` holds more than {most} JSON values: make it smaller");
    Err(ApiError::invalid(param, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_in_lists_are_free_and_values_in_objects_are_not() {
        let lists = br#"{"prompt": [[1, 2, 3], [4]], "n": 1}"#;
        let all = count_in_text(lists, CountScope::All);
        let others = count_in_text(lists, CountScope::AllButTokens);
        assert!(all > others && others < 8, "{all}, {others}");
        let nested = br#"{"logit_bias": {"1": [0, 0, 0, 0, 0, 0, 0, 0]}}"#;
        assert!(count_in_text(nested, CountScope::AllButTokens) >= 10);
    }

    #[test]
    fn what_stands_in_strings_does_not_count() {
        assert_eq!(count_in_text(br#""[[[,,,\"{{{""#, CountScope::All), 1);
        assert_eq!(count_in_text(b"\"never closed [[[", CountScope::All), 1);
    }

    proptest! {
        #[test]
        fn no_value_escapes_the_count(
            lists in prop::collection::vec(prop::collection::vec(0..9_u8, 0..5), 0..5),
            names in prop::collection::vec("[a-c\"\\\\,\\[]{1,3}", 0..5),
        ) {
            let members: serde_json::Map<_, _> = names.into_iter().map(|name| (name, json!(lists))).collect();
            let value = json!({"a": members});
            let text = value.to_string();
            prop_assert!(count_in_text(text.as_bytes(), CountScope::All) >= count_in_value(&value));
        }
    }
}
