//! One request in the scheduler: its tokens, its progress and the events that it sends.

use std::time::{Duration, Instant};

use crate::admission::{AdmissionSlot, ServiceTier, Tenant};
use crate::engine::{AdapterId, Pieces, Token};
use crate::sampling::{self, Sampler};
use crate::telemetry::ModelMetrics;
use crate::worker::WorkError;

use super::events::SendError;
use super::exact_share::{self, LEAST_ROWS};
use super::forecast::{AnswerLesson, JobLoad};
use super::job::{AnswerEnd, AnswerEvent, AnswerText, FinishReason, GenerationJob};
use super::prefix::Prefix;
use super::prompt_scores::PromptScores;
use super::queue_order::WaitingRank;
use super::speculation::{self, AcceptanceRecord, DraftProposal, DraftSource, Prediction};
use super::text::{PushOutcome, TextAssembler};
use super::timeline::Timeline;

/// Whether a sequence goes on after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceProgress {
    Continues,
    Ended,
}

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SequenceEnd {
    Answered,
    Failed,
}

/// A request with its tokens, from the queue to the end of its answer.
///
/// There are no phases beyond this: *computed* catches up with *tokens*,
/// many at a time in a prompt and one at a time in an answer. A sequence that
/// lost its cells starts over from `computed == 0` with the same tokens.
#[derive(Debug)]
pub(super) struct Sequence {
    job: GenerationJob,
    /// The tokens of the prompt, followed by those of the answer.
    tokens: Vec<Token>,
    /// How many of `tokens` have their cell.
    computed: usize,
    sampler: Sampler,
    /// Present where the request asks for scores of its prompt, until they have been sent.
    scores: Option<PromptScores>,
    text: TextAssembler,
    prediction: Option<Prediction>,
    /// How often its drafts were right.
    record: AcceptanceRecord,
    timeline: Timeline,
    /// Tokens of the prompt that were in the cache when the sequence first started.
    cached: Option<usize>,
    /// Energy so far, in joules; absent once a part of it is unknown.
    joules: Option<f64>,
    /// How it ended by itself, heard or not.
    end: Option<SequenceEnd>,
    /// Whether its deadline cut its answer off.
    late: bool,
    /// Whether it is computed so that it comes out the same each time: see `cache::exact`.
    exact: bool,
}

impl Sequence {
    pub(super) fn new(mut job: GenerationJob) -> Self {
        let tokens = job.prompt.to_vec();
        let params = std::mem::take(&mut job.sampling);
        let sampler = Sampler::new(params, &tokens, job.constraint.take());
        let text = TextAssembler::new(std::mem::take(&mut job.stops));
        let prediction = job.prediction.take().map(Prediction::new);
        let scores = job.prompt_logprobs.map(PromptScores::new);
        Self {
            timeline: Timeline::new(job.arrived),
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
            end: None,
            late: false,
            exact: false,
        }
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// All its tokens, and the scope in which they may share cells.
    pub(super) fn prefix(&self) -> Prefix<'_> {
        Prefix {
            scope: self.job.prefix_scope(),
            tokens: &self.tokens,
        }
    }

    /// The first tokens whose cells may be another's: what is to be scored has to be computed.
    pub(super) fn sharable(&self) -> Prefix<'_> {
        let prefix = self.prefix();
        match &self.scores {
            Some(scores) => prefix.first(scores.position()),
            None => prefix,
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

    /// The first tokens whose cells an exact sequence may have from another: none of an answer, and
    /// not so many that a single row of the prompt would be left.
    pub(super) fn sharable_exactly(&self) -> Prefix<'_> {
        let most = self.job.prompt.len().saturating_sub(LEAST_ROWS);
        self.sharable().first(most)
    }

    /// How many rows it computes exactly of the `share` that it may have: see
    /// [`exact_share::exact_share`].
    pub(super) fn exact_share(&self, share: usize, block: usize) -> usize {
        exact_share::exact_share(self.computed, self.job.prompt.len(), share, block)
    }

    /// Whether all that it has computed so far belongs to its prompt.
    pub(super) fn is_in_prompt(&self) -> bool {
        self.computed <= self.job.prompt.len()
    }

    /// Whether tokens of its prompt are still to be scored.
    pub(super) fn is_scoring(&self) -> bool {
        self.scores.is_some()
    }

    /// Whether the logits that follow the token at `position` are needed.
    pub(super) fn needs_logits(&self, position: usize) -> bool {
        let scores = self.scores.as_ref();
        position + 1 >= self.tokens.len()
            || scores.is_some_and(|scores| position >= scores.position())
    }

    /// Scores its prompt by the next `count` rows, the first of which is row `first` of the batch.
    pub(super) fn score<'a>(
        &mut self,
        first: usize,
        count: usize,
        logits: &dyn Fn(usize) -> &'a [f32],
    ) {
        let Some(mut scores) = self.scores.take() else {
            return;
        };
        scores.score(&self.job.prompt, self.computed, first, count, logits);
        if scores.is_complete(&self.job.prompt) {
            self.send(AnswerEvent::Prompt(scores.into_scores()));
        } else {
            self.scores = Some(scores);
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

    /// Whether its answer has begun, so that a reader waits for its next token.
    pub(super) fn is_decoding(&self) -> bool {
        self.timeline.has_token() && self.missing() == 1
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
        self.end.is_some()
    }

    pub(super) fn client_left(&self) -> bool {
        self.job.events.is_closed()
    }

    /// Proposes how the answer may go on; never beyond the last token that it may have.
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

    /// The tokens that it proposed.
    pub(super) fn proposed_tokens(&self, proposal: DraftProposal) -> impl Iterator<Item = Token> {
        proposal.tokens(match &self.prediction {
            Some(prediction) if proposal.source == DraftSource::PREDICTION => prediction.tokens(),
            _ => &self.tokens,
        })
    }

    pub(super) fn class(&self) -> ServiceTier {
        self.job.class
    }

    pub(super) fn tenant(&self) -> Tenant {
        self.job.tenant
    }

    /// The adapter with which it is computed.
    pub(super) fn adapter(&self) -> Option<AdapterId> {
        self.job.adapter
    }

    /// Whether it has been in the batch, even if it was preempted since.
    pub(super) fn has_joined(&self) -> bool {
        self.timeline.has_joined()
    }

    /// Whether its slot is still its own; from now on it cannot be given to another.
    pub(super) fn takes_its_slot(&self) -> bool {
        self.job.place.as_ref().is_none_or(AdmissionSlot::start)
    }

    /// Fails it where its slot was given to another tenant's request; returns whether that is so.
    pub(super) fn fail_displaced(&mut self) -> bool {
        let place = self.job.place.as_ref();
        let Some(retry_after) = place.and_then(AdmissionSlot::displaced) else {
            return false;
        };
        self.fail(WorkError::Displaced { retry_after });
        true
    }

    /// What its turn depends on, at a place in the queue. One that was preempted in mid-answer goes
    /// before those that arrived later; but not in the lowest class, where it would only be
    /// preempted again.
    pub(super) fn rank(&self, index: usize) -> WaitingRank {
        WaitingRank {
            index,
            tenant: self.job.tenant.id,
            tier: self.job.class,
            since: match self.job.class {
                ServiceTier::Flex => self.timeline.queued(),
                ServiceTier::Default | ServiceTier::Priority => self.job.arrived,
            },
            length: self.tokens.len(),
        }
    }

    /// Since when it waits.
    pub(super) fn queued(&self) -> Instant {
        self.timeline.queued()
    }

    pub(super) fn record(&self) -> &AcceptanceRecord {
        &self.record
    }

    pub(super) fn record_mut(&mut self) -> &mut AcceptanceRecord {
        &mut self.record
    }

    /// Starts it with `shared` tokens computed already; the rest is its own work.
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

    /// How many were last said to go before it, while it waits.
    #[cfg(test)]
    pub(super) fn place_in_queue(&self) -> Option<u32> {
        self.job.progress.ahead()
    }

    pub(super) fn joins(&mut self, now: Instant, metrics: &ModelMetrics) {
        self.job.progress.runs();
        if self.timeline.joined(now, metrics) {
            metrics.prompt_tokens.inc_by(self.job.prompt.len() as u64);
        }
    }

    pub(super) fn computed_more(&mut self, rows: usize) {
        self.computed += rows;
        debug_assert!(self.computed <= self.tokens.len());
    }

    /// Adds the joules of a step; `None` where they are not known.
    pub(super) fn spent(&mut self, joules: Option<f64>) {
        self.joules = self.joules.zip(joules).map(|(all, more)| all + more);
    }

    /// Lets it wait again, without cells of its own.
    pub(super) fn requeue(&mut self, now: Instant) {
        self.computed = 0;
        self.exact = false;
        self.timeline.requeued(now);
    }

    /// Picks the next token from `logits` and sends what became text.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        pieces: &dyn Pieces,
        now: Instant,
        metrics: &ModelMetrics,
    ) -> SequenceProgress {
        if self.is_finished() {
            // The scores of its prompt found no room.
            return SequenceProgress::Ended;
        }
        let (index, most) = (self.generated(), self.job.max_tokens);
        if most == 0 {
            self.finish(FinishReason::Length, now, metrics);
            return SequenceProgress::Ended;
        }
        let Ok(token) = self.sampler.sample(logits, index, most) else {
            self.fail(WorkError::Grammar);
            return SequenceProgress::Ended;
        };
        self.tokens.push(token);
        self.job.progress.has_generated(self.generated());
        if let Some(prediction) = &mut self.prediction {
            prediction.follow(&self.tokens[self.job.prompt.len()..]);
        }
        self.timeline.token(now, metrics);

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
                return SequenceProgress::Ended;
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
                SequenceProgress::Ended
            }
            None => SequenceProgress::Continues,
        }
    }

    /// Tells the client that nothing more comes.
    pub(super) fn fail(&mut self, error: WorkError) {
        self.job
            .span
            .in_scope(|| tracing::warn!(%error, "request failed"));
        self.send(AnswerEvent::Failed(error));
        self.end = Some(SequenceEnd::Failed);
    }

    /// Counts and logs that the client is gone.
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

    /// Whether its deadline has passed.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Ends it because its deadline has passed: with what there is of its answer, or else with an error that
    /// says to come back after what `retry_after` returns for the time that the request allows.
    pub(super) fn end_late(
        &mut self,
        now: Instant,
        metrics: &ModelMetrics,
        retry_after: impl FnOnce(Duration) -> Duration,
    ) {
        if self.generated() > 0 {
            metrics.late_running.inc();
            self.late = true;
            self.finish(FinishReason::Length, now, metrics);
            return;
        }
        metrics.late_waiting.inc();
        self.late = true;
        let deadline = self.job.deadline.unwrap_or(now);
        let allowed = deadline.saturating_duration_since(self.job.arrived);
        let retry_after = retry_after(allowed);
        // Before the client hears of it: its next request must find the place free.
        self.job.place = None;
        self.fail(WorkError::DeadlinePassed { retry_after });
    }

    /// Returns what its end teaches about the duration of others; `None` if that is nothing, because it failed
    /// or its client left.
    pub(super) fn lesson(&self) -> Option<AnswerLesson> {
        let is_typical = match self.end? {
            SequenceEnd::Answered => true,
            SequenceEnd::Failed => self.late,
        };
        is_typical.then(|| AnswerLesson {
            forecast: self.job.forecast,
            prompt: self.job.prompt.len(),
            most: self.job.max_tokens,
            ignores_end: self.job.ignore_end,
            generated: self.generated(),
            uncached: self.cached.map(|cached| self.job.prompt.len() - cached),
            is_whole: !self.late,
        })
    }

    /// What it takes until it ends, as far as it is known; `has_started` if it has its place in the batch.
    pub(super) fn load(&self, has_started: bool) -> JobLoad {
        let forecast = self
            .job
            .forecast
            .map_or(self.job.prompt.len(), |it| it.unread());
        let (unread, cells) = if has_started {
            let own = self.tokens.len().saturating_sub(self.cached.unwrap_or(0));
            let unread = if self.is_decoding() {
                0
            } else {
                self.missing()
            };
            (unread, own)
        } else {
            let unread = forecast.min(self.job.prompt.len());
            (unread, unread)
        };
        JobLoad {
            tier: self.job.class,
            tenant: self.job.tenant.id,
            prompt: self.job.prompt.len(),
            unread,
            generated: self.generated(),
            most: self.job.max_tokens,
            ignores_end: self.job.ignore_end,
            cells,
        }
    }

    /// How many go before it, while it waits.
    pub(super) fn ahead(&self) -> Option<u32> {
        self.job.progress.ahead()
    }

    fn finish(&mut self, reason: FinishReason, now: Instant, metrics: &ModelMetrics) {
        let assembler = std::mem::take(&mut self.text);
        self.send_text(assembler.finish(reason));
        if self.is_finished() {
            return;
        }
        let finished = AnswerEnd {
            reason,
            is_late: self.late,
            prompt_tokens: u32::try_from(self.job.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: u32::try_from(self.cached.unwrap_or(0)).unwrap_or(u32::MAX),
            generated_tokens: self.generated(),
            predicted_tokens: self.prediction.as_ref().map(Prediction::usage),
            energy_joules: self.joules,
            timings: self.timeline.finished(now, metrics),
        };
        if let Some(joules) = self.joules {
            metrics.energy.request(joules);
        }
        // Before the client hears of it: its next request must find the place free.
        if let Some(mut place) = self.job.place.take() {
            place.served();
        }
        self.send(AnswerEvent::Finished(finished));
        self.end = Some(SequenceEnd::Answered);
    }

    fn send_text(&mut self, text: AnswerText) -> bool {
        text.text.is_empty() && text.tokens == 0 || self.send(AnswerEvent::Text(text))
    }

    /// False when the client is gone, or has read too little for more to find room: then this answer
    /// fails, and no other.
    fn send(&mut self, event: AnswerEvent) -> bool {
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
