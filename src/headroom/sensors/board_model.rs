//! A declared model of the board, for boxes without a power sensor: what it draws at rest and with
//! all cores busy, and a straight line between them. Marked as estimated wherever it shows.

use std::time::Instant;

use super::super::reading::{
    PowerDraw, PowerScope, ReadingQuality, Sensor, SensorReading, SensorReport,
};
use super::super::roots::Roots;
use super::cpu::{CpuTimes, share};

const SOURCE: &str = "board_model";

#[derive(Debug)]
pub(crate) struct BoardModel {
    idle: f64,
    full: f64,
    last: Option<CpuTimes>,
}

impl BoardModel {
    pub(crate) fn new(idle: f64, full: f64) -> Self {
        Self {
            idle,
            full,
            last: None,
        }
    }
}

impl Sensor for BoardModel {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let times = report.note(CpuTimes::read(roots));
        report.sources.push((SOURCE.to_owned(), times.is_some()));
        let last = std::mem::replace(&mut self.last, times);
        if let (Some(last), Some(times)) = (last, times)
            && let Some(busy) = share(times.busy, last.busy, times.total, last.total)
        {
            report.push(SensorReading::Draw(PowerDraw {
                source: SOURCE.to_owned(),
                scope: PowerScope::Board,
                quality: ReadingQuality::Estimated,
                watts: self.idle + (self.full - self.idle) * busy,
                joules: None,
            }));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn watts_follow_the_use_of_the_processor() {
        let (tree, mut sensor) = (Tree::new(), BoardModel::new(5.0, 25.0));
        tree.write(&[("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\n")]);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        tree.write(&[("proc/stat", "cpu  140 0 110 850 0 0 0 0 0 0\n")]);
        let readings = tree.readings(&mut sensor, 1.0);
        let [SensorReading::Draw(draw)] = readings.as_slice() else {
            panic!("{readings:?}");
        };
        assert_eq!(
            (draw.watts, draw.quality),
            (15.0, ReadingQuality::Estimated)
        );
        tree.write(&[("proc/stat", "cpu  what")]);
        let report = tree.read(&mut sensor, 2.0);
        assert!(report.readings.is_empty() && report.problems.len() == 1);
    }
}
