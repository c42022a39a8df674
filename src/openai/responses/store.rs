//! Stored responses, which later requests may refer to: in memory, bounded by number, bytes and age.
//!
//! Each response belongs to the API key that asked for it, which alone can find it. Where there is too
//! little room, the key that takes most of it loses its oldest responses, so that one key cannot push
//! out what others store. Without keys all responses have one owner.
//!
//! A response holds the items of its whole conversation, shared with the responses before it. So a
//! conversation can continue when its first responses have been dropped, and each item counts once.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::admission::Principal;
use crate::sync::{Mutex, MutexGuard};

use super::items::ResponseItem;

/// The name of the API key that a response belongs to; `None` where there are no keys.
type Owner = Option<String>;

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
    /// Returns the bytes that it takes once nothing else is stored, the items of earlier responses included.
    fn whole_size(&self) -> usize {
        let mut seen = HashSet::new();
        let inputs = self.input.iter().map(|source| match source {
            InputSource::New(item) => item_size(item),
            InputSource::Stored(kept) if seen.insert(Arc::as_ptr(kept)) => item_size(&kept.item),
            InputSource::Stored(_) | InputSource::Repeated(_) => 0,
        });
        let outputs = self.output.iter().map(item_size);
        self.own_size() + inputs.chain(outputs).sum::<usize>()
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

/// The bytes that one owner takes, and those of all together.
#[derive(Debug, Clone, Default)]
struct ByteAccount {
    own: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl ByteAccount {
    fn charge(&self, bytes: usize) -> ByteCharge {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
        ByteCharge {
            bytes,
            account: self.clone(),
        }
    }
}

/// Counts bytes in an account as long as it lives.
#[derive(Debug)]
struct ByteCharge {
    bytes: usize,
    account: ByteAccount,
}

impl Drop for ByteCharge {
    fn drop(&mut self) {
        self.account.own.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The store of all responses. Cheap to clone.
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

    /// Returns the bytes that all stored responses take.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.contents().bytes.load(Ordering::Relaxed) as u64
    }

    /// The responses of whoever asks: the only way to find or to store any.
    pub(super) fn of(&self, principal: &Arc<Principal>) -> OwnResponses {
        OwnResponses {
            store: self.clone(),
            principal: Arc::clone(principal),
        }
    }

    fn contents(&self) -> MutexGuard<'_, StoreContents> {
        self.0.lock()
    }
}

/// The stored responses of one principal. To it those of others do not exist.
#[derive(Debug, Clone)]
pub(super) struct OwnResponses {
    store: ResponseStore,
    principal: Arc<Principal>,
}

impl OwnResponses {
    pub(super) fn find(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.store.contents().find(self.owner(), id, Instant::now())
    }

    /// Returns the stored item with this id of ours.
    pub(super) fn item(&self, id: &str) -> Option<Arc<StoredItem>> {
        self.store.contents().item(self.owner(), id, Instant::now())
    }

    /// Deletes a response, and returns whether there was one with this id.
    pub(super) fn forget(&self, id: &str) -> bool {
        let mut inside = self.store.contents();
        inside.forget(self.owner(), id, Instant::now())
    }

    /// Stores a response. Returns false if there is no room for it even when all that may be evicted for it is
    /// gone. Must be called in tokio's runtime.
    pub(super) fn keep(&self, draft: ResponseDraft) -> bool {
        let mut inside = self.store.contents();
        let kept = inside.keep(self.owner(), draft, Instant::now());
        if kept && !inside.swept {
            inside.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.store.0)));
        }
        kept
    }

    fn owner(&self) -> &Owner {
        &self.principal.name
    }
}

/// Drops expired responses even if the store is never used again.
async fn sweep(contents: Weak<Mutex<StoreContents>>) {
    loop {
        let Some(contents) = contents.upgrade() else {
            return;
        };
        let next = {
            let mut contents = contents.lock();
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

/// The contents of the store. The current time is an argument, for tests.
#[derive(Debug)]
struct StoreContents {
    limits: StoreLimits,
    /// Owners that take no bytes are absent.
    owners: HashMap<Owner, OwnerContents>,
    bytes: Arc<AtomicUsize>,
    /// Whether a task is running that drops expired responses.
    swept: bool,
}

impl StoreContents {
    fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            owners: HashMap::new(),
            bytes: Arc::default(),
            swept: false,
        }
    }

    fn find(&mut self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<StoredResponse>> {
        self.expire(now);
        let (_, stored) = self.owners.get(owner)?.responses.peek(id)?;
        Some(Arc::clone(stored))
    }

    fn item(&mut self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<StoredItem>> {
        self.expire(now);
        self.owners.get(owner)?.items.get(id).cloned()
    }

    fn forget(&mut self, owner: &Owner, id: &str, now: Instant) -> bool {
        self.expire(now);
        let contents = self.owners.get_mut(owner);
        contents.is_some_and(|contents| contents.forget(id))
    }

    fn keep(&mut self, owner: &Owner, draft: ResponseDraft, now: Instant) -> bool {
        self.expire(now);
        if !self.could_take(owner, draft.whole_size()) {
            return false;
        }
        let id = draft.id.clone();
        let all = Arc::clone(&self.bytes);
        let contents = self.owners.entry(owner.clone());
        let contents = contents.or_insert_with(|| OwnerContents::new(all));
        contents.keep(draft, now + self.limits.age);
        while self.evict_one(owner) {}
        // What requests under way hold of evicted responses may leave no room for it after all.
        let contents = self.owners.get(owner);
        contents.is_some_and(|contents| contents.responses.contains(&id))
    }

    /// Whether a response of so many bytes stays when room has been made for it. Its owner gives first, and
    /// others give only what they hold beyond as much: nothing is evicted for one that goes anyhow.
    fn could_take(&self, owner: &Owner, size: usize) -> bool {
        let others = self.owners.iter().filter(|(other, _)| *other != owner);
        let stays: usize = others.map(|(_, held)| held.bytes().min(size)).sum();
        self.limits.responses > 0 && stays + size <= self.limits.bytes
    }

    /// Drops one response if there are too many or they take too much, after one of `newcomer` was stored;
    /// returns whether it did.
    fn evict_one(&mut self, newcomer: &Owner) -> bool {
        let responses = self.owners.values().map(OwnerContents::len).sum::<usize>();
        let has_too_many = responses > self.limits.responses;
        let takes_too_much = self.bytes.load(Ordering::Relaxed) > self.limits.bytes;
        if !has_too_many && !takes_too_much {
            return false;
        }
        // What is short counts: who has many small responses does not push out a large one, nor the reverse.
        let holds = |contents: &OwnerContents| {
            if has_too_many {
                contents.len()
            } else {
                contents.bytes()
            }
        };
        let holders = self.owners.iter_mut().filter_map(|(owner, contents)| {
            // Where two hold as much, the older response goes, and not the one that has just come.
            let age = Reverse(contents.oldest()?);
            Some(((holds(contents), age, owner != newcomer), contents))
        });
        let most = holders.max_by_key(|(holding, _)| *holding);
        most.is_some_and(|(_, contents)| contents.drop_oldest())
    }

    fn expire(&mut self, now: Instant) {
        for contents in self.owners.values_mut() {
            while contents.oldest().is_some_and(|expires| expires <= now) {
                contents.drop_oldest();
            }
        }
        self.owners.retain(|_, contents| contents.bytes() > 0);
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.owners.values().filter_map(OwnerContents::oldest).min()
    }
}

/// What one owner has in the store.
#[derive(Debug)]
struct OwnerContents {
    /// Each response with its expiry. Entries are never promoted, so the least recently used is the oldest.
    responses: LruCache<String, (Instant, Arc<StoredResponse>)>,
    /// Items whose ids are ours. Ids that clients chose are left out, because they may collide.
    items: HashMap<String, Arc<StoredItem>>,
    account: ByteAccount,
}

impl OwnerContents {
    fn new(all: Arc<AtomicUsize>) -> Self {
        Self {
            responses: LruCache::unbounded(),
            items: HashMap::new(),
            account: ByteAccount {
                own: Arc::default(),
                all,
            },
        }
    }

    fn len(&self) -> usize {
        self.responses.len()
    }

    /// Bytes that it takes, what requests under way hold of its former responses included.
    fn bytes(&self) -> usize {
        self.account.own.load(Ordering::Relaxed)
    }

    /// When its oldest response expires.
    fn oldest(&self) -> Option<Instant> {
        let (_, (expires, _)) = self.responses.peek_lru()?;
        Some(*expires)
    }

    fn keep(&mut self, draft: ResponseDraft, expires: Instant) {
        let own_size = draft.own_size();
        let mut own = Vec::new();
        let mut new = |item: ResponseItem| {
            let kept = Arc::new(StoredItem {
                _charge: self.account.charge(item_size(&item)),
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
            _charge: self.account.charge(own_size),
        };
        self.responses.put(draft.id, (expires, Arc::new(stored)));
    }

    /// Drops a response; returns whether there was one with this id.
    fn forget(&mut self, id: &str) -> bool {
        let found = self.responses.pop(id);
        found.map(|(_, stored)| self.removed(&stored)).is_some()
    }

    /// Drops its oldest response; returns whether it had one.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.responses.pop_lru();
        let oldest = oldest.map(|(_, (_, stored))| self.removed(&stored));
        oldest.is_some()
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
