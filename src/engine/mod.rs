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

mod adapter;
mod adapter_file;
#[cfg(test)]
mod adapter_tests;
mod attention;
mod backend;
pub mod budget;
mod bus_error;
mod context;
pub mod cpu;
mod denied;
mod embed;
mod estimate;
mod exit;
pub mod fake;
pub(crate) mod gguf;
#[cfg(any(test, fuzzing))]
mod gguf_editor;
mod info;
mod llama;
mod load;
mod load_watch;
mod logs;
mod memory;
mod model_file;
pub mod openmp;
mod overrides;
mod pages;
mod partition;
mod partition_threads;
pub mod quantize;
#[cfg(test)]
pub(crate) mod test_adapters;
mod text;
pub(crate) mod tokenize;
mod tokenizer;
mod trial;
mod vocabulary;
mod weights;

pub use adapter_file::{AdapterBase, AdapterError, AdapterFile, AdapterProblem};
pub use attention::Attention;
pub use bus_error::explain_bus_errors;
pub use denied::sandbox_hint;
pub use embed::{Embedder, EmbedderOptions, EmbedderShape, LlamaEmbedder, Purpose};
pub use estimate::{MemoryEstimate, estimate_embedding, estimate_generation};
pub use exit::end_process;
pub use gguf::{GgufHeader, TensorInfo, TensorType};
pub use info::{ModelInfo, SamplingDefaults};
pub use llama::{EngineOptions, LlamaEngine};
pub use load::{LoadError, load_model, load_tried_model, read_header};
pub use load_watch::LoadWatch;
pub use logs::route_logs;
pub use memory::{
    kv_cache_bytes, return_freed, return_freed_soon, return_large_blocks, status_bytes,
};
pub use model_file::part_paths;
pub use partition_threads::{ROWS_PER_WEIGHT_READ, ThreadLayout};
pub use text::{ControlTokens, TokenizeOptions};
pub use tokenizer::Tokenizer;
pub use trial::{
    COMMAND as TRY_MODEL_COMMAND, FileIdentity, ModelTrial, PassedFiles, TrialOutcome, TrialRecord,
    try_model,
};
pub use weights::Weights;

/// One entry of a model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub i32);

/// One sequence of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// A LoRA adapter of a model, from when it was added until it was removed; no id is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u32);

/// The purpose of a special token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialKind {
    /// Marks the structure of a conversation, such as the end of a turn, and is never text.
    Control,
    /// The model's own markup, e.g. `<tool_call>`.
    UserDefined,
}

/// A token that stands for a fixed text as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// The text by which templates write it.
    pub text: String,
    /// The token's id.
    pub token: Token,
    /// The token's purpose.
    pub kind: SpecialKind,
}

/// Turns text into a model's tokens, for the room that renders prompts.
pub trait Vocabulary: Send + Sync {
    /// Returns the tokens of plain text. Control tokens are never produced; user-defined
    /// ones are, where their whole text occurs.
    fn encode(&self, text: &str) -> Vec<Token>;

    /// Returns the tokens of consecutive plain texts; no token spans two of the texts.
    fn encode_all(&self, texts: &[&str]) -> Vec<Token> {
        texts.iter().flat_map(|text| self.encode(text)).collect()
    }

    /// Returns every control and user-defined token that has a text.
    fn specials(&self) -> &[SpecialToken];

    /// Returns the token to put first, if the model wants one; the caller checks whether the template
    /// has rendered it already.
    fn bos(&self) -> Option<Token>;
}

/// How generated tokens become bytes, and which of them end a generation.
pub trait Pieces: Send + Sync {
    /// Returns the bytes that `token` adds to the text; empty for control tokens.
    /// A character may be spread over several tokens.
    fn piece(&self, token: Token) -> &[u8];

    /// Whether the model ends its generation by `token`.
    fn is_end(&self, token: Token) -> bool;
}

/// The properties of an engine. They stay the same while it lives, but for what an added adapter changes:
/// [`Shape::threads`] and [`Shape::exact_block`] may become larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// KV cells, shared by all sequences. Each partition could hold all of them; the caller must
    /// ensure that all partitions together use no more.
    pub cells: usize,
    /// KV partitions of the model alone, the first ones. Adapters have others behind them: see
    /// [`Engine::add_adapter`]. A row attends to the cells of its own partition alone, and sequences share
    /// cells only within a partition.
    pub partitions: u32,
    /// The threads that compute the partitions.
    pub threads: ThreadLayout,
    /// Sequences that can exist at once in a partition. The first partition has the ids
    /// `0..sequences`, the next one the ids that follow, and so on.
    pub sequences: u32,
    /// Most rows that one decode computes in a partition.
    pub batch_rows: usize,
    /// Batches of at least this many rows are computed by a faster method, so a prompt's chunk that is
    /// a little smaller is better enlarged to it; 0 where there is no such method.
    pub tile_rows: usize,
    /// A batch costs least per row when its number of rows is a multiple of this; 1 where it makes no
    /// difference.
    pub row_group: usize,
    /// The number of used cells of other sequences at which attention to them takes a row as much time
    /// as all the rest of its computation. With more of them in its partition, a row spends most of its
    /// time on the cells of others. `None` where a row skips the cells of other sequences.
    pub break_even_cells: Option<usize>,
    /// Most cells of a sequence that can be copied: copying more would take too much temporary memory.
    pub most_copied: usize,
    /// The number of tokens in the blocks in which a prompt must be computed so that its logits are the
    /// same, bit by bit, each time. The sequence must have a partition to itself and its cells must lie
    /// there in their order from the first cell on; its prompt is computed two rows or more at a time, its answer one row
    /// at a time. Where that is enough this is 1. Where the number of rows matters as well it is
    /// larger, and only whole blocks are worth sharing. `None` where repeatability is not promised.
    pub exact_block: Option<usize>,
    /// Tokens in the vocabulary: the length of a row of logits.
    pub vocabulary: usize,
    /// Whether a sequence may share a prefix of another: not so for recurrent, hybrid and
    /// sliding-window models.
    pub shares_prefixes: bool,
}

impl Shape {
    /// Returns the index of the partition in which a sequence lies.
    #[must_use]
    pub fn partition(&self, sequence: SeqId) -> usize {
        (sequence.0 / self.sequences) as usize
    }

    /// Returns a sequence's id within its partition.
    #[must_use]
    pub fn local(&self, sequence: SeqId) -> SeqId {
        SeqId(sequence.0 % self.sequences)
    }
}

/// One token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: Token,
    /// Its position in the sequence, from 0.
    pub position: u32,
    /// The sequence to whose cells the row attends, and to which its own cell is added.
    pub sequence: SeqId,
    /// Whether the row's logits will be read.
    pub logits: bool,
}

/// Why a batch was not computed. Whatever the reason, none of its rows was computed.
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
    /// Returns the bytes of memory that the copy takes.
    fn bytes(&self) -> usize;
}

/// A transformer with a KV cache, driven batch by batch from one thread.
pub trait Engine {
    /// What [`Engine::copy_out`] returns.
    type KvCopy: KvCopy;
    /// The file of an adapter, checked and open.
    type AdapterFile;

    /// Returns the engine's fixed properties.
    fn shape(&self) -> Shape;

    /// Computes `rows` (at most [`Shape::batch_rows`]) and stores their cells.
    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError>;

    /// Returns the logits of row `row` of the last batch; the row must have had `logits` set.
    fn logits(&self, row: usize) -> &[f32];

    /// Lets sequence `to` share the first `length` cells of `from`. `to` has no cells yet and lies in
    /// the same partition.
    fn share(&mut self, from: SeqId, to: SeqId, length: usize);

    /// Returns the bytes that a copy of the sequence's cells would take; `None` where copying them costs
    /// too much.
    fn copied_bytes(&self, sequence: SeqId) -> Option<usize>;

    /// Copies the first `length` cells of `sequence`, which keeps them; `None` if that
    /// fails.
    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<Self::KvCopy>;

    /// Gives copied cells to sequence `to`, which has none and may lie in another partition that is
    /// computed with the same adapter, or without one as well. Returns whether there was room for them.
    fn copy_in(&mut self, copied: &Self::KvCopy, to: SeqId) -> bool;

    /// Removes the sequence's cells from position `from` on; cells that it shares stay with the others.
    fn truncate(&mut self, sequence: SeqId, from: u32);

    /// Returns a partition's memory to the operating system if the partition is empty.
    fn give_back(&mut self, partition: usize);

    /// Loads an adapter and makes a partition for it, in which every row is computed with it. Returns the
    /// partition's index: the next one, or that of a partition that was removed.
    ///
    /// # Errors
    /// See [`AdapterError`]. Then nothing has changed.
    fn add_adapter(&mut self, file: Self::AdapterFile) -> Result<usize, AdapterError>;

    /// Frees the partition of an adapter, in which no sequence has cells, and the adapter.
    fn remove_adapter(&mut self, partition: usize);
}
