//! Acts on what is short: power, heat, memory, and the processor's time.
//!
//! The governor decides how much harm is needed and publishes it as [`Measures`]; it knows nobody
//! who obeys. Models' schedulers and the door read [`GovernorHandle`] and do their part.
//!
//! Every resource has a ladder of measures, each with the pressure at which it begins, in the
//! order of the harm that they do: fewer prefixes are cached, flex requests are paused,
//! fewer requests run at once, steps are paced, smaller siblings of models answer, requests are refused. Between its threshold and the
//! last one of its ladder a measure grows. Power has a second way to be paced: by a controller that
//! holds the average draw just within the budget, so that all of it can be used; for power the
//! other hard measures wait until that is not enough, because fewer rows make every token dearer.
//!
//! | file | holds |
//! |---|---|
//! | `policy` | the ladders, from the configuration |
//! | `ladder` | which measures hold: a function of state, pressures and time |
//! | `pacer` | the share of the time that fits a power budget: a function of state and interval |
//! | `rehearsal` | pressure out of files, to try all of this |
//! | `log_sentence` | what the log says |
//! | `control_loop` | the thread that looks, decides and publishes |

mod control_loop;
mod ladder;
mod log_sentence;
mod pacer;
mod policy;
mod rehearsal;

#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::{Receiver, channel};

use crate::headroom::{EnergyRate, Resource};
use crate::sync::Mutex;

pub use control_loop::Governor;

/// The measures in force, as shares of what is possible without them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// The share of the KV cache's cells that may hold prefixes which no running request uses.
    pub parked: f64,
    /// Whether flex requests run.
    pub flex: bool,
    /// The share of the requests that may run at once.
    pub rows: f64,
    /// The share of the time in which the engine may compute.
    pub duty: f64,
    /// Set while smaller siblings answer in place of the models that have some: what is short.
    pub sibling: Option<Resource>,
    /// Set while no request is admitted.
    pub refusal: Option<Shedding>,
}

/// No request is admitted, for want of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shedding {
    /// What is short.
    pub resource: Resource,
    /// When that may be over.
    pub retry_after: Duration,
}

impl Measures {
    /// Everything as if nobody governed.
    pub const NONE: Self = Self {
        parked: 1.0,
        flex: true,
        rows: 1.0,
        duty: 1.0,
        sibling: None,
        refusal: None,
    };

    /// Returns how many of `most` requests may run; at least one.
    #[must_use]
    pub fn rows_of(&self, most: usize) -> usize {
        share_of(self.rows, most).max(1)
    }

    /// Returns how many of `cells` may hold prefixes that no running request uses; `None` for all of them.
    #[must_use]
    pub fn parked_of(&self, cells: usize) -> Option<usize> {
        (self.parked < 1.0).then(|| share_of(self.parked, cells))
    }

    /// Returns how long to rest after having computed for `busy`.
    #[must_use]
    pub fn rest(&self, busy: Duration) -> Duration {
        if self.duty >= 1.0 {
            return Duration::ZERO;
        }
        busy.mul_f64(self.duty.max(0.01).recip() - 1.0)
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // of a share between 0 and 1
fn share_of(share: f64, whole: usize) -> usize {
    (share * whole as f64).round() as usize
}

/// What the governor's thread publishes after each look.
#[derive(Debug, Clone, Copy)]
struct GovernorOutput {
    measures: Measures,
    energy_rate: Option<EnergyRate>,
    /// After this the governor's thread counts as dead, and the output no longer holds.
    until: Option<Instant>,
}

/// The current measures, for schedulers and admission, which also report their computing here. Cheap to
/// clone and to read.
#[derive(Debug, Clone)]
pub struct GovernorHandle {
    published: Receiver<GovernorOutput>,
    work: Arc<Mutex<ComputeTime>>,
}

impl Default for GovernorHandle {
    /// No measure holds.
    fn default() -> Self {
        let (_, published) = channel(GovernorOutput {
            measures: Measures::NONE,
            energy_rate: None,
            until: None,
        });
        Self {
            published,
            work: Arc::default(),
        }
    }
}

impl GovernorHandle {
    /// Returns the measures that hold now.
    #[must_use]
    pub fn measures(&self) -> Measures {
        let published = *self.published.borrow();
        match published.until {
            Some(until) if Instant::now() > until => Measures::NONE,
            _ => published.measures,
        }
    }

    /// Returns the power that goes with computing now, if it is known.
    #[must_use]
    pub fn energy_rate(&self) -> Option<EnergyRate> {
        let published = *self.published.borrow();
        let is_old = published.until.is_some_and(|until| Instant::now() > until);
        published.energy_rate.filter(|_| !is_old)
    }

    /// What a test says holds.
    #[cfg(test)]
    pub(crate) fn fixed(measures: Measures, energy_rate: Option<EnergyRate>) -> Self {
        let (_, published) = channel(GovernorOutput {
            measures,
            energy_rate,
            until: None,
        });
        Self {
            published,
            work: Arc::default(),
        }
    }

    /// Counts the time until the guard is dropped as computing.
    #[must_use]
    pub fn work(&self) -> ComputeGuard {
        let since = Instant::now();
        self.work.lock().under_way.push(since);
        ComputeGuard {
            work: Arc::clone(&self.work),
            since,
        }
    }
}

/// The time that all engines together have computed.
#[derive(Debug, Default)]
struct ComputeTime {
    done: Duration,
    /// When the steps under way began; as many as there are models.
    under_way: Vec<Instant>,
}

impl ComputeTime {
    /// All of it until `now`. A long step counts while it runs: what is drawn is drawn then.
    fn done(&self, now: Instant) -> Duration {
        let under_way = self.under_way.iter();
        let so_far = under_way.map(|since| now.saturating_duration_since(*since));
        self.done + so_far.sum::<Duration>()
    }
}

/// A step of an engine under way.
#[derive(Debug)]
pub struct ComputeGuard {
    work: Arc<Mutex<ComputeTime>>,
    since: Instant,
}

impl Drop for ComputeGuard {
    fn drop(&mut self) {
        let mut work = self.work.lock();
        if let Some(place) = work.under_way.iter().position(|since| *since == self.since) {
            work.under_way.swap_remove(place);
            work.done += self.since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_numbers_and_somebody_always_runs() {
        let half = Measures {
            parked: 0.5,
            rows: 0.5,
            duty: 0.25,
            ..Measures::NONE
        };
        assert_eq!((half.rows_of(16), half.rows_of(1)), (8, 1));
        assert_eq!(half.parked_of(1000), Some(500));
        assert_eq!(
            half.rest(Duration::from_millis(10)),
            Duration::from_millis(30)
        );
        let none = Measures {
            rows: 0.0,
            ..Measures::NONE
        };
        assert_eq!(none.rows_of(16), 1);
        assert_eq!(Measures::NONE.parked_of(1000), None);
        assert_eq!(Measures::NONE.rest(Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn what_a_dead_governor_said_no_longer_holds() {
        let strict = Measures {
            flex: false,
            ..Measures::NONE
        };
        let now = Instant::now();
        let (sender, published) = channel(GovernorOutput {
            measures: strict,
            energy_rate: None,
            until: Some(now + Duration::from_secs(60)),
        });
        let governed = GovernorHandle {
            published,
            work: Arc::default(),
        };
        assert_eq!(governed.measures(), strict);
        sender.send_modify(|published| {
            published.until = now.checked_sub(Duration::from_secs(1));
        });
        assert_eq!(governed.measures(), Measures::NONE);
    }
    #[test]
    fn a_step_counts_while_it_is_under_way_and_once() {
        let governed = GovernorHandle::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let (one, other) = (governed.work(), governed.work());
        let under_way = governed.work.lock().done(later);
        assert!(under_way > Duration::from_secs(119));
        drop(one);
        drop(other);
        assert!(governed.work.lock().done(later) < Duration::from_secs(1));
        assert!(governed.work.lock().under_way.is_empty());
    }
}
