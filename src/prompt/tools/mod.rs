//! Tool calls as models write them: which format a model has, how calls are found in what it
//! generates, and the grammar that makes it write one.

mod grammar;
mod head;
mod in_words;
mod parser;
#[cfg(test)]
mod parser_tests;

pub use grammar::{CallableFunction, calls, opened_calls};
pub(super) use in_words::LeftOut;
pub use parser::AnswerPart;
pub(super) use parser::ToolCallParser;
pub(super) use parser::partial_tag;

/// How a model writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// Hermes 2 Pro, Qwen2.5, Qwen3 (Qwen documentation, "Function Calling"): any number of
    /// `<tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>`, text before or between.
    Hermes,
    /// Llama 3.1 and later (its model card, "JSON based tool calling"): an answer that is nothing
    /// but `{"name": "f", "parameters": {…}}`, perhaps after `<|python_tag|>`.
    Llama,
    /// Mistral (mistral-common): `[TOOL_CALLS][{"name": "f", "arguments": {…}}, …]`.
    Mistral,
    /// Mistral since its tokenizer v11: `[TOOL_CALLS]f[ARGS]{…}` for each call, between them
    /// `[CALL_ID]` and an id in some versions.
    MistralNamed,
}

impl ToolFormat {
    /// Returns the format of a model with this chat template: what templates write for the calls of
    /// earlier turns is what the model was trained on.
    #[must_use]
    pub fn of(template: &str) -> Self {
        if template.contains("[TOOL_CALLS]") {
            if template.contains(head::ARGS) {
                Self::MistralNamed
            } else {
                Self::Mistral
            }
        } else if !template.contains("<tool_call>")
            && (template.contains("<|python_tag|>") || template.contains("\"parameters\": "))
        {
            Self::Llama
        } else {
            Self::Hermes
        }
    }

    /// Returns the text that a call begins with; empty where the whole answer is the call.
    fn open(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama => "",
            Self::Mistral | Self::MistralNamed => "[TOOL_CALLS]",
        }
    }

    /// Returns the text after which a call must follow, if this format has one: where a whole answer is the
    /// call, as in Llama's, nothing distinguishes it from JSON that is meant to be read.
    #[must_use]
    pub fn opener(self) -> Option<&'static str> {
        Some(self.open()).filter(|open| !open.is_empty())
    }

    /// Returns the markup of a call, as texts that may be tokens of their own.
    pub(super) fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", parser::CLOSE],
            Self::Llama => &[head::PYTHON_TAG],
            Self::Mistral | Self::MistralNamed => &["[TOOL_CALLS]", head::ARGS, head::CALL_ID],
        }
    }

    /// The key of a call's arguments.
    fn arguments(self) -> &'static str {
        match self {
            Self::Hermes | Self::Mistral | Self::MistralNamed => "arguments",
            Self::Llama => "parameters",
        }
    }
}
