//! What a scheduler does of what the governor asks, and what each request's share of the energy is.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::governor::{Governed, Working};

use super::Scheduler;
use super::job::Class;

/// While all that waits is parked, it is looked for a change so often.
const GLANCE: Duration = Duration::from_millis(20);
/// While nothing is asked, what the governor asks for is looked at so often.
const NAP: Duration = Duration::from_secs(1);

impl<E: Engine> Scheduler<E> {
    /// Makes it obey.
    #[must_use]
    pub fn governed_by(mut self, governed: Governed) -> Self {
        self.governed = governed;
        self
    }

    /// Takes notice of the measures of this moment: flex requests go back into the queue, and what
    /// is kept of ended requests shrinks. Rows are looked at where requests are taken up.
    pub(super) fn obey(&mut self, now: Instant) {
        self.measures = self.governed.measures();
        if !self.measures.flex {
            let is_flex =
                |running: &mut super::RunningSequence| running.sequence.class() == Class::Flex;
            let parked: Vec<_> = self.running.extract_if(.., is_flex).collect();
            for mut running in parked {
                self.cache.park(running.id, now);
                self.metrics.preemptions.inc();
                running.sequence.requeue(now);
                self.waiting.push(running.sequence);
            }
        }
        let most = self.measures.parked_of(self.cache.shape().cells);
        self.cache.limit(most);
    }

    /// How long it may be idle: memory that could be given back is not slept on.
    pub(super) fn nap(&self) -> Option<Duration> {
        (self.cache.offloaded_bytes() > 0 || self.cache.has_swollen()).then_some(NAP)
    }

    /// Whether requests of this class are taken up at all.
    pub(super) fn serves(&self, class: Class) -> bool {
        self.measures.flex || class != Class::Flex
    }

    /// Sequences that may be computed together now.
    pub(super) fn rows(&self) -> usize {
        self.measures.rows_of(self.limits.max_running)
    }

    /// Held while a step is computed.
    pub(super) fn working(&self) -> Working {
        self.governed.work()
    }

    /// A step took `whole`, with all that is around its batch.
    pub(super) fn worked(&mut self, whole: Duration) {
        self.unbilled += whole.saturating_sub(self.billed);
        self.billed = Duration::ZERO;
    }

    /// How long to rest after a step that took `worked`.
    pub(super) fn rest(&self, worked: Duration) -> Duration {
        let rest = self.governed.measures().rest(worked);
        let is_held = self.running.is_empty() && !self.waiting.is_empty();
        if is_held { rest.max(GLANCE) } else { rest }
    }

    /// Gives every request its share of a batch's time, `took`, of which `outputs` rows had logits,
    /// and the energy that goes with it.
    pub(super) fn charge(&mut self, shares: &[usize], outputs: usize, rows: usize, took: Duration) {
        self.billed = took;
        let seconds = (took + std::mem::take(&mut self.unbilled)).as_secs_f64();
        let tariff = self.governed.tariff();
        let known = self.step_latency.outputs(outputs);
        let price = Price::of(seconds, outputs, rows - outputs, known);
        for (running, share) in self.running.iter_mut().zip(shares) {
            let sequence = &mut running.sequence;
            let ends = usize::from(*share > 0 && *share == sequence.missing());
            let logits = ends + running.draft.len();
            let seconds = price.seconds(logits, share - ends);
            if let Some(tariff) = tariff
                && seconds > 0.0
            {
                let phase = if sequence.is_decoding() {
                    "generation"
                } else {
                    "prompt"
                };
                self.metrics.energy.computed(phase, &tariff, seconds);
            }
            sequence.spent(tariff.map(|tariff| tariff.gross(seconds)));
        }
    }
}

/// What a row of a batch takes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Price {
    output: f64,
    prompt: f64,
}

impl Price {
    /// A batch that took `seconds`. Rows with logits are charged what they alone are known to
    /// take, rows of prompts the rest: decoding reads all weights for its first row.
    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    fn of(seconds: f64, outputs: usize, prompts: usize, known: Option<f64>) -> Self {
        let (outputs, prompts) = (outputs as f64, prompts as f64);
        let by_row = seconds * outputs / (outputs + prompts).max(1.0);
        let alone = match known {
            _ if prompts < 1.0 => seconds,
            _ if outputs < 1.0 => 0.0,
            Some(known) => known.clamp(by_row.min(seconds), seconds),
            None => by_row,
        };
        let each = |seconds: f64, rows: f64| if rows < 1.0 { 0.0 } else { seconds / rows };
        Self {
            output: each(alone, outputs),
            prompt: each(seconds - alone, prompts),
        }
    }

    #[allow(clippy::cast_precision_loss)] // as above
    fn seconds(self, outputs: usize, prompts: usize) -> f64 {
        self.output * outputs as f64 + self.prompt * prompts as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decoding_is_charged_what_it_takes_alone_and_prompts_the_rest() {
        let price = Price::of(0.1, 1, 50, Some(0.04));
        assert!((price.seconds(1, 0) - 0.04).abs() < 1e-9);
        assert!((price.seconds(0, 50) - 0.06).abs() < 1e-9);
        let unknown = Price::of(0.1, 1, 49, None);
        assert!((unknown.seconds(1, 0) - unknown.seconds(0, 1)).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn shares_add_up_to_the_batch(
            seconds in 0.0_f64..5.0,
            outputs in 0_usize..64,
            prompts in 0_usize..512,
            known in prop::option::of(0.0_f64..5.0),
        ) {
            prop_assume!(outputs + prompts > 0);
            let price = Price::of(seconds, outputs, prompts, known);
            prop_assert!(price.output >= 0.0 && price.prompt >= 0.0);
            prop_assert!((price.seconds(outputs, prompts) - seconds).abs() < 1e-9);
        }
    }
}
