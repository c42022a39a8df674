//! How many bytes may still be taken by what can do with less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory that is left of a budget, as it was last looked at. Whoever keeps something that others could do without
/// takes no more than this. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryRoom(Arc<AtomicU64>);

impl Default for MemoryRoom {
    /// As much as anybody wants.
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl MemoryRoom {
    /// So many bytes are left.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that are left.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more can be taken.
    #[must_use]
    pub fn has(&self, bytes: usize) -> bool {
        bytes as u64 <= self.bytes()
    }
}
