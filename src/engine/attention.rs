//! Which of llama.cpp's two ways to compute attention suits a model, and what it costs.

use llama_cpp_sys_2::{
    LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_flash_attn_type,
};

use super::gguf::Hyperparameters;
use super::llama::EngineOptions;
use super::{GgufHeader, Weights};

/// How attention is computed; the two ways differ in rounding only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// One matrix product over all rows and cells, summed in 32 bits.
    Plain,
    /// Cell by cell for each row, summed in 16 bits.
    Flash,
}

impl Attention {
    pub(super) fn policy(self) -> llama_flash_attn_type {
        match self {
            Self::Plain => LLAMA_FLASH_ATTN_TYPE_DISABLED,
            Self::Flash => LLAMA_FLASH_ATTN_TYPE_ENABLED,
        }
    }

    /// Returns how many rows of a batch are computed together (`n_ubatch`). Plain attention keeps a number
    /// for every row, cell and head: fewer rows at once take less memory, and no more time.
    pub(super) fn rows_at_once(self) -> u32 {
        match self {
            Self::Plain => 128,
            Self::Flash => u32::MAX,
        }
    }

    /// Returns how many KV partitions to make. With plain attention a row computes with every used cell of
    /// its partition, so sequences without a common prefix are better kept in different ones. Flash
    /// attention skips the cells of other sequences, so one partition is best: its rows read the weights
    /// once. `bytes` is what a partition can take at most, `memory` what all may take; short conversations
    /// use little of it.
    pub(super) fn partitions(self, bytes: Option<u64>, memory: u64) -> u32 {
        const MOST: u64 = 8;
        match (self, bytes) {
            (Self::Plain, Some(bytes)) => {
                u32::try_from((memory / bytes.max(1)).clamp(1, MOST)).unwrap_or(1)
            }
            _ => 1,
        }
    }
}

/// The dimensions of a model on which the choice of attention depends.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelDimensions {
    heads: u32,
    kv_heads: u32,
    layers: u32,
    parameters: u64,
}

impl ModelDimensions {
    /// The same from the header, before anything is loaded.
    pub(super) fn of_header(header: &GgufHeader, model: &Hyperparameters) -> Self {
        let first = |numbers: &[u32]| numbers.first().copied().unwrap_or_default();
        Self {
            heads: first(&model.heads),
            kv_heads: first(&model.kv_heads),
            layers: model.layers,
            parameters: header.parameters(),
        }
    }

    pub(super) fn of(weights: &Weights) -> Self {
        Self {
            heads: weights.llama().n_head(),
            kv_heads: weights.llama().n_head_kv(),
            layers: weights.llama().n_layer(),
            parameters: weights.info().parameters,
        }
    }

    /// Whether a row at the depth of a store's prompt takes more time for attention than for the products
    /// with the weights.
    ///
    /// From decode speeds of models of 13 M and 494 M parameters on x86-64: flash attention takes
    /// some 40 ns a head and cell whatever the head's size, the weights some 0.025 ns each.
    #[allow(clippy::cast_precision_loss)] // an estimate
    fn is_mostly_attention(self) -> bool {
        const DEPTH: f64 = 768.0;
        const CELL_NS: f64 = 40.0;
        const WEIGHT_NS: f64 = 0.025;
        let attention = f64::from(self.heads) * f64::from(self.layers) * DEPTH * CELL_NS;
        attention > 1.5 * WEIGHT_NS * self.parameters as f64
    }

    /// Returns the most cells of a sequence that are copied. With plain attention llama.cpp stores values
    /// transposed, each number next to the same number of other cells; if a sequence's cells are not
    /// contiguous it makes a record of 32 bytes for every number that it copies.
    pub(super) fn most_copied(self, attention: Attention) -> usize {
        const MOST_RECORDS: u32 = 4 << 20;
        const WIDEST_HEAD: u32 = 128;
        let numbers = self.layers * self.kv_heads * WIDEST_HEAD;
        match attention {
            Attention::Plain => (MOST_RECORDS / numbers.max(1)) as usize,
            Attention::Flash => usize::MAX,
        }
    }

    /// Returns [`Shape::break_even_cells`](super::Shape). With plain attention a row computes with the cells
    /// of other sequences as with its own, which takes one thread some 6 ns per cell and head
    /// (BENCHMARKS.md). Flash attention skips the cells of others, and models that use it gained nothing
    /// when fewer requests ran together.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(super) fn break_even_cells(self, attention: Attention) -> Option<usize> {
        const CELL_NS: f64 = 6.0;
        const WEIGHT_NS: f64 = 0.03;
        let heads = f64::from(self.heads) * f64::from(self.layers);
        let cell = CELL_NS * heads;
        (attention == Attention::Plain)
            .then_some((WEIGHT_NS * self.parameters as f64 / cell) as usize)
    }

    /// Returns the most bytes that a context takes besides its KV cache, scored prompts aside: attention
    /// scores before and after the softmax, one for every cell, head and row computed at once, and
    /// logits for every sequence.
    pub(super) fn buffer_bytes(self, options: EngineOptions, vocabulary: usize) -> u64 {
        let rows = options.batch_rows.min(Attention::Plain.rows_at_once());
        let logits = u64::from(options.sequences + 1) * vocabulary as u64;
        2 * self.score_bytes(rows, options.cells) + 4 * logits
    }

    /// Returns the bytes of plain attention's scores: four for every row, cell and head of a layer.
    fn score_bytes(self, rows: u32, cells: u32) -> u64 {
        4 * u64::from(rows) * u64::from(cells) * u64::from(self.heads)
    }
}

/// Chooses the attention for a model.
///
/// Flash attention on a CPU goes cell by cell, skips the cells of other requests, and reads prompts
/// faster. Plain attention is one matrix product over all rows and all used cells: much faster where
/// rows share cells and attention takes most of a row's time, much slower where long prompts have no
/// common prefix. It needs memory for every head, row and cell, too much for a large context.
pub(super) fn attention(options: EngineOptions, weight: ModelDimensions) -> Attention {
    const MOST_BYTES: u64 = 512 << 20;
    let affordable = weight.score_bytes(options.batch_rows, options.cells) <= MOST_BYTES;
    let suits = if affordable && weight.is_mostly_attention() {
        Attention::Plain
    } else {
        Attention::Flash
    };
    let suits = if options.deterministic {
        Attention::Plain
    } else {
        suits
    };
    options.attention.unwrap_or(suits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_plain_for_small_models_whose_scores_fit() {
        let options = EngineOptions {
            cells: 8192,
            sequences: 16,
            batch_rows: 512,
            threads: 1,
            threads_per_partition: 1,
            memory: 0,
            attention: None,
            deterministic: false,
        };
        let kiosk = ModelDimensions {
            heads: 4,
            kv_heads: 2,
            layers: 5,
            parameters: 6_000_000,
        };
        let qwen2_5_0_5b = ModelDimensions {
            heads: 14,
            kv_heads: 2,
            layers: 24,
            parameters: 494_000_000,
        };
        assert_eq!(attention(options, kiosk), Attention::Plain);
        assert_eq!(attention(options, qwen2_5_0_5b), Attention::Flash);
        assert_eq!(qwen2_5_0_5b.break_even_cells(Attention::Flash), None);
        // `scheduler::placement` runs three conversations of 144 cells at that, which was the fastest.
        assert_eq!(kiosk.break_even_cells(Attention::Plain), Some(1500));
        assert!(kiosk.most_copied(Attention::Plain) > 2048);
        assert_eq!(kiosk.buffer_bytes(options, 2136) >> 20, 32);
        let partitions = |bytes: u64| Attention::Plain.partitions(Some(bytes << 20), 1 << 30);
        assert_eq!([0, 54, 300, 5000].map(partitions), [8, 8, 3, 1]);
        assert_eq!(Attention::Plain.partitions(Some(54 << 20), 256 << 20), 4);
        assert_eq!(Attention::Plain.partitions(Some(54 << 20), 0), 1);
        assert_eq!(Attention::Plain.partitions(None, 1 << 30), 1);
        assert_eq!(Attention::Flash.partitions(Some(54 << 20), 1 << 30), 1);
        let large = EngineOptions {
            cells: 131_072,
            ..options
        };
        assert_eq!(attention(large, kiosk), Attention::Flash);
        let deterministic = EngineOptions {
            deterministic: true,
            ..large
        };
        assert_eq!(attention(deterministic, qwen2_5_0_5b), Attention::Plain);
        let chosen = EngineOptions {
            attention: Some(Attention::Plain),
            ..large
        };
        assert_eq!(attention(chosen, qwen2_5_0_5b), Attention::Plain);
    }
}
