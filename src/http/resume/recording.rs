//! The recording of a stream, its listeners, and which of its frames may be dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::admission::Outbox;
use crate::http::sse::{Frame, KEEP_ALIVE, OutgoingFrame};
use crate::sync::{Mutex, MutexGuard};

use super::{LEAST_KEPT_BYTES, LONGEST_ABSENCE, MOST_RECORDED_BYTES};

/// Counts the bytes of all recordings together.
pub(super) type RecordedBytes = Arc<AtomicUsize>;

#[derive(Debug)]
pub(super) struct Recording {
    pages: Mutex<RecordedFrames>,
    progress: watch::Sender<RecordingProgress>,
    listeners: watch::Sender<usize>,
    /// Changes whenever a listener has read something or has left.
    read: watch::Sender<()>,
    /// Whether no client can come back for it, because a newer stream has its key.
    replaced: watch::Sender<bool>,
    all_bytes: RecordedBytes,
}

#[derive(Debug, Default)]
struct RecordedFrames {
    frames: VecDeque<Frame>,
    /// How many frames before these have been dropped.
    dropped: usize,
    bytes: usize,
    /// The index of the next frame of each listener, by the listener's number.
    positions: HashMap<u64, usize>,
    next_listener: u64,
}

impl RecordedFrames {
    /// Counts the leading frames that no listener still has to read.
    fn read_by_all(&self) -> usize {
        let needed = self.positions.values().min();
        needed.map_or(self.frames.len(), |next| next.saturating_sub(self.dropped))
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecordingProgress {
    pub(super) frames: usize,
    pub(super) ended: bool,
}

impl Recording {
    pub(super) fn new(all_bytes: &RecordedBytes) -> Self {
        Self {
            pages: Mutex::default(),
            progress: watch::Sender::default(),
            listeners: watch::Sender::default(),
            read: watch::Sender::default(),
            replaced: watch::Sender::default(),
            all_bytes: Arc::clone(all_bytes),
        }
    }

    pub(super) fn progress(&self) -> RecordingProgress {
        *self.progress.borrow()
    }

    pub(super) fn has_listeners(&self) -> bool {
        *self.listeners.borrow() > 0
    }

    /// Returns once another frame may be recorded. While memory is short, that is when the listeners have
    /// read the oldest frames or have left: frames that they still have to read are not dropped.
    pub(super) async fn room(&self) {
        let mut read = self.read.subscribe();
        while !self.make_room() {
            // The sender is here: waiting cannot fail.
            let _ = read.changed().await;
        }
    }

    /// Drops the oldest frames that no listener needs while memory is short. Returns whether that is enough.
    fn make_room(&self) -> bool {
        let mut pages = self.pages();
        let mut droppable = pages.read_by_all();
        loop {
            let is_short = self.all_bytes.load(Ordering::Relaxed) > MOST_RECORDED_BYTES;
            if !is_short || pages.bytes <= LEAST_KEPT_BYTES {
                return true;
            }
            if droppable == 0 {
                return false;
            }
            let Some(oldest) = pages.frames.pop_front() else {
                return true;
            };
            droppable -= 1;
            pages.bytes -= oldest.size();
            pages.dropped += 1;
            self.all_bytes.fetch_sub(oldest.size(), Ordering::Relaxed);
        }
    }

    pub(super) fn write(&self, frame: Frame) {
        let size = frame.size();
        self.all_bytes.fetch_add(size, Ordering::Relaxed);
        let mut pages = self.pages();
        pages.bytes += size;
        pages.frames.push_back(frame);
        let count = pages.dropped + pages.frames.len();
        self.progress
            .send_modify(|progress| progress.frames = count);
    }

    pub(super) fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Marks that no client can come back for it. Without listeners its frames are dropped at once.
    pub(super) fn give_up(&self) {
        self.replaced.send_replace(true);
        if !self.has_listeners() {
            self.clear();
        }
    }

    fn clear(&self) {
        let mut pages = self.pages();
        pages.dropped += pages.frames.len();
        pages.frames = VecDeque::new();
        let bytes = std::mem::take(&mut pages.bytes);
        self.all_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns when there has been no listener for [`LONGEST_ABSENCE`], or none is left and no client can
    /// come back.
    pub(super) async fn abandoned(&self) {
        let mut listeners = self.listeners.subscribe();
        loop {
            // The senders are here: waiting cannot fail.
            let _ = listeners.wait_for(|count| *count == 0).await;
            tokio::select! {
                _ = listeners.wait_for(|count| *count > 0) => {}
                () = self.replaced() => return,
                () = tokio::time::sleep(LONGEST_ABSENCE) => return,
            }
        }
    }

    /// Returns when no client can come back for it.
    pub(super) async fn replaced(&self) {
        let _ = self.replaced.subscribe().wait_for(|it| *it).await;
    }

    fn pages(&self) -> MutexGuard<'_, RecordedFrames> {
        self.pages.lock()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A reader of a recording. Frames that it still has to read are kept while it exists.
#[derive(Debug)]
pub(super) struct StreamListener {
    recording: Arc<Recording>,
    progress: watch::Receiver<RecordingProgress>,
    number: u64,
    next: usize,
}

impl StreamListener {
    /// Listens to the frames after the first `told`. Returns `None` if some of them have been dropped.
    pub(super) fn new(recording: &Arc<Recording>, told: usize) -> Option<Self> {
        let mut pages = recording.pages();
        if told < pages.dropped {
            return None;
        }
        let number = pages.next_listener;
        pages.next_listener += 1;
        pages.positions.insert(number, told);
        drop(pages);
        recording.listeners.send_modify(|count| *count += 1);
        Some(Self {
            progress: recording.progress.subscribe(),
            recording: Arc::clone(recording),
            number,
            next: told,
        })
    }

    /// Whether the recording has as many frames as the client says it received.
    pub(super) fn has_come_so_far(&self) -> bool {
        self.next <= self.recording.progress().frames
    }

    pub(super) async fn hear(&mut self, outbox: &Outbox) -> Option<OutgoingFrame> {
        let next = self.next;
        let more = self
            .progress
            .wait_for(|progress| progress.frames > next || progress.ended);
        let Ok(waited) = tokio::time::timeout(KEEP_ALIVE, more).await else {
            return Some(Frame::Comment("working".to_owned()).into());
        };
        // The recording holds the sender.
        drop(waited.ok()?);
        let frame = {
            let pages = self.recording.pages();
            let index = next.checked_sub(pages.dropped)?;
            pages.frames.get(index).cloned()?
        };
        // Unread frames are kept, so nothing is lost by waiting for room.
        let Ok(held) = outbox.hold_soon(frame.size()).await else {
            return Some(Frame::Comment("waiting for memory".to_owned()).into());
        };
        self.next += 1;
        self.recording
            .pages()
            .positions
            .insert(self.number, self.next);
        self.recording.read.send_replace(());
        let held = Some(held);
        Some(OutgoingFrame { frame, held })
    }
}

impl Drop for StreamListener {
    fn drop(&mut self) {
        self.recording.pages().positions.remove(&self.number);
        self.recording.listeners.send_modify(|count| *count -= 1);
        self.recording.read.send_replace(());
    }
}
