//! Which waiting request joins the batch next, in which partition of the KV cache, and who is
//! preempted for it.
//!
//! All of this decides and nothing acts. [`AdmissionRound`] goes through the waiting requests of
//! one step in their order, looks at a [`BatchSnapshot`] and returns one [`Admission`] at a time.
//! The scheduler carries it out and asks again with a new snapshot, because each admission changes
//! what the next one finds in the cache.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::admission::{ServiceTier, TenantId};
use crate::engine::AdapterId;

use super::cache::{PartitionOwner, with_copy};
use super::fair_share::{FairShare, Holding};
use super::placement::{PlacementCosts, PlacementOption};
use super::plan;
use super::prefix::Prefix;
use super::prefix_lookup::PrefixLookup;
use super::sequence::Sequence;

/// How many waiting requests a step looks at though they do not fit, and in each partition though
/// they had better wait.
const MOST_MISFITS: usize = 8;

/// What a partition of the cache holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartitionLoad {
    /// Whose requests it serves.
    pub(super) owner: PartitionOwner,
    /// Sequences that run there.
    pub(super) running: usize,
    /// Cells that running sequences have, or will need for the tokens that they have so far.
    pub(super) committed: usize,
    /// Cells that only parked sequences hold.
    pub(super) parked: usize,
}

/// Which requests are computed exactly: so that they come out the same, bit by bit, each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExactPolicy {
    /// The engine cannot do that.
    Never,
    /// Those that expect it of an engine that computes nothing else, where it costs nobody anything.
    WhenAlone,
    /// All of them, as the setting demands.
    Always,
}

/// A running request, as far as admission looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunningSummary {
    /// As which it joined.
    pub(super) tier: ServiceTier,
    pub(super) partition: usize,
    pub(super) holding: Holding,
}

/// What admission knows of the batch and of the cache at one moment.
pub(super) struct BatchSnapshot<'a> {
    pub(super) now: Instant,
    /// In the order in which they joined.
    pub(super) running: Vec<RunningSummary>,
    /// How many may run together.
    pub(super) most_running: usize,
    /// Cells of the whole cache.
    pub(super) cells: usize,
    pub(super) exact: ExactPolicy,
    pub(super) placement: &'a PlacementCosts,
    pub(super) fair: &'a FairShare,
    /// Seconds of a step with a single row, once they are known.
    pub(super) one_row_seconds: Option<f64>,
    pub(super) prefixes: &'a dyn PrefixLookup,
}

impl BatchSnapshot<'_> {
    fn is_full(&self) -> bool {
        self.running.len() >= self.most_running
    }

    /// Whether some running request is of a lower class.
    fn is_outranked_by(&self, candidate: &AdmissionCandidate) -> bool {
        let is_lower = |running: &RunningSummary| running.tier < candidate.class;
        self.running.iter().any(is_lower)
    }

    /// The place of the running request that is preempted for one of a higher class.
    fn class_victim(&self) -> Option<usize> {
        let excess = |running: &RunningSummary| self.fair.excess(running.holding.tenant.id);
        let running = self.running.iter();
        plan::victim(running.map(|running| (running.tier, excess(running))))
    }

    /// The place of the running request, beside those `taken` already, that is preempted because its
    /// tenant has more than its part and that of the candidate less; `fair` knows what they hold.
    fn fair_victim(
        &self,
        candidate: &AdmissionCandidate,
        taken: &[usize],
        fair: &FairShare,
    ) -> Option<usize> {
        let may_be_taken = |(place, running): &(usize, &RunningSummary)| {
            running.tier <= candidate.aged_tier
                && fair.may_take(running.holding.tenant.id, candidate.tenant)
                && !taken.contains(place)
        };
        let places: Vec<(usize, &RunningSummary)> = (self.running.iter().enumerate())
            .filter(may_be_taken)
            .collect();
        let excess = |running: &RunningSummary| fair.excess(running.holding.tenant.id);
        let victim =
            plan::victim((places.iter()).map(|(_, running)| (running.tier, excess(running))))?;
        Some(places[victim].0)
    }

    /// Whether it joins even where its joining makes all take longer: it is of a higher class than
    /// one that runs, a reader is in the middle of its answer, or only others than its tenant run.
    fn must_not_hold_back(&self, candidate: &AdmissionCandidate) -> bool {
        candidate.has_answer
            || self.is_outranked_by(candidate)
            || self.fair.is_left_out(candidate.tenant)
    }

    fn computes_exactly(&self, candidate: &AdmissionCandidate) -> bool {
        match self.exact {
            ExactPolicy::Never => false,
            ExactPolicy::WhenAlone => {
                self.running.is_empty() && !candidate.has_answer && candidate.repeats
            }
            ExactPolicy::Always => true,
        }
    }
}

/// A waiting request, as far as admission looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdmissionCandidate<'a> {
    pub(super) class: ServiceTier,
    /// As which it counts beside requests of other tenants.
    pub(super) aged_tier: ServiceTier,
    pub(super) tenant: TenantId,
    /// Since when it waits.
    pub(super) queued: Instant,
    /// Whether its answer has begun: it was preempted.
    pub(super) has_answer: bool,
    /// Whether its client expects the same answer each time.
    pub(super) repeats: bool,
    /// Its tokens so far.
    pub(super) length: usize,
    /// Those of its tokens whose cells may be another's.
    pub(super) sharable: Prefix<'a>,
    /// As `sharable`, where it is computed exactly.
    pub(super) sharable_exactly: Prefix<'a>,
}

impl<'a> AdmissionCandidate<'a> {
    /// The adapter with which it is computed.
    fn adapter(&self) -> Option<AdapterId> {
        self.sharable.scope.adapter
    }

    pub(super) fn new(sequence: &'a Sequence, aged_tier: ServiceTier) -> Self {
        Self {
            class: sequence.class(),
            aged_tier,
            tenant: sequence.tenant().id,
            queued: sequence.queued(),
            has_answer: sequence.generated() > 0,
            repeats: sequence.repeats(),
            length: sequence.len(),
            sharable: sequence.sharable(),
            sharable_exactly: sequence.sharable_exactly(),
        }
    }
}

/// A waiting request that is to join now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admission {
    /// Its place in the queue.
    pub(super) index: usize,
    /// As which it joins.
    pub(super) tier: ServiceTier,
    /// Where it is computed.
    pub(super) partition: usize,
    /// Cells that it needs there of its own.
    pub(super) novel: usize,
    /// Whether it is computed exactly, in a partition that it has to itself.
    pub(super) is_exact: bool,
    /// The places of the running requests that are preempted for it.
    pub(super) victims: Vec<usize>,
    /// Whether one that was held back in the same partition came before it.
    pub(super) overtakes: bool,
}

/// What is decided about one waiting request.
enum AdmissionDecision {
    Admit(Admission),
    /// It waits; those after it are considered.
    Wait,
    /// It waits, and so do all after it.
    EndRound,
}

/// Goes through the waiting requests of one step.
#[derive(Debug)]
pub(super) struct AdmissionRound {
    /// Places in the queue that are still to be looked at, in their order.
    order: std::vec::IntoIter<usize>,
    /// By partition.
    loads: Vec<PartitionLoad>,
    /// Requests that did not fit.
    misfits: usize,
    /// By partition, requests that fit and had better wait all the same.
    held_back: Vec<usize>,
}

impl AdmissionRound {
    /// Begins a round through the queue in this `order`.
    pub(super) fn new(order: Vec<usize>, loads: Vec<PartitionLoad>) -> Self {
        Self {
            order: order.into_iter(),
            held_back: vec![0; loads.len()],
            loads,
            misfits: 0,
        }
    }

    /// The next request that is to join; `None` at the end of the round. `candidate` tells what
    /// waits at a place in the queue.
    pub(super) fn next<'c>(
        &mut self,
        snapshot: &BatchSnapshot,
        candidate: impl Fn(usize) -> Option<AdmissionCandidate<'c>>,
    ) -> Option<Admission> {
        while let Some(index) = self.order.next() {
            let Some(candidate) = candidate(index) else {
                continue;
            };
            match self.judge(index, &candidate, snapshot) {
                AdmissionDecision::Admit(admission) => return Some(admission),
                AdmissionDecision::Wait => {}
                AdmissionDecision::EndRound => return None,
            }
        }
        None
    }

    /// An admission was carried out.
    pub(super) fn carried_out(&mut self, admission: &Admission) {
        let load = &mut self.loads[admission.partition];
        load.running += 1;
        load.committed += admission.novel;
    }

    /// Running requests were preempted, after which the partitions hold this.
    pub(super) fn preempted(&mut self, loads: Vec<PartitionLoad>) {
        self.loads = loads;
    }

    /// Goes on in this order with those that are still to be looked at.
    pub(super) fn reorder(&mut self, order: Vec<usize>) {
        let left: BTreeSet<usize> = self.order.by_ref().collect();
        let order: Vec<usize> = (order.into_iter())
            .filter(|index| left.contains(index))
            .collect();
        self.order = order.into_iter();
    }

    fn judge(
        &mut self,
        index: usize,
        candidate: &AdmissionCandidate,
        snapshot: &BatchSnapshot,
    ) -> AdmissionDecision {
        let is_full = snapshot.is_full();
        let outranks = snapshot.is_outranked_by(candidate);
        let class_victim = if is_full && outranks {
            snapshot.class_victim()
        } else {
            None
        };
        let fair_victim = || snapshot.fair_victim(candidate, &[], snapshot.fair);
        let first_victim = if is_full {
            class_victim.or_else(fair_victim)
        } else {
            None
        };
        if is_full && first_victim.is_none() {
            return AdmissionDecision::Wait;
        }
        let may_wait = !snapshot.must_not_hold_back(candidate);
        if may_wait && self.holds_back_enough(candidate) {
            return AdmissionDecision::Wait;
        }
        let is_exact = snapshot.computes_exactly(candidate);
        let option = if is_exact {
            let freed = first_victim.map(|victim| snapshot.running[victim].partition);
            self.exact_option(candidate, freed, snapshot)
        } else {
            self.best_option(candidate, may_wait, snapshot)
        };
        // No partition of its own is free, which is no reason for those who need others to wait.
        let Some(option) = option else {
            return AdmissionDecision::Wait;
        };
        let victims: Vec<usize> = class_victim.into_iter().collect();
        let has_row = !is_full || !victims.is_empty();
        let victims = if has_row && option.fits {
            victims
        } else if let Some(victims) = self.fair_victims(candidate, option.novel, victims, snapshot)
        {
            victims
        } else if has_row {
            return self.misfit(candidate, snapshot.now);
        } else {
            return AdmissionDecision::Wait;
        };
        let overtakes = self.held_back[option.partition] > 0;
        let may_wait = may_wait && victims.is_empty();
        if !is_exact && may_wait && had_better_wait(candidate, option, overtakes, snapshot) {
            self.held_back[option.partition] += 1;
            return AdmissionDecision::Wait;
        }
        AdmissionDecision::Admit(Admission {
            index,
            tier: candidate.aged_tier,
            partition: option.partition,
            novel: option.novel,
            is_exact,
            victims,
            overtakes,
        })
    }

    /// Adds to the `victims` as many running requests of tenants that have more than their part as
    /// it takes for one that needs `novel` cells to join. `None` where these are not enough: then
    /// none is preempted in vain.
    fn fair_victims(
        &self,
        candidate: &AdmissionCandidate,
        novel: usize,
        mut victims: Vec<usize>,
        snapshot: &BatchSnapshot,
    ) -> Option<Vec<usize>> {
        if !snapshot.fair.has_several() {
            return None;
        }
        let mut fair = snapshot.fair.clone();
        let holding = |victim: &usize| &snapshot.running[*victim].holding;
        for victim in &victims {
            fair.loses(holding(victim));
        }
        let committed: usize = self.loads.iter().map(|load| load.committed).sum();
        loop {
            let victim = snapshot.fair_victim(candidate, &victims, &fair)?;
            victims.push(victim);
            fair.loses(holding(&victim));
            let freed: usize = victims.iter().map(|victim| holding(victim).cells).sum();
            let running = snapshot.running.len() - victims.len();
            let committed = committed.saturating_sub(freed);
            if running < snapshot.most_running
                && plan::fits(novel, committed, running, snapshot.cells)
            {
                return Some(victims);
            }
        }
    }

    /// Whether a partition serves a request.
    fn serves(&self, partition: usize, candidate: &AdmissionCandidate) -> bool {
        self.loads[partition].owner.serves(candidate.adapter())
    }

    /// Whether so many are held back in each partition where a request could join that no more are
    /// looked at.
    fn holds_back_enough(&self, candidate: &AdmissionCandidate) -> bool {
        let mut counts = self.held_back.iter().enumerate();
        counts
            .all(|(partition, count)| *count >= MOST_MISFITS || !self.serves(partition, candidate))
    }

    /// It does not fit. Others may go before it, but neither for ever nor very many.
    fn misfit(&mut self, candidate: &AdmissionCandidate, now: Instant) -> AdmissionDecision {
        self.misfits += 1;
        let waited = now.saturating_duration_since(candidate.queued);
        if waited > plan::LONGEST_OVERTAKING || self.misfits == MOST_MISFITS {
            AdmissionDecision::EndRound
        } else {
            AdmissionDecision::Wait
        }
    }

    /// Whether a request fits that needs `novel` cells of its own.
    fn fits(&self, novel: usize, snapshot: &BatchSnapshot) -> bool {
        let committed = self.loads.iter().map(|load| load.committed).sum();
        plan::fits(novel, committed, snapshot.running.len(), snapshot.cells)
    }

    /// A partition where an exact sequence has no company: one where nobody runs, or nobody but the
    /// one that is preempted for it, in the partition `freed`.
    fn exact_option(
        &self,
        candidate: &AdmissionCandidate,
        freed: Option<usize>,
        snapshot: &BatchSnapshot,
    ) -> Option<PlacementOption> {
        let is_free = |partition: usize| {
            let running = self.loads[partition].running;
            self.serves(partition, candidate) && running == usize::from(freed == Some(partition))
        };
        let prefix = candidate.sharable_exactly;
        let partition = snapshot.prefixes.exact_partition(prefix, &is_free)?;
        Some(PlacementOption {
            partition,
            running: 0,
            used: 0,
            novel: candidate.length,
            unread: candidate.length,
            serves: true,
            fits: self.fits(candidate.length, snapshot),
        })
    }

    /// The partition where serving it costs least, of those where it fits if there is one.
    fn best_option(
        &self,
        candidate: &AdmissionCandidate,
        may_wait: bool,
        snapshot: &BatchSnapshot,
    ) -> Option<PlacementOption> {
        let prefix = candidate.sharable;
        let serving = (0..self.loads.len()).filter(|partition| self.serves(*partition, candidate));
        // Where there is no choice only its cells matter.
        let has_choice = serving.count() > 1;
        let copied = has_choice
            .then(|| snapshot.prefixes.copied(prefix))
            .flatten();
        let option = |(partition, load): (usize, &PartitionLoad)| {
            let serves = self.serves(partition, candidate);
            let shared = if serves {
                snapshot.prefixes.shared(partition, prefix)
            } else {
                0
            };
            let known = with_copy(copied, shared);
            // All cells of a copy are its own.
            let novel = candidate.length - if known > shared { 0 } else { shared };
            PlacementOption {
                partition,
                running: load.running,
                used: load.committed + load.parked,
                novel,
                unread: candidate.length - known,
                serves,
                fits: self.fits(novel, snapshot),
            }
        };
        let options: Vec<PlacementOption> = self.loads.iter().enumerate().map(option).collect();
        snapshot.placement.choose(&options, may_wait)
    }
}

/// Whether it is better for all that it waits. One that comes after another which is held back in
/// the same partition waits as well: only the first of them may lose its patience.
fn had_better_wait(
    candidate: &AdmissionCandidate,
    option: PlacementOption,
    overtakes: bool,
    snapshot: &BatchSnapshot,
) -> bool {
    let placement = snapshot.placement;
    placement.is_full(option)
        && (overtakes
            || placement.is_worth_waiting(
                option,
                candidate.queued,
                snapshot.one_row_seconds,
                snapshot.now,
            ))
}

#[cfg(test)]
mod tests;
