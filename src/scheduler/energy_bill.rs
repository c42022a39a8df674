//! How the time that the model's thread computes is shared out among requests, and with it the
//! energy that it takes.

use std::time::Duration;

/// Keeps account of which part of the time has been charged to requests already.
///
/// Requests are charged when a batch has been computed. The time around a batch (sampling, sending,
/// planning) is known only after that, so it is charged along with the next batch.
#[derive(Debug, Default)]
pub(super) struct EnergyBill {
    /// Time of the current step's batch, which has been charged.
    billed: Duration,
    /// Time around earlier batches, which has not been charged yet.
    unbilled: Duration,
}

impl EnergyBill {
    /// Charges a batch that took `took`, along with what is still unbilled; returns what a row of
    /// it costs. `outputs` of its rows had logits, `prompts` had none, and `known` are the seconds
    /// that as many rows with logits take alone, as far as they are known.
    pub(super) fn charge(
        &mut self,
        took: Duration,
        outputs: usize,
        prompts: usize,
        known: Option<f64>,
    ) -> ComputePrice {
        self.billed = took;
        let seconds = (took + std::mem::take(&mut self.unbilled)).as_secs_f64();
        ComputePrice::of(seconds, outputs, prompts, known)
    }

    /// Ends a step that took `whole`: what it took beyond its batch waits for the next batch.
    pub(super) fn close_step(&mut self, whole: Duration) {
        self.unbilled += whole.saturating_sub(self.billed);
        self.billed = Duration::ZERO;
    }
}

/// Seconds that one row of a batch is charged for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ComputePrice {
    /// A row with logits.
    output: f64,
    /// A row of a prompt without.
    prompt: f64,
}

impl ComputePrice {
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

    /// Returns the seconds that these rows, with logits and without, are charged for.
    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    pub(super) fn seconds(self, outputs: usize, prompts: usize) -> f64 {
        self.output * outputs as f64 + self.prompt * prompts as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decoding_is_charged_what_it_takes_alone_and_prompts_the_rest() {
        let price = ComputePrice::of(0.1, 1, 50, Some(0.04));
        assert!((price.seconds(1, 0) - 0.04).abs() < 1e-9);
        assert!((price.seconds(0, 50) - 0.06).abs() < 1e-9);
        let unknown = ComputePrice::of(0.1, 1, 49, None);
        assert!((unknown.seconds(1, 0) - unknown.seconds(0, 1)).abs() < 1e-9);
    }

    #[test]
    fn what_was_around_a_batch_is_charged_with_the_next_one() {
        let mut bill = EnergyBill::default();
        let millis = Duration::from_millis;
        let seconds = |price: ComputePrice| price.seconds(1, 0);
        assert!((seconds(bill.charge(millis(40), 1, 0, None)) - 0.040).abs() < 1e-9);
        bill.close_step(millis(45));
        assert!((seconds(bill.charge(millis(40), 1, 0, None)) - 0.045).abs() < 1e-9);
        bill.close_step(millis(40));
        assert!((seconds(bill.charge(millis(40), 1, 0, None)) - 0.040).abs() < 1e-9);
    }

    #[test]
    fn a_step_without_a_batch_is_charged_as_a_whole() {
        let mut bill = EnergyBill::default();
        bill.close_step(Duration::from_millis(3));
        bill.close_step(Duration::from_millis(4));
        let price = bill.charge(Duration::from_millis(10), 1, 0, None);
        assert!((price.seconds(1, 0) - 0.017).abs() < 1e-9);
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
            let price = ComputePrice::of(seconds, outputs, prompts, known);
            prop_assert!(price.output >= 0.0 && price.prompt >= 0.0);
            prop_assert!((price.seconds(outputs, prompts) - seconds).abs() < 1e-9);
        }
    }
}
