//! What is foreseen of requests to a scheduler with the fake engine, and what is learnt from how they end.

use std::cell::Cell;

use super::*;
use crate::engine::Token;
use crate::engine::fake::{BytePieces, FakeEngine};
use crate::scheduler::{EventReceiver, Scheduler, SchedulerLimits};
use crate::telemetry::Metrics;

const SHAPE: Shape = Shape {
    cells: 8192,
    sequences: 16,
    batch_rows: 64,
    ..crate::scheduler::tests::SHAPE
};

/// A scheduler on a machine where a step takes 10 ms, and a tenth of a millisecond more for each row.
struct Machine {
    scheduler: Scheduler<FakeEngine>,
    board: LoadBoard,
    now: Cell<Instant>,
    listeners: Vec<EventReceiver>,
}

impl Machine {
    fn new(rows: usize) -> Self {
        let metrics = Metrics::new().expect("metrics").for_model("fake");
        let limits = SchedulerLimits {
            max_running: rows,
            target_inter_token: Duration::from_millis(150),
            speculation: false,
            parked_bytes: 0,
            deterministic: false,
        };
        let engine = FakeEngine::new(SHAPE);
        let scheduler = Scheduler::new(engine, Arc::new(BytePieces::default()), limits, metrics);
        Self {
            board: scheduler.load_board(),
            scheduler,
            now: Cell::new(Instant::now()),
            listeners: Vec::new(),
        }
    }

    /// Asks for an answer of exactly so many tokens within `allowed`.
    fn ask(
        &mut self,
        seed: i32,
        tokens: u32,
        allowed: Option<Duration>,
    ) -> Result<Option<Duration>, MissedDeadline> {
        self.ask_as(seed, tokens, allowed, |_| ())
    }

    fn ask_as(
        &mut self,
        seed: i32,
        tokens: u32,
        allowed: Option<Duration>,
        change: impl FnOnce(&mut GenerationJob),
    ) -> Result<Option<Duration>, MissedDeadline> {
        let prompt: Vec<Token> = (0..50)
            .map(|at| Token((seed * 31 + at * 7) % 200))
            .collect();
        let (mut job, events) = GenerationJob::greedy(prompt, tokens);
        job.ignore_end = true;
        job.arrived = self.now.get();
        job.deadline = allowed.map(|allowed| self.now.get() + allowed);
        change(&mut job);
        let estimate = self.board.announce(&mut [&mut job], self.now.get())?;
        self.scheduler.submit(job);
        self.listeners.push(events);
        Ok(estimate)
    }

    fn step(&mut self) {
        let asked = Cell::new(0);
        self.scheduler.step(&|| {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                self.now.set(self.now.get() + Duration::from_millis(10));
            }
            self.now.get()
        });
    }

    fn run_dry(&mut self) -> Duration {
        let began = self.now.get();
        while !self.scheduler.is_idle() {
            self.step();
        }
        self.now.get() - began
    }

    /// Has answered enough to know itself.
    fn experienced(rows: usize) -> Self {
        let mut machine = Self::new(rows);
        for seed in 0..8 {
            machine.ask(seed, 20, None).expect("no deadline");
            machine.ask(seed + 100, 20, None).expect("no deadline");
            machine.run_dry();
        }
        machine
    }
}

fn near(estimate: Duration, actual: Duration) {
    let ratio = estimate.as_secs_f64() / actual.as_secs_f64();
    assert!((0.6..1.6).contains(&ratio), "{estimate:?} for {actual:?}");
}

#[test]
fn a_fresh_server_estimates_and_refuses_nothing() {
    let mut machine = Machine::new(4);
    let estimate = machine.ask(1, 1000, Some(Duration::from_millis(1)));
    assert_eq!(estimate, Ok(None));
}

#[test]
fn an_estimate_knows_of_those_before() {
    let mut machine = Machine::experienced(1);
    let alone = machine.ask(50, 40, None).expect("admitted").expect("known");
    near(alone, machine.run_dry());
    for seed in 60..64 {
        machine.ask(seed, 40, None).expect("admitted");
    }
    let behind = machine.ask(70, 40, None).expect("admitted").expect("known");
    near(behind, machine.run_dry());
    assert!(behind > 3 * alone, "{behind:?} {alone:?}");
}

#[test]
fn those_that_the_scheduler_has_not_seen_yet_count_once() {
    let mut machine = Machine::experienced(1);
    machine.ask(50, 100, None).expect("admitted");
    let before = machine.ask(51, 10, None).expect("admitted").expect("known");
    machine.step();
    let after = machine.ask(52, 10, None).expect("admitted").expect("known");
    near(after, before + before / 10);
    machine.run_dry();
    assert!(machine.board.board().incoming.is_empty());
    assert!(machine.board.board().running.is_empty());
}

#[test]
fn what_cannot_be_met_is_refused_with_when_it_could_be() {
    let mut machine = Machine::experienced(1);
    machine.ask(50, 1000, None).expect("admitted");
    machine.step();
    let allowed = Duration::from_secs(2);
    let missed = machine.ask(51, 20, Some(allowed)).expect_err("refused");
    assert_eq!((missed.allowed, missed.even_alone), (allowed, false));
    let wait = missed.retry_after;
    assert!(wait > Duration::from_secs(5), "{wait:?}");
    let then = machine.now.get() + wait;
    while machine.now.get() < then {
        machine.step();
    }
    assert!(machine.ask(51, 20, Some(allowed)).is_ok(), "as it was told");
    machine.run_dry();
    let mut last = machine.listeners.pop().expect("one");
    let mut is_late = None;
    while let Some(event) = last.try_recv() {
        if let crate::scheduler::AnswerEvent::Finished(end) = event {
            is_late = Some(end.is_late);
        }
    }
    assert_eq!(is_late, Some(false));
}

#[test]
fn what_would_take_too_long_even_alone_is_told_so() {
    let mut machine = Machine::experienced(4);
    let missed = machine.ask(50, 3000, Some(Duration::from_secs(1)));
    assert!(missed.expect_err("refused").even_alone);
}

#[test]
fn one_whose_deadline_passed_on_the_way_is_refused_at_once() {
    let mut machine = Machine::new(4);
    let late = machine.ask_as(1, 10, Some(Duration::from_secs(1)), |job| {
        job.arrived -= Duration::from_secs(5);
        job.deadline = Some(job.arrived + Duration::from_secs(1));
    });
    assert_eq!(late, Err(MissedDeadline::passed(Duration::from_secs(1))));
    assert!(machine.board.board().incoming.is_empty());
}

#[test]
fn lower_tiers_do_not_count_as_before_it() {
    let mut machine = Machine::experienced(1);
    machine.ask(50, 10, None).expect("admitted");
    machine.step();
    for seed in 60..66 {
        let flex = |job: &mut GenerationJob| job.class = ServiceTier::Flex;
        machine.ask_as(seed, 100, None, flex).expect("admitted");
    }
    let usual = machine.ask(70, 10, None).expect("admitted").expect("known");
    let flex = machine.ask_as(71, 10, None, |job| job.class = ServiceTier::Flex);
    let flex = flex.expect("admitted").expect("known");
    assert!(flex > 5 * usual, "{flex:?} {usual:?}");
}

#[test]
fn one_who_floods_is_not_counted_against_others() {
    let mut machine = Machine::experienced(1);
    for seed in 50..60 {
        let flood = |job: &mut GenerationJob| job.tenant.id = TenantId(7);
        machine.ask_as(seed, 100, None, flood).expect("admitted");
    }
    let own = machine
        .ask(70, 100, None)
        .expect("admitted")
        .expect("known");
    let flood = machine.ask_as(71, 100, None, |job| job.tenant.id = TenantId(7));
    let flood = flood.expect("admitted").expect("known");
    assert!(own < flood / 3, "{own:?} {flood:?}");
}

#[test]
fn a_server_that_was_slow_for_a_while_finds_out_that_it_no_longer_is() {
    let mut machine = Machine::experienced(1);
    let level = LoadLevel::of(0);
    for _ in 0..50 {
        let kind = RequestKind::of(50, 20);
        machine
            .board
            .board()
            .correction
            .learn(level, kind, 1.0, 8.0);
    }
    let allowed = Some(Duration::from_millis(400));
    assert!(machine.ask(50, 20, allowed).is_err());
    let probed = (0..20).any(|_| {
        machine.now.set(machine.now.get() + Duration::from_secs(30));
        machine.ask(51, 20, allowed).is_ok()
    });
    assert!(probed, "nothing would ever be learnt");
}

#[test]
fn an_answer_that_was_cut_off_shows_that_the_estimate_was_too_short() {
    let machine = Machine::experienced(1);
    let kind = RequestKind::of(50, 100);
    let before = machine
        .board
        .board()
        .correction
        .factor(LoadLevel::of(0), kind);
    let made = machine.now.get();
    let lesson = |took: Duration| {
        let forecast = Forecast {
            ticket: Ticket(0),
            made,
            simulated: Some(1.0),
            level: LoadLevel::of(0),
            kind,
            unknown: 1,
            unread: 1,
        };
        let lesson = AnswerLesson {
            forecast: Some(forecast),
            prompt: 50,
            most: 100,
            ignores_end: false,
            generated: 10,
            uncached: None,
            is_whole: false,
        };
        machine.board.learn(lesson, made + took);
        machine
            .board
            .board()
            .correction
            .factor(LoadLevel::of(0), kind)
    };
    let same = lesson(Duration::from_millis(1));
    assert!((same - before).abs() < 1e-9, "it may have been right");
    assert!(lesson(Duration::from_secs(30)) > before);
}
