//! The events of a streamed response, numbered as they are told.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::sse::{Frame, json_text};
use crate::openai::logprobs::TokenLogprob;

use super::items::{Item, Part};
use super::reply::Response;

/// The length to whose multiples deltas are filled up.
const BLOCK: usize = 16;

/// What is told, and what waits to be sent.
#[derive(Debug)]
pub(super) struct Events {
    /// Whether anybody listens.
    stream: bool,
    obfuscate: bool,
    next: u64,
    ready: Vec<Frame>,
}

/// Where in the output something is.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(super) struct Place<'a> {
    pub(super) item_id: &'a str,
    pub(super) output_index: usize,
}

/// What an event tells beside its name and number.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Telling<'a> {
    Response {
        response: &'a Response,
    },
    Item {
        output_index: usize,
        item: &'a Item,
    },
    Part {
        #[serde(flatten)]
        place: Place<'a>,
        content_index: usize,
        part: &'a Part,
    },
    TextDelta {
        #[serde(flatten)]
        place: Place<'a>,
        content_index: usize,
        delta: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    TextDone {
        #[serde(flatten)]
        place: Place<'a>,
        content_index: usize,
        text: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    ThoughtDelta {
        #[serde(flatten)]
        place: Place<'a>,
        content_index: usize,
        delta: &'a str,
    },
    ThoughtDone {
        #[serde(flatten)]
        place: Place<'a>,
        content_index: usize,
        text: &'a str,
    },
    ArgumentsDelta {
        #[serde(flatten)]
        place: Place<'a>,
        delta: &'a str,
    },
    ArgumentsDone {
        #[serde(flatten)]
        place: Place<'a>,
        name: &'a str,
        arguments: &'a str,
    },
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ResponseEvent")]
pub(super) struct Event<'a> {
    r#type: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    telling: Telling<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<String>,
}

impl Events {
    /// Nothing is told of an answer that is not streamed.
    pub(super) fn new(stream: bool, obfuscate: bool) -> Self {
        Self {
            stream,
            obfuscate,
            next: 0,
            ready: Vec::new(),
        }
    }

    pub(super) fn tell(&mut self, name: &'static str, telling: Telling<'_>) {
        if self.stream {
            let frame = self.frame(name, telling);
            self.ready.push(frame);
        }
    }

    /// The next event.
    pub(super) fn frame(&mut self, name: &'static str, telling: Telling<'_>) -> Frame {
        let obfuscation = match &telling {
            Telling::TextDelta { delta, .. }
            | Telling::ThoughtDelta { delta, .. }
            | Telling::ArgumentsDelta { delta, .. }
                if self.obfuscate =>
            {
                Some(filling(delta.len()))
            }
            _ => None,
        };
        let event = Event {
            r#type: name,
            sequence_number: self.next,
            telling,
            obfuscation,
        };
        self.next += 1;
        Frame::Named(name, json_text(&event))
    }

    /// What was told since it was last taken.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.ready)
    }
}

/// Random letters that make the next multiple of the block out of so many bytes.
fn filling(length: usize) -> String {
    let mut letters = uuid::Uuid::new_v4().simple().to_string();
    letters.truncate(BLOCK - length % BLOCK);
    letters
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn delta(events: &mut Events, delta: &str) -> Value {
        let place = Place {
            item_id: "fc_1",
            output_index: 2,
        };
        let telling = Telling::ArgumentsDelta { place, delta };
        let frame = events.frame("response.function_call_arguments.delta", telling);
        let Frame::Named(name, text) = frame else {
            panic!("it has a name");
        };
        let event: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["type"], name);
        event
    }

    #[test]
    fn events_are_numbered_from_zero() {
        let mut events = Events::new(true, false);
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
        let mut events = Events::new(true, true);
        for text in [
            "",
            "a",
            "fifteen letters",
            "sixteen letters!",
            "seventeen letters",
        ] {
            let event = delta(&mut events, text);
            let filling = event["obfuscation"].as_str().expect("a filling");
            assert_eq!((text.len() + filling.len()) % BLOCK, 0);
            assert!(!filling.is_empty());
        }
    }

    #[test]
    fn an_answer_that_is_not_streamed_tells_nothing() {
        let mut events = Events::new(false, false);
        let item = Item::Reasoning {
            id: super::super::items::Id::fixed("rs_1", true),
            summary: Vec::new(),
            content: Vec::new(),
            encrypted_content: None,
            status: super::super::items::Status::InProgress,
        };
        let telling = Telling::Item {
            output_index: 0,
            item: &item,
        };
        events.tell("response.output_item.added", telling);
        assert!(events.take().is_empty());
    }
}
