//! Server-sent events: frames, and the response that they make.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{self, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future};

use crate::admission::PendingBytes;

use super::outgoing;

/// Time after which a comment is sent, so that proxies and clients do not give up on a silent stream.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One server-sent event, or a comment between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Data that needs no name.
    Data(String),
    /// An event of this name.
    Named(&'static str, String),
    /// A comment, which clients skip.
    Comment(String),
}

impl Frame {
    /// Returns the size of its texts in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Data(text) | Self::Comment(text) => text.len(),
            Self::Named(name, text) => name.len() + text.len(),
        }
    }

    /// The frame that ends most of OpenAI's streams.
    pub(crate) fn done() -> Self {
        Self::Data("[DONE]".to_owned())
    }
}

/// A frame on its way to a client.
#[derive(Debug)]
pub(crate) struct OutgoingFrame {
    pub(crate) frame: Frame,
    /// The reservation of its memory, if that is counted.
    pub(crate) held: Option<PendingBytes>,
}

impl From<Frame> for OutgoingFrame {
    fn from(frame: Frame) -> Self {
        Self { frame, held: None }
    }
}

/// Serializes an object of a response.
pub(crate) fn json_text(object: &impl serde::Serialize) -> String {
    // Plain structs with string keys: the only way to fail is a defect.
    serde_json::to_string(object).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be written");
        String::new()
    })
}

/// Makes a response of frames. Events are numbered after `told`, the last one that the client has.
pub(crate) fn event_stream(
    frames: impl Stream<Item = OutgoingFrame> + Send + 'static,
    told: u64,
) -> Response {
    let written = frames.scan(told, |number, outgoing| {
        let OutgoingFrame { frame, held } = outgoing;
        if !matches!(frame, Frame::Comment(_)) {
            *number += 1;
        }
        let text = written(&frame, *number);
        let bytes = match held {
            // A slow client may take long to read a frame of this size.
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

/// Writes a frame in the [format] of server-sent events. Data is JSON without line breaks. A comment is not
/// followed by an empty line: OpenAI's Python SDK would take that for another, empty event.
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
