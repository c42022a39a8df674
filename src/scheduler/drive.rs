//! The loop that a model's thread runs: jobs in, steps, until told to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::Engine;

use super::Scheduler;
use super::job::{Job, JobError};

/// A rest is looked at again so often.
const NOTICE: Duration = Duration::from_millis(50);

/// Steps until every sender of `jobs` is gone, sleeping while there is nothing
/// to do. What runs then is finished first; `abort` cuts that short.
pub fn drive<E: Engine>(
    mut scheduler: Scheduler<E>,
    jobs: &Receiver<Job>,
    heartbeat: &Heartbeat,
    abort: &dyn Fn() -> bool,
) {
    let mut open = true;
    while open || !scheduler.is_idle() {
        if open && scheduler.is_idle() {
            heartbeat.rest();
            match jobs.recv() {
                Ok(job) => scheduler.submit(job),
                Err(RecvError) => break,
            }
        }
        heartbeat.beat();
        while open {
            match jobs.try_recv() {
                Ok(job) => scheduler.submit(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        if abort() {
            scheduler.fail_all(JobError::ShuttingDown);
        } else {
            let began = Instant::now();
            let working = scheduler.working();
            scheduler.step(&Instant::now);
            drop(working);
            let worked = began.elapsed();
            scheduler.worked(worked);
            rest(&scheduler, worked, abort);
        }
    }
    heartbeat.rest();
}

/// Rests as long as the governor wants after so much work; a change of mind is noticed soon.
fn rest<E: Engine>(scheduler: &Scheduler<E>, worked: Duration, abort: &dyn Fn() -> bool) {
    let began = Instant::now();
    loop {
        let left = scheduler.rest(worked).saturating_sub(began.elapsed());
        if left.is_zero() || abort() {
            return;
        }
        std::thread::sleep(left.min(NOTICE));
    }
}

/// Shows from outside whether the loop gets on: it beats before every step
/// and rests while it waits for work.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat {
    /// Milliseconds on the process's clock at the last beat, plus one; 0 while at rest.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    fn beat(&self) {
        self.last.store(now_ms() + 1, Ordering::Relaxed);
    }

    fn rest(&self) {
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
