//! Whether a model's thread still moves on, as seen from other threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Shows other threads how long the current step has taken so far: the loop beats before every
/// step and rests while it waits for work.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat {
    /// Milliseconds on the process's clock at the last beat, plus one; 0 while at rest.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// A step begins.
    pub fn beat(&self) {
        self.last.store(now_ms() + 1, Ordering::Relaxed);
    }

    /// There is nothing to do.
    pub fn rest(&self) {
        self.last.store(0, Ordering::Relaxed);
    }

    /// How long the current step has been under way; `None` at rest.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            beat => Some(Duration::from_millis(now_ms().saturating_sub(beat - 1))),
        }
    }
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
