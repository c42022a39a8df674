//! The processor: its clock, and who uses it.

use std::time::Instant;

use super::super::reading::{Sensor, SensorReading, SensorReport};
use super::super::roots::{self, Roots, SensorProblem};

/// No machine has counted more; so none of the sums below can overflow.
const MOST_TICKS: u64 = 1 << 60;

/// Ticks since the system started, of all cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTimes {
    pub(super) total: u64,
    /// At work for anybody here.
    pub(super) busy: u64,
    /// At work for somebody else, on a machine that is a virtual one.
    pub(super) stolen: u64,
}

impl CpuTimes {
    pub(super) fn read(roots: &Roots) -> Result<Option<Self>, SensorProblem> {
        let path = roots.procfs.join("stat");
        let Some(text) = roots::text(&path)? else {
            return Ok(None);
        };
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what follows is in user and nice already.
        let ticks: Option<Vec<u64>> = line
            .strip_prefix("cpu ")
            .map(|rest| rest.split_whitespace().take(8).map(str::parse).collect())
            .and_then(Result::ok)
            .filter(|ticks: &Vec<u64>| {
                ticks.len() == 8 && ticks.iter().all(|one| *one < MOST_TICKS)
            });
        let Some(ticks) = ticks else {
            return Err(SensorProblem::garbage(&path, &line));
        };
        Ok(Some(Self {
            total: ticks.iter().sum(),
            busy: ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6],
            stolen: ticks[7],
        }))
    }
}

/// The share of a part in the whole since the last time; none if no time has passed, or went back.
#[allow(clippy::cast_precision_loss)] // ticks of an interval are few
pub(super) fn share(part: u64, last_part: u64, whole: u64, last_whole: u64) -> Option<f64> {
    let whole = whole.checked_sub(last_whole).filter(|whole| *whole > 0)?;
    let part = part.checked_sub(last_part)?;
    Some((part as f64 / whole as f64).min(1.0))
}

/// What others take of the processor. What edgellm itself takes is its work, and no pressure.
#[derive(Debug, Default)]
pub(crate) struct OtherPrograms {
    last: Option<(u64, u64)>,
}

impl Sensor for OtherPrograms {
    fn name(&self) -> &'static str {
        "cpu_use"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let times = report.note(CpuTimes::read(roots));
        let own = report.note(own_ticks(roots));
        let now = times.zip(own).map(|(times, own)| {
            let others = (times.busy + times.stolen).saturating_sub(own);
            (others, times.total)
        });
        let last = std::mem::replace(&mut self.last, now);
        if let (Some((others, total)), Some((last_others, last_total))) = (now, last) {
            // The two files are not of the very same moment: others may seem to have gone back.
            let others = others.max(last_others);
            if let Some(ratio) = share(others, last_others, total, last_total) {
                report.push(SensorReading::OtherPrograms { ratio });
            }
        }
        report
    }
}

/// Ticks of this process: fields 14 and 15 of its `stat`, behind a name that may hold anything.
fn own_ticks(roots: &Roots) -> Result<Option<u64>, SensorProblem> {
    let path = roots.procfs.join("self/stat");
    let Some(text) = roots::text(&path)? else {
        return Ok(None);
    };
    let ticks = text.rsplit_once(')').and_then(|(_, rest)| {
        let mut fields = rest.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        user.checked_add(system).filter(|ticks| *ticks < MOST_TICKS)
    });
    ticks
        .map(Some)
        .ok_or_else(|| SensorProblem::garbage(&path, &text))
}

/// Kilohertz that a core can mean.
const PLAUSIBLE: std::ops::RangeInclusive<u32> = 1..=20_000_000;

/// The mean clock of the cores that are on.
#[derive(Debug)]
pub(crate) struct Frequency;

impl Sensor for Frequency {
    fn name(&self) -> &'static str {
        "cpufreq"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let mut kilohertz = Vec::new();
        for (_, core) in roots::numbered(&roots.sysfs.join("devices/system/cpu"), "cpu") {
            let path = core.join("cpufreq/scaling_cur_freq");
            let clock = roots::number::<u32>(&path).and_then(|clock| match clock {
                Some(found) if !PLAUSIBLE.contains(&found) => {
                    Err(SensorProblem::garbage(&path, &found))
                }
                other => Ok(other),
            });
            kilohertz.extend(report.note(clock).map(f64::from));
        }
        if !kilohertz.is_empty() {
            #[allow(clippy::cast_precision_loss)] // cores are few
            let mean = kilohertz.iter().sum::<f64>() / kilohertz.len() as f64;
            report.push(SensorReading::Frequency { hertz: mean * 1e3 });
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn others_are_what_is_not_our_own() {
        let (tree, mut sensor) = (Tree::new(), OtherPrograms::default());
        let stat = |user: u64, idle: u64, own: u64| {
            let all = format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n");
            let own = format!("77 (edge) llm) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 9 0");
            tree.write(&[("proc/stat", &all), ("proc/self/stat", &own)]);
        };
        stat(1000, 1000, 500);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        stat(1180, 1020, 600);
        let ratio = [SensorReading::OtherPrograms { ratio: 0.4 }];
        assert_eq!(tree.readings(&mut sensor, 1.0), ratio);
        stat(1180, 1020, 600);
        assert!(tree.readings(&mut sensor, 1.1).is_empty(), "no time passed");
        stat(1280, 1020, 705);
        let none = [SensorReading::OtherPrograms { ratio: 0.0 }];
        assert_eq!(tree.readings(&mut sensor, 2.0), none);
    }

    #[test]
    fn the_clock_is_the_mean_of_the_cores_that_tell() {
        let (tree, mut sensor) = (Tree::new(), Frequency);
        assert!(tree.readings(&mut sensor, 0.0).is_empty());
        let core =
            |number: u32| format!("sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq");
        tree.write(&[
            (&core(0), "1000000"),
            (&core(1), "3000000"),
            (&core(2), "0"),
        ]);
        let report = tree.read(&mut sensor, 0.0);
        assert_eq!(report.readings, [SensorReading::Frequency { hertz: 2e9 }]);
        assert_eq!(report.problems.len(), 1);
    }
}
