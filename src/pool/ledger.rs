//! Who holds how many bytes of memory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sync::Mutex;

/// What memory is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemoryKind {
    /// The program itself, before any model.
    Program,
    /// Models' tensors, mapped or read.
    Weights,
    /// KV caches, all of their cells.
    KvCache,
    /// What models compute in, and their vocabularies.
    Compute,
    /// Prompts that gave way in a KV cache.
    ParkedPrompts,
    /// Compiled grammars, and those that answers under way hold.
    Grammars,
    /// Large bodies of requests.
    Bodies,
    /// Answers that wait for their clients to read.
    Streams,
    /// Stored responses.
    Responses,
}

impl MemoryKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Program,
        Self::Weights,
        Self::KvCache,
        Self::Compute,
        Self::ParkedPrompts,
        Self::Grammars,
        Self::Bodies,
        Self::Streams,
        Self::Responses,
    ];

    /// Returns the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Weights => "weights",
            Self::KvCache => "kv_cache",
            Self::Compute => "compute",
            Self::ParkedPrompts => "parked_prompts",
            Self::Grammars => "grammars",
            Self::Bodies => "bodies",
            Self::Streams => "streams",
            Self::Responses => "responses",
        }
    }
}

/// What a model takes of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelMemory {
    /// Its tensors.
    pub weights: u64,
    /// All cells of all banks of its KV cache. Pages are taken when they are used.
    pub kv_cache: u64,
    /// Everything else: compute buffers, the vocabulary, copies of rearranged tensors.
    pub compute: u64,
}

impl ModelMemory {
    /// Everything together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.weights + self.kv_cache + self.compute
    }
}

type Reading = Box<dyn Fn() -> u64 + Send + Sync>;

/// Knows who holds how many bytes beside the models: others say how to ask them. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryLedger {
    readings: Arc<Mutex<Vec<(MemoryKind, Reading)>>>,
}

impl MemoryLedger {
    /// Asks `reading` from now on how many bytes of this kind somebody holds.
    pub fn add(&self, kind: MemoryKind, reading: impl Fn() -> u64 + Send + Sync + 'static) {
        let mut readings = self.readings.lock();
        readings.push((kind, Box::new(reading)));
    }

    /// Returns the bytes of each kind that are held now, a kind once for each who holds some.
    #[must_use]
    pub fn read(&self) -> Vec<(MemoryKind, u64)> {
        let readings = self.readings.lock();
        readings
            .iter()
            .map(|(kind, read)| (*kind, read()))
            .collect()
    }
}

impl std::fmt::Debug for MemoryLedger {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.read()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_memory_is_asked_each_time() {
        let ledger = MemoryLedger::default();
        let held = Arc::new(Mutex::new(1));
        let asked = Arc::clone(&held);
        ledger.add(MemoryKind::Streams, move || *asked.lock());
        ledger.add(MemoryKind::Bodies, || 7);
        assert_eq!(
            ledger.read(),
            [(MemoryKind::Streams, 1), (MemoryKind::Bodies, 7)]
        );
        *held.lock() = 5;
        assert_eq!(ledger.read()[0], (MemoryKind::Streams, 5));
    }
}
