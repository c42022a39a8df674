//! The turns in which models' threads compute.
//!
//! Each model computes with as many threads as there are cores, or nearly. Two that do so at the same time wait
//! for each other's threads behind every operation, hundreds of times a token. So they take turns: one
//! step each, in the order of [`TurnOrder`]. A step that was begun is never interrupted.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::turn_order::{ComputeDemand, ModelNumber, TurnOrder};

/// The cores that all models share. Clones share the same ones.
#[derive(Debug, Clone)]
pub struct ComputeTurns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    order: Mutex<TurnOrder>,
    /// Somebody else may compute now.
    changed: Condvar,
}

impl ComputeTurns {
    /// Turns at so many cores.
    #[must_use]
    pub fn new(cores: u32) -> Self {
        Self(Arc::new(Shared {
            order: Mutex::new(TurnOrder::new(cores)),
            changed: Condvar::new(),
        }))
    }

    /// Adds a model, until what is returned is dropped.
    #[must_use]
    pub fn join(&self) -> TurnTaker {
        TurnTaker {
            number: self.0.order().join(),
            shared: Arc::clone(&self.0),
        }
    }
}

impl Default for ComputeTurns {
    /// Turns at all cores that this process may use.
    fn default() -> Self {
        let cores = std::thread::available_parallelism();
        Self::new(cores.map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)))
    }
}

impl Shared {
    fn order(&self) -> MutexGuard<'_, TurnOrder> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody begin who may.
    fn grant(&self, order: &mut TurnOrder, now: Instant) {
        while let Some(number) = order.next(now) {
            order.begin(number, now);
            self.changed.notify_all();
        }
    }
}

/// One model's place in the order.
#[derive(Debug)]
pub struct TurnTaker {
    number: ModelNumber,
    shared: Arc<Shared>,
}

impl TurnTaker {
    /// Waits for the turn to compute a step; `while_waiting` is called again and again, at least once in every
    /// `check`, and ends the waiting by returning false: then there is no turn.
    pub fn take(
        &self,
        demand: ComputeDemand,
        check: Duration,
        mut while_waiting: impl FnMut() -> bool,
    ) -> Option<ComputeTurn<'_>> {
        // Given back however this ends, also where `while_waiting` panics.
        let turn = ComputeTurn { taker: self };
        let mut order = self.shared.order();
        order.wait(self.number, demand);
        self.shared.grant(&mut order, Instant::now());
        while !order.computes(self.number) {
            let waited = self.shared.changed.wait_timeout(order, check);
            order = waited.unwrap_or_else(PoisonError::into_inner).0;
            if order.computes(self.number) {
                break;
            }
            drop(order);
            if !while_waiting() {
                return None;
            }
            order = self.shared.order();
            // A step that takes too long gives no notice.
            self.shared.grant(&mut order, Instant::now());
        }
        drop(order);
        Some(turn)
    }

    /// Returns how many other models have answers under way, or had just now.
    #[must_use]
    pub fn answering_beside(&self) -> usize {
        self.shared
            .order()
            .answering_beside(self.number, Instant::now())
    }
}

impl Drop for TurnTaker {
    fn drop(&mut self) {
        let mut order = self.shared.order();
        order.leave(self.number);
        self.shared.grant(&mut order, Instant::now());
    }
}

/// The right to compute a step. It ends when this is dropped.
#[derive(Debug)]
pub struct ComputeTurn<'a> {
    taker: &'a TurnTaker,
}

impl Drop for ComputeTurn<'_> {
    fn drop(&mut self) {
        let shared = &self.taker.shared;
        let now = Instant::now();
        let mut order = shared.order();
        order.end(self.taker.number, now);
        if order.has_waiting() {
            shared.grant(&mut order, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const CHECK: Duration = Duration::from_millis(5);

    fn on(cores: u32) -> ComputeDemand {
        ComputeDemand {
            cores,
            has_answers: false,
        }
    }

    /// The turn, for which nobody has to wait.
    fn at_once(taker: &TurnTaker, cores: u32) -> ComputeTurn<'_> {
        let turn = taker.take(on(cores), CHECK, || panic!("there is nothing to wait for"));
        turn.expect("not asked to stop")
    }

    #[test]
    fn a_model_that_is_alone_never_waits() {
        let taker = ComputeTurns::new(2).join();
        for _ in 0..1000 {
            drop(at_once(&taker, 2));
        }
    }

    #[test]
    fn models_of_many_threads_compute_one_after_the_other() {
        let turns = ComputeTurns::new(2);
        let computing = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let taker = turns.join();
                    for _ in 0..500 {
                        let turn = taker.take(on(2), CHECK, || true);
                        assert_eq!(computing.fetch_add(1, Ordering::SeqCst), 0);
                        computing.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
    }

    #[test]
    fn who_waits_hears_of_it_again_and_again_and_may_stop() {
        let turns = ComputeTurns::new(1);
        let (one, other) = (turns.join(), turns.join());
        let turn = at_once(&one, 1);
        let mut checks = 0;
        let stopped = other.take(on(1), CHECK, || {
            checks += 1;
            checks < 3
        });
        assert!(stopped.is_none());
        drop(turn);
        // It holds and waits for nothing any more.
        drop(at_once(&one, 1));
        drop(at_once(&other, 1));
    }

    #[test]
    fn a_crash_gives_the_turn_back_and_so_does_the_end_of_a_thread() {
        let turns = ComputeTurns::new(1);
        let one = turns.join();
        let crashed = catch_unwind(AssertUnwindSafe(|| {
            let other = turns.join();
            let _turn = at_once(&other, 1);
            panic!("a defect");
        }));
        assert!(crashed.is_err());
        drop(at_once(&one, 1));

        let other = turns.join();
        let turn = at_once(&one, 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| other.take(on(1), CHECK, || true).is_some());
            drop(turn);
            assert!(waiting.join().expect("no crash"));
        });
    }
}
