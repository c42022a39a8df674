//! The requests of a scheduler and the cells that they have, through their whole life: they wait,
//! join the batch, are preempted, and end.
//!
//! Other modules decide what happens to a request. This one carries it out in the queue, the batch, the
//! cache and the metrics at once, so that these agree.

use std::time::Instant;

use crate::admission::Tenant;
use crate::engine::{AdapterId, Engine};
use crate::telemetry::ModelMetrics;
use crate::worker::WorkError;

use super::batch_admission::{Admission, RunningSummary};
use super::cache::Cache;
use super::fair_share::{FairShare, Holding};
use super::forecast::{Forecast, LoadBoard, LoadReport};
use super::governed_limits::GovernedLimits;
use super::plan::{self, Urgency};
use super::prefill;
use super::prefix_lookup::{CacheView, common_prefix};
use super::running::RunningSequence;
use super::sequence::Sequence;
use super::step_latency::StepLatency;

/// Keeps the waiting and the running requests in step with the cache.
pub(super) struct Sequences<E: Engine> {
    pub(super) cache: Cache<E>,
    /// Waiting requests, in no particular order.
    pub(super) waiting: Vec<Sequence>,
    /// Running requests, in the order in which they joined the batch.
    pub(super) running: Vec<RunningSequence>,
    metrics: ModelMetrics,
}

impl<E: Engine> Sequences<E> {
    pub(super) fn new(cache: Cache<E>, metrics: ModelMetrics) -> Self {
        Self {
            cache,
            waiting: Vec::new(),
            running: Vec::new(),
            metrics,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Whether any request is computed with an adapter, or waits for that.
    pub(super) fn has_any_with(&self, adapter: AdapterId) -> bool {
        let running = self.running.iter().map(|running| &running.sequence);
        let mut all = running.chain(&self.waiting);
        all.any(|sequence| sequence.adapter() == Some(adapter))
    }

    /// Whether requests wait although none runs.
    pub(super) fn is_held_back(&self) -> bool {
        self.running.is_empty() && !self.waiting.is_empty()
    }

    /// The cache as a newcomer finds it.
    pub(super) fn view(&self) -> CacheView<'_, E> {
        CacheView {
            cache: &self.cache,
            running: &self.running,
        }
    }

    /// The running requests as admission looks at them.
    pub(super) fn summaries(&self, holdings: &[Holding]) -> Vec<RunningSummary> {
        let summary = |(running, holding): (&RunningSequence, &Holding)| RunningSummary {
            tier: running.tier,
            partition: self.cache.partition_of(running.id),
            holding: *holding,
        };
        self.running.iter().zip(holdings).map(summary).collect()
    }

    /// Whose the requests are, running and waiting.
    pub(super) fn tenants(&self) -> impl Iterator<Item = Tenant> {
        let running = self.running.iter().map(|running| &running.sequence);
        running.chain(&self.waiting).map(Sequence::tenant)
    }

    /// What the running requests hold. Only where there are `several` tenants is it worth the time to
    /// find out which cells are nobody else's.
    pub(super) fn holdings(&self, several: bool) -> Vec<Holding> {
        let holding = |(place, running): (usize, &RunningSequence)| Holding {
            tenant: running.sequence.tenant(),
            cells: if several { self.own_cells(place) } else { 0 },
            ahead: running.ahead(),
        };
        self.running.iter().enumerate().map(holding).collect()
    }

    /// How many cells a running request has, or will have for its tokens so far, that no other one
    /// shares.
    fn own_cells(&self, place: usize) -> usize {
        let sequence = &self.running[place].sequence;
        let partition = self.cache.partition_of(self.running[place].id);
        let others = self.running.iter().enumerate();
        let shared = others
            .filter(|(other, _)| *other != place)
            .map(|(_, other)| common_prefix(&self.cache, partition, sequence.prefix(), other))
            .max();
        sequence.len() - shared.unwrap_or(0)
    }

    /// Drops every request whose client has left, and every waiting one whose slot was given to
    /// another tenant. The cells of those that ran are parked.
    pub(super) fn drop_cancelled(&mut self, now: Instant) {
        let metrics = &self.metrics;
        self.waiting.retain_mut(|sequence| {
            if sequence.fail_displaced() {
                return false;
            }
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

    /// Ends every request whose deadline has passed. The cells of those that ran are parked.
    pub(super) fn end_late(&mut self, load_board: &LoadBoard, now: Instant) {
        let metrics = &self.metrics;
        let end = |sequence: &mut Sequence, has_started: bool| {
            let load = sequence.load(has_started);
            sequence.end_late(now, metrics, |allowed| {
                load_board.retry_after(load, allowed)
            });
            if let Some(lesson) = sequence.lesson() {
                load_board.learn(lesson, now);
            }
        };
        for mut sequence in self
            .waiting
            .extract_if(.., |sequence| sequence.is_late(now))
        {
            end(&mut sequence, false);
        }
        let late = self
            .running
            .extract_if(.., |running| running.sequence.is_late(now));
        for mut running in late.collect::<Vec<_>>() {
            end(&mut running.sequence, false);
            self.cache.park(running.id, now);
        }
    }

    /// Shows what there is to do to those who estimate how long a request will take. The `accepted` are no
    /// longer on their way here.
    pub(super) fn publish_load(
        &self,
        load_board: &LoadBoard,
        (rows, latency): (usize, &StepLatency),
        accepted: &mut Vec<Forecast>,
        now: Instant,
    ) {
        let mut waiting: Vec<&Sequence> = self.waiting.iter().collect();
        // One that was preempted since the queue was looked at has no place yet: it is the next.
        waiting.sort_by_key(|sequence| sequence.ahead());
        let running = self.running.iter();
        let report = LoadReport {
            running: running.map(|running| running.sequence.load(running.has_started)),
            waiting: waiting.into_iter().map(|sequence| sequence.load(false)),
            rows,
            free_cells: self.cache.shape().cells.saturating_sub(self.cache.live()),
            latency,
        };
        load_board.publish(report, accepted, now);
    }

    /// Preempts the requests of classes that the governor does not let run.
    pub(super) fn preempt_unserved(&mut self, governed: &GovernedLimits, now: Instant) {
        let unserved: Vec<_> = self
            .running
            .extract_if(.., |running| !governed.serves(running.sequence.class()))
            .collect();
        for running in unserved {
            self.park_and_requeue(running, now);
        }
    }

    /// Preempts the running requests at these places.
    pub(super) fn preempt(&mut self, places: &[usize], now: Instant) {
        let mut place = 0..;
        let victims: Vec<_> = self
            .running
            .extract_if(.., |_| {
                place.next().is_some_and(|place| places.contains(&place))
            })
            .collect();
        for victim in victims {
            self.park_and_requeue(victim, now);
        }
    }

    /// Its cells stay as long as there is room, so that going on costs little.
    fn park_and_requeue(&mut self, running: RunningSequence, now: Instant) {
        self.cache.park(running.id, now);
        self.requeue(running.sequence, now);
    }

    /// Frees the cells of the running request that [`plan::victim`] names, which waits until there
    /// is room again. One that fills the cache alone cannot go on: it fails.
    pub(super) fn swap_out_victim(&mut self, fair: &mut FairShare, now: Instant) {
        let alone = self.running.len() == 1;
        fair.recount(&self.holdings(fair.has_several()));
        let running = self.running.iter();
        let ranks = running.map(|running| {
            let tenant = running.sequence.tenant();
            (running.tier, fair.excess(tenant.id))
        });
        let Some(victim) = plan::victim(ranks) else {
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

    fn requeue(&mut self, mut sequence: Sequence, now: Instant) {
        self.metrics.preemptions.inc();
        sequence.requeue(now);
        self.waiting.push(sequence);
    }

    /// Takes a request out of its place in the queue and lets it join the batch. Returns false where
    /// its partition has no sequence for it, or its slot was just given to another; then it stays in
    /// its place.
    pub(super) fn admit(
        &mut self,
        waiting: &mut Option<Sequence>,
        admission: &Admission,
        now: Instant,
    ) -> bool {
        let partition = admission.partition;
        let id = waiting
            .as_ref()
            .filter(|sequence| sequence.takes_its_slot())
            .and_then(|sequence| self.cache.acquire(partition, sequence.prefix(), now));
        let Some((id, mut sequence)) = id.zip(waiting.take_if(|_| id.is_some())) else {
            return false;
        };
        for running in &mut self.running {
            // From now on it has to share its partition.
            if self.cache.partition_of(running.id) == partition {
                running.sequence.set_exact(false);
            }
        }
        sequence.set_exact(admission.is_exact);
        sequence.joins(now, &self.metrics);
        self.running
            .push(RunningSequence::new(id, sequence, admission));
        true
    }

    /// Starts those that have just joined: see [`prefill::start_sequences`].
    pub(super) fn start(&mut self, now: Instant) -> Vec<Urgency> {
        prefill::start_sequences(&mut self.cache, &mut self.running, now, &self.metrics)
    }

    /// Removes the running requests at these places, in ascending order, whose answers have ended.
    /// Returns how many tokens each answer has, the last one first.
    pub(super) fn end(&mut self, places: &[usize], now: Instant) -> Vec<u32> {
        let mut lengths = Vec::with_capacity(places.len());
        for place in places.iter().rev() {
            let running = self.running.remove(*place);
            lengths.push(running.sequence.generated());
            if running.sequence.client_left() && !running.sequence.is_finished() {
                running.sequence.cancelled(&self.metrics);
            }
            self.cache.park(running.id, now);
        }
        lengths
    }

    /// Fails the running requests that have a share of a batch that was lost.
    pub(super) fn fail_batch(&mut self, shares: &[usize]) {
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

    /// Ends every request with `error`.
    pub(super) fn fail_all(&mut self, error: WorkError) {
        for mut running in std::mem::take(&mut self.running) {
            running.sequence.fail(error);
            self.cache.release(running.id);
        }
        for mut sequence in std::mem::take(&mut self.waiting) {
            sequence.fail(error);
        }
    }

    /// Sets the gauges of requests and cells.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn publish(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (used, parked) = (self.cache.live(), self.cache.parked_cells());
        let cells = self.cache.shape().cells;
        let metrics = &self.metrics;
        metrics.waiting.set(gauge(self.waiting.len()));
        metrics.running.set(gauge(self.running.len()));
        metrics.kv_used.set(gauge(used));
        metrics.kv_parked.set(gauge(parked));
        metrics.kv_free.set(gauge(cells - used - parked));
        metrics
            .parked_bytes
            .set(gauge(self.cache.offloaded_bytes()));
        metrics.kv_usage.set(used as f64 / cells.max(1) as f64);
    }
}
