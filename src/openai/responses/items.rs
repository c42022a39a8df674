//! Items, of which the input and the output of a response consist.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::field::FieldPath;
use crate::http::error::ApiError;
use crate::http::parse::understand;
use crate::inference::bounds::LARGEST_THOUGHTS;
use crate::inference::checks::{at_most, short};
use crate::openai::logprobs::TokenLogprob;

use super::wire::{self, TextOr};

/// Input items at most: they are checked one by one on a thread that serves other requests as well.
const MOST_INPUT_ITEMS: usize = 4096;

/// The name of an item.
///
/// Only those that this server made are unguessable and different from each other. Those are what any
/// request may refer to; a name that a client gave means something in its own conversation alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transparent, rename = "Id")]
pub(super) struct ItemId {
    text: String,
    #[serde(skip)]
    is_ours: bool,
}

impl ItemId {
    /// Makes a new id, such as `msg_…`.
    pub(super) fn new(kind: &str) -> Self {
        Self {
            text: new_id(kind),
            is_ours: true,
        }
    }

    /// Takes the client's id if it sent one, otherwise makes a new one.
    fn from_client(at: &FieldPath, given: Option<String>, kind: &str) -> Result<Self, ApiError> {
        let Some(text) = given else {
            return Ok(Self::new(kind));
        };
        short(at.name("id"), &text)?;
        let is_ours = false;
        Ok(Self { text, is_ours })
    }

    #[cfg(test)]
    pub(super) fn fixed(text: &str, is_ours: bool) -> Self {
        let text = text.to_owned();
        Self { text, is_ours }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this server made the id.
    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }
}

/// OpenAI's items, as far as a text model has them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseItem {
    Message {
        id: ItemId,
        status: ItemStatus,
        role: ItemRole,
        content: Vec<ItemPart>,
    },
    FunctionCall {
        id: ItemId,
        call_id: String,
        name: String,
        /// JSON in a string; cut off where the call is incomplete.
        arguments: String,
        status: ItemStatus,
    },
    FunctionCallOutput {
        id: ItemId,
        call_id: String,
        output: FunctionOutput,
        status: ItemStatus,
    },
    Reasoning {
        id: ItemId,
        summary: Vec<ItemPart>,
        content: Vec<ItemPart>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
        status: ItemStatus,
    },
}

/// How far an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ItemRole {
    User,
    System,
    Developer,
    Assistant,
}

/// Of a message's content or a model's thoughts.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ItemPart {
    InputText {
        text: String,
    },
    OutputText {
        text: String,
        /// Of files and web pages, which this server has none of.
        annotations: [(); 0],
        logprobs: Vec<TokenLogprob>,
    },
    Refusal {
        refusal: String,
    },
    ReasoningText {
        text: String,
    },
    SummaryText {
        text: String,
    },
}

/// What a function returned.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum FunctionOutput {
    Text(String),
    Parts(Vec<ItemPart>),
}

/// An item of a request's `input`.
#[derive(Debug, PartialEq)]
pub(super) enum ResponseItemInput {
    Item(ResponseItem),
    /// A reference to a stored item, by its id.
    Reference(String),
}

impl ResponseItem {
    pub(super) fn id(&self) -> &ItemId {
        match self {
            Self::Message { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::FunctionCallOutput { id, .. }
            | Self::Reasoning { id, .. } => id,
        }
    }

    /// Replaces its id by a new one of ours.
    pub(super) fn rename(&mut self) {
        let (id, kind) = match self {
            Self::Message { id, .. } => (id, "msg"),
            Self::FunctionCall { id, .. } => (id, "fc"),
            Self::FunctionCallOutput { id, .. } => (id, "fco"),
            Self::Reasoning { id, .. } => (id, "rs"),
        };
        *id = ItemId::new(kind);
    }

    /// Returns roughly how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let parts = |parts: &[ItemPart]| -> usize { parts.iter().map(ItemPart::size).sum() };
        let texts = match self {
            Self::Message { id, content, .. } => id.text.len() + parts(content),
            Self::FunctionCall {
                id,
                call_id,
                name,
                arguments,
                ..
            } => id.text.len() + call_id.len() + name.len() + arguments.len(),
            Self::FunctionCallOutput {
                id,
                call_id,
                output,
                ..
            } => {
                let output = match output {
                    FunctionOutput::Text(text) => text.len(),
                    FunctionOutput::Parts(list) => parts(list),
                };
                id.text.len() + call_id.len() + output
            }
            Self::Reasoning {
                id,
                summary,
                content,
                encrypted_content,
                ..
            } => {
                let encrypted = encrypted_content.as_ref().map_or(0, String::len);
                id.text.len() + parts(summary) + parts(content) + encrypted
            }
        };
        size_of::<Self>() + texts
    }
}

impl ItemPart {
    pub(super) fn output(text: String, logprobs: Vec<TokenLogprob>) -> Self {
        Self::OutputText {
            text,
            annotations: [],
            logprobs,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::InputText { text }
            | Self::OutputText { text, .. }
            | Self::ReasoningText { text }
            | Self::SummaryText { text }
            | Self::Refusal { refusal: text } => text,
        }
    }

    fn size(&self) -> usize {
        let logprobs = match self {
            Self::OutputText { logprobs, .. } => logprobs.iter().map(TokenLogprob::size).sum(),
            _ => 0,
        };
        size_of::<Self>() + self.text().len() + logprobs
    }
}

/// Makes a new id, such as `msg_…`.
pub(super) fn new_id(kind: &str) -> String {
    format!("{kind}_{}", Uuid::new_v4().simple())
}

/// Reads the items of a request's `input`, which must be at least one.
pub(super) fn read_input(input: Option<TextOr<Value>>) -> Result<Vec<ResponseItemInput>, ApiError> {
    let values = match input {
        None => {
            let message = "`input` is missing: write a question, or a list of items";
            return Err(ApiError::invalid("input", message));
        }
        Some(TextOr::Text(text)) => {
            return Ok(vec![ResponseItemInput::Item(ResponseItem::Message {
                id: ItemId::new("msg"),
                status: ItemStatus::Completed,
                role: ItemRole::User,
                content: vec![ItemPart::InputText { text }],
            })]);
        }
        Some(TextOr::List(values)) => values,
    };
    if values.is_empty() {
        let message = "`input` is empty: it must hold at least one item";
        return Err(ApiError::invalid("input", message));
    }
    at_most("input", values.len(), MOST_INPUT_ITEMS)?;
    let items = values.into_iter().enumerate();
    items
        .map(|(index, value)| item(&FieldPath::from("input").index(index), &value))
        .collect()
}

fn item(at: &FieldPath, value: &Value) -> Result<ResponseItemInput, ApiError> {
    if !value.is_object() {
        let message = format!("`{at}` must be an item: an object with a `type`");
        return Err(ApiError::invalid(at, message));
    }
    let kind = match value.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        // OpenAI lets clients omit the type of these two.
        None | Some(Value::Null) if value.get("role").is_some() => "message",
        None | Some(Value::Null) if value.get("id").is_some() => "item_reference",
        _ => {
            let message = format!("`{at}.type` must say what the item is, such as `message`");
            return Err(ApiError::invalid(at.name("type"), message));
        }
    };
    let item = match kind {
        "message" => message(at, understand(at, value)?)?,
        "function_call" => function_call(at, understand(at, value)?)?,
        "function_call_output" => function_call_output(at, understand(at, value)?)?,
        "reasoning" => reasoning(at, understand(at, value)?)?,
        "item_reference" => {
            let wire::ItemReference { id } = understand(at, value)?;
            short(at.name("id"), &id)?;
            return Ok(ResponseItemInput::Reference(id));
        }
        kind => {
            let why = format!(
                "`{kind}` is not supported; use `message`, `function_call`, \
                 `function_call_output`, `reasoning` or `item_reference`"
            );
            return Err(ApiError::unsupported(at.name("type"), why));
        }
    };
    Ok(ResponseItemInput::Item(item))
}

fn message(at: &FieldPath, message: wire::InputMessage) -> Result<ResponseItem, ApiError> {
    let role = match message.role.as_str() {
        "user" => ItemRole::User,
        "system" => ItemRole::System,
        "developer" => ItemRole::Developer,
        "assistant" => ItemRole::Assistant,
        _ => {
            let message =
                format!("`{at}.role` must be `user`, `assistant`, `system` or `developer`");
            return Err(ApiError::invalid(at.name("role"), message));
        }
    };
    let at_content = at.name("content");
    let content = match message.content {
        TextOr::Text(text) if role == ItemRole::Assistant => {
            vec![ItemPart::output(text, Vec::new())]
        }
        TextOr::Text(text) => vec![ItemPart::InputText { text }],
        TextOr::List(parts) if parts.is_empty() && role != ItemRole::Assistant => {
            let message = format!("`{at_content}` is empty: it must hold at least one part");
            return Err(ApiError::invalid(at_content, message));
        }
        TextOr::List(parts) if role == ItemRole::Assistant => list(&at_content, parts, said)?,
        TextOr::List(parts) => list(&at_content, parts, written)?,
    };
    Ok(ResponseItem::Message {
        id: ItemId::from_client(at, message.id, "msg")?,
        status: status(at, message.status.as_deref())?,
        role,
        content,
    })
}

fn function_call(at: &FieldPath, call: wire::InputFunctionCall) -> Result<ResponseItem, ApiError> {
    short(at.name("call_id"), &call.call_id)?;
    short(at.name("name"), &call.name)?;
    Ok(ResponseItem::FunctionCall {
        id: ItemId::from_client(at, call.id, "fc")?,
        call_id: call.call_id,
        name: call.name,
        arguments: call.arguments,
        status: status(at, call.status.as_deref())?,
    })
}

fn function_call_output(
    at: &FieldPath,
    output: wire::InputFunctionCallOutput,
) -> Result<ResponseItem, ApiError> {
    short(at.name("call_id"), &output.call_id)?;
    Ok(ResponseItem::FunctionCallOutput {
        id: ItemId::from_client(at, output.id, "fco")?,
        call_id: output.call_id,
        output: match output.output {
            TextOr::Text(text) => FunctionOutput::Text(text),
            TextOr::List(parts) => FunctionOutput::Parts(list(&at.name("output"), parts, written)?),
        },
        status: status(at, output.status.as_deref())?,
    })
}

fn reasoning(at: &FieldPath, item: wire::InputReasoning) -> Result<ResponseItem, ApiError> {
    let summary = item.summary.unwrap_or_default();
    let content = item.content.unwrap_or_default();
    let item = ResponseItem::Reasoning {
        id: ItemId::from_client(at, item.id, "rs")?,
        summary: list(&at.name("summary"), summary, thought)?,
        content: list(&at.name("content"), content, thought)?,
        encrypted_content: item.encrypted_content,
        status: status(at, item.status.as_deref())?,
    };
    // No context length bounds it, because no model reads it; and it is stored.
    if item.size() > LARGEST_THOUGHTS {
        let message = format!("`{at}` is larger than {LARGEST_THOUGHTS} bytes: leave it out");
        return Err(ApiError::invalid(at, message));
    }
    Ok(item)
}

fn status(at: &FieldPath, status: Option<&str>) -> Result<ItemStatus, ApiError> {
    match status {
        None | Some("completed") => Ok(ItemStatus::Completed),
        Some("in_progress") => Ok(ItemStatus::InProgress),
        Some("incomplete") => Ok(ItemStatus::Incomplete),
        Some(_) => {
            let at = at.name("status");
            let message = format!("`{at}` must be `completed`, `incomplete` or `in_progress`");
            Err(ApiError::invalid(at, message))
        }
    }
}

fn list(
    at: &FieldPath,
    parts: Vec<wire::InputPart>,
    part: fn(&FieldPath, wire::InputPart) -> Result<ItemPart, ApiError>,
) -> Result<Vec<ItemPart>, ApiError> {
    let parts = parts.into_iter().enumerate();
    parts
        .map(|(index, found)| part(&at.index(index), found))
        .collect()
}

/// Reads a content part of input to the model.
fn written(at: &FieldPath, part: wire::InputPart) -> Result<ItemPart, ApiError> {
    match part.kind.as_str() {
        "input_text" => Ok(ItemPart::InputText {
            text: present(at, "text", part.text)?,
        }),
        "input_image" | "input_file" | "input_audio" => Err(ApiError::unsupported(
            at.name("type"),
            format!(
                "`{}` is not supported: this model reads text only",
                part.kind
            ),
        )),
        _ => Err(unknown_part(at, &part.kind, "`input_text`")),
    }
}

/// Reads a content part of the model's own message.
fn said(at: &FieldPath, part: wire::InputPart) -> Result<ItemPart, ApiError> {
    match part.kind.as_str() {
        "output_text" | "input_text" => Ok(ItemPart::output(
            present(at, "text", part.text)?,
            Vec::new(),
        )),
        "refusal" => Ok(ItemPart::Refusal {
            refusal: present(at, "refusal", part.refusal)?,
        }),
        _ => Err(unknown_part(at, &part.kind, "`output_text` or `refusal`")),
    }
}

/// Reads a content part of the model's reasoning.
fn thought(at: &FieldPath, part: wire::InputPart) -> Result<ItemPart, ApiError> {
    let text = present(at, "text", part.text)?;
    match part.kind.as_str() {
        "reasoning_text" => Ok(ItemPart::ReasoningText { text }),
        "summary_text" => Ok(ItemPart::SummaryText { text }),
        kind => {
            let known = "`reasoning_text` or `summary_text`";
            Err(unknown_part(at, kind, known))
        }
    }
}

fn unknown_part(at: &FieldPath, kind: &str, known: &str) -> ApiError {
    let at = at.name("type");
    let message = format!("`{at}`: there is no `{kind}` here; use {known}");
    ApiError::invalid(at, message)
}

fn present(at: &FieldPath, name: &'static str, value: Option<String>) -> Result<String, ApiError> {
    value.ok_or_else(|| {
        let at = at.name(name);
        let message = format!("`{at}` is missing");
        ApiError::invalid(at, message)
    })
}
