//! An engine that notes what it was asked: which tokens each sequence holds, by what the scheduler did with
//! it, and the logits behind every beginning. It is a bookkeeping of its own: what the scheduler believes of
//! its cells plays no part in it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use edgellm::engine::{AdapterError, DecodeError, Engine, KvCopy, Row, SeqId, Shape, Token};

/// The logits behind a beginning.
#[derive(Debug)]
pub struct Noted {
    pub beginning: Vec<Token>,
    pub logits: Vec<f32>,
}

/// What an engine was asked.
#[derive(Debug, Default)]
pub struct Notes {
    pub noted: Vec<Noted>,
    /// Tokens that sequences got without computing them: shared, and out of copies.
    pub shared: usize,
    pub copied_in: usize,
    /// Time on a machine on which a batch takes as long as its rows say, so that whatever the
    /// scheduler does is the same in every run.
    pub elapsed: Duration,
}

impl Notes {
    /// Of the made-up machine: a batch, and each of its rows.
    const BATCH: Duration = Duration::from_millis(5);
    const ROW: Duration = Duration::from_millis(1);

    fn took(&mut self, rows: usize) {
        self.elapsed += Self::BATCH + Self::ROW * u32::try_from(rows).expect("a batch is small");
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Recording<E> {
    engine: E,
    /// The tokens of each sequence.
    held: Vec<Vec<Token>>,
    notes: Rc<RefCell<Notes>>,
}

impl<E: Engine> Recording<E> {
    pub fn new(engine: E, notes: Rc<RefCell<Notes>>) -> Self {
        let shape = engine.shape();
        let sequences = (shape.sequences * shape.partitions) as usize;
        Self {
            engine,
            held: vec![Vec::new(); sequences],
            notes,
        }
    }

    fn held(&mut self, sequence: SeqId) -> &mut Vec<Token> {
        &mut self.held[sequence.0 as usize]
    }
}

/// Cells, and the tokens that they are of.
#[derive(Debug)]
pub struct RecordedCopy<C> {
    cells: C,
    tokens: Vec<Token>,
}

impl<C: KvCopy> KvCopy for RecordedCopy<C> {
    fn bytes(&self) -> usize {
        self.cells.bytes()
    }
}

impl<E: Engine> Engine for Recording<E> {
    type KvCopy = RecordedCopy<E::KvCopy>;
    type AdapterFile = E::AdapterFile;

    fn shape(&self) -> Shape {
        self.engine.shape()
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.engine.decode(rows)?;
        self.notes.borrow_mut().took(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let held = self.held(row.sequence);
            assert_eq!(
                row.position as usize,
                held.len(),
                "a row leaves a gap, or stands where another does"
            );
            held.push(row.token);
            if row.logits {
                let noted = Noted {
                    beginning: held.clone(),
                    logits: self.engine.logits(index).to_vec(),
                };
                self.notes.borrow_mut().noted.push(noted);
            }
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.engine.logits(row)
    }

    fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        assert!(
            self.held(to).is_empty(),
            "a sequence that has cells is given others"
        );
        self.engine.share(from, to, length);
        *self.held(to) = self.held(from)[..length].to_vec();
        self.notes.borrow_mut().shared += length;
    }

    fn copied_bytes(&self, sequence: SeqId) -> Option<usize> {
        self.engine.copied_bytes(sequence)
    }

    fn copy_out(&mut self, sequence: SeqId, length: usize) -> Option<Self::KvCopy> {
        let cells = self.engine.copy_out(sequence, length)?;
        let tokens = self.held(sequence)[..length].to_vec();
        Some(RecordedCopy { cells, tokens })
    }

    fn copy_in(&mut self, copied: &Self::KvCopy, to: SeqId) -> bool {
        assert!(
            self.held(to).is_empty(),
            "a sequence that has cells is given others"
        );
        let has_room = self.engine.copy_in(&copied.cells, to);
        if has_room {
            self.held(to).clone_from(&copied.tokens);
            self.notes.borrow_mut().copied_in += copied.tokens.len();
        }
        has_room
    }

    fn truncate(&mut self, sequence: SeqId, from: u32) {
        self.engine.truncate(sequence, from);
        self.held(sequence).truncate(from as usize);
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
