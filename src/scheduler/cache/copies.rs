//! Copies of cells: from partition to partition, so that requests with the same prefix are computed
//! side by side, and to and from host memory (KV offload). And when a copy is better than sharing.

use std::time::Instant;

use super::Cache;
use crate::engine::{Engine, SeqId};
use crate::scheduler::kv_offload::{OffloadedPrefix, WORTH_COPYING};
use crate::scheduler::prefix::Prefix;

/// Bytes that are offloaded at once where nobody needs their cells: more would be a pause.
const OFFLOADED_AT_ONCE: usize = 32 << 20;

impl<E: Engine> Cache<E> {
    /// How many tokens of a prefix need not be computed in a partition, because they can be shared
    /// there or copied.
    pub(in crate::scheduler) fn known_length(&self, partition: usize, prefix: Prefix) -> usize {
        let shared = self.match_length(partition, prefix);
        with_copy(self.copy_of(prefix), shared)
    }

    /// How many tokens of a prefix can be copied, from offloaded cells or from another partition,
    /// if there is room for all cells of the copy.
    pub(in crate::scheduler) fn copy_of(&self, prefix: Prefix) -> Option<usize> {
        let prefix = self.shareable(prefix)?;
        let original = self.longest_elsewhere(prefix).map(|(_, length)| length);
        self.offloaded_length(prefix).max(original)
    }

    /// How many tokens of a prefix can be copied from offloaded cells.
    fn offloaded_length(&self, prefix: Prefix) -> Option<usize> {
        let found = self.offload.find(prefix)?;
        (found.whole <= self.room()).then_some(found.length)
    }

    /// The sequence of the prefix's scope that has most of it in any partition, and how much that is,
    /// if there is room for a copy of it.
    fn longest_elsewhere(&self, prefix: Prefix) -> Option<(SeqId, usize)> {
        if self.partition_count() == 1 {
            return None;
        }
        let matches = self
            .partitions
            .iter()
            .map(|partition| partition.tree.longest_match(prefix));
        let (length, holders) = matches.max_by_key(|(length, _)| *length)?;
        let fits = length <= self.room().min(self.shape().most_copied);
        fits.then_some((*holders.first()?, length))
    }

    /// Lets `id` share as much of a prefix as its partition has, or gives it a copy of more;
    /// returns how many tokens it has then.
    pub(in crate::scheduler) fn share(&mut self, id: SeqId, prefix: Prefix, now: Instant) -> usize {
        let Some(shareable) = self.shareable(prefix) else {
            return 0;
        };
        let shared = self.match_length(self.partition_of(id), prefix);
        let is_worth_it = |copy: Option<usize>| with_copy(copy, shared) > shared;
        let kept = self.offloaded_length(shareable);
        let original = self.longest_elsewhere(shareable);
        let original = original.filter(|(_, length)| is_worth_it(Some(*length)));
        let original = original.filter(|(_, length)| kept <= Some(*length));
        original
            .and_then(|(from, length)| self.copy_from_partition(from, id, shareable.first(length)))
            .or_else(|| {
                let is_still =
                    |found: OffloadedPrefix<'_, E::KvCopy>| is_worth_it(Some(found.length));
                is_worth_it(kept).then(|| self.restore(id, shareable, is_still))?
            })
            .unwrap_or_else(|| self.share_cells(id, shareable, now))
    }

    /// Gives `id` a copy of a prefix, which `from` has in another partition. There must be room, or room
    /// that evictions can make; `from` itself may be evicted for it.
    pub(super) fn copy_from_partition(
        &mut self,
        from: SeqId,
        id: SeqId,
        prefix: Prefix,
    ) -> Option<usize> {
        debug_assert_eq!(prefix.scope, self.scope_of(from));
        debug_assert_eq!(prefix.scope, self.scope_of(id));
        let tokens = prefix.tokens;
        let copied = self.engine.copy_out(from, tokens.len())?;
        let exact = self.exact[from.0 as usize].min(tokens.len());
        self.make_room(tokens.len());
        let is_first = self.used_in(self.partition_of(id)) == 0;
        if !self.engine.copy_in(&copied, id) {
            self.engine.truncate(id, 0);
            return None;
        }
        self.partition_mut(id).filled(tokens.len());
        self.computed(id, tokens);
        self.set_exact(id, if is_first { exact } else { 0 });
        Some(tokens.len())
    }

    /// Gives `id` a copy of what is offloaded of a prefix, for which room can be made. It must still
    /// be found `is_worth_it` after room has been made for it.
    pub(super) fn restore(
        &mut self,
        id: SeqId,
        prefix: Prefix,
        is_worth_it: impl Fn(OffloadedPrefix<'_, E::KvCopy>) -> bool,
    ) -> Option<usize> {
        debug_assert_eq!(prefix.scope, self.scope_of(id));
        self.offload.touch(prefix);
        let whole = self.offload.find(prefix)?.whole;
        self.make_room(whole);
        // What was evicted for it has been offloaded, and may have pushed out this very prefix.
        let found = self.offload.find(prefix)?;
        if found.whole > whole || !is_worth_it(found) {
            return None;
        }
        let is_first = self.partitions[self.shape().partition(id)].tree.cells() == 0;
        if !self.engine.copy_in(found.copied, id) {
            self.engine.truncate(id, 0);
            return None;
        }
        let (length, whole, exact) = (found.length, found.whole, found.exact);
        self.partition_mut(id).filled(whole);
        self.engine
            .truncate(id, u32::try_from(length).unwrap_or(u32::MAX));
        self.computed(id, &prefix.tokens[..length]);
        self.set_exact(id, if is_first { exact } else { 0 });
        Some(length)
    }

    /// Offloads the parked sequences of these `partitions`, as long as there is room for them, where
    /// every row pays for all used cells of its partition. Those that a sequence which has not started
    /// yet will share stay: `awaited` names these sequences and their prefixes.
    pub(in crate::scheduler) fn offload_unrelated<'a>(
        &mut self,
        partitions: &[usize],
        awaited: impl Iterator<Item = (SeqId, Prefix<'a>)>,
    ) {
        if self.shape().break_even_cells.is_none() || self.parked.is_empty() {
            return;
        }
        let awaited: Vec<SeqId> = awaited
            .flat_map(|(id, prefix)| self.tree(id).longest_match(prefix).1)
            .copied()
            .collect();
        let mut copied = 0;
        for (id, used) in std::mem::take(&mut self.parked) {
            let fits = |bytes: &usize| {
                copied + bytes <= OFFLOADED_AT_ONCE && self.offload.has_room(*bytes)
            };
            let stays = awaited.contains(&id) || !partitions.contains(&self.partition_of(id));
            let bytes = if stays {
                None
            } else {
                self.bytes_worth_offloading(id)
            };
            match bytes.filter(fits) {
                Some(bytes) if self.offload(id, bytes) => {
                    copied += bytes;
                    self.is_parked[id.0 as usize] = false;
                    self.release(id);
                }
                _ => self.parked.push_back((id, used)),
            }
        }
    }

    /// Frees `id` as [`Cache::release`] does, and offloads its cells if they may be wanted again.
    pub(in crate::scheduler) fn swap_out(&mut self, id: SeqId) {
        if let Some(bytes) = self.bytes_worth_offloading(id) {
            self.offload(id, bytes);
        }
        self.release(id);
    }

    /// Bytes of a copy of `id`, if much would be lost without one; `None` where it is not worth it.
    pub(super) fn bytes_worth_offloading(&self, id: SeqId) -> Option<usize> {
        let (lost, all) = (self.tree(id).lost_with(id), self.tree(id).length(id));
        if lost < WORTH_COPYING || lost < all / 2 || !self.shape().shares_prefixes {
            return None;
        }
        let bytes = self.engine.copied_bytes(id)?;
        self.offload.could_take(bytes).then_some(bytes)
    }

    /// Offloads the cells of `id`, which take `bytes`; returns whether they are there then.
    fn offload(&mut self, id: SeqId, bytes: usize) -> bool {
        let tokens = self.tree(id).tokens_of(id);
        let prefix = Prefix {
            scope: self.scope_of(id),
            tokens: &tokens,
        };
        let exact = self.exact[id.0 as usize];
        let kept = self.offload.find(prefix).map_or(0, |found| found.exact);
        if self.offload.covers(prefix) && kept >= exact {
            self.offload.touch(prefix);
            return true;
        }
        self.offload.make_room(prefix, bytes);
        let Some(copied) = self.engine.copy_out(id, tokens.len()) else {
            return false;
        };
        self.offload.put(prefix, copied, exact);
        true
    }
}

/// How many tokens need not be computed, where `shared` can be shared and a `copy` has as many as it
/// says. A copy that has little more is not used: all its cells are its own, also those that could
/// have been shared.
pub(in crate::scheduler) fn with_copy(copy: Option<usize>, shared: usize) -> usize {
    let is_worth_it = |copy: &usize| {
        let more = copy.saturating_sub(shared);
        more >= WORTH_COPYING && more >= copy / 2
    };
    copy.filter(is_worth_it).unwrap_or(shared)
}
