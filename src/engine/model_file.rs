//! The file of a model, opened once: what is checked, hashed and loaded is one and the same, even
//! if another file takes its name meanwhile.

use std::ffi::{CString, c_void};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use sha2::{Digest, Sha256};

use super::gguf::{self, GgufHeader, HeaderError, Hyperparameters};
use super::load::LoadError;
use super::load_watch::LoadWatch;
use super::overrides::MetadataOverride;
use super::vocabulary;

/// An open GGUF, or all parts of one that was split (`…-00001-of-00003.gguf`), with a header that is sound in
/// itself.
pub(super) struct ModelFile {
    path: PathBuf,
    parts: Vec<File>,
    header: GgufHeader,
}

const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
/// How weights come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightsMode {
    /// Pages of the file are mapped; those that are computed with in another form are copied.
    Map,
    /// All of the file is read.
    Read,
    /// Mapped, and computed with as they are.
    MapAsTheyAre,
}

/// Parts of a split model.
const MOST_PARTS: u16 = 1024;

impl ModelFile {
    /// Opens the file, and where it is the first part of several, the others beside it.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let (first, mut header) = open_gguf(path)?;
        let mut parts = vec![first];
        let count = header.metadata.u16(SPLIT_COUNT).unwrap_or(1);
        if count > MOST_PARTS {
            return Err(LoadError::Damaged {
                path: path.to_owned(),
                fault: format!("it is one of {count} parts (`{SPLIT_COUNT}`), too many"),
            });
        }
        for number in 2..=count {
            let part = part_path(path, number, count).ok_or_else(|| LoadError::Unservable {
                path: path.to_owned(),
                reason: "it is one part of a model that was split, and not named as such parts \
                         are; give the first one, …-00001-of-0000N.gguf, under its original name",
            })?;
            let (file, part_header) = open_gguf(&part)?;
            // llama.cpp ends the process where this is of another type.
            if part_header.metadata.u16(SPLIT_NUMBER) != Some(number - 1) {
                return Err(LoadError::Damaged {
                    path: part,
                    fault: format!("it is not part {number} (`{SPLIT_NUMBER}`) of {count}"),
                });
            }
            header
                .join(part_header)
                .map_err(|error| damaged(path, &error))?;
            parts.push(file);
        }
        Ok(Self {
            path: path.to_owned(),
            parts,
            header,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn parts(&self) -> &[File] {
        &self.parts
    }

    pub(super) fn header(&self) -> &GgufHeader {
        &self.header
    }

    pub(super) fn into_header(self) -> GgufHeader {
        self.header
    }

    /// Returns the model's dimensions; refuses a model that llama.cpp would not survive.
    pub(super) fn check(&self) -> Result<Hyperparameters, LoadError> {
        let hyperparameters =
            gguf::check_model(&self.header).map_err(|fault| LoadError::Unsound {
                path: self.path.clone(),
                fault: fault.to_string(),
            })?;
        vocabulary::check(&self.header.metadata).map_err(|reason| LoadError::Unservable {
            path: self.path.clone(),
            reason,
        })?;
        Ok(hyperparameters)
    }

    /// Returns the SHA-256 of the file, or of all its parts one after the other.
    pub(super) fn digest(&self, watch: &LoadWatch) -> Result<String, LoadError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        for part in &self.parts {
            let mut at = 0;
            loop {
                if watch.is_given_up() {
                    return Err(LoadError::Abandoned);
                }
                let read =
                    part.read_at(&mut buffer, at)
                        .map_err(|source| LoadError::Unreadable {
                            path: self.path.clone(),
                            source,
                        })?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                at += read as u64;
                done += read as u64;
                watch.digested(share(done, self.header.file_bytes));
            }
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// Has llama.cpp read the vocabulary and the metadata, without weights. It answers a failure
    /// with a null pointer (`None` here) and gives the reason in its log.
    pub(super) fn load_vocabulary(&self, watch: &LoadWatch) -> Option<LlamaModel> {
        let mut params = default_params();
        params.vocab_only = true;
        params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        self.load(params, watch)
    }

    /// Has llama.cpp map or read the weights, for a vocabulary of `tokens` tokens, which it does
    /// not read again: it would take as long and as much memory as the first time, and only its
    /// length matters to a context. Fails as
    /// [`load_vocabulary`](Self::load_vocabulary) does.
    pub(super) fn load_weights(
        &self,
        mode: WeightsMode,
        tokens: i32,
        watch: &LoadWatch,
    ) -> Option<LlamaModel> {
        let architecture = &self.header.architecture;
        let overrides = [
            MetadataOverride::text("tokenizer.ggml.model", "no_vocab")?,
            MetadataOverride::integer(&format!("{architecture}.vocab_size"), tokens.into())?,
            MetadataOverride::end(),
        ];
        let mut params = default_params();
        params.load_mode = match mode {
            WeightsMode::Map | WeightsMode::MapAsTheyAre => sys::LLAMA_LOAD_MODE_MMAP,
            WeightsMode::Read => sys::LLAMA_LOAD_MODE_NONE,
        };
        params.use_extra_bufts = mode != WeightsMode::MapAsTheyAre;
        // llama.cpp copies them while it loads.
        params.kv_overrides = overrides.as_ptr().cast();
        self.load(params, watch)
    }

    /// Pointers in `params` lead to what lives during the call.
    fn load(&self, mut params: sys::llama_model_params, watch: &LoadWatch) -> Option<LlamaModel> {
        params.progress_callback = Some(if params.vocab_only { goes_on } else { weighs });
        params.progress_callback_user_data = std::ptr::from_ref(watch).cast_mut().cast();
        let raw = match self.parts.as_slice() {
            [file] => {
                let stream = CFileStream::of(file).ok()?;
                // SAFETY: the stream is open until llama.cpp has read or mapped the file; it calls
                // back only meanwhile, and the flag lives longer.
                unsafe { sys::llama_model_load_from_file_ptr(stream.0.as_ptr().cast(), params) }
            }
            parts => {
                // llama.cpp takes several files by name alone, and these name what is open already.
                let names: Vec<CString> = parts
                    .iter()
                    .map(|file| CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())))
                    .collect::<Result<_, _>>()
                    .ok()?;
                let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
                // SAFETY: as many C strings as it is told, alive during the call; the flag as above.
                unsafe {
                    sys::llama_model_load_from_splits(names.as_mut_ptr(), names.len(), params)
                }
            }
        };
        NonNull::new(raw).map(owned_model)
    }
}

fn default_params() -> sys::llama_model_params {
    // SAFETY: gives a plain value.
    unsafe { sys::llama_model_default_params() }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[allow(clippy::cast_precision_loss)] // for people
fn share(done: u64, all: u64) -> f32 {
    done as f32 / all.max(1) as f32
}

/// Asked by llama.cpp now and then whether loading should go on.
unsafe extern "C" fn goes_on(_progress: f32, watch: *mut c_void) -> bool {
    // SAFETY: `ModelFile::load` passes one that lives longer than the call.
    let watch = unsafe { &*watch.cast::<LoadWatch>() };
    !watch.is_given_up()
}

/// The same, told how much of the weights is there.
unsafe extern "C" fn weighs(progress: f32, watch: *mut c_void) -> bool {
    // SAFETY: as above.
    let watch = unsafe { &*watch.cast::<LoadWatch>() };
    watch.weighed(progress);
    !watch.is_given_up()
}

/// The wrapper that frees the model when it is dropped.
fn owned_model(raw: NonNull<sys::llama_model>) -> LlamaModel {
    // SAFETY: `LlamaModel` is `repr(transparent)` over this pointer (the version is pinned; other
    // sizes would not compile), and nobody else owns it.
    unsafe { std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(raw) }
}

/// Opens a file and reads its header.
pub(super) fn open_gguf(path: &Path) -> Result<(File, GgufHeader), LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // A pipe without a writer would never open.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(LoadError::NotGguf(path.to_owned()));
    }
    match GgufHeader::read(&file) {
        Ok(header) => Ok((file, header)),
        Err(HeaderError::NotGguf) => Err(LoadError::NotGguf(path.to_owned())),
        Err(HeaderError::Unreadable(source)) => Err(unreadable(source)),
        Err(error) => Err(damaged(path, &error)),
    }
}

fn damaged(path: &Path, error: &HeaderError) -> LoadError {
    LoadError::Damaged {
        path: path.to_owned(),
        fault: error.to_string(),
    }
}

/// The names of a model's parts: the file itself, and where it is by its name the first of several, the others beside it.
#[must_use]
pub fn part_paths(path: &Path) -> Vec<PathBuf> {
    let count = path.file_stem().and_then(|stem| {
        let (_, count) = stem.to_str()?.rsplit_once("-of-")?;
        count.parse().ok()
    });
    let count: u16 = count.unwrap_or(1);
    let others = (2..=count.min(MOST_PARTS)).filter_map(|number| part_path(path, number, count));
    std::iter::once(path.to_owned()).chain(others).collect()
}

/// As llama.cpp names the parts of a split file.
fn part_path(first: &Path, number: u16, count: u16) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let prefix = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf")))
}

/// C's view of an open file, from its beginning.
pub(super) struct CFileStream(pub(super) NonNull<libc::FILE>);

impl CFileStream {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let descriptor = file.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is open, and handed over.
        let stream = unsafe { libc::fdopen(descriptor, c"rb".as_ptr()) };
        let Some(stream) = NonNull::new(stream) else {
            let error = io::Error::last_os_error();
            // SAFETY: nobody took it over.
            unsafe { libc::close(descriptor) };
            return Err(error);
        };
        // SAFETY: the stream is open. Descriptors of one file share their place in it.
        unsafe { libc::rewind(stream.as_ptr()) };
        Ok(Self(stream))
    }
}

impl Drop for CFileStream {
    fn drop(&mut self) {
        // SAFETY: open, and nobody has it after this.
        unsafe { libc::fclose(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::gguf_editor::{GgufEditor, KIOSK};
    use super::super::{backend, load_model};
    use super::*;

    #[test]
    fn a_file_that_is_swapped_behind_the_check_is_not_what_is_loaded() {
        backend::backend().expect("llama.cpp");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        let other = folder.path().join("other.gguf");
        fs::copy(KIOSK, &path).expect("copied");
        GgufEditor::kiosk()
            .text("tokenizer.ggml.pre", "gpt-2")
            .write(&other);

        let source = ModelFile::open(&path).expect("a model");
        fs::rename(&other, &path).expect("swapped");
        let go_on = LoadWatch::default();
        let digest = source.digest(&go_on).expect("readable");
        let vocab = source.load_vocabulary(&go_on).expect("loads");
        let tokens = vocab.vocab().n_tokens();
        let weights = source
            .load_weights(WeightsMode::Map, tokens, &go_on)
            .expect("loads");

        let original = ModelFile::open(Path::new(KIOSK)).expect("a model");
        assert_eq!(digest, original.digest(&go_on).expect("readable"));
        for model in [vocab, weights] {
            let pre = model.meta_val_str("tokenizer.ggml.pre");
            assert_eq!(pre.expect("a name"), "dbrx");
        }
    }

    #[test]
    fn parts_of_a_split_file_are_found_beside_the_first() {
        let first = Path::new("/models/big-00001-of-00012.gguf");
        assert_eq!(
            part_path(first, 12, 12),
            Some("/models/big-00012-of-00012.gguf".into())
        );
        assert_eq!(part_path(Path::new("/models/big.gguf"), 2, 12), None);
    }

    #[test]
    fn a_split_file_is_loaded_with_all_of_its_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let part = |number| {
            folder
                .path()
                .join(format!("big-0000{number}-of-00002.gguf"))
        };
        let split = |edited: GgufEditor, number| {
            edited
                .u16("split.no", number)
                .u16("split.count", 2)
                .i32("split.tensors.count", 57)
        };
        split(GgufEditor::kiosk(), 0).write(&part(1));
        split(GgufEditor::bare(), 1).write(&part(2));
        let load = |path: &Path| load_model(path, &LoadWatch::default());
        let (model, _) = load(&part(1)).expect("loads");
        let both = [part(1), part(2)].map(|part| fs::read(part).expect("readable"));
        assert_eq!(
            model.info().digest,
            hexadecimal(&Sha256::digest(both.concat()))
        );
        let error = load(&part(2)).expect_err("not the first");
        assert!(error.to_string().contains("-00001-of-"), "{error}");
    }

    #[test]
    fn parts_that_are_missing_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = folder.path().join("big-00001-of-00002.gguf");
        GgufEditor::kiosk().u16("split.count", 2).write(&first);
        let error = ModelFile::open(&first).err().expect("a part is missing");
        assert!(
            error.to_string().contains("big-00002-of-00002.gguf"),
            "{error}"
        );
    }
}
