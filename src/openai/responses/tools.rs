//! Function tools in the form of the Responses API: flat, and strict unless they say otherwise.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::field::FieldPath;
use crate::grammar::Schema;
use crate::http::error::ApiError;
use crate::http::json_count;
use crate::http::openapi::among;
use crate::http::parse::understand;
use crate::inference::bounds::MOST_TOOLS;
use crate::inference::checks::at_most;
use crate::openai::tools::{FunctionTool, ToolSelection};

use super::wire;

/// A tool as the response tells it again.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct ResponseTool {
    #[schemars(transform = among(["function"]))]
    r#type: &'static str,
    name: String,
    description: Option<String>,
    parameters: Option<Value>,
    strict: bool,
}

/// Checks the tools and returns them with their echo in the response. If `written` is not empty, the model
/// is shown the parameters from there, whose numbers are exactly as the client wrote them.
pub(super) fn offered(
    tools: Vec<Value>,
    written: &[Value],
) -> Result<(Vec<FunctionTool>, Vec<ResponseTool>), ApiError> {
    // Counted before any copy of them is made.
    let count = tools.iter().map(json_count::count_in_value).sum();
    json_count::at_most("tools", count, json_count::MOST_TOOL_VALUES)?;
    let tools = tools.into_iter().enumerate();
    let both: Vec<(FunctionTool, ResponseTool)> = tools
        .map(|(index, tool)| {
            let at = FieldPath::from("tools").index(index);
            one(at, &tool, written.get(index))
        })
        .collect::<Result<_, _>>()?;
    Ok(both.into_iter().unzip())
}

fn one(
    at: FieldPath,
    tool: &Value,
    written: Option<&Value>,
) -> Result<(FunctionTool, ResponseTool), ApiError> {
    let kind = kind(&at, tool)?;
    if kind != "function" {
        return Err(ApiError::unsupported(
            at.name("type"),
            format!("`{kind}` is not supported: this server runs no tools itself; use `function`"),
        ));
    }
    let function: wire::ResponseFunction = understand(&at, tool)?;
    // If `strict` is absent, OpenAI applies the strict rules to schemas that satisfy them.
    let strict = function.strict.unwrap_or_else(|| {
        let parameters = function.parameters.clone();
        parameters.is_none_or(|schema| Schema::new(schema, true).is_ok())
    });
    let mut shown = Map::new();
    shown.insert("name".to_owned(), json!(function.name));
    if let Some(description) = &function.description {
        shown.insert("description".to_owned(), json!(description));
    }
    if let Some(parameters) = &function.parameters {
        let written = written.and_then(|tool| tool.get("parameters"));
        let parameters = written.unwrap_or(parameters).clone();
        shown.insert("parameters".to_owned(), parameters);
    }
    let offered = FunctionTool {
        param: at,
        name: function.name.clone(),
        parameters: function.parameters.clone(),
        strict,
        shown: json!({"type": "function", "function": shown}),
    };
    let told = ResponseTool {
        r#type: "function",
        name: function.name,
        description: function.description,
        parameters: function.parameters,
        strict,
    };
    Ok((offered, told))
}

/// Reads OpenAI's `tool_choice`.
pub(super) fn choice(choice: &Value) -> Result<ToolSelection, ApiError> {
    const AT: &str = "tool_choice";
    if let Value::String(mode) = choice {
        return ToolSelection::mode(AT, mode);
    }
    match kind(&AT.into(), choice)? {
        "function" => {
            let wire::ChosenFunction { name } = understand(AT, choice)?;
            Ok(ToolSelection::Named(name))
        }
        "allowed_tools" => {
            let allowed: wire::AllowedFunctions = understand(AT, choice)?;
            at_most("tool_choice.tools", allowed.tools.len(), MOST_TOOLS)?;
            let names = allowed.tools.into_iter().enumerate().map(|(index, tool)| {
                let at = FieldPath::from(AT).name("tools").index(index);
                match kind(&at, &tool)? {
                    "function" => {
                        let wire::ChosenFunction { name } = understand(&at, &tool)?;
                        Ok(name)
                    }
                    kind => Err(ApiError::unsupported(
                        at.name("type"),
                        format!("`{kind}` is not supported; use `function`"),
                    )),
                }
            });
            let names = names.collect::<Result<_, ApiError>>()?;
            ToolSelection::allowed("tool_choice.mode", &allowed.mode, names)
        }
        kind => Err(ApiError::unsupported(
            FieldPath::from(AT).name("type"),
            format!("`{kind}` is not supported; use `function` or `allowed_tools`"),
        )),
    }
}

/// Returns the echo of `tool_choice`: what was understood of it, and nothing else that the client wrote.
pub(super) fn echoed_choice(choice: Option<&ToolSelection>) -> Value {
    match choice {
        None | Some(ToolSelection::Auto) => json!("auto"),
        Some(ToolSelection::None) => json!("none"),
        Some(ToolSelection::Required) => json!("required"),
        Some(ToolSelection::Named(name)) => json!({"type": "function", "name": name}),
        Some(ToolSelection::Allowed(names, must)) => {
            let tool = |name: &String| json!({"type": "function", "name": name});
            json!({
                "type": "allowed_tools",
                "mode": if *must { "required" } else { "auto" },
                "tools": names.iter().map(tool).collect::<Vec<_>>(),
            })
        }
    }
}

/// Returns the `type` of an object.
fn kind<'a>(at: &FieldPath, object: &'a Value) -> Result<&'a str, ApiError> {
    if !object.is_object() {
        let message = format!("`{at}` must be an object with a `type`");
        return Err(ApiError::invalid(at, message));
    }
    let kind = object.get("type").and_then(Value::as_str);
    kind.ok_or_else(|| {
        let at = at.name("type");
        let message = format!("`{at}` must be a string, such as `function`");
        ApiError::invalid(at, message)
    })
}
