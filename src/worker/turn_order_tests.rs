use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A step of answers on so many cores.
fn on(cores: u32) -> ComputeDemand {
    ComputeDemand {
        cores,
        has_answers: true,
    }
}

/// What a model of a simulation asks for: a step of so many milliseconds on so many cores, after a rest.
#[derive(Debug, Clone, Copy)]
struct Habit {
    cores: u32,
    step: u32,
    rest: u32,
}

/// What a simulation gave each model.
#[derive(Debug, Clone, Default)]
struct Had {
    core_millis: u32,
    steps: u32,
    /// The longest time from wanting to compute to computing.
    longest_wait: u32,
}

/// Models that compute in turn for `millis`, one millisecond after the other.
fn simulate(cores: u32, habits: &[Habit], millis: u32) -> Vec<Had> {
    enum Doing {
        Resting(u32),
        Waiting(u32),
        Computing(u32),
    }
    let start = Instant::now();
    let mut order = TurnOrder::new(cores);
    let numbers: Vec<_> = habits.iter().map(|_| order.join()).collect();
    let mut doing: Vec<_> = habits.iter().map(|_| Doing::Resting(0)).collect();
    let mut had = vec![Had::default(); habits.len()];
    for at in 0..millis {
        let now = start + at * MS;
        for (index, habit) in habits.iter().enumerate() {
            match &mut doing[index] {
                Doing::Computing(left) if *left == 0 => {
                    order.end(numbers[index], now);
                    doing[index] = Doing::Resting(habit.rest);
                }
                Doing::Computing(left) | Doing::Resting(left) => *left = left.saturating_sub(1),
                Doing::Waiting(since) => *since += 1,
            }
            if let Doing::Resting(0) = doing[index] {
                order.wait(numbers[index], on(habit.cores));
                doing[index] = Doing::Waiting(0);
            }
        }
        while let Some(number) = order.next(now) {
            order.begin(number, now);
            let index = numbers.iter().position(|other| *other == number);
            let index = index.expect("one of them");
            let habit = habits[index];
            if let Doing::Waiting(since) = doing[index] {
                had[index].longest_wait = had[index].longest_wait.max(since);
            }
            had[index].steps += 1;
            had[index].core_millis += habit.step * habit.cores.min(cores);
            doing[index] = Doing::Computing(habit.step - 1);
            let used: u32 = (doing.iter().zip(habits))
                .filter(|(doing, _)| matches!(doing, Doing::Computing(_)))
                .map(|(_, habit)| habit.cores.min(cores))
                .sum();
            assert!(used <= cores, "{used} of {cores} cores");
        }
    }
    had
}

fn busy(cores: u32, step: u32) -> Habit {
    Habit {
        cores,
        step,
        rest: 0,
    }
}

#[test]
fn two_busy_models_have_the_cores_for_equal_times_however_long_their_steps_are() {
    let had = simulate(2, &[busy(2, 5), busy(2, 70)], 10_000);
    let difference = had[0].core_millis.abs_diff(had[1].core_millis);
    assert!(difference <= 2 * (70 + 5), "{had:?}");
    assert!(had[0].core_millis + had[1].core_millis > 2 * 9_900);
}

#[test]
fn models_of_one_thread_compute_side_by_side() {
    let had = simulate(2, &[busy(1, 10), busy(1, 10)], 1000);
    assert!(had.iter().all(|had| had.longest_wait == 0), "{had:?}");
    assert!(had.iter().all(|had| had.core_millis > 980));
}

#[test]
fn a_model_that_wants_all_cores_is_not_overtaken_for_ever_by_those_that_want_one() {
    let had = simulate(2, &[busy(1, 7), busy(1, 9), busy(2, 5)], 10_000);
    assert!(had[2].longest_wait < 60, "{had:?}");
}

#[test]
fn nobody_saves_up_turns_while_it_is_idle() {
    let start = Instant::now();
    let mut order = TurnOrder::new(1);
    let (busy, late) = (order.join(), order.join());
    let mut now = start;
    for _ in 0..100 {
        order.wait(busy, on(1));
        order.begin(busy, now);
        now += 10 * MS;
        order.end(busy, now);
    }
    let mut turns = Vec::new();
    order.wait(busy, on(1));
    order.wait(late, on(1));
    for _ in 0..6 {
        let next = order.next(now).expect("both wait");
        turns.push(next == late);
        order.begin(next, now);
        now += 10 * MS;
        order.end(next, now);
        order.wait(next, on(1));
    }
    assert_eq!(turns, [true, false, true, false, true, false]);
}

#[test]
fn a_step_that_takes_too_long_is_no_longer_waited_for_and_pays_for_all_of_it() {
    let start = Instant::now();
    let mut order = TurnOrder::new(2);
    let (long, short) = (order.join(), order.join());
    order.wait(long, on(2));
    order.begin(long, start);
    order.wait(short, on(1));
    assert_eq!(order.next(start + LONGEST_WAIT.saturating_sub(MS)), None);
    assert_eq!(order.next(start + LONGEST_WAIT), Some(short));
    let end = start + 3 * LONGEST_WAIT;
    order.end(long, end);
    order.wait(long, on(2));
    assert_eq!(order.next(end), Some(short));
}

#[test]
fn who_leaves_holds_nothing_and_is_waited_for_by_nobody() {
    let now = Instant::now();
    let mut order = TurnOrder::new(1);
    let (gone, left) = (order.join(), order.join());
    order.wait(gone, on(1));
    order.begin(gone, now);
    order.wait(left, on(1));
    assert_eq!(order.next(now), None);
    order.leave(gone);
    assert_eq!(order.next(now), Some(left));
    assert_eq!(order.answering_beside(left, now), 0);
}

#[test]
fn a_model_counts_as_one_that_answers_for_a_moment_after_its_last_step() {
    let now = Instant::now();
    let mut order = TurnOrder::new(2);
    let (one, other) = (order.join(), order.join());
    assert_eq!(order.answering_beside(one, now), 0);
    order.wait(other, on(1));
    assert_eq!(
        (
            order.answering_beside(one, now),
            order.answering_beside(other, now)
        ),
        (1, 0)
    );
    order.begin(other, now);
    assert_eq!(order.answering_beside(one, now), 1);
    order.end(other, now);
    assert_eq!(
        order.answering_beside(one, now + LATELY.saturating_sub(MS)),
        1
    );
    assert_eq!(order.answering_beside(one, now + LATELY), 0);
    let reading = ComputeDemand {
        has_answers: false,
        ..on(1)
    };
    order.wait(other, reading);
    assert_eq!(order.answering_beside(one, now), 0);
}

proptest! {
    #[test]
    fn whoever_wants_to_compute_does_so_soon_and_busy_models_get_equal_parts(
        cores in 1_u32..5,
        habits in prop::collection::vec((1_u32..6, 1_u32..40, 0_u32..60), 1..6),
    ) {
        let habits: Vec<_> = habits
            .into_iter()
            .map(|(cores, step, rest)| Habit { cores, step, rest })
            .collect();
        // Also shows that no more cores are used than there are.
        let had = simulate(cores, &habits, 20_000);
        let core_millis = |habit: &Habit| habit.step * habit.cores.min(cores);
        let longest = habits.iter().map(core_millis).max().unwrap_or(0);
        let models = u32::try_from(habits.len()).expect("few");
        for had in &had {
            // One core computes at least while somebody waits. Each of the others may be a step ahead.
            prop_assert!(had.longest_wait <= 2 * models * longest, "{:?}", had);
            prop_assert!(had.steps > 0);
        }
        let all_cores = habits.iter().zip(&had).filter(|(habit, _)| habit.rest == 0 && habit.cores >= cores);
        let parts: Vec<_> = all_cores.map(|(_, had)| had.core_millis).collect();
        for (one, other) in parts.iter().zip(parts.iter().skip(1)) {
            prop_assert!(one.abs_diff(*other) <= 3 * longest, "{:?}", had);
        }
    }
}
