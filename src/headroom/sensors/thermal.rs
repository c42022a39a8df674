//! Thermal zones and what cools them (Documentation/driver-api/thermal/sysfs-api in the kernel's
//! sources).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use super::super::reading::{Sensor, SensorReading, SensorReport};
use super::super::roots::{self, Roots, SensorProblem};
use super::hwmon::unique;

/// Degrees that a sensor in a gateway can mean.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -40.0..=150.0;
/// Firmware leaves trip points at 0 or at room temperature that it does not use.
const LEAST_TRIP: f64 = 40.0;
const MOST_TRIPS: u32 = 16;

/// Every zone, with its first passive or hot trip point.
#[derive(Debug)]
pub(crate) struct Zones {
    limit: Option<f64>,
}

impl Zones {
    /// `limit` holds for every zone, beside its own trip points.
    pub(crate) fn new(limit: Option<NonZeroU32>) -> Self {
        Self {
            limit: limit.map(|limit| f64::from(limit.get())),
        }
    }
}

impl Sensor for Zones {
    fn name(&self) -> &'static str {
        "thermal"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut names = Vec::new();
        let class = roots.sysfs.join("class/thermal");
        for (number, zone) in roots::numbered(&class, "thermal_zone") {
            if roots::label(&zone.join("mode")).as_deref() == Some("disabled") {
                continue;
            }
            let kind = roots::label(&zone.join("type"));
            let name = unique(&names, kind.unwrap_or_else(|| format!("zone{number}")));
            names.push((name.clone(), true));
            if let Some(celsius) = report.note(temperature(&zone.join("temp"))) {
                let limit = [trip(&zone), self.limit].into_iter().flatten();
                report.push(SensorReading::Temperature {
                    zone: name,
                    celsius,
                    limit: limit.reduce(f64::min),
                });
            }
        }
        report
    }
}

fn temperature(path: &Path) -> Result<Option<f64>, SensorProblem> {
    let Some(millidegrees) = roots::number::<i32>(path)? else {
        return Ok(None);
    };
    let celsius = f64::from(millidegrees) / 1e3;
    // A sensor that is not there often reads as exactly 0.
    if millidegrees == 0 || !PLAUSIBLE.contains(&celsius) {
        return Err(SensorProblem::garbage(path, &millidegrees));
    }
    Ok(Some(celsius))
}

/// The first point at which the system slows down or worse; fans are not meant.
fn trip(zone: &Path) -> Option<f64> {
    (0..MOST_TRIPS)
        .filter(|number| {
            let kind = roots::label(&zone.join(format!("trip_point_{number}_type")));
            matches!(kind.as_deref(), Some("passive" | "hot"))
        })
        .filter_map(|number| {
            let millidegrees: i32 = roots::maybe(&zone.join(format!("trip_point_{number}_temp")))?;
            Some(f64::from(millidegrees) / 1e3)
        })
        .filter(|celsius| *celsius >= LEAST_TRIP && PLAUSIBLE.contains(celsius))
        .reduce(f64::min)
}

/// How hard fans and clocks are at it, by kind of device; of several the hardest.
#[derive(Debug)]
pub(crate) struct Cooling;

impl Sensor for Cooling {
    fn name(&self) -> &'static str {
        "cooling"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut hardest = BTreeMap::<String, f64>::new();
        let class = roots.sysfs.join("class/thermal");
        for (_, device) in roots::numbered(&class, "cooling_device") {
            let state = report.note(roots::number::<i64>(&device.join("cur_state")));
            let most = report.note(roots::number::<i64>(&device.join("max_state")));
            // The idle injector says -1 while it does nothing.
            let (Some(state @ 0..), Some(most @ 1..)) = (state, most) else {
                continue;
            };
            let Some(kind) = roots::label(&device.join("type")) else {
                continue;
            };
            #[allow(clippy::cast_precision_loss)] // states are few
            let ratio = (state as f64 / most as f64).min(1.0);
            let known = hardest.entry(kind).or_insert(ratio);
            *known = known.max(ratio);
        }
        for (device, ratio) in hardest {
            report.push(SensorReading::Cooling { device, ratio });
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    const CLASS: &str = "sys/class/thermal";

    fn zone(tree: &Tree, number: u32, kind: &str, temp: &str, trips: &[(&str, &str)]) {
        let at = format!("{CLASS}/thermal_zone{number}");
        tree.write(&[(&format!("{at}/type"), kind), (&format!("{at}/temp"), temp)]);
        for (index, (kind, temp)) in trips.iter().enumerate() {
            tree.write(&[
                (&format!("{at}/trip_point_{index}_type"), kind),
                (&format!("{at}/trip_point_{index}_temp"), temp),
            ]);
        }
    }

    fn seen(report: &SensorReport) -> Vec<(&str, f64, Option<f64>)> {
        report
            .readings
            .iter()
            .filter_map(|reading| match reading {
                SensorReading::Temperature {
                    zone,
                    celsius,
                    limit,
                } => Some((zone.as_str(), *celsius, *limit)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_first_passive_or_hot_trip_is_the_limit() {
        let (tree, mut sensor) = (Tree::new(), Zones::new(None));
        let trips = [
            ("critical", "110000"),
            ("hot", "100000"),
            ("passive", "95000"),
            ("active", "55000"),
            ("passive", "0"),
            ("passive", "-274000"),
        ];
        zone(&tree, 0, "x86_pkg_temp", "61500", &trips);
        zone(&tree, 1, "acpitz", "27800", &[("critical", "119000")]);
        zone(&tree, 2, "acpitz", "29800", &[]);
        let report = tree.read(&mut sensor, 0.0);
        assert_eq!(
            seen(&report),
            [
                ("x86_pkg_temp", 61.5, Some(95.0)),
                ("acpitz", 27.8, None),
                ("acpitz#2", 29.8, None)
            ]
        );
        let mut strict = Zones::new(NonZeroU32::new(80));
        let report = tree.read(&mut strict, 0.0);
        assert!(
            seen(&report)
                .iter()
                .all(|(_, _, limit)| *limit == Some(80.0))
        );
    }

    #[test]
    fn one_zone_that_fails_does_not_hide_the_others() {
        let (tree, mut sensor) = (Tree::new(), Zones::new(None));
        zone(&tree, 0, "cpu", "50000", &[]);
        for garbage in ["-127000", "0", "200000", "n/a", "", "4294967295"] {
            zone(&tree, 1, "wifi", garbage, &[]);
            let report = tree.read(&mut sensor, 0.0);
            assert_eq!(seen(&report), [("cpu", 50.0, None)], "{garbage}");
            assert_eq!(report.problems.len(), 1, "{garbage}");
        }
        tree.write(&[(&format!("{CLASS}/thermal_zone1/mode"), "disabled")]);
        assert!(tree.read(&mut sensor, 0.0).problems.is_empty());
        tree.remove(CLASS);
        let report = tree.read(&mut sensor, 0.0);
        assert!(report.readings.is_empty() && report.problems.is_empty());
    }

    #[test]
    fn cooling_is_told_by_kind_of_device() {
        let (tree, mut sensor) = (Tree::new(), Cooling);
        for (number, kind, state, most) in [
            (0, "Processor", "1", "10"),
            (1, "Processor", "3", "10"),
            (2, "intel_powerclamp", "-1", "50"),
            (3, "Fan", "0", "0"),
        ] {
            let at = format!("{CLASS}/cooling_device{number}");
            tree.write(&[
                (&format!("{at}/type"), kind),
                (&format!("{at}/cur_state"), state),
                (&format!("{at}/max_state"), most),
            ]);
        }
        let processor = SensorReading::Cooling {
            device: "Processor".to_owned(),
            ratio: 0.3,
        };
        assert_eq!(tree.readings(&mut sensor, 0.0), [processor]);
    }
}
