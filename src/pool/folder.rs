//! The folder in which every GGUF file is a model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::{read_header, sandbox_hint};
use crate::sync::Mutex;

use super::failure::FileStamp;
use super::{ModelSpec, SpecMaker};

/// How long what was seen holds.
const FRESH: Duration = Duration::from_secs(1);

/// The folder of `pool.models_dir`.
pub(super) struct ModelsFolder {
    path: PathBuf,
    make: SpecMaker,
    seen: Mutex<Seen>,
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    /// Whether a file is a model, or something else in the same format, and the state of the file that was looked into.
    files: BTreeMap<PathBuf, (FileStamp, bool)>,
}

impl ModelsFolder {
    pub(super) fn new(path: PathBuf, make: SpecMaker) -> Self {
        Self {
            path,
            make,
            seen: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what models' threads need of the files that are there, by name; `None` if it has looked a
    /// moment ago, or cannot look.
    pub(super) fn look(&self) -> Option<Vec<ModelSpec>> {
        let mut seen = self.seen.lock();
        if seen.at.is_some_and(|at| at.elapsed() < FRESH) {
            return None;
        }
        seen.at = Some(Instant::now());
        let files = fs::read_dir(&self.path).inspect_err(|error| {
            let hint = sandbox_hint(&self.path, error);
            tracing::warn!(folder = %self.path.display(), %error, "pool.models_dir cannot be read{hint}");
        });
        let files = files.ok()?.filter_map(|file| Some(file.ok()?.path()));
        let mut files: Vec<_> = files.filter(|file| is_model_by_name(file)).collect();
        files.retain(|file| seen.is_model(file));
        files.sort();
        seen.files.retain(|file, _| files.contains(file));
        Some(files.iter().filter_map(|file| (self.make)(file)).collect())
    }
}

/// Returns the models that are in a folder now, by name.
#[must_use]
pub fn models_in(folder: &Path, make: SpecMaker) -> Vec<ModelSpec> {
    let folder = ModelsFolder::new(folder.to_owned(), make);
    folder.look().unwrap_or_default()
}

impl Seen {
    /// Whether a file is a model, or what should be one; it is looked into once.
    fn is_model(&mut self, file: &Path) -> bool {
        let stamp = FileStamp::of(file);
        if let Some((seen, is_model)) = self.files.get(file)
            && *seen == stamp
        {
            return *is_model;
        }
        // What cannot be read is shown as a model that fails, with the reason.
        let is_model = read_header(file).map_or(true, |header| header.is_model());
        self.files.insert(file.to_owned(), (stamp, is_model));
        is_model
    }
}

/// Whether a file is to be taken for a model by its name: a GGUF, and of one that was split the first part. What
/// is being copied should have another name until it is whole.
fn is_model_by_name(file: &Path) -> bool {
    let is_gguf = file.extension().is_some_and(|ending| ending == "gguf");
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let Some(stem) = stem.filter(|stem| is_gguf && !stem.starts_with('.')) else {
        return false;
    };
    !is_later_part(stem)
}

/// `…-00002-of-00003` is a part of another file.
fn is_later_part(stem: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((rest, count)) = stem.rsplit_once("-of-") else {
        return false;
    };
    let Some((_, part)) = rest.rsplit_once('-') else {
        return false;
    };
    number(count) && number(part) && part != "00001"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_models_by_their_names_are_left_out() {
        for name in ["a.gguf", "big-00001-of-00003.gguf", "out-of-stock.gguf"] {
            assert!(is_model_by_name(Path::new(name)), "{name}");
        }
        for name in [
            "a.gguf.part",
            ".a.gguf",
            "README.md",
            "big-00002-of-00003.gguf",
            "gguf",
        ] {
            assert!(!is_model_by_name(Path::new(name)), "{name}");
        }
    }
}
