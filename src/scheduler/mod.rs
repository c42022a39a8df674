//! Continuous batching: requests join and leave at any step.
//!
//! [`Scheduler`] owns an engine and the sequences in it and computes one step at a time, as the
//! [`Worker`] of a model's thread. Deciding is apart from acting: `plan`, `queue_order`, `batch_admission` and
//! `step_latency` are plain functions, this file carries out what they say.
//!
//! Sequences share the cells of a common prefix (`prefix`, `cache`): a request
//! starts from the longest one that is in the cache, and waits while another is
//! just computing a longer one, instead of computing it a second time.
//!
//! Answers draft tokens that they may well go on with (`speculation`) where that pays: rows that
//! are computed along with the next token and kept as far as the sampler then agrees.

mod adapters;
mod batch;
mod batch_admission;
mod cache;
mod drafting;
mod energy_bill;
mod events;
mod exact_share;
mod fair_share;
mod forecast;
mod governed_limits;
mod job;
mod kv_offload;
mod placement;
mod plan;
mod prefill;
mod prefix;
mod prefix_lookup;
mod prompt_scores;
mod queue_order;
mod running;
mod sequence;
mod sequences;
mod speculation;
mod step_latency;
mod step_planning;
mod text;
mod timeline;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::MemoryRoom;
use crate::engine::{DecodeError, Engine, Pieces};
use crate::governor::GovernorHandle;
use crate::telemetry::ModelMetrics;
use crate::worker::{WorkError, Worker};

pub use adapters::{AdapterChange, SchedulerRequest};
pub use events::{EventReceiver, EventSender, channel};
pub use forecast::{Forecast, LoadBoard};
pub use job::{
    AnswerEnd, AnswerEvent, AnswerText, FinishReason, GenerationJob, PredictionUsage,
    QueueProgress, Timings,
};
pub use text::Stops;

use adapters::Removals;
use batch::Batch;
use batch_admission::{Admission, AdmissionCandidate, AdmissionRound, BatchSnapshot, ExactPolicy};
use cache::Cache;
use energy_bill::EnergyBill;
use fair_share::{Capacity, FairShare};
use governed_limits::GovernedLimits;
use placement::PlacementCosts;
use sequence::{Sequence, SequenceProgress};
use sequences::Sequences;
use speculation::AcceptanceRates;
use step_latency::StepLatency;
use step_planning::StepPlanning;

/// How often an idle scheduler checks whether it should give memory back.
const MEMORY_CHECK: Duration = Duration::from_secs(1);

/// How a scheduler divides its engine among requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Sequences that are computed in one batch at most.
    pub max_running: usize,
    /// How long a step should take while answers are being generated.
    pub target_inter_token: Duration,
    /// Whether answers may use speculative decoding.
    pub speculation: bool,
    /// Bytes of host memory for prefixes that were evicted from the KV cache.
    pub parked_bytes: usize,
    /// Whether each request is computed so that its answer does not depend on other requests: alone in a
    /// partition of the cache, without drafts.
    pub deterministic: bool,
}

/// Answers the requests of one model: decides at each step what each request computes, and computes it.
pub struct Scheduler<E: Engine> {
    pieces: Arc<dyn Pieces>,
    limits: SchedulerLimits,
    metrics: ModelMetrics,
    sequences: Sequences<E>,
    step_latency: StepLatency,
    placement: PlacementCosts,
    acceptance: AcceptanceRates,
    batch: Batch,
    governed: GovernedLimits,
    energy_bill: EnergyBill,
    load_board: LoadBoard,
    /// Estimates of requests that came since the load was published.
    accepted: Vec<Forecast>,
    fair: FairShare,
    removals: Removals,
}

impl<E: Engine> Scheduler<E> {
    /// Makes a scheduler without requests.
    pub fn new(
        engine: E,
        pieces: Arc<dyn Pieces>,
        limits: SchedulerLimits,
        metrics: ModelMetrics,
    ) -> Self {
        let shape = engine.shape();
        let limits = SchedulerLimits {
            max_running: limits.max_running.min(shape.sequences as usize),
            // What was wrong has to be taken back out of the cache.
            speculation: limits.speculation && shape.shares_prefixes && !limits.deterministic,
            ..limits
        };
        let rows = if limits.deterministic {
            limits.max_running.min(shape.partitions as usize)
        } else {
            limits.max_running
        };
        Self {
            limits,
            sequences: Sequences::new(Cache::new(engine, limits.parked_bytes), metrics.clone()),
            pieces,
            metrics,
            step_latency: StepLatency::default(),
            placement: PlacementCosts::new(shape.break_even_cells, shape.threads),
            acceptance: AcceptanceRates::default(),
            batch: Batch::default(),
            governed: GovernedLimits::default(),
            energy_bill: EnergyBill::default(),
            load_board: LoadBoard::new(shape, rows, limits.target_inter_token),
            accepted: Vec::new(),
            fair: FairShare::default(),
            removals: Removals::default(),
        }
    }

    /// Lets the scheduler obey a governor.
    #[must_use]
    pub fn governed_by(mut self, governed: GovernorHandle) -> Self {
        self.governed = GovernedLimits::new(governed);
        self
    }

    /// Lets the scheduler offload no more prefixes than there is room for.
    #[must_use]
    pub fn keeping_within(mut self, room: MemoryRoom) -> Self {
        self.sequences.cache.keep_within(room);
        self
    }

    /// What there is to do, for those who estimate how long a request will take.
    #[must_use]
    pub fn load_board(&self) -> LoadBoard {
        self.load_board.clone()
    }

    /// Queues a request.
    pub fn submit(&mut self, job: GenerationJob) {
        self.accepted.extend(job.forecast);
        let is_served = self.serves(job.adapter);
        let mut sequence = Sequence::new(job);
        if is_served {
            self.sequences.waiting.push(sequence);
        } else {
            sequence.fail(WorkError::AdapterRemoved);
        }
    }

    /// Whether there is nothing to compute.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Drops requests whose clients left, lets waiting ones join, computes one batch and sends what
    /// came of it. `clock` is asked before
    /// and after the batch.
    pub fn step(&mut self, clock: &dyn Fn() -> Instant) {
        let now = clock();
        self.sequences.drop_cancelled(now);
        self.sequences.end_late(&self.load_board, now);
        self.sequences.cache.expire(now);
        self.follow_governor(now);
        self.observe_tenants(now);
        self.admit_waiting(now);
        let mut planning = StepPlanning {
            sequences: &mut self.sequences,
            limits: self.limits,
            step_latency: &self.step_latency,
            acceptance: &self.acceptance,
            fair: &mut self.fair,
        };
        if let Some(shares) = planning.plan(now) {
            self.compute(&shares, clock);
        }
        self.finish_removals();
        self.publish(now);
    }

    /// Shows others how things are now.
    fn publish(&mut self, now: Instant) {
        self.sequences.publish();
        let rows = self.most_running();
        self.sequences.publish_load(
            &self.load_board,
            (rows, &self.step_latency),
            &mut self.accepted,
            now,
        );
    }

    /// Ends every request with `error`.
    pub fn fail_all(&mut self, error: WorkError) {
        self.sequences.fail_all(error);
        self.finish_removals();
        self.publish(Instant::now());
    }

    /// Follows the governor: flex requests go back into the queue where they are not served, and
    /// what is kept of ended requests shrinks. How many may run is looked at where requests join.
    fn follow_governor(&mut self, now: Instant) {
        self.governed.refresh();
        self.sequences.preempt_unserved(&self.governed, now);
        let cache = &mut self.sequences.cache;
        cache.limit(self.governed.parked_cells(cache.shape().cells));
    }

    /// How many requests may run together now. Where each has a partition to itself, no more than there
    /// are.
    fn most_running(&self) -> usize {
        let most = if self.limits.deterministic {
            let partitions = self.sequences.cache.owned_partitions();
            self.limits.max_running.min(partitions)
        } else {
            self.limits.max_running
        };
        self.governed.running(most)
    }

    /// Counts what each tenant has and asks for.
    fn observe_tenants(&mut self, now: Instant) {
        let capacity = Capacity {
            rows: self.most_running(),
            cells: self.sequences.cache.shape().cells,
        };
        self.fair.observe(self.sequences.tenants(), capacity, now);
        self.recount_holdings();
    }

    fn recount_holdings(&mut self) {
        let holdings = self.sequences.holdings(self.fair.has_several());
        self.fair.recount(&holdings);
    }

    /// Lets waiting requests join the batch, as [`batch_admission`] decides.
    fn admit_waiting(&mut self, now: Instant) {
        if self.sequences.waiting.is_empty() {
            return;
        }
        let queue = std::mem::take(&mut self.sequences.waiting);
        let mut waiting: Vec<Option<Sequence>> = queue.into_iter().map(Some).collect();
        let served = self.served_order(&waiting, now);
        let mut round = AdmissionRound::new(served, self.sequences.view().loads());
        while let Some(admission) = self.next_admission(&mut round, &waiting, now) {
            if !admission.victims.is_empty() {
                self.sequences.preempt(&admission.victims, now);
                self.recount_holdings();
                round.preempted(self.sequences.view().loads());
            }
            let place = &mut waiting[admission.index];
            let rank = place
                .as_ref()
                .map(|sequence| sequence.rank(admission.index));
            if !self.sequences.admit(place, &admission, now) {
                break;
            }
            round.carried_out(&admission);
            if let Some(rank) = rank {
                self.fair
                    .joined(rank.tenant, rank.tier, admission.novel, now);
            }
            if self.fair.has_several() {
                round.reorder(self.served_order(&waiting, now));
            }
            if !admission.overtakes {
                self.placement.joined(now);
            }
        }
        for (ahead, index) in self.order(&waiting, now).into_iter().enumerate() {
            if let Some(sequence) = &waiting[index] {
                sequence.waits(ahead);
            }
        }
        // Those that were preempted are in the queue already.
        let left = waiting.into_iter().flatten();
        self.sequences.waiting.extend(left);
    }

    /// The order of those that still wait.
    fn order(&self, waiting: &[Option<Sequence>], now: Instant) -> Vec<usize> {
        let still_waiting = waiting.iter().enumerate();
        let ranks = still_waiting
            .filter_map(|(index, place)| place.as_ref().map(|sequence| sequence.rank(index)));
        queue_order::order(ranks, &self.fair, now)
    }

    /// The order of those that still wait and whose class the governor serves.
    fn served_order(&self, waiting: &[Option<Sequence>], now: Instant) -> Vec<usize> {
        let mut order = self.order(waiting, now);
        order.retain(|index| {
            let sequence = waiting[*index].as_ref();
            sequence.is_some_and(|sequence| self.governed.serves(sequence.class()))
        });
        order
    }

    /// Shows a round of admission how things are now; returns what it decides.
    fn next_admission(
        &self,
        round: &mut AdmissionRound,
        waiting: &[Option<Sequence>],
        now: Instant,
    ) -> Option<Admission> {
        let shape = self.sequences.cache.shape();
        let holdings = self.sequences.holdings(self.fair.has_several());
        let snapshot = BatchSnapshot {
            now,
            running: self.sequences.summaries(&holdings),
            most_running: self.most_running(),
            cells: shape.cells,
            exact: match shape.exact_block {
                None => ExactPolicy::Never,
                Some(_) if self.limits.deterministic => ExactPolicy::Always,
                Some(_) => ExactPolicy::WhenAlone,
            },
            placement: &self.placement,
            fair: &self.fair,
            one_row_seconds: self.step_latency.outputs(1),
            prefixes: &self.sequences.view(),
        };
        round.next(&snapshot, |index| {
            let sequence = waiting[index].as_ref()?;
            let aged_tier = sequence.rank(index).aged_tier(&self.fair, now);
            Some(AdmissionCandidate::new(sequence, aged_tier))
        })
    }

    fn compute(&mut self, shares: &[usize], clock: &dyn Fn() -> Instant) {
        self.batch.fill(&self.sequences.running, shares);
        let started = clock();
        match self.sequences.cache.decode(self.batch.rows()) {
            Ok(()) => {}
            Err(DecodeError::NoCells) => {
                self.sequences.swap_out_victim(&mut self.fair, started);
                return;
            }
            Err(error @ DecodeError::Failed(_)) => {
                tracing::error!(%error, rows = self.batch.rows().len(), "batch lost");
                self.sequences.fail_batch(shares);
                return;
            }
        }
        let now = clock();
        let outputs = self.batch.output_rows();
        let took = now.duration_since(started);
        let prompts = self.batch.effective_prompt_rows(&self.sequences.cache);
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
        let energy_rate = self.governed.energy_rate();
        for (running, &share) in self.sequences.running.iter_mut().zip(shares) {
            let (outputs, prompts) = running.charged_rows(share);
            let seconds = price.seconds(outputs, prompts);
            if let Some(rate) = energy_rate
                && seconds > 0.0
            {
                let phase = running.sequence.phase();
                self.metrics
                    .energy
                    .computed(phase, rate.idle, rate.work, seconds);
            }
            let joules = energy_rate.map(|rate| rate.gross(seconds));
            running.sequence.spent(joules);
        }
    }

    fn deliver(&mut self, shares: &[usize], now: Instant) {
        let mut ended = Vec::new();
        for ((index, running), (&share, &first)) in self
            .sequences
            .running
            .iter_mut()
            .enumerate()
            .zip(shares.iter().zip(self.batch.first_rows()))
        {
            let logits = |row: usize| self.sequences.cache.logits(row);
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
                if progress == SequenceProgress::Ended {
                    ended.push(index);
                    if let Some(lesson) = running.sequence.lesson() {
                        self.load_board.learn(lesson, now);
                    }
                }
            }
            let computed = running.sequence.computed();
            let tenant = running.sequence.tenant().id;
            self.fair.served(tenant, computed - before);
            let tokens = &running.sequence.tokens()[before..computed];
            if running.sequence.is_in_prompt() {
                self.sequences.cache.computed_prompt(running.id, tokens);
            } else {
                self.sequences.cache.computed(running.id, tokens);
            }
            if running.draft.has_rejected() {
                self.sequences.cache.forget_drafts(running.id, computed);
            }
        }
        for length in self.sequences.end(&ended, now) {
            self.placement.ended(length);
        }
    }
}

impl<E: Engine> Worker for Scheduler<E> {
    type Request = SchedulerRequest<E::AdapterFile>;

    fn accept(&mut self, request: Self::Request) {
        match request {
            SchedulerRequest::Generate(job) => self.submit(*job),
            SchedulerRequest::Change(change) => self.change(change),
        }
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
        self.sequences
            .cache
            .could_free_memory()
            .then_some(MEMORY_CHECK)
    }

    fn rest_after(&self, worked: Duration) -> Duration {
        self.governed
            .rest_after(worked, self.sequences.is_held_back())
    }

    fn look_while_resting(&mut self, now: Instant) {
        self.sequences.end_late(&self.load_board, now);
        self.finish_removals();
    }

    fn abort_all(&mut self, error: WorkError) {
        self.fail_all(error);
    }
}

#[cfg(test)]
mod tests;
