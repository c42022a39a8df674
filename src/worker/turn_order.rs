//! Which model computes next: a function of who waits, who computes, and what each has had.
//!
//! Start-time fair queueing. A step costs its cores times its seconds. A model's next step is tagged with
//! the end of its last one, or with the tag of the step under way if that is later: so who computes all
//! the time and who comes now and then get equal parts while both want to compute, and nobody saves up
//! turns while it is idle. The lowest tag goes first. Nobody overtakes it, even where a smaller step would
//! fit into the cores that are left: otherwise a stream of small steps could keep a large one waiting for ever.

use std::time::{Duration, Instant};

/// A step that takes longer than this is no longer waited for: the others compute beside it, as they would
/// without turns. It may be one long text, which cannot be split, or it may hang.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A model counts as one that has answers under way for so long after its last step: between two steps it
/// sends what it has, and it may be paced.
const LATELY: Duration = Duration::from_millis(500);

/// What a step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeDemand {
    /// Threads that compute it at the same time.
    pub cores: u32,
    /// Whether clients are waiting for the next token of answers that have begun.
    pub has_answers: bool,
}

/// A model, by the order in which it joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelNumber(u64);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// It has not computed for a while, or has just stopped.
    Resting {
        since: Option<Instant>,
    },
    Waiting {
        arrival: u64,
    },
    Computing {
        since: Instant,
    },
}

#[derive(Debug)]
struct Model {
    number: ModelNumber,
    phase: Phase,
    /// Of its last step, or the one that it waits for.
    demand: ComputeDemand,
    /// Where its next step begins on the common scale, in seconds of one core.
    tag: f64,
}

/// All models, and who of them computes.
#[derive(Debug)]
pub(super) struct TurnOrder {
    cores: u32,
    models: Vec<Model>,
    joined: u64,
    arrivals: u64,
    /// The tag of the step that began last.
    reached: f64,
}

impl TurnOrder {
    /// Of models that share so many cores.
    pub(super) fn new(cores: u32) -> Self {
        Self {
            cores: cores.max(1),
            models: Vec::new(),
            joined: 0,
            arrivals: 0,
            reached: 0.0,
        }
    }

    /// Adds a model.
    pub(super) fn join(&mut self) -> ModelNumber {
        let number = ModelNumber(self.joined);
        self.joined += 1;
        self.models.push(Model {
            number,
            phase: Phase::Resting { since: None },
            demand: ComputeDemand {
                cores: 1,
                has_answers: false,
            },
            tag: 0.0,
        });
        number
    }

    /// Removes a model, with whatever it holds.
    pub(super) fn leave(&mut self, number: ModelNumber) {
        self.models.retain(|model| model.number != number);
    }

    /// Notes that a model wants to compute. Where there are fewer cores than it demands it takes all.
    pub(super) fn wait(&mut self, number: ModelNumber, demand: ComputeDemand) {
        let (arrival, reached) = (self.arrivals, self.reached);
        self.arrivals += 1;
        let cores = demand.cores.clamp(1, self.cores);
        if let Some(model) = self.model(number) {
            model.tag = model.tag.max(reached);
            model.demand = ComputeDemand { cores, ..demand };
            model.phase = Phase::Waiting { arrival };
        }
    }

    /// Returns who is to begin now, if anybody is.
    pub(super) fn next(&self, now: Instant) -> Option<ModelNumber> {
        let waiting = self.models.iter().filter_map(|model| match model.phase {
            Phase::Waiting { arrival } => Some((model, arrival)),
            _ => None,
        });
        let (first, _) = waiting
            .min_by(|(a, arrival), (b, other)| a.tag.total_cmp(&b.tag).then(arrival.cmp(other)))?;
        (self.busy(now) + first.demand.cores <= self.cores).then_some(first.number)
    }

    /// Cores of the steps under way that are waited for.
    fn busy(&self, now: Instant) -> u32 {
        let cores = self.models.iter().map(|model| match model.phase {
            Phase::Computing { since } if passed(since, now) < LONGEST_WAIT => model.demand.cores,
            _ => 0,
        });
        cores.sum()
    }

    /// Notes that a waiting model begins its step.
    pub(super) fn begin(&mut self, number: ModelNumber, now: Instant) {
        if let Some(model) = self.model(number)
            && matches!(model.phase, Phase::Waiting { .. })
        {
            model.phase = Phase::Computing { since: now };
            let tag = model.tag;
            self.reached = self.reached.max(tag);
        }
    }

    /// Notes that a model's step is over, or that it no longer waits for one.
    pub(super) fn end(&mut self, number: ModelNumber, now: Instant) {
        if let Some(model) = self.model(number) {
            if let Phase::Computing { since } = model.phase {
                model.tag += f64::from(model.demand.cores) * passed(since, now).as_secs_f64();
            }
            model.phase = Phase::Resting { since: Some(now) };
        }
    }

    /// Whether a model's step is under way.
    pub(super) fn computes(&self, number: ModelNumber) -> bool {
        let mut models = self.models.iter();
        let found = models.find(|model| model.number == number);
        found.is_some_and(|model| matches!(model.phase, Phase::Computing { .. }))
    }

    /// Returns how many models besides this one have answers under way, or had just now.
    pub(super) fn answering_beside(&self, number: ModelNumber, now: Instant) -> usize {
        let models = self.models.iter();
        let answering = models.filter(|model| model.number != number && model.demand.has_answers);
        let wanting = answering.filter(|model| match model.phase {
            Phase::Resting { since } => since.is_some_and(|since| passed(since, now) < LATELY),
            Phase::Waiting { .. } | Phase::Computing { .. } => true,
        });
        wanting.count()
    }

    /// Whether anybody waits.
    pub(super) fn has_waiting(&self) -> bool {
        let mut models = self.models.iter();
        models.any(|model| matches!(model.phase, Phase::Waiting { .. }))
    }

    fn model(&mut self, number: ModelNumber) -> Option<&mut Model> {
        let mut models = self.models.iter_mut();
        models.find(|model| model.number == number)
    }
}

fn passed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

#[cfg(test)]
#[path = "turn_order_tests.rs"]
mod tests;
