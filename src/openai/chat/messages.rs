//! Checks messages, tools and predictions, and converts them to what the prompt is made of.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::field::FieldPath;
use crate::http::error::ApiError;
use crate::http::json_count;
use crate::openai::tools::{ArgumentsReader, FunctionTool, ToolSelection};
use crate::prompt::{Message, Role, ToolCall, joined};

use super::wire;

pub(super) fn tools(tools: Vec<wire::ChatTool>) -> Result<Vec<FunctionTool>, ApiError> {
    // Counted before any copy of them is made.
    let rest = tools.iter().flat_map(|tool| {
        let function = tool.function.iter().map(|function| &function.rest);
        function.chain([&tool.rest]).flat_map(Map::values)
    });
    let count = rest.map(json_count::count_in_value).sum();
    json_count::at_most("tools", count, json_count::MOST_TOOL_VALUES)?;
    tools
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let param = FieldPath::from("tools").index(index);
            if tool.kind != "function" {
                return Err(ApiError::unsupported(
                    param.name("type"),
                    format!("`{}` is not supported; use `function`", tool.kind),
                ));
            }
            let function = tool.function.ok_or_else(|| {
                ApiError::invalid(param.name("function"), "a tool needs a `function`")
            })?;
            let strict = match function.rest.get("strict") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(strict)) => *strict,
                Some(_) => {
                    let param = param.name("function.strict");
                    let message = format!("`{param}` must be true or false");
                    return Err(ApiError::invalid(param, message));
                }
            };
            let parameters = function.rest.get("parameters").cloned();
            let name = function.name.clone();
            let written = tool.as_written;
            // It was parsed once before, so this cannot fail.
            let written =
                written.and_then(|tool| serde_json::from_value::<wire::ChatTool>(tool).ok());
            let written =
                written.and_then(|tool| Some(shown(tool.kind, tool.function?, tool.rest)));
            Ok(FunctionTool {
                param: param.name("function"),
                name,
                parameters,
                strict,
                shown: written.unwrap_or_else(|| shown(tool.kind, function, tool.rest)),
            })
        })
        .collect()
}

/// Returns what the model is shown of a tool: all of it, type and name first.
fn shown(kind: String, function: wire::OfferedFunction, rest: Map<String, Value>) -> Value {
    let mut body = Map::new();
    body.insert("name".to_owned(), Value::String(function.name));
    body.extend(function.rest);
    let mut object = Map::new();
    object.insert("type".to_owned(), Value::String(kind));
    object.insert("function".to_owned(), Value::Object(body));
    object.extend(rest);
    Value::Object(object)
}

/// Reads OpenAI's `tool_choice`.
pub(super) fn choice(choice: wire::ToolChoice) -> Result<ToolSelection, ApiError> {
    let chosen = match choice {
        wire::ToolChoice::Mode(mode) => return ToolSelection::mode("tool_choice", &mode),
        wire::ToolChoice::Some(chosen) => chosen,
    };
    let missing = |key: FieldPath| {
        let param = FieldPath::from("tool_choice").join(key);
        let message = format!("`{param}` is missing");
        ApiError::invalid(param, message)
    };
    match chosen.kind.as_str() {
        "function" => {
            let function = chosen.function.ok_or_else(|| missing("function".into()))?;
            Ok(ToolSelection::Named(function.name))
        }
        "allowed_tools" => {
            let allowed = chosen
                .allowed_tools
                .ok_or_else(|| missing("allowed_tools".into()))?;
            let place = |index| {
                FieldPath::from("allowed_tools.tools")
                    .index(index)
                    .name("function")
            };
            let names = allowed.tools.into_iter().enumerate().map(|(index, tool)| {
                let function = tool.function;
                function
                    .map(|function| function.name)
                    .ok_or_else(|| missing(place(index)))
            });
            let names = names.collect::<Result<_, _>>()?;
            ToolSelection::allowed("tool_choice.allowed_tools.mode", &allowed.mode, names)
        }
        kind => Err(ApiError::unsupported(
            "tool_choice.type",
            format!("`{kind}` is not supported; use `function` or `allowed_tools`"),
        )),
    }
}

pub(super) fn messages(messages: Vec<wire::ChatMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "`messages` must hold at least one message",
        ));
    }
    let mut arguments = ArgumentsReader::default();
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            self::message(
                &FieldPath::from("messages").index(index),
                message,
                &mut arguments,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    calls_and_answers(&messages)?;
    Ok(messages)
}

/// Checks OpenAI's rule that each message with tool calls is followed by one `tool` message per call, and
/// that `tool` messages stand nowhere else.
fn calls_and_answers(messages: &[Message]) -> Result<(), ApiError> {
    let mut calls = UnansweredCalls::default();
    for (index, message) in messages.iter().enumerate() {
        if message.role != Role::Tool {
            calls.end()?;
            calls = UnansweredCalls::of(index, message);
            continue;
        }
        let Some(id) = &message.tool_call_id else {
            continue;
        };
        if calls.all.is_empty() {
            let param = FieldPath::from("messages").index(index).name("role");
            let message = format!(
                "`{param}`: messages with role `tool` must be a response to a preceding message \
                 with `tool_calls`"
            );
            return Err(ApiError::invalid(param, message));
        }
        if !calls.all.contains(id.as_str()) {
            let param = FieldPath::from("messages")
                .index(index)
                .name("tool_call_id");
            let message = format!(
                "`{param}`: no call in `messages[{}]` has the id `{id}`",
                calls.at
            );
            return Err(ApiError::invalid(param, message));
        }
        calls.open.remove(id.as_str());
    }
    calls.end()
}

/// The tool calls of one message, by id.
#[derive(Default)]
struct UnansweredCalls<'m> {
    at: usize,
    all: HashSet<&'m str>,
    /// Those that no `tool` message has answered yet.
    open: HashSet<&'m str>,
}

impl<'m> UnansweredCalls<'m> {
    fn of(at: usize, message: &'m Message) -> Self {
        let ids = message.tool_calls.iter().map(|call| call.id.as_str());
        let all: HashSet<_> = ids.collect();
        Self {
            at,
            open: all.clone(),
            all,
        }
    }

    /// Checks that every call is answered, where the `tool` messages end.
    fn end(&self) -> Result<(), ApiError> {
        // The smallest, so that the message does not vary.
        let Some(id) = self.open.iter().min() else {
            return Ok(());
        };
        let param = FieldPath::from("messages")
            .index(self.at)
            .name("tool_calls");
        let message = format!(
            "`{param}` must be followed by `tool` messages that respond to each `tool_call_id`; \
             `{id}` has no response"
        );
        Err(ApiError::invalid(param, message))
    }
}

fn message(
    param: &FieldPath,
    message: wire::ChatMessage,
    arguments: &mut ArgumentsReader,
) -> Result<Message, ApiError> {
    let calls = message.tool_calls.unwrap_or_default().into_iter();
    let tool_calls = calls.enumerate().map(|(index, call)| {
        let param = param
            .name("tool_calls")
            .index(index)
            .name("function.arguments");
        tool_call(&param, call, arguments)
    });
    let tool_calls: Vec<ToolCall> = tool_calls.collect::<Result<_, _>>()?;
    let may_refuse = message.role == wire::Role::Assistant;
    let content = message
        .content
        .map(|content| text(param, content, may_refuse))
        .transpose()?;
    // A refusal counts as text: the model gave it instead of an answer, or after breaking one off.
    let refusal = message.refusal.filter(|_| may_refuse);
    let content = match (content, refusal) {
        (Some(content), Some(refusal)) => Some(joined(content, Some(&refusal))),
        (content, refusal) => content.or(refusal),
    };
    let may_be_empty = message.role == wire::Role::Assistant && !tool_calls.is_empty();
    if content.is_none() && !may_be_empty {
        return Err(ApiError::invalid(
            param.name("content"),
            format!("`{param}.content` is missing"),
        ));
    }
    if message.role == wire::Role::Tool && message.tool_call_id.is_none() {
        return Err(ApiError::invalid(
            param.name("tool_call_id"),
            format!("`{param}.tool_call_id` is missing: a tool message answers a call"),
        ));
    }
    Ok(Message {
        role: match message.role {
            wire::Role::System => Role::System,
            wire::Role::Developer => Role::Developer,
            wire::Role::User => Role::User,
            wire::Role::Assistant => Role::Assistant,
            wire::Role::Tool => Role::Tool,
        },
        content,
        name: message.name,
        tool_calls,
        tool_call_id: message.tool_call_id,
    })
}

/// Reads OpenAI's `prediction`: the text that the answer is expected to be.
pub(super) fn prediction(prediction: wire::Prediction) -> Result<String, ApiError> {
    if prediction.kind != "content" {
        return Err(ApiError::unsupported(
            "prediction.type",
            format!("`{}` is not supported; use `content`", prediction.kind),
        ));
    }
    text(&"prediction".into(), prediction.content, false)
}

/// Concatenates the text parts of `content`. Refusal parts count as text if `may_refuse` is true, that is
/// for the model's own messages.
fn text(param: &FieldPath, content: wire::Content, may_refuse: bool) -> Result<String, ApiError> {
    let parts = match content {
        wire::Content::Text(text) => return Ok(text),
        wire::Content::Parts(parts) => parts,
    };
    if parts.is_empty() {
        let param = param.name("content");
        let message = format!("`{param}` is an empty array; it must hold at least one part");
        return Err(ApiError::invalid(param, message));
    }
    let mut all = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let param = param.name("content").index(index);
        let (key, text) = match part.kind.as_str() {
            "text" => ("text", part.text),
            "refusal" if may_refuse => ("refusal", part.refusal),
            "refusal" => {
                let message = "`refusal` is a part of assistant messages only; use `text`";
                return Err(ApiError::invalid(param.name("type"), message));
            }
            kind => {
                let why = format!("`{kind}` is not supported: this model reads text only");
                return Err(ApiError::unsupported(param.name("type"), why));
            }
        };
        let text = text.ok_or_else(|| {
            let param = param.name(key);
            let message = format!("`{param}` is missing");
            ApiError::invalid(param, message)
        })?;
        all.push_str(&text);
    }
    Ok(all)
}

fn tool_call(
    param: &FieldPath,
    call: wire::ToolCall,
    arguments: &mut ArgumentsReader,
) -> Result<ToolCall, ApiError> {
    Ok(ToolCall {
        id: call.id,
        name: call.function.name,
        arguments: arguments.of_call(param, &call.function.arguments)?,
    })
}
