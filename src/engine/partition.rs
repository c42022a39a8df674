//! One llama.cpp context: a partition of the KV cache.

use std::time::{Duration, Instant};

use llama_cpp_sys_2::llama_context_default_params;

use super::adapter::Adapter;
use super::attention::Attention;
use super::context::{Cells, Context};
use super::llama::EngineOptions;
use super::{DecodeError, Row, SeqId, Token};
use super::{LoadError, Weights};

/// Rows that llama.cpp multiplies at once with weights that it has rearranged (`repack.cpp`); for
/// each row that is left over it reads all of them again.
const ROW_GROUP: usize = 4;
/// Time after which no further trial of [`Partition::row_group`] begins.
const TRIAL: Duration = Duration::from_millis(500);
const TRIALS: u32 = 3;
/// Sizes of batches that are compared with all their rows at once: fewer than the kernels' tiles, as
/// many, and some that leave rows over.
const COMPARED: [usize; 9] = [2, 3, 4, 5, 6, 7, 8, 13, 33];
/// Tokens of an exact block where rounding depends on the number of rows.
const BLOCK: usize = 32;
/// Least `n_batch` of a context: enough for a block, and for the batches of [`COMPARED`].
const MIN_BATCH_ROWS: u32 = 48;

/// A context with a unified KV cache; sequences are `0..options.sequences` in each.
#[derive(Debug)]
pub(super) struct Partition<'model> {
    context: Context<'model>,
    /// Rows that the next decode computes.
    rows: Vec<Row>,
    /// The sequence of filler rows; it has no cells between decodes.
    filler: SeqId,
    /// Most rows that llama.cpp computes together.
    rows_at_once: usize,
    /// Where a sequence that is alone is computed in blocks: see
    /// [`Shape::exact_block`](super::Shape).
    block: Option<usize>,
    /// Logits of the first blocks of the last batch, which llama.cpp has overwritten since.
    earlier: Vec<Vec<f32>>,
}

impl<'model> Partition<'model> {
    /// Allocates cache and compute buffers. Its rows are computed with the adapter, if there is one.
    pub(super) fn new(
        weights: &'model Weights,
        options: EngineOptions,
        attention: Attention,
        adapter: Option<Adapter<'model>>,
    ) -> Result<Self, LoadError> {
        // SAFETY: makes a record of numbers.
        let mut params = unsafe { llama_context_default_params() };
        // llama.cpp rounds up in any case, but cuts the batch to what stands here before.
        params.n_ctx = options.cells.next_multiple_of(256);
        params.n_batch = options.batch_rows.max(MIN_BATCH_ROWS);
        params.n_ubatch = params.n_batch.min(attention.rows_at_once());
        params.n_seq_max = options.sequences + 1;
        params.kv_unified = true;
        params.flash_attn_type = attention.policy();
        params.no_perf = true;
        // SAFETY: the defaults have no pointers.
        let mut context = unsafe { Context::new(weights, params)? };
        if let Some(adapter) = adapter {
            context = context.with_adapter(adapter);
        }
        context.set_threads(options.threads_per_partition);
        let mut partition = Self {
            context,
            rows: Vec::new(),
            filler: SeqId(options.sequences),
            rows_at_once: params.n_ubatch as usize,
            block: None,
            earlier: Vec::new(),
        };
        // The first decode reads the weights from the disk; no request should wait for that.
        partition.try_out(1)?;
        partition.give_back();
        Ok(partition)
    }

    /// Whether the logits of the trial decode are numbers: those of a broken adapter are not.
    pub(super) fn computes_numbers(&self) -> bool {
        self.context.logits(0).iter().all(|logit| logit.is_finite())
    }

    /// Returns the number of cells, rounded up as llama.cpp does.
    pub(super) fn cells(&self) -> usize {
        self.context.cells()
    }

    /// Returns the most rows of one decode.
    pub(super) fn batch_rows(&self) -> usize {
        self.context.batch_rows()
    }

    /// Finds [`Shape::row_group`](super::Shape) by measuring whether two whole groups take less time than
    /// one row fewer.
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

    /// Returns the most rows of which [`exact_block`](Self::exact_block) reads logits at once.
    pub(super) fn compared_rows() -> u32 {
        u32::try_from(COMPARED.iter().sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Finds [`Shape::exact_block`](super::Shape) by comparing the logits of batches of several sizes bit by
    /// bit. Nothing is timed, so each start of the server finds the same.
    pub(super) fn exact_block(&mut self, vocabulary: usize) -> Result<usize, LoadError> {
        let sum = |sizes: &[usize]| sizes.iter().sum::<usize>();
        let mut compared = &COMPARED[..];
        while let [less @ .., _] = compared
            && sum(compared) > self.rows_at_once
        {
            compared = less;
        }
        let at_once = self.read(&[sum(compared)], vocabulary)?;
        let is_invariant = at_once == self.read(compared, vocabulary)?;
        let block = if is_invariant { 1 } else { BLOCK };
        self.compute_in_blocks(Some(block));
        Ok(block)
    }

    /// Lets a sequence that is alone be computed as [`Partition::exact_block`] found to be exact.
    pub(super) fn compute_in_blocks(&mut self, block: Option<usize>) {
        self.block = block.filter(|block| *block > 1);
    }

    /// Returns the logits, as bits, of a text that is computed in batches of these sizes.
    fn read(&mut self, batches: &[usize], vocabulary: usize) -> Result<Vec<u32>, LoadError> {
        let mut bits = Vec::new();
        let mut position = 0;
        for &rows in batches {
            self.rows.clear();
            for _ in 0..rows {
                self.rows.push(Row {
                    // Neighbours are different tokens, none of them one of the first, which are
                    // often control tokens.
                    token: Token(i32::try_from(vocabulary / 2 + position * 7 % 97).unwrap_or(0)),
                    position: u32::try_from(position).unwrap_or(u32::MAX),
                    sequence: self.filler,
                    logits: true,
                });
                position += 1;
            }
            (self.context.decode(&self.rows))
                .map_err(|error| LoadError::Context(Some(error.to_string())))?;
            for row in 0..rows {
                bits.extend(self.context.logits(row).iter().map(|logit| logit.to_bits()));
            }
        }
        self.truncate(self.filler, 0);
        self.rows.clear();
        self.give_back();
        Ok(bits)
    }

    /// Measures how long a decode of `rows` filler rows takes.
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

    /// Sets how many threads compute from now on.
    pub(super) fn set_threads(&mut self, threads: u32) {
        self.context.set_threads(threads);
    }

    /// Adds a row to the next decode and returns its index there.
    pub(super) fn add(&mut self, row: Row) -> usize {
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// Returns how many rows the next decode computes.
    pub(super) fn missing(&self) -> usize {
        self.rows.len()
    }

    /// Computes the rows that were added, which fit into one batch, and stores their cells. Filler rows
    /// make whole groups of `row_group` where that is faster.
    pub(super) fn decode(&mut self, group: usize) -> Result<(), DecodeError> {
        self.earlier.clear();
        if let Some(block) = self.block
            && self
                .rows
                .windows(2)
                .all(|rows| rows[0].sequence == rows[1].sequence)
        {
            return self.decode_blocks(block);
        }
        let (rows, filling) = (self.rows.len(), self.filling(group));
        let mut result = Err(DecodeError::NoCells);
        if filling > 0 && rows + filling <= self.batch_rows() {
            let outputs = self.rows.iter().filter(|row| row.logits).count();
            self.fill(filling, missing_in_group(outputs, group).min(filling));
            result = self.context.decode(&self.rows);
            self.truncate(self.filler, 0);
            self.rows.truncate(rows);
        }
        // The rows may fit without the filler rows.
        if result == Err(DecodeError::NoCells) {
            result = self.context.decode(&self.rows);
        }
        self.rows.clear();
        result
    }

    /// Computes the rows of one sequence, one decode for each block.
    fn decode_blocks(&mut self, block: usize) -> Result<(), DecodeError> {
        let rows = std::mem::take(&mut self.rows);
        let begins = |row: &Row| (row.position as usize).is_multiple_of(block);
        let mut parts = rows.chunk_by(|_, next| !begins(next)).peekable();
        let mut result = Ok(());
        while let Some(part) = parts.next()
            && result.is_ok()
        {
            result = self.context.decode(part);
            if result.is_ok() && parts.peek().is_some() {
                let logits = |(place, row): (usize, &Row)| {
                    if row.logits {
                        self.context.logits(place).to_vec()
                    } else {
                        Vec::new()
                    }
                };
                self.earlier.extend(part.iter().enumerate().map(logits));
            }
        }
        self.rows = rows;
        self.rows.clear();
        result
    }

    /// Returns how many filler rows to add: as many as make whole groups, and one where llama.cpp would
    /// compute the last row by itself, which rounds differently.
    fn filling(&self, group: usize) -> usize {
        let rows = self.rows.len();
        let filling = missing_in_group(rows, group);
        filling.max(usize::from(self.leaves_a_row_over(rows)))
    }

    /// Whether llama.cpp would compute the last of `rows` rows by itself.
    pub(super) fn leaves_a_row_over(&self, rows: usize) -> bool {
        rows > self.rows_at_once && rows % self.rows_at_once == 1
    }

    /// Adds filler rows, `outputs` of them with logits.
    fn fill(&mut self, rows: usize, outputs: usize) {
        let filler = self.filler;
        self.rows.extend((0..rows).map(|position| Row {
            token: Token(0),
            position: u32::try_from(position).unwrap_or(u32::MAX),
            sequence: filler,
            logits: position < outputs,
        }));
    }

    /// Returns the logits of row `row` of the last batch.
    pub(super) fn logits(&self, row: usize) -> &[f32] {
        match self.earlier.get(row) {
            Some(logits) => logits,
            None => self.context.logits(row - self.earlier.len()),
        }
    }

    pub(super) fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        self.context.share(from, to, length);
    }

    /// Returns how many cells a sequence has.
    pub(super) fn length(&self, sequence: SeqId) -> usize {
        self.context.length(sequence)
    }

    pub(super) fn copied_bytes(&self, sequence: SeqId) -> usize {
        self.context.copied_bytes(sequence)
    }

    /// Copies the first `length` cells of a sequence.
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

    /// Returns the cache's memory to the operating system if it is empty.
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

/// Returns how many rows complete the last group, where that costs less than the rows left over: each
/// of those takes almost as long as a whole group.
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
