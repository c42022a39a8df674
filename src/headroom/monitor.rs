//! Asks all sensors and puts together what is known.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use crate::config::{BudgetScope, GovernorSettings};

use super::pressure::{self, PowerHeadroom};
use super::reading::{
    MemoryReading, PowerBudget, PowerDraw, PowerScope, ReadingQuality, Resource, Sensor,
    SensorReading, SensorReport,
};
use super::roots::Roots;
use super::sensor_thread::{self, SensorThread};
use super::sensors::{self, BATTERY};

/// A sensor that comes and goes is in the log no more often.
const NO_NEWS: Duration = Duration::from_secs(600);
/// Draws are averaged over this time: a single interval may be a burst or a pause.
const WINDOW: Duration = Duration::from_secs(5);

/// All that the sensors say at one moment. What is not known is absent.
#[derive(Debug, Default, Clone)]
pub struct ResourceSnapshot {
    pub(crate) power: Option<PowerHeadroom>,
    /// Averages over the last seconds, the most trusted of a scope first.
    pub(crate) draws: Vec<PowerDraw>,
    /// Watts in the last interval alone, by source.
    pub(crate) latest: BTreeMap<String, f64>,
    pub(crate) budgets: Vec<PowerBudget>,
    pub(crate) temperatures: Vec<Temperature>,
    pub(crate) cooling: Vec<(String, f64)>,
    pub(crate) hertz: Option<f64>,
    pub(crate) other_programs: Option<f64>,
    pub(crate) memory: Option<MemoryReading>,
    pub(crate) own_memory: Vec<(&'static str, u64)>,
    pub(crate) stalled: Vec<(&'static str, &'static str, Duration)>,
    /// Joules by source since the last time.
    pub(crate) joules: Vec<(String, PowerScope, f64)>,
    /// Throttling by reason since the last time.
    pub(crate) throttled: Vec<(&'static str, u64)>,
    /// The share of the time in which the processor slowed itself down.
    pub(crate) slowed_down: Option<f64>,
    /// What the hardware says is short at this moment.
    pub(crate) live: Vec<Resource>,
    /// Sources of power and sensors that there are or were, and whether they can be read.
    pub(crate) sources: BTreeMap<String, bool>,
    pub(crate) sensors: BTreeMap<&'static str, bool>,
    /// Readings that failed, by sensor.
    pub(crate) failures: Vec<(&'static str, u64)>,
}

/// A thermal zone.
#[derive(Debug, Clone)]
pub(crate) struct Temperature {
    pub(crate) zone: String,
    pub(crate) celsius: f64,
    pub(crate) limit: Option<f64>,
}

impl Temperature {
    pub(crate) fn headroom(&self) -> Option<f64> {
        self.limit.map(|limit| limit - self.celsius)
    }
}

impl ResourceSnapshot {
    /// Returns how short a resource is, 0 to 1; `None` if that is not known.
    #[must_use]
    pub fn pressure(&self, resource: Resource) -> Option<f64> {
        if self.live.contains(&resource) {
            return Some(1.0);
        }
        match resource {
            Resource::Power => self.power.as_ref().map(PowerHeadroom::pressure),
            Resource::Thermal => {
                let headroom = self.hottest().and_then(Temperature::headroom);
                let by_zone = headroom.map(pressure::thermal_pressure);
                let by_clock = self
                    .slowed_down
                    .map(|ratio| ratio * pressure::ALWAYS_SLOWED);
                by_zone.into_iter().chain(by_clock).reduce(f64::max)
            }
            Resource::Memory => self.memory.map(|memory| 1.0 - memory.ratio()),
            Resource::Cpu => self.other_programs,
        }
    }

    /// The zone that is nearest to its limit.
    pub(crate) fn hottest(&self) -> Option<&Temperature> {
        let limited = self.temperatures.iter().filter_map(|zone| {
            let headroom = zone.headroom()?;
            Some((headroom, zone))
        });
        let (_, zone) = limited.min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        Some(zone)
    }

    /// The draw by which energy is attributed: the board's if that is known, else the package's.
    pub(crate) fn attributed(&self) -> Option<&PowerDraw> {
        [PowerScope::Board, PowerScope::Package]
            .into_iter()
            .find_map(|scope| pressure::best(&self.draws, scope))
    }
}

/// All sensors, and what is kept of the last time.
pub struct Monitor {
    sensors: Vec<SensorThread>,
    configured: Option<(f64, BudgetScope)>,
    /// The widest scope that was ever measured: a budget does not become another's because a
    /// sensor is down. Batteries, which measure only now and then, do not count.
    widest: Option<PowerScope>,
    averages: BTreeMap<String, MovingAverage>,
    sources: BTreeMap<String, bool>,
    states: SensorStates,
    last: Option<Instant>,
    /// Longer intervals are gaps of which nothing is known.
    longest: Duration,
}

impl Monitor {
    /// The sensors that `settings` asks for.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(settings: &GovernorSettings) -> io::Result<Self> {
        Self::over(sensors::all(settings), settings)
    }

    fn over(sensors: Vec<Box<dyn Sensor>>, settings: &GovernorSettings) -> io::Result<Self> {
        let roots = Roots::of(settings);
        let threads = sensors
            .into_iter()
            .map(|sensor| SensorThread::start(sensor, roots.clone()));
        Ok(Self {
            sensors: threads.collect::<io::Result<_>>()?,
            configured: settings
                .power_budget
                .map(|watts| (watts.get(), settings.power_budget_scope)),
            widest: None,
            averages: BTreeMap::new(),
            sources: BTreeMap::new(),
            states: SensorStates::default(),
            last: None,
            longest: 5 * settings.sample_interval,
        })
    }

    /// Looks at everything.
    pub fn look(&mut self, now: Instant) -> ResourceSnapshot {
        let interval = self
            .last
            .replace(now)
            .map(|last| now.saturating_duration_since(last))
            .filter(|interval| *interval <= self.longest);
        let mut snapshot = ResourceSnapshot::default();
        let mut draws = Vec::new();
        let mut memories = Vec::new();
        for source in self.sources.values_mut() {
            *source = false;
        }
        for sensor in &self.sensors {
            sensor.ask(now);
        }
        let deadline = Instant::now() + sensor_thread::ANSWER_TIMEOUT;
        for sensor in &mut self.sensors {
            let report = sensor.answer(deadline);
            self.states.note(sensor.name(), &report, now);
            if !report.problems.is_empty() {
                let count = report.problems.len() as u64;
                snapshot.failures.push((sensor.name(), count));
            }
            self.sources.extend(report.sources);
            for reading in report.readings {
                snapshot.take(reading, &mut draws, &mut memories);
            }
        }
        self.average(&mut snapshot, draws, interval, now);
        self.widest = snapshot
            .draws
            .iter()
            .filter(|draw| draw.source != BATTERY)
            .map(|draw| draw.scope)
            .chain(self.widest)
            .max();
        snapshot.budgets.extend(self.budget());
        snapshot.power = pressure::power(&snapshot.draws, &snapshot.budgets);
        snapshot.memory = pressure::tightest(&memories);
        snapshot.sources.clone_from(&self.sources);
        snapshot.sensors = self.states.up();
        snapshot
    }

    /// The configured budget, with the scope that it is for.
    fn budget(&self) -> Option<PowerBudget> {
        let (watts, scope) = self.configured?;
        let scope = match scope {
            BudgetScope::Board => PowerScope::Board,
            BudgetScope::Package => PowerScope::Package,
            BudgetScope::Auto => self
                .widest
                .unwrap_or(PowerScope::Board)
                .max(PowerScope::Package),
        };
        Some(PowerBudget {
            source: "configured",
            scope,
            watts,
        })
    }

    /// Replaces what was drawn in the last interval by averages, and counts its joules.
    fn average(
        &mut self,
        snapshot: &mut ResourceSnapshot,
        draws: Vec<PowerDraw>,
        interval: Option<Duration>,
        now: Instant,
    ) {
        for draw in draws {
            // A counter knows its joules; for the others this interval was as its end is.
            let joules = draw
                .joules
                .or_else(|| interval.map(|interval| draw.watts * interval.as_secs_f64()));
            if let Some(joules) = joules {
                let source = draw.source.clone();
                snapshot.joules.push((source, draw.scope, joules));
            }
            snapshot.latest.insert(draw.source.clone(), draw.watts);
            let average = self.averages.entry(draw.source.clone());
            average.or_default().add(draw, now);
        }
        let sources = &self.sources;
        self.averages.retain(|source, average| {
            let is_up = sources.get(source).copied().unwrap_or(false);
            is_up && average.expire(now)
        });
        snapshot.draws = self
            .averages
            .values()
            .filter_map(MovingAverage::draw)
            .collect();
        let order = |draw: &PowerDraw| rank(&draw.source);
        snapshot.draws.sort_by_key(order);
    }
}

/// Where several measure the same scope: what is soldered to the input before what is derived.
fn rank(source: &str) -> (u8, String) {
    let class = match source {
        BATTERY => 2,
        "rapl" => 1,
        _ => 0,
    };
    (class, source.to_owned())
}

impl ResourceSnapshot {
    fn take(
        &mut self,
        reading: SensorReading,
        draws: &mut Vec<PowerDraw>,
        memories: &mut Vec<MemoryReading>,
    ) {
        match reading {
            SensorReading::Draw(draw) => draws.push(draw),
            SensorReading::Budget(budget) => self.budgets.push(budget),
            SensorReading::Temperature {
                zone,
                celsius,
                limit,
            } => self.temperatures.push(Temperature {
                zone,
                celsius,
                limit,
            }),
            SensorReading::Cooling { device, ratio } => self.cooling.push((device, ratio)),
            SensorReading::Throttled {
                reason,
                events,
                live,
            } => {
                self.throttled.push((reason, events));
                self.live.extend(live);
            }
            SensorReading::SlowedDown { ratio } => self.slowed_down = Some(ratio),
            SensorReading::Frequency { hertz } => self.hertz = Some(hertz),
            SensorReading::OtherPrograms { ratio } => self.other_programs = Some(ratio),
            SensorReading::Memory(memory) => memories.push(memory),
            SensorReading::OwnMemory { kind, bytes } => self.own_memory.push((kind, bytes)),
            SensorReading::Stalled {
                resource,
                kind,
                time,
            } => self.stalled.push((resource, kind, time)),
        }
    }
}

/// Which sensors there are or were, and what of them is in the log.
#[derive(Debug, Default)]
struct SensorStates(BTreeMap<&'static str, SensorState>);

#[derive(Debug)]
struct SensorState {
    is_up: bool,
    /// What the log says, and since when.
    logged: (bool, Option<Instant>),
}

impl SensorStates {
    /// Keeps whether anything of a sensor can be read, and says so when that changes.
    fn note(&mut self, name: &'static str, report: &SensorReport, now: Instant) {
        let is_up = if report.sources.is_empty() {
            !report.readings.is_empty()
        } else {
            report.sources.iter().any(|(_, is_up)| *is_up)
        };
        let has_problems = !report.problems.is_empty();
        if !is_up && !has_problems && !self.0.contains_key(name) {
            return; // There is no such hardware.
        }
        let state = self.0.entry(name).or_insert(SensorState {
            is_up,
            logged: (true, None),
        });
        state.is_up = is_up;
        let is_whole = is_up && !has_problems;
        let (said, at) = state.logged;
        let is_news = at.is_none_or(|at| now.saturating_duration_since(at) > NO_NEWS);
        if said == is_whole || !is_news {
            return;
        }
        state.logged = (is_whole, Some(now));
        if is_whole {
            tracing::info!(sensor = name, "sensor can be read again");
        } else {
            let problem = report.problems.first();
            let reason = problem.map_or_else(|| "it is gone".to_owned(), ToString::to_string);
            tracing::warn!(sensor = name, reason, "sensor cannot be read");
        }
    }

    fn up(&self) -> BTreeMap<&'static str, bool> {
        let states = self.0.iter();
        states.map(|(name, state)| (*name, state.is_up)).collect()
    }
}

/// The draw of a source over the last seconds.
#[derive(Debug, Default)]
struct MovingAverage {
    /// When, the draw, and for how many seconds it stands.
    draws: VecDeque<(Instant, PowerDraw, f64)>,
}

impl MovingAverage {
    fn add(&mut self, draw: PowerDraw, now: Instant) {
        let seconds = match draw.joules {
            Some(joules) if draw.watts > 0.0 => joules / draw.watts,
            _ => 1.0,
        };
        self.draws.push_back((now, draw, seconds));
    }

    /// Forgets what is too old; false when nothing is left, or when a sensor that always says
    /// what is drawn now does not.
    fn expire(&mut self, now: Instant) -> bool {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        while self.draws.front().is_some_and(|(at, ..)| age(at) > WINDOW) {
            self.draws.pop_front();
        }
        self.draws
            .back()
            .is_some_and(|(at, draw, _)| draw.joules.is_some() || *at == now)
    }

    fn draw(&self) -> Option<PowerDraw> {
        let seconds: f64 = self.draws.iter().map(|(_, _, seconds)| seconds).sum();
        let joules = self
            .draws
            .iter()
            .map(|(_, draw, seconds)| draw.watts * seconds);
        let (_, newest, _) = self.draws.back()?;
        Some(PowerDraw {
            watts: joules.sum::<f64>() / seconds,
            // An average is as good as its parts.
            quality: self
                .draws
                .iter()
                .map(|(_, draw, _)| draw.quality)
                .min()
                .unwrap_or(ReadingQuality::Estimated),
            ..newest.clone()
        })
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
