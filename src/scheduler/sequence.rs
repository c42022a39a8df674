//! One request in the scheduler: how far it is, and its way out.

use std::time::Instant;

use crate::engine::{Pieces, SeqId, Token};
use crate::sampling::{self, Logprobs, Sampler};
use crate::telemetry::ModelMetrics;
use crate::worker::WorkError;

use super::events::SendError;
use super::job::{Class, Event, FinishReason, Finished, Job, Text, Timings};
use super::speculation::{
    self, AcceptanceRecord, DraftOutcome, DraftProposal, DraftSource, Prediction,
};
use super::text::{PushOutcome, TextAssembler};

/// Whether a sequence goes on after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Continues,
    Ended,
}

/// There are no phases beyond this: *computed* catches up with *tokens*,
/// many at a time in a prompt and one at a time in an answer. A sequence that
/// lost its cells starts over from `computed == 0` with the same tokens.
#[derive(Debug)]
pub(super) struct Sequence {
    job: Job,
    /// Prompt and answer.
    tokens: Vec<Token>,
    /// How many of `tokens` have their cell.
    computed: usize,
    sampler: Sampler,
    /// How likely the prompt's tokens behind the first are, as far as is known; none where nobody
    /// asks, and once it is told.
    scores: Option<Vec<Logprobs>>,
    text: TextAssembler,
    prediction: Option<Prediction>,
    /// How its drafts have fared.
    record: AcceptanceRecord,
    /// When it last came into the queue.
    queued: Instant,
    /// Tokens of the prompt that were there already when it first began.
    cached: Option<usize>,
    /// Joules so far, unless some of them are not known.
    joules: Option<f64>,
    taken_up: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    finished: bool,
    /// Whether it is computed so that it comes out the same each time: see `cache::exact`.
    exact: bool,
}

impl Sequence {
    pub(super) fn new(mut job: Job) -> Self {
        let tokens = job.prompt.to_vec();
        let params = std::mem::take(&mut job.sampling);
        let sampler = Sampler::new(params, &tokens, job.guide.take());
        let text = TextAssembler::new(std::mem::take(&mut job.stops));
        let prediction = job.prediction.take().map(Prediction::new);
        let scores = job.prompt_logprobs.map(|_| Vec::new());
        Self {
            queued: job.arrived,
            job,
            tokens,
            computed: 0,
            sampler,
            scores,
            text,
            prediction,
            record: AcceptanceRecord::default(),
            cached: None,
            joules: Some(0.0),
            taken_up: None,
            first_token: None,
            last_token: None,
            finished: false,
            exact: false,
        }
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Those whose cells may be another's: what is to be scored has to be computed.
    pub(super) fn sharable(&self) -> &[Token] {
        match &self.scores {
            Some(scores) => &self.tokens[..scores.len()],
            None => &self.tokens,
        }
    }

    /// Whether its client expects the same answer each time.
    pub(super) fn repeats(&self) -> bool {
        self.job.repeats
    }

    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }

    pub(super) fn set_exact(&mut self, exact: bool) {
        self.exact = exact;
    }

    /// Those of [`Sequence::sharable`] whose cells an exact sequence may have from another: never of
    /// an answer, and not so much that a single row of the prompt is left.
    pub(super) fn sharable_exactly(&self) -> &[Token] {
        let most = self.job.prompt.len().saturating_sub(LEAST_ROWS);
        let sharable = self.sharable();
        &sharable[..most.min(sharable.len())]
    }

    /// So many rows that `share` allows, in batches that are the same each time: of a prompt two at
    /// least, or whole blocks; of an answer, which had to give way, one by one.
    pub(super) fn exact_share(&self, share: usize, block: usize) -> usize {
        exact_share(self.computed, self.job.prompt.len(), share, block)
    }

    /// Whether what it has computed so far is of its prompt.
    pub(super) fn is_in_prompt(&self) -> bool {
        self.computed <= self.job.prompt.len()
    }

    /// Whether tokens of its prompt are still to be scored.
    pub(super) fn is_scoring(&self) -> bool {
        self.scores.is_some()
    }

    /// Whether the logits behind `position` are needed.
    pub(super) fn needs_logits(&self, position: usize) -> bool {
        let scores = self.scores.as_ref();
        position + 1 >= self.tokens.len() || scores.is_some_and(|scores| position >= scores.len())
    }

    /// Takes the scores out of the next `count` rows, the first of which is row `first` of the batch.
    pub(super) fn score<'a>(
        &mut self,
        first: usize,
        count: usize,
        logits: &dyn Fn(usize) -> &'a [f32],
    ) {
        let (Some(scores), Some(top)) = (&mut self.scores, self.job.prompt_logprobs) else {
            return;
        };
        let prompt = &self.job.prompt;
        for (row, position) in (first..first + count).zip(self.computed..) {
            if position == scores.len()
                && let Some(token) = prompt.get(position + 1)
            {
                scores.push(sampling::logprobs(logits(row), *token, top));
            }
        }
        if scores.len() + 1 >= prompt.len() {
            let scores = std::mem::take(scores);
            self.scores = None;
            self.send(Event::Prompt(scores));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    pub(super) fn missing(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether an answer is under way that a reader waits on.
    pub(super) fn is_decoding(&self) -> bool {
        self.first_token.is_some() && self.missing() == 1
    }

    /// What it computes, as the metrics name it.
    pub(super) fn phase(&self) -> &'static str {
        if self.is_decoding() {
            "generation"
        } else {
            "prompt"
        }
    }

    /// Whether it ended by itself, heard or not.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn client_left(&self) -> bool {
        self.job.events.is_closed()
    }

    /// How the answer may go on; never beyond the last token that it may have.
    pub(super) fn draft_proposal(&self) -> Option<DraftProposal> {
        if !self.is_decoding() {
            return None;
        }
        // The step brings one token in any case.
        let most = (self.job.max_tokens - self.generated()).saturating_sub(1) as usize;
        let predicted = self.prediction.as_ref().and_then(Prediction::proposal);
        let proposal = predicted.or_else(|| speculation::prompt_lookup(&self.tokens))?;
        let length = proposal.length.min(most);
        (length > 0).then_some(DraftProposal { length, ..proposal })
    }

    /// The tokens of its proposal.
    fn proposed_tokens(&self, proposal: DraftProposal) -> impl Iterator<Item = Token> {
        proposal.tokens(match &self.prediction {
            Some(prediction) if proposal.source == DraftSource::PREDICTION => prediction.tokens(),
            _ => &self.tokens,
        })
    }

    pub(super) fn class(&self) -> Class {
        self.job.class
    }

    /// What decides when it is its turn. One that had to give way in mid-answer goes before those
    /// that came later, but for the lowest class, which would only give way again.
    pub(super) fn rank(&self) -> (Class, Instant) {
        let since = match self.job.class {
            Class::Flex => self.queued,
            Class::Default | Class::Priority => self.job.arrived,
        };
        (self.job.class, since)
    }

    /// Since when it waits.
    pub(super) fn queued(&self) -> Instant {
        self.queued
    }

    pub(super) fn record(&self) -> &AcceptanceRecord {
        &self.record
    }

    pub(super) fn record_mut(&mut self) -> &mut AcceptanceRecord {
        &mut self.record
    }

    /// It begins with `shared` tokens computed; the rest is its own work.
    pub(super) fn start(&mut self, shared: usize, metrics: &ModelMetrics) {
        self.computed = shared;
        if self.cached.is_none() {
            self.cached = Some(shared);
            metrics.prefix_queries.inc();
            metrics.prefix_hits.inc_by(u64::from(shared > 0));
            metrics.prompt_tokens_cached.inc_by(shared as u64);
        }
    }

    /// The next `count` tokens to compute with their positions.
    pub(super) fn next_rows(&self, count: usize) -> impl Iterator<Item = (usize, Token)> + '_ {
        self.tokens
            .iter()
            .copied()
            .enumerate()
            .skip(self.computed)
            .take(count)
    }

    /// Tells the client that `ahead` others go before it.
    pub(super) fn waits(&self, ahead: usize) {
        self.job.progress.waits(ahead);
    }

    pub(super) fn take_up(&mut self, now: Instant, metrics: &ModelMetrics) {
        self.job.progress.runs();
        if self.taken_up.is_none() {
            self.taken_up = Some(now);
            let waited = now.duration_since(self.job.arrived).as_secs_f64();
            metrics.queue_duration.observe(waited);
            metrics.prompt_tokens.inc_by(self.job.prompt.len() as u64);
        }
    }

    pub(super) fn computed_more(&mut self, rows: usize) {
        self.computed += rows;
        debug_assert!(self.computed <= self.tokens.len());
    }

    /// A step cost so many joules; none if nobody knows.
    pub(super) fn spent(&mut self, joules: Option<f64>) {
        self.joules = self.joules.zip(joules).map(|(all, more)| all + more);
    }

    /// It waits again, without cells of its own.
    pub(super) fn requeue(&mut self, now: Instant) {
        self.computed = 0;
        self.exact = false;
        self.queued = now;
    }

    /// Picks the next token from `logits` and sends what became text.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        pieces: &dyn Pieces,
        now: Instant,
        metrics: &ModelMetrics,
    ) -> Progress {
        if self.finished {
            // The scores of its prompt found no room.
            return Progress::Ended;
        }
        let (index, most) = (self.generated(), self.job.max_tokens);
        if most == 0 {
            self.finish(FinishReason::Length, now, metrics);
            return Progress::Ended;
        }
        let Ok(token) = self.sampler.sample(logits, index, most) else {
            self.fail(WorkError::Grammar);
            return Progress::Ended;
        };
        self.tokens.push(token);
        if let Some(prediction) = &mut self.prediction {
            prediction.follow(&self.tokens[self.job.prompt.len()..]);
        }
        self.clock_token(now, metrics);

        let ends =
            (pieces.is_end(token) && !self.job.ignore_end) || self.job.stop_tokens.contains(&token);
        let reason = if ends {
            Some(FinishReason::Stop)
        } else {
            let top = self.job.logprobs;
            let logprobs = top.map(|top| sampling::logprobs(logits, token, top));
            let mut tags = self.job.tags.iter();
            let pushed = match tags.find(|tag| tag.token == token) {
                Some(tag) => self.text.push_tag(&tag.text, logprobs),
                None => self.text.push(pieces.piece(token), logprobs),
            };
            let (text, stopped) = match pushed {
                PushOutcome::Text(text) => (text, self.sampler.is_complete()),
                PushOutcome::Stopped(text) => (text, true),
            };
            if !self.send_text(text) {
                return Progress::Ended;
            }
            if stopped {
                Some(FinishReason::Stop)
            } else {
                (self.generated() >= self.job.max_tokens).then_some(FinishReason::Length)
            }
        };
        match reason {
            Some(reason) => {
                self.finish(reason, now, metrics);
                Progress::Ended
            }
            None => Progress::Continues,
        }
    }

    /// Tells the client that nothing more comes.
    pub(super) fn fail(&mut self, error: WorkError) {
        self.job
            .span
            .in_scope(|| tracing::warn!(%error, "request failed"));
        self.send(Event::Failed(error));
        self.finished = true;
    }

    /// The client is gone.
    pub(super) fn cancelled(&self, metrics: &ModelMetrics) {
        metrics.cancelled.inc();
        let generated = self.generated();
        self.job
            .span
            .in_scope(|| tracing::info!(generated_tokens = generated, "client left"));
    }

    /// Tokens of its answer so far.
    pub(super) fn generated(&self) -> u32 {
        u32::try_from(self.tokens.len() - self.job.prompt.len()).unwrap_or(u32::MAX)
    }

    fn clock_token(&mut self, now: Instant, metrics: &ModelMetrics) {
        metrics.generation_tokens.inc();
        if let Some(last) = self.last_token.replace(now) {
            // Several tokens of one step come at one moment: what counts is the silence before.
            if now > last {
                let silence = now.duration_since(last).as_secs_f64();
                metrics.inter_token_latency.observe(silence);
            }
        } else {
            self.first_token = Some(now);
            metrics
                .time_to_first_token
                .observe(now.duration_since(self.job.arrived).as_secs_f64());
        }
    }

    fn finish(&mut self, reason: FinishReason, now: Instant, metrics: &ModelMetrics) {
        let assembler = std::mem::take(&mut self.text);
        self.send_text(assembler.finish(reason));
        if self.finished {
            return;
        }
        let taken_up = self.taken_up.unwrap_or(self.job.arrived);
        let first = self.first_token.unwrap_or(now);
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        let timings = Timings {
            queue: seconds(self.job.arrived, taken_up),
            prefill: seconds(taken_up, first),
            decode: seconds(first, now),
        };
        metrics.prefill_duration.observe(timings.prefill);
        metrics.decode_duration.observe(timings.decode);
        metrics
            .request_duration
            .observe(seconds(self.job.arrived, now));
        let finished = Finished {
            reason,
            prompt_tokens: u32::try_from(self.job.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: u32::try_from(self.cached.unwrap_or(0)).unwrap_or(u32::MAX),
            generated_tokens: self.generated(),
            predicted_tokens: self.prediction.as_ref().map(Prediction::usage),
            energy_joules: self.joules,
            timings,
        };
        if let Some(joules) = self.joules {
            metrics.energy.request(joules);
        }
        // Before the client hears of it: its next request must find the place free.
        if let Some(mut place) = self.job.place.take() {
            place.served();
        }
        self.send(Event::Finished(finished));
        self.finished = true;
    }

    fn send_text(&mut self, text: Text) -> bool {
        text.text.is_empty() && text.tokens == 0 || self.send(Event::Text(text))
    }

    /// False when the client is gone, or has read too little for more to find room: then this answer
    /// fails, and no other.
    fn send(&mut self, event: Event) -> bool {
        match self.job.events.send(event) {
            Ok(()) => true,
            Err(SendError::ClientLeft) => false,
            Err(SendError::NoRoom) => {
                self.fail(WorkError::Unread);
                false
            }
        }
    }
}

/// A row of a prompt is never computed by itself: it would be by another method.
const LEAST_ROWS: usize = 2;

/// See [`Sequence::exact_share`].
fn exact_share(computed: usize, prompt: usize, share: usize, block: usize) -> usize {
    if share == 0 || computed >= prompt {
        return share.min(1);
    }
    let missing = prompt - computed;
    if block > 1 {
        let whole = if share >= missing {
            missing
        } else {
            share / block * block
        };
        return whole.max(block).min(missing);
    }
    let share = share.max(LEAST_ROWS);
    if share + 1 == missing {
        // The next batch would have a single row.
        return if share > LEAST_ROWS {
            share - 1
        } else {
            missing
        };
    }
    share.min(missing)
}

/// A sequence that has an id in the engine.
#[derive(Debug)]
pub(super) struct RunningSequence {
    pub(super) id: SeqId,
    pub(super) sequence: Sequence,
    /// False while it waits for another to compute a prefix that both have.
    pub(super) has_started: bool,
    /// What it computes in this step beyond what it knows.
    pub(super) draft: Draft,
}

impl RunningSequence {
    pub(super) fn new(id: SeqId, sequence: Sequence) -> Self {
        Self {
            id,
            sequence,
            has_started: false,
            draft: Draft::default(),
        }
    }

    /// Rows of the batch that it is charged for when it computes `share` of its tokens and its
    /// draft: those with logits of its answer, and the others.
    pub(super) fn charged_rows(&self, share: usize) -> (usize, usize) {
        let ends = usize::from(share > 0 && share == self.sequence.missing());
        (ends + self.draft.len(), share - ends)
    }

    /// Drafts what it guesses.
    pub(super) fn take_draft(&mut self, proposal: DraftProposal) {
        self.draft.source = Some(proposal.source);
        self.draft
            .tokens
            .extend(self.sequence.proposed_tokens(proposal));
    }

    /// Picks the next token from the logits of row `first`, and one more from each row behind it
    /// as long as the draft had what was picked.
    pub(super) fn advance<'a>(
        &mut self,
        first: usize,
        logits: &dyn Fn(usize) -> &'a [f32],
        pieces: &dyn Pieces,
        now: Instant,
        metrics: &ModelMetrics,
    ) -> Progress {
        loop {
            let row = first + self.draft.accepted;
            let progress = self.sequence.advance(logits(row), pieces, now, metrics);
            let drafted = self.draft.tokens.get(self.draft.accepted);
            if progress == Progress::Ended || drafted != self.sequence.tokens.last() {
                return progress;
            }
            self.draft.accepted += 1;
            self.sequence.computed_more(1);
        }
    }

    /// Drafts what it guesses as far as that is expected to pay, going by nothing but its own tokens:
    /// how many rows are computed together is the same each time then. Returns how many it drafts.
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

    /// Drafts nothing, but remembers what it would have.
    pub(super) fn watch(&mut self, proposal: DraftProposal) {
        self.draft.source = Some(proposal.source);
        self.draft.expected = self.sequence.proposed_tokens(proposal).next();
    }

    /// What its proposal was worth, if it had one. What an answer that ended left over was not wrong,
    /// and a proposal that was only watched tells by its first token.
    pub(super) fn draft_outcome(&self, progress: Progress) -> Option<(DraftSource, DraftOutcome)> {
        let source = self.draft.source?;
        let accepted = self.draft.accepted;
        let (drafted, accepted) = match (self.draft.expected, progress) {
            (Some(token), _) => (1, usize::from(self.sequence.tokens.last() == Some(&token))),
            (None, Progress::Continues) => (self.draft.tokens.len(), accepted),
            (None, Progress::Ended) => (accepted, accepted),
        };
        Some((source, DraftOutcome { drafted, accepted }))
    }
}

/// Tokens that a sequence guesses it will go on with.
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

    /// Whether cells of it are in the cache that must not be.
    pub(super) fn has_rejected(&self) -> bool {
        self.accepted < self.tokens.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prompt_is_computed_in_the_same_batches_whatever_there_is_time_for(
            prompt in 1_usize..300,
            shares in prop::collection::vec(1_usize..200, 1..40),
            block in prop::sample::select(vec![1_usize, 2, 32]),
        ) {
            let mut computed = 0;
            for share in shares.iter().cycle() {
                if computed == prompt {
                    break;
                }
                let rows = exact_share(computed, prompt, (*share).min(prompt - computed), block);
                prop_assert!(rows > 0 && computed + rows <= prompt);
                if block == 1 {
                    prop_assert!(rows > 1 || prompt == 1, "{rows} rows behind {computed} of {prompt}");
                } else {
                    let end = computed + rows;
                    prop_assert!(end.is_multiple_of(block) || end == prompt);
                }
                computed += rows;
            }
        }
    }

    #[test]
    fn a_preempted_answer_is_computed_row_by_row() {
        for block in [1, 32] {
            assert_eq!(exact_share(40, 40, 17, block), 1);
            assert_eq!(exact_share(41, 40, 0, block), 0);
        }
    }
}
