//! The thread that computes for one model: requests come in through a channel, and every step
//! computes a part of them.
//!
//! [`Worker`] is what such a thread runs, [`run`] the loop around it, [`Heartbeat`] shows from
//! outside whether the loop makes progress, and [`WorkError`] is the error of a request that could not
//! be answered. Nothing here knows what a request is: the scheduler and the embedding batcher both
//! build on this, and neither knows the other.

mod error;
mod heartbeat;
mod run;

use std::time::{Duration, Instant};

pub use error::WorkError;
pub use heartbeat::Heartbeat;
pub use run::run;

/// Computes the requests of one model, step by step.
///
/// The names are not those of the methods that an implementation is likely to have itself, so that
/// none of these can call itself by mistake.
pub trait Worker {
    /// A request of this kind of worker.
    type Request;

    /// Takes a request in; it is computed in later steps.
    fn accept(&mut self, request: Self::Request);

    /// Whether a request waits or is being computed.
    fn has_work(&self) -> bool;

    /// Computes one batch. `clock` is asked before and after it.
    fn run_step(&mut self, clock: &dyn Fn() -> Instant);

    /// How long the loop may sleep while there is no work, before it calls
    /// [`Worker::run_step`] all the same. With `None` it sleeps until a request comes.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }

    /// Does what cannot wait until a rest is over, and computes nothing: a rest may be long.
    fn look_while_resting(&mut self, _now: Instant) {}

    /// How long the loop has to rest after a step that took `worked`.
    fn rest_after(&self, worked: Duration) -> Duration;

    /// Ends every request with `error`.
    fn abort_all(&mut self, error: WorkError);
}
