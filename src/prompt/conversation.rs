//! What a client asks: the messages and tools of a chat request, free of wire details.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

/// A chat request as the templates need it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// OpenAI tool objects, `{"type": "function", "function": {…}}`.
    pub tools: Vec<Value>,
    /// How much a reasoning model should think, for templates that know it.
    pub effort: Option<ReasoningEffort>,
    /// Further variables of the template, by name.
    pub template_kwargs: Map<String, Value>,
    /// Where the prompt ends.
    pub end: PromptEnd,
}

/// Where a prompt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptEnd {
    /// With the opening of the assistant's answer.
    #[default]
    OpenAnswer,
    /// With the last message.
    LastMessage,
    /// With the text of the last message, so that the answer goes on with it.
    LastText,
}

impl Conversation {
    /// Returns the conversation without its messages.
    #[must_use]
    pub fn without_messages(&self) -> Self {
        Self {
            messages: Vec::new(),
            tools: self.tools.clone(),
            effort: self.effort,
            template_kwargs: self.template_kwargs.clone(),
            end: self.end,
        }
    }

    /// Finds the first call whose arguments are no JSON object; returns the index of its message, and its
    /// own index there.
    pub(super) fn call_with_text(&self) -> Option<(usize, usize)> {
        let with_text = |message: &Message| {
            let mut calls = message.tool_calls.iter();
            calls.position(|call| call.arguments.is_string())
        };
        let mut messages = self.messages.iter().enumerate();
        messages.find_map(|(index, message)| Some((index, with_text(message)?)))
    }

    /// Returns the conversation with the text of messages that have calls in messages of its own, before
    /// the calls.
    pub(super) fn with_calls_apart(&self) -> Self {
        let mut messages = Vec::with_capacity(self.messages.len() + 1);
        for message in &self.messages {
            let text = message.content.as_deref().unwrap_or_default();
            if message.tool_calls.is_empty() || text.is_empty() {
                messages.push(message.clone());
                continue;
            }
            messages.push(Message {
                tool_calls: Vec::new(),
                ..message.clone()
            });
            messages.push(Message {
                content: None,
                ..message.clone()
            });
        }
        Self {
            messages,
            ..self.without_messages()
        }
    }

    /// Returns the conversation with all that the assistant says between two questions joined into one text,
    /// which stands where the last of it stood. For templates that want questions and answers to alternate
    /// whatever is called between them.
    pub(super) fn with_one_text_a_turn(&self) -> Self {
        let mut messages: Vec<Message> = Vec::with_capacity(self.messages.len());
        // Where the last text of this turn is.
        let mut spoken: Option<usize> = None;
        for message in &self.messages {
            let mut message = message.clone();
            match message.role {
                Role::Tool => {}
                Role::Assistant => {
                    let says = message
                        .content
                        .as_ref()
                        .is_some_and(|text| !text.is_empty());
                    if says && let Some(before) = spoken.replace(messages.len()) {
                        let before = &mut messages[before];
                        let said = before.content.take();
                        message.content = said
                            .map(|said| joined(said, message.content.as_deref()))
                            .or(message.content);
                    }
                }
                Role::System | Role::Developer | Role::User => spoken = None,
            }
            messages.push(message);
        }
        // A message without text and calls is dropped.
        messages.retain(|message| {
            message.role != Role::Assistant
                || message.content.is_some()
                || !message.tool_calls.is_empty()
        });
        let fitted = Self {
            messages,
            ..self.without_messages()
        };
        fitted.with_calls_apart()
    }

    /// Returns the conversation with a message of its own for each call, directly followed by its result.
    pub(super) fn with_calls_in_turn(&self) -> Self {
        let mut messages = Vec::with_capacity(self.messages.len());
        let mut rest = self.messages.iter().peekable();
        while let Some(message) = rest.next() {
            if message.tool_calls.is_empty() {
                messages.push(message.clone());
                continue;
            }
            let answers = std::iter::from_fn(|| rest.next_if(|next| next.role == Role::Tool));
            let mut answers: Vec<&Message> = answers.collect();
            for (index, call) in message.tool_calls.iter().enumerate() {
                messages.push(Message {
                    content: message.content.clone().filter(|_| index == 0),
                    tool_calls: vec![call.clone()],
                    ..message.clone()
                });
                let own = |answer: &&Message| answer.tool_call_id.as_ref() == Some(&call.id);
                messages.extend(answers.extract_if(.., |answer| own(answer)).cloned());
            }
            messages.extend(answers.into_iter().cloned());
        }
        Self {
            messages,
            ..self.without_messages()
        }
    }

    /// Returns the conversation with call ids as Mistral's models expect them: nine letters and digits. Other
    /// ids are replaced by such ones, equal ids by equal ones.
    pub(super) fn with_short_ids(&self) -> Self {
        let mut conversation = self.clone();
        for message in &mut conversation.messages {
            for call in &mut message.tool_calls {
                call.id = short_id(&call.id);
            }
            message.tool_call_id = message.tool_call_id.as_deref().map(short_id);
        }
        conversation
    }
}

/// Stands between texts that become one, as in the templates of Gemma and Mistral.
const BETWEEN: &str = "\n\n";

/// Joins two texts of one side into one.
pub(crate) fn joined(first: String, second: Option<&str>) -> String {
    match second {
        None | Some("") => first,
        Some(second) if first.is_empty() => second.to_owned(),
        Some(second) => first + BETWEEN + second,
    }
}

fn short_id(id: &str) -> String {
    const LENGTH: usize = 9;
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    if id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let hash = hasher.finish();
    let digit = |place: u32| {
        char::from(DIGITS[usize::try_from(hash / 36_u64.pow(place) % 36).unwrap_or(0)])
    };
    (0..9).map(digit).collect()
}

/// OpenAI's `reasoning_effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningEffort {
    /// Not at all.
    None,
    /// As little as possible.
    Minimal,
    /// A little.
    Low,
    /// As usual.
    Medium,
    /// A lot.
    High,
    /// As much as possible.
    XHigh,
}

impl ReasoningEffort {
    /// Whether not to think is asked for, which a model that does not think does anyway.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::None
    }

    /// All of them, least first.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Minimal,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::XHigh,
    ];

    /// Returns OpenAI's name of the effort.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text; may be absent where an assistant only calls tools.
    pub content: Option<String>,
    /// The speaker's name, where a client tells several apart.
    pub name: Option<String>,
    /// The calls an assistant made in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// For [`Role::Tool`]: the call that this message answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A turn that is only text.
    #[must_use]
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

/// Who speaks in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator's instructions.
    System,
    /// OpenAI's newer name for `system`, which is what templates see.
    Developer,
    /// The person or device that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name by which templates know the role.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A call that the assistant made earlier in the conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The id by which a tool message refers to the call. Some templates insist on a form: Mistral's wants
    /// nine alphanumerics.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, parsed: most templates expect an object, not OpenAI's string of JSON. A string where
    /// they are not valid JSON.
    pub arguments: Value,
}
