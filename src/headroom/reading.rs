//! What sensors are and what they say.

use std::time::{Duration, Instant};

use super::roots::{Roots, SensorProblem};

/// One kind of sensor. It keeps what it needs to know of the last time, and never fails: what it
/// cannot say it leaves out.
pub(crate) trait Sensor: Send {
    /// What its status series is called.
    fn name(&self) -> &'static str;

    /// Looks at the files below `roots`. A report with nothing in it says that there is no such
    /// hardware.
    fn read(&mut self, roots: &Roots, now: Instant) -> SensorReport;
}

/// What a sensor found.
#[derive(Debug, Default)]
pub(crate) struct SensorReport {
    pub(crate) readings: Vec<SensorReading>,
    /// What should have been there.
    pub(crate) problems: Vec<SensorProblem>,
    /// Sources of power, and whether they can be read.
    pub(crate) sources: Vec<(String, bool)>,
}

impl SensorReport {
    pub(crate) fn push(&mut self, reading: SensorReading) {
        self.readings.push(reading);
    }

    /// The value, or none and the problem noted.
    pub(crate) fn note<T>(&mut self, result: Result<Option<T>, SensorProblem>) -> Option<T> {
        match result {
            Ok(value) => value,
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }
}

/// One thing that is known now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SensorReading {
    /// Power that is drawn.
    Draw(PowerDraw),
    /// A limit of power.
    Budget(PowerBudget),
    /// A thermal zone.
    Temperature {
        zone: String,
        celsius: f64,
        /// Where the system begins to slow down, or worse.
        limit: Option<f64>,
    },
    /// How hard a device cools, 0 to 1.
    Cooling { device: String, ratio: f64 },
    /// The processor was slowed down.
    Throttled {
        reason: &'static str,
        /// How often since the last time.
        events: u64,
        /// What is short at this moment.
        live: Option<Resource>,
    },
    /// The share of the last time in which the processor slowed itself down, 0 to 1.
    SlowedDown { ratio: f64 },
    /// The mean clock of the cores.
    Frequency { hertz: f64 },
    /// What others took of the processor since the last time, 0 to 1.
    OtherPrograms { ratio: f64 },
    /// Memory under a limit.
    Memory(MemoryReading),
    /// Memory of this process.
    OwnMemory { kind: &'static str, bytes: u64 },
    /// Time that tasks waited for a resource, since the system started.
    Stalled {
        resource: &'static str,
        kind: &'static str,
        time: Duration,
    },
}

/// Power that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PowerDraw {
    pub(crate) source: String,
    pub(crate) scope: PowerScope,
    pub(crate) quality: ReadingQuality,
    pub(crate) watts: f64,
    /// Since the last time, where the sensor counts it.
    pub(crate) joules: Option<f64>,
}

/// A limit of power.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PowerBudget {
    pub(crate) source: &'static str,
    pub(crate) scope: PowerScope,
    pub(crate) watts: f64,
}

/// What a number of watts is about. Only what is about the same thing is ever compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PowerScope {
    /// Some part of the board: a rail, a graphics card.
    Part,
    /// The processors with their caches and memory controllers.
    Package,
    /// All that the gateway draws.
    Board,
}

impl PowerScope {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::Package => "package",
            Self::Board => "board",
        }
    }
}

/// How far a number can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReadingQuality {
    Estimated,
    Measured,
}

impl ReadingQuality {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Estimated => "estimated",
            Self::Measured => "measured",
        }
    }
}

/// Memory under a limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MemoryReading {
    pub(crate) limit: f64,
    pub(crate) usage: f64,
    pub(crate) available: f64,
}

impl MemoryReading {
    /// What is left, 0 to 1.
    pub(crate) fn ratio(&self) -> f64 {
        self.available / self.limit
    }
}

/// What a gateway can run short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Watts.
    Power,
    /// Degrees.
    Thermal,
    /// Bytes.
    Memory,
    /// Time of the processor, taken by other programs.
    Cpu,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Power, Self::Thermal, Self::Memory, Self::Cpu];

    /// The label in metrics, the code of a refusal, and the name of a rehearsal's file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Thermal => "thermal",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}
