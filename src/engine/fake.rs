//! A deterministic stand-in for llama.cpp, for tests of the scheduler's logic.
//!
//! The next token is a fixed function of the whole history of a sequence, so
//! that a lost, doubled or misplaced cell changes the text; rows that do not
//! continue their sequence are a bug of the caller and panic.

use std::collections::{BTreeMap, BTreeSet};

use super::{Copied, DecodeError, Engine, Pieces, Row, SeqId, Shape, Token};

/// See the module's text.
#[derive(Debug)]
pub struct FakeEngine {
    shape: Shape,
    /// How many of the last tokens decide on the next one.
    memory: usize,
    /// What each sequence holds: tokens and the cells they lie in, which may be shared.
    histories: BTreeMap<SeqId, Vec<(Token, u64)>>,
    next_cell: u64,
    outputs: BTreeMap<usize, Vec<f32>>,
    /// Decodes so far that were computed.
    pub decodes: usize,
    /// Rows of all of them.
    pub rows: usize,
    /// Cells that were copied in.
    pub copied_in: usize,
    /// Times that the memory of a bank was given back.
    pub given_back: usize,
}

impl FakeEngine {
    /// An engine with nothing in its cache.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            memory: usize::MAX,
            histories: BTreeMap::new(),
            next_cell: 0,
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

    /// Cells in use, each counted once.
    #[must_use]
    pub fn used(&self) -> usize {
        (0..self.shape.banks)
            .map(|bank| self.used_in(bank as usize))
            .sum()
    }

    fn used_in(&self, bank: usize) -> usize {
        let histories = self.histories.iter();
        let here = histories.filter(|(sequence, _)| self.shape.bank(**sequence) == bank);
        let cells: BTreeSet<u64> = here
            .flat_map(|(_, history)| history.iter().map(|(_, cell)| *cell))
            .collect();
        cells.len()
    }

    /// Whether a bank could hold so many cells more; of all together it takes no notice.
    fn has_room(&self, bank: usize, more: usize) -> bool {
        self.used_in(bank) + more <= self.shape.cells
    }

    /// What a lone greedy run over `prompt` generates: `count` tokens.
    #[must_use]
    pub fn continuation(&self, prompt: &[Token], count: usize) -> Vec<Token> {
        let mut history = prompt.to_vec();
        for _ in 0..count {
            history.push(self.next(&history));
        }
        history.split_off(prompt.len())
    }

    /// FNV-1a over what is remembered, reduced to the vocabulary; never the last token, which
    /// ends answers.
    fn next(&self, history: &[Token]) -> Token {
        let remembered = &history[history.len().saturating_sub(self.memory)..];
        let hash = remembered
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
                (hash ^ u64::from(token.0.unsigned_abs())).wrapping_mul(0x0100_0000_01b3)
            });
        let choices = u64::try_from(self.shape.vocabulary - 1).unwrap_or(1);
        Token(i32::try_from((hash >> 20) % choices).unwrap_or(0))
    }
}

/// The tokens of a sequence; a cell takes a byte.
#[derive(Debug)]
pub struct CopiedTokens(Vec<Token>);

impl Copied for CopiedTokens {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Engine for FakeEngine {
    type Copied = CopiedTokens;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        assert!(!rows.is_empty(), "an empty batch");
        assert!(rows.len() <= self.shape.batch_rows, "too many rows");
        let rows_in = |bank| {
            let is_here = |row: &&Row| self.shape.bank(row.sequence) == bank;
            rows.iter().filter(is_here).count()
        };
        let mut banks = 0..self.shape.banks as usize;
        if !banks.all(|bank| self.has_room(bank, rows_in(bank))) {
            return Err(DecodeError::NoCells);
        }
        self.outputs.clear();
        self.decodes += 1;
        self.rows += rows.len();
        for (index, row) in rows.iter().enumerate() {
            let bank = self.shape.bank(row.sequence);
            assert!(bank < self.shape.banks as usize, "no such sequence");
            let history = self.histories.entry(row.sequence).or_default();
            assert_eq!(
                history.len(),
                row.position as usize,
                "row does not continue its sequence"
            );
            history.push((row.token, self.next_cell));
            self.next_cell += 1;
            if row.logits {
                let mut logits = vec![0.0; self.shape.vocabulary];
                let tokens: Vec<Token> = history.iter().map(|(token, _)| *token).collect();
                let likely = self.next(&tokens);
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
        let (there, here) = (self.shape.bank(from), self.shape.bank(to));
        assert_eq!(there, here, "banks share nothing");
        let beginning = self.histories[&from][..length].to_vec();
        self.histories.insert(to, beginning);
    }

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        let bytes = self.histories.get(&sequence).map(Vec::len);
        bytes.filter(|bytes| *bytes <= self.shape.most_copied)
    }

    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<CopiedTokens> {
        assert!(length <= self.shape.most_copied, "too much to copy");
        let history = self.histories.get(&sequence)?[..length].iter();
        let tokens = history.map(|(token, _)| *token).collect();
        Some(CopiedTokens(tokens))
    }

    fn copy_in(&mut self, copied: &CopiedTokens, to: SeqId) -> bool {
        assert!(!self.histories.contains_key(&to), "the target has cells");
        if !self.has_room(self.shape.bank(to), copied.0.len()) {
            return false;
        }
        let cells = (self.next_cell..).zip(&copied.0);
        let history = cells.map(|(cell, token)| (*token, cell)).collect();
        self.next_cell += copied.0.len() as u64;
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

    fn give_back(&mut self, bank: usize) {
        let is_here = |sequence: &SeqId| self.shape.bank(*sequence) == bank;
        assert!(!self.histories.keys().any(is_here), "the bank is in use");
        self.given_back += 1;
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
