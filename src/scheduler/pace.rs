//! How long steps take, learnt from those that were, and how many rows of a
//! prompt fit into one without keeping running answers waiting.

use std::time::Duration;

/// Weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// A prompt always gets on, however slow the machine.
const LEAST_ROWS: usize = 8;

/// Moving averages in seconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// A step of decoding rows only.
    decode_step: Option<f64>,
    /// One row of a prompt.
    prefill_row: Option<f64>,
}

impl Pace {
    /// Learns from a step that took `took`.
    pub(super) fn observe(&mut self, decode_rows: usize, prefill_rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        if prefill_rows == 0 {
            average(&mut self.decode_step, took);
            return;
        }
        let decode = if decode_rows == 0 {
            0.0
        } else {
            // A whole step that was shorter shows that the average is too high.
            let decode = self.decode_step.get_or_insert(took);
            if took < *decode {
                *decode += NEWEST * (took - *decode);
            }
            *decode
        };
        #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
        let row = (took - decode).max(0.0) / prefill_rows as f64;
        average(&mut self.prefill_row, row);
    }

    /// Rows of prompts that keep a step within `target`.
    pub(super) fn prefill_rows(&self, target: Duration, most: usize) -> usize {
        let (Some(decode), Some(row)) = (self.decode_step, self.prefill_row) else {
            // Nothing is known yet: begin small and learn.
            return most.min(LEAST_ROWS * 8);
        };
        let left = (target.as_secs_f64() - decode).max(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded just below
        let rows = (left / row.max(1e-9)).round() as usize;
        rows.clamp(LEAST_ROWS.min(most), most)
    }
}

fn average(mean: &mut Option<f64>, value: f64) {
    *mean = Some(mean.map_or(value, |mean| mean + NEWEST * (value - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(150);

    #[test]
    fn chunks_fill_what_decoding_leaves_of_the_target() {
        let mut pace = Pace::default();
        pace.observe(4, 0, Duration::from_millis(50));
        pace.observe(4, 100, Duration::from_millis(150));
        assert_eq!(pace.prefill_rows(TARGET, 512), 100);
    }

    #[test]
    fn a_hiccup_is_forgotten_even_if_every_step_has_prompts() {
        let mut pace = Pace::default();
        pace.observe(4, 0, Duration::from_secs(5));
        for _ in 0..100 {
            pace.observe(4, 8, Duration::from_millis(20));
        }
        assert!(pace.prefill_rows(TARGET, 512) > 100);
    }

    #[test]
    fn a_slow_machine_still_gets_on() {
        let mut pace = Pace::default();
        pace.observe(4, 0, Duration::from_millis(900));
        pace.observe(0, 10, Duration::from_secs(1));
        assert_eq!(pace.prefill_rows(TARGET, 512), LEAST_ROWS);
        assert_eq!(pace.prefill_rows(TARGET, 4), 4);
    }

    #[test]
    fn an_unknown_machine_starts_with_a_modest_chunk() {
        assert_eq!(Pace::default().prefill_rows(TARGET, 512), 64);
    }
}
