//! Vectors of texts, many texts a batch.
//!
//! [`Batcher`] owns an embedder and the requests that wait for it; [`worker::run`](crate::worker::run())
//! runs it on the model's thread as it runs the scheduler. There is nothing to remember between two
//! batches, so all there is to decide is which texts go into the next one: [`compose`], a plain
//! function.

mod compose;
mod load_board;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::admission::AdmissionSlot;
use crate::engine::{DecodeError, Embedder, Token};
use crate::governor::GovernorHandle;
use crate::telemetry::EmbeddingMetrics;
use crate::worker::{WorkError, Worker};

pub use compose::compose;
pub use load_board::{EmbeddingForecast, EmbeddingLoadBoard};

/// One request: texts as tokens, no JSON, no HTTP.
#[derive(Debug)]
pub struct EmbeddingJob {
    /// The texts: at least one, each with a token at least and no longer than a batch.
    pub texts: Vec<Vec<Token>>,
    /// When the request arrived.
    pub arrived: Instant,
    /// When its client no longer wants the vectors.
    pub deadline: Option<Instant>,
    /// How long it was thought to take when it was admitted; tests may have none.
    pub forecast: Option<EmbeddingForecast>,
    /// The admission slot, given back when the engine is done with it; tests have none.
    pub place: Option<AdmissionSlot>,
    /// Where log lines about it belong.
    pub span: tracing::Span,
    /// Where the vectors go. A request whose receiver is dropped is not computed any further.
    pub answer: oneshot::Sender<Result<EmbeddingResult, WorkError>>,
}

/// The vectors of a request, and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingResult {
    /// The vector of each text, in their order, as the model gives it.
    pub vectors: Vec<Vec<f32>>,
    /// From arrival to the first batch with a text of it.
    pub queue: Duration,
    /// From that batch to the last vector.
    pub compute: Duration,
    /// Energy of the gateway that the request took, in joules, where all of it is known.
    pub energy_joules: Option<f64>,
}

/// How a batcher divides its embedder among requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingLimits {
    /// Requests that are computed at the same time; the others wait, because results take memory.
    pub max_running: usize,
    /// Tokens after which a batch takes no further text, unless it is empty.
    pub fill: usize,
}

/// A request some of whose texts are computed in each batch.
#[derive(Debug)]
struct RunningRequest {
    job: EmbeddingJob,
    since: Instant,
    /// Energy so far, in joules; absent once a part of it is unknown.
    joules: Option<f64>,
    /// Vectors of the first texts; the other texts are still to be computed.
    vectors: Vec<Vec<f32>>,
}

impl RunningRequest {
    fn todo(&self) -> &[Vec<Token>] {
        &self.job.texts[self.vectors.len()..]
    }
}

/// Computes vectors for the requests of one embedding model, many texts a batch.
#[derive(Debug)]
pub struct Batcher<E> {
    embedder: E,
    limits: EmbeddingLimits,
    metrics: EmbeddingMetrics,
    governed: GovernorHandle,
    /// Requests that wait, in order of arrival.
    waiting: VecDeque<EmbeddingJob>,
    /// Requests that are computed; the texts of the first go into the next batch first.
    running: VecDeque<RunningRequest>,
}

impl<E: Embedder> Batcher<E> {
    /// Makes a batcher without requests.
    pub fn new(embedder: E, limits: EmbeddingLimits, metrics: EmbeddingMetrics) -> Self {
        Self {
            embedder,
            limits,
            metrics,
            governed: GovernorHandle::default(),
            waiting: VecDeque::new(),
            running: VecDeque::new(),
        }
    }

    /// Lets the batcher obey a governor.
    #[must_use]
    pub fn governed_by(mut self, governed: GovernorHandle) -> Self {
        self.governed = governed;
        self
    }

    fn drop_cancelled(&mut self) {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|job| !job.answer.is_closed());
        self.running
            .retain(|running| !running.job.answer.is_closed());
        let left = before - self.waiting.len() - self.running.len();
        self.metrics.cancelled.inc_by(left as u64);
    }

    /// Drops requests whose deadline has passed, running ones among them: some of the vectors are no answer.
    fn drop_late(&mut self, now: Instant) {
        let is_late = |job: &EmbeddingJob| job.deadline.is_some_and(|deadline| deadline <= now);
        let (late, waiting): (VecDeque<_>, _) = self.waiting.drain(..).partition(is_late);
        self.waiting = waiting;
        let running = self.running.drain(..);
        let (late_running, running): (VecDeque<_>, _) =
            running.partition(|running| is_late(&running.job));
        self.running = running;
        let late_running = late_running.into_iter().map(|running| running.job);
        for job in late.into_iter().chain(late_running) {
            self.metrics.late.inc();
            fail_late(job, now);
        }
    }

    /// Fails waiting requests whose slots were given to another tenant's.
    fn fail_displaced(&mut self) {
        for job in std::mem::take(&mut self.waiting) {
            let place = job.place.as_ref();
            if let Some(retry_after) = place.and_then(AdmissionSlot::displaced) {
                let error = WorkError::Displaced { retry_after };
                // The client may have left meanwhile.
                let _ = job.answer.send(Err(error));
            } else {
                self.waiting.push_back(job);
            }
        }
    }

    fn take_up(&mut self, now: Instant) {
        while self.running.len() < self.limits.max_running {
            let place = self.waiting.front().map(|job| job.place.as_ref());
            let keeps_its_slot = place.flatten().is_none_or(AdmissionSlot::start);
            let Some(job) = keeps_its_slot.then(|| self.waiting.pop_front()).flatten() else {
                break;
            };
            let tokens: usize = job.texts.iter().map(Vec::len).sum();
            self.metrics.prompt_tokens.inc_by(tokens as u64);
            let queue = now.duration_since(job.arrived).as_secs_f64();
            self.metrics.queue_duration.observe(queue);
            self.running.push_back(RunningRequest {
                since: now,
                joules: Some(0.0),
                vectors: Vec::with_capacity(job.texts.len()),
                job,
            });
        }
    }

    /// Computes one batch. Where it fails, each text is computed alone, so that only the request fails
    /// whose text it was.
    fn compute(&mut self, clock: &dyn Fn() -> Instant) {
        let todo: Vec<_> = self.running.iter().map(RunningRequest::todo).collect();
        let counts = compose(&todo, self.limits.fill, self.embedder.shape().sequences);
        let texts: Vec<&[Token]> = todo
            .iter()
            .zip(&counts)
            .flat_map(|(todo, count)| todo[..*count].iter().map(Vec::as_slice))
            .collect();
        let began = clock();
        let mut vectors: Vec<Result<_, DecodeError>> = match self.embedder.embed(&texts) {
            Ok(vectors) => vectors.into_iter().map(Ok).collect(),
            Err(error) => {
                tracing::error!(%error, texts = texts.len(), "a batch failed; its texts are computed one by one");
                let alone = texts.iter().map(|text| self.embedder.embed(&[text]));
                alone.map(|vectors| only(vectors?)).collect()
            }
        };
        let now = clock();
        self.metrics.steps.inc();
        let seconds = now.duration_since(began).as_secs_f64();
        self.metrics.busy_seconds.inc_by(seconds);
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        #[allow(clippy::cast_precision_loss)] // at most some thousands
        self.metrics.batch_tokens.observe(tokens as f64);
        self.charge(&counts, seconds);

        let mut vectors = vectors.drain(..);
        let running = std::mem::take(&mut self.running);
        let mut first_goes_on = false;
        for (place, (mut running, count)) in running.into_iter().zip(counts).enumerate() {
            let own: Result<Vec<_>, _> = vectors.by_ref().take(count).collect();
            match own {
                Ok(own) => running.vectors.extend(own),
                Err(error) => {
                    running.job.span.in_scope(|| {
                        tracing::error!(%error, "a text could not be computed");
                    });
                    // The client may have left meanwhile.
                    let _ = running.job.answer.send(Err(WorkError::Engine));
                    continue;
                }
            }
            if running.todo().is_empty() {
                self.finish(running, now);
            } else {
                self.running.push_back(running);
                first_goes_on |= place == 0;
            }
        }
        // The first has had its turn: everybody moves up.
        if first_goes_on {
            self.running.rotate_left(1);
        }
    }

    /// Gives every request its share of a batch's energy, by tokens.
    #[allow(clippy::cast_precision_loss)] // at most some thousands
    fn charge(&mut self, counts: &[usize], seconds: f64) {
        let energy_rate = self.governed.energy_rate();
        if let Some(rate) = energy_rate {
            self.metrics
                .energy
                .computed("prompt", rate.idle, rate.work, seconds);
        }
        let tokens = |running: &RunningRequest, count: usize| -> usize {
            running.todo()[..count].iter().map(Vec::len).sum()
        };
        let shares = self.running.iter().zip(counts);
        let shares: Vec<_> = shares
            .map(|(running, count)| tokens(running, *count))
            .collect();
        let all = shares.iter().sum::<usize>().max(1) as f64;
        for (running, share) in self.running.iter_mut().zip(shares) {
            let joules = energy_rate.map(|rate| rate.gross(seconds * share as f64 / all));
            running.joules = running.joules.zip(joules).map(|(all, more)| all + more);
        }
    }

    fn finish(&self, running: RunningRequest, now: Instant) {
        let RunningRequest {
            mut job,
            since,
            joules,
            vectors,
        } = running;
        let whole = now.duration_since(job.arrived).as_secs_f64();
        self.metrics.request_duration.observe(whole);
        if let Some(joules) = joules {
            self.metrics.energy.request(joules);
        }
        if let Some(place) = &mut job.place {
            place.served();
        }
        if let Some(forecast) = job.forecast.take() {
            forecast.answered(now);
        }
        // Free before the answer is out: a client may ask again at once.
        drop(job.place);
        let embedded = EmbeddingResult {
            vectors,
            queue: since.duration_since(job.arrived),
            compute: now.duration_since(since),
            energy_joules: joules,
        };
        let _ = job.answer.send(Ok(embedded));
    }

    fn publish(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.waiting.set(gauge(self.waiting.len()));
        self.metrics.running.set(gauge(self.running.len()));
    }
}

/// Tells the client of a request that its deadline has passed, and when to ask again.
fn fail_late(mut job: EmbeddingJob, now: Instant) {
    let allowed = job
        .deadline
        .unwrap_or(now)
        .saturating_duration_since(job.arrived);
    let forecast = job.forecast.take();
    let retry_after = forecast.map_or(Duration::ZERO, |forecast| forecast.retry_after(allowed));
    let error = WorkError::DeadlinePassed { retry_after };
    job.span
        .in_scope(|| tracing::warn!(%error, "request failed"));
    // Free before the answer is out: a client may ask again at once.
    drop(job.place);
    let _ = job.answer.send(Err(error));
}

/// Returns the vector of a batch of one text.
fn only(vectors: Vec<Vec<f32>>) -> Result<Vec<f32>, DecodeError> {
    vectors.into_iter().next().ok_or(DecodeError::Failed(0))
}

impl<E: Embedder> Worker for Batcher<E> {
    type Request = EmbeddingJob;

    fn accept(&mut self, job: EmbeddingJob) {
        self.waiting.push_back(job);
    }

    fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Drops requests whose clients left, lets waiting ones join, and computes one batch.
    fn run_step(&mut self, clock: &dyn Fn() -> Instant) {
        let now = clock();
        self.drop_cancelled();
        self.drop_late(now);
        self.fail_displaced();
        self.take_up(now);
        if !self.running.is_empty() {
            let _working = self.governed.work();
            self.compute(clock);
        }
        self.publish();
    }

    fn look_while_resting(&mut self, now: Instant) {
        self.drop_late(now);
    }

    fn rest_after(&self, worked: Duration) -> Duration {
        self.governed.measures().rest(worked)
    }

    fn abort_all(&mut self, error: WorkError) {
        let running = self.running.drain(..).map(|running| running.job);
        for job in running.chain(self.waiting.drain(..)) {
            let _ = job.answer.send(Err(error));
        }
        self.publish();
    }
}
