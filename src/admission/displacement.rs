//! Whose waiting requests make room in a full queue for one of another tenant.
//!
//! [`displaced`] is a plain function; the gate carries out what it says.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{self, AtomicU8};

use super::{Tenant, TenantId};

/// How far a request is on its way through a gate; shared by all its slots.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    const WAITING: u8 = 0;
    const STARTED: u8 = 1;
    const DISPLACED: u8 = 2;

    /// Whether its slots could still be given to another.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.load(atomic::Ordering::Acquire) == Self::WAITING
    }

    pub(super) fn is_displaced(&self) -> bool {
        self.0.load(atomic::Ordering::Acquire) == Self::DISPLACED
    }

    /// It is worked on; returns false where its slots were given to another before.
    pub(super) fn start(&self) -> bool {
        self.leave_queue(Self::STARTED) != Self::DISPLACED
    }

    /// Its slots are given to another; returns false where it has started before.
    pub(super) fn displace(&self) -> bool {
        self.leave_queue(Self::DISPLACED) != Self::STARTED
    }

    /// Returns what it was last, or what it is now if it waited until now.
    fn leave_queue(&self, for_state: u8) -> u8 {
        let (success, failure) = (atomic::Ordering::AcqRel, atomic::Ordering::Acquire);
        let exchanged = (self.0).compare_exchange(Self::WAITING, for_state, success, failure);
        exchanged.map_or_else(|other| other, |_| for_state)
    }
}

/// A request inside, as far as it matters to those that want to come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Insider {
    pub(super) tenant: Tenant,
    /// How many slots it has.
    pub(super) slots: usize,
    /// Whether it waits and nothing was computed for it.
    pub(super) is_waiting: bool,
}

/// Which of those `inside`, in the order in which they came, lose their slots so that a request of
/// `newcomer` finds `missing` slots more than there are and has `wanted` in all: the latest waiting
/// ones of whoever holds most by weight. `None` where nobody holds more than the newcomer would.
pub(super) fn displaced(
    inside: &[Insider],
    newcomer: Tenant,
    wanted: usize,
    missing: usize,
) -> Option<Vec<usize>> {
    let mut held: BTreeMap<TenantId, usize> = BTreeMap::new();
    for insider in inside {
        *held.entry(insider.tenant.id).or_default() += insider.slots;
    }
    let held_by = |held: &BTreeMap<TenantId, usize>, tenant: Tenant| Share {
        slots: held.get(&tenant.id).copied().unwrap_or(0),
        weight: tenant.weight,
    };
    let mut own = held_by(&held, newcomer);
    own.slots += wanted;
    let (mut places, mut freed) = (Vec::new(), 0);
    while freed < missing {
        let latest_of_most = (inside.iter().enumerate())
            .filter(|(place, insider)| {
                insider.is_waiting
                    && insider.tenant.id != newcomer.id
                    && !places.contains(place)
                    && own < held_by(&held, insider.tenant)
            })
            .max_by_key(|(place, insider)| (held_by(&held, insider.tenant), *place));
        let (place, insider) = latest_of_most?;
        freed += insider.slots;
        if let Some(held) = held.get_mut(&insider.tenant.id) {
            *held -= insider.slots;
        }
        places.push(place);
    }
    Some(places)
}

/// Slots, to be compared by weight.
#[derive(Debug, Clone, Copy)]
struct Share {
    slots: usize,
    weight: NonZeroU32,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let weighed = |slots: usize, weight: NonZeroU32| slots as u128 * u128::from(weight.get());
        weighed(self.slots, other.weight).cmp(&weighed(other.slots, self.weight))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: u32, weight: u32) -> Tenant {
        Tenant {
            id: TenantId(id),
            weight: NonZeroU32::new(weight).expect("not 0"),
            ..Tenant::default()
        }
    }

    fn waiting(tenant: Tenant, slots: usize) -> Insider {
        Insider {
            tenant,
            slots,
            is_waiting: true,
        }
    }

    #[test]
    fn the_latest_of_whoever_holds_most_makes_room_for_one_that_holds_less() {
        let (tablet, till, kiosk) = (tenant(1, 1), tenant(2, 1), tenant(3, 1));
        let inside = [
            waiting(tablet, 1),
            waiting(till, 1),
            waiting(tablet, 1),
            waiting(tablet, 1),
            waiting(till, 1),
        ];
        assert_eq!(displaced(&inside, kiosk, 1, 1), Some(vec![3]));
        assert_eq!(
            displaced(&inside, kiosk, 2, 2),
            None,
            "it would then hold as much as each of them"
        );
        assert_eq!(
            displaced(&inside, tablet, 1, 1),
            None,
            "it fills the queue itself"
        );
        assert_eq!(
            displaced(&inside, till, 1, 1),
            None,
            "it would hold as much"
        );
    }

    #[test]
    fn what_has_started_stays() {
        let (tablet, till) = (tenant(1, 1), tenant(2, 1));
        let started = Insider {
            is_waiting: false,
            ..waiting(tablet, 1)
        };
        let inside = [waiting(tablet, 1), started, started];
        assert_eq!(displaced(&inside, till, 1, 1), Some(vec![0]));
        assert_eq!(displaced(&[started; 3], till, 1, 1), None);
    }

    #[test]
    fn weights_say_who_holds_most() {
        let (back_office, tills, kiosk) = (tenant(1, 1), tenant(2, 4), tenant(3, 1));
        let mut inside = vec![waiting(tills, 1); 6];
        inside.push(waiting(back_office, 1));
        inside.push(waiting(back_office, 1));
        assert_eq!(displaced(&inside, kiosk, 1, 1), Some(vec![7]));
        assert_eq!(displaced(&inside, tills, 1, 1), Some(vec![7]));
        assert_eq!(displaced(&inside, back_office, 1, 1), None);
    }

    #[test]
    fn a_request_with_several_slots_goes_as_a_whole() {
        let (tablet, till) = (tenant(1, 1), tenant(2, 1));
        let inside = [waiting(tablet, 1), waiting(tablet, 4)];
        assert_eq!(displaced(&inside, till, 3, 3), Some(vec![1]));
    }

    #[test]
    fn a_ticket_is_started_or_displaced_and_never_both() {
        let ticket = Ticket::default();
        assert!(ticket.is_waiting() && ticket.start() && ticket.start());
        assert!(!ticket.displace() && !ticket.is_displaced());
        let ticket = Ticket::default();
        assert!(ticket.displace() && ticket.is_displaced());
        assert!(!ticket.start() && !ticket.is_waiting());
    }
}
