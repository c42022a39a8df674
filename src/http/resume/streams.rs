//! All recorded streams: their keys, and which is evicted for a new one.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::admission::{ClientId, SendBudget};
use crate::http::body::BodyDigest;

use super::MOST_RECORDED_BYTES;
use super::recording::{RecordedBytes, Recording, StreamListener};

/// Streams that are recorded at once.
const MOST_STREAMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The identity of a stream: the path, the client's id of the request, and the digest of its body. So a
/// client that uses another's id, by chance or by guess, gets that stream only with the very same body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StreamKey {
    pub(super) path: String,
    pub(super) id: String,
    pub(super) digest: BodyDigest,
}

/// All recorded streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RecordedStreams(Arc<StreamsInner>);

#[derive(Debug)]
struct StreamsInner {
    kept: Mutex<LruCache<StreamKey, StreamEntry>>,
    bytes: RecordedBytes,
    send_budget: SendBudget,
}

#[derive(Debug)]
struct StreamEntry {
    recording: Arc<Recording>,
    /// The client that it belongs to, as far as the network tells.
    owner: ClientId,
}

impl RecordedStreams {
    /// Creates an empty set of recordings.
    pub(crate) fn new(send_budget: &SendBudget) -> Self {
        Self(Arc::new(StreamsInner {
            // `record` bounds it, because it chooses which stream is evicted.
            kept: Mutex::new(LruCache::unbounded()),
            bytes: RecordedBytes::default(),
            send_budget: send_budget.clone(),
        }))
    }

    pub(super) fn send_budget(&self) -> &SendBudget {
        &self.0.send_budget
    }

    /// Returns a listener to the frames after the first `told`, if all of them are kept.
    pub(super) fn listen(&self, key: &StreamKey, told: usize) -> Option<StreamListener> {
        // Under the lock, because a stream with listeners is not evicted.
        StreamListener::new(&self.kept().get(key)?.recording, told)
    }

    /// Starts a recording for `key`, replacing an older one, and returns it with its first listener. Returns
    /// `None` if there is no room because all recordings have listeners.
    pub(super) fn record(
        &self,
        key: &StreamKey,
        owner: ClientId,
    ) -> Option<(Arc<Recording>, StreamListener)> {
        let mut kept = self.kept();
        // A client that repeats a request does not come back for the earlier stream.
        if let Some(older) = kept.pop(key) {
            older.recording.give_up();
        }
        while kept.len() >= MOST_STREAMS.get() || self.bytes() >= MOST_RECORDED_BYTES {
            let victim = victim(kept.iter().rev().map(|(key, kept)| EvictionCandidate {
                key,
                owner: kept.owner,
                is_heard: kept.recording.has_listeners(),
            }))?
            .clone();
            if let Some(kept) = kept.pop(&victim) {
                kept.recording.give_up();
            }
        }
        let recording = Arc::new(Recording::new(&self.0.bytes));
        let listener = StreamListener::new(&recording, 0)?;
        let entry = StreamEntry {
            recording: Arc::clone(&recording),
            owner,
        };
        kept.push(key.clone(), entry);
        Some((recording, listener))
    }

    /// Removes `recording`, unless a newer one has taken its key.
    pub(super) fn forget(&self, key: &StreamKey, recording: &Arc<Recording>) {
        let mut kept = self.kept();
        let is_it = |kept: &StreamEntry| Arc::ptr_eq(&kept.recording, recording);
        if kept.peek(key).is_some_and(is_it) {
            kept.pop(key);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<StreamKey, StreamEntry>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A recording that might be evicted.
#[derive(Debug, Clone, Copy)]
struct EvictionCandidate<'a, K> {
    key: &'a K,
    owner: ClientId,
    /// Whether somebody listens to it.
    is_heard: bool,
}

/// Chooses which of `candidates`, least recently used first, to evict: one without listeners, of the owner
/// that has the most recordings, so that a client that starts a thousand streams evicts its own.
fn victim<'a, K>(candidates: impl Iterator<Item = EvictionCandidate<'a, K>>) -> Option<&'a K> {
    let candidates: Vec<_> = candidates.collect();
    let mut counts: HashMap<ClientId, usize> = HashMap::new();
    for candidate in &candidates {
        *counts.entry(candidate.owner).or_default() += 1;
    }
    let free = candidates.iter().rev().filter(|it| !it.is_heard);
    // `max_by_key` returns the last of several, which is the oldest because of `rev`.
    let victim = free.max_by_key(|candidate| counts[&candidate.owner])?;
    Some(victim.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(last: u8) -> ClientId {
        ClientId::Address([10, 0, 0, last].into())
    }

    fn key(id: usize) -> StreamKey {
        StreamKey {
            path: "/v1/chat/completions".to_owned(),
            id: id.to_string(),
            digest: [0; 32],
        }
    }

    #[test]
    fn who_has_most_gives_way_first_and_nobody_who_is_heard() {
        let candidate = |key, last, is_heard| EvictionCandidate {
            key,
            owner: owner(last),
            is_heard,
        };
        let of = |candidates: &[EvictionCandidate<'static, &'static str>]| {
            victim(candidates.iter().copied()).copied()
        };
        let lone = candidate(&"oldest", 1, false);
        let flood = [candidate(&"older", 2, false), candidate(&"newer", 2, false)];
        assert_eq!(of(&[lone, flood[0], flood[1]]), Some("older"));
        let heard = candidate(&"older", 2, true);
        assert_eq!(of(&[lone, heard, flood[1]]), Some("newer"));
        let both = candidate(&"newer", 2, true);
        assert_eq!(of(&[lone, heard, both]), Some("oldest"));
        assert_eq!(of(&[heard, both]), None);
    }

    #[test]
    fn a_flood_of_streams_takes_no_room_from_those_that_are_heard_or_of_others() {
        let streams = RecordedStreams::new(&SendBudget::new(usize::MAX));
        let (_, heard) = streams.record(&key(0), owner(1)).expect("room");
        let (_, left) = streams.record(&key(1), owner(1)).expect("room");
        drop(left);
        for id in 2..1000 {
            assert!(streams.record(&key(id), owner(2)).is_some());
        }
        assert_eq!(streams.kept().len(), MOST_STREAMS.get());
        assert!(streams.listen(&key(0), 0).is_some());
        assert!(streams.listen(&key(1), 0).is_some(), "another's");
        assert!(streams.listen(&key(2), 0).is_none(), "the flood's own");
        drop(heard);
    }

    #[test]
    fn where_everybody_listens_no_more_are_written_down() {
        let streams = RecordedStreams::new(&SendBudget::new(usize::MAX));
        let all: Vec<_> = (0..MOST_STREAMS.get())
            .map(|id| streams.record(&key(id), owner(1)).expect("room"))
            .collect();
        assert!(streams.record(&key(1000), owner(2)).is_none());
        drop(all);
        assert!(streams.record(&key(1000), owner(2)).is_some());
    }
}
