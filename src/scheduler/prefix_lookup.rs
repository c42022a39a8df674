//! What the cache and the sequences in it have of a prompt, now or soon.

use crate::engine::Engine;

use super::batch_admission::PartitionLoad;
use super::cache::Cache;
use super::prefix::{Prefix, common_length};
use super::running::RunningSequence;

/// Answers how much of a prompt need not be computed. Decisions ask this instead of the cache, so
/// that a test can say what is known. Only what was computed in the prefix's own scope counts.
pub(super) trait PrefixLookup {
    /// How many tokens of a prefix a newcomer could share in `partition` once every running
    /// sequence has computed its prompt.
    fn shared(&self, partition: usize, prefix: Prefix) -> usize;

    /// How many tokens of a prefix could be copied from another partition or from offloaded
    /// cells; `None` where there is nothing to copy, or no room for the copy.
    fn copied(&self, prefix: Prefix) -> Option<usize>;

    /// The partition, of those that `is_free`, in which a sequence of this prefix is computed
    /// exactly at the least cost.
    fn exact_partition(&self, prefix: Prefix, is_free: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// The cache together with the running sequences, whose prompts will be in it soon.
pub(super) struct CacheView<'a, E: Engine> {
    pub(super) cache: &'a Cache<E>,
    /// In the order in which they joined.
    pub(super) running: &'a [RunningSequence],
}

impl<E: Engine> CacheView<'_, E> {
    /// What each partition holds and is still going to hold.
    pub(super) fn loads(&self) -> Vec<PartitionLoad> {
        let load = |partition| {
            let all = self.cache.used_in(partition);
            let live = self.cache.live_in(partition);
            PartitionLoad {
                owner: self.cache.owner(partition),
                running: 0,
                committed: live,
                parked: all - live,
            }
        };
        let mut loads: Vec<_> = (0..self.cache.partition_count()).map(load).collect();
        for (index, running) in self.running.iter().enumerate() {
            let partition = self.cache.partition_of(running.id);
            let sequence = &running.sequence;
            loads[partition].running += 1;
            loads[partition].committed += if running.has_started {
                sequence.missing()
            } else {
                let older = &self.running[..index];
                sequence.len() - self.shared_with(older, partition, sequence.sharable())
            };
        }
        loads
    }

    /// How many tokens of a prefix are in `partition`, or will be when the sequences `older`
    /// have computed their prompts.
    fn shared_with(&self, older: &[RunningSequence], partition: usize, prefix: Prefix) -> usize {
        let now = self.cache.match_length(partition, prefix);
        older
            .iter()
            .map(|running| common_prefix(self.cache, partition, prefix, running))
            .fold(now, usize::max)
    }
}

impl<E: Engine> PrefixLookup for CacheView<'_, E> {
    fn shared(&self, partition: usize, prefix: Prefix) -> usize {
        self.shared_with(self.running, partition, prefix)
    }

    fn copied(&self, prefix: Prefix) -> Option<usize> {
        self.cache.copy_of(prefix)
    }

    fn exact_partition(&self, prefix: Prefix, is_free: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.cache.exact_partition(prefix, is_free)
    }
}

/// How many tokens of a prefix a running sequence of its scope has, or will have, in `partition`.
/// The last token does not count: it is always computed, because its logits are wanted.
pub(super) fn common_prefix<E: Engine>(
    cache: &Cache<E>,
    partition: usize,
    prefix: Prefix,
    running: &RunningSequence,
) -> usize {
    let may_share = cache.shape().shares_prefixes && cache.scope_of(running.id) == prefix.scope;
    if !may_share || cache.partition_of(running.id) != partition {
        return 0;
    }
    let Some((_, all_but_last)) = prefix.tokens.split_last() else {
        return 0;
    };
    common_length(all_but_last, running.sequence.tokens())
}
