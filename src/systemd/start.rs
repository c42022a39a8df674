//! Whether the start is over, and whether it gets further: a function of what the pool does and the time.

use std::time::{Duration, Instant};

use crate::pool::{ModelState, Pool};

/// A load that gets no further for so long hangs. `TimeoutStartSec=` in deploy/edgellm.service is the same.
pub(super) const LOAD_PATIENCE: Duration = Duration::from_secs(180);
/// More time is asked for no more often than this.
const EXTEND_EVERY: Duration = Duration::from_secs(1);
/// A model that has waited for so long, while no other was being loaded, waits for memory that others hold. That may
/// take for ever, and the service is of use without it.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);

/// What the pool does, as far as the start is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StartView {
    /// Whether a model that is to be there from the start is not there yet.
    is_awaited: bool,
    /// Whether no model can be served, so that the server is about to end.
    is_hopeless: bool,
    /// Whether a model is being loaded.
    is_loading: bool,
    /// Signs that loads go on.
    moves: u64,
}

impl StartView {
    pub(super) fn of(pool: &Pool) -> Self {
        let entries = pool.entries();
        let is_loading = |state| matches!(state, ModelState::Loading);
        Self {
            is_awaited: entries.iter().any(|entry| entry.is_awaited()),
            is_hopeless: pool.failure_of_all().is_some(),
            is_loading: entries.iter().any(|entry| is_loading(entry.state())),
            moves: pool.load_moves(),
        }
    }
}

/// What is to be said to systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartStep {
    /// The service is ready.
    Ready,
    /// Something got further: it may take longer.
    Extend,
    /// Nothing.
    Wait,
}

/// How far the start has come, and when that was seen.
#[derive(Debug)]
pub(super) struct StartProgress {
    /// What it looked like when it last got further.
    last: Option<StartView>,
    moved_at: Instant,
}

impl StartProgress {
    pub(super) fn begin(now: Instant) -> Self {
        Self {
            last: None,
            moved_at: now,
        }
    }

    pub(super) fn step(&mut self, view: StartView, now: Instant) -> StartStep {
        if view.is_hopeless {
            return StartStep::Wait;
        }
        if !view.is_awaited {
            return StartStep::Ready;
        }
        let stands_for = now.saturating_duration_since(self.moved_at);
        if self.last != Some(view) && (self.last.is_none() || stands_for >= EXTEND_EVERY) {
            self.last = Some(view);
            self.moved_at = now;
            return StartStep::Extend;
        }
        if !view.is_loading && stands_for >= QUEUE_PATIENCE {
            return StartStep::Ready;
        }
        StartStep::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADING: StartView = StartView {
        is_awaited: true,
        is_hopeless: false,
        is_loading: true,
        moves: 0,
    };

    /// What is said of one view after the other, a second apart.
    fn said(views: &[StartView]) -> Vec<StartStep> {
        let began = Instant::now();
        let mut progress = StartProgress::begin(began);
        let seconds = (0..).map(Duration::from_secs);
        let steps = views.iter().zip(seconds);
        steps
            .map(|(view, second)| progress.step(*view, began + second))
            .collect()
    }

    #[test]
    fn time_is_asked_for_only_while_a_load_gets_further() {
        use StartStep::{Extend, Ready, Wait};
        let at = |moves| StartView { moves, ..LOADING };
        let loaded = StartView {
            is_awaited: false,
            is_loading: false,
            ..at(9)
        };
        let views = [at(1), at(2), at(2), at(2), at(9), loaded];
        assert_eq!(said(&views), [Extend, Extend, Wait, Wait, Extend, Ready]);
    }

    #[test]
    fn a_start_that_is_looked_at_all_the_time_asks_now_and_then() {
        let began = Instant::now();
        let mut progress = StartProgress::begin(began);
        let steps = (0..=100_u64).map(|moves| {
            let view = StartView { moves, ..LOADING };
            progress.step(view, began + Duration::from_millis(50 * moves))
        });
        let asked = steps.filter(|step| *step == StartStep::Extend).count();
        assert_eq!(asked, 6);
    }

    #[test]
    fn a_load_that_hangs_is_never_ready() {
        let steps = said(&[LOADING; 1000]);
        assert_eq!(steps[0], StartStep::Extend);
        assert!(steps[1..].iter().all(|step| *step == StartStep::Wait));
    }

    #[test]
    fn a_model_that_waits_for_memory_does_not_keep_the_others_from_being_ready() {
        let waits = StartView {
            is_loading: false,
            ..LOADING
        };
        let steps = said(&[waits; 12]);
        let ready = steps.iter().position(|step| *step == StartStep::Ready);
        assert_eq!(ready, Some(10));
    }

    #[test]
    fn a_server_without_any_model_that_can_be_served_is_never_ready() {
        let hopeless = StartView {
            is_awaited: false,
            is_hopeless: true,
            is_loading: false,
            moves: 3,
        };
        assert_eq!(said(&[hopeless; 30]), [StartStep::Wait; 30]);
    }
}
