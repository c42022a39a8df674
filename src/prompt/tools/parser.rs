//! Finds tool calls in generated text while it is generated.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ToolFormat;
use super::head::{CallHead, ObjectEnd, head};

/// The tag that ends a call in Hermes' format.
pub(super) const CLOSE: &str = "</tool_call>";
/// Bytes of the longest call whose head is not as expected; a longer one is text.
pub(super) const MAX_BLOCK: usize = 64 * 1024;
/// Bytes of the longest white space that is held back until it is known whether text follows.
pub(super) const MAX_BLANK: usize = 4 * 1024;

/// A piece of a parsed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerPart {
    /// Text that the client reads.
    Text(String),
    /// A call begins.
    Call {
        /// The function.
        name: String,
    },
    /// More of the last call's arguments: together the JSON text of an object, as generated.
    Arguments(String),
}

/// Splits a generated answer into text and tool calls as it comes in.
///
/// A call is certain once its name is known and its arguments have begun; what turns out not to be a call
/// before that is returned as text, exactly as generated. White space alone before or after a call is
/// dropped. The joined parts do not depend on how the answer was cut into pushes.
///
/// Text comes with its position in the answer, in bytes, and is always contiguous there. The position of
/// other parts is somewhere in their markup.
#[derive(Debug, Clone)]
pub(in crate::prompt) struct ToolCallParser {
    format: ToolFormat,
    /// Whether the answer consists of calls alone, so that the client reads no text of it.
    only_calls: bool,
    state: CallState,
    /// Bytes that were pushed so far.
    pushed: usize,
    /// Text that is not decided yet.
    pending: String,
    /// How much of `pending` was searched for a tag already.
    searched: usize,
    /// White space since the last call, held back while no text followed.
    blank: String,
    /// Whether text followed the last call.
    spoke: bool,
    called: bool,
}

/// Parts and their positions in the answer, in bytes.
type LocatedParts = Vec<(usize, AnswerPart)>;

#[derive(Debug, Clone)]
enum CallState {
    /// Outside of calls.
    Text,
    /// After an opening tag, which becomes text again if no call follows.
    Head {
        tag: &'static str,
    },
    /// In a block that does not begin as calls do, but may still be one.
    Opaque,
    Arguments(ObjectEnd),
    /// After the arguments; true when the call's own brace was seen.
    Close(bool),
}

/// The object in a block.
#[derive(Deserialize)]
struct Call<'a> {
    name: String,
    #[serde(borrow)]
    arguments: &'a RawValue,
}

impl ToolCallParser {
    /// Makes a parser at the start of an answer.
    #[must_use]
    pub(in crate::prompt) fn new(format: ToolFormat) -> Self {
        Self {
            only_calls: false,
            pushed: 0,
            state: match format {
                ToolFormat::Llama => CallState::Head { tag: "" },
                ToolFormat::Hermes | ToolFormat::Mistral | ToolFormat::MistralNamed => {
                    CallState::Text
                }
            },
            format,
            pending: String::new(),
            searched: 0,
            blank: String::new(),
            spoke: false,
            called: false,
        }
    }

    /// For an answer that must consist of calls alone: what is not part of a complete call, such as the start
    /// of one that was cut off, is never text.
    #[must_use]
    pub(in crate::prompt) fn only_calls(mut self) -> Self {
        self.only_calls = true;
        self
    }

    /// Takes the next piece of the answer; returns what has become certain.
    #[must_use]
    pub(in crate::prompt) fn push(&mut self, text: &str) -> LocatedParts {
        self.pushed += text.len();
        self.pending.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Returns the rest of an answer that ended by itself. A call that was complete but for its closing
    /// tag counts.
    ///
    /// An answer that was cut off has no rest: what is still undecided may be the start of a call,
    /// and what the client has read must be a prefix of what a longer answer would say.
    #[must_use]
    pub(in crate::prompt) fn finish(mut self) -> LocatedParts {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.pending);
        match self.state {
            CallState::Head { tag } => self.text(&format!("{tag}{rest}"), &mut parts),
            CallState::Opaque => self.block(&rest, "", &mut parts),
            CallState::Text => self.text(&rest, &mut parts),
            CallState::Arguments(_) | CallState::Close(_) => {}
        }
        if !self.called && !self.blank.is_empty() {
            let blank = std::mem::take(&mut self.blank);
            self.emit(&blank, &mut parts);
        }
        parts
    }

    /// Returns how many bytes at the end of what was pushed may still become text or part of a call.
    #[must_use]
    pub(in crate::prompt) fn undecided(&self) -> usize {
        let tag = match self.state {
            CallState::Head { tag } => tag.len(),
            CallState::Opaque => self.format.open().len(),
            CallState::Text | CallState::Arguments(_) | CallState::Close(_) => 0,
        };
        self.blank.len() + tag + self.pending.len()
    }

    /// Bytes that are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.pending.len() + self.blank.len()
    }

    /// Decides one piece of the pending text; false when more input is needed.
    fn step(&mut self, parts: &mut LocatedParts) -> bool {
        match &mut self.state {
            CallState::Text => self.search(parts),
            CallState::Head { tag } => {
                let tag = *tag;
                self.begin(tag, parts)
            }
            CallState::Opaque => self.close_block(parts),
            CallState::Arguments(end) => {
                let (length, ended) = end.find(&self.pending);
                if length > 0 {
                    let more = self.pending.drain(..length).collect();
                    parts.push((self.here(), AnswerPart::Arguments(more)));
                }
                if ended {
                    self.state = CallState::Close(false);
                }
                ended
            }
            CallState::Close(braced) => {
                let braced = *braced;
                self.close(braced)
            }
        }
    }

    /// Looks for the tag that opens a call.
    fn search(&mut self, parts: &mut LocatedParts) -> bool {
        let tag = self.format.open();
        let found = if tag.is_empty() {
            None
        } else {
            self.pending.find(tag)
        };
        let Some(at) = found else {
            let certain = self.pending.len() - partial_tag(&self.pending, tag);
            let text: String = self.pending.drain(..certain).collect();
            self.text(&text, parts);
            return false;
        };
        let text: String = self.pending.drain(..at).collect();
        self.text(&text, parts);
        self.pending.drain(..tag.len());
        self.state = CallState::Head { tag };
        true
    }

    fn begin(&mut self, tag: &'static str, parts: &mut LocatedParts) -> bool {
        match head(&self.pending, self.format) {
            CallHead::Undecided if self.pending.len() < MAX_BLOCK => false,
            CallHead::Call { name, arguments } if arguments < MAX_BLOCK => {
                self.pending.drain(..arguments);
                self.call(name, parts);
                self.state = CallState::Arguments(ObjectEnd::default());
                true
            }
            _ if self.format == ToolFormat::Hermes => {
                self.state = CallState::Opaque;
                true
            }
            _ => {
                self.text(tag, parts);
                self.state = CallState::Text;
                true
            }
        }
    }

    /// Looks for the tag that closes an opaque block.
    fn close_block(&mut self, parts: &mut LocatedParts) -> bool {
        // It must begin within the limit, however the input was cut.
        let from = self.searched.saturating_sub(CLOSE.len() - 1);
        let found = find(&self.pending, CLOSE, from).filter(|&at| at <= MAX_BLOCK);
        self.searched = 0;
        if let Some(at) = found {
            let body: String = self.pending.drain(..at + CLOSE.len()).collect();
            self.block(&body[..at], CLOSE, parts);
            self.state = CallState::Text;
            return true;
        }
        if self.pending.len() < MAX_BLOCK + CLOSE.len() {
            self.searched = self.pending.len();
            return false;
        }
        let mut end = MAX_BLOCK;
        while !self.pending.is_char_boundary(end) {
            end -= 1;
        }
        let text: String = self.pending.drain(..end).collect();
        self.text(&format!("{}{text}", self.format.open()), parts);
        self.state = CallState::Text;
        true
    }

    /// Skips what follows the arguments of a call.
    fn close(&mut self, braced: bool) -> bool {
        let rest = self.pending.trim_start();
        let drop = self.pending.len() - rest.len();
        let (state, length) = match rest.chars().next() {
            None => {
                self.pending.clear();
                return false;
            }
            Some('}') if !braced => (CallState::Close(true), 1),
            Some(_) if self.format == ToolFormat::Hermes => {
                if rest.len() < CLOSE.len() && CLOSE.starts_with(rest) {
                    return false;
                }
                let closed = rest.starts_with(CLOSE);
                (CallState::Text, if closed { CLOSE.len() } else { 0 })
            }
            Some(';' | ',') => (CallState::Head { tag: "" }, 1),
            Some('{') if self.format == ToolFormat::Llama => (CallState::Head { tag: "" }, 0),
            Some(']') => (CallState::Text, 1),
            Some(_) => (CallState::Text, 0),
        };
        self.pending.drain(..drop + length);
        self.state = state;
        true
    }

    /// A block without its tags; `close` is the closing tag as generated.
    fn block(&mut self, body: &str, close: &str, parts: &mut LocatedParts) {
        match serde_json::from_str(body) {
            // Serde also takes a struct from an array, which is no call.
            Ok(Call { name, arguments })
                if body.trim_start().starts_with('{') && arguments.get().starts_with('{') =>
            {
                self.call(name, parts);
                parts.push((self.here(), AnswerPart::Arguments(arguments.get().into())));
            }
            _ => self.text(&format!("{}{body}{close}", self.format.open()), parts),
        }
    }

    fn call(&mut self, name: String, parts: &mut LocatedParts) {
        parts.push((self.here(), AnswerPart::Call { name }));
        self.blank.clear();
        self.spoke = false;
        self.called = true;
    }

    /// Text that stands right before what is pending.
    fn text(&mut self, text: &str, parts: &mut LocatedParts) {
        if self.only_calls {
            return;
        }
        if self.spoke {
            return self.emit(text, parts);
        }
        self.blank.push_str(text);
        if !text.trim().is_empty() || self.blank.len() > MAX_BLANK {
            self.spoke = true;
            let blank = std::mem::take(&mut self.blank);
            self.emit(&blank, parts);
        }
    }

    /// Where in the answer that begins which is pending.
    fn here(&self) -> usize {
        self.pushed - self.pending.len()
    }

    /// Gives text that stands right before what is pending.
    fn emit(&self, text: &str, parts: &mut LocatedParts) {
        match parts.last_mut() {
            _ if text.is_empty() => {}
            Some((_, AnswerPart::Text(before))) => before.push_str(text),
            _ => {
                parts.push((self.here() - text.len(), AnswerPart::Text(text.into())));
            }
        }
    }
}

/// Where `tag` first begins in `text` at or after the byte `from`, which need not begin a character.
fn find(text: &str, tag: &str, from: usize) -> Option<usize> {
    let mut windows = text.as_bytes().get(from..)?.windows(tag.len());
    windows
        .position(|window| window == tag.as_bytes())
        .map(|at| from + at)
}

/// How many bytes at the end of `text` may be the start of `tag`.
pub(in crate::prompt) fn partial_tag(text: &str, tag: &str) -> usize {
    (1..tag.len())
        .rev()
        .find(|&length| text.ends_with(&tag[..length]))
        .unwrap_or(0)
}
