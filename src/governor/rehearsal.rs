//! Pressure out of files: a directory with files named like the resources, each with a number from
//! 0 to 1. It adds to what is measured and never hides any of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::headroom::{Resource, roots};

/// The files, and which of them were wrong the last time.
#[derive(Debug)]
pub(super) struct Rehearsal {
    folder: PathBuf,
    wrong: BTreeSet<&'static str>,
    running: BTreeSet<&'static str>,
}

impl Rehearsal {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            wrong: BTreeSet::new(),
            running: BTreeSet::new(),
        }
    }

    /// The pressures that are rehearsed now. A file that holds something else is named in the log
    /// once and has no effect.
    pub(super) fn read(&mut self) -> Vec<(Resource, f64)> {
        let mut found = Vec::new();
        for resource in Resource::ALL {
            let name = resource.as_str();
            let path = self.folder.join(name);
            let text = roots::text(&path);
            let pressure = text.map_or(Some(None), |text| text.map(|text| parse(&text)));
            match pressure {
                Some(Some(pressure)) => {
                    if self.running.insert(name) {
                        tracing::info!(resource = name, pressure, "a rehearsal begins");
                    }
                    self.wrong.remove(name);
                    found.push((resource, pressure));
                }
                wrong_or_none => {
                    if self.running.remove(name) {
                        tracing::info!(resource = name, "the rehearsal is over");
                    }
                    if wrong_or_none.is_none() {
                        self.wrong.remove(name);
                    } else if self.wrong.insert(name) {
                        let file = path.display();
                        tracing::warn!(%file, "must hold a number from 0 to 1, like 0.95; ignored");
                    }
                }
            }
        }
        found
    }
}

fn parse(text: &str) -> Option<f64> {
    let pressure: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&pressure).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_0_to_1_are_pressure_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rehearsal = Rehearsal::new(folder.path());
        assert!(rehearsal.read().is_empty());
        let file = folder.path().join("thermal");
        for (text, pressure) in [("0.95\n", Some(0.95)), ("1", Some(1.0)), ("0", Some(0.0))] {
            std::fs::write(&file, text).expect("written");
            let expected = pressure.map(|pressure| (Resource::Thermal, pressure));
            assert_eq!(rehearsal.read(), expected.into_iter().collect::<Vec<_>>());
        }
        for garbage in ["", "95", "-0.1", "NaN", "inf", "0,9", "hot"] {
            std::fs::write(&file, garbage).expect("written");
            assert!(rehearsal.read().is_empty(), "{garbage}");
        }
        std::fs::write(&file, [0xff; 5000]).expect("written");
        assert!(rehearsal.read().is_empty());
    }
}
