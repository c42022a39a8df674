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

mod batch;
mod batch_admission;
mod cache;
mod drafting;
mod energy_bill;
mod events;
mod exact_share;
mod governed_limits;
mod job;
mod kv_offload;
mod placement;
mod plan;
mod prefill;
mod prefix;
mod prefix_lookup;
mod prompt_scores;
mod running;
mod sequence;
mod speculation;
mod step_latency;
mod text;
mod timeline;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{DecodeError, Engine, Pieces};
use crate::governor::Governed;
use crate::telemetry::ModelMetrics;
use crate::worker::{WorkError, Worker};

pub use events::{EventReceiver, EventSender, channel};
pub use job::{Class, Event, FinishReason, Finished, Job, Predicted, QueueProgress, Text, Timings};
pub use text::Stops;

// Until the front uses the name itself.
pub use crate::worker::WorkError as JobError;

use batch::Batch;
use batch_admission::{
    Admission, AdmissionRound, BatchSnapshot, Candidate, ExactPolicy, RunningSummary,
};
use cache::Cache;
use drafting::DraftBudget;
use energy_bill::EnergyBill;
use governed_limits::GovernedLimits;
use placement::PlacementCosts;
use plan::{StepBudget, StepPlan};
use prefix_lookup::CacheView;
use running::RunningSequence;
use sequence::{Progress, Sequence};
use speculation::AcceptanceRates;
use step_latency::StepLatency;

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
    batch: Batch,
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
            batch: Batch::default(),
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
        self.admit_waiting(now);
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

    /// Lets waiting requests join the batch, as [`batch_admission`] decides.
    fn admit_waiting(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let order = plan::order(self.waiting.iter().map(Sequence::rank));
        let mut waiting: Vec<Option<Sequence>> = self.waiting.drain(..).map(Some).collect();
        let is_served = |index: &usize| {
            let sequence = waiting[*index].as_ref();
            sequence.is_some_and(|sequence| self.governed.serves(sequence.class()))
        };
        let served = order.iter().copied().filter(is_served).collect();
        let mut round = AdmissionRound::new(served, self.view().loads());
        while let Some(admission) = round.next(&self.snapshot(now, &self.view()), |index| {
            waiting[index].as_ref().map(Candidate::from)
        }) {
            if let Some(victim) = admission.victim {
                let victim = self.running.remove(victim);
                // Its cells stay as long as there is room, so that going on costs little.
                self.cache.park(victim.id, now);
                self.requeue(victim.sequence, now);
                round.preempted(self.view().loads());
            }
            let Some(sequence) = waiting[admission.index].take() else {
                break;
            };
            if let Err(sequence) = self.admit(sequence, &admission, now) {
                waiting[admission.index] = Some(sequence);
                break;
            }
            round.carried_out(&admission);
        }
        let left = order.iter().filter_map(|&index| waiting[index].as_ref());
        for (ahead, sequence) in left.enumerate() {
            sequence.waits(ahead);
        }
        // Those that were preempted are in the queue already.
        self.waiting.extend(waiting.into_iter().flatten());
    }

    /// Lets a request join the batch; gives it back where the partition has no sequence for it.
    fn admit(
        &mut self,
        mut sequence: Sequence,
        admission: &Admission,
        now: Instant,
    ) -> Result<(), Sequence> {
        let partition = admission.partition;
        let Some(id) = self.cache.acquire(partition, sequence.tokens(), now) else {
            return Err(sequence);
        };
        if !admission.overtakes {
            self.placement.joined(now);
        }
        for running in &mut self.running {
            // From now on it has to share its partition.
            if self.cache.partition_of(running.id) == partition {
                running.sequence.set_exact(false);
            }
        }
        sequence.set_exact(admission.is_exact);
        sequence.joins(now, &self.metrics);
        self.running.push(RunningSequence::new(id, sequence));
        Ok(())
    }

    /// What admission knows of this moment.
    fn snapshot<'a>(&'a self, now: Instant, prefixes: &'a CacheView<'a, E>) -> BatchSnapshot<'a> {
        let shape = self.cache.shape();
        let summary = |running: &RunningSequence| RunningSummary {
            class: running.sequence.class(),
            partition: self.cache.partition_of(running.id),
        };
        BatchSnapshot {
            now,
            running: self.running.iter().map(summary).collect(),
            most_running: self.governed.running(self.limits.max_running),
            cells: shape.cells,
            exact: match shape.exact_block {
                None => ExactPolicy::Never,
                Some(_) if self.limits.deterministic => ExactPolicy::Always,
                Some(_) => ExactPolicy::WhenAlone,
            },
            placement: &self.placement,
            one_row_seconds: self.step_latency.outputs(1),
            prefixes,
        }
    }

    fn view(&self) -> CacheView<'_, E> {
        CacheView {
            cache: &self.cache,
            running: &self.running,
        }
    }

    /// Decides what to compute; makes room first where a plan needs it.
    fn compose(&mut self, now: Instant) -> Option<Vec<usize>> {
        loop {
            if self.running.is_empty() {
                return None;
            }
            let urgencies =
                prefill::start_sequences(&mut self.cache, &mut self.running, now, &self.metrics);
            let block = self.cache.shape().exact_block;
            let demands = prefill::demands(&self.running, urgencies, block, self.most_logits());
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
                    exact_share::limit(&self.running, &mut shares, block, budget.cells);
                    if shares.iter().any(|share| *share > 0) {
                        return Some(shares);
                    }
                    self.preempt(now);
                }
                StepPlan::Preempt => self.preempt(now),
            }
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
        let budget = DraftBudget {
            answers,
            unread,
            rows: self.draft_room(answers, unread),
            target: self.limits.target_inter_token.as_secs_f64(),
        };
        drafting::draft(
            &mut self.running,
            budget,
            &self.step_latency,
            &self.acceptance,
        )
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
        self.batch.fill(&self.running, shares);
        let started = clock();
        match self.cache.decode(self.batch.rows()) {
            Ok(()) => {}
            Err(DecodeError::NoCells) => {
                self.preempt(started);
                return;
            }
            Err(error @ DecodeError::Failed(_)) => {
                tracing::error!(%error, rows = self.batch.rows().len(), "batch lost");
                self.fail_shares(shares);
                return;
            }
        }
        let now = clock();
        let outputs = self.batch.output_rows();
        let took = now.duration_since(started);
        let prompts = self.batch.effective_prompt_rows(&self.cache);
        self.step_latency.observe(outputs, prompts, took);
        self.charge(shares, outputs, took);
        self.metrics.steps.inc();
        self.metrics.busy_seconds.inc_by(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
        self.metrics
            .batch_tokens
            .observe(self.batch.rows().len() as f64);
        self.deliver(shares, now);
    }

    /// Charges every request its share of a batch that took `took`, and the energy that goes with
    /// it; `outputs` rows had logits.
    fn charge(&mut self, shares: &[usize], outputs: usize, took: Duration) {
        let prompts = self.batch.rows().len() - outputs;
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

    fn deliver(&mut self, shares: &[usize], now: Instant) {
        let mut ended = Vec::new();
        for ((index, running), (&share, &first)) in self
            .running
            .iter_mut()
            .enumerate()
            .zip(shares.iter().zip(self.batch.first_rows()))
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
