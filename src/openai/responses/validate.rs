//! Checks a response request and converts it for inference: every range is checked, and every parameter
//! that cannot be honoured is refused by name.

use serde_json::{Map, Value};

use crate::field::FieldPath;
use crate::grammar::Schema;
use crate::http::error::ApiError;
use crate::http::parse::understand;
use crate::inference::bounds::{LEAST_TOKENS, LONGEST_DESCRIPTION};
use crate::inference::checks::{at_least, no_longer, short};
use crate::inference::params::GenerationParams;
use crate::openai::generation_params::{check_hints, check_metadata, effort, rivals, streams};
use crate::openai::template_kwargs::template_kwargs;
use crate::openai::tools::{self, CallLimit, Tools};
use crate::prompt::ReasoningEffort;

use super::items::{ResponseItemInput, read_input};
use super::reply::{RequestEcho, ResponseReasoning, ResponseText, ResponseTextFormat};
use super::tools::{choice, echoed_choice, offered};
use super::{not_built, wire};

/// A checked request. Only its references and the length of its prompt are still unchecked.
#[derive(Debug)]
pub(super) struct ValidResponseRequest {
    pub(super) model: Option<String>,
    /// The id of the response that this one continues.
    pub(super) previous: Option<String>,
    pub(super) input: Vec<ResponseItemInput>,
    /// The tools that the model is shown.
    pub(super) tools: Vec<Value>,
    pub(super) effort: Option<ReasoningEffort>,
    pub(super) template_kwargs: Map<String, Value>,
    pub(super) params: GenerationParams,
    /// Whether the oldest turns may be dropped if the conversation exceeds the context.
    pub(super) may_truncate: bool,
    pub(super) output: ResponseOutputOptions,
    /// Whether `store` is explicitly true, rather than absent.
    pub(super) asks_to_store: bool,
    pub(super) echo: RequestEcho,
}

/// How the answer is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseOutputOptions {
    pub(super) stream: bool,
    /// Whether deltas are padded, so that their lengths reveal nothing.
    pub(super) obfuscate: bool,
    /// How many tool calls are parsed out of the text.
    pub(super) calls: CallLimit,
    /// Whether the log-probabilities of tokens are sent.
    pub(super) logprobs: bool,
}

impl TryFrom<wire::ResponseRequest> for ValidResponseRequest {
    type Error = ApiError;

    fn try_from(mut request: wire::ResponseRequest) -> Result<Self, ApiError> {
        not_built::refuse(&request)?;
        check_metadata(request.metadata.as_ref())?;
        check_hints(
            request.user.as_deref(),
            request.prompt_cache_key.as_deref(),
            request.safety_identifier.as_deref(),
        )?;
        if let Some(id) = &request.previous_response_id {
            short("previous_response_id", id)?;
        }
        let stream = streams(request.stream, request.stream_options.is_some())?;
        let params = request.generation_params()?;
        let logprobs = logprobs(&request)?;
        let max_output_tokens = request
            .max_output_tokens
            .map(|count| at_least("max_output_tokens", count, LEAST_TOKENS))
            .transpose()?;
        let max_tool_calls = request
            .max_tool_calls
            .map(|count| at_least("max_tool_calls", count, LEAST_TOKENS))
            .transpose()?;
        let truncation = truncation(request.truncation.as_deref())?;
        let class = params.class;
        let reasoning = reasoning(request.reasoning)?;
        let effort = reasoning
            .effort
            .as_deref()
            .map(|name| effort("reasoning.effort", name))
            .transpose()?;
        let (format, schema) = format(request.text.and_then(|text| text.format))?;
        let input = read_input(request.input)?;
        let (offered, told) =
            offered(request.tools.unwrap_or_default(), &request.tools_as_written)?;
        let tool_choice = request.tool_choice.as_ref().map(choice).transpose()?;
        let tool_choice_told = echoed_choice(tool_choice.as_ref());
        let parallel = request.parallel_tool_calls;
        let tools = Tools::new(offered, tool_choice, parallel, schema)?;
        Ok(Self {
            model: request.model,
            previous: request.previous_response_id.clone(),
            input,
            tools: tools.shown,
            effort,
            template_kwargs: template_kwargs(request.chat_template_kwargs)?,
            params: GenerationParams {
                max_tokens: max_output_tokens,
                logprobs,
                format: tools.format,
                ..params
            },
            may_truncate: truncation == "auto",
            output: ResponseOutputOptions {
                stream,
                obfuscate: request
                    .stream_options
                    .and_then(|options| options.include_obfuscation)
                    .unwrap_or(false),
                calls: tools.calls,
                logprobs: logprobs.is_some(),
            },
            asks_to_store: request.store == Some(true),
            echo: RequestEcho {
                instructions: request.instructions,
                max_output_tokens,
                max_tool_calls,
                metadata: request.metadata.unwrap_or_default(),
                parallel_tool_calls: parallel.unwrap_or(true),
                previous_response_id: request.previous_response_id,
                prompt_cache_key: request.prompt_cache_key,
                reasoning,
                safety_identifier: request.safety_identifier,
                service_tier: class.unwrap_or_default().as_str(),
                store: request.store.unwrap_or(true),
                text: ResponseText {
                    format,
                    verbosity: "medium",
                },
                tool_choice: tool_choice_told,
                tools: told,
                top_logprobs: logprobs.unwrap_or(0),
                truncation,
                user: request.user,
            },
        })
    }
}

fn truncation(asked: Option<&str>) -> Result<&'static str, ApiError> {
    match asked {
        None | Some("disabled") => Ok("disabled"),
        Some("auto") => Ok("auto"),
        Some(_) => Err(ApiError::invalid(
            "truncation",
            "`truncation` must be `auto` or `disabled`",
        )),
    }
}

/// Returns how many top log-probabilities are sent per token; `None` if neither `include` nor `top_logprobs`
/// asks for log-probabilities.
fn logprobs(request: &wire::ResponseRequest) -> Result<Option<usize>, ApiError> {
    let mut wanted = false;
    for (index, name) in request.include.iter().flatten().enumerate() {
        match name.as_str() {
            "message.output_text.logprobs" => wanted = true,
            // Reasoning is sent as text, which clients can send back just as well.
            "reasoning.encrypted_content" => {}
            "file_search_call.results"
            | "web_search_call.results"
            | "web_search_call.action.sources"
            | "message.input_image.image_url"
            | "computer_call_output.output.image_url"
            | "code_interpreter_call.outputs" => {
                let why = format!(
                    "`{name}` is of something that this server does not have; leave it out"
                );
                return Err(ApiError::unsupported(
                    FieldPath::from("include").index(index),
                    why,
                ));
            }
            _ => {
                let at = FieldPath::from("include").index(index);
                let message = format!(
                    "`{at}` must be `message.output_text.logprobs` or \
                     `reasoning.encrypted_content`"
                );
                return Err(ApiError::invalid(at, message));
            }
        }
    }
    let count = request
        .top_logprobs
        .map(|count| rivals("top_logprobs", count))
        .transpose()?
        .unwrap_or(0);
    Ok((wanted || count > 0).then_some(count))
}

fn reasoning(asked: Option<wire::ReasoningOptions>) -> Result<ResponseReasoning, ApiError> {
    let Some(asked) = asked else {
        return Ok(ResponseReasoning::default());
    };
    let summaries = [
        ("reasoning.summary", &asked.summary),
        ("reasoning.generate_summary", &asked.generate_summary),
    ];
    for (at, summary) in summaries {
        match summary.as_deref() {
            None | Some("auto") => {}
            Some("concise" | "detailed") => {
                let why = "is supported as `auto` only: thoughts are told as they are";
                return Err(ApiError::unsupported(at, why));
            }
            Some(_) => {
                let message = format!("`{at}` must be `auto`, `concise` or `detailed`");
                return Err(ApiError::invalid(at, message));
            }
        }
    }
    Ok(ResponseReasoning {
        effort: asked.effort,
        summary: asked.summary,
    })
}

/// Reads `text.format` and returns its echo and the schema that the answer must fit.
fn format(asked: Option<Value>) -> Result<(ResponseTextFormat, Option<Schema>), ApiError> {
    const AT: &str = "text.format";
    let asked: wire::TextFormat = match asked {
        None | Some(Value::Null) => return Ok((ResponseTextFormat::Text, None)),
        Some(asked) => understand(AT, &asked)?,
    };
    let missing = |name: &'static str| {
        let at = FieldPath::from(AT).name(name);
        let message = format!("`{at}` is missing: a `json_schema` format needs one");
        ApiError::invalid(at, message)
    };
    let strict = asked.strict.unwrap_or(false);
    if asked.kind != "json_schema" {
        if asked.schema.is_some() {
            let at = FieldPath::from(AT).name("schema");
            let message = format!("`{at}` needs `{AT}.type` to be `json_schema`");
            return Err(ApiError::invalid(at, message));
        }
        let schema = tools::format(("text.format.type", AT), &asked.kind, None)?;
        let format = if schema.is_some() {
            ResponseTextFormat::JsonObject
        } else {
            ResponseTextFormat::Text
        };
        return Ok((format, schema));
    }
    if let Some(description) = &asked.description {
        no_longer("text.format.description", description, LONGEST_DESCRIPTION)?;
    }
    let name = asked.name.ok_or_else(|| missing("name"))?;
    let schema = asked.schema.ok_or_else(|| missing("schema"))?;
    let described = Some((name.as_str(), Some(schema.clone()), strict));
    let checked = tools::format(("text.format.type", AT), &asked.kind, described)?;
    let format = ResponseTextFormat::JsonSchema {
        name,
        description: asked.description,
        schema,
        strict,
    };
    Ok((format, checked))
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
