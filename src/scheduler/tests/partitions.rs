//! Conversations in partitions of the cache.

use super::*;
use crate::engine::{Row, SeqId};
use crate::scheduler::prefix::{Prefix, PrefixScope};

/// Two unrelated prompts of 50 tokens slow each other down in one partition.
const PARTITIONS: Shape = Shape {
    partitions: 3,
    threads: ThreadLayout::ONE,
    break_even_cells: Some(100),
    ..SHAPE
};

fn partitions_in_use(scheduler: &Scheduler<FakeEngine>) -> Vec<usize> {
    let partitions = scheduler
        .sequences
        .running
        .iter()
        .map(|r| scheduler.sequences.cache.partition_of(r.id));
    partitions.collect()
}

#[test]
fn unrelated_prompts_run_side_by_side_in_partitions_of_their_own() {
    let mut scheduler = scheduler(PARTITIONS);
    let mut all: Vec<_> = (0..3)
        .map(|seed| submit(&mut scheduler, &prompt(seed, 50), 10))
        .collect();
    step(&mut scheduler);
    assert_eq!(partitions_in_use(&scheduler), [0, 1, 2]);
    run_dry(&mut scheduler);
    for (seed, events) in all.iter_mut().enumerate() {
        assert_eq!(received(events).0, expected(&prompt(seed, 50), 10));
    }
}

#[test]
fn kiosks_of_two_stores_share_a_partition_a_store() {
    let mut scheduler = scheduler(PARTITIONS);
    let ask = |scheduler: &mut Scheduler<FakeEngine>, store: usize, question: usize| {
        let mut tokens = prompt(store, 100);
        tokens.push(Token(i32::try_from(question).expect("small")));
        let events = submit(scheduler, &tokens, 10);
        (tokens, events)
    };
    let mut all: Vec<_> = [(1, 1), (2, 2), (1, 3), (2, 4)]
        .map(|(store, question)| ask(&mut scheduler, store, question))
        .into();
    step(&mut scheduler);
    assert_eq!(partitions_in_use(&scheduler), [0, 1, 0, 1]);
    run_dry(&mut scheduler);
    // Each store's prompt once.
    assert!(scheduler.sequences.cache.engine().rows < 2 * 100 + 4 * 12);

    // Much later: what was kept of the other store costs these nothing, and is still there.
    all.push(ask(&mut scheduler, 2, 5));
    step(&mut scheduler);
    assert_eq!(partitions_in_use(&scheduler), [1]);
    run_dry(&mut scheduler);
    let rows = scheduler.sequences.cache.engine().rows;
    all.push(ask(&mut scheduler, 1, 6));
    run_dry(&mut scheduler);
    assert_eq!(scheduler.sequences.cache.engine().copied_in, 0);
    assert!(scheduler.sequences.cache.engine().rows - rows < 12);
    for (tokens, events) in &mut all {
        assert_eq!(received(events).0, expected(tokens, 10));
    }
}

#[test]
fn the_cells_of_all_partitions_are_as_many_as_there_are() {
    let mut scheduler = scheduler(Shape {
        cells: 250,
        ..PARTITIONS
    });
    let mut all: Vec<_> = (0..3)
        .map(|seed| submit(&mut scheduler, &prompt(seed, 70), 60))
        .collect();
    run_dry(&mut scheduler);
    assert!(scheduler.metrics.preemptions.get() > 0);
    for (seed, events) in all.iter_mut().enumerate() {
        assert_eq!(received(events).0, expected(&prompt(seed, 70), 60));
    }
}

#[test]
fn the_memory_of_a_partition_that_held_much_is_given_back_when_it_is_empty() {
    let mut scheduler = with_parked_bytes(FakeEngine::new(PARTITIONS), 0);
    let _short = submit(&mut scheduler, &prompt(1, 60), 5);
    run_dry(&mut scheduler);
    scheduler.sequences.cache.limit(Some(0));
    assert_eq!(
        scheduler.sequences.cache.engine().given_back,
        0,
        "little was used"
    );
    let _long = submit(&mut scheduler, &prompt(2, 300), 5);
    run_dry(&mut scheduler);
    scheduler.sequences.cache.limit(Some(0));
    assert_eq!(scheduler.sequences.cache.used(), 0);
    assert_eq!(scheduler.sequences.cache.engine().given_back, 1);
}

#[test]
fn users_who_take_turns_keep_a_partition_each() {
    let mut scheduler = with_parked_bytes(FakeEngine::new(PARTITIONS), 0);
    for round in 0..2 {
        for user in 0..3 {
            let asked = prompt(user, 150);
            let mut events = submit(&mut scheduler, &asked, 5);
            step(&mut scheduler);
            assert_eq!(partitions_in_use(&scheduler), [user]);
            run_dry(&mut scheduler);
            let (text, end) = received(&mut events);
            assert_eq!(text, expected(&asked, 5));
            let Some(AnswerEvent::Finished(finished)) = end else {
                panic!("no end: {end:?}");
            };
            assert_eq!(finished.cached_tokens, if round == 0 { 0 } else { 149 });
        }
    }
}

#[test]
fn kiosks_of_a_store_are_served_in_partitions_side_by_side() {
    let shape = Shape {
        threads: ThreadLayout {
            parallel_partitions: 2,
            threads_per_partition: 1,
        },
        break_even_cells: Some(1000),
        ..PARTITIONS
    };
    let mut scheduler = with_parked_bytes(FakeEngine::new(shape), 0);
    let store = prompt(1, 150);
    // Of a longer conversation only that is copied.
    let long = [store.clone(), prompt(7, 12)].concat();
    let _first = submit(&mut scheduler, &long, 5);
    run_dry(&mut scheduler);
    let rows = scheduler.sequences.cache.engine().rows;
    let asked = |question| [store.clone(), prompt(question, 8)].concat();
    let mut all: Vec<_> = (2..6)
        .map(|question| submit(&mut scheduler, &asked(question), 10))
        .collect();
    step(&mut scheduler);
    let mut partitions = partitions_in_use(&scheduler);
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 0, 1, 1]);
    run_dry(&mut scheduler);
    let engine = scheduler.sequences.cache.engine();
    assert!(engine.rows - rows < 4 * 20, "computed once, copied once");
    assert_eq!(engine.copied_in, 150);
    for (question, events) in (2..6).zip(&mut all) {
        assert_eq!(received(events).0, expected(&asked(question), 10));
    }
}

#[test]
fn what_a_copy_is_made_of_may_be_evicted_for_it() {
    let now = Instant::now();
    let mut cache = cache::Cache::new(FakeEngine::new(PARTITIONS), 0);
    let mut compute = |tokens: &[Token]| {
        let id = cache.acquire(0, prefix_of(&[]), now).expect("a sequence");
        fill(&mut cache, id, tokens);
        id
    };
    let (_stranger, store) = (compute(&prompt(1, 250)), compute(&prompt(2, 150)));
    cache.park(store, now);
    let asked = [prompt(2, 150), prompt(3, 5)].concat();
    let id = cache
        .acquire(1, prefix_of(&asked), now)
        .expect("a sequence");
    assert_eq!(cache.known_length(1, prefix_of(&asked)), 150);
    assert_eq!(cache.share(id, prefix_of(&asked), now), 150);
    assert_eq!((cache.used(), cache.parked_cells()), (400, 0));
}

fn prefix_of(tokens: &[Token]) -> Prefix<'_> {
    let scope = PrefixScope::default();
    Prefix { scope, tokens }
}

/// Computes the tokens of a sequence.
fn fill(cache: &mut cache::Cache<FakeEngine>, id: SeqId, tokens: &[Token]) {
    for (position, token) in (0..).zip(tokens) {
        let row = Row {
            token: *token,
            position,
            sequence: id,
            logits: false,
        };
        cache.decode(&[row]).expect("computed");
    }
    cache.computed(id, tokens);
}

/// Two partitions of which many cells were used and are no more, and a shop's prompt of 100 tokens in it.
fn swollen(parked_bytes: usize, now: Instant) -> cache::Cache<FakeEngine> {
    let mut cache = cache::Cache::new(FakeEngine::new(PARTITIONS), parked_bytes);
    for (partition, tokens) in [0, 1]
        .map(|partition| [(partition, 400), (partition, 100)])
        .concat()
    {
        let tokens = prompt(partition + tokens, tokens);
        let id = cache
            .acquire(partition, prefix_of(&[]), now)
            .expect("a sequence");
        fill(&mut cache, id, &tokens);
        cache.park(id, now);
    }
    assert_eq!(cache.used(), 200, "the long ones were evicted");
    cache
}

#[test]
fn what_nobody_asks_for_any_more_does_not_keep_the_memory_of_a_partition() {
    let now = Instant::now();
    let mut cache = swollen(1 << 20, now);
    assert!(cache.has_swollen());
    cache.expire(now + Duration::from_secs(29));
    assert_eq!(cache.used(), 200);
    cache.expire(now + Duration::from_secs(31));
    assert_eq!((cache.used(), cache.engine().given_back), (100, 1));
    assert!(!cache.has_swollen(), "one was full, as a cache may be");
    cache.expire(now + Duration::from_secs(31));
    assert_eq!(cache.used(), 100);
}

#[test]
fn a_prompt_of_which_no_copy_can_be_kept_is_not_given_for_memory() {
    let now = Instant::now();
    let mut cache = swollen(0, now);
    cache.expire(now + Duration::from_secs(60));
    assert_eq!(cache.used(), 200);
}
