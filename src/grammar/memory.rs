//! What compiled grammars hold, those that are kept and those of answers under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::return_freed_soon;

/// Bytes that all of one model's may hold: some hundred large ones, thousands of ordinary ones.
const MOST: usize = 256 << 20;
/// Bytes whose return to the system is worth looking for.
const LARGE: usize = 1 << 20;

/// What they hold at present.
#[derive(Debug, Clone, Default)]
pub(super) struct GrammarMemory(Arc<AtomicUsize>);

/// A grammar's part of it, given back when the last answer drops it.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    bytes: usize,
    memory: GrammarMemory,
}

impl GrammarMemory {
    /// None where there is no room for so many bytes.
    pub(super) fn hold(&self, bytes: usize) -> Option<MemoryReservation> {
        let add = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= MOST);
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
        if self.bytes >= LARGE {
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
        let most = memory.hold(MOST).expect("room");
        assert!(memory.hold(1).is_none() && memory.hold(usize::MAX).is_none());
        drop(most);
        assert!(memory.hold(1).is_some());
    }
}
