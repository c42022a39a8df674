//! Groups of tenants that may not know of each other's prompts.

use super::*;

/// Offloads whatever is parked as soon as something else is computed.
const CROWDED: Shape = Shape {
    break_even_cells: Some(100_000),
    ..SHAPE
};
/// Copies prefixes between partitions that compute side by side.
const SIDE_BY_SIDE: Shape = Shape {
    partitions: 2,
    threads: ThreadLayout {
        parallel_partitions: 2,
        threads_per_partition: 1,
    },
    break_even_cells: Some(1000),
    ..SHAPE
};
/// Computes whoever is alone exactly.
const EXACT: Shape = Shape {
    partitions: 2,
    break_even_cells: Some(1000),
    exact_block: Some(8),
    ..SHAPE
};

fn submit_for(
    scheduler: &mut Scheduler<FakeEngine>,
    group: u32,
    prompt: &[Token],
) -> EventReceiver {
    let (mut job, events) = job(prompt, 3);
    job.tenant.prefix_group = PrefixGroup(group);
    scheduler.submit(job);
    events
}

/// How much of its prompt was known, of an answer that has to be right.
fn cached(prompt: &[Token], events: &mut EventReceiver) -> u32 {
    let (text, end) = received(events);
    assert_eq!(text, expected(prompt, 3));
    match end {
        Some(AnswerEvent::Finished(finished)) => finished.cached_tokens,
        other => panic!("no end: {other:?}"),
    }
}

/// Lets the groups ask the same prompt one after the other.
fn ask_in_turn(scheduler: &mut Scheduler<FakeEngine>, groups: &[u32]) -> Vec<u32> {
    let prompt = prompt(1, 120);
    let mut ask = |group: &u32| {
        let mut events = submit_for(scheduler, *group, &prompt);
        run_dry(scheduler);
        cached(&prompt, &mut events)
    };
    groups.iter().map(&mut ask).collect()
}

#[test]
fn what_another_group_has_asked_is_never_found() {
    for (shape, parked_bytes) in [
        (SHAPE, 0),
        (CROWDED, 1000),
        (SIDE_BY_SIDE, 1000),
        (EXACT, 0),
        (EXACT, 1000),
    ] {
        let mut scheduler = with_parked_bytes(FakeEngine::new(shape), parked_bytes);
        let found = ask_in_turn(&mut scheduler, &[1, 2, 3, 2]);
        assert_eq!(found[..3], [0; 3], "{shape:?}");
        // Exact ones share whole blocks.
        assert!(found[3] >= 112, "its own is found: {found:?}, {shape:?}");
    }
}

#[test]
fn a_prompt_that_another_group_has_offloaded_is_not_copied_in() {
    let mut scheduler = with_parked_bytes(FakeEngine::new(CROWDED), 1000);
    let found = ask_in_turn(&mut scheduler, &[1, 2, 1, 2]);
    assert_eq!(found, [0, 0, 119, 119]);
    let copied = scheduler.sequences.cache.engine().copied_in;
    assert!(copied >= 2 * 119, "each got its own copy: {copied}");
}

#[test]
fn groups_that_ask_the_same_at_once_neither_wait_for_nor_copy_from_each_other() {
    for shape in [SHAPE, CROWDED, SIDE_BY_SIDE, EXACT] {
        let mut scheduler = scheduler(shape);
        let prompt = prompt(1, 120);
        let mut ask = |group| submit_for(&mut scheduler, group, &prompt);
        let mut all = [ask(1), ask(2), ask(1), ask(2)];
        run_dry(&mut scheduler);
        let found = all.each_mut().map(|events| cached(&prompt, events));
        assert_eq!(found, [0, 0, 119, 119], "{shape:?}");
        let rows = scheduler.sequences.cache.engine().rows;
        assert!((2 * 120..3 * 120).contains(&rows), "{rows} rows, {shape:?}");
    }
}

#[test]
fn what_runs_for_one_group_is_not_copied_to_another_partition_for_another() {
    let mut scheduler = with_parked_bytes(FakeEngine::new(SIDE_BY_SIDE), 0);
    let prompt = prompt(1, 150);
    let mut first = submit_for(&mut scheduler, 1, &prompt);
    run_dry(&mut scheduler);
    let mut all = [1, 2, 1, 2].map(|group| submit_for(&mut scheduler, group, &prompt));
    run_dry(&mut scheduler);
    assert_eq!(cached(&prompt, &mut first), 0);
    let found = all.each_mut().map(|events| cached(&prompt, events));
    assert_eq!(found, [149, 0, 149, 149]);
}

#[derive(Debug, Clone)]
struct Asked {
    after_steps: usize,
    group: u32,
    store: usize,
    shared: usize,
    question: usize,
    own: usize,
    max_tokens: u32,
}

impl Asked {
    /// Its prompt, made of the tokens below 100, or those from `first` on.
    fn prompt(&self, first: i32) -> Vec<Token> {
        let mut tokens = prompt(self.store, self.shared);
        tokens.extend(prompt(20 + self.question, self.own));
        for token in &mut tokens {
            token.0 = first + token.0 % 100;
        }
        tokens
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        0_usize..6,
        0_u32..2,
        0_usize..2,
        0_usize..100,
        0_usize..3,
        1_usize..30,
        1_u32..40,
    )
        .prop_map(
            |(after_steps, group, store, shared, question, own, max_tokens)| Asked {
                after_steps,
                group,
                store,
                shared,
                question,
                own,
                max_tokens,
            },
        )
}

/// What is the same for all requests of a run.
#[derive(Debug, Clone)]
struct Setting {
    shape: Shape,
    parked_bytes: usize,
    deterministic: bool,
}

/// How much each request found cached and in which step it ended, where the prompts of the second group
/// are made of the tokens from `first` on. All answers consist of one token, so that they take as
/// long whatever the prompt says.
fn outcomes(setting: &Setting, all: &[Asked], first: i32) -> Vec<(u32, usize)> {
    let metrics = Metrics::new().expect("metrics").for_model("fake");
    let limits = SchedulerLimits {
        max_running: 4,
        target_inter_token: Duration::from_millis(150),
        speculation: true,
        parked_bytes: setting.parked_bytes,
        deterministic: setting.deterministic,
    };
    let engine = FakeEngine::new(setting.shape);
    let mut scheduler = Scheduler::new(engine, Arc::new(BytePieces::default()), limits, metrics);
    // The same time in every run: how long somebody waits decides as well.
    let now = Cell::new(Instant::now());
    let clock = || {
        now.set(now.get() + Duration::from_millis(1));
        now.get()
    };
    let mut steps = 0;
    let mut outcomes = vec![None; all.len()];
    let mut listening: Vec<EventReceiver> = Vec::new();
    let mut take_step = |scheduler: &mut Scheduler<FakeEngine>,
                         listening: &mut Vec<EventReceiver>| {
        scheduler.step(&clock);
        check_integrity(scheduler);
        steps += 1;
        for (events, outcome) in listening.iter_mut().zip(&mut outcomes) {
            if let Some(AnswerEvent::Finished(end)) = received(events).1 {
                *outcome = Some((end.cached_tokens, steps));
            }
        }
    };
    for asked in all {
        for _ in 0..asked.after_steps {
            take_step(&mut scheduler, &mut listening);
        }
        let prompt = asked.prompt(if asked.group == 0 { 0 } else { first });
        let (mut job, events) = job(&prompt, asked.max_tokens);
        job.tenant.prefix_group = PrefixGroup(asked.group);
        job.sampling.logit_bias = vec![(Token(250), 1000.0)];
        job.arrived = now.get();
        scheduler.submit(job);
        listening.push(events);
    }
    while !scheduler.is_idle() {
        take_step(&mut scheduler, &mut listening);
    }
    let ended = outcomes.into_iter().map(|outcome| outcome.expect("an end"));
    ended.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_tells_whether_another_group_asks_the_same(
        all in prop::collection::vec(asked(), 1..20),
        cells in 180_usize..500,
        parked_bytes in 0_usize..600,
        break_even_cells in prop::option::of(1_usize..3000),
        partitions in 1_u32..4,
        parallel_partitions in 1_u32..3,
        exact_block in prop::option::of(prop::sample::select(vec![1_usize, 8])),
        deterministic in any::<bool>(),
    ) {
        let threads = ThreadLayout { parallel_partitions, threads_per_partition: 1 };
        let shape = Shape { cells, partitions, threads, break_even_cells, exact_block, ..SHAPE };
        let deterministic = deterministic && exact_block.is_some();
        let setting = Setting { shape, parked_bytes, deterministic };
        prop_assert_eq!(outcomes(&setting, &all, 0), outcomes(&setting, &all, 100));
    }
}

/// Else the test above could not fail.
#[test]
fn within_a_group_it_is_told() {
    let asked = |group| Asked {
        after_steps: 60,
        group,
        store: 1,
        shared: 90,
        question: 1,
        own: 10,
        max_tokens: 5,
    };
    let setting = Setting {
        shape: SHAPE,
        parked_bytes: 0,
        deterministic: false,
    };
    let found = |all: &[Asked], first| {
        let outcomes = outcomes(&setting, all, first).into_iter();
        outcomes.map(|(cached, _)| cached).collect::<Vec<_>>()
    };
    assert_eq!(found(&[asked(1), asked(1)], 0), [0, 99]);
    assert_eq!(found(&[asked(0), asked(1)], 0), [0, 0]);
}
