//! Beginnings that gave way in the KV cache, kept as bytes beside it: there they cost no row
//! anything and take no cell, and copying one back takes a small part of the time that computing
//! it would.

use std::collections::VecDeque;

use crate::engine::{Copied, SeqId, Token};

use super::prefix::PrefixTree;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shelf<C> {
    /// What is kept, by numbers that stand for no sequence of the engine.
    tree: PrefixTree,
    /// Least recently used first.
    entries: VecDeque<Entry<C>>,
    next: u32,
    bytes: usize,
    /// Bytes that may be kept.
    most: usize,
}

#[derive(Debug)]
struct Entry<C> {
    number: SeqId,
    tokens: usize,
    copied: C,
}

/// What is kept of some tokens.
#[derive(Debug)]
pub(super) struct Found<'shelf, C> {
    /// How many of them stand at its beginning.
    pub(super) length: usize,
    /// How many tokens it has.
    pub(super) whole: usize,
    pub(super) copied: &'shelf C,
}

impl<C: Copied> Shelf<C> {
    /// One that keeps `most` bytes.
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

    /// Bytes that may be kept.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Keeps no more than `most` bytes from now on; the least recently used go.
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
        while self.bytes > self.most {
            self.drop_entry(0);
        }
    }

    /// How many of `tokens`, from the first on, stand at the beginning of something kept.
    pub(super) fn match_length(&self, tokens: &[Token]) -> usize {
        self.tree.match_length(tokens)
    }

    /// The longest of it, as it was kept.
    pub(super) fn find(&mut self, tokens: &[Token]) -> Option<Found<'_, C>> {
        let length = self.match_length(tokens);
        let place = self.place_of_match(tokens)?;
        self.touch(place);
        let entry = self.entries.back()?;
        Some(Found {
            length,
            whole: entry.tokens,
            copied: &entry.copied,
        })
    }

    /// Whether something that begins with all of `tokens` is kept; it counts as used then.
    pub(super) fn has(&mut self, tokens: &[Token]) -> bool {
        let place = self.place_of_match(tokens);
        let all = place.filter(|_| self.match_length(tokens) == tokens.len());
        all.map(|place| self.touch(place)).is_some()
    }

    /// Keeps what `tokens` had in the cache, if there is room for it. What was kept of their
    /// beginning goes: nothing kept is the beginning of another.
    pub(super) fn put(&mut self, tokens: &[Token], copied: C) {
        let bytes = copied.bytes();
        if tokens.is_empty() || bytes > self.most || self.has(tokens) {
            return;
        }
        let length = self.match_length(tokens);
        if let Some(place) = self.place_of_match(tokens)
            && self.entries[place].tokens == length
        {
            self.drop_entry(place);
        }
        while self.bytes + bytes > self.most {
            self.drop_entry(0);
        }
        let number = SeqId(self.next);
        self.next = self.next.wrapping_add(1);
        let shared = self.tree.share(number, tokens);
        let shared = shared.map_or(0, |(length, _)| length);
        self.tree.extend(number, &tokens[shared..]);
        self.bytes += bytes;
        self.entries.push_back(Entry {
            number,
            tokens: tokens.len(),
            copied,
        });
    }

    fn place_of_match(&self, tokens: &[Token]) -> Option<usize> {
        let holders = self.tree.holders_of_match(tokens);
        let holds = |entry: &Entry<C>| holders.first() == Some(&entry.number);
        self.entries.iter().position(holds)
    }

    fn touch(&mut self, place: usize) {
        if let Some(entry) = self.entries.remove(place) {
            self.entries.push_back(entry);
        }
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
            assert_eq!(
                self.tree.holders_of_match(&tokens),
                [entry.number],
                "one is the beginning of another"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Bytes(usize);

    impl Copied for Bytes {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(|byte| Token(i32::from(byte))).collect()
    }

    fn put(shelf: &mut Shelf<Bytes>, text: &str) {
        shelf.put(&tokens(text), Bytes(text.len()));
        shelf.check_integrity();
    }

    #[test]
    fn the_longest_is_found_and_a_longer_one_takes_the_place_of_its_beginning() {
        let mut shelf = Shelf::new(100);
        put(&mut shelf, "store one");
        put(&mut shelf, "store two");
        put(&mut shelf, "store one, question");
        put(&mut shelf, "store");
        assert_eq!(shelf.bytes(), 9 + 19);
        let found = shelf.find(&tokens("store one, quiz")).expect("it is there");
        assert_eq!((found.length, found.whole), (13, 19));
        assert_eq!(found.copied, &Bytes(19));
        assert!(shelf.find(&tokens("another")).is_none());
        assert!(shelf.has(&tokens("store t")) && !shelf.has(&tokens("store three")));
    }

    #[test]
    fn the_least_recently_used_goes_when_room_is_short() {
        let mut shelf = Shelf::new(20);
        for text in ["aaaaaaaa", "bbbbbbbb"] {
            put(&mut shelf, text);
        }
        assert!(shelf.find(&tokens("aaaa")).is_some());
        put(&mut shelf, "cccccccc");
        assert_eq!(shelf.match_length(&tokens("bbbb")), 0);
        assert_eq!(shelf.match_length(&tokens("aaaa")), 4);
        put(&mut shelf, "what is longer than all the room");
        assert_eq!(shelf.bytes(), 16);
        shelf.limit(8);
        shelf.check_integrity();
        assert_eq!(shelf.match_length(&tokens("cccc")), 4);
        shelf.limit(0);
        put(&mut shelf, "d");
        assert_eq!(shelf.bytes(), 0);
    }
}
