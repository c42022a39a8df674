//! The ladder, pressure by pressure.

use proptest::prelude::*;

use super::*;
use crate::config::{Sources, load};

fn policy() -> Policy {
    Policy::new(&load(&Sources::default()).expect("defaults").governor)
}

fn given(resource: Resource, value: f64) -> LadderInput {
    LadderInput {
        pressures: vec![Pressure {
            resource,
            value,
            is_given: true,
        }],
        pacer: None,
    }
}

/// A ladder and its clock, a look a second.
struct Ladder {
    policy: Policy,
    state: LadderState,
    now: Instant,
}

impl Ladder {
    fn new() -> Self {
        let policy = policy();
        Self {
            state: LadderState::new(&policy),
            policy,
            now: Instant::now(),
        }
    }

    fn look(&mut self, input: &LadderInput) -> Measures {
        self.now += Duration::from_secs(1);
        self.state = self.state.next(&self.policy, input, self.now);
        self.state.measures(&self.policy, input, self.now)
    }

    fn looks(&mut self, input: &LadderInput, times: usize) -> Measures {
        (0..times).map(|_| self.look(input)).last().expect("some")
    }

    fn level(&self) -> u8 {
        self.state.level(&self.policy)
    }
}

#[test]
fn calm_changes_nothing() {
    let mut ladder = Ladder::new();
    for resource in Resource::ALL {
        assert_eq!(ladder.looks(&given(resource, 0.5), 60), Measures::NONE);
    }
    assert_eq!(ladder.looks(&LadderInput::default(), 60), Measures::NONE);
    assert_eq!(ladder.level(), 0);
}

#[test]
fn a_moment_of_pressure_does_nothing_and_a_while_does() {
    let mut ladder = Ladder::new();
    let hot = given(Resource::Thermal, 0.95);
    assert_eq!(ladder.looks(&hot, 2), Measures::NONE);
    assert_eq!(ladder.look(&given(Resource::Thermal, 0.2)), Measures::NONE);
    assert_eq!(ladder.looks(&hot, 2), Measures::NONE);
    assert!(!ladder.look(&hot).flex);
}

#[test]
fn high_pressure_ends_in_refusal_with_its_reason_and_only_after_milder_measures() {
    for (resource, graded) in [
        (Resource::Power, Action::Pace),
        (Resource::Thermal, Action::Pace),
        (Resource::Memory, Action::Cache),
    ] {
        let mut ladder = Ladder::new();
        let mut seen = Vec::new();
        for _ in 0..12 {
            let measures = ladder.look(&given(resource, 0.95));
            seen.push(measures);
        }
        let refused = seen.iter().position(|measures| measures.refusal.is_some());
        let refused = refused.unwrap_or_else(|| panic!("{resource:?} never refuses"));
        assert!((4..10).contains(&refused), "{resource:?} after {refused} s");
        let before = seen[refused - 1];
        assert!(
            (before.rows - 0.25).abs() < 1e-9 && !before.flex,
            "{before:?}"
        );
        match graded {
            Action::Cache => assert!(before.parked < 1e-9),
            _ => assert!((before.duty - 0.1).abs() < 1e-9),
        }
        let refusal = seen
            .last()
            .and_then(|measures| measures.refusal)
            .expect("still");
        assert_eq!(refusal.resource, resource);
        assert_eq!(refusal.retry_after, Duration::from_secs(15));
        assert_eq!(ladder.level(), 6);
    }
}

#[test]
fn siblings_answer_before_requests_are_refused_and_for_a_while_after_it_is_over() {
    for (resource, value) in [
        (Resource::Power, 0.89),
        (Resource::Thermal, 0.89),
        (Resource::Memory, 0.945),
    ] {
        let mut ladder = Ladder::new();
        let just_below = given(resource, value - 0.075);
        assert_eq!(ladder.looks(&just_below, 60).sibling, None);
        let pressed = given(resource, value);
        assert_eq!(ladder.looks(&pressed, 2).sibling, None, "it must last");
        let measures = ladder.looks(&pressed, 60);
        assert_eq!(measures.sibling, Some(resource));
        assert_eq!(measures.refusal, None);
        assert_eq!(ladder.level(), 5);
        // As long as pressure is not clearly below where it began, and then for 15 s.
        let near = given(resource, value - 0.02);
        assert_eq!(ladder.looks(&near, 60).sibling, Some(resource));
        let calm = LadderInput::default();
        assert_eq!(ladder.looks(&calm, 15).sibling, Some(resource));
        assert_eq!(ladder.looks(&calm, 2).sibling, None);
    }
}

#[test]
fn a_refusal_does_not_wait_for_siblings_that_may_not_exist() {
    let mut settings = load(&Sources::default()).expect("defaults").governor;
    let mut refused_after = Vec::new();
    for percent in [0, settings.thermal_sibling_percent] {
        settings.thermal_sibling_percent = percent;
        let mut ladder = Ladder::new();
        ladder.policy = Policy::new(&settings);
        ladder.state = LadderState::new(&ladder.policy);
        let hot = given(Resource::Thermal, 0.95);
        let first = (1..60).find(|_| ladder.look(&hot).refusal.is_some());
        refused_after.push(first.expect("refused"));
    }
    assert_eq!(refused_after[0], refused_after[1]);
}

#[test]
fn power_that_the_controller_holds_needs_no_sibling() {
    let mut input = given(Resource::Power, 0.89);
    input.pressures[0].is_given = false;
    let mut ladder = Ladder::new();
    let mut pacer = Pacer::default();
    pacer.is_biting = true;
    input.pacer = Some(pacer);
    assert_eq!(ladder.looks(&input, 30).sibling, None);
    pacer.is_exhausted = true;
    input.pacer = Some(pacer);
    assert_eq!(ladder.looks(&input, 30).sibling, Some(Resource::Power));
}

#[test]
fn other_programs_cost_rows_after_half_a_minute_and_nobody_is_refused() {
    let mut ladder = Ladder::new();
    let busy = given(Resource::Cpu, 0.95);
    assert_eq!(ladder.looks(&busy, 29), Measures::NONE);
    let measures = ladder.looks(&busy, 10);
    assert!(measures.rows < 0.6 && measures.refusal.is_none());
    assert_eq!(ladder.looks(&given(Resource::Cpu, 1.0), 300).refusal, None);
}

#[test]
fn recovery_is_as_automatic_as_the_descent() {
    let mut ladder = Ladder::new();
    ladder.looks(&given(Resource::Thermal, 1.0), 30);
    assert_eq!(ladder.level(), 6);
    // Just below the threshold is not over yet.
    assert!(
        ladder
            .looks(&given(Resource::Thermal, 0.87), 60)
            .refusal
            .is_some()
    );
    let measures = ladder.looks(&given(Resource::Thermal, 0.1), 17);
    assert_eq!(measures.refusal, None);
    assert_eq!(ladder.looks(&LadderInput::default(), 10), Measures::NONE);
    assert_eq!(ladder.level(), 0);
}

#[test]
fn what_keeps_coming_back_is_held_for_longer() {
    let mut ladder = Ladder::new();
    let mut lasted = Vec::new();
    for _ in 0..6 {
        ladder.looks(&given(Resource::Memory, 1.0), 10);
        let mut calm = 0;
        while ladder.level() > 0 {
            ladder.look(&LadderInput::default());
            calm += 1;
        }
        lasted.push(calm);
    }
    assert_eq!(lasted, [16, 31, 61, 121, 121, 121]);
    ladder.looks(&LadderInput::default(), 600);
    ladder.looks(&given(Resource::Memory, 1.0), 10);
    assert!(
        ladder.looks(&LadderInput::default(), 16) == Measures::NONE,
        "forgiven"
    );
}

#[test]
fn a_threshold_of_0_never_begins() {
    let mut settings = load(&Sources::default()).expect("defaults").governor;
    settings.thermal_refuse_percent = 0;
    settings.thermal_flex_percent = 0;
    let mut ladder = Ladder::new();
    ladder.policy = Policy::new(&settings);
    ladder.state = LadderState::new(&ladder.policy);
    let measures = ladder.looks(&given(Resource::Thermal, 1.0), 60);
    assert!(measures.flex && measures.refusal.is_none() && measures.duty < 0.2);
}

#[test]
fn power_that_the_controller_holds_costs_no_rows_and_no_refusal() {
    let mut ladder = Ladder::new();
    let mut input = given(Resource::Power, 0.95);
    input.pressures[0].is_given = false;
    let energy_rate = crate::headroom::EnergyRate {
        idle: Some(8.0),
        work: 12.0,
    };
    let interval = crate::governor::pacer::Interval {
        watts: 20.0,
        budget: 12.0,
        busy: 1.0,
    };
    let mut pacer = Pacer::default();
    for _ in 0..5 {
        let interval = crate::governor::pacer::Interval {
            busy: pacer.duty(),
            watts: 12.0,
            ..interval
        };
        pacer = pacer.next(interval, Some(energy_rate), 0.1);
    }
    assert!(pacer.is_biting && !pacer.is_exhausted);
    input.pacer = Some(pacer);
    let measures = ladder.looks(&input, 30);
    assert!((measures.rows - 1.0).abs() < 1e-9 && measures.refusal.is_none());
    assert!(measures.duty < 1.0);
    assert_eq!(ladder.level(), Action::Pace.level());
    let mut pacer = Pacer::default();
    for _ in 0..30 {
        pacer = pacer.next(interval, Some(energy_rate), 0.1);
    }
    assert!(pacer.is_exhausted);
    input.pacer = Some(pacer);
    let measures = ladder.looks(&input, 10);
    assert!(measures.rows < 0.5 && measures.refusal.is_some());
}

proptest! {
    /// Whatever pressures come, known or not: measures stay in their bounds, move slowly, and are
    /// gone some time after the last pressure.
    #[test]
    fn measures_are_bounded_gradual_and_end(
        pressures in prop::collection::vec(
            prop::collection::vec((0_usize..4, 0.0_f64..=1.0), 0..4), 1..200),
    ) {
        let mut ladder = Ladder::new();
        let mut last = Measures::NONE;
        for pressures in pressures {
            let input = LadderInput {
                pressures: pressures
                    .into_iter()
                    .map(|(resource, value)| Pressure {
                        resource: Resource::ALL[resource],
                        value,
                        is_given: true,
                    })
                    .collect(),
                pacer: None,
            };
            let measures = ladder.look(&input);
            prop_assert!((0.25..=1.0).contains(&measures.rows));
            prop_assert!((0.1..=1.0).contains(&measures.duty));
            prop_assert!((0.0..=1.0).contains(&measures.parked));
            prop_assert!(last.duty - measures.duty <= UP + 1e-9);
            prop_assert!(last.rows - measures.rows <= UP + 1e-9);
            last = measures;
        }
        // Eight times the recovery time at most.
        prop_assert_eq!(ladder.looks(&LadderInput::default(), 8 * 15 + 11), Measures::NONE);
        prop_assert_eq!(ladder.level(), 0);
    }
}
