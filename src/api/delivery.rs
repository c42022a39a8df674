//! From a scheduler's events to a response, whole or as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future, stream};

use crate::sampling::Logprobs;
use crate::scheduler::{Event, Finished, Text};

use super::error::ApiError;
use super::generation::{Generation, Spent};
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
    generation.finished(telling.finish_reason());
    let body = telling.whole(generation.spent());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The answers as they come. Dropping the stream cancels the request.
fn frames(
    generation: Generation,
    mut telling: impl Telling,
) -> impl Stream<Item = Frame> + Send + 'static {
    let state = Streaming {
        pending: telling.opening().into(),
        generation,
        telling,
        ended: false,
    };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(frame) = state.pending.pop_front() {
                return Some((frame, state));
            }
            if state.ended {
                return None;
            }
            state.advance().await;
        }
    })
}

struct Streaming<T> {
    generation: Generation,
    telling: T,
    /// Ready to be sent.
    pending: VecDeque<Frame>,
    ended: bool,
}

impl<T: Telling> Streaming<T> {
    async fn advance(&mut self) {
        let next = tokio::select! {
            next = self.generation.next() => next,
            () = tokio::time::sleep(KEEP_ALIVE) => {
                let comment = self.generation.whereabouts();
                self.pending.push_back(Frame::Comment(comment));
                return;
            }
        };
        match next {
            Some(Ok((answer, Event::Prompt(logprobs)))) => {
                self.pending.extend(self.telling.prompt(answer, &logprobs));
            }
            Some(Ok((answer, Event::Text(text)))) => {
                self.pending.extend(self.telling.text(answer, &text));
            }
            Some(Ok((answer, Event::Finished(end)))) => {
                self.pending.extend(self.telling.end(answer, &end));
            }
            Some(Ok((_, Event::Failed(_)))) => {}
            Some(Err(error)) => {
                self.pending.push_back(self.telling.failure(&error));
                self.ended = true;
            }
            None => {
                self.generation.finished(self.telling.finish_reason());
                let spent = self.generation.spent();
                self.pending.extend(self.telling.close(spent));
                self.ended = true;
            }
        }
    }
}

/// Frames as a response. Events are numbered behind `told`, the last one that the client has.
pub(super) fn event_stream(
    frames: impl Stream<Item = Frame> + Send + 'static,
    told: u64,
) -> Response {
    let written = frames.scan(told, |number, frame| {
        if !matches!(frame, Frame::Comment(_)) {
            *number += 1;
        }
        future::ready(Some(Ok::<_, Infallible>(written(&frame, *number))))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
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
