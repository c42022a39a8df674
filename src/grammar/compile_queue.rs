//! Decides whose grammar is compiled next.
//!
//! A few grammars are compiled at once, each with a permit. A client has at most one permit at a time,
//! and among the waiting clients the one with the fewest recent permits goes first. A first trial is
//! short; a grammar that takes longer is tried again when no first trial waits, or enough of them went
//! ahead, and only one such long trial runs at a time. So slow schemas queue after each other, and an
//! ordinary one waits for a few short trials only, whatever other clients send.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::admission::ClientId;
use crate::sync::{Mutex, MutexGuard};

/// Recent permits that are remembered.
const REMEMBERED_PERMITS: usize = 64;
/// Permits of other claims that may overtake a long trial: some two seconds of short trials.
const MOST_OVERTAKEN: usize = 16;

/// How long the trial of a grammar may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialLength {
    /// As long as ordinary schemas need.
    Short,
    /// As long as any schema may need.
    Long,
}

/// The client and trial that a permit is, or will be, for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CompileClaim {
    client: ClientId,
    kind: TrialLength,
}

/// Returns the index of the claim that goes next, if any may. `waiting` is in order of arrival, each with
/// the permits that overtook it; `running` claims have permits now, and the clients `lately` had some.
fn next(
    waiting: impl IntoIterator<Item = (CompileClaim, usize)>,
    running: &[CompileClaim],
    lately: &VecDeque<ClientId>,
) -> Option<usize> {
    let recent = |client: ClientId| lately.iter().filter(|other| **other == client).count();
    let has_one = |client: ClientId| running.iter().any(|other| other.client == client);
    let long_one_runs = running.iter().any(|other| other.kind == TrialLength::Long);
    waiting
        .into_iter()
        .enumerate()
        .filter(|(_, (claim, _))| !has_one(claim.client))
        .filter(|(_, (claim, _))| claim.kind == TrialLength::Short || !long_one_runs)
        // Of several equal ones `min_by_key` takes the first.
        .min_by_key(|(_, (claim, overtaken))| match claim.kind {
            TrialLength::Long if *overtaken >= MOST_OVERTAKEN => (0, 0),
            TrialLength::Short => (1, recent(claim.client)),
            TrialLength::Long => (2, recent(claim.client)),
        })
        .map(|(index, _)| index)
}

/// Hands out a few resources `T`, each to one client at a time.
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
    /// Permits that others got since this one waits.
    overtaken: usize,
    sender: oneshot::Sender<CompilePermit<T>>,
}

/// The use of one resource, which dropping this gives back.
#[derive(Debug)]
pub(super) struct CompilePermit<T> {
    claim: CompileClaim,
    /// Taken out in `drop` alone.
    resource: Option<T>,
    queue: CompileQueue<T>,
}

impl<T> Clone for CompileQueue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> CompileQueue<T> {
    pub(super) fn new(resources: Vec<T>) -> Self {
        Self(Arc::new(Mutex::new(QueueState {
            free: resources,
            running: Vec::new(),
            lately: VecDeque::new(),
            waiting: Vec::new(),
        })))
    }

    /// Waits for a permit; dropping the future gives up the claim.
    pub(super) async fn acquire(&self, client: ClientId, kind: TrialLength) -> CompilePermit<T> {
        let (sender, permit) = oneshot::channel();
        let claim = CompileClaim { client, kind };
        let overtaken = 0;
        self.lock().waiting.push(Waiter {
            claim,
            overtaken,
            sender,
        });
        self.hand_out();
        match permit.await {
            Ok(permit) => permit,
            Err(_) => unreachable!("a sender leaves the list with a permit, or after its receiver"),
        }
    }

    /// Hands free resources to as many claims as may go.
    fn hand_out(&self) {
        loop {
            let mut state = self.lock();
            state.waiting.retain(|waiting| !waiting.sender.is_closed());
            let waiting = state.waiting.iter();
            let claims = waiting.map(|waiting| (waiting.claim, waiting.overtaken));
            let Some(index) = next(claims, &state.running, &state.lately) else {
                return;
            };
            let Some(resource) = state.free.pop() else {
                return;
            };
            let Waiter { claim, sender, .. } = state.waiting.remove(index);
            for waiting in &mut state.waiting {
                waiting.overtaken += 1;
            }
            state.running.push(claim);
            state.lately.push_back(claim.client);
            if state.lately.len() > REMEMBERED_PERMITS {
                state.lately.pop_front();
            }
            // A caller that leaves just now drops the permit, which locks the state again.
            drop(state);
            drop(sender.send(CompilePermit {
                claim,
                resource: Some(resource),
                queue: self.clone(),
            }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.0.lock()
    }
}

impl<T: Default> CompilePermit<T> {
    pub(super) fn resource(&mut self) -> &mut T {
        self.resource.get_or_insert_default()
    }
}

impl<T> Drop for CompilePermit<T> {
    fn drop(&mut self) {
        {
            let mut state = self.queue.lock();
            state.free.extend(self.resource.take());
            let running = state.running.iter().position(|other| *other == self.claim);
            if let Some(index) = running {
                state.running.swap_remove(index);
            }
        }
        self.queue.hand_out();
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
    fn the_client_with_fewer_permits_goes_first_and_none_has_two_at_once() {
        let lately = VecDeque::from([client(1), client(1)]);
        let next = |waiting: &[CompileClaim], running: &[CompileClaim]| {
            super::next(waiting.iter().map(|claim| (*claim, 0)), running, &lately)
        };
        assert_eq!(next(&[short(1), short(1), short(2)], &[]), Some(2));
        assert_eq!(next(&[short(1), short(1)], &[short(1)]), None);
        assert_eq!(next(&[short(1), short(2), short(2)], &[short(1)]), Some(1));
    }

    #[test]
    fn long_trials_come_after_short_ones_and_one_by_one() {
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
    fn a_long_trial_is_overtaken_a_bounded_number_of_times() {
        let waiting = |overtaken| [(short(1), 0), (long(2), overtaken)];
        let none = VecDeque::new();
        assert_eq!(next(waiting(MOST_OVERTAKEN - 1), &[], &none), Some(0));
        assert_eq!(next(waiting(MOST_OVERTAKEN), &[], &none), Some(1));
        assert_eq!(next(waiting(MOST_OVERTAKEN), &[long(3)], &none), Some(0));
    }

    #[tokio::test]
    async fn a_client_whose_trial_takes_long_keeps_no_other_waiting() {
        let queue = CompileQueue::new(vec![1, 2]);
        let slow = queue.acquire(client(1), TrialLength::Short).await;
        let again = |_| Box::pin(queue.acquire(client(1), TrialLength::Short));
        let mut queued: Vec<_> = (0..5).map(again).collect();
        for waiting in &mut queued {
            assert!(waiting.now_or_never().is_none());
        }
        let honest = queue.acquire(client(2), TrialLength::Short).now_or_never();
        assert!(honest.is_some());
        // Those that do not wait any more are skipped.
        let last = queued.pop().expect("five");
        drop(queued);
        drop(slow);
        assert!(last.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_permit_that_comes_too_late_goes_to_the_next() {
        let queue = CompileQueue::new(vec![()]);
        let first = queue.acquire(client(1), TrialLength::Short).await;
        let mut left = Box::pin(queue.acquire(client(2), TrialLength::Short));
        assert!((&mut left).now_or_never().is_none());
        let mut waits = Box::pin(queue.acquire(client(3), TrialLength::Short));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        // It was given a permit that nobody took.
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
