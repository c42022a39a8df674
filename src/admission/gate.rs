//! A model's door: a bounded number of requests inside.
//!
//! `decide` and `displaced` are plain functions; [`Gate`] counts and carries out what they say.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::governor::{GovernorHandle, Shedding};
use crate::headroom::Resource;

use super::displacement::{Insider, Ticket, displaced};
use super::drain::{Drain, DrainGuard};
use super::{AdmissionRefusal, RefusalReason, Tenant, lock};

/// The state on which an admission decision depends.
#[derive(Debug, Clone, Copy)]
struct GateSnapshot {
    draining: bool,
    /// Requests inside that are going to be answered.
    inside: usize,
    /// How many want to come in together.
    wanted: usize,
    capacity: usize,
    /// How long a request has been inside on average; `None` before the first.
    stay: Option<Duration>,
    /// What the governor says.
    shedding: Option<Shedding>,
}

/// Admits, or refuses with the time after which a place should be free: by Little's law
/// one of `inside` requests leaves every `stay / inside`. While the governor sheds, it knows better.
fn decide(state: GateSnapshot) -> Result<(), AdmissionRefusal> {
    let reason = if state.draining {
        RefusalReason::Draining
    } else if let Some((reason, retry_after)) = state.shedding.and_then(reason_to_shed) {
        return Err(AdmissionRefusal {
            reason,
            retry_after,
        });
    } else if state.inside + state.wanted > state.capacity {
        RefusalReason::QueueFull
    } else {
        return Ok(());
    };
    Err(AdmissionRefusal {
        reason,
        retry_after: retry_after(state.inside, state.stay),
    })
}

fn retry_after(inside: usize, stay: Option<Duration>) -> Duration {
    let inside = u32::try_from(inside.max(1)).unwrap_or(u32::MAX);
    let stay = stay.unwrap_or(Duration::from_secs(1));
    (stay / inside).max(Duration::from_secs(1))
}

fn reason_to_shed(shedding: Shedding) -> Option<(RefusalReason, Duration)> {
    let reason = match shedding.resource {
        Resource::Power => RefusalReason::Power,
        Resource::Thermal => RefusalReason::Thermal,
        Resource::Memory => RefusalReason::Memory,
        // Other programs on the processor make answers slower, and nothing else.
        Resource::Cpu => return None,
    };
    Some((reason, shedding.retry_after))
}

/// Admits requests to one model.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<GateInner>,
}

#[derive(Debug)]
struct GateInner {
    capacity: usize,
    drain: Drain,
    governed: GovernorHandle,
    counts: Mutex<GateCounts>,
}

#[derive(Debug, Default)]
struct GateCounts {
    /// Requests inside, in the order in which they came.
    inside: Vec<AdmittedRequest>,
    stay: Option<Duration>,
}

/// A request inside, with one slot or several.
#[derive(Debug)]
struct AdmittedRequest {
    tenant: Tenant,
    /// Slots that are not given back yet.
    slots: usize,
    ticket: Arc<Ticket>,
}

impl GateCounts {
    /// Slots of requests that are going to be answered.
    fn staying(&self) -> usize {
        let inside = self.inside.iter();
        let staying = inside.filter(|request| !request.ticket.is_displaced());
        staying.map(|request| request.slots).sum()
    }

    /// Slots of requests that were displaced and have not gone yet.
    fn leaving(&self) -> usize {
        let inside = self.inside.iter();
        let leaving = inside.filter(|request| request.ticket.is_displaced());
        leaving.map(|request| request.slots).sum()
    }

    /// Requests that are going to be answered, and what there is to know of each.
    fn insiders(&self) -> (Vec<&AdmittedRequest>, Vec<Insider>) {
        let inside = self.inside.iter();
        let staying: Vec<_> = inside
            .filter(|request| !request.ticket.is_displaced())
            .collect();
        let insider = |request: &&AdmittedRequest| Insider {
            tenant: request.tenant,
            slots: request.slots,
            is_waiting: request.ticket.is_waiting(),
        };
        let insiders = staying.iter().map(insider).collect();
        (staying, insiders)
    }

    /// Whether somebody would have to make room for one request of `newcomer`.
    fn is_filled_by_others(&self, newcomer: Tenant) -> bool {
        displaced(&self.insiders().1, newcomer, 1, 1).is_some()
    }

    /// Displaces waiting requests of those that hold most, so that `wanted` slots of `newcomer` find
    /// `missing` more than there are. Returns false where nobody has to make room for it; or not
    /// `most_leaving` slots, because many were displaced already and have not gone.
    fn make_room(
        &self,
        newcomer: Tenant,
        wanted: usize,
        missing: usize,
        most_leaving: usize,
    ) -> bool {
        let mut freed = 0;
        while freed < missing {
            let (staying, insiders) = self.insiders();
            let Some(places) = displaced(&insiders, newcomer, wanted, missing - freed) else {
                return false;
            };
            let more: usize = places.iter().map(|place| staying[*place].slots).sum();
            if self.leaving() + more > most_leaving {
                return false;
            }
            // One that has just started is passed over in the next round.
            let gone = (places.iter()).filter(|place| staying[**place].ticket.displace());
            freed += gone.map(|place| staying[*place].slots).sum::<usize>();
        }
        true
    }
}

impl Gate {
    /// `capacity` requests at once, running and waiting ones together.
    #[must_use]
    pub fn new(capacity: usize, drain: Drain, governed: GovernorHandle) -> Self {
        Self {
            inner: Arc::new(GateInner {
                capacity,
                drain,
                governed,
                counts: Mutex::default(),
            }),
        }
    }

    /// Requests that can be inside at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// Requests that can be inside at once if those count that were displaced and have not gone yet.
    #[must_use]
    pub fn most_inside(&self) -> usize {
        self.inner.capacity.saturating_mul(2)
    }

    /// Whether a client should send a request now.
    pub fn would_admit(&self) -> Result<(), AdmissionRefusal> {
        decide(self.state(&self.counts(), 1, self.inner.drain.has_begun()))
    }

    /// Whether a request of a tenant for which a shutdown waits already would be admitted, as far as
    /// can be told before it is read: one that fills the queue no more than others may yet displace.
    pub fn has_room(&self, tenant: Tenant) -> Result<(), AdmissionRefusal> {
        let counts = self.counts();
        let refused = decide(self.state(&counts, 1, false));
        refused.or_else(|refusal| {
            let may_displace =
                refusal.reason == RefusalReason::QueueFull && counts.is_filled_by_others(tenant);
            if may_displace { Ok(()) } else { Err(refusal) }
        })
    }

    /// Lets a request of a tenant in. Without the drain guard that it got when it came, it came too late.
    pub fn admit(
        &self,
        tenant: Tenant,
        drain_guard: Option<DrainGuard>,
    ) -> Result<(AdmissionSlot, DrainGuard), AdmissionRefusal> {
        let (mut slots, drain_guard) = self.admit_together(tenant, 1, drain_guard)?;
        let Some(slot) = slots.pop() else {
            unreachable!("one was asked for");
        };
        Ok((slot, drain_guard))
    }

    /// Lets a request in that is `count` requests to the engine: all of them or none. Where the queue
    /// is full, waiting requests of the tenant that fills it are displaced for one of another tenant
    /// that holds less.
    pub fn admit_together(
        &self,
        tenant: Tenant,
        count: usize,
        drain_guard: Option<DrainGuard>,
    ) -> Result<(Vec<AdmissionSlot>, DrainGuard), AdmissionRefusal> {
        let mut counts = self.counts();
        let state = self.state(&counts, count, drain_guard.is_none());
        if let Err(refusal) = decide(state) {
            let is_displacing = refusal.reason == RefusalReason::QueueFull
                && count <= state.capacity
                && counts.make_room(
                    tenant,
                    count,
                    state.inside + count - state.capacity,
                    state.capacity,
                );
            if !is_displacing {
                return Err(refusal);
            }
        }
        let Some(drain_guard) = drain_guard else {
            unreachable!("a drain refuses");
        };
        let ticket = Arc::new(Ticket::default());
        counts.inside.push(AdmittedRequest {
            tenant,
            slots: count,
            ticket: Arc::clone(&ticket),
        });
        let since = Instant::now();
        let slot = |_| AdmissionSlot {
            gate: self.clone(),
            ticket: Arc::clone(&ticket),
            since,
            served: false,
        };
        Ok(((0..count).map(slot).collect(), drain_guard))
    }

    fn state(&self, counts: &GateCounts, wanted: usize, draining: bool) -> GateSnapshot {
        GateSnapshot {
            draining,
            inside: counts.staying(),
            wanted,
            capacity: self.inner.capacity,
            stay: counts.stay,
            shedding: self.inner.governed.measures().refusal,
        }
    }

    fn counts(&self) -> MutexGuard<'_, GateCounts> {
        lock(&self.inner.counts)
    }
}

/// An admitted request's slot at its model, freed by Drop.
#[derive(Debug)]
pub struct AdmissionSlot {
    gate: Gate,
    ticket: Arc<Ticket>,
    since: Instant,
    served: bool,
}

impl AdmissionSlot {
    /// The request was answered: how long that took tells how long others take.
    pub fn served(&mut self) {
        self.served = true;
    }

    /// The request is worked on from now on, so that it keeps its slots. Returns false where they were
    /// given to another tenant's request before.
    #[must_use]
    pub fn start(&self) -> bool {
        self.ticket.start()
    }

    /// When to ask again, where the request's slots were given to another tenant's: it is to be dropped.
    #[must_use]
    pub fn displaced(&self) -> Option<Duration> {
        self.ticket.is_displaced().then(|| {
            let counts = self.gate.counts();
            retry_after(counts.staying(), counts.stay)
        })
    }
}

impl Drop for AdmissionSlot {
    fn drop(&mut self) {
        let stay = self.since.elapsed();
        let mut counts = self.gate.counts();
        let mut inside = counts.inside.iter();
        if let Some(place) = inside.position(|request| Arc::ptr_eq(&request.ticket, &self.ticket)) {
            counts.inside[place].slots -= 1;
            if counts.inside[place].slots == 0 {
                counts.inside.remove(place);
            }
        }
        if self.served {
            counts.stay = Some(match counts.stay {
                Some(mean) => (mean * 7 + stay) / 8,
                None => stay,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::TenantId;

    const STATE: GateSnapshot = GateSnapshot {
        draining: false,
        inside: 0,
        wanted: 1,
        capacity: 4,
        stay: None,
        shedding: None,
    };

    #[test]
    fn a_full_queue_says_when_a_place_should_be_free() {
        let full = GateSnapshot {
            inside: 4,
            stay: Some(Duration::from_secs(20)),
            ..STATE
        };
        let refusal = decide(full).expect_err("full");
        assert_eq!(refusal.reason, RefusalReason::QueueFull);
        assert_eq!(refusal.retry_after, Duration::from_secs(5));
    }

    #[test]
    fn draining_refuses_even_with_places_free() {
        let refusal = decide(GateSnapshot {
            draining: true,
            ..STATE
        });
        assert_eq!(
            refusal.expect_err("draining").reason,
            RefusalReason::Draining
        );
    }

    #[test]
    fn what_the_governor_sheds_is_refused_with_its_reason_and_time() {
        let shedding = |resource| GateSnapshot {
            inside: 4,
            shedding: Some(Shedding {
                resource,
                retry_after: Duration::from_secs(17),
            }),
            ..STATE
        };
        for (resource, reason) in [
            (Resource::Power, RefusalReason::Power),
            (Resource::Thermal, RefusalReason::Thermal),
            (Resource::Memory, RefusalReason::Memory),
        ] {
            let refusal = decide(shedding(resource)).expect_err("shed");
            assert_eq!(refusal.reason, reason);
            assert_eq!(refusal.retry_after, Duration::from_secs(17));
        }
    }

    #[test]
    fn a_dropped_place_makes_room_however_long_its_answer_is_read() {
        let drain = Drain::default();
        let gate = Gate::new(2, drain.clone(), GovernorHandle::default());
        let (slot, _presence) = gate.admit(Tenant::default(), drain.enter()).expect("room");
        let _second = gate.admit(Tenant::default(), drain.enter()).expect("room");
        assert!(gate.admit(Tenant::default(), drain.enter()).is_err());
        drop(slot);
        assert!(gate.admit(Tenant::default(), drain.enter()).is_ok());
    }

    #[test]
    fn several_come_in_together_or_not_at_all() {
        let drain = Drain::default();
        let gate = Gate::new(3, drain.clone(), GovernorHandle::default());
        let _one = gate.admit(Tenant::default(), drain.enter()).expect("room");
        assert!(
            gate.admit_together(Tenant::default(), 3, drain.enter())
                .is_err()
        );
        let (slots, _presence) = gate
            .admit_together(Tenant::default(), 2, drain.enter())
            .expect("room");
        assert_eq!(slots.len(), 2);
        assert!(gate.admit(Tenant::default(), drain.enter()).is_err());
    }

    fn tenant(id: u32) -> Tenant {
        Tenant {
            id: TenantId(id),
            ..Tenant::default()
        }
    }

    #[test]
    fn a_full_queue_displaces_the_one_that_fills_it_and_admits_the_one_that_arrives() {
        let drain = Drain::default();
        let gate = Gate::new(3, drain.clone(), GovernorHandle::default());
        let (flood, till) = (tenant(1), tenant(2));
        let (first, _presence) = gate.admit(flood, drain.enter()).expect("room");
        assert!(first.start());
        let (second, _presence) = gate.admit(flood, drain.enter()).expect("room");
        let (third, _presence) = gate.admit(flood, drain.enter()).expect("room");
        let refusal = gate
            .admit(flood, drain.enter())
            .expect_err("it fills the queue itself");
        assert_eq!(refusal.reason, RefusalReason::QueueFull);
        let (asked, _presence) = gate.admit(till, drain.enter()).expect("another makes room");
        assert_eq!(third.displaced(), Some(Duration::from_secs(1)));
        assert!(!third.start());
        assert_eq!((first.displaced(), second.displaced()), (None, None));
        assert!(
            gate.admit(till, drain.enter()).is_err(),
            "it would hold as much"
        );
        assert!(gate.admit(flood, drain.enter()).is_err());
        drop(third);
        assert!(
            gate.admit(flood, drain.enter()).is_err(),
            "its slot is the till's"
        );
        drop(asked);
        assert!(gate.admit(flood, drain.enter()).is_ok());
    }

    #[test]
    fn what_is_displaced_and_does_not_go_is_bounded() {
        let drain = Drain::default();
        let gate = Gate::new(4, drain.clone(), GovernorHandle::default());
        let mut slots = Vec::new();
        for id in 0..100 {
            // Each comes once the one before has filled the queue.
            for _ in 0..4 {
                slots.extend(gate.admit(tenant(id), drain.enter()).ok());
            }
        }
        assert!(slots.len() <= gate.most_inside(), "{}", slots.len());
        let left = slots.iter().filter(|(slot, _)| slot.displaced().is_some());
        assert_eq!(left.count(), slots.len() - 4);
    }

    #[test]
    fn choices_that_belong_together_are_displaced_together() {
        let drain = Drain::default();
        let gate = Gate::new(4, drain.clone(), GovernorHandle::default());
        let (choices, _presence) = gate
            .admit_together(tenant(1), 4, drain.enter())
            .expect("room");
        assert!(gate.admit(tenant(2), drain.enter()).is_ok());
        assert!(choices.iter().all(|slot| slot.displaced().is_some()));
        let (started, _presence) = gate
            .admit_together(tenant(1), 4, drain.enter())
            .expect("room");
        assert!(started[0].start());
        assert!(gate.admit(tenant(2), drain.enter()).is_err());
    }

    #[test]
    fn who_came_before_the_drain_was_closed_is_let_in_after_it_and_nobody_else() {
        let drain = Drain::default();
        let gate = Gate::new(2, drain.clone(), GovernorHandle::default());
        let came_in_time = drain.enter();
        drain.begin();
        let clients_are_told = gate.would_admit().expect_err("going away");
        assert_eq!(clients_are_told.reason, RefusalReason::Draining);
        drain.close();
        assert!(gate.has_room(Tenant::default()).is_ok());
        assert!(gate.admit(Tenant::default(), came_in_time).is_ok());
        let too_late = gate
            .admit(Tenant::default(), drain.enter())
            .expect_err("closed");
        assert_eq!(too_late.reason, RefusalReason::Draining);
    }
}
