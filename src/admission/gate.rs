//! A model's door: a bounded number of requests inside.
//!
//! `decide` and `displaced` are plain functions; [`Gate`] counts and carries out what they say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::governor::{GovernorHandle, Shedding};
use crate::headroom::Resource;
use crate::sync::{Mutex, MutexGuard};

use super::displacement::{Insider, Ticket, displaced};
use super::drain::{Drain, DrainGuard};
use super::{AdmissionRefusal, RefusalReason, Tenant};

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

/// Why a gate lets a request not in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateRefusal {
    /// What is behind it goes away. It never opens again; there may be a new one soon.
    Closed,
    /// The client is to be told.
    Refused(AdmissionRefusal),
}

impl From<AdmissionRefusal> for GateRefusal {
    fn from(refusal: AdmissionRefusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Debug)]
struct GateCounts {
    /// Requests inside, in the order in which they came.
    inside: Vec<AdmittedRequest>,
    stay: Option<Duration>,
    /// Nobody comes in any more.
    is_closed: bool,
    /// When the last request left, or the gate was made.
    empty_since: Instant,
}

impl Default for GateCounts {
    fn default() -> Self {
        Self {
            inside: Vec::new(),
            stay: None,
            is_closed: false,
            empty_since: Instant::now(),
        }
    }
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

    /// Lets nobody in from now on. Those inside stay until they are done.
    pub fn close(&self) {
        self.counts().is_closed = true;
    }

    /// Closes the gate if nobody is inside; returns whether nobody is. Coming in and closing exclude each
    /// other: no request is ever inside of what was found empty.
    #[must_use]
    pub fn close_if_empty(&self) -> bool {
        let mut counts = self.counts();
        let is_empty = counts.inside.is_empty();
        counts.is_closed |= is_empty;
        is_empty
    }

    /// Counts the time in which nobody is inside from now on.
    pub fn restart_idle_time(&self) {
        self.counts().empty_since = Instant::now();
    }

    /// Whether nobody comes in any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.counts().is_closed
    }

    /// Since when nobody has been inside; `None` while somebody is.
    #[must_use]
    pub fn empty_since(&self) -> Option<Instant> {
        let counts = self.counts();
        counts.inside.is_empty().then_some(counts.empty_since)
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
    ) -> Result<(AdmissionSlot, DrainGuard), GateRefusal> {
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
    ) -> Result<(Vec<AdmissionSlot>, DrainGuard), GateRefusal> {
        let mut counts = self.counts();
        if counts.is_closed {
            return Err(GateRefusal::Closed);
        }
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
                return Err(refusal.into());
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
        self.inner.counts.lock()
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
                counts.empty_since = Instant::now();
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
#[path = "gate_tests.rs"]
mod tests;
