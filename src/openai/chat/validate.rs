//! From what a client wrote to what the other rooms work with: every range
//! checked, every parameter that cannot be honoured refused by name.

use crate::grammar::Schema;
use crate::http::error::ApiError;
use crate::inference::bounds::LEAST_TOKENS;
use crate::inference::checks::at_least;
use crate::inference::params::{ChoiceCount, GenerationParams};
use crate::openai::generation_params::{check_hints, check_metadata, effort, rivals, streams};
use crate::openai::structured_outputs;
use crate::openai::template_kwargs::template_kwargs;
use crate::openai::tools::{self, CallLimit, Tools};
use crate::prompt::Conversation;

use super::end::{self, end};
use super::messages::{choice, messages, prediction, tools as offered};
use super::{not_built, wire};

/// A checked request. Only the length of its prompt is still unchecked.
#[derive(Debug)]
pub(super) struct ValidChatRequest {
    pub(super) model: Option<String>,
    pub(super) conversation: Conversation,
    pub(super) params: GenerationParams,
    pub(super) output: ChatOutputOptions,
}

/// How the answers are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChatOutputOptions {
    pub(super) stream: bool,
    pub(super) usage_chunk: bool,
    /// How many tool calls are parsed out of the text.
    pub(super) calls: CallLimit,
    /// Whether the log-probabilities of tokens are sent.
    pub(super) logprobs: bool,
}

impl TryFrom<wire::ChatCompletionRequest> for ValidChatRequest {
    type Error = ApiError;

    fn try_from(mut request: wire::ChatCompletionRequest) -> Result<Self, ApiError> {
        not_built::refuse(&request)?;
        check_metadata(request.metadata.as_ref())?;
        check_hints(
            request.user.as_deref(),
            request.prompt_cache_key.as_deref(),
            request.safety_identifier.as_deref(),
        )?;
        let stream = streams(request.stream, request.stream_options.is_some())?;
        let params = request.generation_params()?;
        let logprobs = logprobs(request.logprobs, request.top_logprobs)?;
        let max_tokens = match request.max_completion_tokens {
            Some(count) => Some(at_least("max_completion_tokens", count, LEAST_TOKENS)?),
            None => request
                .max_tokens
                .map(|count| at_least("max_tokens", count, LEAST_TOKENS))
                .transpose()?,
        };
        let format = request.response_format.as_ref().map(format);
        let format = request.schema(format.transpose()?.flatten())?;
        let tools = Tools::new(
            offered(request.tools.unwrap_or_default())?,
            request.tool_choice.map(choice).transpose()?,
            request.parallel_tool_calls,
            format,
        )?;
        let messages = messages(request.messages)?;
        let end = end(
            request.continue_final_message,
            request.add_generation_prompt,
            &messages,
        )?;
        end::check_form(end, &tools.format)?;
        Ok(Self {
            model: request.model,
            conversation: Conversation {
                messages,
                end,
                tools: tools.shown,
                effort: request
                    .reasoning_effort
                    .as_deref()
                    .map(|name| effort("reasoning_effort", name))
                    .transpose()?,
                template_kwargs: template_kwargs(request.chat_template_kwargs)?,
            },
            params: GenerationParams {
                max_tokens,
                prediction: request.prediction.map(prediction).transpose()?,
                choices: ChoiceCount::new(request.n)?,
                logprobs,
                format: tools.format,
                ..params
            },
            output: ChatOutputOptions {
                stream,
                usage_chunk: request
                    .stream_options
                    .and_then(|options| options.include_usage)
                    .unwrap_or(false),
                calls: tools.calls,
                logprobs: logprobs.is_some(),
            },
        })
    }
}

fn logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    let count = top.map(|count| rivals("top_logprobs", count)).transpose()?;
    match (wanted.unwrap_or(false), count) {
        (true, count) => Ok(Some(count.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` needs `logprobs` to be true",
        )),
    }
}

fn format(format: &wire::ResponseFormat) -> Result<Option<Schema>, ApiError> {
    const OLDER: &str = "response_format.schema";
    if let Some(schema) = &format.schema {
        let is_json = matches!(format.kind.as_str(), "json_object" | "json_schema");
        if is_json && format.json_schema.is_none() {
            return structured_outputs::read(OLDER, schema.clone()).map(Some);
        }
        let message =
            format!("`{OLDER}` is for a type of JSON without a `json_schema`: leave one out");
        return Err(ApiError::invalid(OLDER, message));
    }
    let schema = format.json_schema.as_ref().map(|schema| {
        let strict = schema.strict.unwrap_or(false);
        (schema.name.as_str(), schema.schema.clone(), strict)
    });
    let at = ("response_format.type", "response_format.json_schema");
    tools::format(at, &format.kind, schema)
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
