//! Checks a completion request and converts it for inference.

use crate::engine::Token;
use crate::http::error::ApiError;
use crate::inference::bounds::{LEAST_COMPLETION_TOKENS, LOGPROBS, MOST_PROMPTS};
use crate::inference::checks::{BoundsError, at_least, at_most, between, token};
use crate::inference::generate::{GenerationInput, GenerationRequest};
use crate::inference::params::{ChoiceCount, GenerationParams, OutputFormat};
use crate::openai::generation_params::{check_hints, streams};

use super::wire::{self, Prompt};

/// OpenAI's default of `max_tokens`.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// A checked request. Only the lengths of its prompts are still unchecked.
#[derive(Debug)]
pub(super) struct ValidCompletionRequest {
    pub(super) model: Option<String>,
    pub(super) request: GenerationRequest,
    pub(super) output: CompletionOutputOptions,
}

/// How the answers are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // what a client switches on and off
pub(super) struct CompletionOutputOptions {
    pub(super) stream: bool,
    pub(super) usage_chunk: bool,
    /// Whether the prompt comes before the answer.
    pub(super) echo: bool,
    /// Answers to each prompt.
    pub(super) choices: usize,
    pub(super) logprobs: bool,
}

impl TryFrom<wire::CompletionRequest> for ValidCompletionRequest {
    type Error = ApiError;

    fn try_from(mut request: wire::CompletionRequest) -> Result<Self, ApiError> {
        if request.suffix.as_ref().is_some_and(|text| !text.is_empty()) {
            let why = "is not supported: models are asked to go on, not to fill in";
            return Err(ApiError::unsupported("suffix", why));
        }
        if request.response_format.is_some() {
            let why = "is of chat completions; use `structured_outputs` with `json`";
            return Err(ApiError::unsupported("response_format", why));
        }
        check_hints(request.user.as_deref(), None, None)?;
        let choices = ChoiceCount::new(request.n)?;
        let best_of = request.best_of.map(|best| at_least("best_of", best, 1));
        if best_of
            .transpose()?
            .is_some_and(|best| best != choices.count())
        {
            let why = "is supported only where it equals `n`";
            return Err(ApiError::unsupported("best_of", why));
        }
        let logprobs = request
            .logprobs
            .map(|count| between("logprobs", count, LOGPROBS))
            .transpose()?
            .map(|count| count as usize);
        let echo = request.echo.unwrap_or(false);
        let stream = streams(request.stream, request.stream_options.is_some())?;
        let params = request.generation_params()?;
        let max_tokens = request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let format = request.schema(None)?;
        Ok(Self {
            model: request.model,
            request: GenerationRequest {
                inputs: inputs(request.prompt)?,
                params: GenerationParams {
                    max_tokens: Some(at_least("max_tokens", max_tokens, LEAST_COMPLETION_TOKENS)?),
                    choices,
                    logprobs,
                    prompt_logprobs: logprobs.filter(|_| echo),
                    format: format.map_or(OutputFormat::Free, OutputFormat::Json),
                    ..params
                },
                may_truncate: false,
            },
            output: CompletionOutputOptions {
                stream,
                usage_chunk: request
                    .stream_options
                    .and_then(|options| options.include_usage)
                    .unwrap_or(false),
                echo,
                choices: choices.count() as usize,
                logprobs: logprobs.is_some(),
            },
        })
    }
}

fn inputs(prompt: Option<Prompt>) -> Result<Vec<GenerationInput>, ApiError> {
    // OpenAI: "the model will generate as if from the beginning of a new document".
    let prompt = prompt.unwrap_or_else(|| Prompt::Text(String::new()));
    let inputs: Vec<GenerationInput> = match prompt {
        Prompt::Text(text) => vec![GenerationInput::Text(text)],
        Prompt::Texts(texts) => texts.into_iter().map(GenerationInput::Text).collect(),
        Prompt::Tokens(ids) if ids.is_empty() => Vec::new(),
        Prompt::Tokens(ids) => vec![GenerationInput::Tokens(tokens(&ids)?)],
        Prompt::TokenLists(lists) => lists
            .iter()
            .map(|ids| tokens(ids).map(GenerationInput::Tokens))
            .collect::<Result<_, _>>()?,
    };
    if inputs.is_empty() {
        let message = "`prompt` is empty: write something";
        return Err(ApiError::invalid("prompt", message));
    }
    at_most("prompt", inputs.len(), MOST_PROMPTS)?;
    Ok(inputs)
}

fn tokens(ids: &[i64]) -> Result<Vec<Token>, BoundsError> {
    ids.iter().map(|id| token("prompt", *id)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Value) -> Result<ValidCompletionRequest, ApiError> {
        ValidCompletionRequest::try_from(
            serde_json::from_value::<wire::CompletionRequest>(body).expect("types"),
        )
    }

    #[test]
    fn a_prompt_has_one_of_four_forms() {
        for (prompt, count) in [
            (json!("a"), 1),
            (json!(["a", "b"]), 2),
            (json!([1, 2, 3]), 1),
            (json!([[1, 2], [3]]), 2),
        ] {
            let completion = read(json!({"prompt": prompt})).expect("valid");
            assert_eq!(completion.request.inputs.len(), count);
            assert_eq!(completion.request.params.max_tokens, Some(16));
        }
        for nothing in [json!({}), json!({"prompt": null}), json!({"prompt": ""})] {
            let completion = read(nothing).expect("valid");
            assert!(
                matches!(&completion.request.inputs[..], [GenerationInput::Text(text)] if text.is_empty())
            );
        }
        assert!(read(json!({"prompt": []})).is_err());
        assert!(read(json!({"prompt": [-1]})).is_err());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (param, extra) in [
            ("suffix", json!({"suffix": "end"})),
            ("best_of", json!({"best_of": 3})),
            ("logprobs", json!({"logprobs": 6})),
            ("n", json!({"n": 0})),
            (
                "response_format",
                json!({"response_format": {"type": "json_object"}}),
            ),
            ("guided_regex", json!({"guided_regex": "a"})),
        ] {
            let mut body = json!({"prompt": "a"});
            let extra = extra.as_object().expect("an object").clone();
            body.as_object_mut().expect("an object").extend(extra);
            let error = read(body).expect_err("refused").body();
            assert_eq!(error["error"]["param"], param);
        }
    }
}
