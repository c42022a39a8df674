//! Streams that survive a lost connection.
//!
//! A client that means to come back sends an `x-request-id` of its own. Its stream is then written
//! down while it is sent, and goes on for a while without a listener. The same request with the same
//! id, the same API key and a `Last-Event-ID` gets what follows that event, exactly once. Other
//! streams are neither kept nor computed for nobody.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod recording;
mod streams;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{Stream, stream};

use crate::admission::{ClientId, Outbox};

use crate::http::access::{arrival, client_id, counted_arrival};
use crate::http::body::read_json;
use crate::http::error::ApiError;
use crate::http::parse::Wire;
use crate::http::precheck::{allowed_time, refuse_if_all_do};
use crate::http::sse::{Frame, OutgoingFrame, event_stream};
use crate::http::state::HttpState;
use crate::inference::Inference;
use crate::inference::arrival::Arrival;
use recording::{Recording, StreamListener};
use streams::StreamKey;

pub(crate) use streams::RecordedStreams;

/// How long a client may stay away, and how long a stream is kept after its end.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);
/// Bytes that all recordings may take together. Above that, no further stream is recorded, and each drops
/// its oldest events that all listeners have read, down to [`LEAST_KEPT_BYTES`].
const MOST_RECORDED_BYTES: usize = 32 << 20;
const LEAST_KEPT_BYTES: usize = 128 << 10;

const LAST_EVENT_ID: &str = "last-event-id";

/// The right of a request's stream to be recorded.
#[derive(Debug)]
pub(crate) struct RecordingTicket {
    streams: RecordedStreams,
    key: StreamKey,
    /// The client that sent the request.
    client: ClientId,
}

/// A request as it comes in: a new one, or the resumption of an earlier stream.
pub(crate) enum IncomingRequest<T> {
    /// A new request: its checked body, the right to be recorded, and how it came.
    New(T, Option<RecordingTicket>, Arrival),
    /// The rest of an earlier request's stream.
    Resumed(Response),
}

/// Reads a request, unless every request would be refused now, and checks it by `check`; or finds the
/// recorded stream that it resumes.
pub(crate) async fn enter<W, T>(
    request: Request,
    state: &HttpState,
    inference: &Inference,
    check: impl FnOnce(W) -> Result<T, ApiError> + Send + 'static,
) -> Result<IncomingRequest<T>, ApiError>
where
    W: Wire,
    T: Send + 'static,
{
    let allowed = allowed_time(request.headers())?;
    let path = request.uri().path().to_owned();
    let id = client_id(request.headers());
    let told = last_event(request.headers())?;
    if told.is_some() && id.is_none() {
        return Err(ApiError::invalid(
            LAST_EVENT_ID,
            "`Last-Event-ID` needs the `x-request-id` of the stream that was lost",
        ));
    }
    // The rest of a stream is no new work, so resuming is allowed however full the server is.
    let arrival = if told.is_some() {
        arrival(&request)
    } else {
        refuse_if_all_do(inference, &request)?;
        counted_arrival(&request)?
    };
    let (body, digest, mut arrival) =
        read_json(request, arrival, state, id.is_some(), check).await?;
    arrival.answer_within(allowed);
    let (Some(id), Some(digest)) = (id, digest) else {
        return Ok(IncomingRequest::New(body, None, arrival));
    };
    let key = StreamKey {
        key_name: arrival.principal.name.clone(),
        path,
        id,
        digest,
    };
    if let Some(told) = told {
        let listener = lost_stream(&state.streams, &key, told);
        if listener.is_err() {
            // The rest of a stream asks for nothing new; what finds none counts as a request.
            arrival.principal.quota.admit()?;
        }
        let listener = listener?;
        return Ok(IncomingRequest::Resumed(heard(
            listener,
            told,
            &state.streams,
        )));
    }
    let ticket = RecordingTicket {
        streams: state.streams.clone(),
        key,
        client: arrival.client,
    };
    Ok(IncomingRequest::New(body, Some(ticket), arrival))
}

/// Finds the stream that a client lost after the first `told` events.
fn lost_stream(
    streams: &RecordedStreams,
    key: &StreamKey,
    told: usize,
) -> Result<StreamListener, ApiError> {
    let listener = streams.listen(key, told).ok_or(ApiError::StreamGone)?;
    if listener.has_come_so_far() {
        return Ok(listener);
    }
    let message = format!("`Last-Event-ID` is {told}; the stream has not come so far");
    Err(ApiError::invalid(LAST_EVENT_ID, message))
}

pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let text = value.to_str().ok().filter(is_number);
    let number = text.and_then(|text| text.parse().ok());
    let message = "`Last-Event-ID` must be the `id` of an event of the stream: a number";
    number
        .map(Some)
        .ok_or_else(|| ApiError::invalid(LAST_EVENT_ID, message))
}

/// Makes the response of `frames`, and records them if there is a ticket and room.
pub(crate) fn respond(
    frames: impl Stream<Item = OutgoingFrame> + Send + 'static,
    ticket: Option<RecordingTicket>,
) -> Response {
    let Some(ticket) = ticket else {
        return event_stream(frames, 0);
    };
    match ticket.streams.record(&ticket.key, ticket.client) {
        Some((recording, listener)) => {
            let response = heard(listener, 0, &ticket.streams);
            tokio::spawn(record(frames, recording, ticket));
            response
        }
        None => event_stream(frames, 0),
    }
}

async fn record(
    frames: impl Stream<Item = OutgoingFrame>,
    recording: Arc<Recording>,
    ticket: RecordingTicket,
) {
    {
        let mut frames = pin!(frames);
        let mut abandoned = pin!(recording.abandoned());
        loop {
            let next = async {
                recording.room().await;
                poll_fn(|context| frames.as_mut().poll_next(context)).await
            };
            let next = tokio::select! {
                next = next => next,
                () = &mut abandoned => None,
            };
            match next.map(|outgoing| outgoing.frame) {
                // Each listener makes its own comments.
                Some(Frame::Comment(_)) => {}
                Some(frame) => recording.write(frame),
                None => break,
            }
        }
    }
    recording.end();
    tokio::select! {
        () = tokio::time::sleep(LONGEST_ABSENCE) => {}
        () = recording.replaced() => {}
    }
    ticket.streams.forget(&ticket.key, &recording);
}

/// Streams the frames after the first `told`, as they come.
fn heard(listener: StreamListener, told: usize, streams: &RecordedStreams) -> Response {
    let outbox = Outbox::new(streams.send_budget());
    let frames = stream::unfold((listener, outbox), |(mut listener, outbox)| async move {
        let frame = listener.hear(&outbox).await?;
        Some((frame, (listener, outbox)))
    });
    event_stream(frames, u64::try_from(told).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "resume/tests.rs"]
mod tests;
