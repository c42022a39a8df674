//! The power monitor of older Jetson systems (L4T before 35), which is no hwmon chip there but an
//! IIO device with a file of milliwatts for each rail.

use std::time::Instant;

use super::super::energy::MOST_WATTS;
use super::super::reading::{
    PowerDraw, PowerScope, ReadingQuality, Sensor, SensorReading, SensorReport,
};
use super::super::roots::{self, Roots, SensorProblem};
use super::hwmon::unique;

#[derive(Debug)]
pub(crate) struct Rails;

impl Sensor for Rails {
    fn name(&self) -> &'static str {
        "jetson_rails"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let devices = roots.sysfs.join("bus/iio/devices");
        for (_, device) in roots::numbered(&devices, "iio:device") {
            if roots::label(&device.join("name")).as_deref() != Some("ina3221x") {
                continue;
            }
            for rail in 0..3 {
                let Some(name) = roots::label(&device.join(format!("rail_name_{rail}"))) else {
                    continue;
                };
                let path = device.join(format!("in_power{rail}_input"));
                let milliwatts = roots::number::<f64>(&path);
                let watts = milliwatts.and_then(|milliwatts| match milliwatts {
                    Some(found) if !(0.0..=MOST_WATTS * 1e3).contains(&found) => {
                        Err(SensorProblem::garbage(&path, &found))
                    }
                    other => Ok(other.map(|found| found / 1e3)),
                });
                let source = unique(&report.sources, format!("ina3221x/{name}"));
                let watts = report.note(watts);
                report.sources.push((source.clone(), watts.is_some()));
                if let Some(watts) = watts {
                    let is_input = matches!(name.as_str(), "VDD_IN" | "POM_5V_IN");
                    report.push(SensorReading::Draw(PowerDraw {
                        source,
                        scope: if is_input {
                            PowerScope::Board
                        } else {
                            PowerScope::Part
                        },
                        quality: ReadingQuality::Measured,
                        watts,
                        joules: None,
                    }));
                }
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn rails_have_names_and_the_input_is_the_board() {
        let (tree, mut sensor) = (Tree::new(), Rails);
        let device = "sys/bus/iio/devices/iio:device0";
        tree.write(&[
            (&format!("{device}/name"), "ina3221x"),
            (&format!("{device}/rail_name_0"), "POM_5V_IN"),
            (&format!("{device}/in_power0_input"), "4321"),
            (&format!("{device}/rail_name_1"), "POM_5V_CPU"),
            (&format!("{device}/in_power1_input"), "broken"),
        ]);
        let report = tree.read(&mut sensor, 0.0);
        let SensorReading::Draw(draw) = &report.readings[0] else {
            panic!("{report:?}");
        };
        assert_eq!((draw.scope, draw.watts), (PowerScope::Board, 4.321));
        assert_eq!(report.readings.len(), 1);
        assert_eq!(report.problems.len(), 1);
    }
}
