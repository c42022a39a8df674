//! From what was generated to the items of a response, and to the events of a stream.

use std::sync::Arc;

use crate::engine::Pieces;
use crate::http::error::ApiError;
use crate::http::respond::ResponseRenderer;
use crate::http::sse::{Frame, json_text};
use crate::inference::UsageTotals;
use crate::openai::logprobs::TokenLogprob;
use crate::openai::tools::{Calls, are_whole};
use crate::prompt::{AnswerPart as Generated, OutputParser, OutputPiece};
use crate::scheduler::{AnswerEnd, AnswerText, FinishReason};
use crate::worker::WorkError;

use super::events::{Events, Place, Telling};
use super::items::{Id, Item, Part, Role, Status, new_id};
use super::reply::{Failure, Response, Stage};
use super::store::{Draft, Source, Store};
use super::validate::Output;

/// Turns what was generated into OpenAI's objects.
pub(super) struct Answer {
    response: Response,
    output: Output,
    pieces: Arc<dyn Pieces>,
    parser: Option<OutputParser>,
    events: Events,
    /// The item that is being written.
    open: Option<Open>,
    /// Whether the call that is being written is one too many.
    skips_call: bool,
    calls: usize,
    /// Whether one of them cannot be made, because the model ended in the middle of it.
    has_broken_call: bool,
    /// Tokens that were thoughts.
    thought_tokens: u32,
    /// Of text that has not been told yet.
    logprobs: Vec<TokenLogprob>,
    finish_reason: &'static str,
    keeping: Option<Keeping>,
}

/// Where the response is to be stored, and what it answers to.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) store: Store,
    pub(super) input: Vec<Source>,
}

/// An item that is being written.
#[derive(Debug)]
struct Open {
    id: Id,
    /// What it says so far, or a call's arguments.
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Thoughts,
    Message(Vec<TokenLogprob>),
    Call { call_id: String, name: String },
}

impl Open {
    fn thoughts() -> Self {
        Self {
            id: Id::new("rs"),
            text: String::new(),
            kind: Kind::Thoughts,
        }
    }

    fn message() -> Self {
        Self {
            id: Id::new("msg"),
            text: String::new(),
            kind: Kind::Message(Vec::new()),
        }
    }

    fn call(name: String) -> Self {
        let call_id = new_id("call");
        Self {
            id: Id::new("fc"),
            text: String::new(),
            kind: Kind::Call { call_id, name },
        }
    }

    /// The one part of it; a call has none.
    fn part(&self) -> Option<Part> {
        let text = self.text.clone();
        match &self.kind {
            Kind::Thoughts => Some(Part::ReasoningText { text }),
            Kind::Message(logprobs) => Some(Part::output(text, logprobs.clone())),
            Kind::Call { .. } => None,
        }
    }

    /// With these parts, or as a call with what was written of it.
    fn item(&self, content: Vec<Part>, status: Status) -> Item {
        let id = self.id.clone();
        match &self.kind {
            Kind::Thoughts => Item::Reasoning {
                id,
                summary: Vec::new(),
                content,
                encrypted_content: None,
                status,
            },
            Kind::Message(_) => Item::Message {
                id,
                status,
                role: Role::Assistant,
                content,
            },
            Kind::Call { call_id, name } => Item::FunctionCall {
                id,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: self.text.clone(),
                status,
            },
        }
    }

    fn place(&self, output_index: usize) -> Place<'_> {
        Place {
            item_id: self.id.as_str(),
            output_index,
        }
    }
}

impl Answer {
    pub(super) fn new(
        response: Response,
        output: Output,
        pieces: Arc<dyn Pieces>,
        parser: OutputParser,
        keeping: Option<Keeping>,
    ) -> Self {
        Self {
            response,
            output,
            pieces,
            parser: Some(parser),
            events: Events::new(output.stream, output.obfuscate),
            open: None,
            skips_call: false,
            calls: 0,
            has_broken_call: false,
            thought_tokens: 0,
            logprobs: Vec::new(),
            finish_reason: "stop",
            keeping,
        }
    }

    fn take(&mut self, piece: OutputPiece) {
        match piece {
            OutputPiece::Thought(text) => self.think(&text),
            OutputPiece::Part(Generated::Text(text)) => self.say(&text),
            OutputPiece::Part(Generated::Call { name }) => {
                self.logprobs.clear();
                self.skips_call = self.output.calls == Calls::One && self.calls > 0;
                if !self.skips_call {
                    self.calls += 1;
                    self.begin(Open::call(name));
                }
            }
            OutputPiece::Part(Generated::Arguments(more)) if !self.skips_call => self.argue(&more),
            OutputPiece::Part(Generated::Arguments(_)) => {}
        }
    }

    fn think(&mut self, text: &str) {
        self.logprobs.clear();
        if !matches!(&self.open, Some(open) if matches!(open.kind, Kind::Thoughts)) {
            self.begin(Open::thoughts());
        }
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
            let telling = Telling::ThoughtDelta {
                place: open.place(self.response.output.len()),
                content_index: 0,
                delta: text,
            };
            self.events.tell("response.reasoning_text.delta", telling);
        }
    }

    fn say(&mut self, text: &str) {
        if !matches!(&self.open, Some(open) if matches!(open.kind, Kind::Message(_))) {
            self.begin(Open::message());
        }
        let more = std::mem::take(&mut self.logprobs);
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
            let telling = Telling::TextDelta {
                place: open.place(self.response.output.len()),
                content_index: 0,
                delta: text,
                logprobs: &more,
            };
            self.events.tell("response.output_text.delta", telling);
            if let Kind::Message(logprobs) = &mut open.kind {
                logprobs.extend(more);
            }
        }
    }

    fn argue(&mut self, more: &str) {
        self.logprobs.clear();
        if let Some(open) = &mut self.open {
            open.text.push_str(more);
            let telling = Telling::ArgumentsDelta {
                place: open.place(self.response.output.len()),
                delta: more,
            };
            self.events
                .tell("response.function_call_arguments.delta", telling);
        }
    }

    fn begin(&mut self, open: Open) {
        self.close(Status::Completed);
        let output_index = self.response.output.len();
        let item = &open.item(Vec::new(), Status::InProgress);
        let telling = Telling::Item { output_index, item };
        self.events.tell("response.output_item.added", telling);
        if let Some(part) = &open.part() {
            let telling = Telling::Part {
                place: open.place(output_index),
                content_index: 0,
                part,
            };
            self.events.tell("response.content_part.added", telling);
        }
        self.open = Some(open);
    }

    /// Ends the item that is being written, if there is one.
    fn close(&mut self, status: Status) {
        let Some(open) = self.open.take() else {
            return;
        };
        // Whatever ended the answer: a call whose arguments are whole can be made.
        let status = match open.kind {
            Kind::Call { .. } if are_whole(&open.text) => Status::Completed,
            Kind::Call { .. } => Status::Incomplete,
            Kind::Message(_) | Kind::Thoughts => status,
        };
        self.has_broken_call |=
            matches!(open.kind, Kind::Call { .. }) && status == Status::Incomplete;
        let output_index = self.response.output.len();
        let place = open.place(output_index);
        let (name, telling) = match &open.kind {
            Kind::Thoughts => (
                "response.reasoning_text.done",
                Telling::ThoughtDone {
                    place,
                    content_index: 0,
                    text: &open.text,
                },
            ),
            Kind::Message(logprobs) => (
                "response.output_text.done",
                Telling::TextDone {
                    place,
                    content_index: 0,
                    text: &open.text,
                    logprobs,
                },
            ),
            Kind::Call { name, .. } => (
                "response.function_call_arguments.done",
                Telling::ArgumentsDone {
                    place,
                    name,
                    arguments: &open.text,
                },
            ),
        };
        self.events.tell(name, telling);
        let part = open.part();
        if let Some(part) = &part {
            let telling = Telling::Part {
                place,
                content_index: 0,
                part,
            };
            self.events.tell("response.content_part.done", telling);
        }
        let item = open.item(part.into_iter().collect(), status);
        let telling = Telling::Item {
            output_index,
            item: &item,
        };
        self.events.tell("response.output_item.done", telling);
        self.response.output.push(item);
    }

    /// The whole response, stored if it is to be.
    fn finish(&mut self, spent: UsageTotals) {
        let cut_off = self.finish_reason == "length";
        self.response.end(cut_off, spent, self.thought_tokens);
        let Some(Keeping { store, input }) = self.keeping.take() else {
            return;
        };
        let draft = Draft {
            id: self.response.id.clone(),
            body: json_text(&self.response),
            input,
            output: self.response.output.clone(),
        };
        if !store.keep(draft) {
            tracing::warn!("a response is larger than all that may be stored: it is not kept");
            self.response.echo.store = false;
        }
    }
}

impl ResponseRenderer for Answer {
    fn opening(&mut self) -> Vec<Frame> {
        for name in ["response.created", "response.in_progress"] {
            let response = &self.response;
            self.events.tell(name, Telling::Response { response });
        }
        self.events.take()
    }

    fn text(&mut self, _answer: usize, text: &AnswerText) -> Vec<Frame> {
        let likely = text.logprobs.iter();
        self.logprobs
            .extend(likely.map(|found| TokenLogprob::new(found, &*self.pieces)));
        let found = match &mut self.parser {
            Some(parser) => parser.push(&text.text),
            None => Vec::new(),
        };
        let thinks = matches!(found.last(), Some(OutputPiece::Thought(_)));
        self.thought_tokens += if thinks { text.tokens } else { 0 };
        for piece in found {
            self.take(piece);
        }
        self.events.take()
    }

    fn end(&mut self, _answer: usize, finished: &AnswerEnd) -> Vec<Frame> {
        let parser = self.parser.take();
        let rest = match finished.reason {
            FinishReason::Length => None,
            FinishReason::Stop => parser.map(OutputParser::finish),
        };
        for piece in rest.unwrap_or_default() {
            self.take(piece);
        }
        if self.open.is_none() && self.response.output.is_empty() {
            // Clients look for a message, even if it says nothing.
            self.begin(Open::message());
        }
        self.close(match finished.reason {
            FinishReason::Length => Status::Incomplete,
            FinishReason::Stop => Status::Completed,
        });
        self.finish_reason = match finished.reason {
            FinishReason::Length => "length",
            FinishReason::Stop if self.calls > 0 && !self.has_broken_call => "tool_calls",
            FinishReason::Stop => "stop",
        };
        self.events.take()
    }

    fn close(&mut self, spent: UsageTotals) -> Vec<Frame> {
        self.finish(spent);
        let response = &self.response;
        let name = match response.status {
            Stage::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        self.events.tell(name, Telling::Response { response });
        self.events.take()
    }

    fn failure(&mut self, error: &ApiError) -> Frame {
        let open = self.open.take();
        if matches!(error, ApiError::Job(WorkError::Unread)) {
            // All of it again would take more of the memory that was missing.
            self.response.output.clear();
        } else if let Some(open) = open {
            let content = open.part().into_iter().collect();
            let item = open.item(content, Status::Incomplete);
            self.response.output.push(item);
        }
        self.response.status = Stage::Failed;
        self.response.error = Some(Failure {
            code: match error {
                ApiError::Job(WorkError::Grammar) => "invalid_prompt",
                _ => "server_error",
            },
            message: error.to_string(),
        });
        let response = &self.response;
        self.events
            .frame("response.failed", Telling::Response { response })
    }

    fn finish_reason(&self) -> &'static str {
        self.finish_reason
    }

    fn whole(mut self, spent: UsageTotals) -> String {
        self.finish(spent);
        json_text(&self.response)
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
