//! Stored responses, which later requests may refer to: in memory, bounded by number, bytes and age.
//!
//! A response holds the items of its whole conversation, shared with the responses before it. So a
//! conversation can continue when its first responses have been dropped, and each item counts once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::items::ResponseItem;

/// Roughly the bytes of a map's entry, an `Arc` and an allocation.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// How much is stored at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    pub(crate) responses: usize,
    pub(crate) bytes: usize,
    /// How long a response is stored after its end.
    pub(crate) age: Duration,
}

/// A stored response.
#[derive(Debug)]
pub(super) struct StoredResponse {
    /// The JSON that was sent to the client.
    pub(super) body: String,
    /// Its input: the earlier responses' items, then the request's.
    pub(super) input: Vec<Arc<StoredItem>>,
    pub(super) output: Vec<Arc<StoredItem>>,
    /// The items of input and output that were first stored with this response.
    own: Vec<Arc<StoredItem>>,
    _charge: ByteCharge,
}

impl StoredResponse {
    /// Returns the conversation so far, for a response that continues this one.
    pub(super) fn conversation(&self) -> Vec<Arc<StoredItem>> {
        self.input.iter().chain(&self.output).cloned().collect()
    }
}

/// A stored item, which at least one response holds.
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
    /// The item at this index of the same input, repeated.
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
    /// Returns the bytes that it takes in addition to what is stored already.
    fn size(&self) -> usize {
        let new = self.input.iter().filter_map(|source| match source {
            InputSource::New(item) => Some(item),
            InputSource::Stored(_) | InputSource::Repeated(_) => None,
        });
        let items = new.chain(&self.output).map(item_size).sum::<usize>();
        items + self.own_size()
    }

    /// Returns the bytes that it takes without its items.
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

/// Counts bytes towards the store's total as long as it lives.
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

/// The store of responses. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ResponseStore(Arc<Mutex<StoreContents>>);

impl ResponseStore {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self(Arc::new(Mutex::new(StoreContents::new(limits))))
    }

    /// Whether it stores anything at all.
    pub(super) fn is_open(&self) -> bool {
        self.contents().limits.responses > 0
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.contents().find(id, Instant::now())
    }

    /// Returns the stored item with this id of ours.
    pub(super) fn item(&self, id: &str) -> Option<Arc<StoredItem>> {
        self.contents().item(id, Instant::now())
    }

    /// Deletes a response, and returns whether there was one with this id.
    pub(super) fn forget(&self, id: &str) -> bool {
        self.contents().forget(id, Instant::now())
    }

    /// Stores a response. Returns false if it exceeds the limits by itself. Must be called in tokio's runtime.
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

/// Drops expired responses even if the store is never used again.
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

/// The contents of the store. The current time is an argument, for tests.
#[derive(Debug)]
struct StoreContents {
    limits: StoreLimits,
    /// Each response with its expiry. Entries are never promoted, so the least recently used is the oldest.
    responses: LruCache<String, (Instant, Arc<StoredResponse>)>,
    /// Items whose ids are ours. Ids that clients chose are left out, because they may collide.
    items: HashMap<String, Arc<StoredItem>>,
    bytes: Arc<AtomicUsize>,
    /// Whether a task is running that drops expired responses.
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
        // Nothing is evicted for a response that does not fit anyhow.
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
