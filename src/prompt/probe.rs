//! Finds out what a template can show, and in which form it wants it, by rendering small conversations when
//! it is compiled.
//!
//! Templates disagree on what a message without content is, on whether the arguments of a call are an
//! object or text, and on which turns may follow each other. Some raise on what they do not support, others
//! leave it out silently. So a probe looks for the text of a turn in the prompt. A template that does not
//! even show an ordinary conversation is used as it is.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Message, Role, ToolCall};
use super::json::dumps;
use super::turns::TurnSupport;

/// The form in which a template expects messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TemplateView {
    /// The value that stands for absent content.
    pub(super) absent: Value,
    /// Whether the arguments of a call are text, as in OpenAI's API, and not an object.
    pub(super) text_arguments: bool,
    /// Whether content is a list of parts.
    pub(super) typed_content: bool,
}

impl Default for TemplateView {
    fn default() -> Self {
        Self {
            absent: "".into(),
            text_arguments: false,
            typed_content: false,
        }
    }
}

impl TemplateView {
    /// Makes the view with content in parts. A part with empty text stands for absent content, because
    /// templates read the first part.
    fn typed() -> Self {
        Self {
            absent: parts(""),
            typed_content: true,
            ..Self::default()
        }
    }
}

fn parts(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// Everything that the probes found out about a template.
#[derive(Debug, Clone, Default)]
pub(super) struct TemplateTraits {
    pub(super) view: TemplateView,
    /// Whether it refuses messages with several calls, as Llama's does.
    pub(super) one_call_a_message: bool,
    /// Whether it takes arguments apart and shows nothing of those that are text, as Qwen3-Coder's does.
    pub(super) needs_object_arguments: bool,
    /// Where it shows text of messages that also have calls.
    pub(super) text_with_calls: TextWithCalls,
    pub(super) turns: TurnSupport,
}

/// Where a template shows the text of a message that also has calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TextWithCalls {
    /// With the calls; also the default where nothing is known.
    #[default]
    Together,
    /// In a message of its own before them: `DeepSeek`'s shows only the text of such a message, Llama's only
    /// the calls.
    Apart,
    /// In one message with the text after the calls: Mistral's older templates raise where the assistant
    /// speaks twice between two questions.
    OneTextATurn,
}

impl TextWithCalls {
    const ALL: [Self; 3] = [Self::Together, Self::Apart, Self::OneTextATurn];

    /// Returns the conversation with that text where the template shows it.
    pub(super) fn lay_out(self, conversation: &Conversation) -> Cow<'_, Conversation> {
        match self {
            Self::Together => Cow::Borrowed(conversation),
            Self::Apart => Cow::Owned(conversation.with_calls_apart()),
            Self::OneTextATurn => Cow::Owned(conversation.with_one_text_a_turn()),
        }
    }
}

/// Renders a conversation; returns `None` where that fails.
pub(super) trait Render: Fn(&Conversation, &TemplateView) -> Option<String> {}

impl<R: Fn(&Conversation, &TemplateView) -> Option<String>> Render for R {}

impl TemplateTraits {
    /// Probes the template that `render` renders.
    pub(super) fn of(render: &impl Render) -> Self {
        let mut view = if wants_typed_content(render) {
            TemplateView::typed()
        } else {
            TemplateView::default()
        };
        let calls = |view: &TemplateView, count| render(&asking(count, None), view);
        if let Some(found) = view_of_calls(render, &view) {
            view = found;
        } else if !shows(calls(&view, 1), &[FUNCTION]) {
            // Templates that show of a call nothing but its name.
            let none = TemplateView {
                absent: Value::Null,
                ..view.clone()
            };
            if shows(calls(&none, 1), &[FUNCTION]) {
                view = none;
            }
        }
        Self {
            needs_object_arguments: needs_object_arguments(render, &view),
            one_call_a_message: calls(&view, 1).is_some() && calls(&view, 2).is_none(),
            text_with_calls: text_with_calls(render, &view),
            turns: turns(render, &view),
            view,
        }
    }
}

/// The function that the probes call, and its argument.
const FUNCTION: &str = "probe_function";
const ARGUMENT: &str = "probe_argument";
const VALUE: &str = "probe value";
/// The texts of the probes' messages.
const FIRST: &str = "probe first";
const SECOND: &str = "probe second";
const THIRD: &str = "probe third";
const FOURTH: &str = "probe fourth";

fn shows(text: Option<String>, parts: &[&str]) -> bool {
    text.is_some_and(|text| parts.iter().all(|part| text.contains(part)))
}

fn arguments() -> Value {
    json!({ARGUMENT: VALUE})
}

/// The tools to probe calls with: some templates show calls only where there are any.
fn tool_sets() -> [Vec<Value>; 2] {
    let tool = json!({"type": "function", "function": {"name": FUNCTION, "description": "Probes.",
        "parameters": {"type": "object", "properties": {}}}});
    [Vec::new(), vec![tool]]
}

/// Whether the template lays a question out, with instructions or without.
pub(super) fn lays_questions_out(render: &impl Render, view: &TemplateView) -> bool {
    let turns = [(Role::System, FIRST), (Role::User, SECOND)];
    [&turns[1..], &turns[..]]
        .into_iter()
        .any(|turns| render(&conversation(turns), view).is_some())
}

/// Makes a conversation of a question, one message with `calls` calls and this content, and their results.
fn asking(calls: usize, content: Option<&str>) -> Conversation {
    // Nine alphanumerics, which Mistral's template insists on.
    let ids = || (0..calls).map(|number| format!("probe{number:04}"));
    let call = |id| ToolCall {
        id,
        name: FUNCTION.into(),
        arguments: arguments(),
    };
    let answer = |id| Message {
        tool_call_id: Some(id),
        ..Message::text(Role::Tool, "ok")
    };
    let asking = Message {
        content: content.map(str::to_owned),
        tool_calls: ids().map(call).collect(),
        ..Message::text(Role::Assistant, "")
    };
    let mut messages = vec![Message::text(Role::User, FIRST), asking];
    messages.extend(ids().map(answer));
    Conversation {
        messages,
        ..Conversation::default()
    }
}

/// The first of four ways in which a call is shown with its arguments as JSON, or taken apart.
///
/// An object is what transformers gives to templates, so it is preferred. Templates that join the arguments
/// to other text fail on it, and those that print it would write it as Python does, in single quotes.
fn view_of_calls(render: &impl Render, view: &TemplateView) -> Option<TemplateView> {
    let of = |text_arguments| {
        let absent = [view.absent.clone(), Value::Null];
        absent.map(|absent| TemplateView {
            absent,
            text_arguments,
            ..view.clone()
        })
    };
    let views = [of(false), of(true)];
    let as_text = dumps(&arguments());
    let printed = minijinja::Value::from(minijinja::value::Serde(arguments())).to_string();
    let is_shown = |conversation: &Conversation, view: &TemplateView| {
        render(conversation, view).is_some_and(|text| {
            if view.text_arguments {
                text.contains(&as_text)
            } else {
                text.contains(ARGUMENT)
                    && text.contains(VALUE)
                    && (printed == as_text || !text.contains(&printed))
            }
        })
    };
    tool_sets().into_iter().find_map(|tools| {
        let conversation = Conversation {
            tools,
            ..asking(1, None)
        };
        let mut views = views.iter().flatten();
        views.find(|view| is_shown(&conversation, view)).cloned()
    })
}

fn needs_object_arguments(render: &impl Render, view: &TemplateView) -> bool {
    if view.text_arguments {
        return false;
    }
    tool_sets().into_iter().any(|tools| {
        let called_with = |arguments: Value| {
            let mut conversation = Conversation {
                tools: tools.clone(),
                ..asking(1, None)
            };
            let calls = conversation.messages.iter_mut();
            for call in calls.flat_map(|message| &mut message.tool_calls) {
                call.arguments = arguments.clone();
            }
            render(&conversation, view)
        };
        shows(called_with(arguments()), &[ARGUMENT, VALUE])
            && !shows(called_with(VALUE.into()), &[VALUE])
    })
}

/// Returns the first way in which text and call are both shown wherever the call alone is.
fn text_with_calls(render: &impl Render, view: &TemplateView) -> TextWithCalls {
    let answered = |content| {
        let mut conversation = asking(1, content);
        let turns = [(Role::Assistant, THIRD), (Role::User, FOURTH)];
        let turns = turns.map(|(role, text)| Message::text(role, text));
        conversation.messages.extend(turns);
        conversation
    };
    let [none, some] = tool_sets();
    // A definition has the name as well, so there the call is known by its arguments.
    [(none, FUNCTION), (some, VALUE)]
        .into_iter()
        .find_map(|(tools, call)| {
            let pairs = [
                (asking(1, None), asking(1, Some(SECOND)), vec![call, FIRST]),
                (
                    answered(None),
                    answered(Some(SECOND)),
                    vec![call, FIRST, THIRD, FOURTH],
                ),
            ];
            let with_tools = |conversation| Conversation {
                tools: tools.clone(),
                ..conversation
            };
            let shown: Vec<_> = pairs
                .into_iter()
                .map(|(alone, beside, parts)| (with_tools(alone), with_tools(beside), parts))
                .filter(|(alone, _, parts)| shows(render(alone, view), parts))
                .collect();
            let all_shown = |layout: &TextWithCalls| {
                shown.iter().all(|(_, beside, parts)| {
                    let text = render(&layout.lay_out(beside), view);
                    shows(text.clone(), &[SECOND]) && shows(text, parts)
                })
            };
            let found = TextWithCalls::ALL.into_iter().find(all_shown);
            found.filter(|_| !shown.is_empty())
        })
        .unwrap_or_default()
}

fn wants_typed_content(render: &impl Render) -> bool {
    let question = conversation(&[(Role::User, FIRST)]);
    let shown = |view: &TemplateView| shows(render(&question, view), &[FIRST]);
    !shown(&TemplateView::default()) && shown(&TemplateView::typed())
}

fn conversation(turns: &[(Role, &str)]) -> Conversation {
    let messages = turns.iter().map(|&(role, text)| Message::text(role, text));
    Conversation {
        messages: messages.collect(),
        ..Conversation::default()
    }
}

fn turns(render: &impl Render, view: &TemplateView) -> TurnSupport {
    use Role::{Assistant, System, User};
    let all_shown = |turns: &[(Role, &str)]| {
        let texts: Vec<&str> = turns.iter().map(|(_, text)| *text).collect();
        shows(render(&conversation(turns), view), &texts)
    };
    let ordinary = [(User, FIRST), (Assistant, SECOND), (User, THIRD)];
    if !all_shown(&ordinary) {
        return TurnSupport::default();
    }
    TurnSupport {
        system_first: all_shown(&[(System, FIRST), (User, SECOND)]),
        system_later: all_shown(&[
            (User, FIRST),
            (Assistant, SECOND),
            (System, "probe later"),
            (User, THIRD),
        ]) && all_shown(&[(System, FIRST), (System, SECOND), (User, THIRD)]),
        users_in_a_row: all_shown(&[(User, FIRST), (User, SECOND)]),
        assistants_in_a_row: all_shown(&[
            (User, FIRST),
            (Assistant, SECOND),
            (Assistant, FOURTH),
            (User, THIRD),
        ]),
    }
}

/// The message as a template with this view expects it: keys that do not apply are absent, because Llama's
/// template asks `'tool_calls' in message`.
pub(super) fn message(message: &Message, view: &TemplateView) -> Value {
    let mut object = Map::new();
    object.insert("role".into(), message.role.as_str().into());
    let content = match &message.content {
        Some(text) if view.typed_content => parts(text),
        Some(text) => text.as_str().into(),
        None => view.absent.clone(),
    };
    object.insert("content".into(), content);
    if let Some(name) = &message.name {
        object.insert("name".into(), name.as_str().into());
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| tool_call(call, view));
        object.insert("tool_calls".into(), calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        object.insert("tool_call_id".into(), id.as_str().into());
    }
    Value::Object(object)
}

fn tool_call(call: &ToolCall, view: &TemplateView) -> Value {
    let arguments = match &call.arguments {
        Value::String(text) => text.as_str().into(),
        arguments if view.text_arguments => dumps(arguments).into(),
        arguments => arguments.clone(),
    };
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}
