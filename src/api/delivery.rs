//! From a scheduler's events to a response, whole or as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{self, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future, stream};

use crate::admission::{Held, Outbox};
use crate::sampling::Logprobs;
use crate::scheduler::{Event, Finished, Text};
use crate::worker::WorkError;

use super::error::ApiError;
use super::generation::{Generation, Spent};
use super::outgoing;
use super::resume::{self, Ticket};

/// A comment every so often keeps proxies and clients from giving a silent stream up.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How an endpoint tells its answers. A stream sends the frames; a whole answer is asked for at the
/// end, and its frames are empty.
pub(super) trait Telling: Send + Sized + 'static {
    /// Before anything is known.
    fn opening(&mut self) -> Vec<Frame>;
    /// How likely the tokens of an answer's prompt were, but the first.
    fn prompt(&mut self, _answer: usize, _logprobs: &[Logprobs]) -> Vec<Frame> {
        Vec::new()
    }
    /// More of an answer.
    fn text(&mut self, answer: usize, text: &Text) -> Vec<Frame>;
    /// The end of an answer.
    fn end(&mut self, answer: usize, finished: &Finished) -> Vec<Frame>;
    /// The end of all of them.
    fn close(&mut self, spent: Spent) -> Vec<Frame>;
    /// What broke a stream off.
    fn failure(&mut self, error: &ApiError) -> Frame;
    /// Why the first answer ended.
    fn finish_reason(&self) -> &'static str;
    /// Everything as one body of JSON.
    fn whole(self, spent: Spent) -> String;
}

/// One server-sent event, or a comment between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data that needs no name.
    Data(String),
    /// An event of this name.
    Named(&'static str, String),
    /// What clients skip.
    Comment(String),
}

impl Frame {
    /// Bytes of its texts.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Data(text) | Self::Comment(text) => text.len(),
            Self::Named(name, text) => name.len() + text.len(),
        }
    }

    /// The end of most of OpenAI's streams.
    pub(super) fn done() -> Self {
        Self::Data("[DONE]".to_owned())
    }
}

/// A frame on its way to a client.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Frame,
    /// The memory that it takes, where that is counted.
    pub(super) held: Option<Held>,
}

impl From<Frame> for Outgoing {
    fn from(frame: Frame) -> Self {
        Self { frame, held: None }
    }
}

/// An object of an answer as text.
pub(super) fn json_text(object: &impl serde::Serialize) -> String {
    // Plain structs with string keys: the only way to fail is a defect.
    serde_json::to_string(object).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be written");
        String::new()
    })
}

/// Tells the answers as a stream, which its client may come back for with a ticket, or as a whole.
pub(super) async fn respond(
    generation: Generation,
    telling: impl Telling,
    stream: bool,
    ticket: Option<Ticket>,
) -> Response {
    if stream {
        resume::respond(frames(generation, telling), ticket)
    } else {
        whole(generation, telling).await
    }
}

/// Waits for the end of all answers.
async fn whole(mut generation: Generation, mut telling: impl Telling) -> Response {
    drop(telling.opening());
    while let Some(next) = generation.next().await {
        match next {
            Ok((answer, Event::Prompt(logprobs))) => drop(telling.prompt(answer, &logprobs)),
            Ok((answer, Event::Text(text))) => drop(telling.text(answer, &text)),
            Ok((answer, Event::Finished(end))) => drop(telling.end(answer, &end)),
            Ok((_, Event::Failed(_))) => {}
            Err(error) => return error.into_response(),
        }
    }
    let reason = telling.finish_reason();
    let body = telling.whole(generation.spent());
    match outgoing::json(body, generation.send_budget()).await {
        Ok(response) => {
            generation.finished(reason);
            response
        }
        Err(error) => {
            generation.fail(&error);
            error.into_response()
        }
    }
}

/// The answers as they come. Dropping the stream cancels the request.
fn frames(
    generation: Generation,
    mut telling: impl Telling,
) -> impl Stream<Item = Outgoing> + Send + 'static {
    let opening = telling.opening();
    let mut state = Streaming {
        outbox: Outbox::new(generation.send_budget()),
        pending: VecDeque::new(),
        generation,
        telling: Some(telling),
    };
    state.queue(opening);
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(frame) = state.pending.pop_front() {
                return Some((frame, state));
            }
            // Behind the end there is none.
            state.telling.as_ref()?;
            state.advance().await;
        }
    })
}

struct Streaming<T> {
    generation: Generation,
    /// None behind the end: what it remembers of the answer is not needed to send the rest.
    telling: Option<T>,
    /// Ready to be sent.
    pending: VecDeque<Outgoing>,
    /// What of them, and of those that are being sent, the client has not taken.
    outbox: Outbox,
}

impl<T: Telling> Streaming<T> {
    async fn advance(&mut self) {
        let Some(telling) = &mut self.telling else {
            return;
        };
        let next = tokio::select! {
            next = self.generation.next() => next,
            () = tokio::time::sleep(KEEP_ALIVE) => {
                let comment = self.generation.whereabouts();
                self.pending.push_back(Frame::Comment(comment).into());
                return;
            }
        };
        let frames = match next {
            Some(Ok((answer, Event::Prompt(logprobs)))) => telling.prompt(answer, &logprobs),
            Some(Ok((answer, Event::Text(text)))) => telling.text(answer, &text),
            Some(Ok((answer, Event::Finished(end)))) => telling.end(answer, &end),
            Some(Ok((_, Event::Failed(_)))) => Vec::new(),
            Some(Err(error)) => {
                self.break_off(&error);
                return;
            }
            None => {
                let spent = self.generation.spent();
                let reason = telling.finish_reason();
                let frames = telling.close(spent);
                if self.queue(frames) {
                    self.generation.finished(reason);
                }
                self.telling = None;
                return;
            }
        };
        self.queue(frames);
    }

    /// Frames to be sent. False where there is no memory for all of them: that ends the stream.
    fn queue(&mut self, frames: Vec<Frame>) -> bool {
        for frame in frames {
            let Some(held) = self.outbox.hold(frame.size()) else {
                let error = ApiError::Job(WorkError::Unread);
                self.generation.fail(&error);
                self.break_off(&error);
                return false;
            };
            let held = Some(held);
            self.pending.push_back(Outgoing { frame, held });
        }
        true
    }

    fn break_off(&mut self, error: &ApiError) {
        if let Some(mut telling) = self.telling.take() {
            let frame = telling.failure(error);
            let held = Some(self.outbox.hold_last(frame.size()));
            self.pending.push_back(Outgoing { frame, held });
        }
    }
}

/// Frames as a response. Events are numbered behind `told`, the last one that the client has.
pub(super) fn event_stream(
    frames: impl Stream<Item = Outgoing> + Send + 'static,
    told: u64,
) -> Response {
    let written = frames.scan(told, |number, outgoing| {
        let Outgoing { frame, held } = outgoing;
        if !matches!(frame, Frame::Comment(_)) {
            *number += 1;
        }
        let text = written(&frame, *number);
        let bytes = match held {
            // It may take a slow client long to read as much.
            Some(held) if held.is_reserved() => outgoing::holding(text, held),
            _ => Bytes::from(text),
        };
        future::ready(Some(Ok::<_, Infallible>(bytes)))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx, and what is built on it, would keep events back until a buffer is full.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, Body::from_stream(written)).into_response()
}

/// As the [format] has it. Data is JSON, which has no line breaks of its own. No empty line ends
/// a comment: OpenAI's Python SDK takes one behind an event with an id for another, empty event.
///
/// [format]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
fn written(frame: &Frame, number: u64) -> String {
    match frame {
        Frame::Comment(text) => format!(": {text}\n"),
        Frame::Data(data) => format!("id: {number}\ndata: {data}\n\n"),
        Frame::Named(name, data) => format!("id: {number}\nevent: {name}\ndata: {data}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_no_event() {
        let frames = [
            Frame::Comment("2 ahead".to_owned()),
            Frame::Data("{}".to_owned()),
            Frame::Named("error", "{}".to_owned()),
        ];
        let text: Vec<String> = frames.iter().map(|frame| written(frame, 7)).collect();
        assert_eq!(
            text,
            [
                ": 2 ahead\n",
                "id: 7\ndata: {}\n\n",
                "id: 7\nevent: error\ndata: {}\n\n"
            ]
        );
    }
}
