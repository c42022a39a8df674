//! One llama.cpp context: a bank of the KV cache.

use std::time::{Duration, Instant};

use llama_cpp_sys_2::llama_context_default_params;

use super::attention::Attention;
use super::context::{Cells, Context};
use super::llama::EngineOptions;
use super::model::{LoadError, Model};
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
    context: Context<'model>,
    /// What is computed next.
    rows: Vec<Row>,
    /// The sequence of rows that nobody asked for; without cells in between.
    filler: SeqId,
}

impl<'model> Bank<'model> {
    /// Allocates cache and compute buffers.
    pub(super) fn new(
        model: &'model Model,
        options: EngineOptions,
        attention: Attention,
    ) -> Result<Self, LoadError> {
        // SAFETY: makes a record of numbers.
        let mut params = unsafe { llama_context_default_params() };
        // llama.cpp rounds up in any case, but cuts the batch to what stands here before.
        params.n_ctx = options.cells.next_multiple_of(256);
        params.n_batch = options.batch_rows;
        params.n_ubatch = options.batch_rows.min(attention.rows_at_once());
        params.n_seq_max = options.sequences + 1;
        params.kv_unified = true;
        params.flash_attn_type = attention.policy();
        params.no_perf = true;
        // SAFETY: the defaults have no pointers.
        let mut context = unsafe { Context::new(model, params)? };
        context.set_threads(options.threads_a_bank);
        let mut bank = Self {
            context,
            rows: Vec::new(),
            filler: SeqId(options.sequences),
        };
        // The first one waits until the weights are read from the disk.
        bank.try_out(1)?;
        bank.give_back();
        Ok(bank)
    }

    /// Cells, rounded up as llama.cpp does.
    pub(super) fn cells(&self) -> usize {
        self.context.cells()
    }

    /// Rows of one decode at most.
    pub(super) fn batch_rows(&self) -> usize {
        self.context.batch_rows()
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
        self.rows.clear();
        self.fill(rows, rows);
        let started = Instant::now();
        (self.context.decode(&self.rows))
            .map_err(|error| LoadError::Context(Some(error.to_string())))?;
        let took = started.elapsed();
        self.truncate(self.filler, 0);
        self.rows.clear();
        Ok(took)
    }

    /// How many threads compute from now on.
    pub(super) fn set_threads(&mut self, threads: u32) {
        self.context.set_threads(threads);
    }

    /// Notes a row of this bank that is to be computed; its place among them.
    pub(super) fn add(&mut self, row: Row) -> usize {
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// Rows that are to be computed.
    pub(super) fn missing(&self) -> usize {
        self.rows.len()
    }

    /// Computes what was added, which fits into one batch, and stores its cells; best are whole
    /// groups of so many.
    pub(super) fn decode(&mut self, group: usize) -> Result<(), DecodeError> {
        let (rows, filling) = (self.rows.len(), missing_in_group(self.rows.len(), group));
        let mut result = Err(DecodeError::NoCells);
        if filling > 0 && rows + filling <= self.batch_rows() {
            let outputs = self.rows.iter().filter(|row| row.logits).count();
            self.fill(filling, missing_in_group(outputs, group).min(filling));
            result = self.context.decode(&self.rows);
            self.truncate(self.filler, 0);
            self.rows.truncate(rows);
        }
        // It may fit without them.
        if result == Err(DecodeError::NoCells) {
            result = self.context.decode(&self.rows);
        }
        self.rows.clear();
        result
    }

    /// Adds rows that nobody asked for, `outputs` of them with logits.
    fn fill(&mut self, rows: usize, outputs: usize) {
        let filler = self.filler;
        self.rows.extend((0..rows).map(|position| Row {
            token: Token(0),
            position: u32::try_from(position).unwrap_or(u32::MAX),
            sequence: filler,
            logits: position < outputs,
        }));
    }

    /// Logits of row `row` of the last batch.
    pub(super) fn logits(&self, row: usize) -> &[f32] {
        self.context.logits(row)
    }

    pub(super) fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        self.context.share(from, to, length);
    }

    /// Cells of a sequence.
    pub(super) fn length(&self, sequence: SeqId) -> usize {
        self.context.length(sequence)
    }

    pub(super) fn copied_bytes(&self, sequence: SeqId) -> usize {
        self.context.copied_bytes(sequence)
    }

    /// The first `length` cells of a sequence.
    pub(super) fn copy_out(&mut self, of: SeqId, length: usize) -> Option<Cells> {
        if length >= self.length(of) {
            return self.context.copy_out(of);
        }
        self.share(of, self.filler, length);
        let cells = self.context.copy_out(self.filler);
        self.truncate(self.filler, 0);
        cells
    }

    pub(super) fn copy_in(&mut self, copied: &Cells, to: SeqId) -> bool {
        self.context.copy_in(copied, to)
    }

    pub(super) fn truncate(&mut self, sequence: SeqId, from: u32) {
        self.context.truncate(sequence, from);
    }

    /// Gives the memory of the cache back, if nothing is in it.
    pub(super) fn give_back(&mut self) {
        if (0..=self.filler.0).all(|sequence| self.length(SeqId(sequence)) == 0) {
            // SAFETY: nothing is in use, as just seen.
            unsafe { self.context.give_back() };
        }
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn resident(&self) -> (usize, usize) {
        self.context.resident()
    }
}

/// How many rows more make whole groups, at less cost than the rows that are left over have: each
/// of those takes almost as long as a group.
fn missing_in_group(rows: usize, group: usize) -> usize {
    let rest = rows % group;
    let is_worth_it = rest > 0 && rows + 1 >= group;
    if is_worth_it { group - rest } else { 0 }
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
