//! Texts to vectors: a context that keeps nothing from one batch to the next.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::backend::backend;
use super::context::index;
use super::{Attention, DecodeError, GgufHeader, LoadError, Token, Weights};

/// What a model was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Text that goes on.
    Generation,
    /// One vector for a text.
    Embedding,
}

/// What a GGUF's metadata say of the vectors of a model's tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolingMetadata {
    /// `<architecture>.pooling_type`, by llama.cpp's `llama_pooling_type`: how they become one.
    pub(super) pooling: Option<u32>,
    /// `<architecture>.attention.causal`: whether a token sees only those before it.
    pub(super) causal: Option<bool>,
}

impl PoolingMetadata {
    /// Converters write a pooling type only for models that were trained to give vectors
    /// (sentence-transformers' `1_Pooling`), also where the architecture is one that generates.
    pub(super) fn purpose(self) -> Result<Purpose, &'static str> {
        match (self.pooling.unwrap_or(0), self.causal) {
            (1..=3, _) => Ok(Purpose::Embedding),
            (4, _) => Err("it is a reranking model, and this server has no use for those"),
            (_, Some(false)) => Err(
                "it reads in both directions, so it cannot generate, and its metadata has no \
                 pooling_type, so it gives no vector for a text; convert it again from a folder \
                 with sentence-transformers' modules.json and 1_Pooling",
            ),
            _ => Ok(Purpose::Generation),
        }
    }
}

impl GgufHeader {
    /// What the model is for; `None` where there is no use for it.
    #[must_use]
    pub fn purpose(&self) -> Option<Purpose> {
        let key = |key: &str| format!("{}.{key}", self.architecture);
        let outputs = PoolingMetadata {
            pooling: self.metadata.u32(&key("pooling_type")),
            causal: self.metadata.flag(&key("attention.causal")),
        };
        outputs.purpose().ok()
    }

    /// Longest sequence that the model was trained on, in tokens.
    #[must_use]
    pub fn trained_context(&self) -> Option<u32> {
        let key = format!("{}.context_length", self.architecture);
        self.metadata.u32(&key)
    }
}

/// The fixed measures of an embedder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedderShape {
    /// Tokens that one batch takes at most.
    pub rows: usize,
    /// Texts that one batch takes at most.
    pub sequences: usize,
}

/// A transformer that makes one vector of each text, driven batch by batch from one thread.
pub trait Embedder {
    /// The fixed measures.
    fn shape(&self) -> EmbedderShape;

    /// The vector of each text, as the model gives it. There are [`EmbedderShape::sequences`]
    /// texts at most, none of them empty, with [`EmbedderShape::rows`] tokens at most together.
    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError>;
}

/// How an embedding context is laid out.
#[derive(Debug, Clone, Copy)]
pub struct EmbedderOptions {
    /// Tokens and texts of one batch.
    pub shape: EmbedderShape,
    /// Threads that compute.
    pub threads: u32,
    /// How attention is computed; `None` is what is faster.
    pub attention: Option<Attention>,
}

/// A llama.cpp context that pools; it borrows its model and belongs to one thread.
#[derive(Debug)]
pub struct LlamaEmbedder<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    shape: EmbedderShape,
}

impl<'model> LlamaEmbedder<'model> {
    /// Allocates compute buffers.
    ///
    /// # Errors
    /// [`LoadError::Context`] when llama.cpp refuses, most often for want of memory.
    pub fn new(weights: &'model Weights, options: EmbedderOptions) -> Result<Self, LoadError> {
        let EmbedderOptions { shape, threads, .. } = options;
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let rows = u32::try_from(shape.rows).unwrap_or(u32::MAX);
        // Texts of a batch do not see each other, and this is the kind that leaves out what is not
        // seen: 512 rows of a 22 M encoder take 60 ms on 2 cores instead of 155.
        let attention = options.attention.unwrap_or(Attention::Flash);
        let params = LlamaContextParams::default()
            .with_embeddings(true)
            .with_n_ctx(NonZeroU32::new(rows))
            // Where tokens see those behind them a batch cannot be computed in parts.
            .with_n_batch(rows)
            .with_n_ubatch(rows)
            .with_n_seq_max(u32::try_from(shape.sequences).unwrap_or(u32::MAX))
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(true)
            .with_flash_attention_policy(attention.policy())
            .with_no_perf(true);
        let context = weights
            .llama()
            .new_context(backend()?, params)
            .map_err(|_| LoadError::Context(super::logs::last_error()))?;
        let mut embedder = Self {
            context,
            batch: LlamaBatch::new(shape.rows, 1),
            shape,
        };
        // For nobody: the first text would wait until the weights are read from the disk.
        embedder
            .embed(&[&[Token(0)]])
            .map_err(|error| LoadError::Context(Some(error.to_string())))?;
        Ok(embedder)
    }
}

impl Embedder for LlamaEmbedder<'_> {
    fn shape(&self) -> EmbedderShape {
        self.shape
    }

    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError> {
        self.batch.clear();
        for (sequence, text) in (0..).zip(texts) {
            for (position, token) in (0..).zip(*text) {
                self.batch
                    .add(
                        LlamaToken::new(token.0),
                        index(position),
                        &[sequence],
                        // Pooling reads all of them.
                        true,
                    )
                    .map_err(|_| DecodeError::Failed(0))?;
            }
        }
        let decoded = self.context.decode(&mut self.batch);
        let vectors = decoded.map_err(DecodeError::from).and_then(|()| {
            let vectors = (0..).zip(texts).map(|(sequence, _)| {
                let vector = self.context.embeddings_seq_ith(sequence);
                vector.map(<[f32]>::to_vec)
            });
            vectors
                .collect::<Result<_, _>>()
                .map_err(|_| DecodeError::Failed(0))
        });
        // Encoders have no cells; other models that embed do. The only error is a position beyond i32.
        let _ = self.context.clear_kv_cache_seq(None, None, None);
        vectors
    }
}

impl From<llama_cpp_2::DecodeError> for DecodeError {
    fn from(error: llama_cpp_2::DecodeError) -> Self {
        match error {
            llama_cpp_2::DecodeError::NoKvCacheSlot => Self::NoCells,
            llama_cpp_2::DecodeError::NTokensZero => Self::Failed(-1),
            llama_cpp_2::DecodeError::Unknown(code) => Self::Failed(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(pooling: Option<u32>, causal: Option<bool>) -> Result<Purpose, &'static str> {
        PoolingMetadata { pooling, causal }.purpose()
    }

    #[test]
    fn a_model_that_says_how_it_pools_embeds_and_others_generate() {
        assert_eq!(purpose(Some(1), Some(false)), Ok(Purpose::Embedding));
        // Embedding models on a generator's architecture pool the last token.
        assert_eq!(purpose(Some(3), None), Ok(Purpose::Embedding));
        assert_eq!(purpose(None, None), Ok(Purpose::Generation));
        assert_eq!(purpose(Some(0), Some(true)), Ok(Purpose::Generation));
    }

    #[test]
    fn models_that_do_neither_are_refused_with_the_reason() {
        let without = purpose(None, Some(false)).expect_err("refused");
        assert!(without.contains("1_Pooling"));
        let reranker = purpose(Some(4), Some(false)).expect_err("refused");
        assert!(reranker.contains("reranking"));
    }
}
