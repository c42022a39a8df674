//! What is known of a model without running it.

use std::str::FromStr;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::embed::{PoolingMetadata, Purpose};

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
    /// Whether sequences may share the cells of a common prefix.
    pub shares_prefixes: bool,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// Text of the token that begins a sequence; empty if absent.
    pub bos_text: String,
    /// Text of the token that ends a sequence; empty if absent.
    pub eos_text: String,
    /// Recommended sampling.
    pub sampling: SamplingDefaults,
}

/// Tokens that a question and an answer need at least.
const LEAST_CONTEXT: u32 = 16;

impl ModelInfo {
    /// Reads it from the weights and from the vocabulary, which llama.cpp holds apart; says why a
    /// model cannot be served, with what to do.
    pub(super) fn read(
        weights: &LlamaModel,
        vocab: &LlamaModel,
        longest_piece: usize,
        digest: String,
    ) -> Result<Self, &'static str> {
        let vocab = vocab.vocab();
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
        let outputs = PoolingMetadata {
            pooling: metadata(weights, &format!("{architecture}.pooling_type")),
            causal: metadata(weights, &format!("{architecture}.attention.causal")),
        };
        if weights.n_ctx_train() < LEAST_CONTEXT {
            return Err(
                "its metadata say that it was trained with a context of less than 16 tokens: convert it again",
            );
        }
        Ok(Self {
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
}

fn metadata<T: FromStr>(weights: &LlamaModel, key: &str) -> Option<T> {
    weights.meta_val_str(key).ok()?.trim().parse().ok()
}

/// Names of llama.cpp's `llama_ftype` (llama.h).
pub(super) fn quantization_name(file_type: u32) -> &'static str {
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
