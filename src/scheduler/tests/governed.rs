//! What a scheduler does of what the governor asks.

use super::*;
use crate::governor::Measures;
use crate::headroom::EnergyRate;

const WATTS: Option<EnergyRate> = Some(EnergyRate {
    idle: Some(8.0),
    work: 12.0,
});

fn obeying(measures: Measures) -> Scheduler<FakeEngine> {
    scheduler(SHAPE).governed_by(GovernorHandle::fixed(measures, WATTS))
}

fn of_class(
    class: ServiceTier,
    prompt: &[Token],
    max_tokens: u32,
) -> (GenerationJob, EventReceiver) {
    let (mut job, events) = job(prompt, max_tokens);
    job.class = class;
    (job, events)
}

#[test]
fn fewer_rows_run_and_all_answers_are_whole_in_the_end() {
    let mut scheduler = obeying(Measures {
        rows: 0.5,
        ..Measures::NONE
    });
    let mut all: Vec<_> = (0..6)
        .map(|seed| {
            let prompt = prompt(seed, 20);
            let events = submit(&mut scheduler, &prompt, 10);
            (prompt, events)
        })
        .collect();
    while !scheduler.is_idle() {
        step(&mut scheduler);
        assert!(scheduler.sequences.running.len() <= 2);
    }
    for (prompt, events) in &mut all {
        assert_eq!(received(events).0, expected(prompt, 10));
    }
}

#[test]
fn flex_is_parked_in_mid_answer_and_goes_on_as_if_nothing_had_been() {
    let mut scheduler = obeying(Measures::NONE);
    let prompts = [prompt(1, 30), prompt(2, 30)];
    let (flex, mut flex_events) = of_class(ServiceTier::Flex, &prompts[0], 20);
    let (usual, mut usual_events) = of_class(ServiceTier::Default, &prompts[1], 20);
    scheduler.submit(flex);
    scheduler.submit(usual);
    for _ in 0..8 {
        step(&mut scheduler);
    }
    assert_eq!(scheduler.sequences.running.len(), 2);
    let parked = Measures {
        flex: false,
        ..Measures::NONE
    };
    scheduler = scheduler.governed_by(GovernorHandle::fixed(parked, WATTS));
    for _ in 0..100 {
        step(&mut scheduler);
    }
    assert!(received(&mut usual_events).1.is_some(), "the other is done");
    assert!(scheduler.sequences.running.is_empty() && !scheduler.is_idle());
    assert!(
        scheduler.rest_after(Duration::ZERO) > Duration::ZERO,
        "no spinning"
    );
    scheduler = scheduler.governed_by(GovernorHandle::default());
    run_dry(&mut scheduler);
    let (text, end) = received(&mut flex_events);
    assert_eq!(text, expected(&prompts[0], 20));
    assert!(matches!(end, Some(AnswerEvent::Finished(_))));
}

#[test]
fn what_is_kept_of_ended_requests_shrinks_to_its_share() {
    let mut scheduler = scheduler(SHAPE);
    for seed in 0..3 {
        let _events = submit(&mut scheduler, &prompt(seed, 100), 2);
        run_dry(&mut scheduler);
    }
    let kept = scheduler.sequences.cache.parked_cells();
    let shrink_to = |scheduler: Scheduler<FakeEngine>, parked| {
        let measures = Measures {
            parked,
            ..Measures::NONE
        };
        let mut scheduler = scheduler.governed_by(GovernorHandle::fixed(measures, WATTS));
        step(&mut scheduler);
        scheduler
    };
    scheduler = shrink_to(scheduler, 0.25);
    let fewer = scheduler.sequences.cache.parked_cells();
    assert!(
        fewer < kept && fewer > 0 && fewer <= 128,
        "{fewer} of {kept}"
    );
    let bytes = scheduler.sequences.cache.offloaded_bytes();
    assert_eq!(
        bytes, 0,
        "what is evicted for want of memory is not offloaded"
    );
    scheduler = shrink_to(scheduler, 0.0);
    assert_eq!(scheduler.sequences.cache.parked_cells(), 0);
    assert_eq!(scheduler.sequences.cache.offloaded_bytes(), 0);
}

#[test]
fn a_paced_step_is_followed_by_its_rest() {
    let scheduler = obeying(Measures {
        duty: 0.25,
        ..Measures::NONE
    });
    let rest = scheduler.rest_after(Duration::from_millis(20));
    assert_eq!(rest, Duration::from_millis(60));
}

#[test]
fn requests_share_the_energy_of_the_engines_time() {
    let mut scheduler = obeying(Measures::NONE);
    let mut all = Vec::new();
    for seed in 0..3 {
        let events = submit(&mut scheduler, &prompt(seed, 40), 8);
        all.push(events);
    }
    run_dry(&mut scheduler);
    let joules: f64 = all
        .iter_mut()
        .map(|events| match received(events).1 {
            Some(AnswerEvent::Finished(finished)) => finished.energy_joules.expect("known"),
            end => panic!("{end:?}"),
        })
        .sum();
    let seconds = scheduler.metrics.busy_seconds.get();
    assert!(
        (joules - 20.0 * seconds).abs() < 1e-6,
        "{joules} J in {seconds} s"
    );
}

#[test]
fn energy_that_nobody_knows_is_not_0() {
    let mut scheduler = scheduler(SHAPE);
    let mut events = submit(&mut scheduler, &prompt(1, 40), 8);
    run_dry(&mut scheduler);
    let Some(AnswerEvent::Finished(finished)) = received(&mut events).1 else {
        panic!("no end");
    };
    assert_eq!(finished.energy_joules, None);
}
