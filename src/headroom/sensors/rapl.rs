//! Intel's and AMD's energy counters, as the kernel's powercap framework shows them
//! (Documentation/power/powercap in its sources).
//!
//! Only the zones called `package-…` are read and summed: core, uncore and memory are inside them
//! or beside them, and `psys` means another thing on every board. Where the counters are there
//! twice, through registers and through memory (`intel-rapl-mmio`), one of them counts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::energy::{CounterStep, EnergyCounter, is_limit};
use super::super::reading::{
    PowerBudget, PowerDraw, PowerScope, ReadingQuality, Sensor, SensorReading, SensorReport,
};
use super::super::roots::{self, Roots, SensorProblem};

const SOURCE: &str = "rapl";
/// The counters were open to everyone until they told attackers too much (CVE-2020-8694).
const REMEDY: &str = "only root may read the processor's energy counters; let the service's group do so \
    with a udev or tmpfiles rule (chgrp edgellm and chmod g+r on energy_uj), or give it CAP_DAC_READ_SEARCH";

#[derive(Debug, Default)]
pub(crate) struct Rapl {
    /// The packages that `counter` is about.
    names: Vec<String>,
    counter: EnergyCounter,
}

impl Sensor for Rapl {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn read(&mut self, roots: &Roots, now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let zones = packages(roots);
        if zones.is_empty() {
            *self = Self::default();
            return report;
        }
        if let Some(watts) = limit(&zones) {
            report.push(SensorReading::Budget(PowerBudget {
                source: SOURCE,
                scope: PowerScope::Package,
                watts,
            }));
        }
        let names: Vec<_> = zones.iter().map(|(name, _)| name.clone()).collect();
        if names != self.names {
            // A package came or went: everything begins anew.
            *self = Self {
                names,
                ..Self::default()
            };
        }
        // All or none: a sum without one of the packages would be wrong.
        let raw: Result<Vec<_>, _> = zones.iter().map(|(_, zone)| energy(zone)).collect();
        match raw.map(|raw| self.counter.observe(&raw, now)) {
            Ok(CounterStep::Moved { joules, watts }) => {
                report.push(SensorReading::Draw(PowerDraw {
                    source: SOURCE.to_owned(),
                    scope: PowerScope::Package,
                    quality: ReadingQuality::Measured,
                    watts,
                    joules: Some(joules),
                }));
            }
            Ok(CounterStep::Unknown) => {}
            Ok(CounterStep::Still | CounterStep::Jumped) => {
                report.problems.push(SensorProblem::Failed {
                    path: zones[0].1.join("energy_uj"),
                    reason: "the counter stands still or jumps".to_owned(),
                });
            }
            Err(problem) => report.problems.push(problem),
        }
        report
            .sources
            .push((SOURCE.to_owned(), report.problems.is_empty()));
        report
    }
}

fn packages(roots: &Roots) -> Vec<(String, PathBuf)> {
    let class = roots.sysfs.join("class/powercap");
    for prefix in ["intel-rapl:", "intel-rapl-mmio:"] {
        let zones: Vec<_> = roots::numbered(&class, prefix)
            .into_iter()
            .filter_map(|(_, path)| Some((roots::label(&path.join("name"))?, path)))
            .filter(|(name, _)| name.starts_with("package"))
            .collect();
        if !zones.is_empty() {
            return zones;
        }
    }
    Vec::new()
}

/// Microjoules of a package, and where they wrap.
fn energy(zone: &Path) -> Result<(u64, Option<u64>), SensorProblem> {
    let path = zone.join("energy_uj");
    let microjoules = roots::number(&path).map_err(|problem| match problem {
        SensorProblem::Denied { path, .. } => SensorProblem::Denied {
            path,
            remedy: REMEDY,
        },
        other => other,
    })?;
    let missing = || SensorProblem::Failed {
        path: path.clone(),
        reason: "there is no such file".to_owned(),
    };
    let range = roots::maybe(&zone.join("max_energy_range_uj")).filter(|range| *range > 0);
    Ok((microjoules.ok_or_else(missing)?, range))
}

/// What the processors are told to draw at most over a long time, if all of them are.
fn limit(zones: &[(String, PathBuf)]) -> Option<f64> {
    let of_zone = |zone: &PathBuf| {
        if roots::maybe::<u8>(&zone.join("enabled")) == Some(0) {
            return None;
        }
        let long_term = (0..3).find(|number| {
            let name = zone.join(format!("constraint_{number}_name"));
            roots::label(&name).as_deref() == Some("long_term")
        })?;
        let path = zone.join(format!("constraint_{long_term}_power_limit_uw"));
        let microwatts: f64 = roots::maybe(&path)?;
        Some(microwatts / 1e6).filter(|watts| is_limit(*watts))
    };
    zones.iter().map(|(_, zone)| of_zone(zone)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    const ZONE: &str = "sys/class/powercap/intel-rapl:0";

    fn package(tree: &Tree, zone: &str, name: &str, microjoules: u64) {
        let energy = microjoules.to_string();
        tree.write(&[
            (&format!("{zone}/name"), name),
            (&format!("{zone}/energy_uj"), &energy),
            (&format!("{zone}/max_energy_range_uj"), "262143328850"),
        ]);
    }

    fn watts(readings: &[SensorReading]) -> Option<f64> {
        readings.iter().find_map(|reading| match reading {
            SensorReading::Draw(draw) => Some(draw.watts),
            _ => None,
        })
    }

    #[test]
    fn eight_watts_across_a_wrap_are_eight_watts() {
        let (tree, mut sensor) = (Tree::new(), Rapl::default());
        package(&tree, ZONE, "package-0", 262_143_328_850 - 3_000_000);
        assert_eq!(watts(&tree.readings(&mut sensor, 0.0)), None);
        package(&tree, ZONE, "package-0", 5_000_000);
        let seen = watts(&tree.readings(&mut sensor, 1.0)).expect("known");
        assert!((seen - 8.0).abs() < 1e-6, "{seen}");
    }

    #[test]
    fn packages_are_summed_and_what_is_inside_them_is_not() {
        let (tree, mut sensor) = (Tree::new(), Rapl::default());
        let zones = [
            ("intel-rapl:0", "package-0", 1_u64),
            ("intel-rapl:0:0", "core", 100),
            ("intel-rapl:0:2", "dram", 100),
            ("intel-rapl:1", "package-1", 2),
            ("intel-rapl:2", "psys", 100),
            ("intel-rapl-mmio:0", "package-0", 100),
        ];
        for factor in [1, 5_000_000] {
            for (zone, name, energy) in zones {
                package(
                    &tree,
                    &format!("sys/class/powercap/{zone}"),
                    name,
                    energy * factor,
                );
            }
            let at = if factor == 1 { 0.0 } else { 1.0 };
            let seen = watts(&tree.readings(&mut sensor, at));
            assert_eq!(seen.is_some(), at > 0.0);
            assert!(
                seen.is_none_or(|seen| (seen - 15.0).abs() < 1e-3),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn one_package_that_fails_makes_the_sum_unknown_until_it_is_back() {
        let (tree, mut sensor) = (Tree::new(), Rapl::default());
        let second = "sys/class/powercap/intel-rapl:1";
        let both = |first, other: &str| {
            package(&tree, ZONE, "package-0", first);
            tree.write(&[
                (&format!("{second}/name"), "package-1"),
                (&format!("{second}/energy_uj"), other),
            ]);
        };
        both(1_000_000, "1000000");
        tree.readings(&mut sensor, 0.0);
        both(2_000_000, "what?");
        let report = tree.read(&mut sensor, 1.0);
        assert_eq!(watts(&report.readings), None);
        assert_eq!(report.problems.len(), 1);
        assert_eq!(report.sources, [("rapl".to_owned(), false)]);
        both(5_000_000, "5000000");
        let seen = watts(&tree.readings(&mut sensor, 2.0)).expect("known");
        assert!((seen - 4.0).abs() < 1e-6, "of both seconds: {seen}");
    }

    #[test]
    fn a_limit_is_one_only_if_every_package_has_it() {
        let (tree, mut sensor) = (Tree::new(), Rapl::default());
        package(&tree, ZONE, "package-0", 5);
        let budget = |readings: Vec<SensorReading>| {
            readings.into_iter().find_map(|reading| match reading {
                SensorReading::Budget(budget) => Some(budget.watts),
                _ => None,
            })
        };
        assert_eq!(budget(tree.readings(&mut sensor, 0.0)), None);
        tree.write(&[
            (&format!("{ZONE}/constraint_0_name"), "long_term"),
            (&format!("{ZONE}/constraint_0_power_limit_uw"), "15000000"),
        ]);
        assert_eq!(budget(tree.readings(&mut sensor, 1.0)), Some(15.0));
        package(&tree, "sys/class/powercap/intel-rapl:1", "package-1", 5);
        assert_eq!(budget(tree.readings(&mut sensor, 2.0)), None);
        tree.remove("sys/class/powercap/intel-rapl:1");
        tree.write(&[(&format!("{ZONE}/enabled"), "0")]);
        assert_eq!(budget(tree.readings(&mut sensor, 3.0)), None);
    }

    #[test]
    fn a_tree_that_goes_away_and_comes_back_begins_anew() {
        let (tree, mut sensor) = (Tree::new(), Rapl::default());
        package(&tree, ZONE, "package-0", 1_000_000);
        tree.readings(&mut sensor, 0.0);
        tree.remove("sys/class/powercap");
        let gone = tree.read(&mut sensor, 1.0);
        assert!(gone.readings.is_empty() && gone.sources.is_empty());
        package(&tree, ZONE, "package-0", 9_000_000);
        assert_eq!(watts(&tree.readings(&mut sensor, 2.0)), None);
        package(&tree, ZONE, "package-0", 12_000_000);
        let seen = watts(&tree.readings(&mut sensor, 3.0)).expect("known");
        assert!((seen - 3.0).abs() < 1e-6);
    }
}
