//! The metrics of power, heat and memory. A gauge that is not known is no series, and all of them
//! go when nobody has looked at the sensors for a while: a stuck driver must not look like calm.

use std::time::Instant;

use prometheus::{CounterVec, IntCounterVec, Opts};

use crate::telemetry::Metrics;
use crate::telemetry::metrics::MetricsError;

use super::gauges::Gauges;
use super::monitor::ResourceSnapshot;
use super::reading::Resource;

/// What the governor decided on a snapshot, for the metrics.
#[derive(Debug, Default)]
pub struct GovernorStatus {
    /// How short each resource is, 0 to 1, rehearsals included.
    pub pressures: Vec<(Resource, f64)>,
    /// What a rehearsal says of them.
    pub rehearsed: Vec<(Resource, f64)>,
    /// Every measure that there is, by what may be short, and whether it is in force.
    pub measures: Vec<(&'static str, Resource, bool)>,
    /// The hardest measure in force.
    pub level: u8,
}

/// The exported metrics of power, heat, memory and the governor.
#[derive(Debug, Clone)]
pub struct HeadroomMetrics {
    gauges: Gauges,
    energy: CounterVec,
    throttled: IntCounterVec,
    stalled: CounterVec,
    failures: IntCounterVec,
    actions: IntCounterVec,
}

impl HeadroomMetrics {
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
    pub fn show(&self, snapshot: &ResourceSnapshot, status: &GovernorStatus, now: Instant) {
        for (source, scope, joules) in &snapshot.joules {
            let labels = &[source.as_str(), scope.as_str()];
            self.energy
                .with_label_values(labels)
                .inc_by(joules.max(0.0));
        }
        for (reason, events) in &snapshot.throttled {
            self.throttled.with_label_values(&[reason]).inc_by(*events);
        }
        for (resource, kind, time) in &snapshot.stalled {
            let counter = self.stalled.with_label_values(&[resource, kind]);
            counter.inc_by((time.as_secs_f64() - counter.get()).max(0.0));
        }
        for (sensor, count) in &snapshot.failures {
            self.failures.with_label_values(&[sensor]).inc_by(*count);
        }
        self.gauges.show(snapshot, status, now);
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

pub(super) fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("edgellm")
}

#[cfg(test)]
mod tests {
    use super::super::gauges::STALE;
    use super::super::reading::{PowerDraw, PowerScope, ReadingQuality};
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode().expect("encodable").0).expect("text")
    }

    #[test]
    fn what_is_unknown_is_no_series_and_what_becomes_unknown_goes() {
        let metrics = Metrics::new().expect("sound");
        let metrics_of_headroom = HeadroomMetrics::new(&metrics).expect("sound");
        assert!(!text(&metrics).contains("edgellm_governor_level"));
        let now = Instant::now();
        let known = ResourceSnapshot {
            draws: vec![PowerDraw {
                source: "rapl".to_owned(),
                scope: PowerScope::Package,
                quality: ReadingQuality::Measured,
                watts: 8.0,
                joules: None,
            }],
            ..ResourceSnapshot::default()
        };
        let calm = GovernorStatus {
            pressures: vec![(Resource::Power, 0.4)],
            measures: vec![("pace", Resource::Power, false)],
            ..GovernorStatus::default()
        };
        metrics_of_headroom.show(&known, &calm, now);
        let shown = text(&metrics);
        let draw =
            "edgellm_power_draw_watts{quality=\"measured\",scope=\"package\",source=\"rapl\"} 8\n";
        assert!(shown.contains(draw), "{shown}");
        assert!(shown.contains("edgellm_governor_pressure_ratio{resource=\"power\"} 0.4\n"));
        let measure = "edgellm_governor_measure_active{action=\"pace\",resource=\"power\"}";
        assert!(shown.contains(&format!("{measure} 0\n")));
        assert!(!shown.contains("rehearsed"));
        let refusing = GovernorStatus {
            rehearsed: vec![(Resource::Power, 0.95)],
            measures: vec![("pace", Resource::Power, true)],
            level: 6,
            ..GovernorStatus::default()
        };
        metrics_of_headroom.show(&ResourceSnapshot::default(), &refusing, now);
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
        let metrics_of_headroom = HeadroomMetrics::new(&metrics).expect("sound");
        let long_ago = Instant::now().checked_sub(2 * STALE);
        metrics_of_headroom.show(
            &ResourceSnapshot::default(),
            &GovernorStatus::default(),
            long_ago.expect("a clock"),
        );
        assert!(!text(&metrics).contains("edgellm_governor_level"));
    }
}
