//! Marks what clients wrote, so that the rendered prompt shows which special tokens the template wrote.
//!
//! Templates join, trim, split and escape text, so a special token's text in a prompt may be the work of a
//! client, of the template or of both. Before rendering, every client string gets a mark (a Unicode
//! noncharacter that the request does not hold) around each character with which a special begins or ends,
//! and before a string that stands wholly inside a special. A special of which any part is a client's then
//! has a mark inside; one without marks is the template's. Marks never reach a token.
//!
//! Three cases remain, all of templates that write a special's brackets around whatever word they find: an
//! inner piece cut out of a client's string, the few schema words that must stay recognisable, and the
//! values of `chat_template_kwargs`, which templates compare.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::conversation::{Conversation, Message, Role, ToolCall};
use super::exact::exact_number;
use super::markup::Markup;
use crate::engine::SpecialKind;

/// Words of tool definitions that templates look up or compare, and that must stay recognisable.
const SCHEMA_WORDS: [&str; 26] = [
    "additionalProperties",
    "anyOf",
    "array",
    "boolean",
    "default",
    "description",
    "enum",
    "format",
    "function",
    "integer",
    "items",
    "name",
    "null",
    "nullable",
    "number",
    "object",
    "oneOf",
    "parameters",
    "properties",
    "required",
    "response",
    "return",
    "strict",
    "string",
    "title",
    "type",
];

/// Longest `<tag>` in an assistant's text that is taken for the model's own markup, in bytes.
const MAX_TAG: usize = 32;

/// The part of a request that a string comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextOrigin {
    /// An assistant's earlier answer: the model's own markup in it stays whole, for templates look for it.
    Answer,
    /// A key or a value in tool definitions and arguments.
    Json,
    /// A variable of the template that the client sets, such as `"thinking": "low"`. Templates compare these,
    /// so that what only stands inside a special is not marked.
    Setting,
    /// Everything else.
    Plain,
}

/// The marks for one request.
pub(super) struct ClientMarks<'v> {
    markup: &'v Markup<'v>,
    mark: char,
    /// The mark on both sides of a number that travels as a string; absent where the request uses up all
    /// other noncharacters.
    number_mark: Option<char>,
    all: SpecialTexts,
    control: SpecialTexts,
    /// The simple tags that stand in control tokens, folded.
    control_tags: HashSet<String>,
    /// User-defined tokens met in answers, and whether they may stay whole.
    met: HashMap<&'v str, bool>,
}

/// The texts of a set of special tokens, for asking what they begin and end with, and contain.
struct SpecialTexts {
    /// First and last characters, folded.
    edges: HashSet<char>,
    /// All texts, folded, with a mark between them.
    texts: String,
}

impl<'v> ClientMarks<'v> {
    /// Makes the marks for one request; `None` when the request uses up every noncharacter.
    pub(super) fn new(markup: &'v Markup<'v>, conversation: &Conversation) -> Option<Self> {
        let mut used: HashSet<char> = HashSet::new();
        let mut note = |text: &str| used.extend(text.chars().filter(|&char| is_nonchar(char)));
        markup.iter().for_each(|special| note(&special.text));
        rewrite(conversation, &mut |text, _| {
            note(text);
            String::new()
        });
        let mut unused = nonchars().filter(|char| !used.contains(char));
        let (mark, number_mark) = (unused.next()?, unused.next());
        let all = markup.iter().map(|special| special.text.as_str());
        let control = markup
            .iter()
            .filter(|special| special.kind == SpecialKind::Control)
            .map(|special| special.text.as_str());
        let control_tags = control.clone().flat_map(|text| {
            let starts = text.match_indices('<');
            starts.filter_map(|(at, _)| simple_tag(&text[at..]).map(fold_text))
        });
        Some(Self {
            markup,
            mark,
            number_mark,
            control_tags: control_tags.collect(),
            all: SpecialTexts::of(all, mark),
            control: SpecialTexts::of(control, mark),
            met: HashMap::new(),
        })
    }

    /// Returns the conversation with marks in every string that the client chose.
    pub(super) fn mark(&mut self, conversation: &Conversation) -> Conversation {
        rewrite(conversation, &mut |text, origin| {
            self.mark_text(text, origin)
        })
    }

    /// Returns `text` as it was before marking, with numbers that travel as strings without their quotes.
    pub(super) fn unmark(&self, text: &str) -> String {
        let text = text.replace(self.mark, "");
        match self.number_mark {
            Some(mark) if text.contains(mark) => without_quotes(text, mark),
            _ => text,
        }
    }

    fn mark_text(&mut self, text: &str, origin: TextOrigin) -> String {
        let number = exact_number(text).filter(|_| origin == TextOrigin::Json);
        if let (Some(number), Some(mark)) = (number, self.number_mark) {
            return format!("{mark}{number}{mark}");
        }
        // Where no mark is left for it, it keeps its quotes.
        let text = number.unwrap_or(text);
        let known = origin == TextOrigin::Json && SCHEMA_WORDS.contains(&text);
        if known && self.markup.pieces(text).len() == 1 {
            return text.into();
        }
        let mut out = String::with_capacity(text.len() + 8);
        let mut rest = text;
        let inner = text.trim();
        let is_compared = origin == TextOrigin::Setting;
        if !inner.is_empty() && !is_compared && self.reach(origin).texts.contains(&fold_text(inner))
        {
            // After leading white space, which templates trim.
            rest = text.trim_start();
            out.push_str(&text[..text.len() - rest.len()]);
            out.push(self.mark);
        }
        while let Some(char) = rest.chars().next() {
            if origin == TextOrigin::Answer
                && let Some(length) = self.own_markup(rest)
            {
                let (tag, after) = rest.split_at(length);
                out.push_str(tag);
                rest = after;
                continue;
            }
            if self.reach(origin).edges.contains(&fold(char)) {
                out.extend([self.mark, char, self.mark]);
            } else {
                out.push(char);
            }
            rest = &rest[char.len_utf8()..];
        }
        out
    }

    fn reach(&self, origin: TextOrigin) -> &SpecialTexts {
        match origin {
            TextOrigin::Answer => &self.control,
            TextOrigin::Json | TextOrigin::Setting | TextOrigin::Plain => &self.all,
        }
    }

    /// Returns the length of the model's own markup at the start of an answer's `text`: a user-defined token,
    /// or a tag that is no token (many models' `<think>` is ordinary text), unless it could become part of a
    /// control token.
    fn own_markup(&mut self, text: &str) -> Option<usize> {
        let control = &self.control;
        let (tag, harmless) = if let Some(special) = self.markup.at_start(text) {
            let tag = special.text.as_str();
            let harmless = self.met.entry(tag).or_insert_with(|| {
                !control.texts.contains(&fold_text(tag)) && !control.begins_or_ends_within(tag)
            });
            (tag, *harmless)
        } else {
            let tag = simple_tag(text)?;
            let inside = self.control_tags.contains(&fold_text(tag));
            (tag, !inside && !control.begins_or_ends_within(tag))
        };
        harmless.then_some(tag.len())
    }
}

impl SpecialTexts {
    fn of<'a>(texts: impl Iterator<Item = &'a str>, mark: char) -> Self {
        let mut edges = HashSet::new();
        let mut all = String::new();
        for text in texts {
            edges.extend(text.chars().next().map(fold));
            edges.extend(text.chars().next_back().map(fold));
            all.push_str(&fold_text(text));
            all.push(mark);
        }
        Self { edges, texts: all }
    }

    /// Whether one of the texts could begin or end inside `tag` and not at its borders.
    fn begins_or_ends_within(&self, tag: &str) -> bool {
        let closing = tag.chars().next_back().map(fold);
        tag.chars()
            .skip(1)
            .map(fold)
            .any(|char| Some(char) != closing && self.edges.contains(&char))
    }
}

/// Removes the marks of numbers and the quotes outside of them: JSON's, those within a string of JSON, and
/// Python's.
fn without_quotes(mut text: String, mark: char) -> String {
    for quote in ["\\\"", "\"", "'"] {
        text = text.replace(&format!("{quote}{mark}"), &mark.to_string());
        text = text.replace(&format!("{mark}{quote}"), &mark.to_string());
    }
    text.replace(mark, "")
}

/// Templates may change case, so comparisons ignore it.
fn fold(char: char) -> char {
    char.to_lowercase().next().unwrap_or(char)
}

fn fold_text(text: &str) -> String {
    text.chars().map(fold).collect()
}

/// `<word>` or `</word>` at the start of `text`.
fn simple_tag(text: &str) -> Option<&str> {
    let name = text.strip_prefix('<')?;
    let name = name.strip_prefix('/').unwrap_or(name);
    let end = name.find(|char: char| !char.is_ascii_alphabetic() && char != '_')?;
    let length = text.len() - name.len() + end + 1;
    (end > 0 && name[end..].starts_with('>') && length <= MAX_TAG).then(|| &text[..length])
}

/// The code points that Unicode reserves for internal use: no text for interchange holds them.
fn nonchars() -> impl Iterator<Item = char> {
    let planes = (0..=16_u32).flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
    (0xFDD0..=0xFDEF).chain(planes).filter_map(char::from_u32)
}

pub(super) fn is_nonchar(char: char) -> bool {
    let code = u32::from(char);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// Returns the conversation with every string that a client chose passed through `change`.
fn rewrite(
    conversation: &Conversation,
    change: &mut impl FnMut(&str, TextOrigin) -> String,
) -> Conversation {
    let mut messages = Vec::with_capacity(conversation.messages.len());
    for message in &conversation.messages {
        let origin = match message.role {
            Role::Assistant => TextOrigin::Answer,
            Role::System | Role::Developer | Role::User | Role::Tool => TextOrigin::Plain,
        };
        let mut tool_calls = Vec::with_capacity(message.tool_calls.len());
        for call in &message.tool_calls {
            tool_calls.push(ToolCall {
                id: change(&call.id, TextOrigin::Plain),
                name: change(&call.name, TextOrigin::Plain),
                arguments: rewrite_json(&call.arguments, TextOrigin::Json, change),
            });
        }
        messages.push(Message {
            role: message.role,
            content: message.content.as_deref().map(|text| change(text, origin)),
            name: message
                .name
                .as_deref()
                .map(|text| change(text, TextOrigin::Plain)),
            tool_calls,
            tool_call_id: message
                .tool_call_id
                .as_deref()
                .map(|text| change(text, TextOrigin::Plain)),
        });
    }
    let tools = conversation.tools.iter();
    let tools = tools
        .map(|tool| rewrite_json(tool, TextOrigin::Json, change))
        .collect();
    let kwargs = conversation.template_kwargs.iter();
    let kwargs = kwargs.map(|(name, value)| {
        // The name is a variable of the template, and a plain one.
        (
            name.clone(),
            rewrite_json(value, TextOrigin::Setting, change),
        )
    });
    Conversation {
        template_kwargs: kwargs.collect(),
        messages,
        tools,
        effort: conversation.effort,
        end: conversation.end,
    }
}

fn rewrite_json(
    value: &Value,
    origin: TextOrigin,
    change: &mut impl FnMut(&str, TextOrigin) -> String,
) -> Value {
    match value {
        Value::String(text) => Value::String(change(text, origin)),
        Value::Array(items) => items
            .iter()
            .map(|item| rewrite_json(item, origin, change))
            .collect(),
        Value::Object(object) => {
            let mut out = Map::with_capacity(object.len());
            for (key, value) in object {
                let key = change(key, origin);
                out.insert(key, rewrite_json(value, origin, change));
            }
            Value::Object(out)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
