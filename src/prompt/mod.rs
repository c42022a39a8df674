//! From a conversation to tokens, and from generated text to tool calls.
//!
//! A chat model was trained on one exact layout of turns, which its GGUF carries as a Jinja template.
//! [`ChatTemplate`] renders it as Hugging Face transformers does, [`Prompter`] turns the result into tokens
//! so that nothing a client wrote can pose as a turn border, and [`OutputParser`] reads the way back.
//!
//! This room knows neither queues nor SSE, and of the engine only its [`Vocabulary`](crate::engine::Vocabulary).

mod bounds;
mod client_marks;
mod clock;
mod conversation;
mod encode;
mod exact;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod markup;
mod output;
mod probe;
mod python;
mod template;
mod thinking;
mod tools;
mod turns;

#[cfg(test)]
mod encode_tests;
#[cfg(test)]
mod jinja_tests;
#[cfg(test)]
mod template_tests;

pub(crate) use conversation::joined;
pub use conversation::{Conversation, Message, PromptEnd, ReasoningEffort, Role, ToolCall};
pub use encode::{Prompt, PromptError, Prompter};
pub use exact::{is_exact_number, vanishing_number, with_exact_numbers};
pub use output::{OutputParser, OutputPiece, ReaderChannel, TextSpan};
pub use template::{ChatTemplate, TemplateError};
pub use thinking::ThoughtTags;
pub use tools::{AnswerPart, CallableFunction, ToolFormat, calls, opened_calls};
