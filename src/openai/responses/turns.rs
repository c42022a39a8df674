//! Converts items to the messages that a chat template renders.

use std::collections::HashSet;

use crate::field::FieldPath;
use crate::http::error::ApiError;
use crate::openai::tools::ArgumentsReader;
use crate::prompt::{self, Message, ToolCall};

use super::items::{FunctionOutput, ItemPart, ItemRole, ItemStatus, ResponseItem};

/// A conversation under construction.
#[derive(Debug, Default)]
pub(super) struct Turns {
    messages: Vec<Message>,
    /// The ids of the tool calls so far.
    calls: HashSet<String>,
    arguments: ArgumentsReader,
    /// The bytes that items may take together, and those of the items so far.
    most_bytes: usize,
    bytes: usize,
}

impl Turns {
    /// Creates a conversation that has only the instructions.
    pub(super) fn new(instructions: Option<&str>, most_bytes: usize) -> Self {
        let system = instructions.map(|text| Message::text(prompt::Role::System, text));
        Self {
            messages: system.into_iter().collect(),
            most_bytes,
            ..Self::default()
        }
    }

    /// Appends an item, which stands at the path `at` of the request.
    pub(super) fn add(&mut self, item: &ResponseItem, at: &FieldPath) -> Result<(), ApiError> {
        // A reference takes a few bytes of the body and may expand to megabytes, repeatedly.
        self.bytes = self.bytes.saturating_add(item.size());
        if self.bytes > self.most_bytes {
            let most = self.most_bytes;
            let message = format!(
                "`{at}`: with it the conversation has more than {most} bytes, which no model here reads: \
                 leave older items out"
            );
            return Err(ApiError::invalid(at, message));
        }
        match item {
            ResponseItem::Message { role, content, .. } => {
                let text = text(content);
                let role = match role {
                    ItemRole::User => prompt::Role::User,
                    ItemRole::System => prompt::Role::System,
                    ItemRole::Developer => prompt::Role::Developer,
                    ItemRole::Assistant => prompt::Role::Assistant,
                };
                self.messages.push(Message::text(role, text));
            }
            ResponseItem::FunctionCall {
                call_id,
                name,
                arguments,
                status,
                ..
            } => {
                let at = at.name("arguments");
                let arguments = self.arguments.of_call(&at, arguments)?;
                // A call that was cut off is ignored.
                if *status == ItemStatus::Incomplete && !arguments.is_object() {
                    return Ok(());
                }
                self.call(ToolCall {
                    id: call_id.clone(),
                    name: name.clone(),
                    arguments,
                });
            }
            ResponseItem::FunctionCallOutput {
                call_id, output, ..
            } => {
                if !self.calls.contains(call_id) {
                    let at = at.name("call_id");
                    let message = format!(
                        "`{at}`: no function call with the `call_id` `{call_id}` comes before its \
                         output: send the call as well, or name its response in \
                         `previous_response_id`"
                    );
                    return Err(ApiError::invalid(at, message));
                }
                let output = match output {
                    FunctionOutput::Text(text) => text.clone(),
                    FunctionOutput::Parts(parts) => text(parts),
                };
                let mut message = Message::text(prompt::Role::Tool, output);
                message.tool_call_id = Some(call_id.clone());
                self.messages.push(message);
            }
            // Left out: models are trained without the thoughts of earlier turns.
            ResponseItem::Reasoning { .. } => {}
        }
        Ok(())
    }

    /// Adds a tool call to the assistant's message, if that is the last one, or to a new one.
    fn call(&mut self, call: ToolCall) {
        self.calls.insert(call.id.clone());
        match self.messages.last_mut() {
            Some(last) if last.role == prompt::Role::Assistant => last.tool_calls.push(call),
            _ => self.messages.push(Message {
                role: prompt::Role::Assistant,
                content: None,
                name: None,
                tool_calls: vec![call],
                tool_call_id: None,
            }),
        }
    }

    pub(super) fn into_messages(self) -> Vec<Message> {
        self.messages
    }
}

/// Concatenates the texts of parts.
fn text(parts: &[ItemPart]) -> String {
    parts.iter().map(ItemPart::text).collect()
}
