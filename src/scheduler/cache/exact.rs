//! Sequences that come out the same, bit by bit, each time that they are computed.
//!
//! llama.cpp adds numbers up in the order of cells and by the number of rows, and sums of floating
//! point depend on their order. [`Shape::exact_block`](crate::engine::Shape) says what to hold still.
//! Here is what that means for the cells: a sequence has a partition to itself, and shares or copies only
//! what was computed just as it would compute it. That is recorded as a number for each sequence: how
//! many of its first cells are *exact*. They belong to a prompt (an answer is computed row by row, or with
//! its drafts, and would be two rows or more at a time as part of the next prompt), lie in their order from the
//! first cell of the partition on, and were computed while nothing else lay there.
//!
//! llama.cpp takes the first free cells. So a sequence that has the partition's first cells, and alone has
//! any, gets the ones after them.

use std::cmp::Reverse;
use std::time::Instant;

use super::{Cache, with_copy};
use crate::engine::{Engine, Row, SeqId};
use crate::scheduler::prefix::Prefix;

/// Where the longest exact part of a prefix can be copied from.
#[derive(Debug, Clone, Copy)]
enum PrefixSource {
    Offloaded(usize),
    Partition(SeqId, usize),
}

impl PrefixSource {
    fn length(self) -> usize {
        match self {
            Self::Offloaded(length) | Self::Partition(_, length) => length,
        }
    }
}

impl<E: Engine> Cache<E> {
    /// Returns how many of these tokens are in whole blocks.
    fn whole_blocks(&self, tokens: usize) -> usize {
        match self.shape().exact_block {
            Some(block) => tokens / block * block,
            None => 0,
        }
    }

    /// Notes that the first `cells` of `id` are exact, as far as they are whole blocks: what follows a part of
    /// a block is computed in other blocks than by a sequence that begins anew.
    pub(super) fn set_exact(&mut self, id: SeqId, cells: usize) {
        self.exact[id.0 as usize] = self.whole_blocks(cells);
    }

    /// Notes which sequences have all rows of their partition in a batch.
    pub(super) fn note_alone(&mut self, rows: &[Row]) {
        let shape = self.shape();
        let mut sequences = vec![0; self.partitions.len()];
        for run in rows.chunk_by(|row, next| row.sequence == next.sequence) {
            let partition = shape.partition(run[0].sequence);
            sequences[partition] += 1;
            self.partitions[partition].alone =
                (sequences[partition] == 1).then_some(run[0].sequence);
        }
    }

    /// Notes whether `more` tokens of a prompt are exact, which `id` has computed in one batch.
    pub(super) fn note_exact(&mut self, id: SeqId, more: usize) {
        let partition = &self.partitions[self.partition_of(id)];
        let exact = self.exact[id.0 as usize];
        // A single row is computed by another method than two.
        let is_exact = more > 1 && partition.alone == Some(id) && partition.tree.cells() == exact;
        if is_exact && partition.tree.length(id) == exact {
            self.set_exact(id, exact + more);
        }
    }

    /// How many tokens of a prefix are exact in a partition.
    fn exact_match(&self, partition: usize, prefix: Prefix) -> usize {
        let (length, holders) = self.partitions[partition].tree.longest_match(prefix);
        let exact = holders.first().map_or(0, |id| self.exact[id.0 as usize]);
        self.whole_blocks(length.min(exact))
    }

    /// The longest exact part of a prefix that is not in this partition.
    fn exact_source(&self, partition: usize, prefix: Prefix) -> Option<PrefixSource> {
        let kept = self.offload.find(prefix);
        let kept = kept.filter(|found| found.whole <= self.room());
        let kept = kept.map(|found| PrefixSource::Offloaded(self.whole_blocks(found.exact)));
        let original = |other: usize| {
            let (_, holders) = self.partitions[other].tree.longest_match(prefix);
            Some(PrefixSource::Partition(
                *holders.first()?,
                self.exact_match(other, prefix),
            ))
        };
        let others = (0..self.partition_count()).filter(|other| *other != partition);
        let fits = |source: &PrefixSource| source.length() <= self.shape().most_copied;
        let sources = others.filter_map(original).chain(kept).filter(fits);
        sources.max_by_key(|source| source.length())
    }

    /// The partition in which a sequence of this prefix is computed exactly at the least cost, of those
    /// that `is_free`: where most of it is, unless a copy has much more, and else where least lies.
    pub(in crate::scheduler) fn exact_partition(
        &self,
        prefix: Prefix,
        is_free: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let free = || (0..self.partition_count()).filter(|partition| is_free(*partition));
        let emptiest = free().min_by_key(|partition| self.used_in(*partition))?;
        let known = |partition: &usize| {
            (
                self.exact_match(*partition, prefix),
                Reverse(self.used_in(*partition)),
            )
        };
        let best = free().max_by_key(known)?;
        let shared = self.exact_match(best, prefix);
        let copied = self.exact_source(best, prefix).map(PrefixSource::length);
        let is_copied = shared == 0 || with_copy(copied, shared) > shared;
        Some(if is_copied { emptiest } else { best })
    }

    /// Lets `id` begin with what is known of a prefix exactly, in a partition that it has to itself: what
    /// is parked there is evicted. Returns how many tokens it starts with.
    pub(in crate::scheduler) fn share_exactly(
        &mut self,
        id: SeqId,
        prefix: Prefix,
        now: Instant,
    ) -> usize {
        let partition = self.partition_of(id);
        let prefix = if self.shape().shares_prefixes {
            prefix
        } else {
            prefix.first(0)
        };
        let shared = self.exact_match(partition, prefix);
        let source = self.exact_source(partition, prefix);
        let is_worth_it = |source: &PrefixSource| with_copy(Some(source.length()), shared) > shared;
        let copied = source.filter(is_worth_it).and_then(|source| {
            self.clear(partition);
            let length = source.length();
            match source {
                PrefixSource::Partition(from, _) => {
                    self.copy_from_partition(from, id, prefix.first(length))
                }
                // Of a longer entry what is not exact is left out below.
                PrefixSource::Offloaded(_) => {
                    self.restore(id, prefix, |found| found.exact >= length)
                }
            }
        });
        if copied.is_none() {
            self.share_cells(id, prefix.first(shared), now);
            self.clear(partition);
        }
        self.keep_exact_cells(id);
        debug_assert_eq!(self.used_in(partition), self.tree(id).length(id));
        self.tree(id).length(id)
    }

    /// Lets `id` have no cells but exact ones. It may have others where a twin with the same tokens
    /// was found, or a copy that goes on beyond them.
    fn keep_exact_cells(&mut self, id: SeqId) {
        let tokens = self.tree(id).tokens_of(id);
        let kept = self.whole_blocks(self.exact[id.0 as usize].min(tokens.len()));
        if kept == tokens.len() {
            return;
        }
        self.partition_mut(id).tree.release(id);
        self.engine
            .truncate(id, u32::try_from(kept).unwrap_or(u32::MAX));
        self.computed(id, &tokens[..kept]);
        self.set_exact(id, kept);
    }

    /// Evicts everything parked in a partition.
    fn clear(&mut self, partition: usize) {
        while self.evict_from(partition) {}
    }
}
