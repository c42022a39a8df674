//! The gauges among the metrics: what is known now, replaced as one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::GaugeVec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::sync::Mutex;
use crate::telemetry::metrics::MetricsError;

use super::GovernorStatus;
use super::metrics::options;
use super::monitor::ResourceSnapshot;

/// Gauges that are older are not shown.
pub(super) const STALE: Duration = Duration::from_secs(60);

/// All gauges, shown and replaced as one.
#[derive(Debug, Clone)]
pub(super) struct Gauges {
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
const GAUGES: [(Gauge, &str, &str, &[&str]); 19] = [
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
    pub(super) fn new() -> Result<Self, MetricsError> {
        let table = GAUGES
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

    pub(super) fn show(&self, snapshot: &ResourceSnapshot, status: &GovernorStatus, now: Instant) {
        let mut shown = self.shown.lock();
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
        for draw in &snapshot.draws {
            let labels = [
                draw.source.as_str(),
                draw.scope.as_str(),
                draw.quality.as_str(),
            ];
            set(Gauge::PowerDraw, &labels, draw.watts);
        }
        let mut budgets = snapshot.budgets.clone();
        // Of several that one kind of source tells the least is shown: it is set last.
        budgets.sort_by(|one, other| other.watts.total_cmp(&one.watts));
        for budget in &budgets {
            set(Gauge::PowerBudget, &[budget.source], budget.watts);
        }
        if let Some(power) = &snapshot.power {
            set(Gauge::PowerHeadroom, &[], power.watts());
            if let Some(ratio) = power.ratio() {
                set(Gauge::PowerHeadroomRatio, &[], ratio);
            }
        }
        for (source, is_up) in &snapshot.sources {
            set(Gauge::PowerSourceUp, &[source], f64::from(u8::from(*is_up)));
        }
        for (sensor, is_up) in &snapshot.sensors {
            set(Gauge::SensorUp, &[sensor], f64::from(u8::from(*is_up)));
        }
        for zone in &snapshot.temperatures {
            set(Gauge::Temperature, &[&zone.zone], zone.celsius);
            if let Some(headroom) = zone.headroom() {
                set(Gauge::ThermalHeadroom, &[&zone.zone], headroom);
            }
        }
        for (device, ratio) in &snapshot.cooling {
            set(Gauge::Cooling, &[device], *ratio);
        }
        if let Some(hertz) = snapshot.hertz {
            set(Gauge::Frequency, &[], hertz);
        }
        if let Some(memory) = snapshot.memory {
            set(Gauge::MemoryLimit, &[], memory.limit);
            set(Gauge::MemoryUsage, &[], memory.usage);
            set(Gauge::MemoryAvailable, &[], memory.available);
            set(Gauge::MemoryHeadroomRatio, &[], memory.ratio());
        }
        for (kind, bytes) in &snapshot.own_memory {
            #[allow(clippy::cast_precision_loss)] // memories are below 2^52 bytes
            set(Gauge::ProcessMemory, &[kind], *bytes as f64);
        }
        for (resource, pressure) in &status.pressures {
            set(Gauge::Pressure, &[resource.as_str()], *pressure);
        }
        for (resource, pressure) in &status.rehearsed {
            set(Gauge::Rehearsed, &[resource.as_str()], *pressure);
        }
        for (action, resource, holds) in &status.measures {
            let labels = [*action, resource.as_str()];
            set(Gauge::Measure, &labels, f64::from(u8::from(*holds)));
        }
        set(Gauge::Level, &[], f64::from(status.level));
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
        let shown = self.shown.lock();
        if shown.is_none_or(|at| at.elapsed() > STALE) {
            return Vec::new();
        }
        self.table
            .iter()
            .flat_map(|(_, gauge)| gauge.collect())
            .collect()
    }
}
