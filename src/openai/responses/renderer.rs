//! Renders generated text as the items of a response and the events of its stream.

use std::sync::Arc;

use crate::engine::Pieces;
use crate::http::error::ApiError;
use crate::http::respond::ResponseRenderer;
use crate::http::sse::{Frame, json_text};
use crate::inference::{AnswerOutcome, UsageTotals};
use crate::openai::logprobs::TokenLogprob;
use crate::openai::tools::{CallLimit, are_whole};
use crate::prompt::{AnswerPart as Generated, OutputParser, OutputPiece};
use crate::scheduler::{AnswerEnd, AnswerText, FinishReason};
use crate::worker::WorkError;

use super::events::{EventPayload, EventQueue, OutputPosition};
use super::items::{ItemId, ItemPart, ItemRole, ItemStatus, ResponseItem, new_id};
use super::reply::{ResponseFailure, ResponseObject, ResponseStatus};
use super::store::{InputSource, OwnResponses, ResponseDraft};
use super::validate::ResponseOutputOptions;

/// Renders generated text as OpenAI's response object.
pub(super) struct ResponseItemRenderer {
    response: ResponseObject,
    output: ResponseOutputOptions,
    pieces: Arc<dyn Pieces>,
    parser: Option<OutputParser>,
    events: EventQueue,
    /// The item that is being written.
    open: Option<OpenItem>,
    /// Whether the current call exceeds the limit and is skipped.
    skips_call: bool,
    calls: usize,
    /// Whether a call is incomplete, because generation ended in the middle of it.
    has_broken_call: bool,
    /// Generated tokens that were thoughts.
    thought_tokens: u32,
    /// Log-probabilities that no delta has carried yet.
    logprobs: Vec<TokenLogprob>,
    outcome: AnswerOutcome,
    keeping: Option<StoreTarget>,
}

/// The store for the response, and the input to be stored with it.
#[derive(Debug)]
pub(super) struct StoreTarget {
    pub(super) store: OwnResponses,
    pub(super) input: Vec<InputSource>,
}

/// The output item that is being written.
#[derive(Debug)]
struct OpenItem {
    id: ItemId,
    /// Its text so far, or a call's arguments.
    text: String,
    kind: OpenItemKind,
}

#[derive(Debug)]
enum OpenItemKind {
    Thoughts,
    Message(Vec<TokenLogprob>),
    Call { call_id: String, name: String },
}

impl OpenItem {
    fn thoughts() -> Self {
        Self {
            id: ItemId::new("rs"),
            text: String::new(),
            kind: OpenItemKind::Thoughts,
        }
    }

    fn message() -> Self {
        Self {
            id: ItemId::new("msg"),
            text: String::new(),
            kind: OpenItemKind::Message(Vec::new()),
        }
    }

    fn call(name: String) -> Self {
        let call_id = new_id("call");
        Self {
            id: ItemId::new("fc"),
            text: String::new(),
            kind: OpenItemKind::Call { call_id, name },
        }
    }

    /// Returns its only content part; a call has none.
    fn part(&self) -> Option<ItemPart> {
        let text = self.text.clone();
        match &self.kind {
            OpenItemKind::Thoughts => Some(ItemPart::ReasoningText { text }),
            OpenItemKind::Message(logprobs) => Some(ItemPart::output(text, logprobs.clone())),
            OpenItemKind::Call { .. } => None,
        }
    }

    /// Makes the item with these parts, or as a call with its arguments so far.
    fn item(&self, content: Vec<ItemPart>, status: ItemStatus) -> ResponseItem {
        let id = self.id.clone();
        match &self.kind {
            OpenItemKind::Thoughts => ResponseItem::Reasoning {
                id,
                summary: Vec::new(),
                content,
                encrypted_content: None,
                status,
            },
            OpenItemKind::Message(_) => ResponseItem::Message {
                id,
                status,
                role: ItemRole::Assistant,
                content,
            },
            OpenItemKind::Call { call_id, name } => ResponseItem::FunctionCall {
                id,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: self.text.clone(),
                status,
            },
        }
    }

    fn place(&self, output_index: usize) -> OutputPosition<'_> {
        OutputPosition {
            item_id: self.id.as_str(),
            output_index,
        }
    }
}

impl ResponseItemRenderer {
    pub(super) fn new(
        response: ResponseObject,
        output: ResponseOutputOptions,
        pieces: Arc<dyn Pieces>,
        parser: OutputParser,
        keeping: Option<StoreTarget>,
    ) -> Self {
        Self {
            response,
            output,
            pieces,
            parser: Some(parser),
            events: EventQueue::new(output.stream, output.obfuscate),
            open: None,
            skips_call: false,
            calls: 0,
            has_broken_call: false,
            thought_tokens: 0,
            logprobs: Vec::new(),
            outcome: AnswerOutcome::default(),
            keeping,
        }
    }

    fn take(&mut self, piece: OutputPiece) {
        match piece {
            OutputPiece::Thought(text) => self.think(&text),
            OutputPiece::Part(Generated::Text(text)) => self.say(&text),
            OutputPiece::Part(Generated::Call { name }) => {
                self.logprobs.clear();
                self.skips_call = self.output.calls == CallLimit::One && self.calls > 0;
                if !self.skips_call {
                    self.calls += 1;
                    self.begin(OpenItem::call(name));
                }
            }
            OutputPiece::Part(Generated::Arguments(more)) if !self.skips_call => self.argue(&more),
            OutputPiece::Part(Generated::Arguments(_)) => {}
        }
    }

    fn think(&mut self, text: &str) {
        self.logprobs.clear();
        if !matches!(&self.open, Some(open) if matches!(open.kind, OpenItemKind::Thoughts)) {
            self.begin(OpenItem::thoughts());
        }
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
            let payload = EventPayload::ThoughtDelta {
                place: open.place(self.response.output.len()),
                content_index: 0,
                delta: text,
            };
            self.events.push("response.reasoning_text.delta", payload);
        }
    }

    fn say(&mut self, text: &str) {
        if !matches!(&self.open, Some(open) if matches!(open.kind, OpenItemKind::Message(_))) {
            self.begin(OpenItem::message());
        }
        let more = std::mem::take(&mut self.logprobs);
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
            let payload = EventPayload::TextDelta {
                place: open.place(self.response.output.len()),
                content_index: 0,
                delta: text,
                logprobs: &more,
            };
            self.events.push("response.output_text.delta", payload);
            if let OpenItemKind::Message(logprobs) = &mut open.kind {
                logprobs.extend(more);
            }
        }
    }

    fn argue(&mut self, more: &str) {
        self.logprobs.clear();
        if let Some(open) = &mut self.open {
            open.text.push_str(more);
            let payload = EventPayload::ArgumentsDelta {
                place: open.place(self.response.output.len()),
                delta: more,
            };
            self.events
                .push("response.function_call_arguments.delta", payload);
        }
    }

    fn begin(&mut self, open: OpenItem) {
        self.close(ItemStatus::Completed);
        let output_index = self.response.output.len();
        let item = &open.item(Vec::new(), ItemStatus::InProgress);
        let payload = EventPayload::Item { output_index, item };
        self.events.push("response.output_item.added", payload);
        if let Some(part) = &open.part() {
            let payload = EventPayload::Part {
                place: open.place(output_index),
                content_index: 0,
                part,
            };
            self.events.push("response.content_part.added", payload);
        }
        self.open = Some(open);
    }

    /// Ends the item that is being written, if there is one.
    fn close(&mut self, status: ItemStatus) {
        let Some(open) = self.open.take() else {
            return;
        };
        // A call with complete arguments is complete, however generation ended.
        let status = match open.kind {
            OpenItemKind::Call { .. } if are_whole(&open.text) => ItemStatus::Completed,
            OpenItemKind::Call { .. } => ItemStatus::Incomplete,
            OpenItemKind::Message(_) | OpenItemKind::Thoughts => status,
        };
        self.has_broken_call |=
            matches!(open.kind, OpenItemKind::Call { .. }) && status == ItemStatus::Incomplete;
        let output_index = self.response.output.len();
        let place = open.place(output_index);
        let (name, payload) = match &open.kind {
            OpenItemKind::Thoughts => (
                "response.reasoning_text.done",
                EventPayload::ThoughtDone {
                    place,
                    content_index: 0,
                    text: &open.text,
                },
            ),
            OpenItemKind::Message(logprobs) => (
                "response.output_text.done",
                EventPayload::TextDone {
                    place,
                    content_index: 0,
                    text: &open.text,
                    logprobs,
                },
            ),
            OpenItemKind::Call { name, .. } => (
                "response.function_call_arguments.done",
                EventPayload::ArgumentsDone {
                    place,
                    name,
                    arguments: &open.text,
                },
            ),
        };
        self.events.push(name, payload);
        let part = open.part();
        if let Some(part) = &part {
            let payload = EventPayload::Part {
                place,
                content_index: 0,
                part,
            };
            self.events.push("response.content_part.done", payload);
        }
        let item = open.item(part.into_iter().collect(), status);
        let payload = EventPayload::Item {
            output_index,
            item: &item,
        };
        self.events.push("response.output_item.done", payload);
        self.response.output.push(item);
    }

    /// Completes the response and stores it if asked to.
    fn finish(&mut self, spent: UsageTotals) {
        let cut_off = self.outcome == AnswerOutcome::Length;
        self.response.end(cut_off, spent, self.thought_tokens);
        let Some(StoreTarget { store, input }) = self.keeping.take() else {
            return;
        };
        let draft = ResponseDraft {
            id: self.response.id.clone(),
            body: json_text(&self.response),
            input,
            output: self.response.output.clone(),
        };
        if !store.keep(draft) {
            tracing::warn!(
                "a response is larger than the room that its owner may take: it is not kept"
            );
            self.response.echo.store = false;
        }
    }
}

impl ResponseRenderer for ResponseItemRenderer {
    fn opening(&mut self) -> Vec<Frame> {
        for name in ["response.created", "response.in_progress"] {
            let response = &self.response;
            self.events.push(name, EventPayload::Response { response });
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
            // Clients expect a message, even if it is empty.
            self.begin(OpenItem::message());
        }
        if finished.is_late {
            self.response.note_late();
        }
        self.close(match finished.reason {
            FinishReason::Length => ItemStatus::Incomplete,
            FinishReason::Stop => ItemStatus::Completed,
        });
        let has_calls = self.calls > 0 && !self.has_broken_call;
        self.outcome = AnswerOutcome::new(finished.reason, has_calls);
        self.events.take()
    }

    fn close(&mut self, spent: UsageTotals) -> Vec<Frame> {
        self.finish(spent);
        let response = &self.response;
        let name = match response.status {
            ResponseStatus::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        self.events.push(name, EventPayload::Response { response });
        self.events.take()
    }

    fn failure(&mut self, error: &ApiError) -> Frame {
        let open = self.open.take();
        if matches!(error, ApiError::Job(WorkError::Unread)) {
            // Sending all of it again would take more of the memory that was lacking.
            self.response.output.clear();
        } else if let Some(open) = open {
            let content = open.part().into_iter().collect();
            let item = open.item(content, ItemStatus::Incomplete);
            self.response.output.push(item);
        }
        self.response.status = ResponseStatus::Failed;
        self.response.error = Some(ResponseFailure {
            code: match error {
                ApiError::Job(WorkError::Grammar) => "invalid_prompt",
                _ => "server_error",
            },
            message: error.to_string(),
        });
        let response = &self.response;
        self.events
            .frame("response.failed", EventPayload::Response { response })
    }

    fn outcome(&self) -> AnswerOutcome {
        self.outcome
    }

    fn whole(mut self, spent: UsageTotals) -> String {
        self.finish(spent);
        json_text(&self.response)
    }
}

#[cfg(test)]
#[path = "renderer_tests.rs"]
mod tests;
