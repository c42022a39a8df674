//! Bounds the memory of compiled grammars, of cached ones and of those of answers in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::return_freed_soon;

/// Bytes that all grammars of one model may hold: some hundred large ones, thousands of ordinary ones.
const MOST_BYTES: usize = 256 << 20;
/// Freed bytes from which on the allocator is asked to return memory to the system.
const LARGE_RESERVATION: usize = 1 << 20;

/// The bytes that grammars hold at present. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct GrammarMemory(Arc<AtomicUsize>);

/// The bytes of one grammar, given back when the last answer with it drops this.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    bytes: usize,
    memory: GrammarMemory,
}

impl GrammarMemory {
    /// Reserves `bytes`; `None` where there is no room for them.
    pub(super) fn hold(&self, bytes: usize) -> Option<MemoryReservation> {
        let add = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= MOST_BYTES);
        let added = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.ok().map(|_| MemoryReservation {
            bytes,
            memory: self.clone(),
        })
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.bytes >= LARGE_RESERVATION {
            return_freed_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_held_as_may_be_and_comes_back() {
        let memory = GrammarMemory::default();
        let most = memory.hold(MOST_BYTES).expect("room");
        assert!(memory.hold(1).is_none() && memory.hold(usize::MAX).is_none());
        drop(most);
        assert!(memory.hold(1).is_some());
    }
}
