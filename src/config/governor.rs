//! Section `[governor]`: its rows in the table, its struct, the checks across its keys and its way
//! back to TOML. It is as long as the others together, hence a file of its own.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::ConfigMistake;
use super::effective::{Lines, absolute, quoted};
use super::schema::{Key, KeyDefault, KeyKind, Section};

/// Most watts that a gateway may be configured for.
const MOST_WATTS: i64 = 10_000;

pub(super) const SECTION: Section = Section {
    name: "governor",
    repeated: false,
    keys: &[
        Key {
            name: "enabled",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(true),
            doc: "Whether pressure is acted upon; false measures and shows only.",
        },
        Key::decimal("power_budget_watts", MOST_WATTS, "watts")
            .doc("Most watts that may be drawn on average; 0 leaves it to the limits that the hardware tells."),
        Key {
            name: "power_budget_scope",
            kind: KeyKind::Choice(&["auto", "board", "package"]),
            default: KeyDefault::Text("auto"),
            doc: "What the budget is for: the whole board, the processor's package, or auto, the widest that a sensor sees.",
        },
        Key {
            name: "board_power_sensor",
            kind: KeyKind::OptionalName,
            default: KeyDefault::Text(""),
            doc: "The hwmon chip, or chip/label, that measures the board's whole input, like ina226; empty is none.",
        },
        Key::decimal("board_idle_watts", MOST_WATTS, "watts")
            .doc("Watts of the board at rest, for a box without a power sensor; 0 is unknown."),
        Key::decimal("board_full_watts", MOST_WATTS, "watts")
            .doc("Watts of the board with all cores busy, for a box without a power sensor; 0 is unknown."),
        Key::whole("battery_floor_percent", 0..=100, "percent", 20)
            .doc("Charge that a battery keeps, in percent; what is above it may be spent."),
        Key::whole("battery_runtime_minutes", 0..=10_000, "minutes", 0)
            .doc("On battery, spend no faster than lasts for so many minutes; 0 sets no budget."),
        Key::whole("temperature_limit_celsius", 0..=150, "degrees", 0)
            .doc("No thermal zone may be hotter, whatever its own trip points are; 0 leaves it to them."),
        Key::percent("power_flex_percent", 80)
            .doc("Power pressure (85 is the budget) from which flex requests are parked; 0 is never."),
        Key::percent("power_pace_percent", 80)
            .doc("Power pressure from which steps are paced, so that the average stays within the budget; 0 is never."),
        Key::percent("power_rows_percent", 86)
            .doc("Power pressure from which fewer requests run at once, where pacing is not enough; 0 is never."),
        Key::percent("power_sibling_percent", 88)
            .doc("Power pressure from which smaller siblings answer (models.siblings), where pacing is not enough; 0 is never."),
        Key::percent("power_refuse_percent", 90)
            .doc("Power pressure from which requests are refused, where nothing else is enough; 0 is never."),
        Key::percent("thermal_flex_percent", 60)
            .doc("Thermal pressure (100 is the limit, 4 less for each degree below) from which flex requests are parked; 0 is never."),
        Key::percent("thermal_rows_percent", 70)
            .doc("Thermal pressure from which fewer requests run at once; 0 is never."),
        Key::percent("thermal_pace_percent", 75)
            .doc("Thermal pressure from which steps are paced; 0 is never."),
        Key::percent("thermal_sibling_percent", 82)
            .doc("Thermal pressure from which smaller siblings answer; 0 is never."),
        Key::percent("thermal_refuse_percent", 90)
            .doc("Thermal pressure from which requests are refused; 0 is never."),
        Key::percent("memory_cache_percent", 90)
            .doc("Used memory from which fewer beginnings of prompts are kept; 0 is never."),
        Key::percent("memory_flex_percent", 92)
            .doc("Used memory from which flex requests are parked; 0 is never."),
        Key::percent("memory_rows_percent", 93)
            .doc("Used memory from which fewer requests run at once; 0 is never."),
        Key::percent("memory_sibling_percent", 94)
            .doc("Used memory from which smaller siblings answer, and the larger model leaves; 0 is never."),
        Key::percent("memory_refuse_percent", 95)
            .doc("Used memory from which requests are refused; 0 is never."),
        Key::percent("cpu_flex_percent", 0)
            .doc("Processor time that other programs take from which flex requests are parked; 0 is never."),
        Key::percent("cpu_rows_percent", 85)
            .doc("Processor time that other programs take from which fewer requests run at once; 0 is never."),
        Key::whole("least_rows_percent", 1..=100, "percent", 25)
            .doc("Of max_running, at least so many percent run however high the pressure."),
        Key::whole("least_duty_percent", 5..=100, "percent", 10)
            .doc("Of the time, the engine computes at least so many percent however high the pressure."),
        Key::whole("hysteresis_percent", 1..=50, "percent", 4)
            .doc("A measure ends only when pressure is so much below where it began."),
        Key::whole("escalate_seconds", 0..=3600, "seconds", 2)
            .doc("Pressure must last so long before a measure begins."),
        Key::whole("cpu_escalate_seconds", 0..=3600, "seconds", 30)
            .doc("Other programs must take the processor for so long before a measure begins."),
        Key::whole("recover_seconds", 1..=3600, "seconds", 15)
            .doc("Pressure must be gone for so long before a measure ends; longer where it keeps coming back."),
        Key::whole("sample_interval_ms", 100..=10_000, "milliseconds", 1000)
            .doc("Time between two looks at the sensors, in milliseconds."),
        Key {
            name: "rehearsal_dir",
            kind: KeyKind::OptionalPath,
            default: KeyDefault::Text(""),
            doc: "A directory whose files power, thermal, memory and cpu, each holding a number from 0 to 1, add pressure to rehearse with; empty is none.",
        },
        Key {
            name: "sysfs_root",
            kind: KeyKind::Path,
            default: KeyDefault::Text("/sys"),
            doc: "Where sysfs is mounted.",
        },
        Key {
            name: "procfs_root",
            kind: KeyKind::Path,
            default: KeyDefault::Text("/proc"),
            doc: "Where procfs is mounted.",
        },
        Key {
            name: "cgroup_root",
            kind: KeyKind::OptionalPath,
            default: KeyDefault::Text(""),
            doc: "Where control groups are mounted; empty is fs/cgroup in sysfs_root.",
        },
    ],
};

/// Section `[governor]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the table above explains each
pub struct GovernorSettings {
    pub enabled: bool,
    #[serde(rename = "power_budget_watts", deserialize_with = "watts")]
    pub power_budget: Option<Watts>,
    pub power_budget_scope: BudgetScope,
    #[serde(deserialize_with = "empty_is_none")]
    pub board_power_sensor: Option<String>,
    #[serde(rename = "board_idle_watts", deserialize_with = "watts")]
    pub board_idle: Option<Watts>,
    #[serde(rename = "board_full_watts", deserialize_with = "watts")]
    pub board_full: Option<Watts>,
    pub battery_floor_percent: u32,
    #[serde(rename = "battery_runtime_minutes", deserialize_with = "minutes")]
    pub battery_runtime: Option<Duration>,
    #[serde(deserialize_with = "zero_is_none")]
    pub temperature_limit_celsius: Option<NonZeroU32>,
    pub power_flex_percent: u32,
    pub power_pace_percent: u32,
    pub power_rows_percent: u32,
    pub power_sibling_percent: u32,
    pub power_refuse_percent: u32,
    pub thermal_flex_percent: u32,
    pub thermal_rows_percent: u32,
    pub thermal_pace_percent: u32,
    pub thermal_sibling_percent: u32,
    pub thermal_refuse_percent: u32,
    pub memory_cache_percent: u32,
    pub memory_flex_percent: u32,
    pub memory_rows_percent: u32,
    pub memory_sibling_percent: u32,
    pub memory_refuse_percent: u32,
    pub cpu_flex_percent: u32,
    pub cpu_rows_percent: u32,
    pub least_rows_percent: u32,
    pub least_duty_percent: u32,
    pub hysteresis_percent: u32,
    #[serde(rename = "escalate_seconds", deserialize_with = "seconds")]
    pub escalate: Duration,
    #[serde(rename = "cpu_escalate_seconds", deserialize_with = "seconds")]
    pub cpu_escalate: Duration,
    #[serde(rename = "recover_seconds", deserialize_with = "seconds")]
    pub recover: Duration,
    #[serde(rename = "sample_interval_ms", deserialize_with = "milliseconds")]
    pub sample_interval: Duration,
    #[serde(deserialize_with = "empty_path_is_none")]
    pub rehearsal_dir: Option<PathBuf>,
    pub sysfs_root: PathBuf,
    pub procfs_root: PathBuf,
    #[serde(deserialize_with = "empty_path_is_none")]
    pub cgroup_root: Option<PathBuf>,
}

/// What `power_budget_watts` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetScope {
    /// The widest scope that a sensor sees.
    Auto,
    /// The whole board.
    Board,
    /// The processor's package.
    Package,
}

impl BudgetScope {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Board => "board",
            Self::Package => "package",
        }
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

/// Measures of a resource that would never begin, because requests are refused earlier, and a
/// board that draws more at rest than at work. Where siblings would answer later than requests are refused, they
/// do not, which harms nobody: boxes that lowered the one threshold know nothing of the other.
pub(super) fn check(governor: &GovernorSettings, mistakes: &mut Vec<ConfigMistake>) {
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

pub(super) fn lines(governor: &GovernorSettings) -> Lines<37> {
    let GovernorSettings {
        enabled,
        power_budget,
        power_budget_scope,
        board_power_sensor,
        board_idle,
        board_full,
        battery_floor_percent,
        battery_runtime,
        temperature_limit_celsius,
        power_flex_percent,
        power_pace_percent,
        power_rows_percent,
        power_sibling_percent,
        power_refuse_percent,
        thermal_flex_percent,
        thermal_rows_percent,
        thermal_pace_percent,
        thermal_sibling_percent,
        thermal_refuse_percent,
        memory_cache_percent,
        memory_flex_percent,
        memory_rows_percent,
        memory_sibling_percent,
        memory_refuse_percent,
        cpu_flex_percent,
        cpu_rows_percent,
        least_rows_percent,
        least_duty_percent,
        hysteresis_percent,
        escalate,
        cpu_escalate,
        recover,
        sample_interval,
        rehearsal_dir,
        sysfs_root,
        procfs_root,
        cgroup_root,
    } = governor;
    let watts = |watts: &Option<Watts>| watts.map_or(0.0, Watts::get).to_string();
    let path = |path: &Option<PathBuf>| quoted(&path.as_deref().map(absolute).unwrap_or_default());
    [
        ("enabled", enabled.to_string()),
        ("power_budget_watts", watts(power_budget)),
        ("power_budget_scope", quoted(power_budget_scope.as_str())),
        (
            "board_power_sensor",
            quoted(board_power_sensor.as_deref().unwrap_or_default()),
        ),
        ("board_idle_watts", watts(board_idle)),
        ("board_full_watts", watts(board_full)),
        ("battery_floor_percent", battery_floor_percent.to_string()),
        (
            "battery_runtime_minutes",
            battery_runtime
                .map_or(0, |time| time.as_secs() / 60)
                .to_string(),
        ),
        (
            "temperature_limit_celsius",
            temperature_limit_celsius
                .map_or(0, NonZeroU32::get)
                .to_string(),
        ),
        ("power_flex_percent", power_flex_percent.to_string()),
        ("power_pace_percent", power_pace_percent.to_string()),
        ("power_rows_percent", power_rows_percent.to_string()),
        ("power_sibling_percent", power_sibling_percent.to_string()),
        ("power_refuse_percent", power_refuse_percent.to_string()),
        ("thermal_flex_percent", thermal_flex_percent.to_string()),
        ("thermal_rows_percent", thermal_rows_percent.to_string()),
        ("thermal_pace_percent", thermal_pace_percent.to_string()),
        (
            "thermal_sibling_percent",
            thermal_sibling_percent.to_string(),
        ),
        ("thermal_refuse_percent", thermal_refuse_percent.to_string()),
        ("memory_cache_percent", memory_cache_percent.to_string()),
        ("memory_flex_percent", memory_flex_percent.to_string()),
        ("memory_rows_percent", memory_rows_percent.to_string()),
        ("memory_sibling_percent", memory_sibling_percent.to_string()),
        ("memory_refuse_percent", memory_refuse_percent.to_string()),
        ("cpu_flex_percent", cpu_flex_percent.to_string()),
        ("cpu_rows_percent", cpu_rows_percent.to_string()),
        ("least_rows_percent", least_rows_percent.to_string()),
        ("least_duty_percent", least_duty_percent.to_string()),
        ("hysteresis_percent", hysteresis_percent.to_string()),
        ("escalate_seconds", escalate.as_secs().to_string()),
        ("cpu_escalate_seconds", cpu_escalate.as_secs().to_string()),
        ("recover_seconds", recover.as_secs().to_string()),
        (
            "sample_interval_ms",
            sample_interval.as_millis().to_string(),
        ),
        ("rehearsal_dir", path(rehearsal_dir)),
        ("sysfs_root", quoted(&absolute(sysfs_root))),
        ("procfs_root", quoted(&absolute(procfs_root))),
        ("cgroup_root", path(cgroup_root)),
    ]
}

fn watts<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Watts>, D::Error> {
    f64::deserialize(value).map(Watts::new)
}

fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_secs)
}

fn minutes<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let minutes = u64::deserialize(value)?;
    Ok((minutes > 0).then(|| Duration::from_secs(60 * minutes)))
}

fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

fn zero_is_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<NonZeroU32>, D::Error> {
    u32::deserialize(value).map(NonZeroU32::new)
}

fn empty_is_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(|text| (!text.is_empty()).then_some(text))
}

fn empty_path_is_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(value)?;
    Ok((path != Path::new("")).then_some(path))
}
