//! The ladders of measures, from the configuration.

use std::time::Duration;

use crate::config::GovernorSettings as Settings;
use crate::headroom::Resource;

/// A kind of measure; the number is its level, in the order of the harm that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Fewer prefixes are cached.
    Cache = 1,
    /// Flex requests are paused.
    Flex = 2,
    /// Fewer requests run at once.
    Rows = 3,
    /// Steps are paced.
    Pace = 4,
    /// Smaller siblings answer in place of the models that have some.
    Sibling = 5,
    /// Requests are refused.
    Refuse = 6,
}

impl Action {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Flex => "flex",
            Self::Rows => "rows",
            Self::Pace => "pace",
            Self::Sibling => "sibling",
            Self::Refuse => "refuse",
        }
    }

    pub(super) const fn level(self) -> u8 {
        self as u8
    }

    /// Whether it can be taken more or less far.
    pub(super) const fn is_graded(self) -> bool {
        matches!(self, Self::Cache | Self::Rows | Self::Pace)
    }
}

/// A measure of a resource's ladder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rung {
    pub(super) resource: Resource,
    pub(super) action: Action,
    /// The pressure at which it begins.
    pub(super) from: f64,
    /// The pressure at which it is taken as far as it can be.
    pub(super) full: f64,
}

/// Everything that decisions depend on beside state and pressure.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) rungs: Vec<Rung>,
    pub(super) hysteresis: f64,
    pub(super) escalate: Duration,
    pub(super) cpu_escalate: Duration,
    pub(super) recover: Duration,
    pub(super) least_rows: f64,
    pub(super) least_duty: f64,
}

impl Policy {
    pub(super) fn new(settings: &Settings) -> Self {
        use Action::{Cache, Flex, Pace, Refuse, Rows, Sibling};
        let ladders: [(Resource, &[(Action, u32)]); 4] = [
            (
                Resource::Power,
                &[
                    (Flex, settings.power_flex_percent),
                    (Rows, settings.power_rows_percent),
                    (Pace, settings.power_pace_percent),
                    (Sibling, settings.power_sibling_percent),
                    (Refuse, settings.power_refuse_percent),
                ],
            ),
            (
                Resource::Thermal,
                &[
                    (Flex, settings.thermal_flex_percent),
                    (Rows, settings.thermal_rows_percent),
                    (Pace, settings.thermal_pace_percent),
                    (Sibling, settings.thermal_sibling_percent),
                    (Refuse, settings.thermal_refuse_percent),
                ],
            ),
            (
                Resource::Memory,
                &[
                    (Cache, settings.memory_cache_percent),
                    (Flex, settings.memory_flex_percent),
                    (Rows, settings.memory_rows_percent),
                    (Sibling, settings.memory_sibling_percent),
                    (Refuse, settings.memory_refuse_percent),
                ],
            ),
            (
                Resource::Cpu,
                &[
                    (Flex, settings.cpu_flex_percent),
                    (Rows, settings.cpu_rows_percent),
                ],
            ),
        ];
        let share = |percent: u32| f64::from(percent) / 100.0;
        let mut rungs = Vec::new();
        for (resource, ladder) in ladders {
            let refuse = ladder.iter().find(|(action, _)| *action == Refuse);
            let full = refuse.map_or(0, |(_, percent)| *percent);
            let full = if full == 0 { 1.0 } else { share(full) };
            for (action, percent) in ladder.iter().filter(|(_, percent)| *percent > 0) {
                rungs.push(Rung {
                    resource,
                    action: *action,
                    from: share(*percent),
                    full,
                });
            }
        }
        Self {
            rungs,
            hysteresis: share(settings.hysteresis_percent),
            escalate: settings.escalate,
            cpu_escalate: settings.cpu_escalate,
            recover: settings.recover,
            least_rows: share(settings.least_rows_percent),
            least_duty: share(settings.least_duty_percent),
        }
    }

    /// Whether power is paced by the controller.
    pub(super) fn paces_power(&self) -> bool {
        self.rungs
            .iter()
            .any(|rung| rung.resource == Resource::Power && rung.action == Action::Pace)
    }

    /// How long pressure must last before a measure begins.
    pub(super) fn patience(&self, resource: Resource) -> Duration {
        match resource {
            Resource::Cpu => self.cpu_escalate,
            _ => self.escalate,
        }
    }
}
