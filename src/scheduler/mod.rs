//! Continuous batching: requests join and leave at any step.
//!
//! [`Scheduler`] owns an engine and the sequences in it and computes one step at a time, as the
//! [`Worker`] of a model's thread. Deciding is apart from acting: `plan` and `step_latency` are plain functions,
//! this file carries out what they say.
//!
//! Sequences share the cells of a common prefix (`prefix`, `cache`): a request
//! starts from the longest one that is in the cache, and waits while another is
//! just computing a longer one, instead of computing it a second time.
//!
//! Answers draft tokens that they may well go on with (`speculate`) where that pays: rows that
//! are computed along with the next token and kept as far as the sampler then agrees.

mod batch_admission;
mod cache;
mod energy_bill;
mod events;
mod governed_limits;
mod job;
mod kv_offload;
mod placement;
mod plan;
mod prefix;
mod sequence;
mod speculation;
mod step_latency;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{DecodeError, Engine, Pieces, Row};
use crate::governor::Governed;
use crate::telemetry::ModelMetrics;
use crate::worker::{WorkError, Worker};

pub use events::{EventReceiver, EventSender, channel};
pub use job::{Class, Event, FinishReason, Finished, Job, Predicted, QueueProgress, Text, Timings};
pub use text::Stops;

// Until the front uses the name itself.
pub use crate::worker::WorkError as JobError;

use cache::Cache;
use energy_bill::EnergyBill;
use governed_limits::GovernedLimits;
use placement::PlacementCosts;
use plan::{SequenceDemand, StepBudget, StepPlan, Urgency};
use sequence::{Progress, RunningSequence, Sequence};
use speculation::{AcceptanceRates, DraftCandidate, DraftProposal};
use step_latency::StepLatency;

/// Of the time that a step has left for others than answers, drafts get this much while prompts
/// want to be read.
const DRAFTS_BESIDE_PROMPTS: f64 = 0.25;
/// Logits of answers and drafts take so much memory at most in a partition of the cache, and those of
/// scored prompts, however large the vocabulary.
const LOGITS_BYTES: usize = 32 << 20;

/// How often an idle scheduler looks whether memory is to be given back.
const MEMORY_CHECK: Duration = Duration::from_secs(1);

/// How a scheduler divides its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences computed together.
    pub max_running: usize,
    /// What a step should take while answers are under way.
    pub target_inter_token: Duration,
    /// Whether answers may draft.
    pub speculation: bool,
    /// Bytes beside the KV cache for prefixes that gave way in it.
    pub parked_bytes: usize,
    /// Whether each request is computed so that it comes out the same whatever else there is: in a
    /// partition of the cache that it has to itself, without drafts.
    pub deterministic: bool,
}

/// See the module's text.
pub struct Scheduler<E: Engine> {
    cache: Cache<E>,
    pieces: Arc<dyn Pieces>,
    limits: Limits,
    metrics: ModelMetrics,
    /// In no order that matters.
    waiting: Vec<Sequence>,
    /// In the order in which they were taken up.
    running: Vec<RunningSequence>,
    step_latency: StepLatency,
    placement: PlacementCosts,
    acceptance: AcceptanceRates,
    rows: Vec<Row>,
    governed: GovernedLimits,
    energy_bill: EnergyBill,
}

impl<E: Engine> Scheduler<E> {
    /// A scheduler with nothing to do.
    pub fn new(engine: E, pieces: Arc<dyn Pieces>, limits: Limits, metrics: ModelMetrics) -> Self {
        let shape = engine.shape();
        Self {
            limits: Limits {
                max_running: if limits.deterministic {
                    limits.max_running.min(shape.banks as usize)
                } else {
                    limits.max_running.min(shape.sequences as usize)
                },
                // What was wrong has to be taken back out of the cache.
                speculation: limits.speculation && shape.shares_prefixes && !limits.deterministic,
                ..limits
            },
            cache: Cache::new(engine, limits.parked_bytes),
            pieces,
            metrics,
            waiting: Vec::new(),
            running: Vec::new(),
            step_latency: StepLatency::default(),
            placement: PlacementCosts::new(shape.crowd_cells, shape.threads),
            acceptance: AcceptanceRates::default(),
            rows: Vec::new(),
            governed: GovernedLimits::default(),
            energy_bill: EnergyBill::default(),
        }
    }

    /// Lets the scheduler obey a governor.
    #[must_use]
    pub fn governed_by(mut self, governed: Governed) -> Self {
        self.governed = GovernedLimits::new(governed);
        self
    }

    /// Queues a request.
    pub fn submit(&mut self, job: Job) {
        self.waiting.push(Sequence::new(job));
    }

    /// Whether there is nothing to compute.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Frees what belongs to clients that left, takes up waiting requests,
    /// computes one batch and delivers what came of it. `clock` is asked before
    /// and after the batch.
    pub fn step(&mut self, clock: &dyn Fn() -> Instant) {
        let now = clock();
        self.drop_cancelled(now);
        self.cache.expire(now);
        self.follow_governor(now);
        self.take_up(now);
        if let Some(shares) = self.compose(now) {
            self.compute(&shares, clock);
        }
        self.publish();
    }

    /// Ends every request with `error`.
    pub fn fail_all(&mut self, error: WorkError) {
        for mut running in std::mem::take(&mut self.running) {
            running.sequence.fail(error);
            self.cache.release(running.id);
        }
        for mut sequence in std::mem::take(&mut self.waiting) {
            sequence.fail(error);
        }
        self.publish();
    }

    /// Follows the governor: flex requests go back into the queue where they are not served, and
    /// what is kept of ended requests shrinks. How many may run is looked at where requests join.
    fn follow_governor(&mut self, now: Instant) {
        self.governed.refresh();
        let governed = &self.governed;
        let unserved: Vec<_> = self
            .running
            .extract_if(.., |running| !governed.serves(running.sequence.class()))
            .collect();
        for running in unserved {
            self.cache.park(running.id, now);
            self.requeue(running.sequence, now);
        }
        let parked = self.governed.parked_cells(self.cache.shape().cells);
        self.cache.limit(parked);
    }

    /// Puts a preempted request back into the queue.
    fn requeue(&mut self, mut sequence: Sequence, now: Instant) {
        self.metrics.preemptions.inc();
        sequence.requeue(now);
        self.waiting.push(sequence);
    }

    fn drop_cancelled(&mut self, now: Instant) {
        let metrics = &self.metrics;
        self.waiting.retain(|sequence| {
            let left = sequence.client_left();
            if left {
                sequence.cancelled(metrics);
            }
            !left
        });
        let gone: Vec<_> = self
            .running
            .extract_if(.., |running| running.sequence.client_left())
            .collect();
        for running in gone {
            running.sequence.cancelled(&self.metrics);
            self.cache.park(running.id, now);
        }
    }

    /// Starts sequences from the longest prefix in the cache, but for those that an older
    /// one will soon give a longer one: that one is as urgent then as the most urgent that
    /// waits for it, so waiting never takes longer than computing it again would. Returns how
    /// soon each running sequence is wanted.
    fn begin(&mut self, at: Instant) -> Vec<Urgency> {
        let urgency = |running: &RunningSequence| Urgency {
            class: running.sequence.class(),
            left: running.sequence.missing(),
        };
        let mut urgencies: Vec<Urgency> = self.running.iter().map(urgency).collect();
        let mut begun = Vec::new();
        for index in 0..self.running.len() {
            let running = &self.running[index];
            if running.has_started {
                continue;
            }
            let tokens = running.sequence.sharable();
            let partition = self.cache.partition_of(running.id);
            let now = self.cache.known_length(partition, tokens);
            let waits_for = self.running[..index]
                .iter()
                .enumerate()
                .find_map(|(at, older)| {
                    // What an answer will say is not waited for: that would be token by token.
                    let common = self.common(partition, tokens, older);
                    let left = common.saturating_sub(older.sequence.computed());
                    (!older.sequence.is_decoding() && left > 0 && now < common)
                        .then_some((at, left))
                });
            if let Some((older, left)) = waits_for {
                urgencies[older].wanted_by(running.sequence.class(), left);
                continue;
            }
            let shared = if running.sequence.is_exact() {
                let tokens = running.sequence.sharable_exactly();
                self.cache.share_exactly(running.id, tokens, at)
            } else {
                self.cache.share(running.id, tokens, at)
            };
            let running = &mut self.running[index];
            running.has_started = true;
            running.sequence.start(shared, &self.metrics);
            urgencies[index] = urgency(running);
            begun.push(partition);
        }
        if !begun.is_empty() {
            let waiting = self.running.iter().filter(|running| !running.has_started);
            let awaited = waiting.map(|running| (running.id, running.sequence.sharable()));
            self.cache.offload_unrelated(&begun, awaited);
        }
        urgencies
    }

    /// Decides what to compute; makes room first where a plan needs it.
    fn compose(&mut self, now: Instant) -> Option<Vec<usize>> {
        loop {
            if self.running.is_empty() {
                return None;
            }
            let urgencies = self.begin(now);
            let block = self.cache.shape().exact_block;
            let mut logits = self.most_logits();
            let mut missing = |running: &RunningSequence| {
                if !running.has_started {
                    return 0;
                }
                let missing = match block {
                    Some(block) if running.sequence.is_exact() => {
                        let missing = running.sequence.missing();
                        running.sequence.exact_share(missing, block)
                    }
                    _ => running.sequence.missing(),
                };
                if !running.sequence.is_scoring() {
                    return missing;
                }
                let scored = missing.min(logits);
                logits -= scored;
                scored
            };
            let demands: Vec<SequenceDemand> = (self.running.iter().zip(urgencies))
                .map(|(running, urgency)| SequenceDemand {
                    missing: missing(running),
                    decoding: running.sequence.is_decoding(),
                    urgency,
                })
                .collect();
            let answers = demands.iter().filter(|demand| demand.decoding).count();
            let prompts = demands.iter().filter(|demand| !demand.decoding);
            let drafted = self.draft(answers, prompts.map(|demand| demand.missing).sum());
            let shape = self.cache.shape();
            let budget = StepBudget {
                cells: self.cache.room() - drafted,
                rows: shape.batch_rows - drafted,
                drafted,
                row_group: shape.row_group,
                prefill_rows: self.step_latency.prefill_rows(
                    answers + drafted,
                    self.limits.target_inter_token,
                    shape.batch_rows,
                    shape.tile_rows,
                ),
            };
            match plan::compose(&demands, budget) {
                StepPlan::Compute(mut shares) => {
                    self.keep_exact(&mut shares, budget.cells);
                    if shares.iter().any(|share| *share > 0) {
                        return Some(shares);
                    }
                    self.preempt(now);
                }
                StepPlan::Preempt => self.preempt(now),
            }
        }
    }

    /// Lets exact sequences, each of which has a partition to itself, have as many rows as they would have
    /// each time, or none where there are not so many of these `cells`.
    fn keep_exact(&self, shares: &mut [usize], cells: usize) {
        let Some(block) = self.cache.shape().exact_block else {
            return;
        };
        let mut left = cells.saturating_sub(shares.iter().sum());
        for (running, share) in self.running.iter().zip(shares) {
            if !running.sequence.is_exact() {
                continue;
            }
            let exact = running.sequence.exact_share(*share, block);
            left += *share;
            *share = if exact <= left { exact } else { 0 };
            left -= *share;
        }
    }

    /// Lets answers draft where that pays; returns the rows it takes. Prompts, which miss
    /// `unread` tokens, go first: drafts get the cells that nobody wants, for which nothing is
    /// evicted, and a part of the time.
    fn draft(&mut self, answers: usize, unread: usize) -> usize {
        for running in &mut self.running {
            running.draft.clear();
        }
        if answers == 0 || !self.limits.speculation {
            return 0;
        }
        let room = self.most_logits().min(self.cache.room());
        if let [running] = &mut self.running[..]
            && running.sequence.is_exact()
        {
            return running.draft_alone(room.saturating_sub(1));
        }
        let Some(undrafted) = self.step_latency.outputs(answers) else {
            return 0;
        };
        let target = self.limits.target_inter_token.as_secs_f64();
        let longest = if unread == 0 {
            target
        } else {
            undrafted + DRAFTS_BESIDE_PROMPTS * (target - undrafted).max(0.0)
        };
        let candidates = self.candidates();
        let room = self.draft_room(answers, unread);
        let lengths = speculation::allot_drafts(&candidates, answers, room, |rows| {
            let seconds = self.step_latency.decode_seconds(answers, rows);
            let seconds = seconds.unwrap_or(f64::INFINITY);
            // Beside a prompt nothing is tried out: what the step takes longer would be put down to it.
            let is_untried = unread > 0 && rows > self.step_latency.most_output_rows();
            if rows > answers && (seconds > longest || is_untried) {
                f64::INFINITY
            } else {
                seconds
            }
        });
        for (candidate, &length) in candidates.iter().zip(&lengths) {
            let running = &mut self.running[candidate.running];
            if length == 0 {
                running.watch(candidate.proposal);
            } else {
                running.take_draft(DraftProposal {
                    length,
                    ..candidate.proposal
                });
            }
        }
        lengths.iter().sum()
    }

    /// What each answer could draft.
    fn candidates(&self) -> Vec<DraftCandidate> {
        let candidate = |(index, running): (usize, &RunningSequence)| {
            let proposal = running.sequence.draft_proposal()?;
            Some(DraftCandidate {
                running: index,
                proposal,
                chance: self
                    .acceptance
                    .chance(proposal.source, running.sequence.record()),
            })
        };
        self.running
            .iter()
            .enumerate()
            .filter_map(candidate)
            .collect()
    }

    /// Rows that drafts may take beside `answers`, and prompts that miss `unread` tokens.
    fn draft_room(&self, answers: usize, unread: usize) -> usize {
        let shape = self.cache.shape();
        let rows = shape.batch_rows - unread.min(shape.batch_rows / 2);
        let cells = self.cache.free_cells().saturating_sub(unread);
        let most = rows.min(self.most_logits()).min(cells);
        most.saturating_sub(answers)
    }

    /// Rows with logits that a batch should have at most: llama.cpp keeps room for as many as there
    /// ever were.
    fn most_logits(&self) -> usize {
        let row = self.cache.shape().vocabulary * size_of::<f32>();
        (LOGITS_BYTES / row.max(1)).max(1)
    }

    fn compute(&mut self, shares: &[usize], clock: &dyn Fn() -> Instant) {
        self.rows.clear();
        // Each sequence's first row in the batch.
        let mut firsts = Vec::with_capacity(shares.len());
        for (running, &share) in self.running.iter().zip(shares) {
            firsts.push(self.rows.len());
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

        let started = clock();
        match self.cache.decode(&self.rows) {
            Ok(()) => {}
            Err(DecodeError::NoCells) => {
                self.preempt(started);
                return;
            }
            Err(error @ DecodeError::Failed(_)) => {
                tracing::error!(%error, rows = self.rows.len(), "batch lost");
                self.fail_shares(shares);
                return;
            }
        }
        let now = clock();
        let outputs = self.rows.iter().filter(|row| row.logits).count();
        let took = now.duration_since(started);
        self.step_latency.observe(outputs, self.prompt_rows(), took);
        self.charge(shares, outputs, took);
        self.metrics.steps.inc();
        self.metrics.busy_seconds.inc_by(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
        self.metrics.batch_tokens.observe(self.rows.len() as f64);
        self.deliver(shares, &firsts, now);
    }

    /// Charges every request its share of a batch that took `took`, and the energy that goes with
    /// it; `outputs` rows had logits.
    fn charge(&mut self, shares: &[usize], outputs: usize, took: Duration) {
        let prompts = self.rows.len() - outputs;
        let known = self.step_latency.outputs(outputs);
        let price = self.energy_bill.charge(took, outputs, prompts, known);
        let tariff = self.governed.tariff();
        for (running, &share) in self.running.iter_mut().zip(shares) {
            let (outputs, prompts) = running.charged_rows(share);
            let seconds = price.seconds(outputs, prompts);
            if let Some(tariff) = tariff
                && seconds > 0.0
            {
                let phase = running.sequence.phase();
                self.metrics.energy.computed(phase, &tariff, seconds);
            }
            let joules = tariff.map(|tariff| tariff.gross(seconds));
            running.sequence.spent(joules);
        }
    }

    /// Rows of prompts in the batch: as many as one partition alone would have computed in the time.
    #[allow(
        clippy::cast_precision_loss, // a batch has thousands of rows at most
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    fn prompt_rows(&self) -> usize {
        let mut partitions = vec![0.0; self.cache.partition_count()];
        for row in self.rows.iter().filter(|row| !row.logits) {
            partitions[self.cache.partition_of(row.sequence)] += 1.0;
        }
        self.cache.shape().threads.as_one_bank(&partitions).round() as usize
    }

    fn deliver(&mut self, shares: &[usize], firsts: &[usize], now: Instant) {
        let mut ended = Vec::new();
        for ((index, running), (&share, &first)) in self
            .running
            .iter_mut()
            .enumerate()
            .zip(shares.iter().zip(firsts))
        {
            let logits = |row: usize| self.cache.logits(row);
            let before = running.sequence.computed();
            let complete = share > 0 && share == running.sequence.missing();
            running.sequence.score(first, share, &logits);
            running.sequence.computed_more(share);
            if complete {
                let last = first + share - 1;
                let progress = running.advance(last, &logits, &*self.pieces, now, &self.metrics);
                let (drafted, accepted) = (running.draft.len(), running.draft.accepted());
                self.metrics.drafted_tokens.inc_by(drafted as u64);
                self.metrics.accepted_tokens.inc_by(accepted as u64);
                if let Some((source, outcome)) = running.draft_outcome(progress) {
                    let record = running.sequence.record_mut();
                    self.acceptance.learn(source, record, outcome);
                }
                if progress == Progress::Ended {
                    ended.push(index);
                }
            }
            let computed = running.sequence.computed();
            let tokens = &running.sequence.tokens()[before..computed];
            if running.sequence.is_in_prompt() {
                self.cache.computed_prompt(running.id, tokens);
            } else {
                self.cache.computed(running.id, tokens);
            }
            if running.draft.has_rejected() {
                self.cache.forget_drafts(running.id, computed);
            }
        }
        for index in ended.into_iter().rev() {
            let running = self.running.remove(index);
            self.placement.ended(running.sequence.generated());
            if running.sequence.client_left() && !running.sequence.is_finished() {
                running.sequence.cancelled(&self.metrics);
            }
            self.cache.park(running.id, now);
        }
    }

    /// Puts a sequence back into the queue, to be computed again when there is room. One that
    /// fills the cache alone cannot go on.
    fn preempt(&mut self, now: Instant) {
        let alone = self.running.len() == 1;
        let classes = self.running.iter().map(|running| running.sequence.class());
        let Some(victim) = plan::victim(classes) else {
            return;
        };
        let mut victim = self.running.remove(victim);
        if alone {
            self.cache.release(victim.id);
            victim.sequence.fail(WorkError::Engine);
            return;
        }
        self.cache.swap_out(victim.id);
        self.requeue(victim.sequence, now);
    }

    fn fail_shares(&mut self, shares: &[usize]) {
        let mut in_batch = shares.iter().map(|share| *share > 0);
        let failed: Vec<_> = self
            .running
            .extract_if(.., |_| in_batch.next().unwrap_or(false))
            .collect();
        for mut running in failed {
            running.sequence.fail(WorkError::Engine);
            self.cache.release(running.id);
        }
    }

    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    fn publish(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (used, parked) = (self.cache.live(), self.cache.parked_cells());
        let cells = self.cache.shape().cells;
        self.metrics.waiting.set(gauge(self.waiting.len()));
        self.metrics.running.set(gauge(self.running.len()));
        self.metrics.kv_used.set(gauge(used));
        self.metrics.kv_parked.set(gauge(parked));
        self.metrics.kv_free.set(gauge(cells - used - parked));
        self.metrics
            .parked_bytes
            .set(gauge(self.cache.offloaded_bytes()));
        self.metrics.kv_usage.set(used as f64 / cells.max(1) as f64);
    }
}

impl<E: Engine> Worker for Scheduler<E> {
    type Request = Job;

    fn accept(&mut self, job: Job) {
        self.submit(job);
    }

    fn has_work(&self) -> bool {
        !self.is_idle()
    }

    fn run_step(&mut self, clock: &dyn Fn() -> Instant) {
        let began = Instant::now();
        let working = self.governed.working();
        self.step(clock);
        drop(working);
        self.energy_bill.close_step(began.elapsed());
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.cache.could_free_memory().then_some(MEMORY_CHECK)
    }

    fn rest_after(&self, worked: Duration) -> Duration {
        let is_held_back = self.running.is_empty() && !self.waiting.is_empty();
        self.governed.rest_after(worked, is_held_back)
    }

    fn abort_all(&mut self, error: WorkError) {
        self.fail_all(error);
    }
}

#[cfg(test)]
mod tests;
