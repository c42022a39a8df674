//! Whose grammar is compiled next.
//!
//! A few grammars are compiled at once. A client has one of these places at most, and of those who
//! wait the one goes first that had the fewest turns lately. A first try is short; what takes longer
//! is tried again when no first try waits, or enough of them went before, and has one place at most. So
//! slow schemas queue behind each other, and an ordinary one waits for a few short tries, whoever sends
//! what.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::admission::ClientId;

/// CompileQueue that are remembered.
const REMEMBERED: usize = 64;
/// CompileQueue that may go before a long try, whoever has them: some two seconds of short ones.
const MOST_OVERTAKEN: usize = 16;

/// How long the trial in a turn may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialLength {
    /// As long as ordinary schemas need.
    Short,
    /// As long as any schema may need.
    Long,
}

/// Who wants a turn, or has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CompileClaim {
    client: ClientId,
    kind: TrialLength,
}

/// The index of who goes next, if anybody may: `waiting` by arrival, with the turns that others had
/// meanwhile, `running` now, `lately` had turns.
fn next(
    waiting: impl IntoIterator<Item = (CompileClaim, usize)>,
    running: &[CompileClaim],
    lately: &VecDeque<ClientId>,
) -> Option<usize> {
    let turns = |client: ClientId| lately.iter().filter(|other| **other == client).count();
    let has_one = |client: ClientId| running.iter().any(|other| other.client == client);
    let long_one_runs = running.iter().any(|other| other.kind == TrialLength::Long);
    waiting
        .into_iter()
        .enumerate()
        .filter(|(_, (claim, _))| !has_one(claim.client))
        .filter(|(_, (claim, _))| claim.kind == TrialLength::Short || !long_one_runs)
        // The first of several that are alike.
        .min_by_key(|(_, (claim, passed))| match claim.kind {
            TrialLength::Long if *passed >= MOST_OVERTAKEN => (0, 0),
            TrialLength::Short => (1, turns(claim.client)),
            TrialLength::Long => (2, turns(claim.client)),
        })
        .map(|(index, _)| index)
}

/// So many places `T`, of which each is with one client at a time.
#[derive(Debug)]
pub(super) struct CompileQueue<T>(Arc<Mutex<QueueState<T>>>);

#[derive(Debug)]
struct QueueState<T> {
    free: Vec<T>,
    running: Vec<CompileClaim>,
    lately: VecDeque<ClientId>,
    waiting: Vec<Waiter<T>>,
}

#[derive(Debug)]
struct Waiter<T> {
    claim: CompileClaim,
    /// CompileQueue of others since it waits.
    passed: usize,
    called: oneshot::Sender<CompilePermit<T>>,
}

/// A place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct CompilePermit<T> {
    claim: CompileClaim,
    /// Taken out in `drop` alone.
    place: Option<T>,
    turns: CompileQueue<T>,
}

impl<T> Clone for CompileQueue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> CompileQueue<T> {
    pub(super) fn new(places: Vec<T>) -> Self {
        Self(Arc::new(Mutex::new(QueueState {
            free: places,
            running: Vec::new(),
            lately: VecDeque::new(),
            waiting: Vec::new(),
        })))
    }

    /// Waits for a turn. Who stops waiting gives it up.
    pub(super) async fn take(&self, client: ClientId, kind: TrialLength) -> CompilePermit<T> {
        let (called, turn) = oneshot::channel();
        let claim = CompileClaim { client, kind };
        let passed = 0;
        self.lock().waiting.push(Waiter {
            claim,
            passed,
            called,
        });
        self.call();
        match turn.await {
            Ok(turn) => turn,
            Err(_) => unreachable!("a sender leaves the list to call, or after its receiver"),
        }
    }

    /// Calls as many as there are places for.
    fn call(&self) {
        loop {
            let mut state = self.lock();
            state.waiting.retain(|waiting| !waiting.called.is_closed());
            let waiting = state.waiting.iter();
            let claims = waiting.map(|waiting| (waiting.claim, waiting.passed));
            let Some(index) = next(claims, &state.running, &state.lately) else {
                return;
            };
            let Some(place) = state.free.pop() else {
                return;
            };
            let Waiter { claim, called, .. } = state.waiting.remove(index);
            for waiting in &mut state.waiting {
                waiting.passed += 1;
            }
            state.running.push(claim);
            state.lately.push_back(claim.client);
            if state.lately.len() > REMEMBERED {
                state.lately.pop_front();
            }
            // Who leaves just now gives the turn back, which locks the state again.
            drop(state);
            drop(called.send(CompilePermit {
                claim,
                place: Some(place),
                turns: self.clone(),
            }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> CompilePermit<T> {
    pub(super) fn place(&mut self) -> &mut T {
        self.place.get_or_insert_default()
    }
}

impl<T> Drop for CompilePermit<T> {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            state.free.extend(self.place.take());
            let running = state.running.iter().position(|other| *other == self.claim);
            if let Some(index) = running {
                state.running.swap_remove(index);
            }
        }
        self.turns.call();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn client(number: u8) -> ClientId {
        ClientId::Address([10, 0, 0, number].into())
    }

    fn short(number: u8) -> CompileClaim {
        CompileClaim {
            client: client(number),
            kind: TrialLength::Short,
        }
    }

    fn long(number: u8) -> CompileClaim {
        CompileClaim {
            kind: TrialLength::Long,
            ..short(number)
        }
    }

    #[test]
    fn who_had_fewer_turns_goes_first_and_nobody_has_two_at_once() {
        let lately = VecDeque::from([client(1), client(1)]);
        let next = |waiting: &[CompileClaim], running: &[CompileClaim]| {
            super::next(waiting.iter().map(|claim| (*claim, 0)), running, &lately)
        };
        assert_eq!(next(&[short(1), short(1), short(2)], &[]), Some(2));
        assert_eq!(next(&[short(1), short(1)], &[short(1)]), None);
        assert_eq!(next(&[short(1), short(2), short(2)], &[short(1)]), Some(1));
    }

    #[test]
    fn long_tries_come_after_short_ones_and_one_by_one() {
        let next = |waiting: &[CompileClaim], running: &[CompileClaim]| {
            super::next(
                waiting.iter().map(|claim| (*claim, 0)),
                running,
                &VecDeque::new(),
            )
        };
        assert_eq!(next(&[long(1), long(2), short(3)], &[]), Some(2));
        assert_eq!(next(&[long(1), long(2)], &[short(3)]), Some(0));
        assert_eq!(next(&[long(1)], &[long(2)]), None);
        assert_eq!(next(&[long(1), short(3)], &[long(2)]), Some(1));
    }

    #[test]
    fn a_long_try_lets_so_many_go_before_and_no_more() {
        let waiting = |passed| [(short(1), 0), (long(2), passed)];
        let none = VecDeque::new();
        assert_eq!(next(waiting(MOST_OVERTAKEN - 1), &[], &none), Some(0));
        assert_eq!(next(waiting(MOST_OVERTAKEN), &[], &none), Some(1));
        assert_eq!(next(waiting(MOST_OVERTAKEN), &[long(3)], &none), Some(0));
    }

    #[tokio::test]
    async fn a_client_whose_turn_takes_long_keeps_no_other_waiting() {
        let turns = CompileQueue::new(vec![1, 2]);
        let slow = turns.take(client(1), TrialLength::Short).await;
        let again = |_| Box::pin(turns.take(client(1), TrialLength::Short));
        let mut queued: Vec<_> = (0..5).map(again).collect();
        for waiting in &mut queued {
            assert!(waiting.now_or_never().is_none());
        }
        let honest = turns.take(client(2), TrialLength::Short).now_or_never();
        assert!(honest.is_some());
        // Those that do not wait any more are passed over.
        let last = queued.pop().expect("five");
        drop(queued);
        drop(slow);
        assert!(last.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_turn_that_comes_too_late_goes_to_the_next() {
        let turns = CompileQueue::new(vec![()]);
        let first = turns.take(client(1), TrialLength::Short).await;
        let mut left = Box::pin(turns.take(client(2), TrialLength::Short));
        assert!((&mut left).now_or_never().is_none());
        let mut waits = Box::pin(turns.take(client(3), TrialLength::Short));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        // It was called, and nobody took the turn.
        drop(left);
        assert!(waits.now_or_never().is_some());
    }

    proptest! {
        #[test]
        fn somebody_goes_whenever_somebody_may(
            waiting in prop::collection::vec((0..4_u8, any::<bool>()), 0..8),
            running in prop::collection::vec((0..4_u8, any::<bool>()), 0..2),
        ) {
            let claim = |(number, is_long)| if is_long { long(number) } else { short(number) };
            let waiting: Vec<CompileClaim> = waiting.into_iter().map(claim).collect();
            let running: Vec<CompileClaim> = running.into_iter().map(claim).collect();
            let may = |claim: &CompileClaim| {
                let two_long = claim.kind == TrialLength::Long && running.iter().any(|other| other.kind == TrialLength::Long);
                !two_long && running.iter().all(|other| other.client != claim.client)
            };
            let chosen = next(waiting.iter().map(|claim| (*claim, 0)), &running, &VecDeque::new());
            prop_assert_eq!(chosen.is_some(), waiting.iter().any(may));
            prop_assert!(chosen.is_none_or(|index| may(&waiting[index])));
        }
    }
}
