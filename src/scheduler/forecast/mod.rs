//! How long a request will take, from what the scheduler has to do and from what has come of earlier estimates.
//!
//! The scheduler publishes its load at each step on a [`LoadBoard`]; whoever admits a request asks there. The
//! estimate itself is a plain function (`simulation`). What it needs and cannot see is learnt: how long answers
//! usually are (`usual_lengths`), what of a prompt is likely cached (`known_prefixes`), and how far estimates
//! have been off (`correction`). Until enough answers have ended there is no estimate that a request could be
//! refused by.

mod correction;
mod kind;
mod known_prefixes;
mod simulation;
#[cfg(test)]
mod tests;
mod usual_lengths;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{MissedDeadline, ServiceTier, TenantId, Trust, retry_after, to_duration};
use crate::engine::Shape;
use crate::sync::{Mutex, MutexGuard};

use super::job::GenerationJob;
use super::step_latency::StepLatency;
use correction::{Correction, LoadLevel};
use kind::RequestKind;
use known_prefixes::KnownPrefixes;
use simulation::{Capacity, Work};
use usual_lengths::{AnswerBounds, UsualLengths};

/// How often the measured speed is published: it changes slowly.
const SPEED_INTERVAL: Duration = Duration::from_millis(100);

/// What a request is, as far as its duration depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobLoad {
    pub(super) tier: ServiceTier,
    pub(super) tenant: TenantId,
    /// Tokens of its prompt.
    pub(super) prompt: usize,
    /// Those of them that are still to be computed.
    pub(super) unread: usize,
    /// Tokens of its answer so far.
    pub(super) generated: u32,
    /// Tokens that its answer may have at most.
    pub(super) most: u32,
    pub(super) ignores_end: bool,
    /// KV cells of its own that it has, or needs to join.
    pub(super) cells: usize,
}

impl JobLoad {
    fn kind(&self) -> RequestKind {
        RequestKind::of(self.prompt, self.most)
    }
}

/// What a newcomer is expected to take.
#[derive(Debug, Clone, Copy)]
struct NewLoad {
    load: JobLoad,
    /// Tokens of its prompt that are not known to be cached.
    unknown: usize,
}

/// The estimate that was made of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    ticket: Ticket,
    made: Instant,
    /// Uncorrected, in seconds.
    simulated: Option<f64>,
    level: LoadLevel,
    kind: RequestKind,
    /// Tokens of its prompt that were not known to be cached.
    unknown: usize,
    /// Those of them that were expected to be computed.
    unread: usize,
}

/// Tells apart requests that are on their way to the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket(u64);

impl Forecast {
    /// Tokens of its prompt that are likely not in the cache.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }
}

/// How an answer ended from which is learnt.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerLesson {
    pub(super) forecast: Option<Forecast>,
    pub(super) prompt: usize,
    pub(super) most: u32,
    pub(super) ignores_end: bool,
    pub(super) generated: u32,
    /// Tokens of its prompt that were not in the cache when it started.
    pub(super) uncached: Option<usize>,
    /// Whether it ended by itself; otherwise its deadline cut it off.
    pub(super) is_whole: bool,
}

/// The load of a model's scheduler and what is foreseen from it, shared with those who admit requests.
#[derive(Debug, Clone)]
pub struct LoadBoard(Arc<Mutex<Board>>);

#[derive(Debug)]
struct Board {
    running: Vec<JobLoad>,
    /// In the order in which they will join.
    waiting: Vec<JobLoad>,
    /// Announced, and not yet seen by the scheduler.
    incoming: Vec<(Ticket, JobLoad)>,
    capacity: Capacity,
    speed_published: Option<Instant>,
    next_ticket: u64,
    prefixes: KnownPrefixes,
    lengths: UsualLengths,
    correction: Correction,
    trust: Trust,
}

/// What the scheduler says of itself at the end of a step.
pub(super) struct LoadReport<'a, R, W> {
    /// In the order in which they joined.
    pub(super) running: R,
    /// In the order in which they will join.
    pub(super) waiting: W,
    /// How many may run together.
    pub(super) rows: usize,
    pub(super) free_cells: usize,
    pub(super) latency: &'a StepLatency,
}

impl LoadBoard {
    pub(super) fn new(shape: Shape, rows: usize, target: Duration) -> Self {
        Self(Arc::new(Mutex::new(Board {
            running: Vec::new(),
            waiting: Vec::new(),
            incoming: Vec::new(),
            capacity: Capacity {
                rows,
                batch_rows: shape.batch_rows,
                tile_rows: shape.tile_rows,
                target,
                free_cells: cells(shape.cells),
                latency: StepLatency::default(),
            },
            speed_published: None,
            next_ticket: 0,
            prefixes: KnownPrefixes::new(shape.cells),
            lengths: UsualLengths::default(),
            correction: Correction::default(),
            trust: Trust::default(),
        })))
    }

    /// Estimates how long the jobs of one request will take, counted from its arrival, and notes them as on
    /// their way to the scheduler. `None` while too little is known.
    ///
    /// # Errors
    /// That their deadline has passed, or cannot be met; then nothing is noted.
    pub fn announce(
        &self,
        jobs: &mut [&mut GenerationJob],
        now: Instant,
    ) -> Result<Option<Duration>, MissedDeadline> {
        let mut board = self.board();
        let new = board.new_loads(jobs);
        let loads: Vec<JobLoad> = new.iter().map(|new| new.load).collect();
        let simulated = board.simulate(&loads);
        let level = board.level();
        let board = &mut *board;
        let mut estimate = None;
        if let Some((first, load)) = jobs.first().zip(loads.first()) {
            let factor = board.correction.factor(level, load.kind());
            let simulated = simulated.map(|seconds| seconds * factor);
            let waited = now.saturating_duration_since(first.arrived);
            estimate = simulated.map(|seconds| waited.saturating_add(to_duration(seconds)));
            if let Some(deadline) = first.deadline {
                let allowed = deadline.saturating_duration_since(first.arrived);
                let checked = board.check(&loads, now, waited, allowed, estimate);
                checked.inspect_err(|_| board.trust.refused())?;
            }
        }
        for (job, NewLoad { load, unknown }) in jobs.iter_mut().zip(new) {
            board.prefixes.asked(job.prefix_scope(), &job.prompt);
            let ticket = Ticket(board.next_ticket);
            board.next_ticket += 1;
            board.incoming.push((ticket, load));
            job.forecast = Some(Forecast {
                ticket,
                made: now,
                simulated,
                level,
                kind: load.kind(),
                unknown,
                unread: load.unread,
            });
        }
        Ok(estimate)
    }

    /// When a request that waited in vain is likely to be answered within `allowed`.
    pub(super) fn retry_after(&self, load: JobLoad, allowed: Duration) -> Duration {
        let board = self.board();
        let factor = board.correction.factor(board.level(), load.kind());
        let seconds = board
            .simulate(&[load])
            .map_or(0.0, |seconds| seconds * factor);
        retry_after(to_duration(seconds), allowed)
    }

    /// Publishes the load after a step. The `accepted` are no longer on their way.
    pub(super) fn publish(
        &self,
        report: LoadReport<impl Iterator<Item = JobLoad>, impl Iterator<Item = JobLoad>>,
        accepted: &mut Vec<Forecast>,
        now: Instant,
    ) {
        let mut board = self.board();
        let board = &mut *board;
        for forecast in accepted.drain(..) {
            board
                .incoming
                .retain(|(ticket, _)| *ticket != forecast.ticket);
        }
        board.running.clear();
        board.running.extend(report.running);
        board.waiting.clear();
        board.waiting.extend(report.waiting);
        board.capacity.rows = report.rows;
        board.capacity.free_cells = cells(report.free_cells);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= SPEED_INTERVAL;
        if board.speed_published.is_none_or(is_due) {
            board.speed_published = Some(now);
            board.capacity.latency = report.latency.clone();
        }
    }

    /// Learns from an answer that has ended.
    pub(super) fn learn(&self, lesson: AnswerLesson, now: Instant) {
        let mut board = self.board();
        let bounds = AnswerBounds {
            most: lesson.most,
            ignores_end: lesson.ignores_end,
            kind: RequestKind::of(lesson.prompt, lesson.most),
        };
        if lesson.is_whole {
            board.lengths.learn(bounds, lesson.generated);
        } else {
            board.lengths.learn_at_least(bounds, lesson.generated);
        }
        let Some(forecast) = lesson.forecast else {
            return;
        };
        if let Some(uncached) = lesson.uncached {
            board
                .prefixes
                .learn(forecast.kind, forecast.unknown, uncached);
        }
        let Some(simulated) = forecast.simulated else {
            return;
        };
        let took = now.saturating_duration_since(forecast.made).as_secs_f64();
        // One that was cut off would have taken longer than this; how much is not known.
        let Forecast { level, kind, .. } = forecast;
        if lesson.is_whole || took > simulated * board.correction.factor(level, kind) {
            board.correction.learn(level, kind, simulated, took);
            board.trust.compared(now);
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock()
    }
}

impl Board {
    /// What new jobs will need. Those after the first are likely to find what the first has computed.
    fn new_loads(&self, jobs: &[&mut GenerationJob]) -> Vec<NewLoad> {
        let mut loads = Vec::with_capacity(jobs.len());
        for (index, job) in jobs.iter().enumerate() {
            let has_prompt = |other: &&mut GenerationJob| Arc::ptr_eq(&other.prompt, &job.prompt);
            let kind = RequestKind::of(job.prompt.len(), job.max_tokens);
            let unknown = if job.prompt_logprobs.is_some() {
                job.prompt.len()
            } else if jobs[..index].iter().any(has_prompt) {
                1
            } else {
                self.prefixes.unread(job.prefix_scope(), &job.prompt)
            };
            let unread = self.prefixes.expected(kind, unknown);
            let load = JobLoad {
                tier: job.class,
                tenant: job.tenant.id,
                prompt: job.prompt.len(),
                unread,
                generated: 0,
                most: job.max_tokens,
                ignores_end: job.ignore_end,
                cells: unread,
            };
            loads.push(NewLoad { load, unknown });
        }
        loads
    }

    /// How many requests there are.
    fn level(&self) -> LoadLevel {
        LoadLevel::of(self.running.len() + self.waiting.len() + self.incoming.len())
    }

    /// Seconds that newcomers take, as far as simulation can tell.
    fn simulate(&self, newcomers: &[JobLoad]) -> Option<f64> {
        let first = newcomers.first()?;
        let running = self.running_beside(first.tier);
        let waiting = self.going_before(first);
        self.simulate_with(running, waiting, newcomers)
    }

    fn simulate_with<'a>(
        &self,
        running: impl IntoIterator<Item = &'a JobLoad>,
        waiting: impl IntoIterator<Item = &'a JobLoad>,
        newcomers: &[JobLoad],
    ) -> Option<f64> {
        let work = |loads: Vec<&JobLoad>| -> Option<Vec<Work>> {
            loads.into_iter().map(|load| self.work(load)).collect()
        };
        let running = work(running.into_iter().collect())?;
        let waiting = work(waiting.into_iter().collect())?;
        let own = work(newcomers.iter().collect())?;
        simulation::seconds(
            &self.capacity,
            running.into_iter(),
            waiting.into_iter(),
            &own,
        )
    }

    fn work(&self, load: &JobLoad) -> Option<Work> {
        let bounds = AnswerBounds {
            most: load.most,
            ignores_end: load.ignores_end,
            kind: load.kind(),
        };
        Some(Work {
            unread: cells(load.unread),
            answer: self.lengths.expected(bounds, load.generated)?,
            cells: cells(load.cells),
        })
    }

    /// Those that run beside a newcomer of this tier: where all rows are taken, it takes that of the latest
    /// of a lower tier.
    fn running_beside(&self, tier: ServiceTier) -> Vec<&JobLoad> {
        let mut running: Vec<&JobLoad> = self.running.iter().collect();
        if running.len() >= self.capacity.rows
            && let Some(victim) = running.iter().rposition(|load| load.tier < tier)
        {
            running.remove(victim);
        }
        running
    }

    /// Those that go before a newcomer: not those of lower tiers, and not all of a tenant who asks for more than
    /// the newcomer's, because tenants take turns.
    fn going_before(&self, newcomer: &JobLoad) -> Vec<&JobLoad> {
        let all = || {
            self.waiting
                .iter()
                .chain(self.incoming.iter().map(|(_, load)| load))
        };
        let equals = || all().filter(|load| load.tier >= newcomer.tier);
        let turns = 1 + equals()
            .filter(|load| load.tenant == newcomer.tenant)
            .count();
        let mut seen = HashMap::<TenantId, usize>::new();
        equals()
            .filter(|load| {
                let of_tenant = seen.entry(load.tenant).or_default();
                *of_tenant += 1;
                load.tenant == newcomer.tenant || *of_tenant <= turns
            })
            .collect()
    }

    /// Whether newcomers are answered within `allowed`, as far as can be told.
    fn check(
        &self,
        newcomers: &[JobLoad],
        now: Instant,
        waited: Duration,
        allowed: Duration,
        estimate: Option<Duration>,
    ) -> Result<(), MissedDeadline> {
        if waited >= allowed {
            return Err(MissedDeadline::passed(allowed));
        }
        let Some(estimate) = estimate else {
            return Ok(());
        };
        if self.trust.may_be_within(estimate, allowed, now) {
            return Ok(());
        }
        let kind = newcomers.first().map(JobLoad::kind);
        let level = LoadLevel::of(0);
        let factor = kind.map_or(1.0, |kind| self.correction.factor(level, kind));
        let seconds = self.simulate_with([], [], newcomers).unwrap_or(0.0);
        let alone = seconds * factor;
        let even_alone = to_duration(alone) > allowed;
        Err(MissedDeadline::foreseen(allowed, estimate, even_alone))
    }
}

#[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
fn cells(count: usize) -> f64 {
    count as f64
}
