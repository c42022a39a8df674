//! All recorded streams: their keys, and which is evicted for a new one.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;

use crate::admission::{ClientId, SendBudget};
use crate::http::body::BodyDigest;
use crate::sync::{Mutex, MutexGuard};

use super::MOST_RECORDED_BYTES;
use super::recording::{RecordedBytes, Recording, StreamListener};

/// Streams that are recorded at once.
const MOST_STREAMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The identity of a stream: the API key that asked for it, the path, the client's id of the request, and the
/// digest of its body. So nobody gets the stream of another key, and without keys a client that uses another's
/// id, by chance or by guess, gets that stream only with the very same body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StreamKey {
    /// The name of the API key; `None` where there are no keys.
    pub(super) key_name: Option<String>,
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
    /// The client that asked for it, as far as the network tells.
    client: ClientId,
}

/// Whose streams count together: those of an API key, and without keys those of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum StreamOwner<'a> {
    Key(&'a str),
    Client(ClientId),
}

impl<'a> StreamOwner<'a> {
    fn new(key: &'a StreamKey, client: ClientId) -> Self {
        key.key_name
            .as_deref()
            .map_or(Self::Client(client), Self::Key)
    }
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
        client: ClientId,
    ) -> Option<(Arc<Recording>, StreamListener)> {
        let mut kept = self.kept();
        // A client that repeats a request does not come back for the earlier stream.
        if let Some(older) = kept.pop(key) {
            older.recording.give_up();
        }
        while kept.len() >= MOST_STREAMS.get() || self.bytes() >= MOST_RECORDED_BYTES {
            let victim = victim(kept.iter().rev().map(|(key, kept)| EvictionCandidate {
                key,
                owner: StreamOwner::new(key, kept.client),
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
            client,
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
        self.0.kept.lock()
    }
}

/// A recording that might be evicted.
#[derive(Debug, Clone, Copy)]
struct EvictionCandidate<'a, K> {
    key: &'a K,
    owner: StreamOwner<'a>,
    /// Whether somebody listens to it.
    is_heard: bool,
}

/// Chooses which of `candidates`, least recently used first, to evict: one without listeners, of the owner
/// that has the most recordings, so that a client that starts a thousand streams evicts its own.
fn victim<'a, K>(candidates: impl Iterator<Item = EvictionCandidate<'a, K>>) -> Option<&'a K> {
    let candidates: Vec<_> = candidates.collect();
    let mut counts: HashMap<StreamOwner, usize> = HashMap::new();
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

    fn client(last: u8) -> ClientId {
        ClientId::Address([10, 0, 0, last].into())
    }

    fn key(id: usize) -> StreamKey {
        StreamKey {
            key_name: None,
            path: "/v1/chat/completions".to_owned(),
            id: id.to_string(),
            digest: [0; 32],
        }
    }

    #[test]
    fn who_has_most_gives_way_first_and_nobody_who_is_heard() {
        let candidate = |key, last, is_heard| EvictionCandidate {
            key,
            owner: StreamOwner::Client(client(last)),
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
        let (_, heard) = streams.record(&key(0), client(1)).expect("room");
        let (_, left) = streams.record(&key(1), client(1)).expect("room");
        drop(left);
        for id in 2..1000 {
            assert!(streams.record(&key(id), client(2)).is_some());
        }
        assert_eq!(streams.kept().len(), MOST_STREAMS.get());
        assert!(streams.listen(&key(0), 0).is_some());
        assert!(streams.listen(&key(1), 0).is_some(), "another's");
        assert!(streams.listen(&key(2), 0).is_none(), "the flood's own");
        drop(heard);
    }

    #[test]
    fn a_key_that_floods_from_many_addresses_evicts_its_own_streams() {
        let streams = RecordedStreams::new(&SendBudget::new(usize::MAX));
        let key_of = |name: &str, id| StreamKey {
            key_name: Some(name.to_owned()),
            ..key(id)
        };
        // The two come from one address, as behind a proxy.
        for id in 0..2 {
            assert!(streams.record(&key_of("till", id), client(1)).is_some());
        }
        for (id, address) in (0..1000).zip((1..=250).cycle()) {
            let flooding = key_of("tablet", id);
            assert!(streams.record(&flooding, client(address)).is_some());
        }
        assert_eq!(streams.kept().len(), MOST_STREAMS.get());
        for id in 0..2 {
            assert!(streams.listen(&key_of("till", id), 0).is_some());
        }
    }

    #[test]
    fn where_everybody_listens_no_more_are_written_down() {
        let streams = RecordedStreams::new(&SendBudget::new(usize::MAX));
        let all: Vec<_> = (0..MOST_STREAMS.get())
            .map(|id| streams.record(&key(id), client(1)).expect("room"))
            .collect();
        assert!(streams.record(&key(1000), client(2)).is_none());
        drop(all);
        assert!(streams.record(&key(1000), client(2)).is_some());
    }
}
