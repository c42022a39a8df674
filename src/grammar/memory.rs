//! Bounds the memory of compiled grammars, of cached ones and of those of answers in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::admission::MemoryRoom;
use crate::engine::return_freed_soon;

/// Bytes that all grammars of one model may hold: some hundred large ones, thousands of ordinary ones.
const MOST_BYTES: usize = 256 << 20;
/// Bytes from which on a grammar is refused where the process has no room for it, and the allocator is asked to
/// return what it held to the system.
const LARGE_RESERVATION: usize = 1 << 20;

/// The bytes that grammars hold at present. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct GrammarMemory {
    held: Arc<AtomicUsize>,
    /// What all that this process holds leaves of its budget.
    room: MemoryRoom,
}

/// The bytes of one grammar, given back when the last answer with it drops this.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    bytes: usize,
    memory: GrammarMemory,
}

impl GrammarMemory {
    pub(super) fn new(room: MemoryRoom) -> Self {
        Self {
            held: Arc::default(),
            room,
        }
    }

    /// Returns the bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Reserves `bytes`; `None` where there is no room for them.
    pub(super) fn hold(&self, bytes: usize) -> Option<MemoryReservation> {
        if bytes >= LARGE_RESERVATION && !self.room.has(bytes) {
            return None;
        }
        let add = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= MOST_BYTES);
        let added = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.ok().map(|_| MemoryReservation {
            bytes,
            memory: self.clone(),
        })
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
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
