//! Streams that survive a lost connection.
//!
//! A client that means to come back sends an `x-request-id` of its own. Its stream is then written
//! down while it is sent, and goes on for a while without a listener. The same request with the same
//! id and a `Last-Event-ID` gets what follows that event, exactly once. Other streams are neither
//! kept nor computed for nobody.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{Stream, stream};
use lru::LruCache;
use tokio::sync::watch;

use super::access::client_id;
use super::body::{Arrival, Digest, Wire, read_json};
use super::delivery::{Frame, KEEP_ALIVE, event_stream};
use super::error::ApiError;
use super::generate::{refuse_deadline, refuse_if_all_do};
use super::state::AppState;

/// How long a client may stay away, and how long an answer is kept behind its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams that are written down at once; the one that was longest not asked for gives way.
const MOST_STREAMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// While what is written down takes so much memory, no more streams are, and each keeps only its
/// latest events, as far as they are more than `FEW_BYTES`.
const MOST_BYTES: usize = 32 << 20;
const FEW_BYTES: usize = 128 << 10;

const LAST_EVENT_ID: &str = "last-event-id";

/// Which stream this is: a path and the client's name for the request.
type Key = (String, String);

/// The right to be written down.
#[derive(Debug)]
pub(super) struct Ticket {
    streams: Streams,
    key: Key,
    digest: Digest,
}

/// How a request comes in.
pub(super) enum Entrance<T> {
    /// It is to be answered.
    New(T, Option<Ticket>, Arrival),
    /// It has been, and this is the rest.
    Resumed(Response),
}

/// Reads a request where any would be let in, of which `check` makes what is worked with, or finds the
/// stream that it wants the rest of.
pub(super) async fn enter<W, T>(
    request: Request,
    state: &AppState,
    check: impl FnOnce(W) -> Result<T, ApiError> + Send + 'static,
) -> Result<Entrance<T>, ApiError>
where
    W: Wire,
    T: Send + 'static,
{
    refuse_deadline(request.headers())?;
    let path = request.uri().path().to_owned();
    let id = client_id(request.headers());
    let told = last_event(request.headers())?;
    if told.is_some() && id.is_none() {
        return Err(ApiError::invalid(
            LAST_EVENT_ID,
            "`Last-Event-ID` needs the `x-request-id` of the stream that was lost",
        ));
    }
    // What is left of a stream is no new work: who comes back is let in however full it is.
    if told.is_none() {
        refuse_if_all_do(state)?;
    }
    let (body, digest, arrival) = read_json(request, state, id.is_some(), check).await?;
    let (Some(id), Some(digest)) = (id, digest) else {
        return Ok(Entrance::New(body, None, arrival));
    };
    let key = (path, id);
    if let Some(told) = told {
        let recording = state
            .streams
            .find(&key, &digest)
            .filter(|recording| recording.goes_on_from(told))
            .ok_or(ApiError::StreamGone)?;
        if told > recording.progress.borrow().frames {
            let message = format!("`Last-Event-ID` is {told}; the stream has not come so far");
            return Err(ApiError::invalid(LAST_EVENT_ID, message));
        }
        return Ok(Entrance::Resumed(listen(recording, told)));
    }
    let ticket = Ticket {
        streams: state.streams.clone(),
        key,
        digest,
    };
    Ok(Entrance::New(body, Some(ticket), arrival))
}

fn last_event(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let message = "`Last-Event-ID` must be the `id` of an event of the stream: a number";
    number
        .map(Some)
        .ok_or_else(|| ApiError::invalid(LAST_EVENT_ID, message))
}

/// All streams that are written down.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recordings: Mutex<LruCache<Key, (Digest, Arc<Recording>)>>,
    bytes: Arc<AtomicUsize>,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Inner {
            recordings: Mutex::new(LruCache::new(MOST_STREAMS)),
            bytes: Arc::default(),
        }))
    }
}

impl Streams {
    /// Whoever repeats the request word by word may have its answer.
    fn find(&self, key: &Key, digest: &Digest) -> Option<Arc<Recording>> {
        let mut recordings = self.recordings();
        let (begun_with, recording) = recordings.get(key)?;
        (begun_with == digest).then(|| Arc::clone(recording))
    }

    fn has_room(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) < MOST_BYTES
    }

    fn keep(&self, ticket: &Ticket, recording: &Arc<Recording>) {
        let entry = (ticket.digest, Arc::clone(recording));
        // A client that asks anew does not come back for what it asked before; and the oldest gives way.
        let older = self.recordings().push(ticket.key.clone(), entry);
        replace(older.map(|(_, older)| older));
    }

    /// Unless another has come in its place.
    fn forget(&self, key: &Key, recording: &Arc<Recording>) {
        let mut recordings = self.recordings();
        let is_it = |(_, kept): &(Digest, Arc<Recording>)| Arc::ptr_eq(kept, recording);
        if recordings.peek(key).is_some_and(is_it) {
            recordings.pop(key);
        }
    }

    fn recordings(&self) -> MutexGuard<'_, LruCache<Key, (Digest, Arc<Recording>)>> {
        lock(&self.0.recordings)
    }
}

/// Nobody can come back for it any more.
fn replace(older: Option<(Digest, Arc<Recording>)>) {
    if let Some((_, older)) = older {
        older.replaced.send_replace(true);
    }
}

/// A stream as far as it is written down.
#[derive(Debug)]
struct Recording {
    pages: Mutex<Pages>,
    progress: watch::Sender<Progress>,
    listeners: watch::Sender<usize>,
    /// Whether nobody can come back for it.
    replaced: watch::Sender<bool>,
    /// Of all recordings.
    all_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Pages {
    frames: VecDeque<Frame>,
    /// Frames before these that are not kept any more.
    dropped: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    frames: usize,
    ended: bool,
}

impl Recording {
    fn new(streams: &Streams) -> Self {
        Self {
            pages: Mutex::default(),
            progress: watch::Sender::default(),
            listeners: watch::Sender::default(),
            replaced: watch::Sender::default(),
            all_bytes: Arc::clone(&streams.0.bytes),
        }
    }

    fn write(&self, frame: Frame) {
        let size = frame.size();
        let mut all = self.all_bytes.fetch_add(size, Ordering::Relaxed) + size;
        let mut pages = lock(&self.pages);
        pages.bytes += size;
        pages.frames.push_back(frame);
        while all > MOST_BYTES
            && pages.bytes > FEW_BYTES
            && let Some(oldest) = pages.frames.pop_front()
        {
            let size = oldest.size();
            pages.bytes -= size;
            pages.dropped += 1;
            all = self.all_bytes.fetch_sub(size, Ordering::Relaxed) - size;
        }
        let count = pages.dropped + pages.frames.len();
        self.progress
            .send_modify(|progress| progress.frames = count);
    }

    /// None once it is not kept any more: whoever has not read it has lost the stream.
    fn frame(&self, number: usize) -> Option<Frame> {
        let pages = lock(&self.pages);
        let index = number.checked_sub(pages.dropped)?;
        pages.frames.get(index).cloned()
    }

    /// Whether all behind the first `told` frames are kept.
    fn goes_on_from(&self, told: usize) -> bool {
        told >= lock(&self.pages).dropped
    }

    /// Returns when nobody has listened for as long as a client may stay away, or could come back.
    async fn abandoned(&self) {
        let (mut listeners, mut replaced) = (self.listeners.subscribe(), self.replaced.subscribe());
        loop {
            // The senders are here: waiting cannot fail.
            let _ = listeners.wait_for(|count| *count == 0).await;
            tokio::select! {
                _ = listeners.wait_for(|count| *count > 0) => {}
                _ = replaced.wait_for(|replaced| *replaced) => return,
                () = tokio::time::sleep(PATIENCE) => return,
            }
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let size = lock(&self.pages).bytes;
        self.all_bytes.fetch_sub(size, Ordering::Relaxed);
    }
}

/// The response to a request whose answer comes as `frames`: written down on the way where there is a
/// ticket and room.
pub(super) fn respond(
    frames: impl Stream<Item = Frame> + Send + 'static,
    ticket: Option<Ticket>,
) -> Response {
    match ticket {
        Some(ticket) if ticket.streams.has_room() => {
            let recording = Arc::new(Recording::new(&ticket.streams));
            ticket.streams.keep(&ticket, &recording);
            let response = listen(Arc::clone(&recording), 0);
            tokio::spawn(record(frames, recording, ticket));
            response
        }
        Some(ticket) => {
            // What the client may come back for is not there, and no older stream is it.
            let older = ticket.streams.recordings().pop(&ticket.key);
            replace(older);
            event_stream(frames, 0)
        }
        None => event_stream(frames, 0),
    }
}

async fn record(frames: impl Stream<Item = Frame>, recording: Arc<Recording>, ticket: Ticket) {
    {
        let mut frames = pin!(frames);
        let mut abandoned = pin!(recording.abandoned());
        loop {
            let next = tokio::select! {
                next = poll_fn(|context| frames.as_mut().poll_next(context)) => next,
                () = &mut abandoned => None,
            };
            match next {
                // Listeners have their own.
                Some(Frame::Comment(_)) => {}
                Some(frame) => recording.write(frame),
                None => break,
            }
        }
    }
    recording
        .progress
        .send_modify(|progress| progress.ended = true);
    tokio::time::sleep(PATIENCE).await;
    ticket.streams.forget(&ticket.key, &recording);
}

/// The frames behind the first `told`, as they come.
fn listen(recording: Arc<Recording>, told: usize) -> Response {
    recording.listeners.send_modify(|count| *count += 1);
    let listener = Listener {
        progress: recording.progress.subscribe(),
        recording,
        next: told,
    };
    let frames = stream::unfold(listener, |mut listener| async move {
        let frame = listener.hear().await?;
        Some((frame, listener))
    });
    event_stream(frames, u64::try_from(told).unwrap_or(u64::MAX))
}

struct Listener {
    recording: Arc<Recording>,
    progress: watch::Receiver<Progress>,
    next: usize,
}

impl Listener {
    async fn hear(&mut self) -> Option<Frame> {
        let next = self.next;
        let more = self
            .progress
            .wait_for(|progress| progress.frames > next || progress.ended);
        let Ok(waited) = tokio::time::timeout(KEEP_ALIVE, more).await else {
            return Some(Frame::Comment("working".to_owned()));
        };
        // The recording holds the sender.
        drop(waited.ok()?);
        let frame = self.recording.frame(next)?;
        self.next += 1;
        Some(frame)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.recording.listeners.send_modify(|count| *count -= 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;

    fn ticket(streams: &Streams) -> Ticket {
        Ticket {
            streams: streams.clone(),
            key: ("/v1/chat/completions".to_owned(), "till-3".to_owned()),
            digest: [7; 32],
        }
    }

    fn frames(of: mpsc::Receiver<Frame>) -> impl Stream<Item = Frame> {
        stream::unfold(of, |mut of| async { Some((of.recv().await?, of)) })
    }

    async fn text(response: Response) -> String {
        let body = response.into_body().collect().await.expect("a body");
        String::from_utf8(body.to_bytes().to_vec()).expect("text")
    }

    #[tokio::test]
    async fn the_rest_comes_exactly_once_however_the_connection_was_lost() {
        let streams = Streams::default();
        let (sender, receiver) = mpsc::channel(8);
        let first = respond(frames(receiver), Some(ticket(&streams)));
        let say = |word: &str| Frame::Data(word.to_owned());
        sender.send(say("one")).await.expect("recorded");
        sender.send(say("two")).await.expect("recorded");
        drop(first);
        sender.send(say("three")).await.expect("still recorded");
        let key = ticket(&streams).key;
        let recording = streams.find(&key, &[7; 32]).expect("kept");
        let rest = listen(recording, 1);
        drop(sender);
        let rest = text(rest).await;
        assert_eq!(rest, "id: 2\ndata: two\n\nid: 3\ndata: three\n\n");
        assert!(streams.find(&key, &[8; 32]).is_none(), "another body");
    }

    #[tokio::test]
    async fn what_is_written_down_takes_so_much_memory_and_no_more() {
        let streams = Streams::default();
        let recording = Arc::new(Recording::new(&streams));
        let page = || Frame::Data("x".repeat(FEW_BYTES / 4));
        let pages = MOST_BYTES / (FEW_BYTES / 4);
        for _ in 0..pages + 7 {
            recording.write(page());
        }
        assert_eq!(streams.0.bytes.load(Ordering::Relaxed), MOST_BYTES);
        assert!(!streams.has_room() && !recording.goes_on_from(6) && recording.goes_on_from(7));
        assert_eq!(recording.frame(6), None);
        let few = Recording::new(&streams);
        few.write(page());
        assert!(few.goes_on_from(0), "a short one is whole");
        recording
            .progress
            .send_modify(|progress| progress.ended = true);
        let rest = text(listen(Arc::clone(&recording), pages + 5)).await;
        assert!(rest.starts_with(&format!("id: {}\n", pages + 6)));
        drop((recording, few));
        assert_eq!(streams.0.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn whoever_asks_anew_does_not_come_back_for_the_older_answer() {
        let streams = Streams::default();
        for leaves_first in [true, false] {
            let (sender, receiver) = mpsc::channel(8);
            let first = respond(frames(receiver), Some(ticket(&streams)));
            let stays = (!leaves_first).then_some(first);
            let (_other, receiver) = mpsc::channel(8);
            let _second = respond(frames(receiver), Some(ticket(&streams)));
            if let Some(stays) = stays {
                let still = tokio::time::timeout(Duration::from_millis(20), sender.closed());
                still.await.expect_err("somebody reads it");
                drop(stays);
            }
            let given_up = tokio::time::timeout(PATIENCE / 2, sender.closed());
            given_up.await.expect("at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_comes_back_for_is_given_up_and_forgotten() {
        let streams = Streams::default();
        let (sender, receiver) = mpsc::channel(8);
        let first = respond(frames(receiver), Some(ticket(&streams)));
        sender.send(Frame::done()).await.expect("recorded");
        drop(first);
        sender.closed().await;
        tokio::time::sleep(2 * PATIENCE).await;
        assert!(streams.find(&ticket(&streams).key, &[7; 32]).is_none());
        assert_eq!(streams.0.bytes.load(Ordering::Relaxed), 0);
    }
}
