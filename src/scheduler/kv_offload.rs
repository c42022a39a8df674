//! KV offload: prefixes that were evicted from the KV cache, kept as bytes in host memory. There
//! they cost no row anything and take no cell, and copying one back takes a small part of the time
//! that computing it would.

use std::collections::VecDeque;

use crate::engine::{AdapterId, KvCopy, SeqId};

use super::prefix::{Prefix, PrefixTree};

/// Copying out and in costs as much as computing some tokens: for fewer it is not done.
pub(super) const WORTH_COPYING: usize = 64;

/// Keeps copies of evicted prefixes up to a number of bytes, the most recently used ones.
#[derive(Debug)]
pub(super) struct OffloadStore<C> {
    /// The tokens of all entries, by numbers of their own: these are no sequences of the engine.
    tree: PrefixTree,
    /// Least recently used first.
    entries: VecDeque<OffloadEntry<C>>,
    next: u32,
    bytes: usize,
    /// Bytes that may be kept.
    most: usize,
}

#[derive(Debug)]
struct OffloadEntry<C> {
    number: SeqId,
    tokens: usize,
    /// How many of the first are exact: see `cache::exact`.
    exact: usize,
    copied: C,
}

/// The copy of one request's prefix.
#[derive(Debug)]
pub(super) struct OffloadedPrefix<'store, C> {
    /// How many of the first tokens it has.
    pub(super) length: usize,
    /// How many tokens the entry has in all.
    pub(super) whole: usize,
    /// How many of the length are exact: see `cache::exact`.
    pub(super) exact: usize,
    pub(super) copied: &'store C,
}

impl<C> Clone for OffloadedPrefix<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for OffloadedPrefix<'_, C> {}

impl<C: KvCopy> OffloadStore<C> {
    /// An empty store that keeps `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            tree: PrefixTree::default(),
            entries: VecDeque::new(),
            next: 0,
            bytes: 0,
            most,
        }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `bytes` could be kept if less recently used entries are dropped for them.
    pub(super) fn could_take(&self, bytes: usize) -> bool {
        bytes <= self.most
    }

    /// Whether `bytes` more could be kept without dropping anything.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.most.saturating_sub(self.bytes)
    }

    /// Keeps no more than `most` bytes from now on; the least recently used go.
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
        while self.bytes > self.most {
            self.drop_entry(0);
        }
    }

    /// The entry of its scope that has the longest part of a prefix.
    pub(super) fn find(&self, prefix: Prefix) -> Option<OffloadedPrefix<'_, C>> {
        let (place, length) = self.longest_match(prefix)?;
        let entry = &self.entries[place];
        Some(OffloadedPrefix {
            length,
            whole: entry.tokens,
            exact: entry.exact.min(length),
            copied: &entry.copied,
        })
    }

    /// Whether so much of a prefix is kept for its scope that the rest is not worth copying.
    pub(super) fn covers(&self, prefix: Prefix) -> bool {
        prefix.tokens.len() < self.tree.match_length(prefix) + WORTH_COPYING
    }

    /// Marks the entry that has the longest part of a prefix as the most recently used.
    pub(super) fn touch(&mut self, prefix: Prefix) {
        if let Some((place, _)) = self.longest_match(prefix)
            && let Some(entry) = self.entries.remove(place)
        {
            self.entries.push_back(entry);
        }
    }

    /// Drops entries until there is room for `bytes` of a prefix: first one of its scope that has
    /// little but a part of it, then the least recently used of all scopes.
    pub(super) fn make_room(&mut self, prefix: Prefix, bytes: usize) {
        if let Some((place, length)) = self.longest_match(prefix)
            && self.entries[place].tokens < length + WORTH_COPYING
        {
            self.drop_entry(place);
        }
        while !self.entries.is_empty() && !self.has_room(bytes) {
            self.drop_entry(0);
        }
    }

    /// Keeps a copy of the cells of a prefix, the first `exact` of which are exact. Without room for it
    /// nothing happens.
    pub(super) fn put(&mut self, prefix: Prefix, copied: C, exact: usize) {
        let bytes = copied.bytes();
        if !self.has_room(bytes) {
            return;
        }
        let number = SeqId(self.next);
        self.next = self.next.wrapping_add(1);
        let Prefix { scope, tokens } = prefix;
        let shared = self.tree.share(number, prefix);
        let shared = shared.map_or(0, |(length, _)| length);
        self.tree.extend(number, scope, &tokens[shared..]);
        self.bytes += bytes;
        self.entries.push_back(OffloadEntry {
            number,
            tokens: tokens.len(),
            exact,
            copied,
        });
    }

    /// Drops what was computed with an adapter.
    pub(super) fn forget(&mut self, adapter: AdapterId) {
        let is_adapted = |number| {
            let scope = self.tree.scope_of(number);
            scope.is_some_and(|scope| scope.adapter == Some(adapter))
        };
        let numbers = self.entries.iter().map(|entry| entry.number);
        let places: Vec<bool> = numbers.map(is_adapted).collect();
        for place in (0..places.len()).rev().filter(|place| places[*place]) {
            self.drop_entry(place);
        }
    }

    /// The place of the entry that has the longest part of a prefix, and the length of that part.
    fn longest_match(&self, prefix: Prefix) -> Option<(usize, usize)> {
        let (length, holders) = self.tree.longest_match(prefix);
        let holds = |entry: &OffloadEntry<C>| holders.first() == Some(&entry.number);
        Some((self.entries.iter().position(holds)?, length))
    }

    fn drop_entry(&mut self, place: usize) {
        if let Some(entry) = self.entries.remove(place) {
            self.tree.release(entry.number);
            self.bytes -= entry.copied.bytes();
        }
    }

    /// Panics unless its parts agree.
    #[cfg(test)]
    pub(super) fn check_integrity(&self) {
        self.tree.check_integrity();
        assert!(self.bytes <= self.most);
        let bytes: usize = self.entries.iter().map(|e| e.copied.bytes()).sum();
        assert_eq!(bytes, self.bytes);
        for entry in &self.entries {
            let tokens = self.tree.tokens_of(entry.number);
            assert_eq!(tokens.len(), entry.tokens);
            let scope = self.tree.scope_of(entry.number).expect("it has tokens");
            let tokens = &tokens;
            let (_, holders) = self.tree.longest_match(Prefix { scope, tokens });
            assert_eq!(holders, [entry.number], "one is the prefix of another");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::PrefixGroup;
    use crate::engine::{AdapterId, Token};
    use crate::scheduler::prefix::PrefixScope;

    const OURS: PrefixScope = PrefixScope {
        group: PrefixGroup(0),
        adapter: None,
    };
    const THEIRS: PrefixScope = PrefixScope {
        group: PrefixGroup(1),
        adapter: None,
    };
    const ADAPTED: PrefixScope = PrefixScope {
        group: PrefixGroup(0),
        adapter: Some(AdapterId(0)),
    };

    #[derive(Debug, PartialEq)]
    struct Bytes(usize);

    impl KvCopy for Bytes {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    /// Returns tokens in which each letter of `text` stands for as many as are worth copying.
    fn tokens(text: &str) -> Vec<Token> {
        text.bytes()
            .flat_map(|byte| [Token(i32::from(byte)); WORTH_COPYING])
            .collect()
    }

    fn ours(tokens: &[Token]) -> Prefix<'_> {
        let scope = OURS;
        Prefix { scope, tokens }
    }

    /// Puts it there as the cache does; a letter takes a byte.
    fn put(store: &mut OffloadStore<Bytes>, text: &str) {
        put_of(store, OURS, text);
    }

    fn put_of(store: &mut OffloadStore<Bytes>, scope: PrefixScope, text: &str) {
        let (tokens, bytes) = (&tokens(text), text.len());
        let prefix = Prefix { scope, tokens };
        if !store.covers(prefix) && store.could_take(bytes) {
            store.make_room(prefix, bytes);
            store.put(prefix, Bytes(bytes), 0);
        }
        store.check_integrity();
    }

    fn length(store: &OffloadStore<Bytes>, text: &str) -> usize {
        length_of(store, OURS, text)
    }

    fn length_of(store: &OffloadStore<Bytes>, scope: PrefixScope, text: &str) -> usize {
        let tokens = &tokens(text);
        let found = store.find(Prefix { scope, tokens });
        found.map_or(0, |found| found.length / WORTH_COPYING)
    }

    #[test]
    fn a_scope_finds_covers_and_replaces_its_own_alone() {
        let mut store = OffloadStore::new(20);
        put(&mut store, "store");
        assert_eq!(length_of(&store, THEIRS, "store"), 0);
        assert_eq!(length_of(&store, ADAPTED, "store"), 0);
        put_of(&mut store, THEIRS, "store, the rest");
        assert_eq!(store.bytes(), 5 + 15, "the shorter one is another group's");
        assert_eq!(length(&store, "store, the rest"), 5);
        assert_eq!(length_of(&store, THEIRS, "store"), 5);
        // Room is one for all: the least recently used gives way, whoever it belongs to.
        put_of(&mut store, THEIRS, "other");
        assert_eq!((length(&store, "store"), store.bytes()), (0, 20));
    }

    #[test]
    fn what_was_computed_with_an_adapter_goes_with_it() {
        let mut store = OffloadStore::new(100);
        put(&mut store, "store");
        put_of(&mut store, ADAPTED, "store");
        put_of(&mut store, ADAPTED, "another");
        store.forget(AdapterId(0));
        store.check_integrity();
        assert_eq!((store.bytes(), length(&store, "store")), (5, 5));
        assert_eq!(length_of(&store, ADAPTED, "store"), 0);
    }

    #[test]
    fn the_longest_is_found_and_a_longer_one_takes_the_place_of_its_prefix() {
        let mut store = OffloadStore::new(100);
        put(&mut store, "store one");
        put(&mut store, "store two");
        put(&mut store, "store one, question");
        put(&mut store, "store");
        assert_eq!(store.bytes(), 9 + 19);
        assert_eq!(length(&store, "store one, quiz"), 13);
        let found = store
            .find(ours(&tokens("store one, quiz")))
            .expect("it is there");
        assert_eq!(found.whole, 19 * WORTH_COPYING);
        assert_eq!(found.copied, &Bytes(19));
        assert!(store.find(ours(&tokens("another"))).is_none());
        assert!(
            store.covers(ours(&tokens("store t"))) && !store.covers(ours(&tokens("store three")))
        );
    }

    #[test]
    fn another_question_to_the_same_store_is_not_kept_once_more() {
        let mut store = OffloadStore::new(1000);
        put(&mut store, "store");
        let mut asked = tokens("store");
        asked.truncate(asked.len() - 20);
        asked.extend([Token(1); WORTH_COPYING - 1]);
        assert!(store.covers(ours(&asked)));
        // A longer one is, instead of the one that differs by little.
        asked.extend([Token(2); WORTH_COPYING]);
        assert!(!store.covers(ours(&asked)));
        store.make_room(ours(&asked), 7);
        store.put(ours(&asked), Bytes(7), 0);
        store.check_integrity();
        assert_eq!(store.bytes(), 7);
    }

    #[test]
    fn the_least_recently_used_goes_when_room_is_short() {
        let mut store = OffloadStore::new(20);
        for text in ["aaaaaaaa", "bbbbbbbb"] {
            put(&mut store, text);
        }
        store.touch(ours(&tokens("aaaa")));
        assert!(store.has_room(4) && !store.has_room(8));
        put(&mut store, "cccccccc");
        assert_eq!(length(&store, "bbbb"), 0);
        assert_eq!(length(&store, "aaaa"), 4);
        put(&mut store, "what is longer than all the room");
        assert_eq!(store.bytes(), 16);
        store.limit(8);
        store.check_integrity();
        assert_eq!(length(&store, "cccc"), 4);
        store.limit(0);
        put(&mut store, "d");
        assert_eq!(store.bytes(), 0);
    }
}
