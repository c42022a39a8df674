//! The real engine: one llama.cpp context.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::attention::{Attention, Weight, attention};
use super::model::{LoadError, Model, backend};
use super::pages::CachePages;
use super::{Copied, DecodeError, Engine, Row, SeqId, Shape, Token};

/// Rows that llama.cpp multiplies at once with weights that it has rearranged (`repack.cpp`); for
/// each row that is left over it reads all of them again.
const ROW_GROUP: usize = 4;
/// For so long it is tried out whether it does that.
const TRIAL: Duration = Duration::from_millis(500);
const TRIALS: u32 = 3;

/// How a context is laid out.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// KV cells shared by all sequences.
    pub cells: u32,
    /// Sequences that can exist at once (llama.cpp allows 256, one of which is the engine's own).
    pub sequences: u32,
    /// Rows of one decode at most.
    pub batch_rows: u32,
    /// Threads that compute.
    pub threads: u32,
    /// How attention is computed; `None` is what suits the model.
    pub attention: Option<Attention>,
}

/// A llama.cpp context with a unified KV cache; it borrows its model and
/// belongs to one thread.
#[derive(Debug)]
pub struct LlamaEngine<'model> {
    context: LlamaContext<'model>,
    /// Behind the context: it was told where this is, and goes first.
    pages: Arc<CachePages>,
    batch: LlamaBatch<'static>,
    shape: Shape,
    attention: Attention,
    /// The sequence of rows that nobody asked for.
    filler: SeqId,
    /// Cells of a sequence that may be copied out.
    most_copied: usize,
}

impl<'model> LlamaEngine<'model> {
    /// Allocates cache and compute buffers.
    ///
    /// # Errors
    /// [`LoadError::Context`] when llama.cpp refuses, most often for want of memory.
    pub fn new(model: &'model Model, options: EngineOptions) -> Result<Self, LoadError> {
        let weight = Weight::of(model);
        let attention = attention(options, weight);
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        let mut params = LlamaContextParams::default()
            // llama.cpp rounds up in any case, but cuts the batch to what stands here before.
            .with_n_ctx(NonZeroU32::new(options.cells.next_multiple_of(256)))
            // One micro-batch a batch: a decode either happened or it did not.
            .with_n_batch(options.batch_rows)
            .with_n_ubatch(options.batch_rows)
            .with_n_seq_max(options.sequences + 1)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(true)
            .with_flash_attention_policy(attention.policy())
            .with_no_perf(true);
        // SAFETY: it lives in the engine, behind the context; where none can be made, in this scope.
        let pages = unsafe { CachePages::of(&mut params) };
        let context = model
            .weights()
            .new_context(backend()?, params)
            .map_err(|_| LoadError::Context(super::logs::last_error()))?;
        let shape = Shape {
            cells: context.n_ctx() as usize,
            sequences: options.sequences,
            batch_rows: context.n_batch() as usize,
            // `ggml_fa_tile_config::Q`: below it flash attention walks cell by cell.
            tile_rows: match attention {
                Attention::Plain => 0,
                Attention::Flash => 64,
            },
            row_group: 1,
            crowd_cells: weight.crowd_cells(attention, options.threads),
            vocabulary: model.info().vocabulary,
            shares_prefixes: model.info().shares_prefixes,
        };
        let mut engine = Self {
            context,
            pages,
            batch: LlamaBatch::new(shape.batch_rows, 1),
            shape,
            attention,
            filler: SeqId(options.sequences),
            most_copied: weight.most_copied(attention),
        };
        // The first one waits until the weights are read from the disk.
        engine.try_out(1)?;
        let weights = model.weights();
        // Those compute the rows of different sequences apart: rows to fill up would be in the way.
        let is_apart = weights.is_recurrent() || weights.is_hybrid();
        if !is_apart && engine.multiplies_in_groups()? {
            engine.shape.row_group = ROW_GROUP;
        }
        // SAFETY: `try_out` leaves nothing in the cache, and nobody else had it yet.
        unsafe { engine.pages.give_back() };
        Ok(engine)
    }

    /// Whether a whole number of groups takes less time than one row less.
    fn multiplies_in_groups(&mut self) -> Result<bool, LoadError> {
        let whole = 2 * ROW_GROUP;
        if self.shape.batch_rows < whole || self.shape.cells < whole {
            return Ok(false);
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
        Ok(shortest_whole < shortest_less.mul_f64(0.9))
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

    /// How it computes attention.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
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

/// Keys and values of a sequence in llama.cpp's format, with the positions.
#[derive(Debug)]
pub struct CopiedCells(SeqState);

impl Copied for CopiedCells {
    fn bytes(&self) -> usize {
        self.0.byte_len()
    }
}

impl Engine for LlamaEngine<'_> {
    type Copied = CopiedCells;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.add_all(rows)?;
        let outputs = rows.iter().filter(|row| row.logits).count();
        let group = self.shape.row_group;
        let filling = missing_in_group(rows.len(), group);
        if filling > 0 && rows.len() + filling <= self.shape.batch_rows {
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

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        let id = index(sequence.0);
        let cells = self.context.kv_cache_seq_pos_max(id) + 1;
        if usize::try_from(cells).ok()? > self.most_copied {
            return None;
        }
        let whole = LlamaStateSeqFlags::empty();
        Some(self.context.state_seq_get_size_ext(id, whole))
    }

    fn copy_out(&self, sequence: SeqId) -> Option<CopiedCells> {
        let whole = LlamaStateSeqFlags::empty();
        let copied = self.context.state_seq_get(index(sequence.0), whole);
        copied.ok().map(CopiedCells)
    }

    fn copy_in(&mut self, copied: &CopiedCells, to: SeqId) -> bool {
        self.context.state_seq_set(&copied.0, index(to.0)).is_ok()
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
    fn batches_are_filled_where_a_group_takes_less_than_what_is_left_over() {
        let filled = |rows| rows + missing_in_group(rows, 4);
        let sizes: Vec<usize> = (1..=16).map(filled).collect();
        assert_eq!(
            sizes,
            [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16]
        );
        assert!((0..40).all(|rows| missing_in_group(rows, 1) == 0));
    }

    fn kiosk(cells: u32) -> (Model, EngineOptions) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
        let model = Model::load(path.as_ref(), &std::sync::Arc::default()).expect("it ships");
        let options = EngineOptions {
            cells,
            sequences: 8,
            batch_rows: 64,
            threads: 1,
            attention: None,
        };
        (model, options)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cells_take_memory_when_they_are_used() {
        let (model, options) = kiosk(16_384);
        let mut engine = LlamaEngine::new(&model, options).expect("a context");
        let (all, unused) = engine.pages.resident();
        assert_eq!(all >> 20, 40);
        assert!(unused < all / 100, "{unused}");
        engine.decode(&rows(0, 300..364)).expect("computed");
        let (_, used) = engine.pages.resident();
        // Half of it, where the system gives huge pages to whoever touches a byte.
        assert!(used > unused && used < all * 3 / 4, "{used}");
    }

    #[test]
    fn what_is_copied_in_is_what_was_copied_out() {
        for attention in [Attention::Plain, Attention::Flash] {
            let (model, options) = kiosk(1024);
            let options = EngineOptions {
                attention: Some(attention),
                ..options
            };
            let mut engine = LlamaEngine::new(&model, options).expect("a context");
            // Two sequences side by side, so that neither's cells lie together.
            for position in 0..128 {
                let mut both = at(position, rows(1, 300..301));
                both.extend(at(position, rows(2, 500..501)));
                engine.decode(&both).expect("computed");
            }
            let copied = engine.copy_out(SeqId(1)).expect("copied");
            assert_eq!(engine.copied_bytes(SeqId(1)), Some(copied.bytes()));
            let ask = |engine: &mut LlamaEngine<'_>, position: u32| {
                let question = at(position, rows(1, 900..905));
                engine.decode(&question).expect("computed");
                engine.logits(question.len() - 1).to_vec()
            };
            let before = ask(&mut engine, 128);
            engine.truncate(SeqId(1), 0);
            // Others lie where it lay.
            engine.decode(&rows(3, 500..540)).expect("computed");
            assert!(engine.copy_in(&copied, SeqId(1)));
            assert_near(&before, &ask(&mut engine, 128));

            // Half of it, as when another question follows.
            engine.truncate(SeqId(1), 64);
            let half = ask(&mut engine, 64);
            engine.truncate(SeqId(1), 0);
            for position in 0..64 {
                let row = at(position, rows(1, 300..301));
                engine.decode(&row).expect("computed");
            }
            assert_near(&half, &ask(&mut engine, 64));
        }
    }

    fn at(position: u32, mut rows: Vec<Row>) -> Vec<Row> {
        for row in &mut rows {
            row.position += position;
        }
        rows
    }

    fn assert_near(logits: &[f32], others: &[f32]) {
        let apart = logits.iter().zip(others).map(|(a, b)| (a - b).abs());
        let most = apart.fold(0.0, f32::max);
        assert!(most < 0.05, "{most}");
    }

    #[test]
    fn without_room_nothing_is_copied_in() {
        let (model, options) = kiosk(256);
        let mut engine = LlamaEngine::new(&model, options).expect("a context");
        engine.decode(&rows(0, 300..364)).expect("computed");
        let copied = engine.copy_out(SeqId(0)).expect("copied");
        for sequence in 1..4 {
            engine.decode(&rows(sequence, 300..364)).expect("computed");
        }
        assert!(!engine.copy_in(&copied, SeqId(4)));
        engine.truncate(SeqId(0), 0);
        assert!(engine.copy_in(&copied, SeqId(4)));
    }

    #[test]
    fn a_small_context_takes_small_batches() {
        let (model, options) = kiosk(300);
        let options = EngineOptions {
            batch_rows: 4096,
            ..options
        };
        let mut engine = LlamaEngine::new(&model, options).expect("a context");
        assert_eq!((engine.shape.cells, engine.shape.batch_rows), (512, 512));
        engine.shape.row_group = 4;
        engine
            .decode(&rows(0, 300..811))
            .expect("one less than a group");
    }

    fn rows(sequence: u32, tokens: std::ops::Range<i32>) -> Vec<Row> {
        let last = tokens.end - 1;
        (0..)
            .zip(tokens)
            .map(|(position, token)| Row {
                token: Token(token),
                position,
                sequence: SeqId(sequence),
                logits: token == last,
            })
            .collect()
    }

    #[test]
    fn rows_that_fill_a_group_change_nothing_and_leave_nothing_behind() {
        let (model, options) = kiosk(256);
        let logits = |group: usize| {
            let mut engine = LlamaEngine::new(&model, options).expect("a context");
            engine.shape.row_group = group;
            // Again and again, so that what was left behind would fill the cache.
            let likely: Vec<usize> = (0..40)
                .map(|_| {
                    let mut batch = rows(0, 300..330);
                    batch.extend(rows(1, 400..431));
                    engine.decode(&batch).expect("computed");
                    let logits = engine.logits(batch.len() - 1);
                    let likely = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                    engine.truncate(SeqId(0), 0);
                    engine.truncate(SeqId(1), 0);
                    likely.expect("a vocabulary")
                })
                .collect();
            likely
        };
        assert_eq!(logits(4), logits(1));
    }

    #[test]
    fn the_last_cell_can_be_used_though_the_group_has_no_room() {
        let (model, options) = kiosk(256);
        let mut engine = LlamaEngine::new(&model, options).expect("a context");
        engine.shape.row_group = 4;
        let cells = engine.shape.cells;
        for start in (0..cells - 7).step_by(7) {
            let mut seven = rows(0, 300..307);
            for row in &mut seven {
                row.position += u32::try_from(start).expect("small");
            }
            engine.decode(&seven).expect("there is room");
        }
        let used = (cells - 7).div_ceil(7) * 7;
        let rest = i32::try_from(cells - used).expect("small");
        engine.decode(&rows(1, 300..300 + rest)).expect("all of it");
        assert_eq!(
            engine.decode(&rows(2, 300..303)),
            Err(DecodeError::NoCells),
            "and no more"
        );
    }
}
