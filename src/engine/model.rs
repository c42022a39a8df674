//! A loaded GGUF file: weights, vocabulary and what its metadata says.

use std::borrow::Cow;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::cpu::{self, UnsupportedCpu};
use super::embed::{Outputs, Purpose};
use super::source::{Metadata, Source};
use super::tokenize::Tokenizer;
use super::{Pieces, Reading, SpecialKind, SpecialToken, Token, Vocabulary, logs, vocabulary};

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

/// Sampling that the model's makers recommend (`general.sampling.*` in the
/// GGUF), used where a request says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SamplingDefaults {
    /// `general.sampling.temp`
    pub temperature: Option<f32>,
    /// `general.sampling.top_p`
    pub top_p: Option<f32>,
    /// `general.sampling.top_k`
    pub top_k: Option<u32>,
    /// `general.sampling.min_p`
    pub min_p: Option<f32>,
}

/// What is known of a model without running it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Whether it generates or embeds.
    pub purpose: Purpose,
    /// Numbers in a vector that it makes of a text.
    pub dimensions: usize,
    /// `general.architecture`, e.g. `qwen3`.
    pub architecture: String,
    /// e.g. `Q8_0`; `unknown` when the file does not say.
    pub quantization: String,
    /// Parameters.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// Longest sequence that the model was trained on, in tokens.
    pub trained_context: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Bytes of the longest text that one token stands for: no text has fewer tokens than
    /// its bytes divided by this.
    pub longest_piece: usize,
    /// Whether sequences may share the cells of a common beginning.
    pub shares_prefixes: bool,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// Text of the token that begins a sequence; empty when there is none.
    pub bos_text: String,
    /// Text of the token that ends a sequence; empty when there is none.
    pub eos_text: String,
    /// Recommended sampling.
    pub sampling: SamplingDefaults,
}

/// A loaded model. Cheap to share behind an `Arc`; immutable.
#[derive(Debug)]
pub struct Model {
    weights: LlamaModel,
    tokenizer: Tokenizer,
    info: ModelInfo,
    specials: Vec<SpecialToken>,
    pieces: PieceTable,
    ends: Vec<Token>,
}

impl Model {
    /// Maps the file into memory, or reads it, and reads its vocabulary; gives up when `abort`
    /// becomes true.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(path: &Path, abort: &Arc<AtomicBool>) -> Result<Self, LoadError> {
        // Sets llama.cpp's CPU kernels up, which reading a file needs as well.
        backend()?;
        logs::clear_last_error();
        let unservable = |reason| LoadError::Unservable {
            path: path.to_owned(),
            reason,
        };
        let source = Source::open(path)?;
        vocabulary::check(source.metadata()).map_err(unservable)?;
        let digest = source.digest(abort)?;
        let maps = !is_rearranged(source.metadata());
        let weights = source.load(maps, abort).ok_or_else(|| {
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
        })?;
        let pieces = PieceTable::read(&weights);
        let specials = read_specials(&weights);
        let vocab = weights.vocab();
        let ends = vocab
            .tokens()
            .filter(|token| vocab.is_eog(*token))
            .map(|token| Token(token.0))
            .collect();
        let longest_piece = pieces.longest();
        let info = read_info(&weights, digest, longest_piece).map_err(unservable)?;
        Ok(Self {
            tokenizer: Tokenizer::of(&weights),
            weights,
            info,
            specials,
            pieces,
            ends,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub(super) fn weights(&self) -> &LlamaModel {
        &self.weights
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// Text of which nothing stands for a control token.
const PLAIN: Reading = Reading {
    bounds: false,
    markup: false,
};

impl Vocabulary for Model {
    fn encode(&self, text: &str) -> Vec<Token> {
        self.tokenizer.tokens(&self.weights, text, PLAIN)
    }

    fn encode_all(&self, texts: &[&str]) -> Vec<Token> {
        self.tokenizer.tokens_of_all(&self.weights, texts)
    }

    fn specials(&self) -> &[SpecialToken] {
        &self.specials
    }

    fn bos(&self) -> Option<Token> {
        let vocab = self.weights.vocab();
        let bos = vocab.bos();
        (vocab.should_add_bos() && bos.0 >= 0).then_some(Token(bos.0))
    }
}

impl Pieces for Model {
    fn piece(&self, token: Token) -> &[u8] {
        self.pieces.get(token)
    }

    fn is_end(&self, token: Token) -> bool {
        self.ends.contains(&token)
    }
}

/// llama.cpp's process-wide state. It is never torn down: models may outlive any scope we could tie it to.
pub(super) fn backend() -> Result<&'static LlamaBackend, UnsupportedCpu> {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    cpu::prepare()?;
    Ok(BACKEND.get_or_init(|| match LlamaBackend::init() {
        Ok(backend) => backend,
        // `init` refuses a second call only, and this is the only one.
        Err(error) => unreachable!("{error}"),
    }))
}

/// Every token's bytes in one allocation: 150,000 small vectors would cost ten times the memory.
#[derive(Debug)]
struct PieceTable {
    bytes: Vec<u8>,
    /// Piece `i` is `bytes[bounds[i]..bounds[i + 1]]`.
    bounds: Vec<u32>,
}

impl PieceTable {
    fn read(weights: &LlamaModel) -> Self {
        let vocab = weights.vocab();
        let mut bytes = Vec::new();
        let mut bounds = vec![0];
        for token in vocab.tokens() {
            bytes.extend(vocab.token_to_piece(token, false, None));
            bounds.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes, bounds }
    }

    fn longest(&self) -> usize {
        let lengths = self.bounds.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.max().unwrap_or(1).max(1) as usize
    }

    fn get(&self, token: Token) -> &[u8] {
        let bounds = usize::try_from(token.0)
            .ok()
            .and_then(|i| Some((*self.bounds.get(i)?, *self.bounds.get(i + 1)?)));
        match bounds {
            Some((start, end)) => &self.bytes[start as usize..end as usize],
            None => &[],
        }
    }
}

fn read_specials(weights: &LlamaModel) -> Vec<SpecialToken> {
    let vocab = weights.vocab();
    vocab
        .tokens()
        .filter_map(|token| {
            let kind = if vocab.is_control(token) {
                SpecialKind::Control
            } else if vocab.attr(token).contains(LlamaTokenAttr::UserDefined) {
                SpecialKind::UserDefined
            } else {
                return None;
            };
            let text = String::from_utf8(vocab.token_to_piece(token, true, None)).ok()?;
            (!text.is_empty()).then_some(SpecialToken {
                text,
                token: Token(token.0),
                kind,
            })
        })
        .collect()
}

/// Tokens that a question and an answer need at least.
const LEAST_CONTEXT: u32 = 16;

fn read_info(
    weights: &LlamaModel,
    digest: String,
    longest_piece: usize,
) -> Result<ModelInfo, &'static str> {
    let vocab = weights.vocab();
    let text_of = |token: LlamaToken| {
        if token.0 < 0 {
            return String::new();
        }
        String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned()
    };
    let architecture: String =
        metadata(weights, "general.architecture").unwrap_or_else(|| "unknown".to_owned());
    let sliding_window: Option<u32> =
        metadata(weights, &format!("{architecture}.attention.sliding_window"));
    let outputs = Outputs {
        pooling: metadata(weights, &format!("{architecture}.pooling_type")),
        causal: metadata(weights, &format!("{architecture}.attention.causal")),
    };
    if weights.n_ctx_train() < LEAST_CONTEXT {
        return Err(
            "its metadata say that it was trained with a context of less than 16 tokens: convert it again",
        );
    }
    Ok(ModelInfo {
        purpose: outputs.purpose()?,
        dimensions: usize::try_from(weights.n_embd_out()).unwrap_or(0),
        // What such models keep of the past is not one cell a token.
        shares_prefixes: !weights.is_recurrent()
            && !weights.is_hybrid()
            && sliding_window.is_none_or(|cells| cells == 0),
        architecture,
        quantization: metadata(weights, "general.file_type")
            .map_or("unknown", quantization_name)
            .to_owned(),
        parameters: weights.n_params(),
        size_bytes: weights.size(),
        trained_context: weights.n_ctx_train(),
        vocabulary: usize::try_from(weights.n_vocab()).unwrap_or(0),
        longest_piece,
        digest,
        chat_template: weights
            .chat_template(None)
            .ok()
            .and_then(|template| template.to_string().ok()),
        bos_text: text_of(vocab.bos()),
        eos_text: text_of(vocab.eos()),
        sampling: SamplingDefaults {
            temperature: metadata(weights, "general.sampling.temp"),
            top_p: metadata(weights, "general.sampling.top_p"),
            top_k: metadata(weights, "general.sampling.top_k"),
            min_p: metadata(weights, "general.sampling.min_p"),
        },
    })
}

/// Whether llama.cpp makes a rearranged copy of most weights, with which it computes faster. Such a
/// file is read and not mapped, or the originals, which nobody looks at again, would count as
/// memory beside it.
fn is_rearranged(metadata: &Metadata) -> bool {
    let file_type = metadata.u32(c"general.file_type");
    file_type.is_some_and(|file_type| rearranges(quantization_name(file_type)))
}

/// As `ggml_repack_get_optimal_repack_type` in llama.cpp's `repack.cpp` decides by processor.
#[cfg(target_arch = "x86_64")]
fn rearranges(quantization: &str) -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && matches!(
            quantization,
            "Q4_0" | "Q4_K_S" | "Q4_K_M" | "IQ4_NL" | "MXFP4"
        )
}

/// As above.
#[cfg(target_arch = "aarch64")]
fn rearranges(quantization: &str) -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
        && matches!(
            quantization,
            "Q4_0"
                | "Q4_K_S"
                | "Q4_K_M"
                | "Q5_K_S"
                | "Q5_K_M"
                | "Q6_K"
                | "Q8_0"
                | "IQ4_NL"
                | "MXFP4"
        )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn rearranges(_: &str) -> bool {
    false
}

fn metadata<T: FromStr>(weights: &LlamaModel, key: &str) -> Option<T> {
    weights.meta_val_str(key).ok()?.trim().parse().ok()
}

/// Names of llama.cpp's `llama_ftype` (llama.h).
fn quantization_name(file_type: u32) -> &'static str {
    match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_the_remedy() {
        let error = Model::load(Path::new("/nowhere/model.gguf"), &Arc::default())
            .expect_err("no such file");
        let text = error.to_string();
        assert!(text.contains("/nowhere/model.gguf") && text.contains("check the path"));
    }

    #[test]
    fn a_text_file_is_not_taken_for_a_model() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "hello").expect("written");
        let error = Model::load(file.path(), &Arc::default()).expect_err("not a GGUF");
        assert!(matches!(error, LoadError::NotGguf(_)));
    }
}
