//! Prefixes whose request has ended, in the cache and offloaded from it.

use super::*;

#[test]
fn parked_prefixes_are_evicted_for_running_requests() {
    let mut scheduler = scheduler(Shape {
        cells: 400,
        break_even_cells: Some(100_000),
        ..SHAPE
    });
    for seed in 0..20 {
        let prompt = prompt(seed, 150 + seed);
        let mut events = submit(&mut scheduler, &prompt, 20);
        run_dry(&mut scheduler);
        assert_eq!(received(&mut events).0, expected(&prompt, 20));
        // One prefix at most is larger than what may be kept.
        assert!(scheduler.sequences.cache.parked_cells() < 200);
    }
    assert_eq!(scheduler.metrics.preemptions.get(), 0);
}

/// Asks four unrelated questions, each twice; how much of the second ones was known.
fn asked_twice(scheduler: &mut Scheduler<FakeEngine>) -> Vec<u32> {
    let mut ask = |seed| {
        let prompt = prompt(seed, 101);
        let mut events = submit(scheduler, &prompt, 2);
        run_dry(scheduler);
        let (text, end) = received(&mut events);
        assert_eq!(text, expected(&prompt, 2));
        match end {
            Some(AnswerEvent::Finished(finished)) => finished.cached_tokens,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((0..4).map(&mut ask).collect::<Vec<_>>(), [0; 4]);
    (0..4).map(ask).collect()
}

#[test]
fn conversations_without_anything_in_common_stay_where_keeping_them_costs_nothing() {
    let mut scheduler = scheduler(SHAPE);
    assert_eq!(asked_twice(&mut scheduler), [100; 4]);
    assert_eq!(scheduler.sequences.cache.engine().copied_in, 0);
}

#[test]
fn no_more_is_offloaded_than_the_process_has_room_for() {
    let shape = Shape {
        break_even_cells: Some(100_000),
        ..SHAPE
    };
    for (bytes, is_kept) in [(0, false), (1 << 20, true)] {
        let room = MemoryRoom::default();
        room.set(bytes);
        let mut scheduler = with_parked_bytes(FakeEngine::new(shape), 500).keeping_within(room);
        let _ = asked_twice(&mut scheduler);
        assert_eq!(scheduler.metrics.parked_bytes.get() > 0, is_kept);
    }
}

#[test]
fn where_parked_cells_slow_every_step_they_are_offloaded() {
    let crowded = || {
        FakeEngine::new(Shape {
            break_even_cells: Some(100_000),
            ..SHAPE
        })
    };
    let mut scheduler = with_parked_bytes(crowded(), 500);
    assert_eq!(asked_twice(&mut scheduler), [100; 4]);
    assert_eq!(scheduler.sequences.cache.engine().copied_in, 4 * 102);
    assert!((1..=500).contains(&scheduler.metrics.parked_bytes.get()));

    let mut without = with_parked_bytes(crowded(), 0);
    assert_eq!(asked_twice(&mut without), [0; 4]);
}

#[test]
fn what_is_offloaded_is_waited_for_where_there_is_no_room_for_all_of_it() {
    let mut scheduler = scheduler(SHAPE);
    let long = prompt(0, 420);
    for tokens in [&long, &prompt(1, 400)] {
        let _events = submit(&mut scheduler, tokens, 20);
        run_dry(&mut scheduler);
    }
    assert!(scheduler.sequences.cache.offloaded_bytes() >= 420);
    let _others_events = submit(&mut scheduler, &prompt(2, 120), 40);
    step(&mut scheduler);
    let before = scheduler.sequences.cache.engine().rows;
    for question in 0..3 {
        let asked = [&long[..150], &prompt(3 + question, 5)].concat();
        let _events = submit(&mut scheduler, &asked, 2);
    }
    run_dry(&mut scheduler);
    assert_eq!(scheduler.sequences.cache.engine().copied_in, 0);
    let rows = scheduler.sequences.cache.engine().rows - before;
    assert!(rows < 2 * 150 + 120, "the prefix was computed once: {rows}");
}

#[test]
fn what_running_requests_share_is_not_offloaded() {
    let mut scheduler = scheduler(Shape {
        break_even_cells: Some(100_000),
        ..SHAPE
    });
    let store = prompt(0, 100);
    let history = [&*store, &prompt(1, 80)].concat();
    for tokens in [&history, &prompt(2, 70)] {
        let _events = submit(&mut scheduler, tokens, 2);
        run_dry(&mut scheduler);
    }
    let _kiosks_events = submit(&mut scheduler, &[&*store, &prompt(3, 5)].concat(), 40);
    step(&mut scheduler);
    let copied = scheduler.sequences.cache.engine().copied_in;
    assert!(copied > 180, "the store's prompt was offloaded");
    let mut events = submit(&mut scheduler, &history, 2);
    run_dry(&mut scheduler);
    assert_eq!(received(&mut events).0, expected(&history, 2));
    assert_eq!(scheduler.sequences.cache.engine().copied_in, copied);
}

#[test]
fn what_was_preempted_is_copied_back_instead_of_computed_again() {
    let mut scheduler = scheduler(Shape {
        cells: 400,
        ..SHAPE
    });
    let clients: Vec<_> = (0..2)
        .map(|seed| {
            let prompt = prompt(seed, 150);
            let events = submit(&mut scheduler, &prompt, 100);
            (prompt, events)
        })
        .collect();
    run_dry(&mut scheduler);
    for (prompt, mut events) in clients {
        assert_eq!(received(&mut events).0, expected(&prompt, 100));
    }
    assert!(scheduler.metrics.preemptions.get() > 0);
    assert!(scheduler.sequences.cache.engine().rows < 2 * 250 + 20);
}
