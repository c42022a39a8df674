use std::time::Duration;

use super::*;
use crate::admission::Tenant;
use crate::engine::{ThreadLayout, Token};
use crate::scheduler::fair_share::Capacity;
use crate::scheduler::prefix::PrefixScope;

/// Says what a cache would, without one.
#[derive(Debug, Default)]
struct KnownPrefixes {
    /// By partition, how much of anything could be shared there.
    shared: Vec<usize>,
    copied: Option<usize>,
}

impl PrefixLookup for KnownPrefixes {
    fn shared(&self, partition: usize, prefix: Prefix) -> usize {
        let shared = self.shared.get(partition).copied();
        shared.unwrap_or(0).min(prefix.tokens.len())
    }

    fn copied(&self, _prefix: Prefix) -> Option<usize> {
        self.copied
    }

    fn exact_partition(&self, _prefix: Prefix, is_free: &dyn Fn(usize) -> bool) -> Option<usize> {
        (0..self.shared.len()).find(|partition| is_free(*partition))
    }
}

fn tenant(id: u32) -> Tenant {
    Tenant {
        id: TenantId(id),
        ..Tenant::default()
    }
}

const TOKENS: [Token; 400] = [Token(7); 400];

fn prefix(length: usize) -> Prefix<'static> {
    Prefix {
        scope: PrefixScope::default(),
        tokens: &TOKENS[..length.min(TOKENS.len())],
    }
}

/// A batch in partitions of one cache of 1,000 cells.
struct Batch {
    now: Instant,
    running: Vec<RunningSummary>,
    most_running: usize,
    exact: ExactPolicy,
    placement: PlacementCosts,
    prefixes: KnownPrefixes,
    fair: FairShare,
}

impl Batch {
    fn new(partitions: usize) -> Self {
        Self {
            now: Instant::now(),
            running: Vec::new(),
            most_running: 4,
            exact: ExactPolicy::Never,
            placement: PlacementCosts::new(None, ThreadLayout::ONE),
            prefixes: KnownPrefixes {
                shared: vec![0; partitions],
                copied: None,
            },
            fair: FairShare::default(),
        }
    }

    fn runs(self, class: ServiceTier, partition: usize) -> Self {
        self.runs_for(0, class, partition)
    }

    fn runs_for(mut self, id: u32, tier: ServiceTier, partition: usize) -> Self {
        let holding = Holding {
            tenant: tenant(id),
            cells: 100,
            ahead: 0,
        };
        self.running.push(RunningSummary {
            tier,
            partition,
            holding,
        });
        self
    }

    /// Counts what the tenants have, where these wait as well.
    fn with_tenants(mut self, waiting: &[u32]) -> Self {
        let running = self.running.iter().map(|running| running.holding);
        let holdings: Vec<Holding> = running.collect();
        let tenants = holdings.iter().map(|holding| holding.tenant);
        let tenants = tenants.chain(waiting.iter().map(|id| tenant(*id)));
        let capacity = Capacity {
            rows: self.most_running,
            cells: 1000,
        };
        self.fair.observe(tenants, capacity, self.now);
        self.fair.recount(&holdings);
        self
    }

    /// Each running sequence has 100 cells.
    fn loads(&self) -> Vec<PartitionLoad> {
        let load = |partition| {
            let is_here = |running: &&RunningSummary| running.partition == partition;
            let running = self.running.iter().filter(is_here).count();
            PartitionLoad {
                owner: PartitionOwner::Base,
                running,
                committed: 100 * running,
                parked: 0,
            }
        };
        (0..self.prefixes.shared.len()).map(load).collect()
    }

    fn snapshot(&self) -> BatchSnapshot<'_> {
        BatchSnapshot {
            now: self.now,
            running: self.running.clone(),
            most_running: self.most_running,
            cells: 1000,
            exact: self.exact,
            placement: &self.placement,
            fair: &self.fair,
            one_row_seconds: Some(0.01),
            prefixes: &self.prefixes,
        }
    }

    fn waiting(&self, class: ServiceTier, length: usize) -> AdmissionCandidate<'static> {
        AdmissionCandidate {
            class,
            aged_tier: class,
            tenant: TenantId(0),
            queued: self.now,
            has_answer: false,
            repeats: true,
            length,
            sharable: prefix(length),
            sharable_exactly: prefix(length),
        }
    }

    /// The first request that joins.
    fn first(&self, waiting: &[AdmissionCandidate<'static>]) -> Option<Admission> {
        self.round(waiting)
            .next(&self.snapshot(), |index| waiting.get(index).copied())
    }

    fn round(&self, waiting: &[AdmissionCandidate]) -> AdmissionRound {
        AdmissionRound::new((0..waiting.len()).collect(), self.loads())
    }
}

#[test]
fn one_that_does_not_fit_lets_others_go_before_it_but_not_for_long() {
    let mut batch = Batch::new(1).runs(ServiceTier::Default, 0);
    let waiting = [
        batch.waiting(ServiceTier::Default, 2000),
        batch.waiting(ServiceTier::Default, 50),
    ];
    let admitted = batch.first(&waiting).expect("the small one fits");
    assert_eq!((admitted.index, admitted.novel), (1, 50));
    batch.now += plan::LONGEST_OVERTAKING + Duration::from_millis(1);
    assert_eq!(batch.first(&waiting), None);
}

#[test]
fn only_so_many_that_do_not_fit_are_looked_at() {
    let batch = Batch::new(1).runs(ServiceTier::Default, 0);
    let mut waiting = vec![batch.waiting(ServiceTier::Default, 2000); MOST_MISFITS - 1];
    waiting.push(batch.waiting(ServiceTier::Default, 50));
    let admitted = batch.first(&waiting).expect("it is just looked at");
    assert_eq!(admitted.index, MOST_MISFITS - 1);
    waiting.insert(0, batch.waiting(ServiceTier::Default, 2000));
    assert_eq!(batch.first(&waiting), None);
}

#[test]
fn a_full_batch_is_joined_by_a_higher_class_for_which_the_latest_of_the_lowest_is_preempted() {
    let batch = Batch {
        most_running: 3,
        ..Batch::new(1)
            .runs(ServiceTier::Flex, 0)
            .runs(ServiceTier::Flex, 0)
            .runs(ServiceTier::Default, 0)
    };
    let usual = batch.waiting(ServiceTier::Default, 50);
    let admitted = batch.first(&[batch.waiting(ServiceTier::Flex, 50), usual]);
    let admitted = admitted.expect("a higher class");
    assert_eq!((admitted.index, admitted.victims), (1, vec![1]));
    assert_eq!(batch.first(&[batch.waiting(ServiceTier::Flex, 50)]), None);
}

#[test]
fn a_request_goes_where_its_prefix_is() {
    let mut batch = Batch::new(2).runs(ServiceTier::Default, 0);
    batch.placement = PlacementCosts::new(Some(2000), ThreadLayout::ONE);
    batch.prefixes.shared = vec![0, 290];
    let admitted = batch.first(&[batch.waiting(ServiceTier::Default, 300)]);
    let admitted = admitted.expect("there is room");
    assert_eq!((admitted.partition, admitted.novel), (1, 10));
    batch.prefixes.shared = vec![0, 0];
    batch.prefixes.copied = Some(290);
    let admitted = batch.first(&[batch.waiting(ServiceTier::Default, 300)]);
    let admitted = admitted.expect("there is room");
    assert_eq!((admitted.partition, admitted.novel), (1, 300), "of a copy");
}

#[test]
fn what_was_admitted_counts_for_those_behind_it() {
    let mut batch = Batch::new(1).runs(ServiceTier::Default, 0);
    let waiting = [batch.waiting(ServiceTier::Default, 400); 3];
    let mut round = batch.round(&waiting);
    let mut admitted = 0;
    while let Some(admission) = round.next(&batch.snapshot(), |index| waiting.get(index).copied()) {
        round.carried_out(&admission);
        batch = batch.runs(ServiceTier::Default, admission.partition);
        admitted += 1;
    }
    assert_eq!(admitted, 2, "100 + 400 + 400 of 1,000 cells");
}

#[test]
fn one_that_makes_all_slower_waits_and_those_behind_it_that_do_not_overtake_it() {
    let mut batch = Batch::new(1).runs(ServiceTier::Default, 0);
    batch.placement = PlacementCosts::new(Some(100), ThreadLayout::ONE);
    batch.prefixes.shared = vec![299];
    let long = AdmissionCandidate {
        sharable: prefix(0),
        ..batch.waiting(ServiceTier::Default, 300)
    };
    let kiosk = batch.waiting(ServiceTier::Default, 300);
    let admitted = batch.first(&[long, kiosk]).expect("a row costs little");
    assert_eq!((admitted.index, admitted.overtakes), (1, true));
    let preempted = AdmissionCandidate {
        has_answer: true,
        ..long
    };
    let admitted = batch.first(&[preempted]).expect("a reader waits");
    assert!(!admitted.overtakes);
}

#[test]
fn an_exact_request_has_a_partition_to_itself() {
    let mut batch = Batch::new(2);
    batch.exact = ExactPolicy::WhenAlone;
    let waiting = [batch.waiting(ServiceTier::Default, 50)];
    assert!(batch.first(&waiting).is_some_and(|first| first.is_exact));
    let mut batch = batch.runs(ServiceTier::Default, 0);
    assert!(batch.first(&waiting).is_some_and(|first| !first.is_exact));
    batch.exact = ExactPolicy::Always;
    let admitted = batch.first(&waiting).expect("one is free");
    assert_eq!((admitted.partition, admitted.is_exact), (1, true));
    let full = batch.runs(ServiceTier::Flex, 1);
    assert_eq!(full.first(&waiting), None, "both are taken");
    let full = Batch {
        most_running: 2,
        ..full
    };
    let admitted = full.first(&waiting).expect("that of the flex request");
    assert_eq!((admitted.partition, admitted.victims), (1, vec![1]));
}

/// A request of the tenant that has asked for nothing so far.
fn asks(batch: &Batch, id: u32, class: ServiceTier, length: usize) -> AdmissionCandidate<'static> {
    AdmissionCandidate {
        tenant: TenantId(id),
        ..batch.waiting(class, length)
    }
}

#[test]
fn a_tenant_that_has_the_whole_batch_loses_a_row_to_another_and_flex_first() {
    use ServiceTier::{Default, Flex, Priority};
    let flooded = |tiers: [ServiceTier; 4]| {
        let batch = Batch::new(1);
        let runs = |batch: Batch, tier| batch.runs_for(1, tier, 0);
        tiers.into_iter().fold(batch, runs).with_tenants(&[2])
    };
    let victims = |batch: &Batch, class| {
        let admitted = batch.first(&[asks(batch, 2, class, 50)]);
        admitted.map(|admission| admission.victims)
    };
    let batch = flooded([Default; 4]);
    assert_eq!(victims(&batch, Default), Some(vec![3]), "the latest");
    assert_eq!(victims(&batch, Flex), None, "only of the same class");
    let batch = flooded([Default, Flex, Default, Default]);
    assert_eq!(victims(&batch, Default), Some(vec![1]));
    let batch = flooded([Priority; 4]);
    assert_eq!(victims(&batch, Default), None);
    let aged = AdmissionCandidate {
        aged_tier: Priority,
        ..asks(&batch, 2, Default, 50)
    };
    let admitted = batch.first(&[aged]).expect("it has waited for long");
    assert_eq!((admitted.victims, admitted.tier), (vec![3], Priority));
}

#[test]
fn who_lost_a_row_cannot_take_it_back() {
    use ServiceTier::Default;
    let batch = Batch::new(1)
        .runs_for(1, Default, 0)
        .runs_for(1, Default, 0)
        .runs_for(2, Default, 0)
        .runs_for(2, Default, 0)
        .with_tenants(&[1, 2]);
    for id in [1, 2] {
        assert_eq!(batch.first(&[asks(&batch, id, Default, 50)]), None);
    }
    let uneven = Batch::new(1)
        .runs_for(1, Default, 0)
        .runs_for(1, Default, 0)
        .runs_for(1, Default, 0)
        .runs_for(2, Default, 0)
        .with_tenants(&[2]);
    let admitted = uneven.first(&[asks(&uneven, 2, Default, 50)]);
    assert_eq!(admitted.map(|admission| admission.victims), Some(vec![2]));
}

#[test]
fn as_many_are_preempted_as_make_room_for_its_cells_and_none_in_vain() {
    use ServiceTier::Default;
    let flooded = || {
        let runs = |batch: Batch, _| batch.runs_for(1, Default, 0);
        let batch = Batch {
            most_running: 16,
            ..Batch::new(1)
        };
        (0..9).fold(batch, runs).with_tenants(&[2])
    };
    let batch = flooded();
    let victims = |length| {
        let admitted = batch.first(&[asks(&batch, 2, Default, length)]);
        admitted.map(|admission| admission.victims)
    };
    assert_eq!(victims(150), Some(vec![8, 7]));
    assert_eq!(
        victims(950),
        None,
        "not even all that it has too much would do"
    );
}

#[test]
fn a_tenant_of_which_nothing_runs_is_not_held_back_for_the_sake_of_others() {
    use ServiceTier::Default;
    let mut batch = Batch::new(1).runs_for(1, Default, 0).with_tenants(&[1, 2]);
    batch.placement = PlacementCosts::new(Some(100), ThreadLayout::ONE);
    assert_eq!(batch.first(&[asks(&batch, 1, Default, 300)]), None);
    let admitted = batch.first(&[asks(&batch, 1, Default, 300), asks(&batch, 2, Default, 300)]);
    assert_eq!(admitted.map(|admission| admission.index), Some(1));
}
