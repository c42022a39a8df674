//! OpenAI's `truncation: auto`: drops the oldest turns until a conversation fits the context.
//!
//! The instructions at the start stay, and so does the last user message with all that followed it. What is
//! left starts with a user message, so that no tool result is without its call.

use serde_json::{Map, Value};

use crate::prompt::{Conversation, Message, Role, is_exact_number};

/// Returns how many tokens of the context a prompt may have if the answer is to have `wanted`. Without
/// `wanted`, an eighth is left to the answer; the prompt always gets at least half.
pub(crate) fn room(context: usize, wanted: Option<u32>) -> usize {
    let wanted = wanted.map_or(context / 8, |wanted| wanted as usize);
    context - wanted.clamp(1, (context / 2).max(1))
}

/// Returns a lower bound of the messages' tokens, given that a token has at most `longest_piece` bytes and
/// each message at least one token.
pub(crate) fn least_tokens(messages: &[Message], longest_piece: usize) -> usize {
    messages.len().max(bytes(messages) / longest_piece)
}

/// Returns the bytes of everything in messages that templates may render. A template may leave out ids or
/// names; a request in which those alone exceed the context is not a real conversation.
pub(crate) fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(message_bytes).sum()
}

fn message_bytes(message: &Message) -> usize {
    let texts = [&message.content, &message.name, &message.tool_call_id];
    let texts = texts.into_iter().flatten().map(String::len);
    let calls = message
        .tool_calls
        .iter()
        .map(|call| call.id.len() + call.name.len() + json_bytes(&call.arguments));
    texts.chain(calls).sum()
}

/// Returns a lower bound of the tokens of those messages that are never dropped.
pub(crate) fn least_tokens_kept(messages: &[Message], longest_piece: usize) -> usize {
    let head = head(messages);
    let last = beginnings(messages, head).last().copied().unwrap_or(head);
    let tokens = |part| least_tokens(part, longest_piece);
    tokens(&messages[..head]) + tokens(&messages[last..])
}

/// Returns a lower bound of the tokens of tools, which templates render as JSON.
pub(crate) fn least_tool_tokens(tools: &[Value], longest_piece: usize) -> usize {
    tools.iter().map(json_bytes).sum::<usize>() / longest_piece
}

/// Returns the tokens that template variables have at least if the template renders them.
pub(crate) fn least_kwargs_tokens(kwargs: &Map<String, Value>, longest_piece: usize) -> usize {
    kwargs.values().map(json_bytes).sum::<usize>() / longest_piece
}

/// Returns the least bytes that a value has as JSON: without white space, and with nothing escaped.
fn json_bytes(value: &Value) -> usize {
    const QUOTES: usize = 2;
    let separators = |count: usize| count.saturating_sub(1);
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 1,
        Value::String(text) if is_exact_number(text) => 1,
        Value::String(text) => QUOTES + text.len(),
        Value::Array(items) => {
            2 + separators(items.len()) + items.iter().map(json_bytes).sum::<usize>()
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, _)| QUOTES + name.len() + 1 + json_bytes(value);
            2 + separators(members.len()) + members.iter().map(member).sum::<usize>()
        }
    }
}

/// Drops as few of the oldest turns as make the conversation fit into `room` tokens, or as many as may be
/// dropped if it never fits. `length`, which is slow, is not called for conversations that cannot fit.
pub(crate) fn truncate<E>(
    conversation: &mut Conversation,
    room: usize,
    longest_piece: usize,
    length: impl Fn(&Conversation) -> Result<usize, E>,
) -> Result<(), E> {
    let messages = &conversation.messages;
    let head = head(messages);
    let may_fit = |from: &usize| least_tokens(&messages[*from..], longest_piece) <= room;
    let beginnings = beginnings(messages, head);
    let last = *beginnings.last().unwrap_or(&head);
    let fitting: Vec<usize> = beginnings.into_iter().filter(may_fit).collect();
    // The later it starts, the shorter it is: a binary search finds the first start that fits.
    let (mut low, mut high) = (0, fitting.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if length(&without(conversation, head, fitting[middle]))? <= room {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let from = fitting.get(low).copied().unwrap_or(last);
    conversation.messages.drain(head..from);
    Ok(())
}

/// Counts the system and developer messages at the start.
fn head(messages: &[Message]) -> usize {
    let instructs = |message: &&Message| matches!(message.role, Role::System | Role::Developer);
    messages.iter().take_while(instructs).count()
}

/// Returns the indices after the instructions at which a conversation may start, the earliest first.
fn beginnings(messages: &[Message], head: usize) -> Vec<usize> {
    let asks = |index: &usize| *index == head || messages[*index].role == Role::User;
    (head..messages.len()).filter(asks).collect()
}

fn without(conversation: &Conversation, head: usize, from: usize) -> Conversation {
    let messages = &conversation.messages;
    Conversation {
        messages: [&messages[..head], &messages[from..]].concat(),
        ..conversation.without_messages()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::prompt::ToolCall;

    const ROLES: [(char, Role); 5] = [
        ('s', Role::System),
        ('d', Role::Developer),
        ('u', Role::User),
        ('a', Role::Assistant),
        ('t', Role::Tool),
    ];

    /// Of turns by the first letters of their roles, ten tokens each.
    fn conversation(turns: &str) -> Conversation {
        let message = |turn| {
            let found = ROLES.into_iter().find(|(letter, _)| *letter == turn);
            Message::text(found.expect("a role").1, "0123456789")
        };
        Conversation {
            messages: turns.chars().map(message).collect(),
            ..Conversation::default()
        }
    }

    fn shortened(turns: &str, room: usize) -> String {
        let mut conversation = conversation(turns);
        let length = |asked: &Conversation| {
            let count = asked.messages.len();
            // At most two of them are instructions, which do not count beforehand.
            assert!(
                5 * count.saturating_sub(2) <= room,
                "it was sure not to fit"
            );
            Ok::<_, Infallible>(10 * count)
        };
        let Ok(()) = truncate(&mut conversation, room, 2, length);
        let letter = |message: &Message| {
            let found = ROLES.into_iter().find(|(_, role)| *role == message.role);
            found.expect("a role").0
        };
        conversation.messages.iter().map(letter).collect()
    }

    #[test]
    fn what_fits_stays_whole() {
        assert_eq!(shortened("suau", 40), "suau");
        assert_eq!(shortened("u", 10), "u");
    }

    #[test]
    fn as_few_of_the_oldest_turns_go_as_must() {
        assert_eq!(shortened("suauauau", 60), "suauau");
        assert_eq!(shortened("suauauau", 59), "suau");
        assert_eq!(shortened("sduauau", 50), "sduau");
    }

    #[test]
    fn no_result_is_left_without_its_call() {
        assert_eq!(shortened("uatauatau", 60), "uatau");
    }

    #[test]
    fn the_last_question_stays_even_where_it_does_not_fit() {
        assert_eq!(shortened("suauat", 20), "suat");
        assert_eq!(shortened("s", 1), "s");
    }

    #[test]
    fn instructions_and_the_last_question_are_at_least_there() {
        let least = |turns| least_tokens_kept(&conversation(turns).messages, 2);
        assert_eq!(least("uauauau"), least("u"));
        assert_eq!(least("suauat"), least("s") + least("uat"));
        assert_eq!(least("s"), least_tokens(&conversation("s").messages, 2));
    }

    #[test]
    fn tools_have_at_least_their_json() {
        let tool = serde_json::json!({"type": "function", "function": {
            "name": "look", "parameters": {"enum": ["red", "blue", 7, null, {"a": [[0], true]}]},
        }});
        let bytes = tool.to_string().len();
        assert_eq!(least_tool_tokens(&[tool.clone(), tool], 4), 2 * bytes / 4);
    }

    #[test]
    fn names_ids_and_arguments_count_as_well() {
        let call = |arguments| ToolCall {
            id: "i".repeat(100),
            name: "n".repeat(50),
            arguments,
        };
        let calling = Message {
            name: Some("m".repeat(30)),
            tool_calls: vec![call("a".repeat(998).into()), call(serde_json::json!({}))],
            tool_call_id: Some("t".repeat(20)),
            ..Message::text(Role::Assistant, "c".repeat(10))
        };
        assert_eq!(bytes(&[calling]), 30 + 20 + 10 + 2 * 150 + 1000 + 2);
    }

    #[test]
    fn an_answer_has_room() {
        assert_eq!(room(2048, None), 2048 - 256);
        assert_eq!(room(2048, Some(100)), 1948);
        assert_eq!(room(2048, Some(5000)), 1024);
        assert_eq!(room(1, Some(0)), 0);
    }
}
