//! The events of a streamed response, numbered in the order in which they are sent.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::sse::{Frame, json_text};
use crate::openai::logprobs::TokenLogprob;

use super::items::{ItemPart, ResponseItem};
use super::reply::ResponseObject;

/// With obfuscation, deltas are padded to a multiple of so many bytes, which hides their lengths.
const PADDING_BLOCK_BYTES: usize = 16;

/// Numbers events and queues them to be sent.
#[derive(Debug)]
pub(super) struct EventQueue {
    /// Whether the response is a stream; otherwise nothing is queued.
    stream: bool,
    obfuscate: bool,
    next: u64,
    ready: Vec<Frame>,
}

/// The item of the output that an event is about.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(description = "Where in the output something is.")]
pub(super) struct OutputPosition<'a> {
    pub(super) item_id: &'a str,
    pub(super) output_index: usize,
}

/// The content of an event beside its type and number.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(description = "What an event tells beside its name and number.")]
pub(super) enum EventPayload<'a> {
    Response {
        response: &'a ResponseObject,
    },
    Item {
        output_index: usize,
        item: &'a ResponseItem,
    },
    Part {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        content_index: usize,
        part: &'a ItemPart,
    },
    TextDelta {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        content_index: usize,
        delta: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    TextDone {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        content_index: usize,
        text: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    ThoughtDelta {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        content_index: usize,
        delta: &'a str,
    },
    ThoughtDone {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        content_index: usize,
        text: &'a str,
    },
    ArgumentsDelta {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        delta: &'a str,
    },
    ArgumentsDone {
        #[serde(flatten)]
        place: OutputPosition<'a>,
        name: &'a str,
        arguments: &'a str,
    },
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ResponseEvent<'a> {
    r#type: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    payload: EventPayload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<String>,
}

impl EventQueue {
    /// Creates an empty queue. Without `stream` it stays empty.
    pub(super) fn new(stream: bool, obfuscate: bool) -> Self {
        Self {
            stream,
            obfuscate,
            next: 0,
            ready: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, name: &'static str, payload: EventPayload<'_>) {
        if self.stream {
            let frame = self.frame(name, payload);
            self.ready.push(frame);
        }
    }

    /// Makes the next event's frame.
    pub(super) fn frame(&mut self, name: &'static str, payload: EventPayload<'_>) -> Frame {
        let obfuscation = match &payload {
            EventPayload::TextDelta { delta, .. }
            | EventPayload::ThoughtDelta { delta, .. }
            | EventPayload::ArgumentsDelta { delta, .. }
                if self.obfuscate =>
            {
                Some(padding(delta.len()))
            }
            _ => None,
        };
        let event = ResponseEvent {
            r#type: name,
            sequence_number: self.next,
            payload,
            obfuscation,
        };
        self.next += 1;
        Frame::Named(name, json_text(&event))
    }

    /// Takes the queued frames.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.ready)
    }
}

/// Returns random letters that pad `length` bytes to the next multiple of [`PADDING_BLOCK_BYTES`].
fn padding(length: usize) -> String {
    let mut letters = uuid::Uuid::new_v4().simple().to_string();
    letters.truncate(PADDING_BLOCK_BYTES - length % PADDING_BLOCK_BYTES);
    letters
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn delta(events: &mut EventQueue, delta: &str) -> Value {
        let place = OutputPosition {
            item_id: "fc_1",
            output_index: 2,
        };
        let payload = EventPayload::ArgumentsDelta { place, delta };
        let frame = events.frame("response.function_call_arguments.delta", payload);
        let Frame::Named(name, text) = frame else {
            panic!("it has a name");
        };
        let event: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["type"], name);
        event
    }

    #[test]
    fn events_are_numbered_from_zero() {
        let mut events = EventQueue::new(true, false);
        for number in 0..3 {
            let event = delta(&mut events, "{");
            assert_eq!(event["sequence_number"], number);
            assert_eq!(event["item_id"], "fc_1");
            assert_eq!(event["output_index"], 2);
            assert!(event.get("obfuscation").is_none());
        }
    }

    #[test]
    fn obfuscated_deltas_have_lengths_that_tell_nothing() {
        let mut events = EventQueue::new(true, true);
        for text in [
            "",
            "a",
            "fifteen letters",
            "sixteen letters!",
            "seventeen letters",
        ] {
            let event = delta(&mut events, text);
            let padding = event["obfuscation"].as_str().expect("a filling");
            assert_eq!((text.len() + padding.len()) % PADDING_BLOCK_BYTES, 0);
            assert!(!padding.is_empty());
        }
    }

    #[test]
    fn an_answer_that_is_not_streamed_tells_nothing() {
        let mut events = EventQueue::new(false, false);
        let item = ResponseItem::Reasoning {
            id: super::super::items::ItemId::fixed("rs_1", true),
            summary: Vec::new(),
            content: Vec::new(),
            encrypted_content: None,
            status: super::super::items::ItemStatus::InProgress,
        };
        let payload = EventPayload::Item {
            output_index: 0,
            item: &item,
        };
        events.push("response.output_item.added", payload);
        assert!(events.take().is_empty());
    }
}
