//! Decisions of the pool.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn model(phase: Phase, mebibytes: u64) -> ModelView {
    ModelView {
        phase,
        bytes: mebibytes * MIB,
        is_pinned: false,
        keep_alive: None,
        gives_way: false,
    }
}

fn pinned(phase: Phase, mebibytes: u64) -> ModelView {
    ModelView {
        is_pinned: true,
        ..model(phase, mebibytes)
    }
}

fn pool(now: Instant, budget: u64, models: Vec<ModelView>) -> PoolSnapshot {
    PoolSnapshot {
        now,
        budget: Some(budget * MIB),
        fixed: 0,
        others: 0,
        available: None,
        models,
    }
}

fn wanted(since: Instant) -> Phase {
    Phase::Queued {
        since,
        is_wanted: true,
    }
}

/// Idle since so many seconds after `start`.
fn idle(start: Instant, seconds: u64) -> Phase {
    Phase::Ready {
        idle_since: Some(start + Duration::from_secs(seconds)),
    }
}

const BUSY: Phase = Phase::Ready { idle_since: None };

#[test]
fn models_load_one_after_the_other_pinned_ones_first() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let mut models = vec![
        model(wanted(start), 10),
        pinned(wanted(later), 10),
        model(wanted(later), 10),
    ];
    assert_eq!(
        decide(&pool(later, 100, models.clone())),
        [PoolAction::Load(1)]
    );
    models[1].phase = Phase::Loading;
    assert_eq!(decide(&pool(later, 100, models.clone())), []);
    models[1].phase = BUSY;
    assert_eq!(decide(&pool(later, 100, models)), [PoolAction::Load(0)]);
}

#[test]
fn the_least_recently_used_leave_and_no_more_of_them_than_needed() {
    let start = Instant::now();
    let now = start + Duration::from_secs(100);
    let models = vec![
        model(idle(start, 5), 40),
        model(idle(start, 1), 30),
        model(idle(start, 9), 20),
        model(wanted(now), 60),
    ];
    let room = |place| PoolAction::Evict(place, UnloadReason::Room);
    assert_eq!(
        decide(&pool(now, 100, models.clone())),
        [room(1), room(0)],
        "10 are free"
    );
    let leaving = |place: usize, mut models: Vec<ModelView>| {
        models[place].phase = Phase::Leaving;
        models
    };
    let models = leaving(0, leaving(1, models));
    assert_eq!(
        decide(&pool(now, 100, models)),
        [],
        "what leaves is waited for"
    );
}

#[test]
fn nobody_leaves_in_vain() {
    let start = Instant::now();
    let models = vec![
        model(idle(start, 1), 30),
        model(BUSY, 60),
        model(wanted(start), 50),
    ];
    assert_eq!(decide(&pool(start, 100, models.clone())), []);
    let mut free = models;
    free[1].phase = idle(start, 2);
    let room = |place| PoolAction::Evict(place, UnloadReason::Room);
    assert_eq!(decide(&pool(start, 100, free)), [room(0), room(1)]);
}

#[test]
fn while_one_waits_for_a_busy_model_others_that_fit_are_loaded_and_after_its_turn_the_busy_one_makes_way()
 {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let models = vec![
        model(BUSY, 70),
        model(wanted(start), 60),
        model(wanted(later), 30),
    ];
    assert_eq!(
        decide(&pool(later, 100, models.clone())),
        [PoolAction::Load(2)]
    );
    let turn = PoolAction::Drain(0, UnloadReason::Turn);
    assert_eq!(decide(&pool(start + TURN, 100, models)), [turn]);
    let pinned_one = vec![pinned(BUSY, 30), model(BUSY, 20), model(wanted(start), 60)];
    let turn = PoolAction::Drain(1, UnloadReason::Turn);
    assert_eq!(decide(&pool(start + TURN, 100, pinned_one)), [turn]);
}

#[test]
fn what_clients_hold_for_now_is_waited_for() {
    let start = Instant::now();
    let held = PoolSnapshot {
        others: 80 * MIB,
        ..pool(start, 100, vec![model(wanted(start), 30)])
    };
    assert_eq!(decide(&held), []);
    let for_ever = PoolSnapshot {
        fixed: 80 * MIB,
        others: 0,
        ..held
    };
    assert!(matches!(decide(&for_ever)[..], [PoolAction::Refuse(0, _)]));
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers_and_holds_nobody_up() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let models = vec![
        pinned(BUSY, 60),
        model(wanted(start), 50),
        model(wanted(later), 40),
    ];
    let shortage = MemoryShortage {
        needed: 50 * MIB,
        most: 40 * MIB,
        budget: 100 * MIB,
    };
    assert_eq!(
        decide(&pool(later, 100, models)),
        [PoolAction::Refuse(1, shortage), PoolAction::Load(2)]
    );
}

#[test]
fn what_others_take_and_what_the_system_lacks_counts() {
    let start = Instant::now();
    let full = PoolSnapshot {
        others: 60 * MIB,
        ..pool(
            start,
            100,
            vec![model(idle(start, 0), 20), model(wanted(start), 30)],
        )
    };
    let room = PoolAction::Evict(0, UnloadReason::Room);
    assert_eq!(decide(&full), [room]);
    let scarce = PoolSnapshot {
        available: Some(5 * MIB),
        ..pool(
            start,
            100,
            vec![model(idle(start, 0), 20), model(wanted(start), 10)],
        )
    };
    assert_eq!(decide(&scarce), [room]);
}

#[test]
fn an_idle_model_leaves_after_its_time_and_a_pinned_one_does_not() {
    let start = Instant::now();
    let short = |view| ModelView {
        keep_alive: Some(Duration::from_secs(60)),
        ..view
    };
    let models = vec![
        short(model(idle(start, 0), 1)),
        short(pinned(idle(start, 0), 1)),
        short(model(BUSY, 1)),
        model(idle(start, 0), 1),
    ];
    let at = |seconds| {
        decide(&pool(
            start + Duration::from_secs(seconds),
            100,
            models.clone(),
        ))
    };
    assert_eq!(at(59), []);
    assert_eq!(at(60), [PoolAction::Evict(0, UnloadReason::Idle)]);
}

#[test]
fn over_the_budget_idle_models_leave_and_what_is_not_wanted_any_more_is_forgotten() {
    let start = Instant::now();
    let given_up = Phase::Queued {
        since: start,
        is_wanted: false,
    };
    let models = vec![
        model(BUSY, 80),
        model(idle(start, 0), 30),
        model(given_up, 1),
    ];
    assert_eq!(
        decide(&pool(start, 100, models)),
        [
            PoolAction::Forget(2),
            PoolAction::Evict(1, UnloadReason::OverBudget)
        ]
    );
}

#[test]
fn a_model_that_gives_way_to_its_sibling_finishes_what_it_does() {
    let start = Instant::now();
    let gives_way = |view| ModelView {
        gives_way: true,
        ..view
    };
    let models = vec![gives_way(model(BUSY, 80)), gives_way(pinned(BUSY, 10))];
    assert_eq!(
        decide(&pool(start, 100, models)),
        [PoolAction::Drain(0, UnloadReason::Sibling)]
    );
}

fn phase() -> impl Strategy<Value = (u8, u64)> {
    (0..6_u8, 0..100_u64)
}

prop_compose! {
    fn any_model()(
        (kind, seconds) in phase(),
        mebibytes in 1..60_u64,
        is_pinned in prop::bool::weighted(0.2),
        keep_alive in prop::option::of(1..50_u64),
        gives_way in prop::bool::weighted(0.1),
    ) -> (u8, u64, ModelView) {
        let view = ModelView {
            phase: Phase::Cold,
            bytes: mebibytes * MIB,
            is_pinned,
            keep_alive: keep_alive.map(Duration::from_secs),
            gives_way,
        };
        (kind, seconds, view)
    }
}

fn any_pool() -> impl Strategy<Value = PoolSnapshot> {
    let models = prop::collection::vec(any_model(), 0..8);
    (models, 20..200_u64, 0..50_u64, prop::option::of(0..100_u64)).prop_map(
        |(models, budget, others, available)| {
            let start = Instant::now();
            let models = models.into_iter().map(|(kind, seconds, view)| {
                let at = start + Duration::from_secs(seconds);
                let phase = match kind {
                    0 => Phase::Cold,
                    1 => Phase::Queued {
                        since: at,
                        is_wanted: seconds % 7 > 0,
                    },
                    2 => Phase::Ready { idle_since: None },
                    3 => Phase::Leaving,
                    _ => Phase::Ready {
                        idle_since: Some(at),
                    },
                };
                ModelView { phase, ..view }
            });
            PoolSnapshot {
                now: start + Duration::from_secs(100),
                budget: Some(budget * MIB),
                fixed: 0,
                others: others * MIB,
                available: available.map(|bytes| bytes * MIB),
                models: models.collect(),
            }
        },
    )
}

proptest! {
    #[test]
    fn nobody_busy_or_pinned_is_evicted_and_what_loads_fits(pool in any_pool()) {
        let mut after = pool.clone();
        let mut touched = BTreeSet::new();
        for action in decide(&pool) {
            let (PoolAction::Load(place)
            | PoolAction::Evict(place, _)
            | PoolAction::Drain(place, _)
            | PoolAction::Forget(place)
            | PoolAction::Refuse(place, _)) = action;
            prop_assert!(touched.insert(place), "{action:?} twice");
            let model = pool.models[place];
            match action {
                PoolAction::Evict(..) => {
                    let is_idle = matches!(model.phase, Phase::Ready { idle_since: Some(_) });
                    prop_assert!(is_idle && !model.is_pinned);
                    after.models[place].phase = Phase::Leaving;
                }
                PoolAction::Drain(_, reason) => {
                    let is_due = model.gives_way || reason == UnloadReason::Turn;
                    prop_assert!(is_due && !model.is_pinned);
                    after.models[place].phase = Phase::Leaving;
                }
                PoolAction::Load(_) => {
                    prop_assert!(model.bytes <= pool.free());
                    after.models[place].phase = Phase::Loading;
                    prop_assert!(after.held() <= pool.budget.expect("given"));
                }
                PoolAction::Refuse(_, shortage) => {
                    prop_assert!(shortage.needed > shortage.most);
                    after.models[place].phase = Phase::Cold;
                }
                PoolAction::Forget(_) => after.models[place].phase = Phase::Cold,
            }
        }
    }

    /// Carried out again and again while nobody asks for anything new and busy ones become idle, every
    /// wanted model was loaded or refused in the end.
    #[test]
    fn everyone_in_the_queue_is_served_or_refused_in_the_end(pool in any_pool()) {
        let mut pool = pool;
        let is_queued = |model: &ModelView| matches!(model.phase, Phase::Queued { .. });
        for round in 0.. {
            if !pool.models.iter().any(is_queued) {
                break;
            }
            if round > 40 {
                // What is left waits for what clients hold, or for the system.
                let waits = pool.others > 0 || pool.available.is_some();
                prop_assert!(waits, "{pool:?}");
                break;
            }
            for model in &mut pool.models {
                // Whoever leaves is gone, whoever loads is loaded, whoever is busy ends.
                let freed = if model.phase == Phase::Leaving { model.bytes } else { 0 };
                pool.available = pool.available.map(|available| available + freed);
                model.phase = match model.phase {
                    Phase::Leaving => Phase::Cold,
                    Phase::Loading | Phase::Ready { .. } => Phase::Ready { idle_since: Some(pool.now) },
                    other => other,
                };
            }
            for action in decide(&pool) {
                match action {
                    PoolAction::Load(place) => {
                        pool.models[place].phase = Phase::Loading;
                        let taken = pool.models[place].bytes;
                        pool.available = pool.available.map(|available| available.saturating_sub(taken));
                    }
                    PoolAction::Evict(place, _) | PoolAction::Drain(place, _) => {
                        pool.models[place].phase = Phase::Leaving;
                    }
                    PoolAction::Forget(place) | PoolAction::Refuse(place, _) => {
                        pool.models[place].phase = Phase::Cold;
                    }
                }
            }
        }
    }
}
