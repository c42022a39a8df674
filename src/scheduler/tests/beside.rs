//! What a scheduler does while other models have answers under way.

use super::*;

/// Rows of a prompt in each of five steps, of 0.1 s each.
fn chunks(answering_beside: u32) -> Vec<usize> {
    let mut scheduler = scheduler(SHAPE);
    let _events = submit(&mut scheduler, &prompt(1, 300), 5);
    let (start, asked) = (Instant::now(), Cell::new(0));
    let clock = || {
        asked.set(asked.get() + 1);
        start + asked.get() * Duration::from_millis(100)
    };
    let mut before = 0;
    let mut chunks = Vec::new();
    for _ in 0..5 {
        Worker::answering_beside(&mut scheduler, answering_beside);
        scheduler.step(&clock);
        let computed = scheduler.sequences.running[0].sequence.computed();
        chunks.push(computed - before);
        before = computed;
    }
    chunks
}

#[test]
fn a_prompt_takes_whole_batches_unless_answers_of_another_model_wait_for_them() {
    assert_eq!(chunks(0), [32; 5]);
    let beside = chunks(1);
    assert!(beside[1..].iter().all(|rows| *rows < 32), "{beside:?}");
    assert!(beside[4] >= 8, "and still gets on");
    assert!(chunks(3)[4] <= beside[4], "the more models the shorter");
}

#[test]
fn a_step_needs_as_many_cores_as_there_are_partitions_to_compute_and_threads_for_them() {
    let threads = |parallel_partitions, threads_per_partition| Shape {
        partitions: 4,
        threads: ThreadLayout {
            parallel_partitions,
            threads_per_partition,
        },
        break_even_cells: Some(8),
        ..SHAPE
    };
    for (shape, waiting, running) in [
        (threads(1, 1), 1, 1),
        (threads(4, 1), 1, 2),
        (threads(2, 2), 2, 2),
        (threads(2, 4), 4, 4),
    ] {
        let mut scheduler = scheduler(shape);
        let _first = submit(&mut scheduler, &prompt(1, 40), 50);
        assert_eq!(scheduler.demand().cores, waiting);
        let _second = submit(&mut scheduler, &prompt(2, 40), 50);
        for _ in 0..6 {
            step(&mut scheduler);
        }
        assert_eq!(scheduler.demand().cores, running);
    }
}

#[test]
fn answers_are_under_way_from_the_first_token_to_the_last() {
    let mut scheduler = scheduler(SHAPE);
    let _events = submit(&mut scheduler, &prompt(1, 60), 5);
    step(&mut scheduler);
    assert!(!scheduler.demand().has_answers, "it still reads");
    step(&mut scheduler);
    step(&mut scheduler);
    assert!(scheduler.demand().has_answers);
    run_dry(&mut scheduler);
    assert!(!scheduler.demand().has_answers);
}
