//! Pressure stall information: how long tasks waited for processor, memory or disk
//! (Documentation/accounting/psi in the kernel's sources).

use std::time::{Duration, Instant};

use super::super::reading::{Sensor, SensorReading, SensorReport};
use super::super::roots::{self, Roots, SensorProblem};

/// Thirty years.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

#[derive(Debug)]
pub(crate) struct PressureStall;

impl Sensor for PressureStall {
    fn name(&self) -> &'static str {
        "pressure_stall"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        for resource in ["cpu", "memory", "io"] {
            let path = roots.procfs.join("pressure").join(resource);
            let Some(text) = report.note(roots::text(&path)) else {
                continue;
            };
            for kind in ["some", "full"] {
                match total(&text, kind) {
                    // For the whole system nothing is ever stalled in full by the processor.
                    _ if resource == "cpu" && kind == "full" => {}
                    Some(time) => report.push(SensorReading::Stalled {
                        resource,
                        kind,
                        time,
                    }),
                    None => report.problems.push(SensorProblem::garbage(&path, &text)),
                }
            }
        }
        report
    }
}

fn total(text: &str, kind: &str) -> Option<Duration> {
    let line = text.lines().find(|line| line.starts_with(kind))?;
    let total = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix("total="))?;
    let total = Duration::from_micros(total.parse().ok()?);
    // A counter that was believed once too high would never be corrected.
    (total < LONGEST).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn totals_are_microseconds_and_what_is_garbled_is_left_out() {
        let (tree, mut sensor) = (Tree::new(), PressureStall);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        let some = "some avg10=51.82 avg60=52.24 avg300=40.17 total=2500000\n";
        let text = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n");
        tree.write(&[("proc/pressure/cpu", some), ("proc/pressure/memory", &text)]);
        let stalled = |resource, kind, millis| SensorReading::Stalled {
            resource,
            kind,
            time: Duration::from_millis(millis),
        };
        assert_eq!(
            tree.readings(&mut sensor, 0.0),
            [
                stalled("cpu", "some", 2500),
                stalled("memory", "some", 2500),
                stalled("memory", "full", 500)
            ]
        );
        tree.write(&[("proc/pressure/io", "some avg10=1 total=-3\n")]);
        let report = tree.read(&mut sensor, 0.0);
        assert_eq!(report.readings.len(), 3);
        assert_eq!(report.problems.len(), 2);
    }
}
