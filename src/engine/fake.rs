//! A deterministic stand-in for llama.cpp, for tests of the scheduler's logic.
//!
//! The next token is a fixed function of the whole history of a sequence, so
//! that a lost, doubled or misplaced cell changes the text; rows that do not
//! continue their sequence are a bug of the caller and panic.
//!
//! One that [rounds](FakeEngine::rounding) decides by what llama.cpp's rounding depends on as well:
//! where cells lie, and whether a row was computed by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{AdapterError, DecodeError, Engine, KvCopy, Pieces, Row, SeqId, Shape, Token};

/// An engine whose answers are a fixed function of each sequence's history.
#[derive(Debug)]
pub struct FakeEngine {
    shape: Shape,
    /// How many of the last tokens decide on the next one.
    memory: usize,
    /// What each sequence holds: tokens and the cells they lie in, which may be shared.
    histories: BTreeMap<SeqId, Vec<Cell>>,
    rounds: bool,
    /// By partition behind those of the model alone, the adapter with which its rows are computed.
    adapters: Vec<Option<FakeAdapter>>,
    outputs: BTreeMap<usize, Vec<f32>>,
    /// Decodes so far that were computed.
    pub decodes: usize,
    /// Rows of all of them.
    pub rows: usize,
    /// Cells that were copied in.
    pub copied_in: usize,
    /// Times that the memory of a partition was given back.
    pub given_back: usize,
}

/// An adapter of the fake engine: each number makes other answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FakeAdapter(pub u32);

/// Returns the number by which an adapter changes answers.
fn effect(adapter: Option<FakeAdapter>) -> u64 {
    adapter.map_or(0, |FakeAdapter(number)| (u64::from(number) + 1) << 32)
}

/// A token of a sequence, where it lies in its partition, and how it was computed there, which counts if the
/// engine rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    place: usize,
    token: Token,
    /// With which it was computed.
    adapter: Option<FakeAdapter>,
    value: u64,
}

impl Cell {
    /// What of it decides on the next token where the engine does not round.
    fn content(&self) -> u64 {
        number(self.token) ^ effect(self.adapter)
    }
}

impl FakeEngine {
    /// An engine with nothing in its cache.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            memory: usize::MAX,
            histories: BTreeMap::new(),
            rounds: false,
            adapters: Vec::new(),
            outputs: BTreeMap::new(),
            decodes: 0,
            rows: 0,
            copied_in: 0,
            given_back: 0,
        }
    }

    /// One that decides by the last token alone, so that it soon repeats itself.
    #[must_use]
    pub fn forgetful(shape: Shape) -> Self {
        Self {
            memory: 1,
            ..Self::new(shape)
        }
    }

    /// One whose answers tell where cells lay and how rows were batched.
    #[must_use]
    pub fn rounding(shape: Shape) -> Self {
        Self {
            rounds: true,
            ..Self::new(shape)
        }
    }

    /// Cells in use, each counted once.
    #[must_use]
    pub fn used(&self) -> usize {
        (0..self.partitions())
            .map(|partition| self.used_in(partition))
            .sum()
    }

    /// All partitions, also those that were removed.
    fn partitions(&self) -> usize {
        self.shape.partitions as usize + self.adapters.len()
    }

    /// The adapter with which a partition's rows are computed.
    ///
    /// # Panics
    /// If there is no such partition.
    fn adapter_of(&self, partition: usize) -> Option<FakeAdapter> {
        let place = partition.checked_sub(self.shape.partitions as usize)?;
        let adapter = self.adapters.get(place).copied().flatten();
        Some(adapter.expect("no such sequence"))
    }

    fn used_in(&self, partition: usize) -> usize {
        self.places_in(partition).len()
    }

    fn places_in(&self, partition: usize) -> BTreeSet<usize> {
        let histories = self.histories.iter();
        let here = histories.filter(|(sequence, _)| self.shape.partition(**sequence) == partition);
        here.flat_map(|(_, history)| history.iter().map(|cell| cell.place))
            .collect()
    }

    /// The first places of a partition that are free, as llama.cpp takes them.
    fn free_places(&self, partition: usize) -> impl Iterator<Item = usize> + use<> {
        let used = self.places_in(partition);
        (0..).filter(move |place| !used.contains(place))
    }

    /// Whether a partition could hold `more` further cells; the bound for all partitions together is the
    /// caller's to keep.
    fn has_room(&self, partition: usize, more: usize) -> bool {
        self.used_in(partition) + more <= self.shape.cells
    }

    /// What of a batch has a say in how a row is rounded: whether it is computed by itself, or where
    /// [`Shape::exact_block`] has it so, with how many others.
    fn batched(&self, row: &Row, rows: &[Row]) -> u64 {
        let shape = self.shape;
        let is_beside =
            |other: &&Row| shape.partition(other.sequence) == shape.partition(row.sequence);
        let beside: Vec<&Row> = rows.iter().filter(is_beside).collect();
        let block = match shape.exact_block {
            Some(block) if block > 1 => block,
            _ => return u64::from(beside.len() == 1),
        };
        if beside.iter().any(|other| other.sequence != row.sequence) {
            return 1000 + beside.len() as u64;
        }
        let block_of = |row: &Row| row.position as usize / block;
        let together = beside
            .iter()
            .filter(|other| block_of(other) == block_of(row));
        together.count() as u64
    }

    /// What a lone greedy run over `prompt` generates: `count` tokens.
    #[must_use]
    pub fn continuation(&self, prompt: &[Token], count: usize) -> Vec<Token> {
        self.continuation_with(None, prompt, count)
    }

    /// The same with an adapter.
    #[must_use]
    pub fn continuation_with(
        &self,
        adapter: Option<FakeAdapter>,
        prompt: &[Token],
        count: usize,
    ) -> Vec<Token> {
        let mut history = prompt.to_vec();
        for _ in 0..count {
            let contents = history.iter().map(|token| number(*token) ^ effect(adapter));
            history.push(self.next(contents));
        }
        history.split_off(prompt.len())
    }

    /// Reduced to the vocabulary; never the last token, which ends answers.
    fn next(&self, history: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator) -> Token {
        let forgotten = history.len().saturating_sub(self.memory);
        let hash = hash(history.skip(forgotten));
        let choices = u64::try_from(self.shape.vocabulary - 1).unwrap_or(1);
        Token(i32::try_from((hash >> 20) % choices).unwrap_or(0))
    }
}

fn number(token: Token) -> u64 {
    u64::from(token.0.unsigned_abs())
}

/// FNV-1a.
fn hash(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| {
        (hash ^ number).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The cells of a sequence, in the order in which they lay; a cell takes a byte.
#[derive(Debug)]
pub struct FakeKvCopy(Vec<(usize, Cell)>);

impl KvCopy for FakeKvCopy {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Engine for FakeEngine {
    type KvCopy = FakeKvCopy;
    type AdapterFile = FakeAdapter;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        assert!(!rows.is_empty(), "an empty batch");
        let rows_in = |partition| {
            let is_here = |row: &&Row| self.shape.partition(row.sequence) == partition;
            rows.iter().filter(is_here).count()
        };
        let batch_rows = self.shape.batch_rows;
        let mut partitions = 0..self.partitions();
        assert!(
            partitions
                .clone()
                .all(|partition| rows_in(partition) <= batch_rows),
            "too many rows"
        );
        if !partitions.all(|partition| self.has_room(partition, rows_in(partition))) {
            return Err(DecodeError::NoCells);
        }
        self.outputs.clear();
        self.decodes += 1;
        self.rows += rows.len();
        let places = |partition: usize| self.free_places(partition);
        let mut free: Vec<_> = (0..self.partitions()).map(places).collect();
        let batched: Vec<u64> = rows.iter().map(|row| self.batched(row, rows)).collect();
        for (index, row) in rows.iter().enumerate() {
            let partition = self.shape.partition(row.sequence);
            let adapter = self.adapter_of(partition);
            let place = free[partition].next().unwrap_or_default();
            let history = self.histories.entry(row.sequence).or_default();
            assert_eq!(
                history.len(),
                row.position as usize,
                "row does not continue its sequence"
            );
            let seen = history.iter().map(|cell| cell.value ^ cell.place as u64);
            let token = number(row.token) ^ effect(adapter);
            let computed = [token, place as u64, batched[index]];
            let value = hash(seen.chain(computed));
            history.push(Cell {
                place,
                token: row.token,
                adapter,
                value,
            });
            if row.logits {
                let mut logits = vec![0.0; self.shape.vocabulary];
                let history = &self.histories[&row.sequence];
                let likely = if self.rounds {
                    self.next(history.iter().map(|cell| cell.value))
                } else {
                    self.next(history.iter().map(Cell::content))
                };
                logits[usize::try_from(likely.0).unwrap_or(0)] = 10.0;
                self.outputs.insert(index, logits);
            }
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.outputs.get(&row).expect("logits were not asked for")
    }

    fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        assert!(!self.histories.contains_key(&to), "the target has cells");
        let (there, here) = (self.shape.partition(from), self.shape.partition(to));
        assert_eq!(there, here, "partitions share nothing");
        let beginning = self.histories[&from][..length].to_vec();
        self.histories.insert(to, beginning);
    }

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        let bytes = self.histories.get(&sequence).map(Vec::len);
        bytes.filter(|bytes| *bytes <= self.shape.most_copied)
    }

    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<FakeKvCopy> {
        assert!(length <= self.shape.most_copied, "too much to copy");
        let history = self.histories.get(&sequence)?[..length].iter();
        let mut cells: Vec<_> = history.copied().enumerate().collect();
        cells.sort_by_key(|(_, cell)| cell.place);
        Some(FakeKvCopy(cells))
    }

    fn copy_in(&mut self, copied: &FakeKvCopy, to: SeqId) -> bool {
        assert!(!self.histories.contains_key(&to), "the target has cells");
        let adapter = self.adapter_of(self.shape.partition(to));
        assert!(
            copied.0.iter().all(|(_, cell)| cell.adapter == adapter),
            "cells of another adapter"
        );
        if !self.has_room(self.shape.partition(to), copied.0.len()) {
            return false;
        }
        let places = self.free_places(self.shape.partition(to)).zip(&copied.0);
        let mut history: Vec<_> = places
            .map(|(place, (position, cell))| (*position, Cell { place, ..*cell }))
            .collect();
        history.sort_by_key(|(position, _)| *position);
        let history = history.into_iter().map(|(_, cell)| cell).collect();
        self.histories.insert(to, history);
        self.copied_in += copied.0.len();
        true
    }

    fn truncate(&mut self, sequence: SeqId, from: u32) {
        if let Some(history) = self.histories.get_mut(&sequence) {
            history.truncate(from as usize);
            if history.is_empty() {
                self.histories.remove(&sequence);
            }
        }
    }

    fn give_back(&mut self, partition: usize) {
        let is_here = |sequence: &SeqId| self.shape.partition(*sequence) == partition;
        assert!(
            !self.histories.keys().any(is_here),
            "the partition is in use"
        );
        self.given_back += 1;
    }

    fn add_adapter(&mut self, adapter: FakeAdapter) -> Result<usize, AdapterError> {
        let vacant = self.adapters.iter().position(Option::is_none);
        let place = vacant.unwrap_or(self.adapters.len());
        if vacant.is_none() {
            self.adapters.push(None);
        }
        self.adapters[place] = Some(adapter);
        Ok(self.shape.partitions as usize + place)
    }

    fn remove_adapter(&mut self, partition: usize) {
        assert_eq!(self.used_in(partition), 0, "the partition is in use");
        let place = partition.checked_sub(self.shape.partitions as usize);
        let place = place.and_then(|place| self.adapters.get_mut(place));
        let removed = place.and_then(Option::take);
        assert!(removed.is_some(), "the model alone has the partition");
    }
}

/// Tokens `0..=254` are the bytes of the same value, `255` ends an answer.
#[derive(Debug)]
pub struct BytePieces {
    bytes: Vec<u8>,
}

impl Default for BytePieces {
    fn default() -> Self {
        Self {
            bytes: (0..=254).collect(),
        }
    }
}

impl Pieces for BytePieces {
    fn piece(&self, token: Token) -> &[u8] {
        usize::try_from(token.0)
            .ok()
            .and_then(|index| self.bytes.get(index..=index))
            .unwrap_or_default()
    }

    fn is_end(&self, token: Token) -> bool {
        token.0 == 255
    }
}
