//! The sole user of llama.cpp and of `unsafe`.
//!
//! [`load_model`] makes two things of a file: the [`Weights`], which stay on the
//! thread that loaded them and end with it, and a [`Tokenizer`], which holds the
//! vocabulary and the metadata and may be shared. [`Engine`] is what the
//! scheduler drives: rows in, logits out, sequences copied and removed.
//! [`LlamaEngine`] is the real one;
//! [`fake::FakeEngine`] beside it is deterministic and needs no file.
//! [`Embedder`] is what makes vectors of texts, and [`LlamaEmbedder`] the real one.
#![allow(unsafe_code)]

mod attention;
mod backend;
pub mod budget;
mod context;
pub mod cpu;
mod embed;
pub mod fake;
#[cfg(any(test, fuzzing))]
mod gguf_editor;
mod info;
mod llama;
mod load;
mod logs;
mod memory;
mod metadata;
mod model_file;
pub mod openmp;
mod overrides;
mod pages;
mod partition;
mod partition_threads;
pub mod quantize;
mod text;
pub(crate) mod tokenize;
mod tokenizer;
mod vocabulary;
mod weights;

pub use attention::Attention;
pub use embed::{Embedder, EmbedderOptions, EmbedderShape, LlamaEmbedder, Purpose};
pub use info::{ModelInfo, SamplingDefaults};
pub use llama::{EngineOptions, LlamaEngine};
pub use load::{LoadError, load_model};
pub use logs::route_logs;
pub use memory::{kv_cache_bytes, return_freed, return_freed_soon, return_large_blocks};
pub use partition_threads::{ROWS_PER_WEIGHT_READ, ThreadLayout};
pub use text::{ControlTokens, TokenizeOptions};
pub use tokenizer::Tokenizer;
pub use weights::Weights;

/// One entry of a model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub i32);

/// One sequence of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// What a special token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialKind {
    /// Never text: borders of turns and the like.
    Control,
    /// The model's own markup, e.g. `<tool_call>`.
    UserDefined,
}

/// A token that stands for a fixed text as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// How templates write it.
    pub text: String,
    /// Its id.
    pub token: Token,
    /// What it is for.
    pub kind: SpecialKind,
}

/// What the prompt room needs of a model's vocabulary.
pub trait Vocabulary: Send + Sync {
    /// Tokens of plain text. Control tokens are never produced; user-defined
    /// ones may be, where their text stands in full.
    fn encode(&self, text: &str) -> Vec<Token>;

    /// Tokens of plain texts that follow each other, none of which spans two of them.
    fn encode_all(&self, texts: &[&str]) -> Vec<Token> {
        texts.iter().flat_map(|text| self.encode(text)).collect()
    }

    /// Every control and user-defined token that has a text.
    fn specials(&self) -> &[SpecialToken];

    /// Token to put first, when the model wants one and the template has not
    /// rendered it already.
    fn bos(&self) -> Option<Token>;
}

/// How generated tokens become bytes, and which of them end a generation.
pub trait Pieces: Send + Sync {
    /// The bytes that `token` adds to the text; empty for control tokens.
    /// A character may be spread over several tokens.
    fn piece(&self, token: Token) -> &[u8];

    /// Whether the model means "I am done" by `token`.
    fn is_end(&self, token: Token) -> bool;
}

/// The fixed measures of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// KV cells, shared by all sequences. Each partition could hold all of them; the caller has to see
    /// that the partitions together use no more.
    pub cells: usize,
    /// KV partitions. A row attends to the cells of its own partition alone, and sequences share cells
    /// only within a partition.
    pub partitions: u32,
    /// The threads that compute the partitions.
    pub threads: ThreadLayout,
    /// Sequences that can exist at once in a partition. The first partition has the ids
    /// `0..sequences`, the next one the ids that follow, and so on.
    pub sequences: u32,
    /// Rows that one decode computes at most in a partition.
    pub batch_rows: usize,
    /// Rows from which on a batch is computed by a faster method. A prompt's chunk that comes near is
    /// better made as large; 0 where there is no such method.
    pub tile_rows: usize,
    /// Batches cost least by the row where their rows are a multiple of this; 1 where it makes no
    /// difference.
    pub row_group: usize,
    /// Used cells of other sequences whose attention costs a row as much time as all the rest of its
    /// computation. With more of them in its partition, a row spends most of its time on the cells of
    /// others. `None` where a row skips the cells of other sequences.
    pub break_even_cells: Option<usize>,
    /// Cells of a sequence that can be copied at most: more would take too much memory on the way.
    pub most_copied: usize,
    /// Tokens of the blocks in which a prompt has to be computed to come out the same, bit by bit, each
    /// time. The sequence must have a partition to itself and its cells must lie there in their order
    /// from the first cell on; its prompt is computed two rows or more at a time, its answer one row
    /// at a time. Where that is enough this is 1. Where the number of rows matters as well it is
    /// larger, and only whole blocks are worth sharing. `None` where nothing is promised.
    pub exact_block: Option<usize>,
    /// Tokens in the vocabulary: the length of a row of logits.
    pub vocabulary: usize,
    /// Whether a sequence may share a prefix of another: not so for recurrent, hybrid and
    /// sliding-window models.
    pub shares_prefixes: bool,
}

impl Shape {
    /// The partition of a sequence.
    #[must_use]
    pub fn partition(&self, sequence: SeqId) -> usize {
        (sequence.0 / self.sequences) as usize
    }

    /// Its number within the partition.
    #[must_use]
    pub fn local(&self, sequence: SeqId) -> SeqId {
        SeqId(sequence.0 % self.sequences)
    }
}

/// One token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What stands there.
    pub token: Token,
    /// Its position in the sequence, from 0.
    pub position: u32,
    /// The sequence whose cells it attends to and joins.
    pub sequence: SeqId,
    /// Whether logits are wanted for it.
    pub logits: bool,
}

/// Why a batch was not computed. In each case no row of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The KV cache has no cell left for some row.
    #[error("the KV cache is full")]
    NoCells,
    /// llama.cpp failed with this code.
    #[error("llama.cpp could not compute the batch (code {0})")]
    Failed(i32),
}

/// The cells of a sequence, copied out of the KV cache.
pub trait KvCopy {
    /// Memory that it takes.
    fn bytes(&self) -> usize;
}

/// A transformer with a KV cache, driven batch by batch from one thread.
pub trait Engine {
    /// See [`Engine::copy_out`].
    type KvCopy: KvCopy;

    /// The fixed measures.
    fn shape(&self) -> Shape;

    /// Computes `rows` (at most [`Shape::batch_rows`]) and stores their cells.
    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError>;

    /// Logits of row `row` of the last batch, which must have asked for them.
    fn logits(&self, row: usize) -> &[f32];

    /// Lets sequence `to`, which has no cells, share the first `length` cells of `from`, in the same
    /// partition.
    fn share(&mut self, from: SeqId, to: SeqId, length: usize);

    /// Memory that a copy of the sequence's cells would take; none where copying them costs too much.
    fn copied_bytes(&self, sequence: SeqId) -> Option<usize>;

    /// The first `length` cells of `sequence`, which stay as they are; none where it could not be
    /// done.
    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<Self::KvCopy>;

    /// Gives sequence `to`, which has no cells and may lie in another partition, those that were copied
    /// out; whether there was room.
    fn copy_in(&mut self, copied: &Self::KvCopy, to: SeqId) -> bool;

    /// Frees the sequence's cells from position `from` on, those that it shares for itself only.
    fn truncate(&mut self, sequence: SeqId, from: u32);

    /// Gives back the memory of a partition, if nothing is in it any more.
    fn give_back(&mut self, partition: usize);
}
