//! The KV cache as the scheduler sees it: the engine's sequences, what each
//! holds, and the parked ones, whose request has ended and whose cells wait for
//! another with the same beginning. Those that give way are kept on a shelf beside it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::{DecodeError, Engine, Row, SeqId, Shape, Token};

use super::prefix::PrefixTree;
use super::shelf::Shelf;

/// Where every row pays for all used cells, what is kept for later gets so many at most, but for
/// the latest beginning: a store's prompt that many kiosks send is among them in any case.
const PARKED_AT_A_PRICE: usize = 512;
/// Elsewhere a row only looks at the masks of what is kept. That is little, but for thousands of
/// cells no longer nothing: beyond so many they go when nobody asked for them for a while.
const PARKED_FOR_GOOD: usize = 1024;
const A_WHILE: Duration = Duration::from_secs(30);
/// Copying out and in costs as much as computing some tokens: for fewer it is not done.
const WORTH_COPYING: usize = 64;

/// Keeps the engine's cells and the tree's in step: every change goes through here.
#[derive(Debug)]
pub(super) struct Cache<E: Engine> {
    engine: E,
    tree: PrefixTree,
    shelf: Shelf<E::Copied>,
    /// Bytes of the shelf when nothing is short.
    shelf_bytes: usize,
    free_ids: Vec<SeqId>,
    /// Least recently used first, with the time of that.
    parked: VecDeque<(SeqId, Instant)>,
    /// By sequence, whether it is parked.
    is_parked: Vec<bool>,
}

impl<E: Engine> Cache<E> {
    pub(super) fn new(engine: E, shelf_bytes: usize) -> Self {
        Self {
            shelf: Shelf::new(shelf_bytes),
            shelf_bytes,
            free_ids: (0..engine.shape().sequences).rev().map(SeqId).collect(),
            is_parked: vec![false; engine.shape().sequences as usize],
            engine,
            tree: PrefixTree::default(),
            parked: VecDeque::new(),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.engine.shape()
    }

    /// Cells of requests under way; the rest is free or can be freed at once.
    pub(super) fn live(&self) -> usize {
        self.tree.cells_held_by(|id| !self.is_parked[id.0 as usize])
    }

    /// Cells that hold nothing at all.
    pub(super) fn free_cells(&self) -> usize {
        self.shape().cells.saturating_sub(self.used())
    }

    /// Cells that hold something.
    pub(super) fn used(&self) -> usize {
        self.tree.cells()
    }

    /// Cells that only parked sequences hold.
    pub(super) fn parked_cells(&self) -> usize {
        self.used() - self.live()
    }

    /// Bytes that are kept beside the cells.
    pub(super) fn shelf_bytes(&self) -> usize {
        self.shelf.bytes()
    }

    /// How much of `tokens` could be shared now. The last token is always
    /// computed: its logits are what is wanted.
    pub(super) fn match_length(&self, tokens: &[Token]) -> usize {
        match self.shareable(tokens) {
            Some(tokens) => self.tree.match_length(tokens),
            None => 0,
        }
    }

    /// How much of `tokens` need not be computed: what can be shared, or copied from the shelf.
    pub(super) fn known_length(&self, tokens: &[Token]) -> usize {
        match self.shareable(tokens) {
            Some(tokens) => self.worth_copying(tokens, self.tree.match_length(tokens)),
            None => 0,
        }
    }

    /// How much of `tokens` is known if the shelf is made use of where that is much more than what
    /// is in the cache.
    fn worth_copying(&self, tokens: &[Token], in_cache: usize) -> usize {
        let on_shelf = self.shelf.match_length(tokens);
        if on_shelf >= in_cache + WORTH_COPYING {
            on_shelf
        } else {
            in_cache
        }
    }

    /// A sequence without cells for a request of these tokens; a parked one gives way for it
    /// if need be, those that it can share with last.
    pub(super) fn acquire(&mut self, tokens: &[Token], now: Instant) -> Option<SeqId> {
        if self.free_ids.is_empty() {
            for holder in self.tree.holders_of_match(tokens) {
                self.touch(holder, now);
            }
            self.evict();
        }
        self.free_ids.pop()
    }

    /// Lets `id` share the longest beginning of `tokens` that is in the cache, or gives it a copy of
    /// a longer one; returns its length.
    pub(super) fn share(&mut self, id: SeqId, tokens: &[Token], now: Instant) -> usize {
        let Some(tokens) = self.shareable(tokens) else {
            return 0;
        };
        let in_cache = self.tree.match_length(tokens);
        let copied = if self.worth_copying(tokens, in_cache) > in_cache {
            self.copy_in(id, tokens)
        } else {
            None
        };
        let length = copied.unwrap_or_else(|| self.share_cells(id, tokens, now));
        if self.shape().crowd_cells.is_some() {
            self.shelve_strangers();
        }
        length
    }

    fn share_cells(&mut self, id: SeqId, tokens: &[Token], now: Instant) -> usize {
        let Some((length, sources)) = self.tree.share(id, tokens) else {
            return 0;
        };
        if let Some(source) = sources.first() {
            self.engine.share(*source, id, length);
        }
        for source in sources {
            self.touch(source, now);
        }
        length
    }

    /// Where every row pays for all used cells: what nobody under way shares goes to the shelf, if
    /// there is room for it.
    fn shelve_strangers(&mut self) {
        for (id, used) in std::mem::take(&mut self.parked) {
            if self.copy_out(id) {
                self.is_parked[id.0 as usize] = false;
                self.release(id);
            } else {
                self.parked.push_back((id, used));
            }
        }
    }

    fn copy_in(&mut self, id: SeqId, tokens: &[Token]) -> Option<usize> {
        let whole = self.shelf.find(tokens)?.whole;
        self.make_room(whole);
        let room = self.free_cells();
        // Those that gave way for it may have taken its place on the shelf.
        let found = self.shelf.find(tokens)?;
        if found.whole > room || !self.engine.copy_in(found.copied, id) {
            return None;
        }
        let length = found.length;
        self.engine
            .truncate(id, u32::try_from(length).unwrap_or(u32::MAX));
        self.tree.extend(id, &tokens[..length]);
        Some(length)
    }

    /// Computes a batch; what each sequence has then is told by [`Cache::computed`].
    pub(super) fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.make_room(rows.len());
        loop {
            match self.engine.decode(rows) {
                // Our count of cells and llama.cpp's differ: give it more room.
                Err(DecodeError::NoCells) if self.evict() => {}
                result => return result,
            }
        }
    }

    pub(super) fn logits(&self, row: usize) -> &[f32] {
        self.engine.logits(row)
    }

    /// `id` has computed `tokens` behind what it had.
    pub(super) fn computed(&mut self, id: SeqId, tokens: &[Token]) {
        self.tree.extend(id, tokens);
    }

    /// What `id` computed beyond its first `kept` tokens was not to be.
    pub(super) fn forget_drafts(&mut self, id: SeqId, kept: usize) {
        self.engine
            .truncate(id, u32::try_from(kept).unwrap_or(u32::MAX));
    }

    /// The request of `id` has ended; its cells stay for the next with the same beginning.
    pub(super) fn park(&mut self, id: SeqId, now: Instant) {
        if !self.shape().shares_prefixes || self.tree.is_redundant(id) {
            self.release(id);
        } else {
            self.is_parked[id.0 as usize] = true;
            self.parked.push_back((id, now));
            let shape = self.shape();
            let most = PARKED_AT_A_PRICE.min(shape.cells / 8);
            let has_price = shape.crowd_cells.is_some();
            while has_price && self.parked.len() > 1 && self.parked_cells() > most {
                self.evict();
            }
        }
    }

    /// Frees what nobody has asked for in a while, where there is much of it.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.parked.len() > 1
            && let Some((_, used)) = self.parked.front()
            && now.saturating_duration_since(*used) > A_WHILE
            && self.parked_cells() > PARKED_FOR_GOOD
        {
            self.evict();
        }
    }

    /// Frees what is kept beyond `most` cells, but for the latest unless there is to be none, and as
    /// much of the shelf; without a `most` all may be kept again.
    pub(super) fn limit(&mut self, most: Option<usize>) {
        let cells = self.shape().cells.max(1);
        let Some(most) = most else {
            self.shelf.limit(self.shelf_bytes);
            return;
        };
        self.shelf.limit(self.shelf_bytes / cells * most);
        while (self.parked.len() > 1 || most == 0) && self.parked_cells() > most && self.evict() {}
    }

    /// As [`Cache::release`], for a request that is to come back.
    pub(super) fn set_aside(&mut self, id: SeqId) {
        self.copy_out(id);
        self.release(id);
    }

    /// Puts on the shelf what would be lost with `id`, if that is much of it; whether it is there.
    fn copy_out(&mut self, id: SeqId) -> bool {
        let (lost, all) = (self.tree.lost_with(id), self.tree.length(id));
        if lost < WORTH_COPYING || lost < all / 2 || !self.shape().shares_prefixes {
            return false;
        }
        let tokens = self.tree.tokens_of(id);
        if !self.shelf.has(&tokens)
            && let Some(copied) = self.engine.copy_out(id, self.shelf.most())
        {
            self.shelf.put(&tokens, copied);
        }
        self.shelf.has(&tokens)
    }

    /// `id` and the cells that it alone holds are free.
    pub(super) fn release(&mut self, id: SeqId) {
        self.tree.release(id);
        self.engine.truncate(id, 0);
        self.free_ids.push(id);
    }

    fn shareable<'a>(&self, tokens: &'a [Token]) -> Option<&'a [Token]> {
        let (_, all_but_last) = tokens.split_last()?;
        self.shape().shares_prefixes.then_some(all_but_last)
    }

    fn make_room(&mut self, rows: usize) {
        while self.tree.cells() + rows > self.shape().cells && self.evict() {}
    }

    /// Frees the least recently used parked sequence; false when there is none.
    fn evict(&mut self) -> bool {
        let Some((id, _)) = self.parked.pop_front() else {
            return false;
        };
        self.is_parked[id.0 as usize] = false;
        self.set_aside(id);
        true
    }

    fn touch(&mut self, id: SeqId, now: Instant) {
        if let Some(place) = self.parked.iter().position(|(parked, _)| *parked == id) {
            self.parked.remove(place);
            self.parked.push_back((id, now));
        }
    }

    #[cfg(test)]
    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    /// Panics unless tree, ids and parked sequences agree; `running` are the ids in use.
    #[cfg(test)]
    pub(super) fn check_integrity(&self, running: &[(SeqId, Vec<Token>)]) {
        self.tree.check_integrity();
        self.shelf.check_integrity();
        assert!(self.tree.cells() <= self.shape().cells);
        let ids = self.free_ids.len() + self.parked.len() + running.len();
        assert_eq!(ids, self.shape().sequences as usize);
        for (id, tokens) in running {
            assert_eq!(&self.tree.tokens_of(*id), tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;

    #[test]
    fn what_nobody_asks_for_goes_after_a_while_but_for_the_latest() {
        let shape = Shape {
            cells: 10_000,
            sequences: 8,
            batch_rows: 512,
            tile_rows: 0,
            row_group: 1,
            crowd_cells: None,
            vocabulary: 256,
            shares_prefixes: true,
        };
        let mut cache = Cache::new(FakeEngine::new(shape), 0);
        let start = Instant::now();
        for number in 0..4 {
            let tokens = vec![Token(number); 1000];
            let id = cache.acquire(&tokens, start).expect("a sequence");
            cache.computed(id, &tokens);
            cache.park(id, start + Duration::from_secs(10) * number.unsigned_abs());
        }
        let mut after = |seconds| {
            cache.expire(start + Duration::from_secs(seconds));
            cache.parked_cells()
        };
        assert_eq!(after(30), 4000);
        assert_eq!(after(45), 2000);
        assert_eq!(after(1000), 1000);
    }
}
