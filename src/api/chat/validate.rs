//! From what a client wrote to what the other rooms work with: every range
//! checked, every parameter that cannot be honoured refused by name.

use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::engine::{SamplingDefaults, Token};
use crate::prompt::Conversation;
use crate::sampling::SamplingParams;
use crate::scheduler::Class;

use super::messages::{messages, prediction, tools};
use super::{not_built, wire};

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
    /// The service tier, if the request names one.
    pub(super) class: Option<Class>,
    /// The text that the answer is expected to be.
    pub(super) prediction: Option<String>,
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
        not_built::refuse(&request)?;
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
            class: request.service_tier.as_deref().map(class).transpose()?,
            prediction: request.prediction.map(prediction).transpose()?,
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

fn class(tier: &str) -> Result<Class, ApiError> {
    match tier {
        "auto" | "default" => Ok(Class::Default),
        "flex" => Ok(Class::Flex),
        "priority" => Ok(Class::Priority),
        _ => Err(ApiError::invalid(
            "service_tier",
            "`service_tier` must be `auto`, `default`, `flex` or `priority`",
        )),
    }
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
