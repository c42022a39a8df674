//! A sensor on a thread of its own: a driver that does not come back holds up that sensor alone.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::reading::{Sensor, SensorReport};
use super::roots::{Roots, SensorProblem};

/// How long sensors may take to answer; slow drivers take some tenths of a second.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A sensor and its thread.
pub(super) struct SensorThread {
    name: &'static str,
    ask: Sender<Instant>,
    reports: Receiver<SensorReport>,
    state: Responsiveness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Responsiveness {
    /// It answers in time.
    InTime,
    /// It was asked and has not answered.
    Stuck,
    /// It came back. What it says next is about the time before and after it was stuck.
    Recovered,
}

impl SensorThread {
    pub(super) fn start(mut sensor: Box<dyn Sensor>, roots: Roots) -> io::Result<Self> {
        let name = sensor.name();
        let (ask, asked) = channel();
        let (tell, reports) = channel();
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
            reports,
            state: Responsiveness::InTime,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Begins a look, unless an earlier one is still under way.
    pub(super) fn ask(&self, now: Instant) {
        if self.state != Responsiveness::Stuck {
            // A thread that has ended shows in `answer`.
            let _ = self.ask.send(now);
        }
    }

    /// What it says; nothing but a problem if that is not there at `deadline`, or not to be trusted.
    pub(super) fn answer(&mut self, deadline: Instant) -> SensorReport {
        let patience = match self.state {
            Responsiveness::Stuck => Duration::ZERO,
            Responsiveness::InTime | Responsiveness::Recovered => {
                deadline.saturating_duration_since(Instant::now())
            }
        };
        let (state, problem) = match (self.reports.recv_timeout(patience), self.state) {
            (Ok(report), Responsiveness::InTime) => return report,
            (Ok(_), Responsiveness::Stuck) => (Responsiveness::Recovered, SensorProblem::Stuck),
            (Ok(_), Responsiveness::Recovered) => (Responsiveness::InTime, SensorProblem::Stuck),
            (Err(RecvTimeoutError::Timeout), _) => (Responsiveness::Stuck, SensorProblem::Stuck),
            (Err(RecvTimeoutError::Disconnected), _) => {
                (Responsiveness::Stuck, SensorProblem::Ended)
            }
        };
        self.state = state;
        let mut report = SensorReport::default();
        report.problems.push(problem);
        report
    }
}
