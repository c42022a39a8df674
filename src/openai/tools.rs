//! Function tools and `tool_choice`, the same for every endpoint that has them.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::field::FieldPath;
use crate::grammar::{Schema, SchemaError};
use crate::prompt::{CallableFunction, with_exact_numbers};

use crate::http::error::ApiError;
use crate::http::json_count;
use crate::inference::bounds::{LONGEST_NAME, MOST_TOOLS};
use crate::inference::checks::at_most;
use crate::inference::params::OutputFormat;
use crate::openai::function_schema::{SchemaAdherence, arguments};

/// The pattern of function and schema names, which [`check_name`] enforces.
pub(crate) const NAME_PATTERN: &str = "^[a-zA-Z0-9_-]+$";
/// The format types that [`format`] knows.
pub(crate) const FORMAT_TYPES: [&str; 3] = ["text", "json_object", "json_schema"];
/// The modes that [`ToolSelection::mode`] knows.
pub(crate) const TOOL_CHOICE_MODES: [&str; 3] = ["none", "auto", "required"];

/// A function tool that a request offers to the model.
#[derive(Debug)]
pub(crate) struct FunctionTool {
    /// Its path in the request, such as `tools[0].function`.
    pub(crate) param: FieldPath,
    pub(crate) name: String,
    pub(crate) parameters: Option<Value>,
    pub(crate) strict: bool,
    /// What the model is shown of it in the prompt.
    pub(crate) shown: Value,
}

/// Which tools the model may or must call: `tool_choice`, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolSelection {
    None,
    Auto,
    Required,
    /// The model must call this one.
    Named(String),
    /// The model may call any of these; it must if the flag is true.
    Allowed(Vec<String>, bool),
}

/// What a request's tools and its `tool_choice` mean for prompt and answer.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// The tools that the model is shown in the prompt.
    pub(crate) shown: Vec<Value>,
    /// How many calls are parsed out of the answer.
    pub(crate) calls: CallLimit,
    /// The constraint on the answer.
    pub(crate) format: OutputFormat,
}

/// How many tool calls are taken from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CallLimit {
    #[default]
    None,
    One,
    Any,
}

impl ToolSelection {
    /// Parses a mode by its name.
    pub(crate) fn mode(param: &'static str, mode: &str) -> Result<Self, ApiError> {
        match mode {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            "required" => Ok(Self::Required),
            _ => Err(ApiError::invalid(
                param,
                format!("`{param}` must be `none`, `auto` or `required`, or name a function"),
            )),
        }
    }

    /// Makes a selection of allowed tools, which are optional or required by `mode`.
    pub(crate) fn allowed(
        param: &'static str,
        mode: &str,
        names: Vec<String>,
    ) -> Result<Self, ApiError> {
        match mode {
            "auto" => Ok(Self::Allowed(names, false)),
            "required" => Ok(Self::Allowed(names, true)),
            _ => Err(ApiError::invalid(
                param,
                format!("`{param}` must be `auto` or `required`"),
            )),
        }
    }
}

impl Tools {
    /// Checks the offered tools and the selection among them. `format` is the schema of an answer that calls
    /// no tool.
    pub(crate) fn new(
        offered: Vec<FunctionTool>,
        choice: Option<ToolSelection>,
        parallel: Option<bool>,
        format: Option<Schema>,
    ) -> Result<Self, ApiError> {
        let free = |format: Option<Schema>| format.map_or(OutputFormat::Free, OutputFormat::Json);
        check(&offered)?;
        let choice = choice.unwrap_or(ToolSelection::Auto);
        // A named function is called exactly once, as by OpenAI, whatever `parallel_tool_calls` says.
        let is_named = matches!(choice, ToolSelection::Named(_));
        let several = parallel.unwrap_or(true) && !is_named;
        let calls = if several {
            CallLimit::Any
        } else {
            CallLimit::One
        };
        let chosen = |names: &[String]| -> Result<HashSet<String>, ApiError> {
            let known = |name: &String| offered.iter().any(|tool| tool.name == *name);
            match names.iter().find(|name| !known(name)) {
                None => Ok(names.iter().cloned().collect()),
                Some(name) => Err(ApiError::invalid(
                    "tool_choice",
                    format!("`tool_choice` names `{name}`, which is not one of `tools`"),
                )),
            }
        };
        let (names, must) = match choice {
            // The model must not call any, so it is shown none.
            ToolSelection::None => (HashSet::new(), false),
            ToolSelection::Auto => (
                offered.iter().map(|tool| tool.name.clone()).collect(),
                false,
            ),
            ToolSelection::Required => {
                (offered.iter().map(|tool| tool.name.clone()).collect(), true)
            }
            ToolSelection::Named(name) => (chosen(&[name])?, true),
            ToolSelection::Allowed(names, must) => (chosen(&names)?, must),
        };
        // Every tool is checked, so that whether its schema is accepted does not depend on `tool_choice`.
        let holds_all = must || (format.is_some() && !names.is_empty());
        let callables = offered
            .iter()
            .map(|tool| {
                let is_held = holds_all && names.contains(&tool.name);
                callable(tool, is_held)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            if must {
                let message = "`tool_choice` wants a call, but there are no `tools`";
                return Err(ApiError::invalid("tool_choice", message));
            }
            return Ok(Self {
                format: free(format),
                ..Self::default()
            });
        }
        let functions: Vec<CallableFunction> = callables
            .into_iter()
            .filter(|callable| names.contains(&callable.name))
            .collect();
        let strict: HashSet<&str> = offered
            .iter()
            .filter(|tool| tool.strict)
            .map(|tool| tool.name.as_str())
            .collect();
        let is_strict = |callable: &CallableFunction| strict.contains(callable.name.as_str());
        let format = if must {
            OutputFormat::Calls {
                functions,
                several,
                otherwise: None,
            }
        } else if let Some(format) = format {
            OutputFormat::Calls {
                functions,
                several,
                otherwise: Some(format),
            }
        } else if functions.iter().any(is_strict) {
            OutputFormat::FreeWithCalls(functions)
        } else {
            OutputFormat::Free
        };
        let shown = offered
            .into_iter()
            .filter(|tool| names.contains(&tool.name))
            .map(|tool| tool.shown)
            .collect();
        Ok(Self {
            shown,
            calls,
            format,
        })
    }
}

/// Checks the number of tools and their names.
fn check(offered: &[FunctionTool]) -> Result<(), ApiError> {
    at_most("tools", offered.len(), MOST_TOOLS)?;
    let mut names = HashSet::new();
    for tool in offered {
        let param = &tool.param;
        check_name(&param.name("name"), &tool.name)?;
        if !names.insert(&tool.name) {
            return Err(ApiError::invalid(
                param.name("name"),
                format!("`{param}.name`: there are two tools named `{}`", tool.name),
            ));
        }
    }
    Ok(())
}

/// Makes a tool callable. Arguments of a call that the model chooses to make are constrained to the schema
/// only with `strict`; otherwise the schema is a hint in the prompt, and any object is accepted.
fn callable(tool: &FunctionTool, is_held: bool) -> Result<CallableFunction, ApiError> {
    let kept = match (tool.strict, is_held) {
        (true, _) => SchemaAdherence::Strict,
        (false, true) => SchemaAdherence::BestEffort,
        (false, false) => SchemaAdherence::HintOnly,
    };
    let place = tool.param.name("parameters");
    Ok(CallableFunction {
        name: tool.name.clone(),
        arguments: arguments(place, tool.parameters.as_ref(), kept)?,
    })
}

/// Whether the arguments of a generated call are complete JSON. They are not if generation ended in the
/// middle of them.
pub(crate) fn are_whole(arguments: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok()
}

/// Reads the arguments of a conversation's earlier tool calls, one call after the other.
#[derive(Debug, Default)]
pub(crate) struct ArgumentsReader {
    /// JSON values in the arguments read so far.
    values: usize,
}

impl ArgumentsReader {
    /// Reads the arguments of one call, which stand at `param`. Text that is not a JSON object is returned as
    /// a string: a model wrote it, and the client only sends it back.
    pub(crate) fn of_call(&mut self, param: &FieldPath, text: &str) -> Result<Value, ApiError> {
        self.values += json_count::count_in_text(text.as_bytes(), json_count::CountScope::All);
        json_count::at_most(param, self.values, json_count::MOST_ARGUMENT_VALUES)?;
        // Clients write empty arguments as `""` or `{}`.
        let object = match text.trim() {
            "" => "{}",
            text => text,
        };
        let object = with_exact_numbers(object);
        let object = serde_json::from_str(&object).ok();
        let object = object.filter(Value::is_object);
        Ok(object.unwrap_or_else(|| Value::String(text.to_owned())))
    }
}

/// Checks a function's or schema's name by OpenAI's rule.
pub(crate) fn check_name(param: &FieldPath, name: &str) -> Result<(), ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        return Err(ApiError::invalid(
            param,
            format!(
                "`{param}` must have 1 to {LONGEST_NAME} letters, digits, underscores or hyphens"
            ),
        ));
    }
    Ok(())
}

/// Makes the error for an invalid schema that stands at `param`.
pub(crate) fn refuse(param: &FieldPath, schema_error: &SchemaError) -> ApiError {
    let place = param.keys(&schema_error.path);
    let message = format!("`{place}` {}", schema_error.why);
    ApiError::invalid(place, message)
}

/// Reads `response_format`, or `text.format` of the Responses API, and returns the schema that the answer
/// must fit. `at` holds the paths of the type and of the schema's description.
pub(crate) fn format(
    at: (&'static str, &'static str),
    kind: &str,
    schema: Option<(&str, Option<Value>, bool)>,
) -> Result<Option<Schema>, ApiError> {
    let (kind_at, described_at) = at;
    let param = FieldPath::from(described_at);
    match (kind, schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(Schema::object().at(param))),
        ("json_schema", Some((name, schema, strict))) => {
            check_name(&param.name("name"), name)?;
            let schema = schema.unwrap_or_else(|| Value::Object(Map::new()));
            let at = param.name("schema");
            json_count::at_most(
                &at,
                json_count::count_in_value(&schema),
                json_count::MOST_TOOL_VALUES,
            )?;
            let schema =
                Schema::new(schema, strict).map_err(|schema_error| refuse(&at, &schema_error))?;
            Ok(Some(schema.at(at)))
        }
        ("json_schema", None) => {
            let message = format!("`{param}` is missing: a `json_schema` format needs one");
            Err(ApiError::invalid(param, message))
        }
        _ => Err(ApiError::invalid(
            kind_at,
            format!("`{kind_at}` must be `text`, `json_object` or `json_schema`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offered(name: &str) -> FunctionTool {
        FunctionTool {
            param: FieldPath::from("tools").index(0).name("function"),
            name: name.to_owned(),
            parameters: None,
            strict: false,
            shown: json!({"name": name}),
        }
    }

    fn both(choice: ToolSelection) -> Result<Tools, ApiError> {
        Tools::new(vec![offered("f"), offered("g")], Some(choice), None, None)
    }

    #[test]
    fn arguments_of_earlier_calls_keep_numbers_that_would_be_rounded() {
        let of_call = |text| ArgumentsReader::default().of_call(&"messages[0]".into(), text);
        let exact = of_call(r#"{"a": 12345678901234567890123, "b": 1e400, "c": 1}"#).expect("few");
        assert!(
            exact["a"]
                .as_str()
                .is_some_and(|text| text.ends_with(":12345678901234567890123"))
        );
        assert!(
            exact["b"]
                .as_str()
                .is_some_and(|text| text.ends_with(":1e400"))
        );
        assert_eq!(exact["c"], 1);
        // As OpenAI and Python read it.
        let twice = of_call(r#"{"a": 1, "b": 2, "a": 3}"#).expect("few");
        assert_eq!(twice, json!({"a": 3, "b": 2}));
    }

    #[test]
    fn none_hides_them_and_auto_leaves_the_answer_free() {
        let none = both(ToolSelection::None).expect("valid");
        assert!(none.shown.is_empty() && none.calls == CallLimit::None);
        let auto = both(ToolSelection::Auto).expect("valid");
        assert!(auto.shown.len() == 2 && matches!(auto.format, OutputFormat::Free));
    }

    #[test]
    fn calls_of_the_models_own_fit_strict_schemas_and_others_any_object() {
        let strict = FunctionTool {
            strict: true,
            ..offered("f")
        };
        let tools = Tools::new(vec![strict, offered("g")], None, None, None).expect("valid");
        let OutputFormat::FreeWithCalls(functions) = tools.format else {
            panic!("some are strict");
        };
        assert_eq!(functions[0].arguments, Schema::nothing());
        assert_eq!(functions[1].arguments, Schema::object());
    }

    #[test]
    fn a_schema_that_only_tells_the_model_what_to_write_need_not_be_one_that_can_be_followed() {
        let tools = |properties: Value| {
            let parameters = json!({"type": "object", "properties": {"a": properties}});
            vec![FunctionTool {
                parameters: Some(parameters),
                ..offered("f")
            }]
        };
        let beyond = [
            json!({"const": 1e30}),
            json!({"type": "integer", "minimum": 1e30}),
            json!({"multipleOf": 0.12345}),
            json!({"type": "string", "maxLength": 1_000_000}),
            json!({"enum": (0..1001).collect::<Vec<_>>()}),
        ];
        for property in beyond {
            let hint = Tools::new(
                tools(property.clone()),
                Some(ToolSelection::Auto),
                None,
                None,
            );
            assert!(hint.is_ok(), "{property}");
            let must = Tools::new(
                tools(property.clone()),
                Some(ToolSelection::Required),
                None,
                None,
            );
            let must = must.expect_err("cannot be followed").body();
            let param = must["error"]["param"].as_str().expect("a place");
            assert!(param.starts_with("tools[0].function.parameters.properties.a"));
        }
        // What is no schema is none as a hint, either.
        for property in [
            json!({"type": "str"}),
            json!({"$ref": "#/$defs/lost"}),
            json!({"minimum": "3"}),
            json!({"anyOf": {}}),
            json!({"enum": []}),
            json!({"maxLength": -1}),
            json!(5),
        ] {
            let hint = Tools::new(
                tools(property.clone()),
                Some(ToolSelection::Auto),
                None,
                None,
            );
            assert!(hint.is_err(), "{property}");
        }
    }

    #[test]
    fn a_named_one_and_allowed_ones_are_the_only_ones() {
        let named = both(ToolSelection::Named("g".to_owned())).expect("valid");
        let OutputFormat::Calls { functions, .. } = named.format else {
            panic!("it must call");
        };
        assert_eq!(functions.len(), 1);
        let allowed = both(ToolSelection::Allowed(vec!["f".to_owned()], false)).expect("valid");
        assert_eq!(allowed.shown, [json!({"name": "f"})]);
        let unknown = both(ToolSelection::Named("h".to_owned())).expect_err("no such tool");
        assert_eq!(unknown.body()["error"]["param"], "tool_choice");
    }

    #[test]
    fn a_named_function_is_called_once_and_others_as_often_as_is_asked_for() {
        for parallel in [None, Some(true), Some(false)] {
            let new = |choice| {
                let tools = Tools::new(
                    vec![offered("f"), offered("g")],
                    Some(choice),
                    parallel,
                    None,
                );
                let tools = tools.expect("valid");
                let OutputFormat::Calls { several, .. } = tools.format else {
                    panic!("it must call");
                };
                (tools.calls, several)
            };
            assert_eq!(
                new(ToolSelection::Named("g".to_owned())),
                (CallLimit::One, false)
            );
            let several = parallel.unwrap_or(true);
            let calls = if several {
                CallLimit::Any
            } else {
                CallLimit::One
            };
            assert_eq!(new(ToolSelection::Required), (calls, several));
            let allowed = ToolSelection::Allowed(vec!["f".to_owned()], true);
            assert_eq!(new(allowed), (calls, several));
        }
    }

    #[test]
    fn names_are_plain_and_unlike() {
        for names in [["f", "f"], ["a b", "f"], ["", "f"]] {
            let tools = names.map(offered).into();
            assert!(Tools::new(tools, None, None, None).is_err(), "{names:?}");
        }
    }

    #[test]
    fn what_needs_a_call_needs_tools() {
        let error = Tools::new(Vec::new(), Some(ToolSelection::Required), None, None);
        assert_eq!(
            error.expect_err("no tools").body()["error"]["param"],
            "tool_choice"
        );
    }
}
