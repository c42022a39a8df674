//! A tree of files for the tests of sensors.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::headroom::reading::{Sensor, SensorReading, SensorReport};
use crate::headroom::roots::Roots;

pub(crate) struct Tree {
    folder: tempfile::TempDir,
    start: Instant,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            start: Instant::now(),
        }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots {
            sysfs: self.folder.path().join("sys"),
            procfs: self.folder.path().join("proc"),
            cgroup: self.folder.path().join("cgroup"),
        }
    }

    /// Writes files, such as `sys/class/thermal/thermal_zone0/temp`.
    pub(crate) fn write(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, text).expect("written");
        }
    }

    pub(crate) fn write_bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        fs::write(path, bytes).expect("written");
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.folder.path().join(path);
        let removed = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        removed.expect("removed");
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn read(&self, sensor: &mut dyn Sensor, seconds: f64) -> SensorReport {
        sensor.read(&self.roots(), self.start + Duration::from_secs_f64(seconds))
    }

    /// Reads what must be free of problems.
    pub(crate) fn readings(&self, sensor: &mut dyn Sensor, seconds: f64) -> Vec<SensorReading> {
        let report = self.read(sensor, seconds);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report.readings
    }
}
