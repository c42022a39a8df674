//! One llama.cpp context: a bank of the KV cache.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::attention::Attention;
use super::llama::EngineOptions;
use super::model::{LoadError, Model, backend};
use super::pages::CachePages;
use super::{DecodeError, Row, SeqId, Token};

/// Rows that llama.cpp multiplies at once with weights that it has rearranged (`repack.cpp`); for
/// each row that is left over it reads all of them again.
const ROW_GROUP: usize = 4;
/// For so long it is tried out whether it does that.
const TRIAL: Duration = Duration::from_millis(500);
const TRIALS: u32 = 3;

/// A context with a unified KV cache; sequences are `0..options.sequences` in each.
#[derive(Debug)]
pub(super) struct Bank<'model> {
    context: LlamaContext<'model>,
    /// Behind the context: it was told where this is, and goes first.
    pages: Arc<CachePages>,
    batch: LlamaBatch<'static>,
    /// The sequence of rows that nobody asked for.
    filler: SeqId,
}

impl<'model> Bank<'model> {
    /// Allocates cache and compute buffers.
    pub(super) fn new(
        model: &'model Model,
        options: EngineOptions,
        attention: Attention,
    ) -> Result<Self, LoadError> {
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        let mut params = LlamaContextParams::default()
            // llama.cpp rounds up in any case, but cuts the batch to what stands here before.
            .with_n_ctx(NonZeroU32::new(options.cells.next_multiple_of(256)))
            .with_n_batch(options.batch_rows)
            .with_n_ubatch(options.batch_rows.min(attention.rows_at_once()))
            .with_n_seq_max(options.sequences + 1)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(true)
            .with_flash_attention_policy(attention.policy())
            .with_no_perf(true);
        // SAFETY: it lives in the bank, behind the context; where none can be made, in this scope.
        let pages = unsafe { CachePages::of(&mut params) };
        let context = model
            .weights()
            .new_context(backend()?, params)
            .map_err(|_| LoadError::Context(super::logs::last_error()))?;
        let mut bank = Self {
            batch: LlamaBatch::new(context.n_batch() as usize, 1),
            context,
            pages,
            filler: SeqId(options.sequences),
        };
        // The first one waits until the weights are read from the disk.
        bank.try_out(1)?;
        bank.give_back();
        Ok(bank)
    }

    /// Cells, rounded up as llama.cpp does.
    pub(super) fn cells(&self) -> usize {
        self.context.n_ctx() as usize
    }

    /// Rows of one decode at most.
    pub(super) fn batch_rows(&self) -> usize {
        self.context.n_batch() as usize
    }

    /// See [`Shape::row_group`](super::Shape): whether a whole number of groups takes less time than
    /// one row less.
    pub(super) fn row_group(&mut self) -> Result<usize, LoadError> {
        let whole = 2 * ROW_GROUP;
        if self.batch_rows() < whole || self.cells() < whole {
            return Ok(1);
        }
        let started = Instant::now();
        let (mut shortest_whole, mut shortest_less) = (Duration::MAX, Duration::MAX);
        for trial in 0..TRIALS {
            shortest_less = shortest_less.min(self.try_out(whole - 1)?);
            shortest_whole = shortest_whole.min(self.try_out(whole)?);
            if trial > 0 && started.elapsed() > TRIAL {
                break;
            }
        }
        self.give_back();
        let is_grouped = shortest_whole < shortest_less.mul_f64(0.9);
        Ok(if is_grouped { ROW_GROUP } else { 1 })
    }

    /// How long it takes to compute so many tokens for nobody.
    fn try_out(&mut self, rows: usize) -> Result<Duration, LoadError> {
        self.batch.clear();
        let started = Instant::now();
        self.fill(rows, rows)
            .and_then(|()| Ok(self.context.decode(&mut self.batch)?))
            .map_err(|error| LoadError::Context(Some(error.to_string())))?;
        let took = started.elapsed();
        self.truncate(self.filler, 0);
        Ok(took)
    }

    /// Computes rows of this bank, which fit into one batch, and stores their cells; best are whole
    /// groups of so many.
    pub(super) fn decode(&mut self, rows: &[Row], group: usize) -> Result<(), DecodeError> {
        self.add_all(rows)?;
        let outputs = rows.iter().filter(|row| row.logits).count();
        let filling = missing_in_group(rows.len(), group);
        if filling > 0 && rows.len() + filling <= self.batch_rows() {
            self.fill(filling, missing_in_group(outputs, group).min(filling))?;
            let result = self.context.decode(&mut self.batch);
            self.truncate(self.filler, 0);
            match result.map_err(DecodeError::from) {
                // It may fit without them.
                Err(DecodeError::NoCells) => self.add_all(rows)?,
                result => return result,
            }
        }
        self.context
            .decode(&mut self.batch)
            .map_err(DecodeError::from)
    }

    /// Adds rows to the batch that nobody asked for, `outputs` of them with logits.
    fn fill(&mut self, rows: usize, outputs: usize) -> Result<(), DecodeError> {
        for position in 0..rows {
            self.add(Row {
                token: Token(0),
                position: u32::try_from(position).unwrap_or(u32::MAX),
                sequence: self.filler,
                logits: position < outputs,
            })?;
        }
        Ok(())
    }

    fn add(&mut self, row: Row) -> Result<(), DecodeError> {
        let token = LlamaToken::new(row.token.0);
        let sequence = [index(row.sequence.0)];
        self.batch
            .add(token, index(row.position), &sequence, row.logits)
            .map_err(|_| DecodeError::Failed(0))
    }

    fn add_all(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.batch.clear();
        rows.iter().try_for_each(|row| self.add(*row))
    }

    /// Logits of row `row` of the last batch.
    pub(super) fn logits(&self, row: usize) -> &[f32] {
        self.context
            .get_logits_ith(i32::try_from(row).unwrap_or(i32::MAX))
    }

    pub(super) fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        // In a unified cache this marks cells and copies nothing. The only error is a position beyond i32.
        let _ = self.context.copy_kv_cache_seq(
            index(from.0),
            index(to.0),
            Some(0),
            Some(u32::try_from(length).unwrap_or(u32::MAX)),
        );
    }

    /// Cells of a sequence.
    pub(super) fn length(&self, sequence: SeqId) -> usize {
        let last = self.context.kv_cache_seq_pos_max(index(sequence.0));
        usize::try_from(last + 1).unwrap_or(0)
    }

    pub(super) fn copied_bytes(&self, sequence: SeqId) -> usize {
        let whole = LlamaStateSeqFlags::empty();
        self.context
            .state_seq_get_size_ext(index(sequence.0), whole)
    }

    pub(super) fn copy_out(&self, sequence: SeqId) -> Option<SeqState> {
        let whole = LlamaStateSeqFlags::empty();
        self.context.state_seq_get(index(sequence.0), whole).ok()
    }

    pub(super) fn copy_in(&mut self, copied: &SeqState, to: SeqId) -> bool {
        self.context.state_seq_set(copied, index(to.0)).is_ok()
    }

    pub(super) fn truncate(&mut self, sequence: SeqId, from: u32) {
        // The only error is a position beyond i32, which no cache reaches.
        let _ = self
            .context
            .clear_kv_cache_seq(Some(sequence.0), Some(from), None);
    }

    /// Gives the memory of the cache back, if nothing is in it.
    pub(super) fn give_back(&mut self) {
        if (0..=self.filler.0).all(|sequence| self.length(SeqId(sequence)) == 0) {
            // SAFETY: nothing is in use, as just seen, and nobody else has the context.
            unsafe { self.pages.give_back() };
        }
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn resident(&self) -> (usize, usize) {
        self.pages.resident()
    }
}

/// How many rows more make whole groups, at less cost than the rows that are left over have: each
/// of those takes almost as long as a group.
fn missing_in_group(rows: usize, group: usize) -> usize {
    let rest = rows % group;
    let is_worth_it = rest > 0 && rows + 1 >= group;
    if is_worth_it { group - rest } else { 0 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_filled_where_a_group_takes_less_than_what_is_left_over() {
        let filled = |rows| rows + missing_in_group(rows, 4);
        let sizes: Vec<usize> = (1..=16).map(filled).collect();
        assert_eq!(
            sizes,
            [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16]
        );
        assert!((0..40).all(|rows| missing_in_group(rows, 1) == 0));
    }
}
