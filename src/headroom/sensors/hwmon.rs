//! Power sensors of boards: `power*`, `energy*`, and volt times ampere (Documentation/hwmon in the
//! kernel's sources).
//!
//! What a chip measures is known for few of them; the others are shown as parts of the board and
//! held against no budget, unless the configuration names the one that sees everything. The copies
//! of batteries and chargers that the kernel makes here are left out: they have no sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::energy::{CounterStep, EnergyCounter, MOST_WATTS, is_limit};
use super::super::reading::{
    PowerBudget, PowerDraw, PowerScope, ReadingQuality, Sensor, SensorReading, SensorReport,
};
use super::super::roots::{self, Roots, SensorProblem};

/// Channels of a chip that are looked for.
const MOST_CHANNELS: u32 = 16;

/// Chips and labels that are known to see the whole board.
const BOARD: &[(&str, Option<&str>)] = &[
    // ACPI's power meter.
    ("power_meter", None),
    // Nvidia's Jetson modules.
    ("ina3221", Some("VDD_IN")),
    ("ina3221", Some("POM_5V_IN")),
    // Apple's.
    ("macsmc_hwmon", Some("Total System Power")),
    ("corsairpsu", Some("power total")),
];

#[derive(Debug)]
pub(crate) struct Hwmon {
    board: Option<String>,
    counters: BTreeMap<PathBuf, EnergyCounter>,
}

impl Hwmon {
    /// `board` is the chip, or `chip/label`, that sees the whole board.
    pub(crate) fn new(board: Option<String>) -> Self {
        Self {
            board,
            counters: BTreeMap::new(),
        }
    }

    fn scope(&self, chip: &str, label: Option<&str>) -> PowerScope {
        let named = self.board.as_deref().is_some_and(|named| {
            named == chip || label.is_some_and(|label| named == format!("{chip}/{label}"))
        });
        let known = BOARD
            .iter()
            .any(|(name, wanted)| *name == chip && (wanted.is_none() || *wanted == label));
        if named || known {
            PowerScope::Board
        } else {
            PowerScope::Part
        }
    }

    /// The power of a channel, by the best way that it has.
    fn channel(
        &mut self,
        chip: &HwmonChip,
        number: u32,
        now: Instant,
    ) -> Result<Option<PowerChannel>, SensorProblem> {
        for file in ["input", "average"] {
            let path = chip.path.join(format!("power{number}_{file}"));
            if let Some(microwatts) = roots::number::<f64>(&path)? {
                let label = roots::label(&chip.path.join(format!("power{number}_label")));
                let watts = plausible(&path, microwatts / 1e6)?;
                return Ok(Some(PowerChannel::now(label, watts)));
            }
        }
        let path = chip.path.join(format!("energy{number}_input"));
        if let Some(microjoules) = roots::number::<u64>(&path)? {
            let label = roots::label(&chip.path.join(format!("energy{number}_label")));
            let counter = self.counters.entry(path.clone()).or_default();
            let measured = match counter.observe(&[(microjoules, None)], now) {
                CounterStep::Moved { joules, watts } => Some((watts, Some(joules))),
                CounterStep::Unknown => None,
                CounterStep::Still | CounterStep::Jumped => {
                    return Err(SensorProblem::garbage(&path, &microjoules));
                }
            };
            return Ok(Some(PowerChannel { label, measured }));
        }
        product(&chip.path, &chip.name, number)
    }
}

struct HwmonChip {
    name: String,
    path: PathBuf,
}

/// A channel that is there, and what it says now.
struct PowerChannel {
    label: Option<String>,
    measured: Option<(f64, Option<f64>)>,
}

impl PowerChannel {
    fn now(label: Option<String>, watts: f64) -> Self {
        Self {
            label,
            measured: Some((watts, None)),
        }
    }
}

impl Sensor for Hwmon {
    fn name(&self) -> &'static str {
        "hwmon"
    }

    fn read(&mut self, roots: &Roots, now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        for chip in chips(roots) {
            for number in 1..=MOST_CHANNELS {
                let source = |label: Option<&str>| {
                    let channel = label.map_or_else(|| number.to_string(), str::to_owned);
                    unique(&report.sources, format!("{}/{channel}", chip.name))
                };
                match self.channel(&chip, number, now) {
                    Ok(None) => {}
                    Ok(Some(PowerChannel { label, measured })) => {
                        let source = source(label.as_deref());
                        let scope = self.scope(&chip.name, label.as_deref());
                        let cap = chip.path.join(format!("power{number}_cap"));
                        report.sources.push((source.clone(), true));
                        let cap = roots::maybe::<f64>(&cap).map(|microwatts| microwatts / 1e6);
                        let cap = cap.filter(|watts| is_limit(*watts));
                        if let Some(watts) = cap.filter(|_| scope == PowerScope::Board) {
                            report.push(SensorReading::Budget(PowerBudget {
                                source: "cap",
                                scope,
                                watts,
                            }));
                        }
                        match measured {
                            // No board draws nothing.
                            Some((watts, joules)) if watts > 0.0 || scope == PowerScope::Part => {
                                report.push(SensorReading::Draw(PowerDraw {
                                    source,
                                    scope,
                                    quality: ReadingQuality::Measured,
                                    watts,
                                    joules,
                                }));
                            }
                            Some((watts, _)) => {
                                report
                                    .problems
                                    .push(SensorProblem::garbage(&chip.path, &watts));
                            }
                            None => {}
                        }
                    }
                    Err(problem) => {
                        let label = roots::label(&chip.path.join(format!("power{number}_label")));
                        let source = source(label.as_deref());
                        report.sources.push((source, false));
                        report.problems.push(problem);
                    }
                }
            }
        }
        report
    }
}

/// The chips that are no battery's or charger's.
fn chips(roots: &Roots) -> Vec<HwmonChip> {
    let supplies: Vec<String> = roots::entries(&roots.sysfs.join("class/power_supply"))
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.replace('-', "_")))
        .collect();
    roots::numbered(&roots.sysfs.join("class/hwmon"), "hwmon")
        .into_iter()
        .filter_map(|(_, path)| {
            let name = roots::label(&path.join("name"))?;
            Some(HwmonChip { name, path })
        })
        .filter(|chip| {
            let name = chip.name.replace('-', "_");
            !supplies.contains(&name) && !name.starts_with("ucsi_source_psy")
        })
        .collect()
}

/// Volt times ampere, for chips whose channels of one number belong together.
fn product(chip: &Path, name: &str, number: u32) -> Result<Option<PowerChannel>, SensorProblem> {
    let file = |kind: &str, what: &str| chip.join(format!("{kind}{number}_{what}"));
    let labels = (
        roots::label(&file("in", "label")),
        roots::label(&file("curr", "label")),
    );
    let belong = match &labels {
        (Some(volts), Some(amperes)) => volts == amperes,
        // The driver of this one labels the voltage only, its other inputs are shunts.
        (Some(_), None) => name == "ina3221",
        _ => false,
    };
    if !belong {
        return Ok(None);
    }
    let current = file("curr", "input");
    let (Some(millivolts), Some(milliamperes)) = (
        roots::number::<f64>(&file("in", "input"))?,
        roots::number::<f64>(&current)?,
    ) else {
        return Ok(None);
    };
    let watts = plausible(&current, millivolts * milliamperes / 1e6)?;
    Ok(Some(PowerChannel::now(labels.0, watts)))
}

fn plausible(path: &Path, watts: f64) -> Result<f64, SensorProblem> {
    if (0.0..=MOST_WATTS).contains(&watts) {
        Ok(watts)
    } else {
        Err(SensorProblem::garbage(path, &watts))
    }
}

/// Two chips of one name are told apart by their order.
pub(super) fn unique(known: &[(String, bool)], source: String) -> String {
    let taken = |name: &str| known.iter().any(|(known, _)| known == name);
    if !taken(&source) {
        return source;
    }
    (2..=known.len() + 2)
        .map(|number| format!("{source}#{number}"))
        .find(|name| !taken(name))
        .unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    fn draws(readings: &[SensorReading]) -> Vec<(String, PowerScope, f64)> {
        readings
            .iter()
            .filter_map(|reading| match reading {
                SensorReading::Draw(draw) => Some((draw.source.clone(), draw.scope, draw.watts)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_power_meter_sees_the_board_and_its_cap_is_a_budget() {
        let (tree, mut sensor) = (Tree::new(), Hwmon::new(None));
        tree.write(&[
            ("sys/class/hwmon/hwmon0/name", "power_meter"),
            ("sys/class/hwmon/hwmon0/power1_average", "31500000"),
            ("sys/class/hwmon/hwmon0/power1_cap", "60000000"),
            ("sys/class/hwmon/hwmon1/name", "amdgpu"),
            ("sys/class/hwmon/hwmon1/power1_input", "4000000"),
            ("sys/class/hwmon/hwmon1/power1_label", "PPT"),
            ("sys/class/hwmon/hwmon1/power1_cap", "15000000"),
        ]);
        let readings = tree.readings(&mut sensor, 0.0);
        assert_eq!(
            draws(&readings),
            [
                ("power_meter/1".to_owned(), PowerScope::Board, 31.5),
                ("amdgpu/PPT".to_owned(), PowerScope::Part, 4.0)
            ]
        );
        let budgets: Vec<_> = readings
            .iter()
            .filter(|reading| matches!(reading, SensorReading::Budget(_)))
            .collect();
        assert_eq!(
            budgets,
            [&SensorReading::Budget(PowerBudget {
                source: "cap",
                scope: PowerScope::Board,
                watts: 60.0
            })]
        );
    }

    #[test]
    fn jetson_rails_are_volt_times_ampere_and_only_the_input_is_the_board() {
        let (tree, mut sensor) = (Tree::new(), Hwmon::new(None));
        let chip = "sys/class/hwmon/hwmon3";
        for (channel, label, volts, amperes) in [
            (1, "VDD_IN", "5000", "1600"),
            (2, "VDD_CPU_GPU_CV", "5000", "400"),
        ] {
            tree.write(&[
                (&format!("{chip}/name"), "ina3221"),
                (&format!("{chip}/in{channel}_label"), label),
                (&format!("{chip}/in{channel}_input"), volts),
                (&format!("{chip}/curr{channel}_input"), amperes),
            ]);
        }
        tree.write(&[
            (&format!("{chip}/in7_label"), "sum of shunt voltages"),
            (&format!("{chip}/in7_input"), "12"),
        ]);
        assert_eq!(
            draws(&tree.readings(&mut sensor, 0.0)),
            [
                ("ina3221/VDD_IN".to_owned(), PowerScope::Board, 8.0),
                ("ina3221/VDD_CPU_GPU_CV".to_owned(), PowerScope::Part, 2.0)
            ]
        );
    }

    #[test]
    fn copies_of_batteries_and_unpaired_voltages_are_left_out() {
        let (tree, mut sensor) = (Tree::new(), Hwmon::new(None));
        tree.write(&[
            ("sys/class/power_supply/BAT-0/type", "Battery"),
            ("sys/class/hwmon/hwmon0/name", "BAT_0"),
            ("sys/class/hwmon/hwmon0/power1_input", "9000000"),
            ("sys/class/hwmon/hwmon1/name", "nct6798"),
            ("sys/class/hwmon/hwmon1/in1_input", "1000"),
            ("sys/class/hwmon/hwmon1/curr1_input", "1000"),
        ]);
        let report = tree.read(&mut sensor, 0.0);
        assert!(report.readings.is_empty() && report.sources.is_empty());
    }

    #[test]
    fn the_configured_chip_sees_the_board_and_garbage_is_counted() {
        let (tree, mut sensor) = (Tree::new(), Hwmon::new(Some("ina226".to_owned())));
        let input = "sys/class/hwmon/hwmon0/power1_input";
        tree.write(&[
            ("sys/class/hwmon/hwmon0/name", "ina226"),
            (input, "12500000"),
        ]);
        let readings = draws(&tree.readings(&mut sensor, 0.0));
        assert_eq!(readings, [("ina226/1".to_owned(), PowerScope::Board, 12.5)]);
        for garbage in ["-7", "NaN", "inf", "9999999999999", "", "0"] {
            tree.write(&[(input, garbage)]);
            let report = tree.read(&mut sensor, 1.0);
            assert!(draws(&report.readings).is_empty(), "{garbage}");
            assert_eq!(report.problems.len(), 1, "{garbage}");
        }
    }

    #[test]
    fn an_energy_counter_of_a_chip_becomes_watts() {
        let (tree, mut sensor) = (Tree::new(), Hwmon::new(Some("scmi/soc".to_owned())));
        let input = "sys/class/hwmon/hwmon0/energy1_input";
        tree.write(&[
            ("sys/class/hwmon/hwmon0/name", "scmi"),
            ("sys/class/hwmon/hwmon0/energy1_label", "soc"),
            (input, "1000000"),
        ]);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        tree.write(&[(input, "7000000")]);
        let readings = draws(&tree.readings(&mut sensor, 2.0));
        assert_eq!(readings, [("scmi/soc".to_owned(), PowerScope::Board, 3.0)]);
        tree.write(&[(input, "10")]);
        assert_eq!(tree.read(&mut sensor, 3.0).problems.len(), 1);
    }
}
