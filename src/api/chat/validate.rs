//! From what a client wrote to what the other rooms work with: every range
//! checked, every parameter that cannot be honoured refused by name.

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::engine::{SamplingDefaults, Token};
use crate::prompt::{Conversation, Message, Role, ToolCall};
use crate::sampling::SamplingParams;

use super::wire;

/// These are looked at for every token of an answer, on the thread that serves everybody.
const LONGEST_STOP: usize = 256;
const MOST_TOKENS: usize = 1024;

/// A request that can be answered, but for the length of its prompt.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) model: Option<String>,
    pub(super) conversation: Conversation,
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: Sampling,
    pub(super) stops: Vec<String>,
    pub(super) stop_tokens: Vec<Token>,
    pub(super) ignore_end: bool,
    pub(super) output: Output,
}

impl Chat {
    /// Tokens that the messages have at least, when one token stands for `longest_piece` bytes
    /// at most and every message has a border.
    pub(super) fn least_tokens(&self, longest_piece: usize) -> usize {
        let messages = &self.conversation.messages;
        let bytes: usize = messages
            .iter()
            .filter_map(|message| Some(message.content.as_ref()?.len()))
            .sum();
        messages.len().max(bytes / longest_piece.max(1))
    }
}

/// How the answer is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) stream: bool,
    pub(super) usage_chunk: bool,
    /// Whether tool calls are looked for in the text, and how many are wanted.
    pub(super) tool_calls: ToolCalls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToolCalls {
    None,
    One,
    Any,
}

/// What the request says of sampling; the rest is the model's recommendation or OpenAI's default.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repeat_penalty: Option<f32>,
    logit_bias: Vec<(Token, f32)>,
    seed: Option<u64>,
}

impl Sampling {
    /// `seed` is used when the request has none.
    pub(super) fn resolve(self, model: &SamplingDefaults, seed: u64) -> SamplingParams {
        let base = SamplingParams::default();
        SamplingParams {
            temperature: self
                .temperature
                .or(model.temperature)
                .unwrap_or(base.temperature),
            top_p: self.top_p.or(model.top_p).unwrap_or(base.top_p),
            top_k: self.top_k.or(model.top_k).unwrap_or(base.top_k),
            min_p: self.min_p.or(model.min_p).unwrap_or(base.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            repeat_penalty: self.repeat_penalty.unwrap_or(base.repeat_penalty),
            logit_bias: self.logit_bias,
            seed: self.seed.unwrap_or(seed),
        }
    }
}

impl TryFrom<wire::ChatRequest> for Chat {
    type Error = ApiError;

    fn try_from(request: wire::ChatRequest) -> Result<Self, ApiError> {
        refuse_what_is_not_built(&request)?;
        let sampling = sampling(&request)?;
        let max_tokens = match request.max_completion_tokens {
            Some(count) => Some(at_least("max_completion_tokens", count, 1)?),
            None => request
                .max_tokens
                .map(|count| at_least("max_tokens", count, 1))
                .transpose()?,
        };
        let offers_tools = request
            .tools
            .as_ref()
            .is_some_and(|tools| !tools.is_empty());
        let calls = tool_calls(
            request.tool_choice.as_ref(),
            offers_tools,
            request.parallel_tool_calls,
        )?;
        let tools = match calls {
            // `none` means that the model shall not call any: it is not shown them.
            ToolCalls::None => Vec::new(),
            ToolCalls::One | ToolCalls::Any => tools(request.tools.unwrap_or_default())?,
        };
        Ok(Self {
            model: request.model,
            conversation: Conversation {
                messages: messages(request.messages)?,
                tools,
            },
            max_tokens,
            sampling,
            stops: stops(request.stop)?,
            stop_tokens: stop_tokens(request.stop_token_ids)?,
            ignore_end: request.ignore_eos.unwrap_or(false),
            output: Output {
                stream: request.stream.unwrap_or(false),
                usage_chunk: request
                    .stream_options
                    .and_then(|options| options.include_usage)
                    .unwrap_or(false),
                tool_calls: calls,
            },
        })
    }
}

/// Parameters of OpenAI's that are known and not built pass only with a value that asks for nothing.
fn refuse_what_is_not_built(request: &wire::ChatRequest) -> Result<(), ApiError> {
    const NOT_YET: &str = "is not supported by this version; leave it out";
    if let Some(n) = request.n {
        if n < 1 {
            return Err(ApiError::invalid("n", "`n` must be at least 1"));
        }
        if n > 1 {
            let why = "is not supported above 1; send the request several times";
            return Err(ApiError::unsupported("n", why));
        }
    }
    let table: [(&str, &Option<Value>, &[Value], &str); 13] = [
        ("logprobs", &request.logprobs, &[json!(false)], NOT_YET),
        ("top_logprobs", &request.top_logprobs, &[json!(0)], NOT_YET),
        ("store", &request.store, &[json!(false)], NOT_YET),
        (
            "response_format",
            &request.response_format,
            &[json!({"type": "text"})],
            "is supported as {\"type\": \"text\"} only",
        ),
        (
            "service_tier",
            &request.service_tier,
            &[json!("auto"), json!("default")],
            "is supported as `auto` or `default` only",
        ),
        (
            "modalities",
            &request.modalities,
            &[json!(["text"])],
            "is supported as [\"text\"] only",
        ),
        (
            "functions",
            &request.functions,
            &[],
            "is OpenAI's old form; use `tools`",
        ),
        (
            "function_call",
            &request.function_call,
            &[],
            "is OpenAI's old form; use `tool_choice`",
        ),
        ("prediction", &request.prediction, &[], NOT_YET),
        ("audio", &request.audio, &[], NOT_YET),
        ("reasoning_effort", &request.reasoning_effort, &[], NOT_YET),
        ("verbosity", &request.verbosity, &[], NOT_YET),
        (
            "web_search_options",
            &request.web_search_options,
            &[],
            NOT_YET,
        ),
    ];
    for (param, value, harmless, why) in table {
        if value
            .as_ref()
            .is_some_and(|value| !harmless.contains(value))
        {
            return Err(ApiError::unsupported(param, why));
        }
    }
    Ok(())
}

fn sampling(request: &wire::ChatRequest) -> Result<Sampling, ApiError> {
    let penalty = |name, value: Option<f64>| within(name, value, -2.0, 2.0);
    let top_p = within("top_p", request.top_p, 0.0, 1.0)?;
    let repeat_penalty = within("repeat_penalty", request.repeat_penalty, 0.0, 10.0)?;
    if repeat_penalty == Some(0.0) {
        return Err(ApiError::invalid(
            "repeat_penalty",
            "`repeat_penalty` must be above 0; 1 is off",
        ));
    }
    Ok(Sampling {
        temperature: within("temperature", request.temperature, 0.0, 2.0)?,
        top_p,
        top_k: request.top_k.map(|k| at_least("top_k", k, 0)).transpose()?,
        min_p: within("min_p", request.min_p, 0.0, 1.0)?,
        presence_penalty: penalty("presence_penalty", request.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", request.frequency_penalty)?,
        repeat_penalty,
        logit_bias: logit_bias(request.logit_bias.as_ref())?,
        seed: request.seed.map(i64::cast_unsigned),
    })
}

fn logit_bias(map: Option<&Map<String, Value>>) -> Result<Vec<(Token, f32)>, ApiError> {
    at_most("logit_bias", map.map_or(0, Map::len), MOST_TOKENS)?;
    map.into_iter()
        .flatten()
        .map(|(key, value)| {
            let param = format!("logit_bias.{key}");
            let id = key.parse().map_err(|_| {
                ApiError::invalid(&param, format!("`logit_bias`: `{key}` is not a token id"))
            })?;
            let bias = value
                .as_f64()
                .ok_or_else(|| ApiError::invalid(&param, format!("`{param}` must be a number")))?;
            let bias = within(&param, Some(bias), -100.0, 100.0)?.unwrap_or(0.0);
            Ok((token(&param, id)?, bias))
        })
        .collect()
}

fn stops(stop: Option<wire::Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(wire::Stop::One(stop)) => vec![stop],
        Some(wire::Stop::Several(stops)) => stops,
    };
    if stops.len() > 4 {
        return Err(ApiError::invalid("stop", "`stop` takes at most 4 strings"));
    }
    if stops.iter().any(|stop| stop.len() > LONGEST_STOP) {
        return Err(ApiError::invalid(
            "stop",
            format!("a string of `stop` may have at most {LONGEST_STOP} bytes"),
        ));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid(
            "stop",
            "`stop` must not hold an empty string",
        ));
    }
    Ok(stops)
}

fn stop_tokens(ids: Option<Vec<i64>>) -> Result<Vec<Token>, ApiError> {
    let ids = ids.unwrap_or_default();
    at_most("stop_token_ids", ids.len(), MOST_TOKENS)?;
    ids.into_iter()
        .map(|id| token("stop_token_ids", id))
        .collect()
}

fn tool_calls(
    choice: Option<&Value>,
    offered: bool,
    parallel: Option<bool>,
) -> Result<ToolCalls, ApiError> {
    let wanted = match choice {
        None | Some(Value::Null) => offered,
        Some(Value::String(choice)) if choice == "none" => false,
        Some(Value::String(choice)) if choice == "auto" => offered,
        Some(Value::String(choice)) if choice == "required" => {
            return Err(ApiError::unsupported(
                "tool_choice",
                "is supported as `auto` or `none` only",
            ));
        }
        Some(Value::Object(_)) => {
            return Err(ApiError::unsupported(
                "tool_choice",
                "cannot name a function yet; use `auto` or `none`",
            ));
        }
        Some(_) => {
            return Err(ApiError::invalid(
                "tool_choice",
                "`tool_choice` must be `auto` or `none`",
            ));
        }
    };
    Ok(match (wanted, parallel) {
        (false, _) => ToolCalls::None,
        (true, Some(false)) => ToolCalls::One,
        (true, _) => ToolCalls::Any,
    })
}

fn tools(tools: Vec<wire::Tool>) -> Result<Vec<Value>, ApiError> {
    tools
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let param = format!("tools[{index}]");
            if tool.kind != "function" {
                return Err(ApiError::unsupported(
                    format!("{param}.type"),
                    format!("`{}` is not supported; use `function`", tool.kind),
                ));
            }
            let function = tool.function.ok_or_else(|| {
                ApiError::invalid(format!("{param}.function"), "a tool needs a `function`")
            })?;
            let mut body = Map::new();
            body.insert("name".to_owned(), Value::String(function.name));
            body.extend(function.rest);
            let mut object = Map::new();
            object.insert("type".to_owned(), Value::String(tool.kind));
            object.insert("function".to_owned(), Value::Object(body));
            object.extend(tool.rest);
            Ok(Value::Object(object))
        })
        .collect()
}

fn messages(messages: Vec<wire::Message>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "`messages` must hold at least one message",
        ));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| self::message(&format!("messages[{index}]"), message))
        .collect()
}

fn message(param: &str, message: wire::Message) -> Result<Message, ApiError> {
    let tool_calls = message
        .tool_calls
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(index, call)| tool_call(&format!("{param}.tool_calls[{index}]"), call))
        .collect::<Result<Vec<_>, _>>()?;
    let content = message
        .content
        .map(|content| text(param, content))
        .transpose()?;
    let may_be_empty = message.role == wire::Role::Assistant && !tool_calls.is_empty();
    if content.is_none() && !may_be_empty {
        return Err(ApiError::invalid(
            format!("{param}.content"),
            format!("`{param}.content` is missing"),
        ));
    }
    if message.role == wire::Role::Tool && message.tool_call_id.is_none() {
        return Err(ApiError::invalid(
            format!("{param}.tool_call_id"),
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

/// Text parts follow each other with nothing between them.
fn text(param: &str, content: wire::Content) -> Result<String, ApiError> {
    let parts = match content {
        wire::Content::Text(text) => return Ok(text),
        wire::Content::Parts(parts) => parts,
    };
    let mut all = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let param = format!("{param}.content[{index}]");
        if part.kind != "text" {
            return Err(ApiError::unsupported(
                format!("{param}.type"),
                format!(
                    "`{}` is not supported: this model reads text only",
                    part.kind
                ),
            ));
        }
        let text = part.text.ok_or_else(|| {
            ApiError::invalid(
                format!("{param}.text"),
                format!("`{param}.text` is missing"),
            )
        })?;
        all.push_str(&text);
    }
    Ok(all)
}

fn tool_call(param: &str, call: wire::ToolCall) -> Result<ToolCall, ApiError> {
    // Clients write a call without arguments in either way.
    let text = match call.function.arguments.trim() {
        "" => "{}",
        text => text,
    };
    let arguments: Value = serde_json::from_str(text)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| {
            let param = format!("{param}.function.arguments");
            let message = format!("`{param}` must be a JSON object in a string");
            ApiError::invalid(param, message)
        })?;
    Ok(ToolCall {
        id: call.id,
        name: call.function.name,
        arguments,
    })
}

#[allow(clippy::cast_possible_truncation)] // sampling needs no more than an f32
fn within(param: &str, value: Option<f64>, least: f64, most: f64) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(ApiError::invalid(
            param,
            format!("`{param}` must be between {least} and {most}; it is {value}"),
        )),
        value => Ok(value.map(|value| value as f32)),
    }
}

fn at_least(param: &str, value: i64, least: i64) -> Result<u32, ApiError> {
    if value < least {
        return Err(ApiError::invalid(
            param,
            format!("`{param}` must be at least {least}; it is {value}"),
        ));
    }
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

fn at_most(param: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count > most {
        return Err(ApiError::invalid(
            param,
            format!("`{param}` takes at most {most} entries; there are {count}"),
        ));
    }
    Ok(())
}

fn token(param: &str, id: i64) -> Result<Token, ApiError> {
    i32::try_from(id)
        .ok()
        .filter(|id| *id >= 0)
        .map(Token)
        .ok_or_else(|| ApiError::invalid(param, format!("`{param}`: {id} is not a token id")))
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
