//! The KV cache as the scheduler sees it: the engine's sequences, what each
//! holds, and the parked ones, whose request has ended and whose cells wait for
//! another with the same prefix. Evicted ones are offloaded to
//! host memory where that pays.

mod adapted;
mod copies;
mod exact;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::admission::MemoryRoom;
use crate::engine::{AdapterId, DecodeError, Engine, Row, SeqId, Shape, Token, return_freed};

use super::kv_offload::{OffloadStore, WORTH_COPYING};
use super::prefix::{Prefix, PrefixScope, PrefixTree};

pub(super) use copies::with_copy;

/// Cells that parked sequences may hold in a partition where every row pays for all used cells of
/// it. The latest parked sequence stays however long it is: a store's prompt that many kiosks send
/// is kept in any case.
const PARKED_AT_A_PRICE: usize = 512;
/// Cells that parked sequences may hold for good where a row only looks at the masks of other cells.
/// That costs little, but thousands of cells are no longer nothing: beyond this many, sequences go
/// that nobody asked for in [`A_WHILE`].
const PARKED_FOR_GOOD: usize = 1024;
const A_WHILE: Duration = Duration::from_secs(30);

/// Whose sequences a partition may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionOwner {
    /// Those of the model alone.
    Base,
    /// Those that are computed with this adapter.
    Adapter(AdapterId),
    /// None: its adapter was removed, and its place is kept for the next one, because the ids of sequences
    /// follow from it.
    Nobody,
}

impl PartitionOwner {
    /// Whether requests for this adapter, or for the model alone, can be computed there.
    pub(super) fn serves(self, adapter: Option<AdapterId>) -> bool {
        match self {
            Self::Base => adapter.is_none(),
            Self::Adapter(own) => adapter == Some(own),
            Self::Nobody => false,
        }
    }
}

/// What the engine holds in one KV partition.
#[derive(Debug)]
struct Partition {
    owner: PartitionOwner,
    tree: PrefixTree,
    free_ids: Vec<SeqId>,
    /// The most cells that were used at once since its memory was given back.
    most_cells: usize,
    /// The sequence that had all its rows in the last batch.
    alone: Option<SeqId>,
}

impl Partition {
    /// An empty one with the sequences of these ids.
    fn new(owner: PartitionOwner, ids: Range<u32>) -> Self {
        Self {
            owner,
            tree: PrefixTree::default(),
            free_ids: ids.rev().map(SeqId).collect(),
            most_cells: 0,
            alone: None,
        }
    }

    /// Notes that `more` cells were used beside those in the tree.
    fn filled(&mut self, more: usize) {
        self.most_cells = self.most_cells.max(self.tree.cells() + more);
    }
}

/// Keeps the engine's cells and the trees' in step: every change goes through here.
#[derive(Debug)]
pub(super) struct Cache<E: Engine> {
    engine: E,
    partitions: Vec<Partition>,
    offload: OffloadStore<E::KvCopy>,
    /// Bytes that may be offloaded while the governor sets no bound.
    offload_limit: usize,
    /// What is left of the process's memory for more of them.
    room: MemoryRoom,
    /// Least recently used first, with the time of that.
    parked: VecDeque<(SeqId, Instant)>,
    /// By sequence, whether it is parked.
    is_parked: Vec<bool>,
    /// By sequence, how many of its first cells are exact: see `exact`.
    exact: Vec<usize>,
    /// By sequence, the scope in which its cells may be shared, from when it was acquired.
    scopes: Vec<PrefixScope>,
}

impl<E: Engine> Cache<E> {
    pub(super) fn new(engine: E, offload_limit: usize) -> Self {
        let partitions = engine.shape().partitions as usize;
        let mut cache = Self {
            engine,
            partitions: Vec::new(),
            offload: OffloadStore::new(offload_limit),
            offload_limit,
            room: MemoryRoom::default(),
            parked: VecDeque::new(),
            is_parked: Vec::new(),
            exact: Vec::new(),
            scopes: Vec::new(),
        };
        cache.add_places(partitions, PartitionOwner::Base);
        cache
    }

    /// Adds partitions until there are so many.
    fn add_places(&mut self, partitions: usize, owner: PartitionOwner) {
        let sequences = self.shape().sequences;
        while self.partitions.len() < partitions {
            let first = u32::try_from(self.is_parked.len()).unwrap_or(u32::MAX);
            let ids = first..first.saturating_add(sequences);
            self.partitions.push(Partition::new(owner, ids));
            let all = self.partitions.len() * sequences as usize;
            self.is_parked.resize(all, false);
            self.exact.resize(all, 0);
            self.scopes.resize(all, PrefixScope::default());
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.engine.shape()
    }

    /// How many partitions there are, those without an owner included.
    pub(super) fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// How many partitions can be computed.
    pub(super) fn owned_partitions(&self) -> usize {
        let is_owned = |partition: &&Partition| partition.owner != PartitionOwner::Nobody;
        self.partitions.iter().filter(is_owned).count()
    }

    pub(super) fn owner(&self, partition: usize) -> PartitionOwner {
        self.partitions[partition].owner
    }

    pub(super) fn partition_of(&self, id: SeqId) -> usize {
        self.shape().partition(id)
    }

    fn tree(&self, id: SeqId) -> &PrefixTree {
        &self.partitions[self.partition_of(id)].tree
    }

    /// The scope in which the cells of a sequence may be shared.
    pub(super) fn scope_of(&self, id: SeqId) -> PrefixScope {
        self.scopes[id.0 as usize]
    }

    fn partition_mut(&mut self, id: SeqId) -> &mut Partition {
        let partition = self.partition_of(id);
        &mut self.partitions[partition]
    }

    /// Cells of requests under way; the rest is free or can be freed at once.
    pub(super) fn live(&self) -> usize {
        (0..self.partition_count())
            .map(|partition| self.live_in(partition))
            .sum()
    }

    /// Cells of requests under way in a partition.
    pub(super) fn live_in(&self, partition: usize) -> usize {
        let is_live = |id: SeqId| !self.is_parked[id.0 as usize];
        self.partitions[partition].tree.cells_held_by(is_live)
    }

    /// Cells that hold nothing at all.
    pub(super) fn free_cells(&self) -> usize {
        self.shape().cells.saturating_sub(self.used())
    }

    /// Cells that hold something.
    pub(super) fn used(&self) -> usize {
        self.partitions
            .iter()
            .map(|partition| partition.tree.cells())
            .sum()
    }

    /// Cells that hold something in a partition.
    pub(super) fn used_in(&self, partition: usize) -> usize {
        self.partitions[partition].tree.cells()
    }

    /// Cells that only parked sequences hold.
    pub(super) fn parked_cells(&self) -> usize {
        (0..self.partition_count())
            .map(|partition| self.parked_in(partition))
            .sum()
    }

    /// Cells that only parked sequences hold in a partition.
    fn parked_in(&self, partition: usize) -> usize {
        self.used_in(partition) - self.live_in(partition)
    }

    /// Bytes of offloaded cells.
    pub(super) fn offloaded_bytes(&self) -> usize {
        self.offload.bytes()
    }

    /// How many tokens of a prefix could be shared now in a partition. The last token is always
    /// computed: its logits are what is wanted.
    pub(super) fn match_length(&self, partition: usize, prefix: Prefix) -> usize {
        match self.shareable(prefix) {
            Some(prefix) => self.partitions[partition].tree.match_length(prefix),
            None => 0,
        }
    }

    /// Cells that are free or can be freed at once.
    pub(super) fn room(&self) -> usize {
        self.shape().cells.saturating_sub(self.live())
    }

    /// Takes a sequence without cells in a partition, for a request of this prefix and its scope. Where
    /// none is free a parked one is evicted; those that the request can share with are evicted last.
    pub(super) fn acquire(
        &mut self,
        partition: usize,
        prefix: Prefix,
        now: Instant,
    ) -> Option<SeqId> {
        if self.partitions[partition].free_ids.is_empty() {
            for holder in self.partitions[partition]
                .tree
                .longest_match(prefix)
                .1
                .to_vec()
            {
                self.touch(holder, now);
            }
            self.evict_from(partition);
        }
        let id = self.partitions[partition].free_ids.pop()?;
        self.scopes[id.0 as usize] = prefix.scope;
        Some(id)
    }

    fn share_cells(&mut self, id: SeqId, prefix: Prefix, now: Instant) -> usize {
        debug_assert_eq!(prefix.scope, self.scope_of(id));
        let Some((length, sources)) = self.partition_mut(id).tree.share(id, prefix) else {
            return 0;
        };
        if let Some(source) = sources.first() {
            self.engine.share(*source, id, length);
            self.set_exact(id, self.exact[source.0 as usize].min(length));
        }
        for source in sources {
            self.touch(source, now);
        }
        length
    }

    /// Computes a batch. The caller has to report what each sequence has then: [`Cache::computed`].
    pub(super) fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.make_room(rows.len());
        self.note_alone(rows);
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

    /// Records that `id` has computed `tokens` of its prompt after what it had.
    pub(super) fn computed_prompt(&mut self, id: SeqId, tokens: &[Token]) {
        self.note_exact(id, tokens.len());
        self.computed(id, tokens);
    }

    /// Records that `id` has computed `tokens` after what it had.
    pub(super) fn computed(&mut self, id: SeqId, tokens: &[Token]) {
        let scope = self.scope_of(id);
        let partition = self.partition_mut(id);
        partition.tree.extend(id, scope, tokens);
        partition.filled(0);
    }

    /// Removes what `id` computed beyond its first `kept` tokens: drafts that were wrong.
    pub(super) fn forget_drafts(&mut self, id: SeqId, kept: usize) {
        self.engine
            .truncate(id, u32::try_from(kept).unwrap_or(u32::MAX));
    }

    /// Parks `id`, whose request has ended: its cells stay for the next request with the same prefix.
    pub(super) fn park(&mut self, id: SeqId, now: Instant) {
        if !self.shape().shares_prefixes || self.tree(id).is_redundant(id) {
            self.release(id);
            return;
        }
        self.is_parked[id.0 as usize] = true;
        self.parked.push_back((id, now));
        let (shape, partition) = (self.shape(), self.partition_of(id));
        if shape.break_even_cells.is_some() {
            let most = PARKED_AT_A_PRICE.min(shape.cells / 8);
            let is_here = |(id, _): &&(SeqId, Instant)| shape.partition(*id) == partition;
            while self.parked_in(partition) > most && self.parked.iter().filter(is_here).count() > 1
            {
                self.evict_from(partition);
            }
        }
    }

    /// Evicts one parked sequence that nobody has asked for in a while, if parked sequences hold many
    /// cells or a partition could give memory back.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_old = |(_, used): &&(SeqId, Instant)| now.saturating_duration_since(*used) > A_WHILE;
        let mut old = self.parked.iter().take_while(is_old);
        let costs_rows = self.shape().break_even_cells.is_some();
        let is_too_much =
            !costs_rows && self.parked.len() > 1 && self.parked_cells() > PARKED_FOR_GOOD;
        let place = old.position(|(id, _)| {
            is_too_much || self.is_swollen(self.partition_of(*id)) && self.is_little_lost_with(*id)
        });
        self.evict_at(place);
    }

    /// Whether evicting `id` loses little: its cells can be offloaded, or are few.
    fn is_little_lost_with(&self, id: SeqId) -> bool {
        self.tree(id).lost_with(id) < WORTH_COPYING || self.bytes_worth_offloading(id).is_some()
    }

    /// Whether a partition could give back much memory, while the partitions together hold memory for
    /// more cells than the cache has. That happens when they were full one after the other.
    fn is_swollen(&self, partition: usize) -> bool {
        let held: usize = self
            .partitions
            .iter()
            .map(|partition| partition.most_cells)
            .sum();
        let most = self.partitions[partition].most_cells;
        held > self.shape().cells
            && self.holds_much(partition)
            && most > 2 * self.used_in(partition)
    }

    /// Whether a partition holds memory for more cells than its equal share.
    fn holds_much(&self, partition: usize) -> bool {
        self.partitions[partition].most_cells > self.shape().cells / self.owned_partitions().max(1)
    }

    /// Whether some partition could give memory back after a while.
    pub(super) fn has_swollen(&self) -> bool {
        (0..self.partition_count()).any(|partition| self.is_swollen(partition))
    }

    /// Offloads no more than there is room for from now on.
    pub(super) fn keep_within(&mut self, room: MemoryRoom) {
        self.room = room;
    }

    /// Whether memory is held that could be given back while nothing is computed.
    pub(super) fn could_free_memory(&self) -> bool {
        self.offloaded_bytes() > 0 || self.has_swollen()
    }

    /// Bounds the cells that parked sequences may hold by `most`. The latest stays all the same,
    /// unless `most` is 0. Offloaded bytes shrink in proportion, and nothing is offloaded meanwhile.
    /// `None` lifts the bound.
    pub(super) fn limit(&mut self, most: Option<usize>) {
        let cells = self.shape().cells.max(1);
        let Some(most) = most else {
            let room = usize::try_from(self.room.bytes()).unwrap_or(usize::MAX);
            let within = self.offload.bytes().saturating_add(room);
            self.offload.limit(self.offload_limit.min(within));
            return;
        };
        let (share, kept) = (self.offload_limit / cells * most, self.offload.bytes());
        self.offload.limit(share.min(kept));
        if self.offload.bytes() < kept {
            return_freed();
        }
        while self.parked.len() > usize::from(most > 0)
            && self.parked_cells() > most
            && let Some(id) = self.unpark(0)
        {
            self.release(id);
        }
    }

    /// Frees `id` and the cells that it alone holds.
    pub(super) fn release(&mut self, id: SeqId) {
        self.engine.truncate(id, 0);
        self.exact[id.0 as usize] = 0;
        self.partition_mut(id).tree.release(id);
        self.partition_mut(id).free_ids.push(id);
        let partition = self.partition_of(id);
        if self.used_in(partition) == 0 && self.holds_much(partition) {
            self.partitions[partition].most_cells = 0;
            self.engine.give_back(partition);
        }
    }

    /// What of a prefix may be shared.
    fn shareable<'a>(&self, prefix: Prefix<'a>) -> Option<Prefix<'a>> {
        let all_but_last = prefix.first(prefix.tokens.len().checked_sub(1)?);
        self.shape().shares_prefixes.then_some(all_but_last)
    }

    fn make_room(&mut self, rows: usize) {
        while self.used() + rows > self.shape().cells && self.evict() {}
    }

    /// Evicts the least recently used parked sequence; false when there is none.
    fn evict(&mut self) -> bool {
        self.evict_at(Some(0))
    }

    /// Evicts the least recently used parked sequence of a partition; false when there is none.
    fn evict_from(&mut self, partition: usize) -> bool {
        let is_here = |(id, _): &(SeqId, Instant)| self.partition_of(*id) == partition;
        let place = self.parked.iter().position(is_here);
        self.evict_at(place)
    }

    fn evict_at(&mut self, place: Option<usize>) -> bool {
        let id = place.and_then(|place| self.unpark(place));
        id.map(|id| self.swap_out(id)).is_some()
    }

    /// Takes a sequence out of the parked ones, of which the first is the least recently used.
    fn unpark(&mut self, place: usize) -> Option<SeqId> {
        let (id, _) = self.parked.remove(place)?;
        self.is_parked[id.0 as usize] = false;
        Some(id)
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
        for partition in &self.partitions {
            partition.tree.check_integrity();
        }
        for id in (0..).map(SeqId).take(self.scopes.len()) {
            let scope = self.tree(id).scope_of(id);
            assert!(scope.is_none_or(|scope| scope == self.scope_of(id)));
            let owner = self.owner(self.partition_of(id));
            assert!(scope.is_none_or(|scope| owner.serves(scope.adapter)));
        }
        self.offload.check_integrity();
        assert!(self.used() <= self.shape().cells);
        let free: usize = self
            .partitions
            .iter()
            .map(|partition| partition.free_ids.len())
            .sum();
        let ids = free + self.parked.len() + running.len();
        assert_eq!(ids, self.is_parked.len());
        for (id, tokens) in running {
            assert_eq!(&self.tree(*id).tokens_of(*id), tokens);
        }
    }
}
