//! Fair share: how much of the engine each tenant has had, and what it holds now.
//!
//! Each tenant has a virtual token counter, as in "Fairness in Serving Large Language Models"
//! (Sheng et al., OSDI 24): the tokens that were computed for it, divided by its weight. Whoever
//! has the least joins next. Three rules make that a fair share:
//!
//! - A prompt counts as soon as its request joins. Otherwise a tenant that sends many requests at
//!   once would have every row before the first of them counts. What turns out not to be computed
//!   (it was shared, or the request was cancelled or preempted) stops counting by itself, because
//!   what is still [ahead](Account::ahead) is counted anew from the batch.
//! - A tenant that comes back is lifted to the least counter of those that are there. Nobody saves
//!   up service by being silent.
//! - Where everything is taken, a tenant with less than its part gets rows and cells of one that
//!   has more ([`FairShare::may_take`]).
//!
//! Tenants are forgotten once they would be lifted anyway, so that memory is bounded by those that
//! are active and those that had more than the active ones.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use crate::admission::{ServiceTier, Tenant, TenantId};

/// How long a tenant is expected to ask again after its last request has ended.
const LATELY: Duration = Duration::from_secs(60);

/// Where there are fewer rows than tenants they take turns, and a turn is this many tokens at least.
/// Shorter turns would preempt answers all the time.
const TURN: f64 = 128.0;

/// What can be shared among tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// How many requests may run together.
    pub(super) rows: usize,
    /// Cells of the whole cache.
    pub(super) cells: usize,
}

/// What one running request holds of the batch and of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) tenant: Tenant,
    /// Cells that are free once it is gone.
    pub(super) cells: usize,
    /// Tokens that it still has to compute.
    pub(super) ahead: usize,
}

/// Counts what tenants were served and what they hold.
#[derive(Debug, Clone)]
pub(super) struct FairShare {
    accounts: BTreeMap<TenantId, Account>,
    capacity: Capacity,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    weight: f64,
    /// Tokens computed, divided by the weight.
    served: f64,
    /// Whether it has requests, running or waiting.
    is_active: bool,
    /// When it last had requests.
    seen: Instant,
    /// Its running requests.
    rows: usize,
    /// Cells that these have.
    cells: usize,
    /// Tokens that these still have to compute.
    ahead: usize,
    /// By tier, when a request last joined.
    joined: [Option<Instant>; 3],
}

impl Account {
    fn new(tenant: &Tenant, served: f64, now: Instant) -> Self {
        Self {
            weight: f64::from(tenant.weight.get()),
            served,
            is_active: true,
            seen: now,
            rows: 0,
            cells: 0,
            ahead: 0,
            joined: [None; 3],
        }
    }

    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    fn counter(&self) -> f64 {
        self.served + self.ahead as f64 / self.weight
    }

    #[allow(clippy::cast_precision_loss)] // batches have hundreds of rows at most
    fn rows_by_weight(&self, rows: usize) -> f64 {
        rows as f64 / self.weight
    }
}

impl Default for FairShare {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            capacity: Capacity { rows: 1, cells: 1 },
        }
    }
}

impl FairShare {
    /// Notes whose requests run and wait. Tenants that were silent until now are lifted to the
    /// least counter of those that were not.
    pub(super) fn observe(
        &mut self,
        tenants: impl Iterator<Item = Tenant>,
        capacity: Capacity,
        now: Instant,
    ) {
        self.capacity = capacity;
        let floor = self.floor();
        let was_active = |account: &mut Account| std::mem::replace(&mut account.is_active, false);
        let active_before: Vec<TenantId> = (self.accounts.iter_mut())
            .filter_map(|(id, account)| was_active(account).then_some(*id))
            .collect();
        for tenant in tenants {
            match self.accounts.entry(tenant.id) {
                Entry::Vacant(place) => {
                    place.insert(Account::new(&tenant, floor, now));
                }
                Entry::Occupied(mut place) => {
                    let account = place.get_mut();
                    let was_silent = !std::mem::replace(&mut account.is_active, true)
                        && !active_before.contains(&tenant.id);
                    if was_silent {
                        account.served = account.served.max(floor);
                    }
                    account.seen = now;
                    account.weight = f64::from(tenant.weight.get());
                }
            }
        }
        self.forget(now);
    }

    /// Counts anew what each tenant holds.
    pub(super) fn recount(&mut self, running: &[Holding]) {
        for account in self.accounts.values_mut() {
            (account.rows, account.cells, account.ahead) = (0, 0, 0);
        }
        for holding in running {
            if let Some(account) = self.accounts.get_mut(&holding.tenant.id) {
                account.rows += 1;
                account.cells += holding.cells;
                account.ahead += holding.ahead;
            }
        }
    }

    /// A request joined that needs `novel` cells of its own.
    pub(super) fn joined(&mut self, id: TenantId, tier: ServiceTier, novel: usize, now: Instant) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.rows += 1;
            account.cells += novel;
            account.ahead += novel;
            account.joined[tier as usize] = Some(now);
        }
    }

    /// A running request is going to be preempted.
    pub(super) fn loses(&mut self, holding: &Holding) {
        if let Some(account) = self.accounts.get_mut(&holding.tenant.id) {
            account.rows = account.rows.saturating_sub(1);
            account.cells = account.cells.saturating_sub(holding.cells);
            account.ahead = account.ahead.saturating_sub(holding.ahead);
        }
    }

    /// Tokens were computed for a tenant.
    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    pub(super) fn served(&mut self, id: TenantId, tokens: usize) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.served += tokens as f64 / account.weight;
        }
    }

    /// Whether several tenants have requests.
    pub(super) fn has_several(&self) -> bool {
        let active = self.accounts.values().filter(|account| account.is_active);
        active.take(2).count() > 1
    }

    /// Whether several tenants have requests, or had some in the last minute.
    pub(super) fn had_several_lately(&self, now: Instant) -> bool {
        let is_recent = |account: &&Account| now.saturating_duration_since(account.seen) <= LATELY;
        self.accounts.values().filter(is_recent).take(2).count() > 1
    }

    /// Tokens that a tenant has had, and those that its running requests are going to take for
    /// what they have so far; all by weight.
    pub(super) fn counter(&self, id: TenantId) -> f64 {
        self.accounts.get(&id).map_or(0.0, Account::counter)
    }

    /// Tokens that a tenant will have had, by weight, once `left` more are computed for it.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn after(&self, id: TenantId, left: usize) -> f64 {
        let account = self.accounts.get(&id);
        account.map_or(0.0, |account| account.served + left as f64 / account.weight)
    }

    /// By how much `tokens` raise a tenant's counter.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn price(&self, id: TenantId, tokens: usize) -> f64 {
        let weight = self.accounts.get(&id).map_or(1.0, |account| account.weight);
        tokens as f64 / weight
    }

    /// When a request of this tenant and tier last joined.
    pub(super) fn last_joined(&self, id: TenantId, tier: ServiceTier) -> Option<Instant> {
        self.accounts.get(&id)?.joined[tier as usize]
    }

    /// Whether others run, and nothing of this tenant.
    pub(super) fn is_left_out(&self, id: TenantId) -> bool {
        let runs = |id: TenantId| {
            self.accounts
                .get(&id)
                .is_some_and(|account| account.rows > 0)
        };
        !runs(id) && self.accounts.keys().any(|other| runs(*other))
    }

    /// How much more than its part a tenant holds, of the rows or of the cells, whichever is more:
    /// 0 to 1, and 0 where it is within its part.
    pub(super) fn excess(&self, id: TenantId) -> f64 {
        let account = self.accounts.get(&id);
        account.map_or(0.0, |account| self.above_part(account).max(0.0))
    }

    /// Whether a running request of the tenant `from` may be preempted for a waiting one of the
    /// tenant `to`: only if the first has more than its part and the second less, and
    ///
    /// - the second was served no more, and the first cannot take the row back: it still has its
    ///   part of the rows, or no fewer by weight than the second has then, or any at all where the
    ///   second has none; or
    /// - nothing of the second runs, and it is a whole [`TURN`] behind.
    pub(super) fn may_take(&self, from: TenantId, to: TenantId) -> bool {
        let (Some(from), Some(to)) = (self.accounts.get(&from), self.accounts.get(&to)) else {
            return false;
        };
        if self.above_part(from) <= 0.0 || self.above_part(to) >= 0.0 {
            return false;
        }
        let rows_left = from.rows.saturating_sub(1);
        let keeps_its_part = share(rows_left, self.capacity.rows) >= self.part(from);
        let keeps_no_fewer = to.rows_by_weight(to.rows + 1) <= from.rows_by_weight(rows_left);
        let keeps_some = to.rows == 0 && rows_left > 0;
        let cannot_take_back = keeps_its_part || keeps_no_fewer || keeps_some;
        let has_fewer_tokens = to.counter() <= from.counter();
        let has_its_turn = to.rows == 0 && to.served + TURN / to.weight <= from.served;
        has_fewer_tokens && cannot_take_back || has_its_turn
    }

    /// How much a tenant holds above its part, of the rows or of the cells, whichever is more.
    fn above_part(&self, account: &Account) -> f64 {
        let rows = share(account.rows, self.capacity.rows);
        let cells = share(account.cells, self.capacity.cells);
        rows.max(cells) - self.part(account)
    }

    /// The part of everything that is fair for a tenant, beside those that have requests.
    fn part(&self, account: &Account) -> f64 {
        let active = self.accounts.values().filter(|account| account.is_active);
        let weights: f64 = active.map(|account| account.weight).sum();
        account.weight / weights.max(account.weight)
    }

    /// The counter to which a tenant is lifted that comes back: the least of those that are active,
    /// or the highest of all if none is. Tokens ahead do not count, because they might still be
    /// cancelled, and the others had credit for them.
    fn floor(&self) -> f64 {
        let active = self.accounts.values().filter(|account| account.is_active);
        let least = active.map(|account| account.served).reduce(f64::min);
        let highest = || self.accounts.values().map(|account| account.served);
        least.unwrap_or_else(|| highest().fold(0.0, f64::max))
    }

    /// Forgets tenants that would be lifted if they came back.
    fn forget(&mut self, now: Instant) {
        let floor = self.floor();
        self.accounts.retain(|_, account| {
            account.is_active
                || account.served > floor
                || now.saturating_duration_since(account.seen) <= LATELY
        });
    }
}

#[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
fn share(held: usize, of: usize) -> f64 {
    held as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const CAPACITY: Capacity = Capacity {
        rows: 4,
        cells: 1000,
    };

    fn tenant(id: u32, weight: u32) -> Tenant {
        Tenant {
            id: TenantId(id),
            weight: NonZeroU32::new(weight).expect("not 0"),
            ..Tenant::default()
        }
    }

    fn observe(fair: &mut FairShare, tenants: &[Tenant], now: Instant) {
        fair.observe(tenants.iter().copied(), CAPACITY, now);
    }

    fn holds(tenant: Tenant, cells: usize, ahead: usize) -> Holding {
        Holding {
            tenant,
            cells,
            ahead,
        }
    }

    #[test]
    fn tokens_count_by_weight_and_those_ahead_as_soon_as_a_request_joins() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let heavy = tenant(1, 4);
        observe(&mut fair, &[heavy], now);
        fair.served(heavy.id, 100);
        fair.joined(heavy.id, ServiceTier::Default, 60, now);
        assert!((fair.counter(heavy.id) - 40.0).abs() < 1e-9);
        assert!((fair.after(heavy.id, 20) - 30.0).abs() < 1e-9);
        // 40 of them were shared.
        fair.recount(&[holds(heavy, 60, 20)]);
        assert!((fair.counter(heavy.id) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn nobody_saves_up_service_by_being_silent() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (busy, back) = (tenant(1, 1), tenant(2, 1));
        observe(&mut fair, &[busy, back], now);
        observe(&mut fair, &[busy], now);
        fair.served(busy.id, 1000);
        observe(&mut fair, &[busy, back], now);
        assert!((fair.counter(back.id) - 1000.0).abs() < 1e-9);
        // Nor is a debt forgiven.
        fair.served(back.id, 500);
        observe(&mut fair, &[busy], now);
        observe(&mut fair, &[busy, back], now);
        assert!((fair.counter(back.id) - 1500.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_only_ahead_lifts_nobody() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (busy, back) = (tenant(1, 1), tenant(2, 1));
        observe(&mut fair, &[busy], now);
        fair.joined(busy.id, ServiceTier::Default, 5000, now);
        observe(&mut fair, &[busy, back], now);
        assert!(fair.counter(back.id) < fair.counter(busy.id));
    }

    #[test]
    fn silent_tenants_are_forgotten_once_they_would_be_lifted() {
        let (mut fair, start) = (FairShare::default(), Instant::now());
        let lately = start + LATELY;
        let much_later = lately + Duration::from_secs(1);
        let busy = tenant(0, 1);
        let mut all: Vec<Tenant> = (1..100).map(|id| tenant(id, 1)).collect();
        all.push(busy);
        observe(&mut fair, &all, start);
        fair.served(TenantId(7), 2000);
        observe(&mut fair, &[busy], lately);
        assert!(fair.had_several_lately(lately) && !fair.has_several());
        fair.served(busy.id, 1000);
        observe(&mut fair, &[busy], much_later);
        assert!(!fair.had_several_lately(much_later));
        assert_eq!(fair.accounts.len(), 2, "the busy one, and one with a debt");
        fair.served(busy.id, 1000);
        observe(&mut fair, &[busy], much_later);
        assert_eq!(fair.accounts.len(), 1);
    }

    #[test]
    fn rows_go_to_whoever_has_fewer_by_weight_and_was_served_no_more() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (light, heavy) = (tenant(1, 1), tenant(2, 3));
        observe(&mut fair, &[light, heavy], now);
        fair.recount(&[holds(light, 10, 1); 4]);
        assert!(fair.may_take(light.id, heavy.id));
        let (l, h) = (holds(light, 10, 1), holds(heavy, 10, 1));
        fair.recount(&[l, l, h, h]);
        assert!(
            fair.may_take(light.id, heavy.id),
            "three of four are its part"
        );
        fair.recount(&[l, h, h, h]);
        assert!(!fair.may_take(light.id, heavy.id) && !fair.may_take(heavy.id, light.id));
        fair.recount(&[h, h, h, h]);
        assert!(fair.may_take(heavy.id, light.id), "three of four are left");
        fair.recount(&[l, l, l, l]);
        fair.served(heavy.id, 1000);
        assert!(!fair.may_take(light.id, heavy.id), "it was served more");
    }

    #[test]
    fn nobody_is_without_a_row_while_another_has_two() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (light, heavy) = (tenant(1, 1), tenant(2, 9));
        observe(&mut fair, &[light, heavy], now);
        let (l, h) = (holds(light, 10, 1), holds(heavy, 10, 1));
        fair.recount(&[h, h, h, h]);
        assert!(fair.may_take(heavy.id, light.id));
        fair.recount(&[h, h, h, l]);
        assert!(!fair.may_take(light.id, heavy.id) && !fair.may_take(heavy.id, light.id));
    }

    #[test]
    fn where_rows_are_fewer_than_tenants_they_take_turns_of_many_tokens() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (first, second) = (tenant(1, 1), tenant(2, 1));
        let capacity = Capacity {
            rows: 1,
            ..CAPACITY
        };
        fair.observe([first, second].into_iter(), capacity, now);
        fair.recount(&[holds(first, 10, 1)]);
        fair.served(first.id, 127);
        assert!(!fair.may_take(first.id, second.id));
        fair.served(first.id, 1);
        assert!(fair.may_take(first.id, second.id));
        fair.recount(&[holds(second, 10, 1)]);
        fair.served(second.id, 255);
        assert!(!fair.may_take(second.id, first.id));
        fair.served(second.id, 1);
        assert!(fair.may_take(second.id, first.id));
    }

    #[test]
    fn cells_count_like_rows_for_whoever_has_too_much() {
        let (mut fair, now) = (FairShare::default(), Instant::now());
        let (many, few) = (tenant(1, 1), tenant(2, 1));
        observe(&mut fair, &[many, few], now);
        fair.recount(&[holds(many, 450, 1), holds(many, 450, 1)]);
        assert!((fair.excess(many.id) - 0.4).abs() < 1e-9);
        assert!(fair.may_take(many.id, few.id));
        assert!(fair.is_left_out(few.id) && !fair.is_left_out(many.id));
        assert!(fair.excess(few.id).abs() < 1e-9);
    }
}
