//! What is known of models before they are loaded: how much memory each is going to take, as was measured when it was
//! loaded before, else as its file says; and which files have passed their trial.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::{PassedFiles, TrialRecord};
use crate::replace_file::{OWNER_ONLY, replace_file};
use crate::sync::{Mutex, MutexGuard};

use super::failure::FileStamp;
use super::{ModelMemory, ModelSpec};

/// The file in which measured memory is kept, in the folder of what was learnt.
const FILE: &str = "models.json";
/// Models that are remembered; those that were learnt first are forgotten.
const MOST_REMEMBERED: usize = 1000;

/// What is known of models' memory. A model is known by its file's digest and by what decides on its size;
/// the digest of a file by its path, size and time.
#[derive(Debug, Default)]
pub(super) struct MemoryEstimates {
    file: Option<PathBuf>,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Learnt {
    /// The digests of files.
    #[serde(default)]
    files: BTreeMap<String, KnownFile>,
    /// What models took, by digest and settings.
    #[serde(default)]
    models: BTreeMap<String, ModelMemory>,
    /// Files that passed their trial.
    #[serde(default)]
    passed: BTreeMap<String, TrialRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    bytes: u64,
    modified_ns: u64,
    digest: String,
}

impl MemoryEstimates {
    /// Reads what was learnt before, if there is a folder for it. What cannot be read is learnt again.
    pub(super) fn open(folder: Option<PathBuf>) -> Self {
        let file = folder.map(|folder| folder.join(FILE));
        let learnt = file.as_ref().and_then(|file| {
            let text = std::fs::read(file).ok()?;
            let known = serde_json::from_slice(&text);
            known
                .inspect_err(|error| {
                    tracing::warn!(file = %file.display(), %error, "what was learnt of models cannot be read, and is learnt again");
                })
                .ok()
        });
        Self {
            file,
            learnt: Mutex::new(learnt.unwrap_or_default()),
        }
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock()
    }

    /// What a model is going to take; nothing where its file cannot be read, so that it is tried and says why.
    pub(super) fn expected(&self, spec: &ModelSpec) -> ModelMemory {
        let known = self
            .remembered(spec)
            .or_else(|| spec.estimated_memory().ok());
        known.unwrap_or_default()
    }

    fn remembered(&self, spec: &ModelSpec) -> Option<ModelMemory> {
        let learnt = self.learnt();
        let known = learnt.files.get(spec.path.to_str()?)?;
        let (bytes, modified_ns) = FileStamp::of(&spec.path).in_numbers()?;
        if (known.bytes, known.modified_ns) != (bytes, modified_ns) {
            return None;
        }
        learnt.models.get(&key(&known.digest, spec)).copied()
    }

    /// Remembers what a model took.
    pub(super) fn learn(&self, spec: &ModelSpec, digest: &str, memory: ModelMemory) {
        let (Some(path), Some((bytes, modified_ns))) =
            (spec.path.to_str(), FileStamp::of(&spec.path).in_numbers())
        else {
            return;
        };
        let mut learnt = self.learnt();
        let file = KnownFile {
            bytes,
            modified_ns,
            digest: digest.to_owned(),
        };
        learnt.files.insert(path.to_owned(), file);
        learnt.models.insert(key(digest, spec), memory);
        forget_some(&mut learnt.files);
        forget_some(&mut learnt.models);
        self.keep(&learnt);
    }

    fn keep(&self, learnt: &Learnt) {
        if let Some(file) = &self.file
            && let Err(error) = write(file, learnt)
        {
            tracing::warn!(file = %file.display(), %error, "what was learnt of models cannot be kept");
        }
    }
}

impl PassedFiles for MemoryEstimates {
    fn have(&self, file: &TrialRecord) -> bool {
        let path = file.path.to_string_lossy();
        self.learnt().passed.get(&*path) == Some(file)
    }

    fn remember(&self, file: TrialRecord) {
        let mut learnt = self.learnt();
        let path = file.path.to_string_lossy().into_owned();
        learnt.passed.insert(path, file);
        forget_some(&mut learnt.passed);
        self.keep(&learnt);
    }
}

fn forget_some<T>(known: &mut BTreeMap<String, T>) {
    while known.len() > MOST_REMEMBERED {
        known.pop_first();
    }
}

/// What decides on a model's memory beside its file.
fn key(digest: &str, spec: &ModelSpec) -> String {
    format!(
        "{digest} {} {} {} {:?} {} {:?} {} {:?}",
        spec.context,
        spec.max_running,
        spec.max_batch_tokens,
        spec.attention,
        spec.deterministic,
        spec.threads,
        spec.partition_memory,
        spec.adapters,
    )
}

fn write(file: &Path, learnt: &Learnt) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(learnt)?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    replace_file(file, &text, OWNER_ONLY)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::spec;
    use super::*;

    const TAKEN: ModelMemory = ModelMemory {
        weights: 1,
        kv_cache: 20,
        compute: 300,
    };

    #[test]
    fn what_was_learnt_is_remembered_by_the_next_process_for_the_same_file_and_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, "weights").expect("written");
        let spec = ModelSpec { path, ..spec() };
        MemoryEstimates::open(Some(state.clone())).learn(&spec, "abc", TAKEN);
        let estimates = MemoryEstimates::open(Some(state));
        assert_eq!(estimates.remembered(&spec), Some(TAKEN));
        let larger = ModelSpec {
            context: spec.context * 2,
            ..spec.clone()
        };
        assert_eq!(estimates.remembered(&larger), None);
        std::fs::write(&spec.path, "other weights").expect("written");
        assert_eq!(estimates.remembered(&spec), None);
    }

    #[test]
    fn a_half_written_memory_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "{\"files\": {", "[]", "{\"models\": {\"a\": 1}}"] {
            std::fs::write(folder.path().join(FILE), text).expect("written");
            let estimates = MemoryEstimates::open(Some(folder.path().to_owned()));
            assert!(estimates.learnt().models.is_empty(), "{text}");
        }
    }
}
