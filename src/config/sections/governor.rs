use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ::config::ValueKind;

use crate::config::ConfigMistake;
use crate::config::declare::{choice, section};
use crate::config::schema::{KeyDefault, KeyKind};
use crate::config::setting::{
    Setting, flag, milliseconds, minutes_or_none, optional_name, optional_path, path, percent,
    seconds, whole, whole_or_none,
};

/// Most watts that a gateway may be configured for.
const MOST_WATTS: i64 = 10_000;

section! {
    /// What is done about power, heat and memory.
    pub struct GovernorSettings in ["governor"] {
        /// Whether pressure is acted upon; false measures and shows only.
        pub enabled: bool = flag(true),
        /// Most watts that may be drawn on average; 0 leaves it to the limits that the hardware tells.
        pub power_budget as "power_budget_watts": Option<Watts> = watts(),
        /// What the budget is for: the whole board, the processor's package, or auto, the widest that a sensor sees.
        pub power_budget_scope: BudgetScope = BudgetScope::one_of(BudgetScope::Auto),
        /// The hwmon chip, or chip/label, that measures the board's whole input, like ina226; empty is none.
        pub board_power_sensor: Option<String> = optional_name(),
        /// Watts of the board at rest, for a box without a power sensor; 0 is unknown.
        pub board_idle as "board_idle_watts": Option<Watts> = watts(),
        /// Watts of the board with all cores busy, for a box without a power sensor; 0 is unknown.
        pub board_full as "board_full_watts": Option<Watts> = watts(),
        /// Charge that a battery keeps, in percent; what is above it may be spent.
        pub battery_floor_percent: u32 = percent(20),
        /// On battery, spend no faster than lasts for so many minutes; 0 sets no budget.
        pub battery_runtime as "battery_runtime_minutes": Option<Duration> = minutes_or_none(10_000),
        /// No thermal zone may be hotter, whatever its own trip points are; 0 leaves it to them.
        pub temperature_limit_celsius: Option<NonZeroU32> = whole_or_none(150, "degrees"),
        /// Power pressure (85 is the budget) from which flex requests are parked; 0 is never.
        pub power_flex_percent: u32 = percent(80),
        /// Power pressure from which steps are paced, so that the average stays within the budget; 0 is never.
        pub power_pace_percent: u32 = percent(80),
        /// Power pressure from which fewer requests run at once, where pacing is not enough; 0 is never.
        pub power_rows_percent: u32 = percent(86),
        /// Power pressure from which smaller siblings answer (`models.siblings`), where pacing is not enough; 0 is never.
        pub power_sibling_percent: u32 = percent(88),
        /// Power pressure from which requests are refused, where nothing else is enough; 0 is never.
        pub power_refuse_percent: u32 = percent(90),
        /// Thermal pressure (100 is the limit, 4 less for each degree below) from which flex requests are parked; 0 is never.
        pub thermal_flex_percent: u32 = percent(60),
        /// Thermal pressure from which fewer requests run at once; 0 is never.
        pub thermal_rows_percent: u32 = percent(70),
        /// Thermal pressure from which steps are paced; 0 is never.
        pub thermal_pace_percent: u32 = percent(75),
        /// Thermal pressure from which smaller siblings answer; 0 is never.
        pub thermal_sibling_percent: u32 = percent(82),
        /// Thermal pressure from which requests are refused; 0 is never.
        pub thermal_refuse_percent: u32 = percent(90),
        /// Used memory from which fewer computed prompts are kept; 0 is never.
        pub memory_cache_percent: u32 = percent(90),
        /// Used memory from which flex requests are parked; 0 is never.
        pub memory_flex_percent: u32 = percent(92),
        /// Used memory from which fewer requests run at once; 0 is never.
        pub memory_rows_percent: u32 = percent(93),
        /// Used memory from which smaller siblings answer, and the larger model leaves; 0 is never.
        pub memory_sibling_percent: u32 = percent(94),
        /// Used memory from which requests are refused; 0 is never.
        pub memory_refuse_percent: u32 = percent(95),
        /// Processor time that other programs take from which flex requests are parked; 0 is never.
        pub cpu_flex_percent: u32 = percent(0),
        /// Processor time that other programs take from which fewer requests run at once; 0 is never.
        pub cpu_rows_percent: u32 = percent(85),
        /// Of `max_running`, at least so many percent run however high the pressure.
        pub least_rows_percent: u32 = whole(1..=100, "percent", 25),
        /// Of the time, the engine computes at least so many percent however high the pressure.
        pub least_duty_percent: u32 = whole(5..=100, "percent", 10),
        /// A measure ends only when pressure is so much below where it began.
        pub hysteresis_percent: u32 = whole(1..=50, "percent", 4),
        /// Pressure must last so long before a measure begins.
        pub escalate as "escalate_seconds": Duration = seconds(0..=3600, 2),
        /// Other programs must take the processor for so long before a measure begins.
        pub cpu_escalate as "cpu_escalate_seconds": Duration = seconds(0..=3600, 30),
        /// Pressure must be gone for so long before a measure ends; longer where it keeps coming back.
        pub recover as "recover_seconds": Duration = seconds(1..=3600, 15),
        /// Time between two looks at the sensors, in milliseconds.
        pub sample_interval as "sample_interval_ms": Duration = milliseconds(100..=10_000, 1000),
        /// A directory whose files power, thermal, memory and cpu, each holding a number from 0 to 1, add pressure to rehearse with; empty is none.
        pub rehearsal_dir: Option<PathBuf> = optional_path(),
        /// Where sysfs is mounted.
        pub sysfs_root: PathBuf = path(KeyDefault::Text("/sys"), "/sys"),
        /// Where procfs is mounted.
        pub procfs_root: PathBuf = path(KeyDefault::Text("/proc"), "/proc"),
        /// Where control groups are mounted; empty is fs/cgroup in `sysfs_root`.
        pub cgroup_root: Option<PathBuf> = optional_path(),
    }
}

choice! {
    /// What `power_budget_watts` is for.
    pub enum BudgetScope {
        /// The widest scope that a sensor sees.
        Auto = "auto",
        /// The whole board.
        Board = "board",
        /// The processor's package.
        Package = "package",
    }
}

/// A positive power, to the milliwatt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watts {
    milliwatts: u32,
}

impl Watts {
    /// Rounds to the milliwatt; none below half of one.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates
    pub fn new(watts: f64) -> Option<Self> {
        let milliwatts = (watts * 1000.0).round() as u32;
        (milliwatts > 0).then_some(Self { milliwatts })
    }

    /// In watts.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.milliwatts) / 1000.0
    }
}

/// Watts that may have a fraction; 0, which is the default, is `None`.
const fn watts() -> Setting<Option<Watts>> {
    Setting::new(
        KeyKind::Decimal {
            max: MOST_WATTS,
            unit: "watts",
        },
        KeyDefault::Whole(0),
        |value| match value {
            ValueKind::I64(watts) => Some(Watts::new(f64::from(i32::try_from(*watts).ok()?))),
            ValueKind::Float(watts) => Some(Watts::new(*watts)),
            _ => None,
        },
        |watts| watts.map_or(0.into(), |watts| watts.get().into()),
    )
}

/// Measures of a resource that would never begin, because requests are refused earlier, and a
/// board that draws more at rest than at work. Where siblings would answer later than requests are refused, they
/// do not, which harms nobody: boxes that lowered the one threshold know nothing of the other.
pub(in crate::config) fn check(governor: &GovernorSettings, mistakes: &mut Vec<ConfigMistake>) {
    let ladders = [
        (
            "power",
            governor.power_refuse_percent,
            vec![
                ("flex", governor.power_flex_percent),
                ("pace", governor.power_pace_percent),
                ("rows", governor.power_rows_percent),
            ],
        ),
        (
            "thermal",
            governor.thermal_refuse_percent,
            vec![
                ("flex", governor.thermal_flex_percent),
                ("rows", governor.thermal_rows_percent),
                ("pace", governor.thermal_pace_percent),
            ],
        ),
        (
            "memory",
            governor.memory_refuse_percent,
            vec![
                ("cache", governor.memory_cache_percent),
                ("flex", governor.memory_flex_percent),
                ("rows", governor.memory_rows_percent),
            ],
        ),
    ];
    for (resource, refuse, milder) in ladders {
        for (action, percent) in milder {
            if refuse > 0 && percent >= refuse {
                mistakes.push(ConfigMistake::Contradiction {
                    key: format!("governor.{resource}_{action}_percent"),
                    found: percent.to_string(),
                    expected: format!(
                        "below governor.{resource}_refuse_percent, which is {refuse}, or 0 for never"
                    ),
                });
            }
        }
    }
    let is_whole = match (governor.board_idle, governor.board_full) {
        (Some(idle), Some(full)) => idle < full,
        (idle, full) => idle.is_none() == full.is_none(),
    };
    if !is_whole {
        let shown = |watts: Option<Watts>| watts.map_or(0.0, Watts::get).to_string();
        mistakes.push(ConfigMistake::Contradiction {
            key: "governor.board_full_watts".to_owned(),
            found: shown(governor.board_full),
            expected: format!(
                "above governor.board_idle_watts, which is {}, or both 0",
                shown(governor.board_idle)
            ),
        });
    }
}
