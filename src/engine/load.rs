//! From a GGUF file to weights and a tokenizer.

use std::borrow::Cow;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::adapter_file::AdapterBase;
use super::backend::backend;
use super::cpu::UnsupportedCpu;
use super::model_file::ModelFile;
use super::tokenizer::PieceTable;
use super::{ModelInfo, Tokenizer, Weights, logs, vocabulary, weights};

/// Why a model cannot be served. Every message names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("cannot read model {}: {source}; check the path and its permissions", path.display())]
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
/// share. Gives up when `abort` becomes true.
///
/// llama.cpp reads the file twice, through the same descriptor: once for its vocabulary alone and
/// once for its weights alone. Two llama.cpp models make it possible to free the weights while
/// somebody still turns tokens into text.
///
/// # Errors
/// See [`LoadError`].
pub fn load_model(path: &Path, abort: &Arc<AtomicBool>) -> Result<(Weights, Tokenizer), LoadError> {
    // Sets llama.cpp's CPU kernels up, which reading a file needs as well.
    backend()?;
    logs::clear_last_error();
    let unservable = |reason| LoadError::Unservable {
        path: path.to_owned(),
        reason,
    };
    let source = ModelFile::open(path)?;
    vocabulary::check(source.metadata()).map_err(unservable)?;
    let digest = source.digest(abort)?;
    let refused = || refusal(path, &source, abort);
    let vocab = source.load_vocabulary(abort).ok_or_else(refused)?;
    let weights = weights::read(&source, &vocab, abort).ok_or_else(refused)?;
    let pieces = PieceTable::read(&vocab);
    let info = ModelInfo::read(&weights, &vocab, pieces.longest(), digest).map_err(unservable)?;
    let info = Arc::new(info);
    let tokenizer = Tokenizer::new(vocab, pieces, Arc::clone(&info));
    let base = Arc::new(AdapterBase::of(&source));
    Ok((Weights::new(weights, info, base), tokenizer))
}

/// Why llama.cpp gave no model.
fn refusal(path: &Path, source: &ModelFile, abort: &AtomicBool) -> LoadError {
    if abort.load(Ordering::Relaxed) {
        return LoadError::Abandoned;
    }
    let reason = logs::last_error();
    let reason = reason.unwrap_or_else(|| "llama.cpp gave no reason".to_owned());
    let architecture = source.metadata().text(c"general.architecture");
    let architecture = architecture.map_or(Cow::Borrowed("unknown"), CStr::to_string_lossy);
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
        let error = load_model(Path::new("/nowhere/model.gguf"), &Arc::default())
            .expect_err("no such file");
        let text = error.to_string();
        assert!(text.contains("/nowhere/model.gguf") && text.contains("check the path"));
    }

    #[test]
    fn a_text_file_is_not_taken_for_a_model() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "hello").expect("written");
        let error = load_model(file.path(), &Arc::default()).expect_err("not a GGUF");
        assert!(matches!(error, LoadError::NotGguf(_)));
    }
}
