//! What feeds the board: batteries and power supplies (Documentation/ABI/testing/sysfs-class-power
//! in the kernel's sources), and what a Raspberry Pi 5 learnt from its supply.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::energy::{MOST_WATTS, is_limit};
use super::super::reading::{
    PowerBudget, PowerDraw, PowerScope, ReadingQuality, Sensor, SensorReading, SensorReport,
};
use super::super::roots::{self, Roots, SensorProblem};

/// What the sum of all batteries is called.
pub(crate) const BATTERY: &str = "battery";

/// The batteries that feed the board. While they do, what they give is what the board draws.
#[derive(Debug)]
pub(crate) struct Batteries {
    floor: f64,
    runtime: Option<Duration>,
}

impl Batteries {
    /// Spends what is above `floor_percent` no faster than lasts for `runtime`.
    pub(crate) fn new(floor_percent: u32, runtime: Option<Duration>) -> Self {
        Self {
            floor: f64::from(floor_percent) / 100.0,
            runtime,
        }
    }
}

/// The state of one battery.
struct Battery {
    discharging: bool,
    watts: Option<f64>,
    /// Watt-hours now and when full.
    energy: Option<(f64, f64)>,
}

impl Sensor for Batteries {
    fn name(&self) -> &'static str {
        BATTERY
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut batteries = Vec::new();
        for path in of_type(roots, |kind| kind == "Battery") {
            // A mouse has one as well.
            let feeds_other = roots::label(&path.join("scope")).as_deref() == Some("Device");
            let absent = roots::maybe::<u8>(&path.join("present")) == Some(0);
            if !feeds_other && !absent {
                let battery = battery(&path).map(Some);
                batteries.extend(report.note(battery));
            }
        }
        if batteries.is_empty() && report.problems.is_empty() {
            return report;
        }
        let feeds = batteries.iter().any(|battery| battery.discharging);
        // Where one of several cannot be read, the sum is unknown.
        let drawn: Option<f64> = batteries
            .iter()
            .filter(|battery| battery.discharging)
            .map(|battery| battery.watts)
            .sum();
        let is_whole = report.problems.is_empty();
        report.sources.push((BATTERY.to_owned(), is_whole));
        if !feeds || !is_whole {
            return report;
        }
        if let Some(watts) = drawn.filter(|watts| *watts > 0.0) {
            report.push(SensorReading::Draw(PowerDraw {
                source: BATTERY.to_owned(),
                scope: PowerScope::Board,
                quality: ReadingQuality::Measured,
                watts,
                joules: None,
            }));
        }
        let energy = batteries.iter().map(|battery| battery.energy);
        if let Some(runtime) = self.runtime
            && let Some((left, full)) = energy
                .reduce(|all, one| all.zip(one).map(|((a, b), (c, d))| (a + c, b + d)))
                .flatten()
        {
            let watts = lasting(left, full, self.floor, runtime);
            // Nothing is left to spend, or so much that it limits nothing.
            if watts <= MOST_WATTS {
                report.push(SensorReading::Budget(PowerBudget {
                    source: BATTERY,
                    scope: PowerScope::Board,
                    watts,
                }));
            }
        }
        report
    }
}

/// Watts that `left` of `full` watt-hours, less the floor, last for `runtime` at.
fn lasting(left: f64, full: f64, floor: f64, runtime: Duration) -> f64 {
    (left - floor * full).max(0.0) / (runtime.as_secs_f64() / 3600.0)
}

fn battery(path: &Path) -> Result<Battery, SensorProblem> {
    let status = roots::text(&path.join("status"))?;
    let discharging = status.as_deref() == Some("Discharging");
    let volts = micro(path, "voltage_now")?;
    // Some drivers write what flows out with a minus; the status says which way it flows.
    let watts = match micro(path, "power_now")? {
        Some(watts) => Some(watts.abs()),
        None => micro(path, "current_now")?
            .zip(volts)
            .map(|(amperes, volts)| (amperes * volts).abs()),
    };
    if let Some(watts) = watts.filter(|watts| *watts > MOST_WATTS) {
        return Err(SensorProblem::garbage(path, &watts));
    }
    let volts = micro(path, "voltage_min_design")?.or(volts);
    let energy = match (micro(path, "energy_now")?, micro(path, "energy_full")?) {
        (Some(now), Some(full)) => Some((now, full)),
        _ => micro(path, "charge_now")?
            .zip(micro(path, "charge_full")?)
            .zip(volts)
            .map(|((now, full), volts)| (now * volts, full * volts)),
    };
    Ok(Battery {
        discharging,
        watts,
        energy: energy.filter(|(now, full)| *full > 0.0 && *now >= 0.0),
    })
}

/// A file of millionths; a battery that is just being plugged answers ENODATA, which is no number.
fn micro(path: &Path, file: &str) -> Result<Option<f64>, SensorProblem> {
    let path = path.join(file);
    match roots::number::<f64>(&path)? {
        Some(number) if !number.is_finite() => Err(SensorProblem::garbage(&path, &number)),
        other => Ok(other.map(|number| number / 1e6)),
    }
}

/// What the supply can give.
#[derive(Debug)]
pub(crate) struct Supply;

impl Sensor for Supply {
    fn name(&self) -> &'static str {
        "supply"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut watts = Vec::new();
        for path in of_type(roots, |kind| kind != "Battery") {
            if roots::maybe::<u8>(&path.join("online")) != Some(1) {
                continue;
            }
            let limit = micro(&path, "input_power_limit");
            watts.extend(report.note(limit).filter(|watts| is_limit(*watts)));
        }
        watts.extend(raspberry_pi(roots));
        if let Some(watts) = watts.into_iter().reduce(f64::min) {
            report.push(SensorReading::Budget(PowerBudget {
                source: "supply",
                scope: PowerScope::Board,
                watts,
            }));
        }
        report
    }
}

/// What the supply of a Raspberry Pi 5 offered: milliamperes at 5 V, which its boot loader leaves
/// in the device tree as a number of 32 bits, highest byte first.
fn raspberry_pi(roots: &Roots) -> Option<f64> {
    let path = "firmware/devicetree/base/chosen/power/max_current";
    let bytes = roots::bytes(&roots.sysfs.join(path)).ok().flatten()?;
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    let watts = f64::from(u32::from_be_bytes(bytes)) / 1e3 * 5.0;
    is_limit(watts).then_some(watts)
}

fn of_type(roots: &Roots, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = roots::entries(&roots.sysfs.join("class/power_supply"));
    found.retain(|path| roots::label(&path.join("type")).is_some_and(|kind| wanted(&kind)));
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    const HOUR: Option<Duration> = Some(Duration::from_secs(60 * 60));

    fn draw(readings: &[SensorReading]) -> Option<f64> {
        readings.iter().find_map(|reading| match reading {
            SensorReading::Draw(draw) => Some(draw.watts),
            _ => None,
        })
    }

    fn budget(readings: &[SensorReading]) -> Option<f64> {
        readings.iter().find_map(|reading| match reading {
            SensorReading::Budget(budget) => Some(budget.watts),
            _ => None,
        })
    }

    #[test]
    fn a_battery_tells_what_the_board_draws_only_while_it_feeds_it() {
        let (tree, mut sensor) = (Tree::new(), Batteries::new(20, HOUR));
        let at = |file: &str| format!("sys/class/power_supply/BAT0/{file}");
        let state = |status: &str, power: &str| {
            tree.write(&[
                (&at("type"), "Battery"),
                (&at("status"), status),
                (&at("power_now"), power),
                (&at("energy_now"), "30000000"),
                (&at("energy_full"), "50000000"),
            ]);
        };
        for power in ["9500000", "-9500000"] {
            state("Discharging", power);
            let readings = tree.readings(&mut sensor, 0.0);
            assert_eq!(draw(&readings), Some(9.5));
            assert_eq!(budget(&readings), Some(20.0), "30 Wh less 10, for an hour");
        }
        for status in ["Charging", "Full", "Not charging", "Unknown"] {
            state(status, "9500000");
            let readings = tree.readings(&mut sensor, 0.0);
            assert_eq!(
                (draw(&readings), budget(&readings)),
                (None, None),
                "{status}"
            );
        }
        state("Discharging", "0");
        assert_eq!(draw(&tree.readings(&mut sensor, 0.0)), None);
        state("Discharging", "rubbish");
        let report = tree.read(&mut sensor, 0.0);
        assert!(report.readings.is_empty());
        assert_eq!(report.sources, [("battery".to_owned(), false)]);
    }

    #[test]
    fn current_and_voltage_do_as_well_and_a_mouse_does_not_count() {
        let (tree, mut sensor) = (Tree::new(), Batteries::new(0, None));
        tree.write(&[
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/status", "Discharging"),
            ("sys/class/power_supply/BAT1/current_now", "-500000"),
            ("sys/class/power_supply/BAT1/voltage_now", "12000000"),
            ("sys/class/power_supply/mouse/type", "Battery"),
            ("sys/class/power_supply/mouse/scope", "Device"),
            ("sys/class/power_supply/mouse/status", "Discharging"),
            ("sys/class/power_supply/mouse/power_now", "1000000"),
        ]);
        assert_eq!(draw(&tree.readings(&mut sensor, 0.0)), Some(6.0));
    }

    #[test]
    fn an_empty_battery_may_spend_nothing() {
        let spend = |left| lasting(left, 50.0, 0.2, Duration::from_secs(30 * 60));
        assert!((spend(20.0) - 20.0).abs() < 1e-9);
        assert!(spend(10.0).abs() < 1e-9 && spend(5.0).abs() < 1e-9);
    }

    #[test]
    fn a_supply_tells_its_limit_and_a_raspberry_pi_what_was_negotiated() {
        let (tree, mut sensor) = (Tree::new(), Supply);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        let place = "sys/firmware/devicetree/base/chosen/power/max_current";
        tree.write_bytes(place, &5000_u32.to_be_bytes());
        assert_eq!(budget(&tree.readings(&mut sensor, 0.0)), Some(25.0));
        tree.write(&[
            ("sys/class/power_supply/usb/type", "USB"),
            ("sys/class/power_supply/usb/online", "1"),
            ("sys/class/power_supply/usb/input_power_limit", "15000000"),
        ]);
        assert_eq!(budget(&tree.readings(&mut sensor, 0.0)), Some(15.0));
        tree.write_bytes(place, b"junk and more");
        assert_eq!(budget(&tree.readings(&mut sensor, 0.0)), Some(15.0));
    }
}
