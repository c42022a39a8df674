//! Who joins those under way, and who gives way for it.

use std::time::Instant;

use crate::engine::{Engine, Token};

use super::Scheduler;
use super::cache::with_copy;
use super::placement::PlacementOption;
use super::plan;
use super::prefix::common_length;
use super::sequence::{RunningSequence, Sequence};

/// What is in a partition of the cache.
#[derive(Debug, Clone, Copy)]
struct PartitionLoad {
    running: usize,
    /// Cells that running requests have or still need for what is known of them.
    committed: usize,
    /// Cells that nobody under way holds.
    parked: usize,
}

/// Waiting requests that are looked at in a step though they do not fit, or had better wait.
const MOST_MISFITS: usize = 8;

impl<E: Engine> Scheduler<E> {
    /// Lets waiting requests join those under way.
    pub(super) fn take_up(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let order = plan::order(self.waiting.iter().map(Sequence::rank));
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(Some)
            .collect();
        let cells = self.cache.shape().cells;
        let mut loads = self.loads();
        let (mut misfits, mut held_back) = (0, vec![0; loads.len()]);
        for &index in &order {
            let is_full = self.running.len() >= self.governed.running(self.limits.max_running);
            let may_start = |next: &mut Sequence| {
                self.governed.serves(next.class()) && (!is_full || self.outranks(next))
            };
            let Some(next) = waiting[index].take_if(may_start) else {
                continue;
            };
            let is_looked_at = held_back.iter().any(|crowded| *crowded < MOST_MISFITS);
            if !is_looked_at && !self.joins_regardless(&next) {
                waiting[index] = Some(next);
                continue;
            }
            let is_exact = self.is_exact(&next);
            let committed: usize = loads.iter().map(|load| load.committed).sum();
            let fits = |novel| plan::fits(novel, committed, self.running.len(), cells);
            let option = if is_exact {
                // It may have the partition of the one that makes way.
                let given_up = is_full.then(|| self.partition_of_victim()).flatten();
                self.exact_place(&next, &loads, given_up, fits)
            } else {
                self.option(&next, &loads, fits)
            };
            let Some(option) = option.filter(|option| option.fits) else {
                misfits += 1;
                let waited = now.saturating_duration_since(next.queued());
                waiting[index] = Some(next);
                if waited > plan::LONGEST_OVERTAKING || misfits == MOST_MISFITS {
                    break;
                }
                continue;
            };
            let partition = option.partition;
            if !is_exact && self.keeps_out(&next, option, held_back[partition] > 0, now) {
                held_back[partition] += 1;
                waiting[index] = Some(next);
                continue;
            }
            if is_full {
                self.preempt_for_another(now);
                loads = self.loads();
            }
            let Some(id) = self.cache.acquire(partition, next.tokens(), now) else {
                waiting[index] = Some(next);
                break;
            };
            loads[partition].running += 1;
            loads[partition].committed += option.novel;
            if held_back[partition] == 0 {
                self.placement.joined(now);
            }
            let mut sequence = next;
            for running in &mut self.running {
                // From now on it has to share its partition.
                if self.cache.partition_of(running.id) == partition {
                    running.sequence.set_exact(false);
                }
            }
            sequence.set_exact(is_exact);
            sequence.take_up(now, &self.metrics);
            self.running.push(RunningSequence::new(id, sequence));
        }
        let left = order.iter().filter_map(|&index| waiting[index].as_ref());
        for (ahead, sequence) in left.enumerate() {
            sequence.waits(ahead);
        }
        // Those that made way are there already.
        self.waiting.extend(waiting.into_iter().flatten());
    }

    /// Whether it is computed so that it comes out the same each time: where that is asked for, or
    /// costs nobody anything, because it is alone.
    fn is_exact(&self, next: &Sequence) -> bool {
        let is_alone = self.running.is_empty() && next.generated() == 0;
        self.cache.shape().exact_block.is_some()
            && (self.limits.deterministic || is_alone && next.repeats())
    }

    /// Where such a one is served: in a partition that nobody uses, if there is one, or that is given up.
    fn exact_place(
        &self,
        next: &Sequence,
        loads: &[PartitionLoad],
        given_up: Option<usize>,
        fits: impl Fn(usize) -> bool,
    ) -> Option<PlacementOption> {
        let is_free =
            |partition: usize| loads[partition].running == usize::from(given_up == Some(partition));
        let partition = self
            .cache
            .exact_partition(next.sharable_exactly(), is_free)?;
        Some(PlacementOption {
            partition,
            running: 0,
            used: 0,
            novel: next.len(),
            unread: next.len(),
            fits: fits(next.len()),
        })
    }

    /// Whether it joins however many there are: it is of a higher class than one of them, or a
    /// reader is in the middle of its answer.
    fn joins_regardless(&self, next: &Sequence) -> bool {
        next.generated() > 0 || self.outranks(next)
    }

    /// Where it had best be served, of the partitions where it `fits` if there is one.
    fn option(
        &self,
        next: &Sequence,
        loads: &[PartitionLoad],
        fits: impl Fn(usize) -> bool,
    ) -> Option<PlacementOption> {
        let tokens = next.sharable();
        // Where there is no choice only its cells matter.
        let has_choice = loads.len() > 1;
        let copy = has_choice.then(|| self.cache.copy_of(tokens)).flatten();
        let option = |(partition, load): (usize, &PartitionLoad)| {
            let shared = self.shareable(partition, tokens, self.running.len());
            let known = with_copy(copy, shared);
            // Of a copy all cells are its own.
            let novel = next.len() - if known > shared { 0 } else { shared };
            PlacementOption {
                partition,
                running: load.running,
                used: load.committed + load.parked,
                novel,
                unread: next.len() - known,
                fits: fits(novel),
            }
        };
        let places: Vec<PlacementOption> = loads.iter().enumerate().map(option).collect();
        self.placement.choose(&places, !self.joins_regardless(next))
    }

    /// What is in each partition.
    fn loads(&self) -> Vec<PartitionLoad> {
        let load = |partition| {
            let (all, live) = (self.cache.used_in(partition), self.cache.live_in(partition));
            PartitionLoad {
                running: 0,
                committed: live,
                parked: all - live,
            }
        };
        let mut loads: Vec<PartitionLoad> = (0..self.cache.partition_count()).map(load).collect();
        for (index, running) in self.running.iter().enumerate() {
            let (partition, sequence) = (self.cache.partition_of(running.id), &running.sequence);
            loads[partition].running += 1;
            loads[partition].committed += if running.has_started {
                sequence.missing()
            } else {
                sequence.len() - self.shareable(partition, sequence.sharable(), index)
            };
        }
        loads
    }

    /// Whether it is better for all that it waits. Others may go before it then, and only the
    /// first that waits so loses its patience.
    fn keeps_out(
        &self,
        next: &Sequence,
        option: PlacementOption,
        others: bool,
        now: Instant,
    ) -> bool {
        if !self.placement.is_full(option) || self.joins_regardless(next) {
            return false;
        }
        let (queued, first_row) = (next.queued(), self.step_latency.outputs(1));
        others
            || self
                .placement
                .is_worth_waiting(option, queued, first_row, now)
    }

    /// Whether some running request is of a lower class.
    fn outranks(&self, next: &Sequence) -> bool {
        let lower = |running: &RunningSequence| running.sequence.class() < next.class();
        self.running.iter().any(lower)
    }

    /// The partition of the request that would make way.
    fn partition_of_victim(&self) -> Option<usize> {
        let classes = self.running.iter().map(|running| running.sequence.class());
        let victim = plan::victim(classes)?;
        Some(self.cache.partition_of(self.running[victim].id))
    }

    /// Puts a request of the lowest class back into the queue; its cells stay as long as there is
    /// room, so that going on costs little.
    fn preempt_for_another(&mut self, now: Instant) {
        let classes = self.running.iter().map(|running| running.sequence.class());
        if let Some(victim) = plan::victim(classes) {
            let victim = self.running.remove(victim);
            self.cache.park(victim.id, now);
            self.requeue(victim.sequence, now);
        }
    }

    /// How much of a prefix is in a partition, or will be when the first `older` running
    /// sequences have computed what they are to.
    fn shareable(&self, partition: usize, tokens: &[Token], older: usize) -> usize {
        let now = self.cache.match_length(partition, tokens);
        self.running[..older]
            .iter()
            .map(|running| self.common(partition, tokens, running))
            .fold(now, usize::max)
    }

    /// How much of `tokens` a running sequence has or will have in a partition; the last one is always
    /// computed.
    pub(super) fn common(
        &self,
        partition: usize,
        tokens: &[Token],
        running: &RunningSequence,
    ) -> usize {
        if !self.cache.shape().shares_prefixes || self.cache.partition_of(running.id) != partition {
            return 0;
        }
        let Some((_, all_but_last)) = tokens.split_last() else {
            return 0;
        };
        common_length(all_but_last, running.sequence.tokens())
    }
}
