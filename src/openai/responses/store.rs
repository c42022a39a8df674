//! Responses that clients may come back to: in memory, bounded by number, bytes and age.
//!
//! A response holds the items of its whole conversation, shared with the responses before it. So a
//! conversation goes on when its beginning has been forgotten, and an item counts once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::items::ResponseItem;

/// Of a map's entry, an `Arc` and an allocation, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// What is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    pub(crate) responses: usize,
    pub(crate) bytes: usize,
    /// From a response's end on.
    pub(crate) age: Duration,
}

/// A stored response.
#[derive(Debug)]
pub(super) struct StoredResponse {
    /// As it was sent.
    pub(super) body: String,
    /// What it answers to: the earlier responses' items, then the request's.
    pub(super) input: Vec<Arc<StoredItem>>,
    pub(super) output: Vec<Arc<StoredItem>>,
    /// Those of both that came with this response.
    own: Vec<Arc<StoredItem>>,
    _charge: ByteCharge,
}

impl StoredResponse {
    /// What a response goes on from that names this one.
    pub(super) fn conversation(&self) -> Vec<Arc<StoredItem>> {
        self.input.iter().chain(&self.output).cloned().collect()
    }
}

/// An item that at least one response holds.
#[derive(Debug)]
pub(super) struct StoredItem {
    pub(super) item: ResponseItem,
    _charge: ByteCharge,
}

/// An item of a response's input.
#[derive(Debug)]
pub(super) enum InputSource {
    /// It came with the request.
    New(ResponseItem),
    /// It is stored already.
    Stored(Arc<StoredItem>),
    /// The one at this place of the same input once more.
    Repeated(usize),
}

/// A response to be stored.
#[derive(Debug)]
pub(super) struct ResponseDraft {
    pub(super) id: String,
    pub(super) body: String,
    pub(super) input: Vec<InputSource>,
    pub(super) output: Vec<ResponseItem>,
}

impl ResponseDraft {
    /// Bytes that it takes beside what is stored already.
    fn size(&self) -> usize {
        let new = self.input.iter().filter_map(|source| match source {
            InputSource::New(item) => Some(item),
            InputSource::Stored(_) | InputSource::Repeated(_) => None,
        });
        let items = new.chain(&self.output).map(item_size).sum::<usize>();
        items + self.own_size()
    }

    /// Without its items.
    fn own_size(&self) -> usize {
        let items = self.input.len() + self.output.len();
        ENTRY_OVERHEAD_BYTES
            + self.id.len()
            + self.body.len()
            + 2 * items * size_of::<Arc<StoredItem>>()
    }
}

fn item_size(item: &ResponseItem) -> usize {
    ENTRY_OVERHEAD_BYTES + item.id().as_str().len() + item.size()
}

/// Bytes, counted as long as this lives.
#[derive(Debug)]
struct ByteCharge {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl ByteCharge {
    fn new(bytes: usize, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            all: Arc::clone(all),
        }
    }
}

impl Drop for ByteCharge {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ResponseStore(Arc<Mutex<StoreContents>>);

impl ResponseStore {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self(Arc::new(Mutex::new(StoreContents::new(limits))))
    }

    /// Whether it keeps anything at all.
    pub(super) fn is_open(&self) -> bool {
        self.contents().limits.responses > 0
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.contents().find(id, Instant::now())
    }

    /// An item whose id is ours.
    pub(super) fn item(&self, id: &str) -> Option<Arc<StoredItem>> {
        self.contents().item(id, Instant::now())
    }

    /// Whether there was such a response.
    pub(super) fn forget(&self, id: &str) -> bool {
        self.contents().forget(id, Instant::now())
    }

    /// False where it is larger than everything that may be kept. Needs tokio's runtime.
    pub(super) fn keep(&self, draft: ResponseDraft) -> bool {
        let mut inside = self.contents();
        let kept = inside.keep(draft, Instant::now());
        if kept && !inside.swept {
            inside.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
        kept
    }

    fn contents(&self) -> MutexGuard<'_, StoreContents> {
        lock(&self.0)
    }
}

/// What is too old goes even if nobody ever asks again.
async fn sweep(contents: Weak<Mutex<StoreContents>>) {
    loop {
        let Some(contents) = contents.upgrade() else {
            return;
        };
        let next = {
            let mut contents = lock(&contents);
            contents.expire(Instant::now());
            let next = contents.next_expiry();
            contents.swept = next.is_some();
            next
        };
        drop(contents);
        match next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => return,
        }
    }
}

fn lock(contents: &Mutex<StoreContents>) -> MutexGuard<'_, StoreContents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is in the store; time is an argument.
#[derive(Debug)]
struct StoreContents {
    limits: StoreLimits,
    /// With the time at which each expires. Never promoted: the oldest is the least recently used.
    responses: LruCache<String, (Instant, Arc<StoredResponse>)>,
    /// Those whose ids are ours: a client's may be anything, and another's as well.
    items: HashMap<String, Arc<StoredItem>>,
    bytes: Arc<AtomicUsize>,
    /// Whether somebody looks after what grows too old.
    swept: bool,
}

impl StoreContents {
    fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            responses: LruCache::unbounded(),
            items: HashMap::new(),
            bytes: Arc::default(),
            swept: false,
        }
    }

    fn find(&mut self, id: &str, now: Instant) -> Option<Arc<StoredResponse>> {
        self.expire(now);
        let (_, stored) = self.responses.peek(id)?;
        Some(Arc::clone(stored))
    }

    fn item(&mut self, id: &str, now: Instant) -> Option<Arc<StoredItem>> {
        self.expire(now);
        self.items.get(id).cloned()
    }

    fn forget(&mut self, id: &str, now: Instant) -> bool {
        self.expire(now);
        let found = self.responses.pop(id);
        found.map(|(_, stored)| self.removed(&stored)).is_some()
    }

    fn keep(&mut self, draft: ResponseDraft, now: Instant) -> bool {
        self.expire(now);
        // Others do not give way to what does not fit anyhow.
        if self.limits.responses == 0 || draft.size() > self.limits.bytes {
            return false;
        }
        let own_size = draft.own_size();
        let mut own = Vec::new();
        let mut new = |item: ResponseItem| {
            let kept = Arc::new(StoredItem {
                _charge: ByteCharge::new(item_size(&item), &self.bytes),
                item,
            });
            own.push(Arc::clone(&kept));
            kept
        };
        let mut input: Vec<Arc<StoredItem>> = Vec::with_capacity(draft.input.len());
        for source in draft.input {
            match source {
                InputSource::New(item) => input.push(new(item)),
                InputSource::Stored(kept) => input.push(kept),
                InputSource::Repeated(place) => input.extend(input.get(place).cloned()),
            }
        }
        let output = draft.output.into_iter().map(new).collect();
        for kept in own.iter().filter(|kept| kept.item.id().is_ours()) {
            let id = kept.item.id().as_str().to_owned();
            self.items.insert(id, Arc::clone(kept));
        }
        let stored = StoredResponse {
            body: draft.body,
            input,
            output,
            own,
            _charge: ByteCharge::new(own_size, &self.bytes),
        };
        let expires = now + self.limits.age;
        self.responses.put(draft.id, (expires, Arc::new(stored)));
        while self.is_over() {
            self.drop_oldest();
        }
        true
    }

    fn is_over(&self) -> bool {
        let over = self.bytes.load(Ordering::Relaxed) > self.limits.bytes;
        !self.responses.is_empty() && (over || self.responses.len() > self.limits.responses)
    }

    fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|expires| expires <= now) {
            self.drop_oldest();
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let (_, (expires, _)) = self.responses.peek_lru()?;
        Some(*expires)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, (_, stored))) = self.responses.pop_lru() {
            self.removed(&stored);
        }
    }

    fn removed(&mut self, stored: &StoredResponse) {
        for kept in &stored.own {
            let id = kept.item.id().as_str();
            if self.items.get(id).is_some_and(|it| Arc::ptr_eq(it, kept)) {
                self.items.remove(id);
            }
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
