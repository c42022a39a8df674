//! A model's door: a bounded number of requests inside.
//!
//! `decide` is a plain function; [`Gate`] counts and carries out what it says.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::governor::{GovernorHandle, Shedding};
use crate::headroom::Resource;

use super::drain::{Drain, DrainGuard};
use super::{AdmissionRefusal, RefusalReason, lock};

/// The state on which an admission decision depends.
#[derive(Debug, Clone, Copy)]
struct GateSnapshot {
    draining: bool,
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
    let inside = u32::try_from(state.inside.max(1)).unwrap_or(u32::MAX);
    let stay = state.stay.unwrap_or(Duration::from_secs(1));
    Err(AdmissionRefusal {
        reason,
        retry_after: (stay / inside).max(Duration::from_secs(1)),
    })
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
    inside: usize,
    stay: Option<Duration>,
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

    /// Whether a client should send a request now.
    pub fn would_admit(&self) -> Result<(), AdmissionRefusal> {
        decide(self.state(&self.counts(), 1, self.inner.drain.has_begun()))
    }

    /// Whether a request for which a shutdown waits already would be admitted.
    pub fn has_room(&self) -> Result<(), AdmissionRefusal> {
        decide(self.state(&self.counts(), 1, false))
    }

    /// Lets a request in. Without the drain guard that it got when it came, it came too late.
    pub fn admit(
        &self,
        drain_guard: Option<DrainGuard>,
    ) -> Result<(AdmissionSlot, DrainGuard), AdmissionRefusal> {
        let (mut slots, drain_guard) = self.admit_together(1, drain_guard)?;
        let Some(slot) = slots.pop() else {
            unreachable!("one was asked for");
        };
        Ok((slot, drain_guard))
    }

    /// Lets a request in that is `count` requests to the engine: all of them or none.
    pub fn admit_together(
        &self,
        count: usize,
        drain_guard: Option<DrainGuard>,
    ) -> Result<(Vec<AdmissionSlot>, DrainGuard), AdmissionRefusal> {
        let mut counts = self.counts();
        decide(self.state(&counts, count, drain_guard.is_none()))?;
        let Some(drain_guard) = drain_guard else {
            unreachable!("a drain refuses");
        };
        counts.inside += count;
        let since = Instant::now();
        let slot = |_| AdmissionSlot {
            gate: self.clone(),
            since,
            served: false,
        };
        Ok(((0..count).map(slot).collect(), drain_guard))
    }

    fn state(&self, counts: &GateCounts, wanted: usize, draining: bool) -> GateSnapshot {
        GateSnapshot {
            draining,
            inside: counts.inside,
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
    since: Instant,
    served: bool,
}

impl AdmissionSlot {
    /// The request was answered: how long that took tells how long others take.
    pub fn served(&mut self) {
        self.served = true;
    }
}

impl Drop for AdmissionSlot {
    fn drop(&mut self) {
        let stay = self.since.elapsed();
        let mut counts = self.gate.counts();
        counts.inside -= 1;
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
        let (slot, _presence) = gate.admit(drain.enter()).expect("room");
        let _second = gate.admit(drain.enter()).expect("room");
        assert!(gate.admit(drain.enter()).is_err());
        drop(slot);
        assert!(gate.admit(drain.enter()).is_ok());
    }

    #[test]
    fn several_come_in_together_or_not_at_all() {
        let drain = Drain::default();
        let gate = Gate::new(3, drain.clone(), GovernorHandle::default());
        let _one = gate.admit(drain.enter()).expect("room");
        assert!(gate.admit_together(3, drain.enter()).is_err());
        let (slots, _presence) = gate.admit_together(2, drain.enter()).expect("room");
        assert_eq!(slots.len(), 2);
        assert!(gate.admit(drain.enter()).is_err());
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
        assert!(gate.has_room().is_ok());
        assert!(gate.admit(came_in_time).is_ok());
        let too_late = gate.admit(drain.enter()).expect_err("closed");
        assert_eq!(too_late.reason, RefusalReason::Draining);
    }
}
