//! Requests whose clients want their answers by a certain time.

use super::*;
use crate::governor::Measures;
use crate::headroom::EnergyRate;

/// A clock that stands still unless it is told to go on.
struct Clock {
    now: Cell<Instant>,
}

impl Clock {
    fn new() -> Self {
        Self {
            now: Cell::new(Instant::now()),
        }
    }

    fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    /// A step that takes `took`.
    fn step(&self, scheduler: &mut Scheduler<FakeEngine>, took: Duration) {
        let asked = Cell::new(0);
        scheduler.step(&|| {
            // The second time it is asked the batch has just begun, the third time it has ended.
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                self.pass(took);
            }
            self.now.get()
        });
        check_integrity(scheduler);
    }

    /// A request that arrives now and allows so much time.
    fn submit(
        &self,
        scheduler: &mut Scheduler<FakeEngine>,
        prompt: &[Token],
        max_tokens: u32,
        allowed: Duration,
    ) -> EventReceiver {
        let (mut job, events) = job(prompt, max_tokens);
        job.arrived = self.now.get();
        job.deadline = Some(self.now.get() + allowed);
        scheduler.submit(job);
        events
    }
}

const STEP: Duration = Duration::from_millis(10);

fn is_passed(end: Option<&AnswerEvent>) -> bool {
    let Some(AnswerEvent::Failed(WorkError::DeadlinePassed { retry_after })) = end else {
        return false;
    };
    *retry_after >= Duration::from_secs(1)
}

#[test]
fn one_that_waits_past_its_deadline_is_dropped_at_the_next_step() {
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let mut running: Vec<_> = (0..4)
        .map(|seed| clock.submit(&mut scheduler, &prompt(seed, 20), 60, 1000 * STEP))
        .collect();
    let mut late = clock.submit(&mut scheduler, &prompt(9, 20), 5, 3 * STEP);
    for _ in 0..3 {
        clock.step(&mut scheduler, STEP);
        assert_eq!(received(&mut late).1, None);
    }
    clock.step(&mut scheduler, STEP);
    assert!(is_passed(received(&mut late).1.as_ref()));
    assert_eq!(scheduler.sequences.waiting.len(), 0);
    assert_eq!(scheduler.metrics.late_waiting.get(), 1);
    run_dry(&mut scheduler);
    for (seed, events) in running.iter_mut().enumerate() {
        assert_eq!(received(events).0, expected(&prompt(seed, 20), 60));
    }
}

#[test]
fn one_whose_prompt_is_still_being_read_has_nothing_to_give_and_is_dropped() {
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let mut late = clock.submit(&mut scheduler, &prompt(1, 400), 5, 3 * STEP);
    for _ in 0..3 {
        clock.step(&mut scheduler, STEP);
    }
    assert_eq!(scheduler.sequences.running.len(), 1);
    clock.step(&mut scheduler, STEP);
    assert!(is_passed(received(&mut late).1.as_ref()));
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.sequences.cache.live(), 0);
    assert_eq!(scheduler.metrics.late_waiting.get(), 1);
}

#[test]
fn an_answer_under_way_ends_with_what_there_is() {
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let prompt = prompt(1, 20);
    let mut late = clock.submit(&mut scheduler, &prompt, 300, 8 * STEP);
    let steps = (1..100).find(|_| {
        clock.step(&mut scheduler, STEP);
        scheduler.is_idle()
    });
    assert_eq!(steps, Some(9), "never later than a step after");
    let (text, end) = received(&mut late);
    let Some(AnswerEvent::Finished(end)) = end else {
        panic!("no end: {end:?}");
    };
    assert_eq!((end.reason, end.is_late), (FinishReason::Length, true));
    assert_eq!(text, expected(&prompt, end.generated_tokens));
    assert!(end.generated_tokens > 0);
    assert_eq!(scheduler.metrics.late_running.get(), 1);
    assert_eq!(scheduler.metrics.late_waiting.get(), 0);
}

#[test]
fn text_that_was_held_back_for_a_stop_string_comes_with_the_end() {
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let prompt = prompt(1, 20);
    let whole = expected(&prompt, 300);
    let held = format!("{}never", whole.chars().take(200).collect::<String>());
    let (mut job, mut events) = job(&prompt, 300);
    job.stops = Stops::new(vec![held], &crate::prompt::OutputParser::new(None, None));
    job.arrived = clock.now.get();
    job.deadline = Some(clock.now.get() + 8 * STEP);
    scheduler.submit(job);
    for _ in 0..8 {
        clock.step(&mut scheduler, STEP);
    }
    assert_eq!(received(&mut events), (String::new(), None), "held back");
    clock.step(&mut scheduler, STEP);
    let (text, end) = received(&mut events);
    let Some(AnswerEvent::Finished(end)) = end else {
        panic!("no end: {end:?}");
    };
    assert_eq!(text, expected(&prompt, end.generated_tokens));
}

#[test]
fn one_that_was_preempted_in_mid_answer_ends_with_what_there_is() {
    let (scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let fixed = |flex| {
        let measures = Measures {
            flex,
            ..Measures::NONE
        };
        GovernorHandle::fixed(measures, None::<EnergyRate>)
    };
    let mut scheduler = scheduler.governed_by(fixed(true));
    let (mut job, mut events) = job(&prompt(1, 20), 300);
    job.class = ServiceTier::Flex;
    job.arrived = clock.now.get();
    job.deadline = Some(clock.now.get() + 60 * STEP);
    scheduler.submit(job);
    for _ in 0..5 {
        clock.step(&mut scheduler, STEP);
    }
    scheduler = scheduler.governed_by(fixed(false));
    clock.step(&mut scheduler, STEP);
    assert!(scheduler.sequences.is_held_back());
    clock.pass(60 * STEP);
    // No step is computed while it is held back, and a rest may be long.
    scheduler.look_while_resting(clock.now.get());
    assert!(scheduler.is_idle());
    let (text, end) = received(&mut events);
    assert!(!text.is_empty());
    assert!(matches!(end, Some(AnswerEvent::Finished(end)) if end.is_late));
}

#[test]
fn a_slot_is_free_before_the_client_hears_that_it_was_too_late() {
    use crate::admission::{Drain, Gate, Tenant};
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let drain = Drain::default();
    let gate = Gate::new(1, drain.clone(), GovernorHandle::default());
    let (slot, _presence) = gate.admit(Tenant::default(), drain.enter()).expect("room");
    let (mut job, mut events) = job(&prompt(1, 20), 5);
    job.place = Some(slot);
    job.arrived = clock.now.get();
    job.deadline = Some(clock.now.get());
    scheduler.submit(job);
    assert!(gate.would_admit().is_err());
    clock.step(&mut scheduler, STEP);
    assert!(is_passed(received(&mut events).1.as_ref()));
    assert!(gate.would_admit().is_ok());
}

#[test]
fn a_request_that_is_done_in_time_knows_nothing_of_its_deadline() {
    let (mut scheduler, clock) = (scheduler(SHAPE), Clock::new());
    let prompt = prompt(1, 20);
    let mut events = clock.submit(&mut scheduler, &prompt, 10, 100 * STEP);
    while !scheduler.is_idle() {
        clock.step(&mut scheduler, STEP);
    }
    let (text, end) = received(&mut events);
    assert_eq!(text, expected(&prompt, 10));
    assert!(matches!(end, Some(AnswerEvent::Finished(end)) if !end.is_late));
    assert_eq!(scheduler.metrics.late_running.get(), 0);
}
