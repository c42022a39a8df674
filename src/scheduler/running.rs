//! A sequence in the batch, and what it drafts in a step.

use std::time::Instant;

use crate::admission::ServiceTier;
use crate::engine::{Pieces, SeqId, Token};
use crate::telemetry::ModelMetrics;

use super::batch_admission::Admission;
use super::sequence::{Sequence, SequenceProgress};
use super::speculation::{self, DraftOutcome, DraftProposal, DraftSource};

/// A sequence in the batch, which has an id in the engine.
#[derive(Debug)]
pub(super) struct RunningSequence {
    pub(super) id: SeqId,
    pub(super) sequence: Sequence,
    /// The tier as which it joined: its own, or a higher one because it had waited for long.
    pub(super) tier: ServiceTier,
    /// Cells of its own that it was to need when it joined.
    novel: usize,
    /// False while it waits for another to compute a prefix that both have.
    pub(super) has_started: bool,
    /// Tokens that it computes in this step beyond those that are certain.
    pub(super) draft: Draft,
}

impl RunningSequence {
    pub(super) fn new(id: SeqId, sequence: Sequence, admission: &Admission) -> Self {
        Self {
            id,
            sequence,
            tier: admission.tier,
            novel: admission.novel,
            has_started: false,
            draft: Draft::default(),
        }
    }

    /// Tokens that it still has to compute, as far as that is known.
    pub(super) fn ahead(&self) -> usize {
        if self.has_started {
            self.sequence.missing()
        } else {
            self.novel
        }
    }

    /// Rows of the batch that it is charged for when it computes `share` of its tokens and its
    /// draft: those with logits of its answer, and the others.
    pub(super) fn charged_rows(&self, share: usize) -> (usize, usize) {
        let ends = usize::from(share > 0 && share == self.sequence.missing());
        (ends + self.draft.len(), share - ends)
    }

    /// Drafts what it proposed.
    pub(super) fn take_draft(&mut self, proposal: DraftProposal) {
        self.draft.source = Some(proposal.source);
        self.draft
            .tokens
            .extend(self.sequence.proposed_tokens(proposal));
    }

    /// Picks the next token from the logits of row `first`, and one more from each row after it
    /// as long as the draft had what was picked.
    pub(super) fn advance<'a>(
        &mut self,
        first: usize,
        logits: &dyn Fn(usize) -> &'a [f32],
        pieces: &dyn Pieces,
        now: Instant,
        metrics: &ModelMetrics,
    ) -> SequenceProgress {
        loop {
            let row = first + self.draft.accepted;
            let progress = self.sequence.advance(logits(row), pieces, now, metrics);
            let drafted = self.draft.tokens.get(self.draft.accepted);
            if progress == SequenceProgress::Ended || drafted != self.sequence.tokens().last() {
                return progress;
            }
            self.draft.accepted += 1;
            self.sequence.computed_more(1);
        }
    }

    /// Drafts what it proposes as far as that is expected to pay, by nothing but its own tokens, so
    /// that as many rows are computed together each time. Returns how many tokens it drafts.
    pub(super) fn draft_alone(&mut self, room: usize) -> usize {
        let Some(proposal) = self.sequence.draft_proposal() else {
            return 0;
        };
        let length = speculation::lone_draft_length(proposal, self.sequence.record()).min(room);
        if length == 0 {
            self.watch(proposal);
        } else {
            self.take_draft(DraftProposal { length, ..proposal });
        }
        length
    }

    /// Drafts nothing, but remembers the first token of the proposal, to learn whether it was right.
    pub(super) fn watch(&mut self, proposal: DraftProposal) {
        self.draft.source = Some(proposal.source);
        self.draft.expected = self.sequence.proposed_tokens(proposal).next();
    }

    /// How its proposal fared, if it had one. Tokens that an answer left over because it ended do not
    /// count as wrong, and of a proposal that was only watched the first token counts.
    pub(super) fn draft_outcome(
        &self,
        progress: SequenceProgress,
    ) -> Option<(DraftSource, DraftOutcome)> {
        let source = self.draft.source?;
        let accepted = self.draft.accepted;
        let (drafted, accepted) = match (self.draft.expected, progress) {
            (Some(token), _) => (
                1,
                usize::from(self.sequence.tokens().last() == Some(&token)),
            ),
            (None, SequenceProgress::Continues) => (self.draft.tokens.len(), accepted),
            (None, SequenceProgress::Ended) => (accepted, accepted),
        };
        Some((source, DraftOutcome { drafted, accepted }))
    }
}

/// Tokens with which a sequence may go on, computed along with its next one.
#[derive(Debug, Default)]
pub(super) struct Draft {
    tokens: Vec<Token>,
    source: Option<DraftSource>,
    /// The first token of a proposal that was not worth drafting.
    expected: Option<Token>,
    accepted: usize,
}

impl Draft {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.source = None;
        self.expected = None;
        self.accepted = 0;
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.tokens.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many of its tokens were right.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Whether the cache has cells of drafted tokens that were wrong.
    pub(super) fn has_rejected(&self) -> bool {
        self.accepted < self.tokens.len()
    }
}
