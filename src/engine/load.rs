//! From a GGUF file to weights and a tokenizer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;

use super::adapter_file::AdapterBase;
use super::backend::backend;
use super::cpu::UnsupportedCpu;
use super::denied::sandbox_hint;
use super::gguf::Hyperparameters;
use super::load_watch::LoadWatch;
use super::model_file::ModelFile;
use super::tokenizer::PieceTable;
use super::trial::ModelTrial;
use super::{GgufHeader, ModelInfo, Tokenizer, Weights, logs, weights};

/// Why a model cannot be served. Every message names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("cannot read model {}: {source}{}; check the path and its permissions", path.display(), sandbox_hint(path, source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a GGUF file (it does not start with the letters GGUF); pass a model in llama.cpp's GGUF format", .0.display())]
    NotGguf(PathBuf),
    /// llama.cpp refused it.
    #[error("cannot load model {}: {reason}; if the file was copied or downloaded, compare its size and checksum with the original, and check that this version of llama.cpp knows its architecture", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },
    /// It is not what a GGUF is, or a part of one.
    #[error("cannot load model {}: {fault}; compare the file's size and checksum with the original, and copy or download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        fault: String,
    },
    /// It is a sound GGUF, but llama.cpp would not survive it.
    #[error("cannot load model {}: {fault}; convert it again from the original with a current llama.cpp", path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// The key or the tensor, and what is wrong with it.
        fault: String,
    },
    /// It was tried in a child process, and did not pass.
    #[error("cannot load model {}: when it was tried in a process of its own, {fault}; compare its checksum with the original's, and if they are equal, convert it again with a current llama.cpp", path.display())]
    FailedTrial {
        /// The file.
        path: PathBuf,
        /// How the child ended.
        fault: String,
    },
    /// A child process refused it, in its own words.
    #[error("{0}")]
    RefusedOnTrial(String),
    /// There was no child process to try it in.
    #[error(
        "cannot try a model in a process of its own: {0}; the system may be short of memory or of processes"
    )]
    NoTrial(io::Error),
    /// There is no use for it here.
    #[error("cannot serve model {}: {reason}", path.display())]
    Unservable {
        /// The file.
        path: PathBuf,
        /// Why, with what to do.
        reason: &'static str,
    },
    /// This build cannot run here.
    #[error(transparent)]
    Cpu(#[from] UnsupportedCpu),
    /// The program is being stopped.
    #[error("loading was given up")]
    Abandoned,
    /// Weights were loaded, but no context could be made.
    #[error("cannot set up the model's KV cache: {}; a smaller models.context or models.max_running needs less memory", .0.as_deref().unwrap_or("llama.cpp gave no reason"))]
    Context(Option<String>),
}

/// Loads a GGUF file: the weights for the calling thread alone, and a tokenizer that others may
/// share. Gives up when `watch` says so.
///
/// llama.cpp reads the file twice, through the same descriptor: once for its vocabulary alone and
/// once for its weights alone. Two llama.cpp models make it possible to free the weights while
/// somebody still turns tokens into text.
///
/// # Errors
/// See [`LoadError`].
pub fn load_model(path: &Path, watch: &LoadWatch) -> Result<(Weights, Tokenizer), LoadError> {
    load(path, None, watch)
}

/// As [`load_model`], after the file was tried in a child process: it may be anybody's.
///
/// # Errors
/// See [`LoadError`].
pub fn load_tried_model(
    path: &Path,
    trial: &ModelTrial,
    watch: &LoadWatch,
) -> Result<(Weights, Tokenizer), LoadError> {
    load(path, Some(trial), watch)
}

fn load(
    path: &Path,
    trial: Option<&ModelTrial>,
    watch: &LoadWatch,
) -> Result<(Weights, Tokenizer), LoadError> {
    // Sets llama.cpp's CPU kernels up, which reading a file needs as well.
    backend()?;
    logs::clear_last_error();
    let source = ModelFile::open(path)?;
    let hyperparameters = source.check()?;
    if let Some(trial) = trial {
        trial.pass(&source, watch)?;
    }
    let digest = source.digest(watch)?;
    let vocab = open_vocabulary(path, &source, watch)?;
    let weights =
        weights::read(&source, &vocab, watch).ok_or_else(|| refusal(path, &source, watch))?;
    assemble(&source, vocab, weights, hyperparameters, digest)
}

/// Makes of what llama.cpp has read the weights for this thread and a tokenizer that others may share.
pub(super) fn assemble(
    source: &ModelFile,
    vocab: LlamaModel,
    weights: LlamaModel,
    hyperparameters: Hyperparameters,
    digest: String,
) -> Result<(Weights, Tokenizer), LoadError> {
    let pieces = PieceTable::read(&vocab);
    let info = ModelInfo::read(&weights, &vocab, pieces.longest(), digest);
    let info = info.map_err(|reason| LoadError::Unservable {
        path: source.path().to_owned(),
        reason,
    })?;
    let info = Arc::new(info);
    let tokenizer = Tokenizer::new(vocab, pieces, Arc::clone(&info));
    let base = Arc::new(AdapterBase::of(source.header()));
    Ok((
        Weights::new(weights, info, hyperparameters, base),
        tokenizer,
    ))
}

/// Has llama.cpp read the vocabulary.
pub(super) fn open_vocabulary(
    path: &Path,
    source: &ModelFile,
    watch: &LoadWatch,
) -> Result<LlamaModel, LoadError> {
    let vocab = source.load_vocabulary(watch);
    vocab.ok_or_else(|| refusal(path, source, watch))
}

/// Reads the header of a GGUF file, of a model or of something else, without loading anything: some milliseconds
/// for a large vocabulary. The header holds the vocabulary, so it is not for keeping.
///
/// # Errors
/// See [`LoadError`]; what is said to be a model and would not be survived by llama.cpp is refused as well.
pub fn read_header(path: &Path) -> Result<GgufHeader, LoadError> {
    let source = ModelFile::open(path)?;
    if source.header().is_model() {
        source.check()?;
    }
    Ok(source.into_header())
}

/// Why llama.cpp gave no model.
pub(super) fn refusal(path: &Path, source: &ModelFile, watch: &LoadWatch) -> LoadError {
    if watch.is_given_up() {
        return LoadError::Abandoned;
    }
    let reason = logs::last_error();
    let reason = reason.unwrap_or_else(|| "llama.cpp gave no reason".to_owned());
    let architecture = &source.header().architecture;
    LoadError::Refused {
        path: path.to_owned(),
        reason: format!("{reason} (its architecture is `{architecture}`)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_the_remedy() {
        let error = load_model(Path::new("/nowhere/model.gguf"), &LoadWatch::default())
            .expect_err("no such file");
        let text = error.to_string();
        assert!(text.contains("/nowhere/model.gguf") && text.contains("check the path"));
    }

    #[test]
    fn a_text_file_is_not_taken_for_a_model() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "hello").expect("written");
        let error = load_model(file.path(), &LoadWatch::default()).expect_err("not a GGUF");
        assert!(matches!(error, LoadError::NotGguf(_)));
    }
}
