//! llama.cpp's own quantizer: a model with smaller weights out of one with larger ones.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as sys;

use crate::sync::Mutex;

use super::{backend, cpu};

/// What the weights are to become. Only types that need no importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    name: &'static str,
    id: sys::llama_ftype,
}

impl FileType {
    /// From the smallest to the largest, as llama.cpp names them.
    pub const ALL: [Self; 18] = [
        Self::new("Q2_K", sys::LLAMA_FTYPE_MOSTLY_Q2_K),
        Self::new("Q3_K_S", sys::LLAMA_FTYPE_MOSTLY_Q3_K_S),
        Self::new("Q3_K_M", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M),
        Self::new("Q3_K_L", sys::LLAMA_FTYPE_MOSTLY_Q3_K_L),
        Self::new("IQ4_XS", sys::LLAMA_FTYPE_MOSTLY_IQ4_XS),
        Self::new("IQ4_NL", sys::LLAMA_FTYPE_MOSTLY_IQ4_NL),
        Self::new("Q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
        Self::new("Q4_1", sys::LLAMA_FTYPE_MOSTLY_Q4_1),
        Self::new("Q4_K_S", sys::LLAMA_FTYPE_MOSTLY_Q4_K_S),
        Self::new("Q4_K_M", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M),
        Self::new("Q5_0", sys::LLAMA_FTYPE_MOSTLY_Q5_0),
        Self::new("Q5_1", sys::LLAMA_FTYPE_MOSTLY_Q5_1),
        Self::new("Q5_K_S", sys::LLAMA_FTYPE_MOSTLY_Q5_K_S),
        Self::new("Q5_K_M", sys::LLAMA_FTYPE_MOSTLY_Q5_K_M),
        Self::new("Q6_K", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
        Self::new("Q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
        Self::new("BF16", sys::LLAMA_FTYPE_MOSTLY_BF16),
        Self::new("F16", sys::LLAMA_FTYPE_MOSTLY_F16),
    ];

    const fn new(name: &'static str, id: sys::llama_ftype) -> Self {
        Self { name, id }
    }

    /// By its name, in capitals or not.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|file_type| file_type.name.eq_ignore_ascii_case(name))
    }

    /// As llama.cpp names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// What to make of which file.
#[derive(Debug, Clone)]
pub struct Quantization {
    /// A GGUF with F32, F16 or BF16 weights.
    pub input: PathBuf,
    /// The file to make.
    pub output: PathBuf,
    /// What its weights are to be.
    pub file_type: FileType,
    /// Threads that compute; absent is one a physical core.
    pub threads: Option<u32>,
    /// Whether the output may replace a file.
    pub replace: bool,
    /// Whether weights may be quantized that already are: each time costs quality.
    pub requantize: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeProgress {
    /// Tensors that are done or under way.
    pub tensors: u64,
    /// All of them.
    pub total: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Bytes of the input.
    pub input_bytes: u64,
    /// Bytes of the output.
    pub output_bytes: u64,
    /// What llama.cpp had to do otherwise than it was told, in its own words.
    pub warnings: Vec<String>,
}

/// Why there is no output. Every message names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The input cannot be opened.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The input is something else.
    #[error("{} is not a GGUF file (it does not start with the letters GGUF); pass a model in llama.cpp's GGUF format", .0.display())]
    NotGguf(PathBuf),
    /// It is its own output.
    #[error("{} is the input as well; give the output another name", .0.display())]
    SameFile(PathBuf),
    /// Something bears the output's name.
    #[error("{} exists already; give another name, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// Its weights are not the original ones.
    #[error("{} is quantized already ({found}); start from the model's F16 or F32 file, or accept the loss with --allow-requantize", path.display())]
    AlreadyQuantized {
        /// The file.
        path: PathBuf,
        /// The type that was met first.
        found: String,
    },
    /// The output cannot be made.
    #[error("cannot write {}: {source}; check that its folder exists, its permissions and the free space", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output is shorter than it should be.
    #[error("{} could not be written whole; free some space on its disk, or write to another one", .0.display())]
    Truncated(PathBuf),
    /// llama.cpp gave up.
    #[error("cannot quantize {}: {reason}; compare the file's size and checksum with the original, and check that this version of llama.cpp knows its architecture", path.display())]
    Refused {
        /// The input.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },
    /// This build cannot run here.
    #[error(transparent)]
    Cpu(#[from] cpu::UnsupportedCpu),
}

/// Quantizes. The output appears under its name when it is whole and on the disk; until then it
/// has another, which ends in `.partial`. `progress` hears of every tensor.
///
/// # Errors
/// See [`QuantizeError`]; there is then no output, and what bore its name before still does.
pub fn quantize(
    job: &Quantization,
    progress: &(dyn Fn(QuantizeProgress) + Sync),
) -> Result<QuantizeReport, QuantizeError> {
    cpu::prepare()?;
    let input_bytes = check_input(&job.input)?;
    check_output(job)?;
    let failed = |source| QuantizeError::Output {
        path: job.output.clone(),
        source,
    };
    let partial = PartialFile::beside(&job.output).map_err(failed)?;
    let log = run(job, &partial.path, progress)?;
    let file = File::open(&partial.path).map_err(failed)?;
    let output_bytes = file.metadata().map_err(failed)?.len();
    if expected_bytes(&partial.path).is_none_or(|expected| output_bytes < expected) {
        return Err(QuantizeError::Truncated(job.output.clone()));
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&partial.path, &job.output).map_err(failed)?;
    Ok(QuantizeReport {
        input_bytes,
        output_bytes,
        warnings: log.warnings,
    })
}

/// Its size, if it is a GGUF.
fn check_input(path: &Path) -> Result<u64, QuantizeError> {
    let unreadable = |source| QuantizeError::Input {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == *b"GGUF" => Ok(metadata.len()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(unreadable(error)),
        _ => Err(QuantizeError::NotGguf(path.to_owned())),
    }
}

fn check_output(job: &Quantization) -> Result<(), QuantizeError> {
    let output = &job.output;
    // A name that leads nowhere is free.
    let Ok(existing) = fs::canonicalize(output) else {
        return Ok(());
    };
    if fs::canonicalize(&job.input).is_ok_and(|input| input == existing) {
        return Err(QuantizeError::SameFile(output.clone()));
    }
    if !job.replace {
        return Err(QuantizeError::Exists(output.clone()));
    }
    if existing.is_dir() {
        return Err(QuantizeError::Output {
            path: output.clone(),
            source: io::ErrorKind::IsADirectory.into(),
        });
    }
    Ok(())
}

/// The output while it is written; removed unless it has got another name.
struct PartialFile {
    path: PathBuf,
}

impl PartialFile {
    /// Makes the file, under a name that nothing else bears.
    fn beside(output: &Path) -> io::Result<Self> {
        let mut name = output.as_os_str().to_owned();
        name.push(format!(".{}.partial", uuid::Uuid::new_v4().simple()));
        let path = PathBuf::from(name);
        File::create_new(&path)?;
        Ok(Self { path })
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // It is gone already if all went well, and never was if it could not be made.
        let _ = fs::remove_file(&self.path);
    }
}

/// The log callback is one for the whole process, so one quantization runs at a time.
static LISTENING: Mutex<()> = Mutex::new(());

/// Lets llama.cpp do it, and tells what it had to say.
fn run(
    job: &Quantization,
    output: &Path,
    progress: &(dyn Fn(QuantizeProgress) + Sync),
) -> Result<ListenerLog, QuantizeError> {
    let input = c_path(&job.input).map_err(|source| QuantizeError::Input {
        path: job.input.clone(),
        source,
    })?;
    let output = c_path(output).map_err(|source| QuantizeError::Output {
        path: job.output.clone(),
        source,
    })?;
    backend::backend()?;
    // SAFETY: it only fills in a structure.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    let threads = job.threads.unwrap_or_else(cpu::usable_cores);
    params.nthread = i32::try_from(threads).unwrap_or(i32::MAX);
    params.ftype = job.file_type.id;
    params.allow_requantize = job.requantize;

    let _alone = LISTENING.lock();
    let listener = Listener {
        progress,
        log: Mutex::default(),
    };
    // SAFETY: the callback has the signature that llama.h declares and takes the pointer for the
    // listener that it is, which lives until after the callback has been replaced below.
    unsafe { sys::llama_log_set(Some(listen), (&raw const listener).cast_mut().cast()) };
    // SAFETY: both paths end with NUL, and the parameters hold no pointers but null.
    let code =
        unsafe { sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const params) };
    super::route_logs();

    let log = listener.log.into_inner();
    if code == 0 {
        return Ok(log);
    }
    Err(explain(job, log.error))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

/// From llama.cpp's words to ours.
fn explain(job: &Quantization, reason: Option<String>) -> QuantizeError {
    let reason = reason.unwrap_or_else(|| "llama.cpp gave no reason".to_owned());
    if let Some((_, rest)) = reason.split_once("requantizing from type ") {
        let found = rest.split(' ').next().unwrap_or(rest).to_uppercase();
        return QuantizeError::AlreadyQuantized {
            path: job.input.clone(),
            found,
        };
    }
    // What a C++ stream says of every failure to write.
    if reason.contains("iostream error") {
        return QuantizeError::Truncated(job.output.clone());
    }
    QuantizeError::Refused {
        path: job.input.clone(),
        reason,
    }
}

/// How long a GGUF must be for the tensors that it says it has; absent if it says nothing.
fn expected_bytes(path: &Path) -> Option<u64> {
    let path = c_path(path).ok()?;
    let params = sys::gguf_init_params {
        no_alloc: true,
        ctx: std::ptr::null_mut(),
    };
    // SAFETY: the path ends with NUL, and no tensors are asked for.
    let gguf = unsafe { sys::gguf_init_from_file(path.as_ptr(), params) };
    if gguf.is_null() {
        return None;
    }
    // SAFETY: the pointer is a context, freed after its last use; tensors are asked for by the
    // numbers that it says there are.
    let end = unsafe {
        let tensors = 0..sys::gguf_get_n_tensors(gguf);
        let end_of = |tensor| {
            sys::gguf_get_tensor_offset(gguf, tensor) + sys::gguf_get_tensor_size(gguf, tensor)
        };
        let end = sys::gguf_get_data_offset(gguf) + tensors.map(end_of).max().unwrap_or(0);
        sys::gguf_free(gguf);
        end
    };
    u64::try_from(end).ok()
}

/// What hears llama.cpp's log while it quantizes.
struct Listener<'a> {
    progress: &'a (dyn Fn(QuantizeProgress) + Sync),
    log: Mutex<ListenerLog>,
}

/// What it said that matters.
#[derive(Debug, Default)]
struct ListenerLog {
    /// The first one: it names the cause.
    error: Option<String>,
    warnings: Vec<String>,
    /// A warning comes in several calls.
    unfinished: String,
}

impl Listener<'_> {
    fn hear(&self, level: sys::ggml_log_level, text: &str) {
        if let Some(progress) = parse_progress(text) {
            (self.progress)(progress);
        }
        let mut log = self.log.lock();
        match level {
            sys::GGML_LOG_LEVEL_ERROR if log.error.is_none() && !text.trim().is_empty() => {
                log.error = Some(without_function(text.trim()).to_owned());
            }
            sys::GGML_LOG_LEVEL_WARN => log.warn(text),
            _ => {}
        }
    }
}

impl ListenerLog {
    fn warn(&mut self, text: &str) {
        self.unfinished.push_str(text);
        if self.unfinished.ends_with('\n') {
            let line = std::mem::take(&mut self.unfinished);
            let words: Vec<_> = without_function(line.trim()).split_whitespace().collect();
            if !words.is_empty() {
                self.warnings.push(words.join(" "));
            }
        }
    }
}

/// `llama_model_quantize: failed to quantize: x` → `x`.
fn without_function(line: &str) -> &str {
    let line = match line.split_once(": ") {
        Some((function, rest)) if !function.contains(' ') => rest,
        _ => line,
    };
    line.strip_prefix("failed to quantize: ").unwrap_or(line)
}

/// `[   3/ 290] blk.0.attn_k.weight - …`
fn parse_progress(text: &str) -> Option<QuantizeProgress> {
    let (numbers, _) = text.strip_prefix('[')?.split_once(']')?;
    let (tensors, total) = numbers.split_once('/')?;
    Some(QuantizeProgress {
        tensors: tensors.trim().parse().ok()?,
        total: total.trim().parse().ok()?,
    })
}

unsafe extern "C" fn listen(
    level: sys::ggml_log_level,
    text: *const c_char,
    listener: *mut c_void,
) {
    if text.is_null() || listener.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives during the call, and the
    // listener that was given to it, which is only ever shared.
    let (text, listener) = unsafe { (CStr::from_ptr(text), &*listener.cast::<Listener>()) };
    listener.hear(level, &text.to_string_lossy());
}

#[cfg(test)]
#[path = "quantize_tests.rs"]
mod tests;
