//! How much memory a model will take, from its header alone.
//!
//! What is said is what it takes when everything is used: all cells, full batches, logits of every sequence. It
//! is meant to be a little more than what is measured (`tests/estimate.rs`), never less.

use super::attention::{Attention, ModelDimensions, attention};
use super::gguf::Hyperparameters;
use super::llama::EngineOptions;
use super::partition::Partition;
use super::weights::{is_rearranged, rearranges_matrix, rearranges_tensor};
use super::{EmbedderOptions, GgufHeader};

/// Bytes that a model will take. Addresses that llama.cpp reserves and nobody uses do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights in memory of the process: those that are read or rearranged.
    pub weights: u64,
    /// Weights in pages of the file, which the system can drop and read again.
    pub mapped: u64,
    /// The vocabulary, as llama.cpp and the tokenizer hold it.
    pub vocabulary: u64,
    /// The cache of one partition, when all of its cells are used.
    pub kv_cache: u64,
    /// What computing takes in one partition.
    pub compute: u64,
    /// Partitions that the engine makes with its options.
    pub partitions: u32,
}

impl MemoryEstimate {
    /// Bytes of all that belongs to the process itself and cannot be dropped, with so many partitions, all of
    /// whose cells are used.
    #[must_use]
    pub fn anonymous(&self, partitions: u32) -> u64 {
        let partition = self.kv_cache.saturating_add(self.compute);
        partition
            .saturating_mul(partitions.into())
            .saturating_add(self.weights)
            .saturating_add(self.vocabulary)
    }

    /// Bytes of everything, with so many partitions.
    #[must_use]
    pub fn total(&self, partitions: u32) -> u64 {
        self.anonymous(partitions).saturating_add(self.mapped)
    }
}

/// Returns what a model takes that generates with these options; `None` where the header is no model's.
#[must_use]
pub fn estimate_generation(header: &GgufHeader, options: &EngineOptions) -> Option<MemoryEstimate> {
    let model = Hyperparameters::read(header).ok()?;
    let dimensions = ModelDimensions::of_header(header, &model);
    let attention = attention(*options, dimensions);
    let cells = options.cells.next_multiple_of(256);
    let vocabulary = tokens(header);
    let kv_cache = model
        .cell_bytes()
        .saturating_mul(cells.into())
        .saturating_add(state_bytes(&model, options.sequences + 1));
    let planned = model.has_plain_cells().then(|| {
        model.cell_bytes() * u64::from(cells) + dimensions.buffer_bytes(*options, vocabulary)
    });
    // With plain attention more rows are compared when the engine starts, and the room for them stays.
    let compared = match attention {
        Attention::Plain => Partition::compared_rows(),
        Attention::Flash => 0,
    };
    let batch = Batch {
        rows: options.batch_rows.min(attention.rows_at_once()),
        cells,
        outputs: compared.max(options.sequences + 1),
        computes_logits: true,
        attention,
    };
    let compute = compute_bytes(header, &model, batch) + u64::from(cells) * CELL_RECORD;
    Some(MemoryEstimate {
        kv_cache,
        compute,
        partitions: attention.partitions(planned, options.memory),
        ..weights_and_vocabulary(header)
    })
}

/// Returns what a model takes that embeds with these options; `None` where the header is no model's.
#[must_use]
pub fn estimate_embedding(
    header: &GgufHeader,
    options: &EmbedderOptions,
) -> Option<MemoryEstimate> {
    let model = Hyperparameters::read(header).ok()?;
    let rows = u32::try_from(options.shape.rows).unwrap_or(u32::MAX);
    let sequences = u32::try_from(options.shape.sequences).unwrap_or(u32::MAX);
    let is_causal = header
        .metadata
        .flag(&format!("{}.attention.causal", header.architecture))
        != Some(false);
    let cells = rows.next_multiple_of(256);
    // An encoder keeps nothing from one batch to the next.
    let kv_cache = if is_causal {
        model
            .cell_bytes()
            .saturating_mul(cells.into())
            .saturating_add(state_bytes(&model, sequences))
    } else {
        0
    };
    let batch = Batch {
        rows,
        cells,
        // Pooling reads the vectors of all rows.
        outputs: rows,
        computes_logits: is_causal,
        attention: options.attention.unwrap_or(Attention::Flash),
    };
    Some(MemoryEstimate {
        kv_cache,
        compute: compute_bytes(header, &model, batch),
        partitions: 1,
        ..weights_and_vocabulary(header)
    })
}

/// What llama.cpp notes of each cell: its position, its sequences and more.
const CELL_RECORD: u64 = 64;

/// What is computed together at most.
#[derive(Clone, Copy)]
struct Batch {
    rows: u32,
    cells: u32,
    /// Rows of which something is read. llama.cpp has room for their logits in any case.
    outputs: u32,
    computes_logits: bool,
    attention: Attention,
}

fn compute_bytes(header: &GgufHeader, model: &Hyperparameters, batch: Batch) -> u64 {
    const NUMBER: u64 = 4;
    let [rows, cells, outputs] = [batch.rows, batch.cells, batch.outputs].map(u64::from);
    let heads = u64::from(model.most_heads());
    let width = heads * u64::from(model.key_length + model.value_length);
    let experts = u64::from(model.experts_used.max(1));
    // The residual, what is added to it, and both sides of a norm.
    let residual = 4 * u64::from(model.embedding);
    let feed_forward = 3 * u64::from(model.feed_forward) * experts;
    // The mask in 32 bits and in those that attention reads it in.
    let mask = match batch.attention {
        Attention::Plain => 2 * NUMBER * cells,
        Attention::Flash => (NUMBER + 2) * cells,
    };
    let scores = match batch.attention {
        Attention::Plain => 2 * NUMBER * heads * cells,
        Attention::Flash => 0,
    };
    let attending = scores + 2 * NUMBER * width;
    let row = NUMBER * residual + mask + attending.max(NUMBER * feed_forward);
    let copies = if batch.computes_logits { 2 } else { 1 };
    let logits = copies * NUMBER * outputs * tokens(header) as u64;
    graph_bytes(header) + row.saturating_mul(rows) + logits
}

/// llama.cpp's graphs: nodes in advance (`graph_max_nodes`), for three of them and a scheduler.
fn graph_bytes(header: &GgufHeader) -> u64 {
    const NODE: u64 = 1200;
    let nodes = (8 * header.tensors.len() as u64).max(1024);
    nodes * NODE
}

fn state_bytes(model: &Hyperparameters, sequences: u32) -> u64 {
    let sequence = model.state.saturating_mul(4 * u64::from(model.layers));
    sequence.saturating_mul(sequences.into())
}

fn tokens(header: &GgufHeader) -> usize {
    let tokens = header.metadata.texts("tokenizer.ggml.tokens");
    tokens.map_or(0, super::gguf::TextList::len)
}

fn weights_and_vocabulary(header: &GgufHeader) -> MemoryEstimate {
    let all = header.tensor_bytes();
    let (weights, mapped) = if is_rearranged(&header.metadata) {
        (all, 0)
    } else {
        let copied = header
            .tensors
            .iter()
            .filter(|tensor| rearranges_tensor(tensor));
        (copied.map(|tensor| tensor.bytes).sum(), all)
    };
    MemoryEstimate {
        weights: weights + tied_copy(header),
        mapped,
        vocabulary: vocabulary_bytes(header),
        kv_cache: 0,
        compute: 0,
        partitions: 1,
    }
}

/// Where a model writes with the same matrix that it reads tokens with, and llama.cpp rearranges it for the
/// products, it needs the original as well.
fn tied_copy(header: &GgufHeader) -> u64 {
    let is_tied = header.tensor("output.weight").is_none();
    let embedding = header.tensor("token_embd.weight");
    embedding
        .filter(|tensor| is_tied && rearranges_matrix(tensor))
        .map_or(0, |tensor| tensor.bytes)
}

/// llama.cpp holds every token three times (by id, by text, and as what it is written as) and every merge once,
/// in tables of texts; the tokenizer holds what they are written as.
fn vocabulary_bytes(header: &GgufHeader) -> u64 {
    const TOKEN: u64 = 240;
    const MERGE: u64 = 150;
    let count = |key: &str| {
        let texts = header.metadata.texts(key);
        texts.map_or(0, |texts| texts.len() as u64)
    };
    count("tokenizer.ggml.tokens") * TOKEN + count("tokenizer.ggml.merges") * MERGE
}
