//! The metrics of power, heat and memory. A gauge that is not known is no series, and all of them
//! go when nobody has looked at the sensors for a while: a stuck driver must not look like calm.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, Opts};

use crate::telemetry::Metrics;
use crate::telemetry::metrics::MetricsError;

use super::monitor::Outlook;
use super::reading::Resource;

/// Gauges that are older are not shown.
const STALE: Duration = Duration::from_secs(60);

/// What the governor makes of an outlook.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How short each resource is, 0 to 1, rehearsals included.
    pub pressures: Vec<(Resource, f64)>,
    /// What a rehearsal says of them.
    pub rehearsed: Vec<(Resource, f64)>,
    /// Every measure that there is, by what may be short, and whether it is in force.
    pub measures: Vec<(&'static str, Resource, bool)>,
    /// The hardest measure in force.
    pub level: u8,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Series {
    gauges: Gauges,
    energy: CounterVec,
    throttled: IntCounterVec,
    stalled: CounterVec,
    failures: IntCounterVec,
    actions: IntCounterVec,
}

impl Series {
    /// Registers everything.
    ///
    /// # Errors
    /// [`MetricsError`] on a defect of the table below.
    pub fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let gauges = Gauges::new()?;
        metrics.register(Box::new(gauges.clone()))?;
        let energy = CounterVec::new(
            options(
                "energy_joules_total",
                "Energy drawn, by what measured it and what it is about.",
            ),
            &["source", "scope"],
        )?;
        let throttled = IntCounterVec::new(
            options(
                "throttle_events_total",
                "How often the processor was slowed down, by reason.",
            ),
            &["reason"],
        )?;
        let stalled = CounterVec::new(
            options(
                "pressure_stalled_seconds_total",
                "Time that some or all tasks of the system waited for a resource.",
            ),
            &["resource", "kind"],
        )?;
        let failures = IntCounterVec::new(
            options(
                "sensor_failures_total",
                "Readings that failed or could not be true, by sensor.",
            ),
            &["sensor"],
        )?;
        let actions = IntCounterVec::new(
            options(
                "governor_actions_total",
                "How often a measure began, by what was short.",
            ),
            &["action", "resource"],
        )?;
        metrics.register(Box::new(energy.clone()))?;
        metrics.register(Box::new(throttled.clone()))?;
        metrics.register(Box::new(stalled.clone()))?;
        metrics.register(Box::new(failures.clone()))?;
        metrics.register(Box::new(actions.clone()))?;
        Ok(Self {
            gauges,
            energy,
            throttled,
            stalled,
            failures,
            actions,
        })
    }

    /// Shows what is known now, and what is made of it.
    pub fn show(&self, outlook: &Outlook, verdict: &Verdict, now: Instant) {
        for (source, scope, joules) in &outlook.joules {
            let labels = &[source.as_str(), scope.as_str()];
            self.energy
                .with_label_values(labels)
                .inc_by(joules.max(0.0));
        }
        for (reason, events) in &outlook.throttled {
            self.throttled.with_label_values(&[reason]).inc_by(*events);
        }
        for (resource, kind, seconds) in &outlook.stalled {
            let counter = self.stalled.with_label_values(&[resource, kind]);
            counter.inc_by((seconds - counter.get()).max(0.0));
        }
        for (sensor, count) in &outlook.failures {
            self.failures.with_label_values(&[sensor]).inc_by(*count);
        }
        self.gauges.show(outlook, verdict, now);
    }

    /// A measure exists that can begin.
    pub(crate) fn announce(&self, action: &str, resource: Resource) {
        self.actions.with_label_values(&[action, resource.as_str()]);
    }

    /// A measure begins.
    pub(crate) fn began(&self, action: &str, resource: Resource) {
        self.actions
            .with_label_values(&[action, resource.as_str()])
            .inc();
    }
}

/// All gauges, shown and replaced as one.
#[derive(Debug, Clone)]
struct Gauges {
    table: Vec<(Gauge, GaugeVec)>,
    shown: Arc<Mutex<Option<Instant>>>,
}

/// The gauges by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gauge {
    PowerDraw,
    PowerBudget,
    PowerHeadroom,
    PowerHeadroomRatio,
    PowerSourceUp,
    SensorUp,
    Temperature,
    ThermalHeadroom,
    Cooling,
    Frequency,
    MemoryLimit,
    MemoryUsage,
    MemoryAvailable,
    MemoryHeadroomRatio,
    ProcessMemory,
    Pressure,
    Rehearsed,
    Measure,
    Level,
}

/// Names, help texts and labels.
const TABLE: [(Gauge, &str, &str, &[&str]); 19] = [
    (
        Gauge::PowerDraw,
        "power_draw_watts",
        "Power drawn, averaged over 5 seconds; only what has the same scope may be compared.",
        &["source", "scope", "quality"],
    ),
    (
        Gauge::PowerBudget,
        "power_budget_watts",
        "Power that may be drawn, by who says so; the least for a scope holds.",
        &["source"],
    ),
    (
        Gauge::PowerHeadroom,
        "power_headroom_watts",
        "Budget less draw, where least is left; negative when overdrawn.",
        &[],
    ),
    (
        Gauge::PowerHeadroomRatio,
        "power_headroom_ratio",
        "The same as a share of the budget.",
        &[],
    ),
    (
        Gauge::PowerSourceUp,
        "power_source_up",
        "Whether a source of power readings can be read.",
        &["source"],
    ),
    (
        Gauge::SensorUp,
        "sensor_up",
        "Whether anything of a kind of sensor can be read.",
        &["sensor"],
    ),
    (
        Gauge::Temperature,
        "temperature_celsius",
        "Temperature of a thermal zone.",
        &["zone"],
    ),
    (
        Gauge::ThermalHeadroom,
        "thermal_headroom_celsius",
        "Degrees to the first passive or hot trip point, or to the configured limit.",
        &["zone"],
    ),
    (
        Gauge::Cooling,
        "cooling_state_ratio",
        "How hard devices of a kind cool or slow down, of what they can.",
        &["device"],
    ),
    (
        Gauge::Frequency,
        "cpu_frequency_hertz",
        "Mean clock of the cores.",
        &[],
    ),
    (
        Gauge::MemoryLimit,
        "memory_limit_bytes",
        "The tightest limit of memory: the system's or a control group's.",
        &[],
    ),
    (
        Gauge::MemoryUsage,
        "memory_usage_bytes",
        "Memory used under that limit, without the file cache that can be had back.",
        &[],
    ),
    (
        Gauge::MemoryAvailable,
        "memory_available_bytes",
        "Memory left under that limit.",
        &[],
    ),
    (
        Gauge::MemoryHeadroomRatio,
        "memory_headroom_ratio",
        "The same as a share of the limit.",
        &[],
    ),
    (
        Gauge::ProcessMemory,
        "process_memory_bytes",
        "Memory of this process: its own, and of files such as a model's.",
        &["kind"],
    ),
    (
        Gauge::Pressure,
        "governor_pressure_ratio",
        "How short a resource is, rehearsals included; 1 is as short as can be.",
        &["resource"],
    ),
    (
        Gauge::Rehearsed,
        "governor_rehearsed_pressure_ratio",
        "Pressure out of a rehearsal's file; none while nothing is rehearsed.",
        &["resource"],
    ),
    (
        Gauge::Measure,
        "governor_measure_active",
        "Whether a measure is in force (1) or not (0), and for what.",
        &["action", "resource"],
    ),
    (
        Gauge::Level,
        "governor_level",
        "The hardest measure in force: 0 none, 1 smaller cache, 2 flex parked, 3 fewer rows, 4 paced, 6 refusing.",
        &[],
    ),
];

impl Gauges {
    fn new() -> Result<Self, MetricsError> {
        let table = TABLE
            .iter()
            .map(|(gauge, name, help, labels)| {
                Ok((*gauge, GaugeVec::new(options(name, help), labels)?))
            })
            .collect::<Result<_, MetricsError>>()?;
        Ok(Self {
            table,
            shown: Arc::default(),
        })
    }

    fn show(&self, outlook: &Outlook, verdict: &Verdict, now: Instant) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, gauge) in &self.table {
            gauge.reset();
        }
        let set = |wanted: Gauge, labels: &[&str], value: f64| {
            // A number that is none is not known either.
            if let Some((_, gauge)) = self.table.iter().find(|(gauge, _)| *gauge == wanted)
                && value.is_finite()
            {
                gauge.with_label_values(labels).set(value);
            }
        };
        for draw in &outlook.draws {
            let labels = [
                draw.source.as_str(),
                draw.scope.as_str(),
                draw.quality.as_str(),
            ];
            set(Gauge::PowerDraw, &labels, draw.watts);
        }
        let mut budgets = outlook.budgets.clone();
        // Of several that one kind of source tells the least is shown: it is set last.
        budgets.sort_by(|one, other| other.watts.total_cmp(&one.watts));
        for budget in &budgets {
            set(Gauge::PowerBudget, &[budget.source], budget.watts);
        }
        if let Some(power) = &outlook.power {
            set(Gauge::PowerHeadroom, &[], power.watts());
            if let Some(ratio) = power.ratio() {
                set(Gauge::PowerHeadroomRatio, &[], ratio);
            }
        }
        for (source, is_up) in &outlook.sources {
            set(Gauge::PowerSourceUp, &[source], f64::from(u8::from(*is_up)));
        }
        for (sensor, is_up) in &outlook.sensors {
            set(Gauge::SensorUp, &[sensor], f64::from(u8::from(*is_up)));
        }
        for zone in &outlook.temperatures {
            set(Gauge::Temperature, &[&zone.zone], zone.celsius);
            if let Some(headroom) = zone.headroom() {
                set(Gauge::ThermalHeadroom, &[&zone.zone], headroom);
            }
        }
        for (device, ratio) in &outlook.cooling {
            set(Gauge::Cooling, &[device], *ratio);
        }
        if let Some(hertz) = outlook.hertz {
            set(Gauge::Frequency, &[], hertz);
        }
        if let Some(memory) = outlook.memory {
            set(Gauge::MemoryLimit, &[], memory.limit);
            set(Gauge::MemoryUsage, &[], memory.usage);
            set(Gauge::MemoryAvailable, &[], memory.available);
            set(Gauge::MemoryHeadroomRatio, &[], memory.ratio());
        }
        for (kind, bytes) in &outlook.own_memory {
            #[allow(clippy::cast_precision_loss)] // memories are below 2^52 bytes
            set(Gauge::ProcessMemory, &[kind], *bytes as f64);
        }
        for (resource, pressure) in &verdict.pressures {
            set(Gauge::Pressure, &[resource.as_str()], *pressure);
        }
        for (resource, pressure) in &verdict.rehearsed {
            set(Gauge::Rehearsed, &[resource.as_str()], *pressure);
        }
        for (action, resource, holds) in &verdict.measures {
            let labels = [*action, resource.as_str()];
            set(Gauge::Measure, &labels, f64::from(u8::from(*holds)));
        }
        set(Gauge::Level, &[], f64::from(verdict.level));
        *shown = Some(now);
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.table
            .iter()
            .flat_map(|(_, gauge)| gauge.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_none_or(|at| at.elapsed() > STALE) {
            return Vec::new();
        }
        self.table
            .iter()
            .flat_map(|(_, gauge)| gauge.collect())
            .collect()
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("edgellm")
}

#[cfg(test)]
mod tests {
    use super::super::reading::{Draw, Quality, Scope};
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode().expect("encodable").0).expect("text")
    }

    #[test]
    fn what_is_unknown_is_no_series_and_what_becomes_unknown_goes() {
        let metrics = Metrics::new().expect("sound");
        let series = Series::new(&metrics).expect("sound");
        assert!(!text(&metrics).contains("edgellm_governor_level"));
        let now = Instant::now();
        let known = Outlook {
            draws: vec![Draw {
                source: "rapl".to_owned(),
                scope: Scope::Package,
                quality: Quality::Measured,
                watts: 8.0,
                joules: None,
            }],
            ..Outlook::default()
        };
        let calm = Verdict {
            pressures: vec![(Resource::Power, 0.4)],
            measures: vec![("pace", Resource::Power, false)],
            ..Verdict::default()
        };
        series.show(&known, &calm, now);
        let shown = text(&metrics);
        let draw =
            "edgellm_power_draw_watts{quality=\"measured\",scope=\"package\",source=\"rapl\"} 8\n";
        assert!(shown.contains(draw), "{shown}");
        assert!(shown.contains("edgellm_governor_pressure_ratio{resource=\"power\"} 0.4\n"));
        let measure = "edgellm_governor_measure_active{action=\"pace\",resource=\"power\"}";
        assert!(shown.contains(&format!("{measure} 0\n")));
        assert!(!shown.contains("rehearsed"));
        let refusing = Verdict {
            rehearsed: vec![(Resource::Power, 0.95)],
            measures: vec![("pace", Resource::Power, true)],
            level: 6,
            ..Verdict::default()
        };
        series.show(&Outlook::default(), &refusing, now);
        let shown = text(&metrics);
        assert!(!shown.contains("edgellm_power_draw_watts"));
        assert!(!shown.contains("edgellm_governor_pressure_ratio"));
        assert!(shown.contains("edgellm_governor_level 6\n"));
        let rehearsed = "edgellm_governor_rehearsed_pressure_ratio{resource=\"power\"} 0.95\n";
        assert!(shown.contains(rehearsed));
        assert!(shown.contains(&format!("{measure} 1\n")));
    }

    #[test]
    fn nothing_is_shown_when_nobody_has_looked_for_long() {
        let metrics = Metrics::new().expect("sound");
        let series = Series::new(&metrics).expect("sound");
        let long_ago = Instant::now().checked_sub(2 * STALE);
        series.show(
            &Outlook::default(),
            &Verdict::default(),
            long_ago.expect("a clock"),
        );
        assert!(!text(&metrics).contains("edgellm_governor_level"));
    }
}
