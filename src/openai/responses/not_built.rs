//! Parameters that OpenAI documents and this version does not support: refused by name, never silently
//! dropped.

use crate::http::error::ApiError;
use crate::openai::generation_params::refuse_asked;

use super::wire;

/// Refuses parameters that are known but not supported, unless their value asks for nothing.
pub(super) fn refuse(request: &wire::ResponseRequest) -> Result<(), ApiError> {
    const LEAVE_OUT: &str = "is not supported by this version; leave it out";
    let verbosity = request
        .text
        .as_ref()
        .and_then(|text| text.verbosity.as_ref());
    let retention = request.prompt_cache_retention.as_ref();
    let table = [
        (
            "background",
            request.background == Some(true),
            "is not supported as true; use `stream`, which a client can come back to",
        ),
        (
            "conversation",
            request.conversation.is_some(),
            "is not supported; go on from an earlier response with `previous_response_id`",
        ),
        (
            "prompt",
            request.prompt.is_some(),
            "is not supported: no prompt templates are kept here; write `instructions` and `input`",
        ),
        (
            "text.verbosity",
            verbosity.is_some_and(|v| v != "medium"),
            "is supported as `medium` only",
        ),
        (
            "context_management",
            request.context_management.is_some(),
            LEAVE_OUT,
        ),
        ("moderation", request.moderation.is_some(), LEAVE_OUT),
        (
            "prompt_cache_options",
            request.prompt_cache_options.is_some(),
            "is not supported: beginnings of prompts are kept while there is room; leave it out",
        ),
        (
            "prompt_cache_retention",
            retention.is_some_and(|v| v != "in_memory" && v != "in-memory"),
            "is supported as `in_memory` only",
        ),
        (
            "messages",
            request.messages.is_some(),
            "is of chat completions; use `input`",
        ),
        (
            "max_tokens",
            request.max_tokens.is_some(),
            "is of chat completions; use `max_output_tokens`",
        ),
        (
            "max_completion_tokens",
            request.max_completion_tokens.is_some(),
            "is of chat completions; use `max_output_tokens`",
        ),
        (
            "reasoning_effort",
            request.reasoning_effort.is_some(),
            "is of chat completions; use `reasoning.effort`",
        ),
    ];
    refuse_asked(table)?;
    refuse_forms(request)
}

/// Refuses the names that other endpoints or servers have for output formats.
fn refuse_forms(request: &wire::ResponseRequest) -> Result<(), ApiError> {
    let table = [
        (
            "response_format",
            request.response_format.is_some(),
            "is of chat completions; use `text.format`",
        ),
        (
            "structured_outputs",
            request.structured_outputs.is_some(),
            "is of chat completions; use `text.format`",
        ),
        (
            "guided_json",
            request.guided_json.is_some(),
            "is of chat completions; use `text.format`",
        ),
        (
            "json_schema",
            request.json_schema.is_some(),
            "is of chat completions; use `text.format`",
        ),
        (
            "grammar",
            request.grammar.is_some(),
            "is not supported: answers are held to JSON schemas alone; use `text.format`",
        ),
        (
            "guided_regex",
            request.guided_regex.is_some(),
            "is not supported: answers are held to JSON schemas alone; use `text.format`",
        ),
        (
            "guided_choice",
            request.guided_choice.is_some(),
            "is not supported; use `text.format` with an `enum`",
        ),
        (
            "guided_grammar",
            request.guided_grammar.is_some(),
            "is not supported: answers are held to JSON schemas alone; use `text.format`",
        ),
    ];
    refuse_asked(table)
}
