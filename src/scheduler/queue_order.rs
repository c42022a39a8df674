//! Whose turn it is: the order of the waiting requests, as a pure function of their state.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::admission::{ServiceTier, TenantId};

use super::fair_share::FairShare;

/// How much earlier a request counts than one of the service tier below that arrived at the same time,
/// and how long a request of one tenant waits until it counts as one of the tier above. Because it is
/// bounded, no request waits for ever.
const TIER_HEAD_START: Duration = Duration::from_secs(10);

/// A waiting request, as far as its turn depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingRank {
    /// Its place in the queue.
    pub(super) index: usize,
    pub(super) tenant: TenantId,
    pub(super) tier: ServiceTier,
    /// Since when it counts as waiting.
    pub(super) since: Instant,
    /// Its tokens so far.
    pub(super) length: usize,
}

impl WaitingRank {
    /// The time from which it counts as waiting where all requests are of one tenant.
    fn with_head_start(&self) -> Instant {
        let later = match self.tier {
            ServiceTier::Priority => 0,
            ServiceTier::Default => 1,
            ServiceTier::Flex => 2,
        };
        self.since + TIER_HEAD_START * later
    }

    /// The tier as which it counts beside other tenants: one more for each ten seconds in which
    /// no request of this tenant and tier joined. So none waits for ever, and a tenant that
    /// sends many requests does not win by the age that these reach behind each other.
    pub(super) fn aged_tier(&self, fair: &FairShare, now: Instant) -> ServiceTier {
        if !fair.has_several() {
            return self.tier;
        }
        let joined = fair.last_joined(self.tenant, self.tier);
        let since = joined.map_or(self.since, |joined| joined.max(self.since));
        let age = now.saturating_duration_since(since);
        if self.tier == ServiceTier::Flex && age < TIER_HEAD_START {
            ServiceTier::Flex
        } else if age < TIER_HEAD_START * (ServiceTier::Priority as u32 - self.tier as u32) {
            ServiceTier::Default
        } else {
            ServiceTier::Priority
        }
    }
}

/// Returns the order of the waiting requests. Those of one tenant go by arrival, with a head start
/// by tier. Those of several go by aged tier, then whose tenant was served least, then by arrival;
/// each counts as served for those behind it.
pub(super) fn order(
    waiting: impl Iterator<Item = WaitingRank>,
    fair: &FairShare,
    now: Instant,
) -> Vec<usize> {
    let mut waiting: Vec<WaitingRank> = waiting.collect();
    if !fair.has_several() {
        waiting.sort_by_key(WaitingRank::with_head_start);
        return waiting.iter().map(|rank| rank.index).collect();
    }
    let mut queues: BTreeMap<TenantId, TenantQueue> = BTreeMap::new();
    let mut aged: Vec<_> = (waiting.iter())
        .map(|rank| (rank.aged_tier(fair, now), rank))
        .collect();
    aged.sort_by_key(|(tier, rank)| (Reverse(*tier), rank.since));
    for (tier, rank) in aged {
        let queue = queues.entry(rank.tenant).or_insert_with(|| TenantQueue {
            counter: fair.counter(rank.tenant),
            waiting: VecDeque::new(),
        });
        queue.waiting.push_back((tier, rank));
    }
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(rank) = take_next(&mut queues, fair) {
        order.push(rank.index);
    }
    order
}

/// The waiting requests of one tenant, in their order.
struct TenantQueue<'a> {
    /// What the tenant will have had when the first of them joins.
    counter: f64,
    waiting: VecDeque<(ServiceTier, &'a WaitingRank)>,
}

/// Takes the request out of its queue that goes before all others.
fn take_next<'a>(
    queues: &mut BTreeMap<TenantId, TenantQueue<'a>>,
    fair: &FairShare,
) -> Option<&'a WaitingRank> {
    let heads = queues.values_mut().filter_map(|queue| {
        let (tier, rank) = *queue.waiting.front()?;
        Some((tier, rank, queue))
    });
    let (_, rank, queue) =
        heads.min_by(|(tier, rank, queue), (other_tier, other, other_queue)| {
            (other_tier.cmp(tier))
                .then_with(|| queue.counter.total_cmp(&other_queue.counter))
                .then_with(|| rank.since.cmp(&other.since))
        })?;
    queue.waiting.pop_front();
    queue.counter += fair.price(rank.tenant, rank.length);
    Some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Tenant;
    use crate::scheduler::fair_share::Capacity;

    fn waits(tenant: u32, tier: ServiceTier, since: Instant, length: usize) -> WaitingRank {
        WaitingRank {
            index: 0,
            tenant: TenantId(tenant),
            tier,
            since,
            length,
        }
    }

    fn ordered(waiting: &[WaitingRank], fair: &FairShare, now: Instant) -> Vec<usize> {
        let numbered = |(index, rank): (usize, &WaitingRank)| WaitingRank { index, ..*rank };
        order(waiting.iter().enumerate().map(numbered), fair, now)
    }

    #[test]
    fn a_class_is_a_head_start_and_no_more() {
        let start = Instant::now();
        let at = |class, seconds| waits(0, class, start + Duration::from_secs(seconds), 10);
        let order = |waiting: &[WaitingRank]| ordered(waiting, &FairShare::default(), start);
        assert_eq!(
            order(&[at(ServiceTier::Default, 1), at(ServiceTier::Default, 0)]),
            [1, 0]
        );
        assert_eq!(
            order(&[at(ServiceTier::Default, 0), at(ServiceTier::Priority, 5)]),
            [1, 0]
        );
        assert_eq!(
            order(&[at(ServiceTier::Flex, 0), at(ServiceTier::Priority, 25)]),
            [0, 1]
        );
    }

    /// Tenants 1 and 2, of the same weight, both of which ask.
    fn two_tenants(now: Instant) -> FairShare {
        let mut fair = FairShare::default();
        let capacity = Capacity {
            rows: 4,
            cells: 1000,
        };
        let tenants = [1, 2].map(|id| Tenant {
            id: TenantId(id),
            ..Tenant::default()
        });
        fair.observe(tenants.into_iter(), capacity, now);
        fair
    }

    #[test]
    fn tenants_take_turns_by_what_they_have_had_and_not_by_how_much_they_ask() {
        use ServiceTier::Default;
        let now = Instant::now();
        let mut fair = two_tenants(now);
        let mut waiting = vec![waits(1, Default, now, 100); 3];
        let later = now + Duration::from_secs(1);
        waiting.extend([waits(2, Default, later, 100), waits(2, Default, later, 100)]);
        assert_eq!(ordered(&waiting, &fair, now), [0, 3, 1, 4, 2]);
        fair.served(TenantId(1), 150);
        assert_eq!(ordered(&waiting, &fair, now), [3, 4, 0, 1, 2]);
    }

    #[test]
    fn a_tier_goes_before_the_tenants_share_until_others_have_waited_for_long() {
        use ServiceTier::{Default, Flex, Priority};
        let start = Instant::now();
        let mut fair = two_tenants(start);
        fair.served(TenantId(1), 1000);
        let waiting = [
            waits(1, Priority, start, 10),
            waits(2, Default, start, 10),
            waits(2, Flex, start, 10),
        ];
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(ordered(&waiting, &fair, after(9)), [0, 1, 2]);
        assert_eq!(ordered(&waiting, &fair, after(10)), [1, 0, 2]);
        assert_eq!(ordered(&waiting, &fair, after(20)), [1, 2, 0]);
        // A flood does not win by the age of what it piles up.
        fair.joined(TenantId(2), Default, 0, after(15));
        assert_eq!(ordered(&waiting, &fair, after(19)), [0, 1, 2]);
    }
}
