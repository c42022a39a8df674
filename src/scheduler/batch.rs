//! The rows that one step computes.

use crate::engine::{Engine, Row};

use super::cache::Cache;
use super::running::RunningSequence;

/// The rows of one step, sequence by sequence.
#[derive(Debug, Default)]
pub(super) struct Batch {
    rows: Vec<Row>,
    /// By running sequence, the place of its first row.
    first_rows: Vec<usize>,
}

impl Batch {
    /// Replaces the rows by the next ones of the `running` sequences: for each as many of its known
    /// tokens as its share, and its draft after them.
    pub(super) fn fill(&mut self, running: &[RunningSequence], shares: &[usize]) {
        self.rows.clear();
        self.first_rows.clear();
        for (running, &share) in running.iter().zip(shares) {
            self.first_rows.push(self.rows.len());
            let known = running.sequence.next_rows(share);
            let drafted = (running.sequence.len()..).zip(running.draft.tokens());
            for (position, token) in known.chain(drafted) {
                self.rows.push(Row {
                    token,
                    position: u32::try_from(position).unwrap_or(u32::MAX),
                    sequence: running.id,
                    logits: running.sequence.needs_logits(position),
                });
            }
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// By running sequence, the place of its first row.
    pub(super) fn first_rows(&self) -> &[usize] {
        &self.first_rows
    }

    /// How many rows have logits.
    pub(super) fn output_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.logits).count()
    }

    /// How many rows without logits one partition alone would compute in the time that the
    /// partitions take for theirs side by side.
    #[allow(
        clippy::cast_precision_loss, // a batch has thousands of rows at most
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(super) fn effective_prompt_rows<E: Engine>(&self, cache: &Cache<E>) -> usize {
        let mut partitions = vec![0.0; cache.partition_count()];
        for row in self.rows.iter().filter(|row| !row.logits) {
            partitions[cache.partition_of(row.sequence)] += 1.0;
        }
        cache
            .shape()
            .threads
            .single_partition_equivalent(&partitions)
            .round() as usize
    }
}
