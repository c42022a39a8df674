//! Answers that are the same each time, from an engine that rounds.

use super::*;

fn shape(cells: usize, partitions: u32, block: usize) -> Shape {
    Shape {
        cells,
        partitions,
        break_even_cells: Some(500),
        exact_block: Some(block),
        ..SHAPE
    }
}

fn scheduler_of(shape: Shape, deterministic: bool) -> Scheduler<FakeEngine> {
    let metrics = Metrics::new().expect("metrics").for_model("fake");
    let limits = SchedulerLimits {
        max_running: 4,
        target_inter_token: Duration::from_millis(150),
        speculation: true,
        parked_bytes: 400,
        deterministic,
    };
    let engine = FakeEngine::rounding(shape);
    Scheduler::new(engine, Arc::new(BytePieces::default()), limits, metrics)
}

/// What a scheduler says that was asked nothing else.
fn afresh(shape: Shape, deterministic: bool, asked: &Asked) -> String {
    let mut scheduler = scheduler_of(shape, deterministic);
    let mut receiver = asked.submit(&mut scheduler);
    run_dry(&mut scheduler);
    said(&mut receiver)
}

fn said(receiver: &mut EventReceiver) -> String {
    let (text, end) = received(receiver);
    assert!(matches!(end, Some(AnswerEvent::Finished(_))), "{end:?}");
    text
}

#[derive(Debug, Clone)]
struct Asked {
    prompt: Vec<Token>,
    max_tokens: u32,
    class: ServiceTier,
}

impl Asked {
    fn submit(&self, scheduler: &mut Scheduler<FakeEngine>) -> EventReceiver {
        let (mut job, receiver) = job(&self.prompt, self.max_tokens);
        job.class = self.class;
        scheduler.submit(job);
        receiver
    }
}

/// Tokens that the longest request of [`asked`] may have, with its answer: the router refuses what the
/// cells can never hold.
const MOST_ASKED: usize = 99 + 30 + 89;

fn asked() -> impl Strategy<Value = Asked> {
    let class = prop::sample::select(vec![
        ServiceTier::Flex,
        ServiceTier::Default,
        ServiceTier::Priority,
    ]);
    // Prefixes that others have as well, long and short.
    (
        0_usize..3,
        0_usize..100,
        0_usize..5,
        0_usize..30,
        1_u32..90,
        class,
    )
        .prop_map(|(store, shared, question, own, max_tokens, class)| {
            let mut tokens = prompt(store, shared);
            tokens.extend(prompt(20 + question, own + 1));
            Asked {
                prompt: tokens,
                max_tokens,
                class,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn who_is_alone_hears_what_it_heard_before(
        rounds in prop::collection::vec((asked(), prop::collection::vec((0_usize..4, asked()), 0..5)), 1..6),
        cells in MOST_ASKED..600,
        partitions in 1_u32..4,
        block in prop::sample::select(vec![1_usize, 8]),
    ) {
        let mut scheduler = scheduler_of(shape(cells, partitions, block), false);
        for (alone, others) in &rounds {
            let mut receiver = alone.submit(&mut scheduler);
            run_dry(&mut scheduler);
            prop_assert_eq!(said(&mut receiver), afresh(shape(cells, partitions, block), false, alone));
            let mut listening = Vec::new();
            for (steps, other) in others {
                listening.push(other.submit(&mut scheduler));
                for _ in 0..*steps {
                    step(&mut scheduler);
                }
            }
            run_dry(&mut scheduler);
            // Twice, as one that finds what was left behind and one that finds what itself left.
            for _ in 0..2 {
                let mut receiver = alone.submit(&mut scheduler);
                run_dry(&mut scheduler);
                prop_assert_eq!(said(&mut receiver), afresh(shape(cells, partitions, block), false, alone));
            }
        }
    }

    #[test]
    fn a_deterministic_answer_is_the_same_whoever_else_asks(
        arrivals in prop::collection::vec((0_usize..6, asked()), 1..20),
        cells in MOST_ASKED..600,
        partitions in 1_u32..4,
        block in prop::sample::select(vec![1_usize, 8]),
    ) {
        let mut scheduler = scheduler_of(shape(cells, partitions, block), true);
        let mut clients = Vec::new();
        for (steps, asked) in &arrivals {
            for _ in 0..*steps {
                step(&mut scheduler);
            }
            clients.push((asked, asked.submit(&mut scheduler)));
        }
        run_dry(&mut scheduler);
        for (asked, mut receiver) in clients {
            prop_assert_eq!(said(&mut receiver), afresh(shape(cells, partitions, block), true, asked));
        }
    }
}

#[test]
fn what_is_exact_is_shared() {
    let mut scheduler = scheduler_of(shape(600, 2, 1), false);
    let store = prompt(1, 90);
    let rows = |scheduler: &Scheduler<FakeEngine>| scheduler.sequences.cache.engine().rows;
    let question = |number: usize| {
        let mut tokens = store.clone();
        tokens.extend(prompt(20 + number, 10));
        Asked {
            prompt: tokens,
            max_tokens: 1,
            class: ServiceTier::Default,
        }
    };
    for number in 0..4 {
        let before = rows(&scheduler);
        let _receiver = question(number).submit(&mut scheduler);
        run_dry(&mut scheduler);
        let computed = rows(&scheduler) - before;
        assert_eq!(computed, if number == 0 { 100 } else { 10 }, "{number}");
    }
    // The same question again: two rows, as never one of a prompt is computed by itself.
    let before = rows(&scheduler);
    let _receiver = question(3).submit(&mut scheduler);
    run_dry(&mut scheduler);
    assert_eq!(rows(&scheduler) - before, 2);
}

/// Else the tests above could not fail.
#[test]
fn an_engine_that_rounds_tells_what_was_cached_and_who_was_there() {
    let loose = Shape {
        exact_block: None,
        ..shape(600, 1, 1)
    };
    let asked = Asked {
        prompt: prompt(1, 60),
        max_tokens: 5,
        class: ServiceTier::Default,
    };
    let mut scheduler = scheduler_of(loose, false);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut receiver = asked.submit(&mut scheduler);
        run_dry(&mut scheduler);
        answers.push(said(&mut receiver));
    }
    let mut receiver = asked.submit(&mut scheduler);
    let _others = [2, 3].map(|seed| {
        let other = Asked {
            prompt: prompt(seed, 20),
            ..asked.clone()
        };
        other.submit(&mut scheduler)
    });
    run_dry(&mut scheduler);
    answers.push(said(&mut receiver));
    assert!(answers[0] != answers[1] && answers[1] != answers[2]);
}
