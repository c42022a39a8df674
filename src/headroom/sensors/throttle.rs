//! Whether the processor was slowed down: x86's counters, and what a Raspberry Pi's firmware says.
//!
//! A processor that slows itself down is safe, and a fanless box may do so for hours at full load:
//! what counts there is how much of the time it does. A firmware's bit says that something is wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use super::super::reading::{Resource, Sensor, SensorReading, SensorReport};
use super::super::roots::{self, Roots, SensorProblem};

/// Counters of each core since the system started. All cores of a package show the same one for
/// the package.
#[derive(Debug, Default)]
pub(crate) struct CoreCounters {
    last: BTreeMap<PathBuf, u64>,
    /// When it was looked last, and the share of the time before that with an event.
    slowed: Option<(Instant, f64)>,
}

/// Between two looks; the kernel counts no more than one in a tick.
const MOST_EVENTS: u64 = 1_000_000;
/// The share of the time is about so many seconds.
const LOOKS_BACK: f64 = 20.0;

impl Sensor for CoreCounters {
    fn name(&self) -> &'static str {
        "throttle_counters"
    }

    fn read(&mut self, roots: &Roots, at: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut now = BTreeMap::new();
        let mut by_core = None;
        let mut by_package = BTreeMap::<u32, u64>::new();
        for (_, core) in roots::numbered(&roots.sysfs.join("devices/system/cpu"), "cpu") {
            let folder = core.join("thermal_throttle");
            let mut moved = |file: &str, report: &mut SensorReport| {
                let path = folder.join(file);
                let count = report.note(roots::number::<u64>(&path))?;
                let before = self.last.get(&path).copied();
                // A core that just came back has only begun to tell, or counts anew.
                let moved = before.map_or(0, |before| count.saturating_sub(before));
                if moved > MOST_EVENTS {
                    report.problems.push(SensorProblem::garbage(&path, &count));
                    return None;
                }
                now.insert(path, count);
                Some(moved)
            };
            if let Some(events) = moved("core_throttle_count", &mut report) {
                *by_core.get_or_insert(0) += events;
            }
            if let Some(events) = moved("package_throttle_count", &mut report) {
                let package = roots::maybe(&core.join("topology/physical_package_id"));
                let known = by_package.entry(package.unwrap_or(0)).or_default();
                *known = events.max(*known);
            }
        }
        self.last = now;
        let by_package = (!by_package.is_empty()).then(|| by_package.values().sum());
        for (reason, events) in [("core_thermal", by_core), ("package_thermal", by_package)] {
            if let Some(events) = events {
                report.push(SensorReading::Throttled {
                    reason,
                    events,
                    live: None,
                });
            }
        }
        if by_core.is_some() || by_package.is_some() {
            let slowed = by_core.unwrap_or(0) + by_package.unwrap_or(0) > 0;
            let ratio = self.slowed(slowed, at);
            report.push(SensorReading::SlowedDown { ratio });
        }
        report
    }
}

impl CoreCounters {
    /// The share of the time, after an interval that ends at `at`.
    fn slowed(&mut self, slowed: bool, at: Instant) -> f64 {
        let (before, known) = self.slowed.unwrap_or((at, 0.0));
        let passed = at.saturating_duration_since(before).as_secs_f64();
        let weight = (passed / LOOKS_BACK).min(1.0);
        let ratio = known + weight * (f64::from(u8::from(slowed)) - known);
        self.slowed = Some((at, ratio));
        ratio
    }
}

/// What the bits of a Raspberry Pi's firmware mean: now at this place, and since it started 16
/// higher.
const BITS: [(u32, &str, Option<Resource>); 4] = [
    (0, "under_voltage", Some(Resource::Power)),
    // By one of the others, which then says so.
    (1, "frequency_capped", None),
    (2, "throttled", Some(Resource::Thermal)),
    (3, "soft_temperature_limit", None),
];

/// The firmware's bits where the kernel shows them; else the alarm of the `rpi_volt` chip.
#[derive(Debug, Default)]
pub(crate) struct Firmware {
    last: Option<u32>,
}

impl Sensor for Firmware {
    fn name(&self) -> &'static str {
        "raspberry_pi"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let bits = match bits(roots) {
            Ok(None) => alarm(roots).map(|alarm| alarm.map(|alarm| (alarm, &BITS[..1]))),
            bits => bits.map(|bits| bits.map(|bits| (bits, &BITS[..]))),
        };
        let Some((now, known)) = report.note(bits) else {
            return report;
        };
        let before = self.last.replace(now);
        for (bit, reason, resource) in known {
            let is_live = now >> bit & 1 == 1;
            let rose = |bit: u32| before.is_some_and(|before| (now & !before) >> bit & 1 == 1);
            report.push(SensorReading::Throttled {
                reason,
                events: u64::from(rose(*bit) || rose(bit + 16)),
                live: resource.filter(|_| is_live),
            });
        }
        report
    }
}

fn bits(roots: &Roots) -> Result<Option<u32>, SensorProblem> {
    // `soc/soc:firmware` up to the 4, `soc@…/soc@…:firmware` on the 5.
    let platform = roots::entries(&roots.sysfs.join("devices/platform"));
    let is_soc = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("soc"))
    };
    let files = platform
        .iter()
        .filter(|path| is_soc(path))
        .flat_map(|soc| roots::entries(soc))
        .filter(|path| path.to_string_lossy().ends_with(":firmware"))
        .map(|path| path.join("get_throttled"));
    for path in files {
        if let Some(text) = roots::text(&path)? {
            let digits = text.trim_start_matches("0x");
            return u32::from_str_radix(digits, 16)
                .map(Some)
                .map_err(|_| SensorProblem::garbage(&path, &text));
        }
    }
    Ok(None)
}

fn alarm(roots: &Roots) -> Result<Option<u32>, SensorProblem> {
    for (_, chip) in roots::numbered(&roots.sysfs.join("class/hwmon"), "hwmon") {
        if roots::label(&chip.join("name")).as_deref() == Some("rpi_volt") {
            let path = chip.join("in0_lcrit_alarm");
            return match roots::number(&path)? {
                Some(found) if found > 1 => Err(SensorProblem::garbage(&path, &found)),
                alarm => Ok(alarm),
            };
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    fn event(reason: &'static str, events: u64, live: Option<Resource>) -> SensorReading {
        SensorReading::Throttled {
            reason,
            events,
            live,
        }
    }

    #[test]
    fn a_package_is_counted_once_and_what_was_before_the_start_is_not() {
        let (tree, mut sensor) = (Tree::new(), CoreCounters::default());
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        let core = |number: u32, core: &str, package: &str| {
            let at = format!("sys/devices/system/cpu/cpu{number}");
            tree.write(&[
                (&format!("{at}/thermal_throttle/core_throttle_count"), core),
                (
                    &format!("{at}/thermal_throttle/package_throttle_count"),
                    package,
                ),
                (&format!("{at}/topology/physical_package_id"), "0"),
            ]);
        };
        core(0, "100", "500");
        core(1, "200", "500");
        let quiet = [
            event("core_thermal", 0, None),
            event("package_thermal", 0, None),
        ];
        let events = |readings: Vec<SensorReading>| readings[..2].to_vec();
        assert_eq!(events(tree.readings(&mut sensor, 0.0)), quiet);
        core(0, "103", "507");
        core(1, "201", "507");
        let moved = [
            event("core_thermal", 4, None),
            event("package_thermal", 7, None),
        ];
        assert_eq!(events(tree.readings(&mut sensor, 1.0)), moved);
        assert_eq!(events(tree.readings(&mut sensor, 2.0)), quiet);
        // A core that is taken off and put back counts anew.
        tree.remove("sys/devices/system/cpu/cpu1");
        assert_eq!(events(tree.readings(&mut sensor, 3.0)), quiet);
        core(1, "900", "507");
        assert_eq!(events(tree.readings(&mut sensor, 4.0)), quiet);
    }

    #[test]
    fn slowing_down_counts_by_how_much_of_the_time() {
        let start = Instant::now();
        let mut counters = CoreCounters::default();
        let mut look = |second, slowed| {
            counters.slowed(slowed, start + std::time::Duration::from_secs(second))
        };
        look(0, false);
        assert!(look(1, true) < 0.1, "one event is little");
        for second in 2..200 {
            look(second, second % 2 == 0);
        }
        let half = look(200, true);
        assert!((half - 0.5).abs() < 0.1, "{half}");
        for second in 201..300 {
            look(second, true);
        }
        assert!(look(300, true) > 0.95);
    }

    #[test]
    fn firmware_bits_are_live_and_short_events_between_two_looks_are_counted() {
        let (tree, mut sensor) = (Tree::new(), Firmware::default());
        let place = "sys/devices/platform/soc/soc:firmware/get_throttled";
        let mut look = |bits: &str| {
            tree.write(&[(place, bits)]);
            let readings = tree.readings(&mut sensor, 0.0);
            (readings[0].clone(), readings[2].clone())
        };
        let quiet = (event("under_voltage", 0, None), event("throttled", 0, None));
        assert_eq!(look("50000"), quiet, "long ago");
        let low = event("under_voltage", 1, Some(Resource::Power));
        assert_eq!(look("50001").0, low);
        let still = event("under_voltage", 0, Some(Resource::Power));
        assert_eq!(look("50001").0, still);
        assert_eq!(look("0x50000"), quiet);
        let hot = event("throttled", 1, Some(Resource::Thermal));
        assert_eq!(look("50004").1, hot);
        tree.write(&[(place, "zzz")]);
        assert_eq!(tree.read(&mut sensor, 0.0).problems.len(), 1);
    }

    #[test]
    fn without_the_bits_there_is_the_voltage_alarm() {
        let (tree, mut sensor) = (Tree::new(), Firmware::default());
        let alarm = "sys/class/hwmon/hwmon1/in0_lcrit_alarm";
        tree.write(&[("sys/class/hwmon/hwmon1/name", "rpi_volt"), (alarm, "0")]);
        let quiet = event("under_voltage", 0, None);
        assert_eq!(tree.readings(&mut sensor, 0.0), [quiet]);
        tree.write(&[(alarm, "1")]);
        let low = event("under_voltage", 1, Some(Resource::Power));
        assert_eq!(tree.readings(&mut sensor, 0.0), [low]);
    }
}
