//! Parsing a JSON body into its declared type, with errors that name the field.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field::FieldPath;
use crate::prompt::{vanishing_number, with_exact_numbers};

use super::error::ApiError;
use super::json_count::{CountScope, MOST_BODY_VALUES, count_in_text};
use super::json_path::{JsonKind, has_duplicate_names};
use super::mismatch::{Mismatch, explain};

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A type that a JSON body is parsed into.
pub(crate) trait Wire: DeserializeOwned + JsonSchema + Send + 'static {
    /// Which JSON values count towards [`MOST_BODY_VALUES`].
    const COUNT_SCOPE: CountScope = CountScope::All;

    /// Whether it has `tools`, of which [`Wire::keep_tools`] may be told.
    const HAS_TOOLS: bool = false;

    /// Stores the `tools` of a body with their numbers exactly as written. Called only if parsing would
    /// round one of them.
    fn keep_tools(&mut self, _written: Vec<Value>) {}
}

/// Parses a body, unless it holds more than [`MOST_BODY_VALUES`] values.
pub(crate) fn read_value<W: Wire>(bytes: &[u8]) -> Result<W, ApiError> {
    // A value takes a byte at least.
    if bytes.len() > MOST_BODY_VALUES && count_in_text(bytes, W::COUNT_SCOPE) > MOST_BODY_VALUES {
        let message = format!("the request body holds more than {MOST_BODY_VALUES} JSON values");
        return Err(ApiError::Invalid {
            message,
            param: None,
        });
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if let Some(number) = vanishing_number(text) {
        return Err(ApiError::Invalid {
            message: format!(
                "the request body has the number `{number:.40}`, which is too near to 0: write 0, or \
                 one that a double has"
            ),
            param: None,
        });
    }
    let mut value: W = parse(bytes)?;
    if W::HAS_TOOLS
        && let Some(tools) = tools_as_written(text)
    {
        value.keep_tools(tools);
    }
    Ok(value)
}

/// Returns the `tools` of a body with their numbers exactly as written, or `None` (the usual case) if
/// parsing rounds no number.
fn tools_as_written(body: &str) -> Option<Vec<Value>> {
    #[derive(serde::Deserialize)]
    struct ToolsOnly {
        tools: Option<Vec<Value>>,
    }

    match with_exact_numbers(body) {
        Cow::Borrowed(_) => None,
        Cow::Owned(written) => serde_json::from_str::<ToolsOnly>(&written).ok()?.tools,
    }
}

/// Parses a body as a `T`. If a name occurs twice in one object, the last value counts, as for OpenAI and
/// in most languages. serde does that for maps but refuses it for structs, so such a body is parsed again
/// without the duplicates.
fn parse<T: DeserializeOwned + JsonSchema + 'static>(bytes: &[u8]) -> Result<T, ApiError> {
    // RFC 8259 allows parsers to ignore a byte order mark, and some .NET clients send one.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    parse_once(bytes).or_else(|error| {
        let again = with_each_name_once(bytes).map(|once| parse_once(&once));
        match again {
            Some(Ok(value)) => Ok(value),
            // The error that remains once the duplicates are gone.
            Some(Err(other)) => Err(other),
            None => Err(error),
        }
    })
}

/// Returns the body without members whose names occur again later in the same object. Returns `None` if
/// there are none, if the body is not JSON, or if it has more than [`MOST_BODY_VALUES`] values.
fn with_each_name_once(bytes: &[u8]) -> Option<Vec<u8>> {
    if !has_duplicate_names(bytes) || count_in_text(bytes, CountScope::All) > MOST_BODY_VALUES {
        return None;
    }
    let value: Value = serde_json::from_slice(bytes).ok()?;
    serde_json::to_vec(&value).ok()
}

fn parse_once<T: DeserializeOwned + JsonSchema + 'static>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let found = JsonKind::in_text(bytes, error.path());
        not_a::<T>(&FieldPath::default(), found.as_ref(), &error)
    })?;
    json.end().map_err(|error| ApiError::Invalid {
        message: format!("the request body is not valid JSON: {error}"),
        param: None,
    })?;
    Ok(value)
}

/// Parses `value`, which stands at the path `at` of the body, as a `T`.
pub(crate) fn understand<T: DeserializeOwned + JsonSchema + 'static>(
    at: impl Into<FieldPath>,
    value: &Value,
) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let found = JsonKind::in_value(value, error.path());
        not_a::<T>(&at.into(), found.as_ref(), &error)
    })
}

/// Makes the error for a value at the path `at` (empty for the whole body) that is not a `T`; `found` stands
/// where serde stopped.
fn not_a<T: JsonSchema + 'static>(
    at: &FieldPath,
    found: Option<&JsonKind>,
    error: &serde_path_to_error::Error<serde_json::Error>,
) -> ApiError {
    if !error.inner().is_data() {
        return ApiError::Invalid {
            message: format!("the request body is not valid JSON: {}", error.inner()),
            param: None,
        };
    }
    let Mismatch { place, problem } = explain::<T>(found, error.path());
    let position = match (error.inner().line(), error.inner().column()) {
        (0, _) => String::new(),
        (line, column) => format!(" at line {line} column {column}"),
    };
    let words = problem.map(|problem| problem + &position);
    let words = words.unwrap_or_else(|| error.inner().to_string());
    let param = at.join(place);
    if param.is_empty() {
        return ApiError::Invalid {
            message: words,
            param: None,
        };
    }
    let message = format!("`{param}`: {words}");
    ApiError::invalid(param, message)
}

/// Implements `Deserialize` for structs that derive it with `remote = "Self"`, from JSON objects only:
/// serde's derived code would also accept an array, field by field.
macro_rules! only_objects {
    ($($type:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;

                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        $type::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }

                deserializer.deserialize_map(Object)
            }
        }
    )+};
}
pub(crate) use only_objects;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Inner {
        role: String,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Outer {
        messages: Vec<Inner>,
    }

    impl Wire for Outer {}

    fn param(json: &str) -> Option<String> {
        match parse::<Outer>(json.as_bytes()).expect_err("bad input") {
            ApiError::Invalid { param, .. } => param.map(|param| param.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(param("{}").as_deref(), Some("messages"));
        assert_eq!(
            param(r#"{"messages":[{"role":1}]}"#).as_deref(),
            Some("messages[0].role")
        );
        assert_eq!(
            param(r#"{"messages":[{}]}"#).as_deref(),
            Some("messages[0].role")
        );
        assert_eq!(param("{"), None);
        assert_eq!(param(r#"{"messages":[]} x"#), None);
    }

    #[test]
    fn a_name_that_a_client_chose_is_told_and_not_logged() {
        #[derive(Debug, Deserialize, JsonSchema)]
        struct Maps {
            #[serde(rename = "biases")]
            _biases: std::collections::HashMap<String, f64>,
        }
        let error = parse::<Maps>(br#"{"biases": {"secret": "x"}}"#).expect_err("no number");
        assert_eq!(error.body()["error"]["param"], "biases.secret");
        assert_eq!(error.label(), "invalid_request_error: biases");
        let error = parse::<Outer>(br#"{"messages":[{"role":1}]}"#).expect_err("no string");
        assert_eq!(error.label(), "invalid_request_error: messages[0].role");
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_one_counts_wherever_it_stands() {
        let roles = |body: &str| {
            let read = parse::<Outer>(body.as_bytes());
            let roles = read.map(|read| read.messages.into_iter().map(|inner| inner.role));
            roles.map(Iterator::collect::<Vec<_>>)
        };
        let body = r#"{"messages": 5, "messages": [{"role": "a", "role": "b"}]}"#;
        assert_eq!(roles(body), Ok(vec!["b".to_owned()]));
        let body = r#"{"messages": [{"role": "a"}], "messages": 5}"#;
        assert_eq!(param(body).as_deref(), Some("messages"));
    }

    #[test]
    fn a_number_that_would_be_0_is_refused() {
        let read = |body: &str| read_value::<Outer>(body.as_bytes()).map(drop);
        assert_eq!(read(r#"{"messages": [], "x": {"const": 1e-300}}"#), Ok(()));
        let refused = read(r#"{"messages": [], "x": {"const": 1e-400}}"#).expect_err("refused");
        assert!(refused.to_string().contains("`1e-400`"), "{refused}");
    }

    #[test]
    fn a_byte_order_mark_is_left_out_where_a_body_begins_with_it() {
        let read = |body: &str| parse::<Outer>(body.as_bytes()).is_ok();
        assert!(read("\u{feff}{\"messages\": []}"));
        assert!(read(
            "\u{feff}\n {\"messages\": [{\"role\": \"\u{feff}\"}]}"
        ));
        for body in [
            "\u{feff}\u{feff}{\"messages\": []}",
            " \u{feff}{\"messages\": []}",
            "{\"messages\": []}\u{feff}",
            "\u{feff}",
        ] {
            assert!(!read(body), "{body:?}");
        }
    }

    #[test]
    fn errors_do_not_speak_rust() {
        let message = |json: &str| match parse::<Outer>(json.as_bytes()).expect_err("bad input") {
            ApiError::Invalid { message, .. } => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            message("null"),
            "invalid type: null, expected an object at line 1 column 4"
        );
        assert_eq!(
            message(r#"{"messages":[", expected i64"]}"#),
            "`messages[0]`: invalid type: string \", expected i64\", expected an object at line 1 column 29"
        );
    }
}
