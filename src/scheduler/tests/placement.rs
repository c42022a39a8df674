//! How many conversations run together where each slows the others down.

use super::*;

/// Two of 50 cells each slow each other down, four with one of their own do not.
const NARROW: Shape = Shape {
    break_even_cells: Some(100),
    ..SHAPE
};

fn ask(scheduler: &mut Scheduler<FakeEngine>, prompt: Vec<Token>) -> (Vec<Token>, EventReceiver) {
    let events = submit(scheduler, &prompt, 10);
    (prompt, events)
}

/// Steps until all is done; returns how many ran together at most.
fn most_together(scheduler: &mut Scheduler<FakeEngine>) -> usize {
    let mut most = 0;
    while !scheduler.is_idle() {
        step(scheduler);
        most = most.max(scheduler.sequences.running.len());
    }
    most
}

#[test]
fn unrelated_prompts_go_one_after_the_other_and_all_are_answered() {
    let mut scheduler = scheduler(NARROW);
    // What a step takes has to be known.
    let _known = ask(&mut scheduler, prompt(9, 5));
    run_dry(&mut scheduler);
    let mut all: Vec<_> = (0..5)
        .map(|seed| ask(&mut scheduler, prompt(seed, 50)))
        .collect();
    assert_eq!(most_together(&mut scheduler), 1);
    for (prompt, events) in &mut all {
        assert_eq!(received(events).0, expected(prompt, 10));
    }
}

#[test]
fn those_that_share_their_prompt_run_together_and_go_before_one_that_does_not() {
    let mut scheduler = scheduler(NARROW);
    let _known = ask(&mut scheduler, prompt(7, 60));
    run_dry(&mut scheduler);
    let kiosk = |scheduler: &mut Scheduler<FakeEngine>, seed: usize| {
        let mut asked = prompt(7, 60);
        asked.push(Token(i32::try_from(seed).expect("small")));
        ask(scheduler, asked)
    };
    let mut first = kiosk(&mut scheduler, 0);
    step(&mut scheduler);
    let mut unrelated = ask(&mut scheduler, prompt(3, 300));
    let mut others: Vec<_> = (1..4).map(|seed| kiosk(&mut scheduler, seed)).collect();
    step(&mut scheduler);
    assert_eq!(
        scheduler.sequences.running.len(),
        4,
        "the one in between waits"
    );
    assert!(received(&mut unrelated.1).1.is_none());
    run_dry(&mut scheduler);
    others.push(unrelated);
    for (prompt, events) in others.iter_mut().chain([&mut first]) {
        assert_eq!(received(events).0, expected(prompt, 10));
    }
}

#[test]
fn a_higher_class_does_not_wait_for_the_sake_of_others() {
    let mut scheduler = scheduler(NARROW);
    let _known = ask(&mut scheduler, prompt(9, 5));
    run_dry(&mut scheduler);
    let _usual = ask(&mut scheduler, prompt(1, 200));
    step(&mut scheduler);
    let (mut urgent, _events) = job(&prompt(2, 200), 10);
    urgent.class = ServiceTier::Priority;
    scheduler.submit(urgent);
    step(&mut scheduler);
    assert_eq!(scheduler.sequences.running.len(), 2);
}
