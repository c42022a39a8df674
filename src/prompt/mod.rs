//! From a conversation to tokens, and from generated text to tool calls.
//!
//! A chat model was trained on one exact layout of turns, which its GGUF carries as a Jinja template.
//! [`ChatTemplate`] renders it as Hugging Face transformers does, [`Prompter`] turns the result into tokens
//! so that nothing a client wrote can pose as a turn border, and [`ToolCallParser`] reads the way back.
//!
//! This room knows neither queues nor SSE, and of the engine only its [`Vocabulary`](crate::engine::Vocabulary).

mod clock;
mod conversation;
mod encode;
mod guard;
mod json;
mod markup;
mod template;
mod tools;

#[cfg(test)]
mod encode_tests;
#[cfg(test)]
mod template_tests;

pub use conversation::{Conversation, Message, Role, ToolCall};
pub use encode::{PromptError, Prompter};
pub use template::{ChatTemplate, TemplateError};
pub use tools::{Part, ToolCallParser};
