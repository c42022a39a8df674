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
    assert!(matches!(refusal, GateRefusal::Refused(why) if why.reason == RefusalReason::QueueFull));
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
    assert_eq!(
        too_late,
        AdmissionRefusal {
            reason: RefusalReason::Draining,
            ..clients_are_told
        }
        .into()
    );
}

#[test]
fn a_closed_gate_lets_nobody_in_and_those_inside_stay() {
    let drain = Drain::default();
    let gate = Gate::new(2, drain.clone(), GovernorHandle::default());
    let (slot, _presence) = gate.admit(Tenant::default(), drain.enter()).expect("room");
    assert!(!gate.close_if_empty(), "somebody is inside");
    assert!(gate.admit(Tenant::default(), drain.enter()).is_ok());
    gate.close();
    let refusal = gate.admit(Tenant::default(), drain.enter());
    assert_eq!(refusal.expect_err("closed"), GateRefusal::Closed);
    assert_eq!((slot.displaced(), gate.empty_since()), (None, None));
    let before = Instant::now();
    drop(slot);
    assert!(gate.empty_since() >= Some(before));
}

#[test]
fn nobody_is_inside_of_a_gate_that_was_closed_because_it_was_empty() {
    for _ in 0..200 {
        let drain = Drain::default();
        let gate = Gate::new(2, drain.clone(), GovernorHandle::default());
        let (closed, admitted) = std::thread::scope(|scope| {
            let closing = scope.spawn(|| gate.close_if_empty());
            let coming = scope.spawn(|| gate.admit(Tenant::default(), drain.enter()));
            (
                closing.join().expect("closed"),
                coming.join().expect("came"),
            )
        });
        assert_ne!(closed, admitted.is_ok());
    }
}
