//! Brings turns that a template refuses into a form that it takes.
//!
//! As llama.cpp does: instructions that a template has no place for go in front of the next question, and
//! what one side says in several turns becomes one. Nothing is left out, and where a template takes the
//! turns as they are, they stay.

use std::borrow::Cow;

use super::conversation::{Conversation, Message, Role, joined};

/// Which turns a template shows, beyond questions and answers that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each was found out by itself
pub(super) struct TurnSupport {
    /// Instructions at the start.
    pub(super) system_first: bool,
    /// Instructions anywhere else.
    pub(super) system_later: bool,
    pub(super) users_in_a_row: bool,
    pub(super) assistants_in_a_row: bool,
}

/// Assumes support for everything, so that a template of which nothing is known gets what was asked.
impl Default for TurnSupport {
    fn default() -> Self {
        Self {
            system_first: true,
            system_later: true,
            users_in_a_row: true,
            assistants_in_a_row: true,
        }
    }
}

impl TurnSupport {
    /// Returns the conversation in a form that the template takes.
    pub(super) fn fit(self, conversation: &Conversation) -> Cow<'_, Conversation> {
        if self == Self::default() {
            return Cow::Borrowed(conversation);
        }
        let mut fitting = Fitting {
            support: self,
            messages: Vec::with_capacity(conversation.messages.len()),
            pending: None,
        };
        for message in &conversation.messages {
            fitting.add(message);
        }
        fitting.instruct();
        if fitting.messages == conversation.messages {
            return Cow::Borrowed(conversation);
        }
        Cow::Owned(Conversation {
            messages: fitting.messages,
            ..conversation.without_messages()
        })
    }

    fn takes_in_a_row(self, role: Role) -> bool {
        match role {
            Role::User => self.users_in_a_row,
            Role::Assistant => self.assistants_in_a_row,
            Role::System | Role::Developer | Role::Tool => true,
        }
    }
}

struct Fitting {
    support: TurnSupport,
    messages: Vec<Message>,
    /// Instructions that wait for the next question.
    pending: Option<String>,
}

impl Fitting {
    fn add(&mut self, message: &Message) {
        if is_system(message) {
            self.add_system(message);
            return;
        }
        match self.pending.take() {
            Some(text) if message.role == Role::User => {
                let mut message = message.clone();
                message.content = Some(joined(text, message.content.as_deref()));
                self.push(message);
            }
            pending => {
                self.pending = pending;
                self.instruct();
                self.push(message.clone());
            }
        }
    }

    fn add_system(&mut self, message: &Message) {
        let before = self.messages.iter().all(is_system);
        match self.messages.last_mut() {
            _ if !before && self.support.system_later => self.messages.push(message.clone()),
            _ if !before || !self.support.system_first => {
                let text = message.content.as_deref();
                self.pending = match self.pending.take() {
                    Some(pending) => Some(joined(pending, text)),
                    None => text.map(str::to_owned),
                };
            }
            Some(last) if !self.support.system_later => join(last, message),
            _ => self.messages.push(message.clone()),
        }
    }

    /// Makes instructions a question of their own where the question that they wait for does not come.
    fn instruct(&mut self) {
        if let Some(text) = self.pending.take() {
            self.push(Message::text(Role::User, text));
        }
    }

    fn push(&mut self, message: Message) {
        match self.messages.last_mut() {
            Some(last)
                if last.role == message.role
                    && last.tool_calls.is_empty()
                    && !self.support.takes_in_a_row(message.role) =>
            {
                join(last, &message);
                last.tool_calls = message.tool_calls;
            }
            _ => self.messages.push(message),
        }
    }
}

fn is_system(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// One turn of two; a name stays where both have it.
fn join(first: &mut Message, second: &Message) {
    if first.name != second.name {
        first.name = None;
    }
    first.content = match first.content.take() {
        Some(text) => Some(joined(text, second.content.as_deref())),
        None => second.content.clone(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ToolCall;

    const NOTHING: TurnSupport = TurnSupport {
        system_first: false,
        system_later: false,
        users_in_a_row: false,
        assistants_in_a_row: false,
    };

    const ROLES: [(char, Role); 5] = [
        ('s', Role::System),
        ('d', Role::Developer),
        ('u', Role::User),
        ('a', Role::Assistant),
        ('t', Role::Tool),
    ];

    /// Turns by the first letters of their roles, `s1 u2` and so on; what is left of them, written alike.
    fn fitted(support: TurnSupport, turns: &str) -> String {
        let messages = turns.split_whitespace().map(|turn| {
            let found = ROLES
                .into_iter()
                .find(|(letter, _)| turn.starts_with(*letter));
            Message::text(found.expect("a role").1, &turn[1..])
        });
        let conversation = Conversation {
            messages: messages.collect(),
            ..Conversation::default()
        };
        let told = support.fit(&conversation).messages.clone();
        let told = told.iter().map(|message| {
            let (letter, _) = ROLES
                .into_iter()
                .find(|(_, role)| *role == message.role)
                .expect("a role");
            let text = message.content.as_deref().unwrap_or_default();
            format!("{letter}{}", text.replace("\n\n", "+"))
        });
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn turns_stay_as_they_are_where_the_template_takes_them() {
        let turns = "s1 d2 u3 u4 a5 a6 s7 u8 s9";
        assert_eq!(fitted(TurnSupport::default(), turns), turns);
        assert_eq!(fitted(NOTHING, "u1 a2 u3"), "u1 a2 u3");
    }

    #[test]
    fn instructions_without_a_place_go_in_front_of_the_next_question() {
        assert_eq!(fitted(NOTHING, "s1 u2 a3 u4"), "u1+2 a3 u4");
        assert_eq!(fitted(NOTHING, "s1 d2 u3"), "u1+2+3");
        assert_eq!(fitted(NOTHING, "u1 a2 s3 u4"), "u1 a2 u3+4");
        assert_eq!(fitted(NOTHING, "s1"), "u1");
        assert_eq!(fitted(NOTHING, "u1 a2 s3"), "u1 a2 u3");
        assert_eq!(fitted(NOTHING, "s1 a2 u3"), "u1 a2 u3");
        assert_eq!(fitted(NOTHING, "u1 s2 a3 u4"), "u1+2 a3 u4");
    }

    #[test]
    fn instructions_at_the_beginning_become_one_where_only_one_may_be_there() {
        let first = TurnSupport {
            system_first: true,
            ..NOTHING
        };
        assert_eq!(fitted(first, "s1 d2 u3 a4 s5 u6"), "s1+2 u3 a4 u5+6");
        assert_eq!(fitted(first, "s1"), "s1");
    }

    #[test]
    fn what_one_side_says_in_a_row_becomes_one_turn_where_the_template_wants_that() {
        assert_eq!(fitted(NOTHING, "u1 u2 u3 a4 a5 u6"), "u1+2+3 a4+5 u6");
        let users = TurnSupport {
            assistants_in_a_row: false,
            ..TurnSupport::default()
        };
        assert_eq!(fitted(users, "u1 u2 a3 a4"), "u1 u2 a3+4");
        assert_eq!(fitted(NOTHING, "u1 a2 t3 t4 a5"), "u1 a2 t3 t4 a5");
    }

    #[test]
    fn calls_stay_with_the_turn_that_makes_them() {
        let call = ToolCall {
            id: "1".into(),
            name: "f".into(),
            arguments: serde_json::json!({}),
        };
        let calling = Message {
            tool_calls: vec![call.clone()],
            name: Some("till".into()),
            ..Message::text(Role::Assistant, "b")
        };
        let asked = |messages: Vec<Message>| Conversation {
            messages,
            ..Conversation::default()
        };
        let conversation = asked(vec![Message::text(Role::Assistant, "a"), calling.clone()]);
        let told = NOTHING.fit(&conversation).into_owned().messages;
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].content.as_deref(), &told[0].name),
            (Some("a\n\nb"), &None)
        );
        assert_eq!(told[0].tool_calls, [call]);
        let conversation = asked(vec![calling.clone(), calling]);
        assert_eq!(NOTHING.fit(&conversation).messages.len(), 2);
    }
}
