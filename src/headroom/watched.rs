//! A sensor on a thread of its own: a driver that does not come back holds up that sensor alone.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::reading::{Report, Sensor};
use super::roots::{Problem, Roots};

/// Slow drivers take some tenths of a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// See the module's text.
pub(super) struct Watched {
    name: &'static str,
    ask: Sender<Instant>,
    told: Receiver<Report>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It answers in time.
    Prompt,
    /// It was asked and has not answered.
    Stuck,
    /// It came back. What it says next is about the time before and after it was stuck.
    Back,
}

impl Watched {
    pub(super) fn start(mut sensor: Box<dyn Sensor>, roots: Roots) -> io::Result<Self> {
        let name = sensor.name();
        let (ask, asked) = channel();
        let (tell, told) = channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for now in asked {
                    if tell.send(sensor.read(&roots, now)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            name,
            ask,
            told,
            state: State::Prompt,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Begins a look, unless an earlier one is still under way.
    pub(super) fn ask(&self, now: Instant) {
        if self.state != State::Stuck {
            // A thread that has ended shows in `answer`.
            let _ = self.ask.send(now);
        }
    }

    /// What it says; nothing but a problem if that is not there at `deadline`, or not to be trusted.
    pub(super) fn answer(&mut self, deadline: Instant) -> Report {
        let patience = match self.state {
            State::Stuck => Duration::ZERO,
            State::Prompt | State::Back => deadline.saturating_duration_since(Instant::now()),
        };
        let (state, problem) = match (self.told.recv_timeout(patience), self.state) {
            (Ok(report), State::Prompt) => return report,
            (Ok(_), State::Stuck) => (State::Back, Problem::Stuck),
            (Ok(_), State::Back) => (State::Prompt, Problem::Stuck),
            (Err(RecvTimeoutError::Timeout), _) => (State::Stuck, Problem::Stuck),
            (Err(RecvTimeoutError::Disconnected), _) => (State::Stuck, Problem::Ended),
        };
        self.state = state;
        let mut report = Report::default();
        report.problems.push(problem);
        report
    }
}
