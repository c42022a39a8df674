//! Memory of answers that wait for their clients: one budget for all of them.
//!
//! A client decides how fast it reads, so without a bound many that read nothing would hold a whole
//! answer each for as long as they like. Every answer may keep a little waiting for free, in its
//! [`Outbox`]; what goes beyond that is reserved in the [`SendBudget`], and given back by Drop.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::AdmissionRefusal;

/// Bytes of an answer that may wait without a reservation: some hundred tokens without log probabilities.
pub const FREE_OUTBOX_BYTES: usize = 128 << 10;

/// How long a finished answer waits for room.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that all answers may reserve together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SendBudget(Arc<SendBudgetState>);

#[derive(Debug)]
struct SendBudgetState {
    capacity: usize,
    reserved: AtomicUsize,
    /// Bytes of whole answers that are made and wait for room.
    queued: AtomicUsize,
    given_back: Notify,
}

impl SendBudget {
    /// For `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(SendBudgetState {
            capacity,
            reserved: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            given_back: Notify::new(),
        }))
    }

    /// Bytes that can be reserved at all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Bytes that are reserved now.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Reserves `bytes`; `None` where there is no room. Never waits, so that a scheduler may call it.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        add_within(&self.0.reserved, bytes, self.0.capacity).then(|| Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// Waits a few seconds for room.
    ///
    /// What waits is memory as well: together no more than half of the budget does, the rest is
    /// refused at once.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, AdmissionRefusal> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        let refusal = AdmissionRefusal::memory();
        let _queued = QueuedBytes::enter(&self.0, bytes).ok_or(refusal)?;
        let room = async {
            loop {
                let mut given_back = pin!(self.0.given_back.notified());
                // Before looking, or what is given back in between would go unnoticed.
                given_back.as_mut().enable();
                if let Some(reservation) = self.try_reserve(bytes) {
                    return reservation;
                }
                given_back.await;
            }
        };
        tokio::time::timeout(RESERVE_TIMEOUT, room)
            .await
            .map_err(|_| refusal)
    }
}

/// Adds `bytes` unless that makes more than `most`.
fn add_within(sum: &AtomicUsize, bytes: usize, most: usize) -> bool {
    let add = |sum: usize| sum.checked_add(bytes).filter(|sum| *sum <= most);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .is_ok()
}

/// Bytes that wait for room, until this is dropped.
struct QueuedBytes<'a> {
    budget: &'a SendBudgetState,
    bytes: usize,
}

impl<'a> QueuedBytes<'a> {
    fn enter(budget: &'a SendBudgetState, bytes: usize) -> Option<Self> {
        // Made only where it was added: dropping it takes the bytes off.
        add_within(&budget.queued, bytes, budget.capacity / 2).then(|| Self { budget, bytes })
    }
}

impl Drop for QueuedBytes<'_> {
    fn drop(&mut self) {
        self.budget.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of the budget, given back by Drop.
#[derive(Debug)]
pub struct Reservation {
    budget: SendBudget,
    bytes: usize,
}

impl Reservation {
    /// Takes `bytes` of it away, as far as it has them, into a reservation of their own.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: self.budget.clone(),
            bytes,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let budget = &self.budget.0;
        budget.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
        budget.given_back.notify_waiters();
    }
}

/// What of one answer waits for its client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<OutboxState>);

#[derive(Debug)]
struct OutboxState {
    bytes: AtomicUsize,
    budget: SendBudget,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new(budget: &SendBudget) -> Self {
        Self(Arc::new(OutboxState {
            bytes: AtomicUsize::new(0),
            budget: budget.clone(),
        }))
    }

    /// Counts `bytes` more that wait; `None` where they exceed [`FREE_OUTBOX_BYTES`] and the budget has no
    /// room for them.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Option<PendingBytes> {
        let before = self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        // From here on Drop takes them off again.
        let mut held = PendingBytes {
            outbox: self.clone(),
            bytes,
            reservation: None,
        };
        if before.saturating_add(bytes) > FREE_OUTBOX_BYTES {
            held.reservation = Some(self.0.budget.try_reserve(bytes)?);
        }
        Some(held)
    }

    /// Counts `bytes` more that wait, as [`hold`](Self::hold) does, but waits a few seconds for room.
    pub async fn hold_soon(&self, bytes: usize) -> Result<PendingBytes, AdmissionRefusal> {
        if let Some(held) = self.hold(bytes) {
            return Ok(held);
        }
        let reservation = self.0.budget.reserve(bytes).await?;
        let mut held = self.hold_last(bytes);
        held.reservation = Some(reservation);
        Ok(held)
    }

    /// Counts `bytes` that wait whether there is room or not: for the few that end an answer.
    #[must_use]
    pub fn hold_last(&self, bytes: usize) -> PendingBytes {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        PendingBytes {
            outbox: self.clone(),
            bytes,
            reservation: None,
        }
    }
}

/// Bytes that wait for a client, until this is dropped.
#[derive(Debug)]
pub struct PendingBytes {
    outbox: Outbox,
    bytes: usize,
    reservation: Option<Reservation>,
}

impl PendingBytes {
    /// Whether the budget was needed for them.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.reservation.is_some()
    }
}

impl Drop for PendingBytes {
    fn drop(&mut self) {
        self.outbox.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::RefusalReason;

    #[test]
    fn what_is_reserved_is_given_back_and_never_more_than_there_is() {
        let budget = SendBudget::new(100);
        let mut first = budget.try_reserve(60).expect("room");
        assert!(budget.try_reserve(41).is_none());
        let second = budget.try_reserve(40).expect("room");
        let part = first.split(20);
        drop(first);
        assert_eq!(budget.reserved(), 60);
        drop((second, part));
        assert_eq!(budget.reserved(), 0);
        assert!(budget.try_reserve(usize::MAX).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_answer_waits_for_room_and_is_refused_after_a_while() {
        let budget = SendBudget::new(100);
        let held = budget.try_reserve(80).expect("room");
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(50).await }
        });
        tokio::time::sleep(RESERVE_TIMEOUT / 2).await;
        drop(held);
        let held = waiting.await.expect("no panic").expect("room");
        let refused = budget.reserve(60).await.expect_err("more than half waits");
        assert_eq!(refused.reason, RefusalReason::Memory);
        let began = tokio::time::Instant::now();
        let other = budget.try_reserve(50).expect("room");
        assert!(budget.reserve(50).await.is_err());
        let waited = began.elapsed();
        assert!(
            waited >= RESERVE_TIMEOUT && waited < 2 * RESERVE_TIMEOUT,
            "{waited:?}"
        );
        drop((held, other));
        assert_eq!(budget.0.queued.load(Ordering::Relaxed), 0);
        assert!(budget.reserve(100).await.is_ok());
    }

    #[test]
    fn an_answer_keeps_a_little_waiting_even_where_there_is_no_room() {
        let budget = SendBudget::new(0);
        let outbox = Outbox::new(&budget);
        let first = outbox.hold(FREE_OUTBOX_BYTES - 1).expect("free");
        assert!(outbox.hold(2).is_none());
        let second = outbox.hold(1).expect("what was refused does not count");
        drop(first);
        let third = outbox.hold(FREE_OUTBOX_BYTES - 1).expect("read");
        assert!(!second.is_reserved() && !third.is_reserved());
    }

    proptest! {
        #[test]
        fn whatever_is_held_and_read_the_sums_are_right(
            steps in prop::collection::vec((0..3_usize, 0..FREE_OUTBOX_BYTES, any::<bool>()), 0..200),
        ) {
            let budget = SendBudget::new(4 * FREE_OUTBOX_BYTES);
            let outboxes = [(); 3].map(|()| Outbox::new(&budget));
            let mut held: [Vec<PendingBytes>; 3] = Default::default();
            for (answer, bytes, reads) in steps {
                if reads && !held[answer].is_empty() {
                    held[answer].remove(0);
                } else {
                    held[answer].extend(outboxes[answer].hold(bytes));
                }
                let reserved = |held: &PendingBytes| held.reservation.as_ref().map_or(0, |r| r.bytes);
                let all: usize = held.iter().flatten().map(reserved).sum();
                prop_assert_eq!(budget.reserved(), all);
                prop_assert!(all <= budget.capacity());
                for (outbox, held) in outboxes.iter().zip(&held) {
                    let bytes: usize = held.iter().map(|held| held.bytes).sum();
                    prop_assert_eq!(outbox.0.bytes.load(Ordering::Relaxed), bytes);
                    let free = held.iter().filter(|held| !held.is_reserved());
                    prop_assert!(free.map(|held| held.bytes).sum::<usize>() <= FREE_OUTBOX_BYTES);
                }
            }
            drop(held);
            prop_assert_eq!(budget.reserved(), 0);
        }
    }
}
