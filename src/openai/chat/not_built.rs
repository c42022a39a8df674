//! Parameters that OpenAI and vLLM document and this version does not support: refused by name, never
//! silently dropped.

use crate::http::error::ApiError;
use crate::openai::generation_params::refuse_asked;

use super::wire;

/// Refuses parameters that are known but not supported, unless their value asks for nothing.
pub(super) fn refuse(request: &wire::ChatCompletionRequest) -> Result<(), ApiError> {
    const NOT_YET: &str = "is not supported by this version; leave it out";
    let speaks = |modalities: &Vec<String>| modalities.iter().any(|kind| kind != "text");
    let table = [
        (
            "store",
            request.store == Some(true),
            "is not supported as true: chat completions are not kept",
        ),
        (
            "modalities",
            request.modalities.as_ref().is_some_and(speaks),
            "is supported as [\"text\"] only",
        ),
        (
            "functions",
            request.functions.is_some(),
            "is OpenAI's old form; use `tools`",
        ),
        (
            "function_call",
            request.function_call.is_some(),
            "is OpenAI's old form; use `tool_choice`",
        ),
        ("audio", request.audio.is_some(), NOT_YET),
        (
            "verbosity",
            request.verbosity.as_ref().is_some_and(|v| v != "medium"),
            "is supported as \"medium\" only",
        ),
        (
            "web_search_options",
            request.web_search_options.is_some(),
            NOT_YET,
        ),
    ];
    let template = "is not supported: the template of the model's file is used";
    let theirs = [
        ("chat_template", request.chat_template.is_some(), template),
        (
            "documents",
            request.documents.is_some(),
            "is not supported: put them into a message",
        ),
    ];
    refuse_asked(table.into_iter().chain(theirs))
}
