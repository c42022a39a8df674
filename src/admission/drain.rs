//! The shutdown of the whole server.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lock;

/// The shutdown of the whole server: once begun nobody comes in, and it can be
/// waited for that everybody has left.
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
    begun: bool,
    inside: usize,
}

impl Drain {
    /// Nobody comes in from now on.
    pub fn begin(&self) {
        self.state().begun = true;
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state().begun
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

    pub(super) fn enter(&self) -> Option<DrainGuard> {
        let mut state = self.state();
        if state.begun {
            return None;
        }
        state.inside += 1;
        Some(DrainGuard {
            drain: self.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, DrainState> {
        lock(&self.inner.state)
    }
}

/// Makes a shutdown wait for one request, until dropped.
#[derive(Debug)]
pub struct DrainGuard {
    drain: Drain,
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        let mut state = self.drain.state();
        state.inside -= 1;
        if state.inside == 0 {
            self.drain.inner.empty.notify_waiters();
        }
    }
}
