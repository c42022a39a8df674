//! The shutdown of the whole server.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};

/// The shutdown of the whole server, in two steps. After [`Drain::begin`] the server says that it is going
/// away, and still takes requests: those that were on their way when it was told to stop. After
/// [`Drain::close`] nobody comes in, and it can be waited for that everybody has left.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    inner: Arc<DrainShared>,
}

#[derive(Debug, Default)]
struct DrainShared {
    state: Mutex<DrainState>,
    empty: Notify,
}

#[derive(Debug, Default)]
struct DrainState {
    phase: DrainPhase,
    inside: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum DrainPhase {
    #[default]
    Serving,
    Begun,
    Closed,
}

impl Drain {
    /// The server is about to stop; whoever asks is told so, and is let in all the same.
    pub fn begin(&self) {
        self.reach(DrainPhase::Begun);
    }

    /// Nobody comes in from now on.
    pub fn close(&self) {
        self.reach(DrainPhase::Closed);
    }

    /// Whether the server is about to stop.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state().phase >= DrainPhase::Begun
    }

    /// Requests that are inside now.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.state().inside
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

    /// Lets a request in, unless nobody comes in any more. Entering and closing exclude each other: who is
    /// in will be waited for.
    #[must_use]
    pub fn enter(&self) -> Option<DrainGuard> {
        let mut state = self.state();
        if state.phase == DrainPhase::Closed {
            return None;
        }
        state.inside += 1;
        Some(DrainGuard {
            _inside: Arc::new(Inside(self.clone())),
        })
    }

    fn reach(&self, phase: DrainPhase) {
        let mut state = self.state();
        state.phase = state.phase.max(phase);
    }

    fn state(&self) -> MutexGuard<'_, DrainState> {
        self.inner.state.lock()
    }
}

/// Makes a shutdown wait for one request, until all clones are dropped.
#[derive(Debug, Clone)]
pub struct DrainGuard {
    _inside: Arc<Inside>,
}

/// A request that is inside.
#[derive(Debug)]
struct Inside(Drain);

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside -= 1;
        if state.inside == 0 {
            self.0.inner.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_until_the_drain_is_closed_and_not_only_until_it_begins() {
        let drain = Drain::default();
        let early = drain.enter().expect("serving");
        drain.begin();
        assert!(drain.has_begun());
        let late = drain.enter().expect("on its way when the drain began");
        drain.close();
        drain.begin();
        assert!(drain.enter().is_none());
        assert_eq!(drain.inside(), 2);
        drop((early, late));
        assert_eq!(drain.inside(), 0);
    }

    #[tokio::test]
    async fn a_drain_is_over_when_the_last_clone_of_the_last_guard_is_dropped() {
        let drain = Drain::default();
        let guard = drain.enter().expect("serving");
        let clone = guard.clone();
        drain.close();
        let waiting = tokio::spawn(async move { drain.empty().await });
        drop(guard);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(clone);
        waiting.await.expect("drained");
    }
}
