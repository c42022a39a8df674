//! An engine that makes one mistake of the kinds that a scheduler or an engine could make.

use edgellm::engine::{AdapterError, DecodeError, Engine, KvCopy, Row, SeqId, Shape, Token};

use crate::scenario::Situation;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A token near the end of a prompt is another one.
    WrongToken,
    /// Two tokens next to each other changed their positions.
    SwappedPositions,
    /// Each row has the logits of the one before it in the batch.
    LogitsOfAnother,
    /// The last cell of a shared beginning is of another token.
    StaleShare,
    /// The second half of a copy is of other tokens.
    StaleCopy,
}

impl Fault {
    /// Those that a model can show.
    pub fn all(shares_prefixes: bool) -> Vec<Self> {
        let mut all = vec![
            Self::WrongToken,
            Self::SwappedPositions,
            Self::LogitsOfAnother,
        ];
        if shares_prefixes {
            all.extend([Self::StaleShare, Self::StaleCopy]);
        }
        all
    }

    /// Where it would happen.
    pub fn shown_in(self) -> Situation {
        match self {
            Self::WrongToken | Self::SwappedPositions | Self::StaleShare => Situation::Alone,
            Self::LogitsOfAnother => Situation::Together,
            Self::StaleCopy => Situation::Shelved,
        }
    }
}

/// See the module's text; without a fault it does what its engine does.
#[derive(Debug)]
pub struct Faulty<E> {
    engine: E,
    fault: Option<Fault>,
    /// Rows of the last batch that have logits.
    outputs: Vec<usize>,
}

impl<E: Engine> Faulty<E> {
    pub fn new(engine: E, fault: Option<Fault>) -> Self {
        Self {
            engine,
            fault,
            outputs: Vec::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Puts another token where `sequence` has its own from position `from` up to `length`.
    fn spoil(&mut self, sequence: SeqId, from: usize, length: usize) {
        let from = u32::try_from(from).expect("small");
        let to = u32::try_from(length).expect("small");
        self.engine.truncate(sequence, from);
        let wrong = |position| Row {
            token: Token(1000),
            position,
            sequence,
            logits: false,
        };
        let rows: Vec<Row> = (from..to).map(wrong).collect();
        for rows in rows.chunks(self.shape().batch_rows) {
            self.engine.decode(rows).expect("there were cells");
        }
    }
}

/// Cells, and how many.
#[derive(Debug)]
pub struct CountedCopy<C> {
    cells: C,
    length: usize,
}

impl<C: KvCopy> KvCopy for CountedCopy<C> {
    fn bytes(&self) -> usize {
        self.cells.bytes()
    }
}

impl<E: Engine> Engine for Faulty<E> {
    type KvCopy = CountedCopy<E::KvCopy>;
    type AdapterFile = E::AdapterFile;

    fn shape(&self) -> Shape {
        self.engine.shape()
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        let mut rows = rows.to_vec();
        let outputs = rows.iter().enumerate().filter(|(_, row)| row.logits);
        self.outputs = outputs.map(|(index, _)| index).collect();
        // In the last words of a prompt.
        let is_behind_words = |index: &usize| {
            let end = rows[*index + 8];
            let distance = end.position.checked_sub(rows[*index].position);
            end.logits && end.sequence == rows[*index].sequence && distance == Some(8)
        };
        let found = (1..rows.len().saturating_sub(8)).find(is_behind_words);
        if let Some(index) = found {
            match self.fault {
                Some(Fault::WrongToken) => rows[index].token = Token(1000),
                Some(Fault::SwappedPositions) => {
                    let token = rows[index].token;
                    rows[index].token = rows[index - 1].token;
                    rows[index - 1].token = token;
                }
                _ => {}
            }
        }
        self.engine.decode(&rows)
    }

    fn logits(&self, row: usize) -> &[f32] {
        let place = self.outputs.iter().position(|output| *output == row);
        let place = place.expect("a row with logits");
        let before = place.saturating_sub(usize::from(self.has(Fault::LogitsOfAnother)));
        self.engine.logits(self.outputs[before])
    }

    fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        self.engine.share(from, to, length);
        if self.has(Fault::StaleShare) {
            self.spoil(to, length - 1, length);
        }
    }

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        self.engine.copied_bytes(sequence)
    }

    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<Self::KvCopy> {
        let cells = self.engine.copy_out(sequence, length)?;
        Some(CountedCopy { cells, length })
    }

    fn copy_in(&mut self, copied: &Self::KvCopy, to: SeqId) -> bool {
        let has_room = self.engine.copy_in(&copied.cells, to);
        if has_room && self.has(Fault::StaleCopy) {
            self.spoil(to, copied.length / 2, copied.length);
        }
        has_room
    }

    fn truncate(&mut self, sequence: SeqId, from: u32) {
        self.engine.truncate(sequence, from);
    }

    fn give_back(&mut self, partition: usize) {
        self.engine.give_back(partition);
    }

    fn add_adapter(&mut self, file: E::AdapterFile) -> Result<usize, AdapterError> {
        self.engine.add_adapter(file)
    }

    fn remove_adapter(&mut self, partition: usize) {
        self.engine.remove_adapter(partition);
    }
}
