//! Who may come in: a bounded number of requests a model, none while draining.
//!
//! [`decide`] is a plain function; [`Gate`] counts and carries out what it says.
//! A [`Permit`] stands for one admitted request and must live as long as its
//! answer is being sent; dropping it makes room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// As many are waiting as may.
    QueueFull,
    /// The server is shutting down.
    Draining,
    /// The model is not loaded yet.
    Loading,
}

impl Reason {
    /// The error code and metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Draining => "draining",
            Self::Loading => "loading",
        }
    }
}

/// A refusal and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// When a place is likely to be free.
    pub retry_after: Duration,
}

/// What a decision depends on.
#[derive(Debug, Clone, Copy)]
struct State {
    draining: bool,
    inside: usize,
    capacity: usize,
    running_places: usize,
    /// How long a request has been taking; `None` before the first.
    service: Option<Duration>,
}

/// Admits, or refuses with the time after which one place should be free: the
/// mean time a request takes, divided by those that leave in that time.
fn decide(state: State) -> Result<(), Refusal> {
    let reason = if state.draining {
        Reason::Draining
    } else if state.inside >= state.capacity {
        Reason::QueueFull
    } else {
        return Ok(());
    };
    let places = u32::try_from(state.running_places.max(1)).unwrap_or(u32::MAX);
    let service = state.service.unwrap_or(Duration::from_secs(1));
    Err(Refusal {
        reason,
        retry_after: (service / places).max(Duration::from_secs(1)),
    })
}

/// The door of one model.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    running_places: usize,
    drain: Drain,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    inside: usize,
    service: Option<Duration>,
}

impl Gate {
    /// `running_places` requests at work and `waiting_places` in the queue.
    #[must_use]
    pub fn new(running_places: usize, waiting_places: usize, drain: Drain) -> Self {
        Self {
            inner: Arc::new(Inner {
                capacity: running_places + waiting_places,
                running_places,
                drain,
                counts: Mutex::default(),
            }),
        }
    }

    /// Requests that can be inside at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// Whether a request that came now would be admitted.
    pub fn would_admit(&self) -> Result<(), Refusal> {
        decide(self.state(&self.counts()))
    }

    /// Lets a request in.
    pub fn admit(&self) -> Result<Permit, Refusal> {
        let mut counts = self.counts();
        decide(self.state(&counts))?;
        counts.inside += 1;
        self.inner.drain.entered();
        Ok(Permit {
            gate: self.clone(),
            since: Instant::now(),
        })
    }

    fn state(&self, counts: &Counts) -> State {
        State {
            draining: self.inner.drain.has_begun(),
            inside: counts.inside,
            capacity: self.inner.capacity,
            running_places: self.inner.running_places,
            service: counts.service,
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.inner
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One admitted request's place.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    since: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let mut counts = self.gate.counts();
        counts.inside -= 1;
        counts.service = Some(match counts.service {
            Some(mean) => (mean * 7 + took) / 8,
            None => took,
        });
        drop(counts);
        self.gate.inner.drain.left();
    }
}

/// The shutdown of the whole server: once begun nobody comes in, and it can be
/// waited for that everybody has left.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    inner: Arc<DrainInner>,
}

#[derive(Debug, Default)]
struct DrainInner {
    begun: AtomicBool,
    inside: Mutex<usize>,
    empty: Notify,
}

impl Drain {
    /// Nobody comes in from now on.
    pub fn begin(&self) {
        self.inner.begun.store(true, Ordering::SeqCst);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.inner.begun.load(Ordering::SeqCst)
    }

    /// Requests that are inside now.
    #[must_use]
    pub fn inside(&self) -> usize {
        *self.lock()
    }

    /// Waits until nobody is inside.
    pub async fn empty(&self) {
        loop {
            let emptied = self.inner.empty.notified();
            if self.inside() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn entered(&self) {
        *self.lock() += 1;
    }

    fn left(&self) {
        let mut inside = self.lock();
        *inside -= 1;
        if *inside == 0 {
            self.inner.empty.notify_waiters();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.inner
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State = State {
        draining: false,
        inside: 0,
        capacity: 4,
        running_places: 2,
        service: None,
    };

    #[test]
    fn a_full_queue_says_when_a_place_should_be_free() {
        let full = State {
            inside: 4,
            service: Some(Duration::from_secs(10)),
            ..STATE
        };
        let refusal = decide(full).expect_err("full");
        assert_eq!(refusal.reason, Reason::QueueFull);
        assert_eq!(refusal.retry_after, Duration::from_secs(5));
    }

    #[test]
    fn draining_refuses_even_with_places_free() {
        let refusal = decide(State {
            draining: true,
            ..STATE
        });
        assert_eq!(refusal.expect_err("draining").reason, Reason::Draining);
    }

    #[test]
    fn a_dropped_permit_makes_room() {
        let gate = Gate::new(1, 1, Drain::default());
        let first = gate.admit().expect("room");
        let _second = gate.admit().expect("room");
        assert!(gate.admit().is_err());
        drop(first);
        assert!(gate.admit().is_ok());
    }

    #[tokio::test]
    async fn a_drain_is_over_when_the_last_permit_is_dropped() {
        let drain = Drain::default();
        let gate = Gate::new(1, 1, drain.clone());
        let permit = gate.admit().expect("room");
        drain.begin();
        assert!(gate.admit().is_err());
        let waiting = tokio::spawn(async move { drain.empty().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(permit);
        waiting.await.expect("drained");
    }
}
