//! The real engine: one llama.cpp context.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::model::{LoadError, Model, backend};
use super::{DecodeError, Engine, Row, SeqId, Shape, Token};

/// How a context is laid out.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// KV cells shared by all sequences.
    pub cells: u32,
    /// Sequences that can exist at once (llama.cpp allows 256).
    pub sequences: u32,
    /// Rows of one decode at most.
    pub batch_rows: u32,
    /// Threads that compute.
    pub threads: u32,
    /// How attention is computed; `None` is what suits the model.
    pub attention: Option<Attention>,
}

/// Two ways to the same numbers, but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// One matrix product over all rows and cells, summed in 32 bits.
    Plain,
    /// Cell by cell for each row, summed in 16 bits.
    Flash,
}

/// A llama.cpp context with a unified KV cache; it borrows its model and
/// belongs to one thread.
#[derive(Debug)]
pub struct LlamaEngine<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    shape: Shape,
    attention: Attention,
}

impl<'model> LlamaEngine<'model> {
    /// Allocates cache and compute buffers.
    ///
    /// # Errors
    /// [`LoadError::Context`] when llama.cpp refuses, most often for want of memory.
    pub fn new(model: &'model Model, options: EngineOptions) -> Result<Self, LoadError> {
        let attention = attention(options, Weight::of(model));
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(options.cells))
            // One micro-batch a batch: a decode either happened or it did not.
            .with_n_batch(options.batch_rows)
            .with_n_ubatch(options.batch_rows)
            .with_n_seq_max(options.sequences)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(true)
            .with_flash_attention_policy(flash_policy(attention))
            .with_no_perf(true);
        let context = model
            .weights()
            .new_context(backend()?, params)
            .map_err(|_| LoadError::Context(super::logs::last_error()))?;
        let shape = Shape {
            cells: context.n_ctx() as usize,
            sequences: options.sequences,
            batch_rows: options.batch_rows as usize,
            // `ggml_fa_tile_config::Q`: below it flash attention walks cell by cell.
            tile_rows: match attention {
                Attention::Plain => 0,
                Attention::Flash => 64,
            },
            vocabulary: model.info().vocabulary,
            shares_prefixes: model.info().shares_prefixes,
            pays_for_all_cells: attention == Attention::Plain,
        };
        let mut engine = Self {
            context,
            batch: LlamaBatch::new(shape.batch_rows, 1),
            shape,
            attention,
        };
        engine.warm_up()?;
        Ok(engine)
    }

    /// Computes a token for nobody: the first one waits until the weights are read from the disk.
    fn warm_up(&mut self) -> Result<(), LoadError> {
        let row = Row {
            token: Token(0),
            position: 0,
            sequence: SeqId(0),
            logits: true,
        };
        self.decode(&[row])
            .map_err(|error| LoadError::Context(Some(error.to_string())))?;
        self.truncate(SeqId(0), 0);
        Ok(())
    }

    /// How it computes attention.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
    }
}

/// What the choice of attention depends on.
#[derive(Debug, Clone, Copy)]
struct Weight {
    heads: u32,
    layers: u32,
    parameters: u64,
}

impl Weight {
    fn of(model: &Model) -> Self {
        Self {
            heads: model.weights().n_head(),
            layers: model.weights().n_layer(),
            parameters: model.info().parameters,
        }
    }

    /// Whether a row at the depth of a store's prompt spends its time in attention, not in weights.
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
}

/// Flash attention on a CPU walks cell by cell, leaves out those of other requests, and reads
/// prompts faster. The plain path is one matrix product over all rows and all used cells: much
/// faster where rows share cells and attention is what a row is made of, much slower where long
/// prompts have nothing in common. It needs a number for every head, row and cell, which a large
/// context cannot afford.
fn attention(options: EngineOptions, weight: Weight) -> Attention {
    const MOST_BYTES: u64 = 512 << 20;
    let rows = u64::from(options.cells) * u64::from(options.batch_rows);
    let affordable = rows * u64::from(weight.heads) * 4 <= MOST_BYTES;
    let suits = if affordable && weight.is_mostly_attention() {
        Attention::Plain
    } else {
        Attention::Flash
    };
    options.attention.unwrap_or(suits)
}

pub(super) fn flash_policy(attention: Attention) -> llama_cpp_sys_2::llama_flash_attn_type {
    match attention {
        Attention::Plain => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        Attention::Flash => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
    }
}

pub(super) fn index(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
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

impl Engine for LlamaEngine<'_> {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.batch.clear();
        for row in rows {
            self.batch
                .add(
                    LlamaToken::new(row.token.0),
                    index(row.position),
                    &[index(row.sequence.0)],
                    row.logits,
                )
                .map_err(|_| DecodeError::Failed(0))?;
        }
        self.context
            .decode(&mut self.batch)
            .map_err(DecodeError::from)
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.context
            .get_logits_ith(i32::try_from(row).unwrap_or(i32::MAX))
    }

    fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        // In a unified cache this marks cells and copies nothing. The only error is a position beyond i32.
        let _ = self.context.copy_kv_cache_seq(
            index(from.0),
            index(to.0),
            Some(0),
            Some(u32::try_from(length).unwrap_or(u32::MAX)),
        );
    }

    fn truncate(&mut self, sequence: SeqId, from: u32) {
        // The only error is a position beyond i32, which no cache reaches.
        let _ = self
            .context
            .clear_kv_cache_seq(Some(sequence.0), Some(from), None);
    }
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
            attention: None,
        };
        let kiosk = Weight {
            heads: 4,
            layers: 5,
            parameters: 6_000_000,
        };
        let qwen2_5_0_5b = Weight {
            heads: 14,
            layers: 24,
            parameters: 494_000_000,
        };
        assert_eq!(attention(options, kiosk), Attention::Plain);
        assert_eq!(attention(options, qwen2_5_0_5b), Attention::Flash);
        let large = EngineOptions {
            cells: 131_072,
            ..options
        };
        assert_eq!(attention(large, kiosk), Attention::Flash);
        let chosen = EngineOptions {
            attention: Some(Attention::Plain),
            ..large
        };
        assert_eq!(attention(chosen, qwen2_5_0_5b), Attention::Plain);
    }
}
