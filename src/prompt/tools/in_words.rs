//! Tools for models whose chat template has no place for them (Gemma 2, `SmolLM2`, many older ones).
//!
//! Such a template drops tools and calls without a word. So they are written into the turns that it does
//! show, in the words of Hermes 2 Pro and Qwen2.5, whose format is the one that calls are then looked for
//! in. llama.cpp does the same with a format of its own.

use std::borrow::Cow;

use serde_json::Value;

use crate::prompt::conversation::{Conversation, Message, Role, ToolCall};
use crate::prompt::template::ChatTemplate;

/// A name that no template holds.
const PROBED: &str = "probe_of_a_place";

/// What a template leaves out of a conversation, so that it has to be written into its turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::prompt) struct LeftOut {
    /// Calls of earlier turns, and what they returned.
    calls: bool,
    /// The system's turn.
    system: bool,
}

impl LeftOut {
    /// Returns what the template leaves out; `None` where it does anything with tools, or cannot show a single
    /// turn.
    pub(in crate::prompt) fn by(template: &ChatTemplate) -> Option<Self> {
        let asked = || vec![Message::text(Role::User, "ok")];
        let of = |messages| Conversation {
            messages,
            ..Conversation::default()
        };
        let with_tools = Conversation {
            tools: vec![probed_tool()],
            ..of(asked())
        };
        let without = template.render(&of(asked())).ok()?;
        if template.render(&with_tools).ok()? != without {
            return None;
        }
        let shows = |messages| {
            let prompt = template.render(&of(messages));
            prompt.is_ok_and(|prompt| prompt.contains(PROBED))
        };
        let called = Message {
            content: None,
            tool_calls: vec![probed_call()],
            ..Message::text(Role::Assistant, "")
        };
        let returned = Message {
            tool_call_id: Some(probed_call().id),
            ..Message::text(Role::Tool, "ok")
        };
        let with_calls = asked().into_iter().chain([called, returned]).collect();
        let mut with_system = vec![Message::text(Role::System, PROBED)];
        with_system.extend(asked());
        Some(Self {
            calls: !shows(with_calls),
            system: !shows(with_system),
        })
    }

    /// Whether calls become text, so that the template sees no calls.
    pub(in crate::prompt) fn writes_calls(self) -> bool {
        self.calls
    }

    /// Returns the conversation with everything that is left out written into its turns.
    pub(in crate::prompt) fn written_out(
        self,
        conversation: &Conversation,
    ) -> Cow<'_, Conversation> {
        let is_left_out =
            |message: &Message| !message.tool_calls.is_empty() || message.role == Role::Tool;
        if conversation.tools.is_empty() && !conversation.messages.iter().any(is_left_out) {
            return Cow::Borrowed(conversation);
        }
        let mut messages = if self.calls {
            calls_written_out(&conversation.messages)
        } else {
            conversation.messages.clone()
        };
        if !conversation.tools.is_empty() {
            self.introduce(&conversation.tools, &mut messages);
        }
        Cow::Owned(Conversation {
            messages,
            tools: Vec::new(),
            ..conversation.without_messages()
        })
    }

    /// Describes the tools where the instructions stand.
    fn introduce(self, tools: &[Value], messages: &mut Vec<Message>) {
        let introduction = introduction(tools);
        match messages.first_mut() {
            Some(first) if matches!(first.role, Role::System | Role::Developer) => {
                append(first, &introduction);
            }
            Some(first) if self.system && first.role == Role::User => {
                let asked = first.content.take().unwrap_or_default();
                first.content = Some(format!("{introduction}\n\n{asked}"));
            }
            _ => messages.insert(0, Message::text(Role::System, introduction)),
        }
    }
}

fn introduction(tools: &[Value]) -> String {
    let tools: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
         function signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\nFor each function call, \
         return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n\
         <tool_call>\n{{\"name\": <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>",
        tools.join("\n")
    )
}

/// Writes calls as their model would, and their results as turns of the user. The user's own turns right
/// after those are joined to them: many templates want the roles to alternate.
fn calls_written_out(messages: &[Message]) -> Vec<Message> {
    let mut written: Vec<Message> = Vec::with_capacity(messages.len());
    let mut after_result = false;
    for message in messages {
        let content = message.content.as_deref().unwrap_or_default();
        let text = match message.role {
            Role::Tool => format!("<tool_response>\n{content}\n</tool_response>"),
            _ => content.to_owned(),
        };
        let is_result = message.role == Role::Tool;
        let goes_on = after_result && (is_result || message.role == Role::User);
        match written.last_mut() {
            Some(last) if goes_on => append(last, &text),
            _ => {
                let role = if is_result { Role::User } else { message.role };
                let mut turn = Message {
                    name: message.name.clone(),
                    ..Message::text(role, text)
                };
                for call in &message.tool_calls {
                    append(&mut turn, &call_written_out(call));
                }
                written.push(turn);
            }
        }
        after_result = is_result || goes_on;
    }
    written
}

fn call_written_out(call: &ToolCall) -> String {
    let (name, arguments) = (Value::from(call.name.as_str()), &call.arguments);
    format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>")
}

/// Adds a paragraph to a turn.
fn append(message: &mut Message, text: &str) {
    let content = message.content.get_or_insert_default();
    if !content.is_empty() {
        content.push('\n');
    }
    content.push_str(text);
}

fn probed_tool() -> Value {
    serde_json::json!({"type": "function", "function": {
        "name": PROBED, "description": "ok",
        "parameters": {
            "type": "object", "required": ["ok"],
            "properties": {"ok": {"type": "string", "description": "ok"}},
        },
    }})
}

fn probed_call() -> ToolCall {
    ToolCall {
        // Nine alphanumerics, which Mistral's template insists on.
        id: "probe0000".to_owned(),
        name: PROBED.to_owned(),
        // Some show of a call only this.
        arguments: serde_json::json!({"ok": PROBED}),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GEMMA2: &str = include_str!("../fixtures/gemma2.jinja");
    const CHATML: &str = include_str!("../fixtures/chatml.jinja");
    const DEEPSEEK: &str = "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.content %}{{ m.content }}{% endif %}\
        {% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}{% endfor %}{% endfor %}";

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::compile(source, "<s>", "</s>").expect("sound")
    }

    fn tool() -> Value {
        json!({"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}})
    }

    /// A question, a call, its result and thanks.
    fn talk() -> Conversation {
        let call = ToolCall {
            id: "c1".to_owned(),
            name: "price".to_owned(),
            arguments: json!({"article": "milk"}),
        };
        let called = Message {
            tool_calls: vec![call],
            ..Message::text(Role::Assistant, "One moment.")
        };
        let result = Message {
            tool_call_id: Some("c1".to_owned()),
            ..Message::text(Role::Tool, "1.20")
        };
        let user = |text| Message::text(Role::User, text);
        Conversation {
            messages: vec![user("Milk?"), called, result, user("Thanks!")],
            tools: vec![tool()],
            ..Conversation::default()
        }
    }

    #[test]
    fn a_template_with_a_place_for_tools_is_left_alone() {
        for source in [
            include_str!("../fixtures/qwen2.5.jinja"),
            include_str!("../fixtures/llama3.2.jinja"),
            include_str!("../fixtures/mistral-v3.jinja"),
            include_str!("../fixtures/mistral-named.jinja"),
            include_str!("../../../models/kiosk/chat_template.jinja"),
        ] {
            assert_eq!(LeftOut::by(&template(source)), None, "{source}");
        }
        let broken = template("{{ raise_exception('never') }}");
        assert_eq!(LeftOut::by(&broken), None);
    }

    #[test]
    fn what_each_template_leaves_out_is_found_by_trying() {
        let left_out = |source| LeftOut::by(&template(source)).expect("it shows no tools");
        assert!(left_out(GEMMA2).calls);
        let only_arguments = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}\
            {% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}";
        assert!(!left_out(only_arguments).calls);
        assert_eq!(
            left_out(CHATML),
            LeftOut {
                calls: true,
                system: false
            }
        );
        assert_eq!(
            left_out(DEEPSEEK),
            LeftOut {
                calls: false,
                system: false
            }
        );
    }

    #[test]
    fn tools_calls_and_results_stand_in_the_turns_and_the_roles_alternate() {
        for source in [GEMMA2, CHATML] {
            let template = template(source);
            let left_out = LeftOut::by(&template).expect("it shows no tools");
            let prompt = template
                .render(&left_out.written_out(&talk()))
                .expect("rendered");
            for expected in [
                &tool().to_string(),
                "One moment.\n<tool_call>\n{\"name\": \"price\", \"arguments\": {\"article\":\"milk\"}}\n</tool_call>",
                "<tool_response>\n1.20\n</tool_response>\nThanks!",
            ] {
                assert!(prompt.contains(expected), "{expected} in {prompt}");
            }
        }
    }

    #[test]
    fn tools_stand_behind_the_instructions_and_nowhere_twice() {
        let left_out = LeftOut {
            calls: true,
            system: false,
        };
        let mut asked = talk();
        let introduced = left_out.written_out(&asked).into_owned().messages;
        assert_eq!((introduced.len(), introduced[0].role), (4, Role::System));
        asked
            .messages
            .insert(0, Message::text(Role::Developer, "Be brief."));
        let introduced = left_out.written_out(&asked).into_owned().messages;
        let first = introduced[0].content.as_deref().expect("a text");
        assert!(first.starts_with("Be brief.\n# Tools"), "{first}");
        asked.tools.clear();
        let without = left_out.written_out(&asked).into_owned().messages;
        assert_eq!(without[0].content.as_deref(), Some("Be brief."));
    }

    #[test]
    fn a_template_without_a_system_turn_has_the_tools_in_the_first_question() {
        let left_out = LeftOut {
            calls: true,
            system: true,
        };
        let messages = left_out.written_out(&talk()).into_owned().messages;
        assert_eq!(messages[0].role, Role::User);
        let first = messages[0].content.as_deref().expect("a text");
        assert!(
            first.starts_with("# Tools") && first.ends_with("\n\nMilk?"),
            "{first}"
        );
    }
}
