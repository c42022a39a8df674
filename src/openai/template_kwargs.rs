//! vLLM's and llama.cpp's `chat_template_kwargs`: additional variables of the chat template, such as
//! `{"enable_thinking": false}`. A variable that the template does not use has no effect.

use serde_json::{Map, Value};

use crate::field::FieldPath;
use crate::http::error::ApiError;
use crate::http::json_count;
use crate::inference::bounds::{LONGEST_TEMPLATE_KWARG_NAME, MOST_TEMPLATE_KWARGS};
use crate::inference::checks::at_most;

const PARAM: &str = "chat_template_kwargs";
/// Variables that the server sets, and what a client should use instead.
const RESERVED_NAMES: [(&str, &str); 7] = [
    ("messages", "use `messages`"),
    ("tools", "use `tools`"),
    (
        "add_generation_prompt",
        "send it beside `chat_template_kwargs`",
    ),
    ("bos_token", "it is the model's"),
    ("eos_token", "it is the model's"),
    ("raise_exception", "it is a function of templates"),
    ("strftime_now", "it is a function of templates"),
];
/// Variables that templates test for truth, so the string `"false"` would count as true.
const BOOLEAN_NAMES: [&str; 2] = ["enable_thinking", "thinking_enabled"];

/// Checks the variables that a client sent.
pub(crate) fn template_kwargs(
    given: Option<Map<String, Value>>,
) -> Result<Map<String, Value>, ApiError> {
    let given = given.unwrap_or_default();
    at_most(PARAM, given.len(), MOST_TEMPLATE_KWARGS)?;
    let count = given.values().map(json_count::count_in_value).sum();
    json_count::at_most(PARAM, count, json_count::MOST_TEMPLATE_KWARG_VALUES)?;
    given
        .iter()
        .try_for_each(|(name, value)| check(name, value))?;
    Ok(given)
}

fn check(name: &str, value: &Value) -> Result<(), ApiError> {
    let is_name = |name: &str| {
        let plain = |char: char| char.is_ascii_alphanumeric() || char == '_';
        name.len() <= LONGEST_TEMPLATE_KWARG_NAME
            && name.chars().all(plain)
            && name.starts_with(|first: char| !first.is_ascii_digit())
    };
    if !is_name(name) {
        let message = format!(
            "`{PARAM}` has names of template variables: letters, digits and underscores, at most \
             {LONGEST_TEMPLATE_KWARG_NAME}, no digit first"
        );
        return Err(ApiError::invalid(PARAM, message));
    }
    let reserved = RESERVED_NAMES
        .iter()
        .find(|(reserved, _)| *reserved == name);
    if let Some((reserved, instead)) = reserved {
        let param = FieldPath::from(PARAM).name(reserved);
        let message = format!("`{param}` is set by the server: {instead}");
        return Err(ApiError::invalid(param, message));
    }
    let switch = BOOLEAN_NAMES.iter().find(|switch| **switch == name);
    if let Some(switch) = switch
        && !(value.is_boolean() || value.is_null())
    {
        let param = FieldPath::from(PARAM).name(switch);
        let message = format!("`{param}` must be true or false");
        return Err(ApiError::invalid(param, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(kwargs: &Value) -> String {
        let given = kwargs.as_object().expect("an object").clone();
        let error = template_kwargs(Some(given)).expect_err("refused");
        error.body()["error"]["param"]
            .as_str()
            .expect("a place")
            .to_owned()
    }

    #[test]
    fn whatever_json_has_may_be_given_under_plain_names() {
        assert_eq!(template_kwargs(None), Ok(Map::new()));
        let given = json!({"enable_thinking": false, "thinking": "low", "_x1": [{"a": null}]});
        let given = given.as_object().expect("an object").clone();
        assert_eq!(template_kwargs(Some(given.clone())), Ok(given));
    }

    #[test]
    fn what_the_server_sets_is_refused_by_name() {
        for (name, _) in RESERVED_NAMES {
            assert_eq!(refused(&json!({name: 1})), format!("{PARAM}.{name}"));
        }
    }

    #[test]
    fn a_switch_is_true_or_false() {
        let place = "chat_template_kwargs.enable_thinking";
        assert_eq!(refused(&json!({"enable_thinking": "false"})), place);
        assert_eq!(refused(&json!({"enable_thinking": 0})), place);
    }

    #[test]
    fn names_and_sizes_have_bounds() {
        for name in ["", "two words", "1a", "é", &"a".repeat(65)] {
            assert_eq!(refused(&json!({name: 1})), PARAM);
        }
        let many: Map<String, Value> = (0..65).map(|n| (format!("a{n}"), json!(1))).collect();
        assert_eq!(refused(&many.into()), PARAM);
        assert_eq!(refused(&json!({"a": vec![0; 10_000]})), PARAM);
    }
}
