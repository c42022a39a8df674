//! The loop that a model's thread runs: jobs in, steps, until told to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::Engine;

use super::Scheduler;
use super::job::{Job, JobError};

/// A rest is looked at again so often.
const NOTICE: Duration = Duration::from_millis(50);

/// What a model's thread runs: work comes in, and every step does a part of it.
pub trait Work {
    /// A request.
    type Job;

    /// Takes a request up.
    fn submit(&mut self, job: Self::Job);

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool;

    /// One batch.
    fn step(&mut self, clock: &dyn Fn() -> Instant);

    /// How long it may do nothing while it is idle; none is as long as nothing comes.
    fn nap(&self) -> Option<Duration> {
        None
    }

    /// How long to rest after a step that took `worked`.
    fn rest(&self, worked: Duration) -> Duration;

    /// Ends all requests with `error`.
    fn fail_all(&mut self, error: JobError);
}

impl<E: Engine> Work for Scheduler<E> {
    type Job = Job;

    fn submit(&mut self, job: Job) {
        self.submit(job);
    }

    fn is_idle(&self) -> bool {
        self.is_idle()
    }

    fn step(&mut self, clock: &dyn Fn() -> Instant) {
        let began = Instant::now();
        let working = self.working();
        self.step(clock);
        drop(working);
        self.worked(began.elapsed());
    }

    fn nap(&self) -> Option<Duration> {
        self.nap()
    }

    fn rest(&self, worked: Duration) -> Duration {
        self.rest(worked)
    }

    fn fail_all(&mut self, error: JobError) {
        self.fail_all(error);
    }
}

/// Steps until every sender of `jobs` is gone, sleeping while there is nothing
/// to do. What runs then is finished first; `abort` cuts that short.
pub fn drive<W: Work>(
    mut work: W,
    jobs: &Receiver<W::Job>,
    heartbeat: &Heartbeat,
    abort: &dyn Fn() -> bool,
) {
    let mut open = true;
    while open || !work.is_idle() {
        if open && work.is_idle() {
            heartbeat.rest();
            let nap = work.nap().unwrap_or(Duration::MAX);
            match jobs.recv_timeout(nap) {
                Ok(job) => work.submit(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        heartbeat.beat();
        while open {
            match jobs.try_recv() {
                Ok(job) => work.submit(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        if abort() {
            work.fail_all(JobError::ShuttingDown);
        } else {
            let began = Instant::now();
            work.step(&Instant::now);
            rest(&work, began.elapsed(), abort);
        }
    }
    heartbeat.rest();
}

/// Rests as long as the governor wants after so much work; a change of mind is noticed soon.
fn rest(work: &impl Work, worked: Duration, abort: &dyn Fn() -> bool) {
    let began = Instant::now();
    loop {
        let left = work.rest(worked).saturating_sub(began.elapsed());
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
