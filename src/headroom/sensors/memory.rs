//! Memory: of the system, of the tightest control group above this process, and its own.
//!
//! What counts as used in a control group is what kubelet counts: all of it, less the file cache
//! that nothing has touched for a while. An mmapped model is file memory that is touched at every
//! step, so it counts.

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use super::super::reading::{MemoryReading, Sensor, SensorReading, SensorReport};
use super::super::roots::{self, Roots, SensorProblem};

/// The memory that this process may have: all that there is, or what the tightest control group
/// allows; `None` where it is not known.
pub(crate) fn most(roots: &Roots) -> Option<f64> {
    least(roots, |memory| memory.limit)
}

/// The memory that this process could still get, by whoever has the least left; `None` where it is not known.
pub(crate) fn available(roots: &Roots) -> Option<f64> {
    least(roots, |memory| memory.available)
}

fn least(roots: &Roots, of: impl Fn(&MemoryReading) -> f64) -> Option<f64> {
    let now = Instant::now();
    let reports = [SystemMemory.read(roots, now), CgroupMemory.read(roots, now)];
    let readings = reports.iter().flat_map(|report| &report.readings);
    let bytes = readings.filter_map(|reading| match reading {
        SensorReading::Memory(memory) => Some(of(memory)),
        _ => None,
    });
    bytes.min_by(f64::total_cmp)
}

/// What the kernel thinks can be had without swapping.
#[derive(Debug)]
pub(crate) struct SystemMemory;

impl Sensor for SystemMemory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        if let Some((limit, available)) = report.note(system(roots)) {
            report.push(SensorReading::Memory(MemoryReading {
                limit,
                usage: limit - available,
                available,
            }));
        }
        report
    }
}

/// `MemTotal` and `MemAvailable` in bytes; kernels before 3.14 do not have the latter.
fn system(roots: &Roots) -> Result<Option<(f64, f64)>, SensorProblem> {
    let path = roots.procfs.join("meminfo");
    let Some(text) = roots::text(&path)? else {
        return Ok(None);
    };
    match (
        kibibytes(&text, "MemTotal"),
        kibibytes(&text, "MemAvailable"),
    ) {
        (Some(total), Some(available)) if total > 0.0 && available <= total => {
            Ok(Some((total, available)))
        }
        _ => Err(SensorProblem::garbage(&path, &text)),
    }
}

/// A line `Name:  12 kB` in bytes. The procfs crate would refuse the whole file for one of its
/// other lines.
fn kibibytes(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim().strip_suffix(" kB"))?
    })?;
    #[allow(clippy::cast_precision_loss)] // memories are below 2^52 bytes
    value.parse::<u64>().ok().map(|value| value as f64 * 1024.0)
}

/// What version 1 writes for no limit is the highest number of whole pages below 2^63: twice this.
const UNLIMITED: f64 = 4.6e18;

/// The control groups of this process, versions 1 and 2.
#[derive(Debug)]
pub(crate) struct CgroupMemory;

impl Sensor for CgroupMemory {
    fn name(&self) -> &'static str {
        "control_group"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let Some(text) = report.note(roots::text(&roots.procfs.join("self/cgroup"))) else {
            return report;
        };
        // A limit beyond the memory that there is limits nothing.
        let most = system(roots)
            .ok()
            .flatten()
            .map_or(UNLIMITED, |(total, _)| total);
        let tightest = cgroup_folders(&text, &roots.cgroup)
            .into_iter()
            .filter_map(|folder| report.note(folder.memory(most)))
            .min_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        if let Some(memory) = tightest {
            report.push(SensorReading::Memory(memory));
        }
        report
    }
}

/// A control group, and how its version calls its files.
#[derive(Debug, PartialEq)]
struct CgroupFolder {
    folder: PathBuf,
    files: &'static CgroupFiles,
}

#[derive(Debug, PartialEq)]
struct CgroupFiles {
    limits: &'static [&'static str],
    usage: &'static str,
    idle_cache: &'static str,
}

const VERSION_1: CgroupFiles = CgroupFiles {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    idle_cache: "total_inactive_file",
};

const VERSION_2: CgroupFiles = CgroupFiles {
    // Above `high` it is slowed down until it stands still.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    idle_cache: "inactive_file",
};

/// Every group from the process's own up to the root, of each hierarchy that has memory in it.
fn cgroup_folders(text: &str, root: &Path) -> Vec<CgroupFolder> {
    let mut cgroup_folders = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounts, files) = if controllers.is_empty() {
            (vec![root.to_owned(), root.join("unified")], &VERSION_2)
        } else if controllers.split(',').any(|name| name == "memory") {
            (vec![root.join("memory")], &VERSION_1)
        } else {
            continue;
        };
        for mount in mounts {
            let mut below = relative(path);
            // In a container the path may be that of the host, while the mount begins at the group.
            if !mount.join(&below).is_dir() {
                below = PathBuf::new();
            }
            for folder in below.ancestors() {
                cgroup_folders.push(CgroupFolder {
                    folder: mount.join(folder),
                    files,
                });
            }
        }
    }
    cgroup_folders
}

/// Without its leading slash; empty for one that leads out of the mount.
fn relative(path: &str) -> PathBuf {
    let path = Path::new(path.trim_start_matches('/'));
    let stays = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if stays {
        path.to_owned()
    } else {
        PathBuf::new()
    }
}

impl CgroupFolder {
    /// Returns the group's memory; `None` where there is no limit below `most`.
    fn memory(&self, most: f64) -> Result<Option<MemoryReading>, SensorProblem> {
        let mut limit = None;
        for file in self.files.limits {
            let path = self.folder.join(file);
            let bytes = match roots::text(&path)? {
                None => continue,
                Some(text) if text == "max" => continue,
                Some(text) => text
                    .parse::<f64>()
                    .map_err(|_| SensorProblem::garbage(&path, &text))?,
            };
            if bytes > 0.0 && bytes < most {
                limit = Some(limit.map_or(bytes, |limit: f64| limit.min(bytes)));
            }
        }
        let Some(limit) = limit else {
            return Ok(None);
        };
        #[allow(clippy::cast_precision_loss)] // memories are below 2^52 bytes
        let bytes = |bytes: u64| bytes as f64;
        let Some(used) = roots::number::<u64>(&self.folder.join(self.files.usage))? else {
            return Ok(None);
        };
        let stat = roots::text(&self.folder.join("memory.stat"))?.unwrap_or_default();
        let idle_cache = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == self.files.idle_cache).then(|| value.parse::<u64>().ok())?
        });
        let usage = bytes(used.saturating_sub(idle_cache.unwrap_or(0)));
        Ok(Some(MemoryReading {
            limit,
            usage,
            available: (limit - usage).max(0.0),
        }))
    }
}

/// Memory of this process: what is its own, and what is a file's, such as a model's.
#[derive(Debug)]
pub(crate) struct OwnMemory;

impl Sensor for OwnMemory {
    fn name(&self) -> &'static str {
        "own_memory"
    }

    fn read(&mut self, roots: &Roots, _now: Instant) -> SensorReport {
        let mut report = SensorReport::default();
        let path = roots.procfs.join("self/status");
        let Some(text) = report.note(roots::text(&path)) else {
            return report;
        };
        for (kind, name) in [("anonymous", "RssAnon"), ("file", "RssFile")] {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // never negative
            match kibibytes(&text, name) {
                Some(bytes) => report.push(SensorReading::OwnMemory {
                    kind,
                    bytes: bytes as u64,
                }),
                None => report.problems.push(SensorProblem::garbage(&path, &name)),
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

    fn memory(readings: &[SensorReading]) -> Option<MemoryReading> {
        readings.iter().find_map(|reading| match reading {
            SensorReading::Memory(memory) => Some(*memory),
            _ => None,
        })
    }

    #[test]
    fn the_system_has_what_is_available_and_not_what_is_free() {
        let (tree, mut sensor) = (Tree::new(), SystemMemory);
        let text = "MemTotal:  4194304 kB\nMemFree:  1 kB\nMemAvailable:  1048576 kB\n";
        tree.write(&[("proc/meminfo", text)]);
        let seen = memory(&tree.readings(&mut sensor, 0.0)).expect("known");
        assert_eq!(
            (seen.limit, seen.usage, seen.ratio()),
            (4.0 * GIB, 3.0 * GIB, 0.25)
        );
        for garbage in ["", "MemTotal: 5 kB", "MemTotal: 5 kB\nMemAvailable: 6 kB"] {
            tree.write(&[("proc/meminfo", garbage)]);
            assert_eq!(tree.read(&mut sensor, 0.0).problems.len(), 1, "{garbage}");
        }
    }

    #[test]
    fn the_tightest_group_above_counts_without_its_idle_cache() {
        let (tree, mut sensor) = (Tree::new(), CgroupMemory);
        tree.write(&[
            ("proc/self/cgroup", "0::/store/edgellm.service\n"),
            ("cgroup/store/memory.max", "1000"),
            ("cgroup/store/memory.current", "900"),
            ("cgroup/store/memory.stat", "anon 1\ninactive_file 300\n"),
            ("cgroup/store/edgellm.service/memory.max", "max"),
            ("cgroup/store/edgellm.service/memory.high", "4000"),
            ("cgroup/store/edgellm.service/memory.current", "500"),
        ]);
        let seen = memory(&tree.readings(&mut sensor, 0.0));
        let store = MemoryReading {
            limit: 1000.0,
            usage: 600.0,
            available: 400.0,
        };
        assert_eq!(seen, Some(store));
        tree.write(&[("cgroup/store/memory.max", "nonsense")]);
        let report = tree.read(&mut sensor, 0.0);
        assert_eq!(
            memory(&report.readings).map(|memory| memory.limit),
            Some(4000.0)
        );
        assert_eq!(report.problems.len(), 1);
    }

    #[test]
    fn what_a_control_group_allows_is_all_that_may_be_had() {
        let tree = Tree::new();
        assert_eq!(most(&tree.roots()), None);
        tree.write(&[(
            "proc/meminfo",
            "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n",
        )]);
        assert_eq!(most(&tree.roots()), Some(2.0 * GIB));
        tree.write(&[
            ("proc/self/cgroup", "0::/edgellm\n"),
            ("cgroup/edgellm/memory.max", "536870912\n"),
            ("cgroup/edgellm/memory.current", "1000\n"),
            ("cgroup/edgellm/memory.stat", "inactive_file 0\n"),
        ]);
        assert_eq!(most(&tree.roots()), Some(GIB / 2.0));
    }

    #[test]
    fn version_1_counts_as_well_and_its_largest_number_is_no_limit() {
        let (tree, mut sensor) = (Tree::new(), CgroupMemory);
        tree.write(&[
            (
                "proc/meminfo",
                "MemTotal: 4194304 kB\nMemAvailable: 4194304 kB\n",
            ),
            (
                "proc/self/cgroup",
                "4:memory:/docker/abc\n2:cpu:/docker/abc\n0::/\n",
            ),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("cgroup/memory/memory.usage_in_bytes", "800"),
        ]);
        assert_eq!(memory(&tree.readings(&mut sensor, 0.0)), None);
        // The host's path does not exist in the container: the mount is the group.
        tree.write(&[("cgroup/memory/memory.limit_in_bytes", "1000")]);
        let seen = memory(&tree.readings(&mut sensor, 0.0)).expect("a limit");
        assert_eq!((seen.limit, seen.available), (1000.0, 200.0));
    }

    #[test]
    fn a_path_that_leads_out_of_the_mount_is_not_followed() {
        assert_eq!(relative("/../../etc"), Path::new(""));
        assert_eq!(relative("/a/b"), Path::new("a/b"));
        assert_eq!(relative("/"), Path::new(""));
        let cgroup_folders = cgroup_folders("garbage\n0::/../x\n", Path::new("/nowhere"));
        let folders: Vec<_> = cgroup_folders
            .iter()
            .map(|folder| folder.folder.clone())
            .collect();
        assert_eq!(
            folders,
            [Path::new("/nowhere/"), Path::new("/nowhere/unified/")]
        );
    }

    #[test]
    fn own_memory_is_told_apart() {
        let (tree, mut sensor) = (Tree::new(), OwnMemory);
        tree.write(&[(
            "proc/self/status",
            "Name:\tx\nRssAnon:\t 2 kB\nRssFile:\t 3 kB\n",
        )]);
        let own = |kind, bytes| SensorReading::OwnMemory { kind, bytes };
        let readings = tree.readings(&mut sensor, 0.0);
        assert_eq!(readings, [own("anonymous", 2048), own("file", 3072)]);
    }
}
