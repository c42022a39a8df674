//! What OpenAI documents and this version cannot do: refused by name, never silently dropped.

use serde_json::{Value, json};

use crate::api::error::ApiError;

use super::wire;

/// Parameters of OpenAI's that are known and not built pass only with a value that asks for nothing.
pub(super) fn refuse(request: &wire::ChatRequest) -> Result<(), ApiError> {
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
    let table: [(&str, &Option<Value>, &[Value], &str); 11] = [
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
