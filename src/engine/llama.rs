//! The real engine: llama.cpp contexts over one model.

use std::marker::PhantomData;

use slab::Slab;

use super::adapter::Adapter;
use super::adapter_file::{AdapterError, AdapterFile, AdapterProblem};
use super::attention::{Attention, ModelDimensions, attention};
use super::context::Cells;
use super::memory::kv_cache_bytes;
use super::partition::Partition;
use super::partition_threads::PartitionThreads;
use super::{DecodeError, Engine, KvCopy, LoadError, Row, SeqId, Shape, Weights, return_freed};

/// The sizes of an engine's contexts, and how they compute.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// KV cells shared by all sequences.
    pub cells: u32,
    /// Sequences that can exist at once in a partition (llama.cpp allows 256, one of which is the
    /// engine's own).
    pub sequences: u32,
    /// Most rows of one decode.
    pub batch_rows: u32,
    /// Threads that compute, for all partitions together.
    pub threads: u32,
    /// Most threads that compute the same partition.
    pub threads_per_partition: u32,
    /// Most bytes that the KV partitions may take together, if there is more than one.
    pub memory: u64,
    /// How attention is computed; `None` chooses what suits the model.
    pub attention: Option<Attention>,
    /// Whether a sequence's logits must not depend on what else is computed, which takes plain attention:
    /// see [`Shape::exact_block`].
    pub deterministic: bool,
}

/// A llama.cpp context for each partition of the KV cache; it borrows its model and belongs to one
/// thread.
#[derive(Debug)]
pub struct LlamaEngine<'model> {
    weights: &'model Weights,
    options: EngineOptions,
    /// Those of the model alone, then those of adapters, where one that is removed leaves its place to the
    /// next.
    partitions: Slab<Partition<'model>>,
    partition_threads: PartitionThreads,
    shape: Shape,
    attention: Attention,
    /// Where each row of the last batch was computed: the partition, and the row's index there.
    places: Vec<(usize, usize)>,
    /// Adapters are freed where the weights are, so an engine does not leave that thread.
    one_thread: PhantomData<*const ()>,
}

impl<'model> LlamaEngine<'model> {
    /// Allocates caches and compute buffers.
    ///
    /// # Errors
    /// [`LoadError::Context`] when llama.cpp refuses, most often for want of memory.
    pub fn new(weights: &'model Weights, options: EngineOptions) -> Result<Self, LoadError> {
        let weight = ModelDimensions::of(weights);
        let attention = attention(options, weight);
        let mut partition = Partition::new(weights, options, attention, None)?;
        let llama = weights.llama();
        // These compute the rows of each sequence by themselves, so filler rows would cost time.
        let is_apart = llama.is_recurrent() || llama.is_hybrid();
        let row_group = if is_apart { 1 } else { partition.row_group()? };
        let mut batch_rows = partition.batch_rows().min(options.batch_rows as usize);
        if partition.leaves_a_row_over(batch_rows) {
            // A full batch would leave no room for the filler row.
            batch_rows -= 1;
        }
        let cells = partition.cells();
        let vocabulary = weights.info().vocabulary;
        let exact_block = match attention {
            Attention::Plain => Some(partition.exact_block(vocabulary)?),
            Attention::Flash => None,
        };
        let bytes = kv_cache_bytes(weights, cells)
            .map(|cache| cache + weight.buffer_bytes(options, vocabulary));
        let mut partitions = vec![partition];
        for _ in 1..attention.partitions(bytes, options.memory) {
            match Partition::new(weights, options, attention, None) {
                Ok(mut partition) => {
                    partition.compute_in_blocks(exact_block);
                    partitions.push(partition);
                }
                Err(error) => {
                    // The memory of the last partition that could be made may be needed for other things.
                    partitions.truncate(partitions.len().max(2) - 1);
                    tracing::warn!(%error, banks = partitions.len(), "fewer banks of the KV cache than planned");
                    break;
                }
            }
        }
        let partition_threads = PartitionThreads::new(
            options.threads,
            options.threads_per_partition,
            partitions.len(),
        );
        let shape = Shape {
            cells,
            partitions: u32::try_from(partitions.len()).unwrap_or(1),
            threads: partition_threads.threads(),
            sequences: options.sequences,
            batch_rows,
            // `ggml_fa_tile_config::Q`: below it flash attention walks cell by cell.
            tile_rows: match attention {
                Attention::Plain => 0,
                Attention::Flash => 64,
            },
            row_group,
            break_even_cells: weight.break_even_cells(attention),
            most_copied: weight.most_copied(attention),
            exact_block,
            vocabulary,
            shares_prefixes: weights.info().shares_prefixes,
        };
        Ok(Self {
            weights,
            options,
            partitions: partitions.into_iter().enumerate().collect(),
            partition_threads,
            shape,
            attention,
            places: Vec::new(),
            one_thread: PhantomData,
        })
    }

    /// How it computes attention.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
    }

    fn partition(&self, sequence: SeqId) -> &Partition<'model> {
        &self.partitions[self.shape.partition(sequence)]
    }

    fn partition_mut(&mut self, sequence: SeqId) -> &mut Partition<'model> {
        &mut self.partitions[self.shape.partition(sequence)]
    }

    /// Makes a partition whose rows are computed with an adapter. Adapters round on their own, so whether
    /// that depends on the number of rows is found out anew.
    fn adapted_partition(
        &self,
        adapter: Adapter<'model>,
        source: &AdapterFile,
    ) -> Result<(Partition<'model>, Option<usize>), AdapterError> {
        let failed = |error: LoadError| AdapterError::Context {
            path: source.path.clone(),
            reason: match error {
                LoadError::Context(Some(reason)) => reason,
                error => error.to_string(),
            },
        };
        let partition = Partition::new(self.weights, self.options, self.attention, Some(adapter));
        let mut partition = partition.map_err(failed)?;
        if !partition.computes_numbers() {
            return Err(source.unfit(AdapterProblem::NotFinite));
        }
        let vocabulary = self.shape.vocabulary;
        let exact_block = match self.shape.exact_block {
            Some(_) => Some(partition.exact_block(vocabulary).map_err(failed)?),
            None => None,
        };
        Ok((partition, exact_block))
    }

    /// Frees the cells that rows have got already.
    fn take_back(&mut self, rows: &[Row]) {
        for row in rows.iter().rev() {
            self.truncate(row.sequence, row.position);
        }
    }
}

/// The keys and values of a sequence, in llama.cpp's format.
#[derive(Debug)]
pub struct LlamaKvCopy(Cells);

impl KvCopy for LlamaKvCopy {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Engine for LlamaEngine<'_> {
    type KvCopy = LlamaKvCopy;
    type AdapterFile = AdapterFile;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.places.clear();
        for row in rows {
            let partition = self.shape.partition(row.sequence);
            let sequence = self.shape.local(row.sequence);
            let place = self.partitions[partition].add(Row { sequence, ..*row });
            self.places.push((partition, place));
        }
        let busy = self
            .partitions
            .iter_mut()
            .map(|(_, partition)| partition)
            .filter(|partition| partition.missing() > 0);
        let result = self
            .partition_threads
            .compute(busy.collect(), self.shape.row_group);
        if result.is_err() {
            self.take_back(rows);
        }
        result
    }

    fn logits(&self, row: usize) -> &[f32] {
        let (partition, row) = self.places[row];
        self.partitions[partition].logits(row)
    }

    fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        let (local, to_local) = (self.shape.local(from), self.shape.local(to));
        self.partition_mut(from).share(local, to_local, length);
    }

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        let (partition, local) = (self.partition(sequence), self.shape.local(sequence));
        (partition.length(local) <= self.shape.most_copied).then(|| partition.copied_bytes(local))
    }

    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<LlamaKvCopy> {
        let local = self.shape.local(sequence);
        self.partition_mut(sequence)
            .copy_out(local, length)
            .map(LlamaKvCopy)
    }

    fn copy_in(&mut self, copied: &LlamaKvCopy, to: SeqId) -> bool {
        let local = self.shape.local(to);
        self.partition_mut(to).copy_in(&copied.0, local)
    }

    fn truncate(&mut self, sequence: SeqId, from: u32) {
        let local = self.shape.local(sequence);
        self.partition_mut(sequence).truncate(local, from);
    }

    fn give_back(&mut self, partition: usize) {
        self.partitions[partition].give_back();
    }

    fn add_adapter(&mut self, source: AdapterFile) -> Result<usize, AdapterError> {
        let adapter = Adapter::load(self.weights, &source)?;
        let (partition, exact_block) = self.adapted_partition(adapter, &source)?;
        self.shape.exact_block = self.shape.exact_block.max(exact_block);
        let index = self.partitions.insert(partition);
        self.partition_threads.serve(self.partitions.len());
        self.shape.threads = self.partition_threads.threads();
        Ok(index)
    }

    fn remove_adapter(&mut self, partition: usize) {
        drop(self.partitions.try_remove(partition));
        return_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Token;
    use super::super::{LoadWatch, load_model};
    use super::*;

    fn kiosk(cells: u32) -> (Weights, EngineOptions) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
        let model = load_model(path.as_ref(), &LoadWatch::default());
        let (weights, _) = model.expect("it ships");
        let options = EngineOptions {
            cells,
            sequences: 8,
            batch_rows: 64,
            threads: 1,
            threads_per_partition: 1,
            memory: 1 << 30,
            attention: None,
            deterministic: false,
        };
        (weights, options)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cells_take_memory_when_they_are_used() {
        let (weights, options) = kiosk(16_384);
        let mut engine = LlamaEngine::new(&weights, options).expect("a context");
        let (all, unused) = engine.partitions[0].resident();
        assert_eq!(all >> 20, 40);
        assert!(unused < all / 100, "{unused}");
        engine.decode(&rows(0, 300..364)).expect("computed");
        let (_, used) = engine.partitions[0].resident();
        // Half of it, where the system gives huge pages to whoever touches a byte.
        assert!(used > unused && used < all * 3 / 4, "{used}");
        engine.give_back(0);
        assert_eq!(engine.partitions[0].resident().1, used, "it is in use");
        engine.truncate(SeqId(0), 0);
        engine.give_back(0);
        assert!(engine.partitions[0].resident().1 < used);
    }

    #[test]
    fn what_is_copied_in_is_what_was_copied_out() {
        for attention in [Attention::Plain, Attention::Flash] {
            let (weights, options) = kiosk(1024);
            let options = EngineOptions {
                attention: Some(attention),
                ..options
            };
            let mut engine = LlamaEngine::new(&weights, options).expect("a context");
            // Two sequences side by side, so that neither's cells lie together.
            for position in 0..128 {
                let mut both = at(position, rows(1, 300..301));
                both.extend(at(position, rows(2, 500..501)));
                engine.decode(&both).expect("computed");
            }
            let copied = engine.copy_out(SeqId(1), 128).expect("copied");
            assert_eq!(engine.copied_bytes(SeqId(1)), Some(copied.bytes()));
            // Half of it, too, as when another question follows.
            let ask = |engine: &mut LlamaEngine<'_>| {
                [128, 64].map(|length| {
                    engine.truncate(SeqId(1), length);
                    let question = at(length, rows(1, 900..905));
                    engine.decode(&question).expect("computed");
                    engine.logits(question.len() - 1).to_vec()
                })
            };
            let [whole, half] = ask(&mut engine);
            engine.truncate(SeqId(1), 0);
            // Others lie where it lay.
            engine.decode(&rows(3, 500..540)).expect("computed");
            assert!(engine.copy_in(&copied, SeqId(1)));
            let [copied_whole, copied_half] = ask(&mut engine);
            assert_near(&whole, &copied_whole);
            assert_near(&half, &copied_half);
        }
    }

    /// Threads, and threads per partition: one partition after the other, in parallel, all together.
    const THREADS: [(u32, u32); 3] = [(1, 1), (3, 1), (2, 2)];

    #[test]
    fn a_sequence_says_the_same_in_every_partition_and_whatever_is_in_others() {
        for threads in THREADS {
            says_the_same_in_every_partition(threads);
        }
    }

    fn says_the_same_in_every_partition((threads, threads_per_partition): (u32, u32)) {
        let (weights, options) = kiosk(1024);
        let options = EngineOptions {
            batch_rows: 512,
            threads,
            threads_per_partition,
            ..options
        };
        let mut engine = LlamaEngine::new(&weights, options).expect("contexts");
        let (partitions, sequences) = (engine.shape().partitions, engine.shape().sequences);
        assert_eq!(partitions, 8);
        let alone = |engine: &mut LlamaEngine<'_>| {
            let batch = rows(0, 300..340);
            engine.decode(&batch).expect("computed");
            engine.logits(39).to_vec()
        };
        let expected = alone(&mut engine);
        engine.truncate(SeqId(0), 0);
        // One in each partition, mixed row by row, beside another in the first.
        let mut batch = Vec::new();
        for position in 0..40 {
            for partition in 0..partitions {
                let token = 300 + i32::try_from(position).expect("small");
                batch.extend(at(position, rows(partition * sequences, token..token + 1)));
            }
        }
        batch.extend(rows(1, 900..950));
        engine.decode(&batch).expect("computed");
        for partition in 0..partitions as usize {
            assert_near(
                &expected,
                engine.logits(39 * partitions as usize + partition),
            );
        }
        let shared = SeqId(2 * sequences + 1);
        engine.share(SeqId(2 * sequences), shared, 39);
        let copied = SeqId(3 * sequences + 1);
        let beginning = engine.copy_out(SeqId(2 * sequences), 39).expect("copied");
        assert!(engine.copy_in(&beginning, copied));
        assert_eq!(
            engine.partition(copied).length(engine.shape.local(copied)),
            39
        );
        for sequence in [shared, copied] {
            let last = at(39, rows(sequence.0, 339..340));
            engine.decode(&last).expect("computed");
            assert_near(&expected, engine.logits(0));
        }
    }

    #[test]
    fn alone_in_its_partition_a_sequence_comes_out_bit_for_bit() {
        let mut all = Vec::new();
        for (threads, threads_per_partition) in THREADS {
            let (weights, options) = kiosk(1024);
            let options = EngineOptions {
                batch_rows: 512,
                threads,
                threads_per_partition,
                ..options
            };
            let mut engine = LlamaEngine::new(&weights, options).expect("contexts");
            let block = engine.shape().exact_block.expect("attention is plain");
            let sequences = engine.shape().sequences;
            // At once, in batches of several sizes, and beside what is computed in another partition; then a
            // row by itself.
            for (partition, chunks) in [(0, &[129_u32][..]), (0, &[2, 64, 63]), (3, &[33, 96])] {
                let sequence = partition * sequences + 2;
                let mut position = 0;
                for chunk in chunks {
                    let chunk = chunk.next_multiple_of(u32::try_from(block).expect("small"));
                    let end = 129.min(position + chunk);
                    let token = |position| i32::try_from(300 + position).expect("small");
                    let mut batch = at(position, rows(sequence, token(position)..token(end)));
                    batch.extend(rows(5 * sequences, 900..907));
                    engine.decode(&batch).expect("computed");
                    engine.truncate(SeqId(5 * sequences), 0);
                    position = end;
                }
                engine
                    .decode(&at(129, rows(sequence, 700..701)))
                    .expect("computed");
                let bits: Vec<u32> = engine.logits(0).iter().map(|l| l.to_bits()).collect();
                all.push(bits);
                engine.truncate(SeqId(sequence), 0);
            }
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]));
    }

    #[test]
    fn where_one_partition_is_full_nothing_is_computed_in_the_others() {
        for (threads, threads_per_partition) in THREADS {
            let (weights, options) = kiosk(256);
            nothing_is_computed_beside_a_full_partition(
                &weights,
                EngineOptions {
                    threads,
                    threads_per_partition,
                    ..options
                },
            );
        }
    }

    fn nothing_is_computed_beside_a_full_partition(weights: &Weights, options: EngineOptions) {
        let mut engine = LlamaEngine::new(weights, options).expect("contexts");
        let second = engine.shape().sequences;
        for part in 0..4 {
            let part = at(64 * part, rows(second, 300..364));
            engine.decode(&part).expect("there is room");
        }
        engine.decode(&rows(0, 300..310)).expect("computed");
        let mut both = at(10, rows(0, 310..320));
        both.extend(at(256, rows(second, 400..401)));
        for _ in 0..2 {
            assert_eq!(engine.decode(&both), Err(DecodeError::NoCells));
        }
        assert_eq!(engine.partitions[0].length(SeqId(0)), 10);
        assert_eq!(engine.partitions[1].length(SeqId(0)), 256);
        engine.truncate(SeqId(second), 0);
        engine.give_back(1);
        engine.decode(&at(10, rows(0, 310..320))).expect("computed");
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
        let (weights, options) = kiosk(256);
        let mut engine = LlamaEngine::new(&weights, options).expect("a context");
        engine.decode(&rows(0, 300..364)).expect("computed");
        let copied = engine.copy_out(SeqId(0), 64).expect("copied");
        for sequence in 1..4 {
            engine.decode(&rows(sequence, 300..364)).expect("computed");
        }
        assert!(!engine.copy_in(&copied, SeqId(4)));
        engine.truncate(SeqId(0), 0);
        assert!(engine.copy_in(&copied, SeqId(4)));
    }

    #[test]
    fn a_small_context_takes_small_batches() {
        let (weights, options) = kiosk(300);
        let options = EngineOptions {
            batch_rows: 4096,
            ..options
        };
        let mut engine = LlamaEngine::new(&weights, options).expect("a context");
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
        let (weights, options) = kiosk(256);
        let logits = |group: usize| {
            let mut engine = LlamaEngine::new(&weights, options).expect("a context");
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
        let (weights, options) = kiosk(256);
        let mut engine = LlamaEngine::new(&weights, options).expect("a context");
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
