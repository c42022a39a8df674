//! How long steps take, learnt from those that were: how many rows of a prompt fit into one
//! without keeping running answers waiting, and what rows of a draft would cost.
//!
//! A step is taken to last `outputs(n) + prefill(m)`, with n rows whose logits are wanted and m
//! rows of prompts. Both are curves, learnt by batch size: a matrix product over four rows may
//! cost no more than one over three, and 500 rows less than ten times 50.

use std::time::Duration;

/// Weight of the newest measurement once there are enough: single ones vary by half and more.
const NEWEST_WEIGHT: f64 = 0.05;
/// A step during which another program had the processor says little: it counts as this much of
/// what was expected at most, and one that was shorter than half as half.
const PLAUSIBLE: (f64, f64) = (0.5, 2.0);
/// The first measurements, of which the shortest counts: the very first one reads the weights from the
/// disk.
const FIRST_FEW: f64 = 3.0;
/// How far a measurement at one size moves the others: a deeper cache or a slower clock meets all.
const DRIFT: f64 = 0.05;
/// Rows that a prompt gets in each step, however slow the machine is.
const LEAST_ROWS: usize = 8;
/// Rows of a prompt in a step that also decodes, while no latency was measured yet.
const FIRST_ROWS: usize = 64;

/// Learns and predicts how many seconds a step takes, by its rows.
#[derive(Debug, Clone)]
pub(super) struct StepLatency {
    outputs: Curve,
    prefill: Curve,
    /// Seconds that a step takes longer when its batch has another shape than the one before, because
    /// llama.cpp builds its graph anew. Much for a small model, little for a large one.
    switching: f64,
    /// Rows of the last step, if none were of prompts.
    last: Option<usize>,
}

impl Default for StepLatency {
    fn default() -> Self {
        Self {
            // Decoding reads all weights for its first row: more rows cost little, as a first guess.
            outputs: Curve::new(0.15, 4.0),
            prefill: Curve::new(1.0, 1.0),
            switching: 0.0,
            last: None,
        }
    }
}

impl StepLatency {
    /// Learns from a step that took `took`.
    pub(super) fn observe(&mut self, outputs: usize, prefill: usize, took: Duration) {
        let took = took.as_secs_f64();
        let last = std::mem::replace(&mut self.last, (prefill == 0).then_some(outputs));
        if prefill == 0 {
            match self.outputs.known(outputs) {
                Some(known) if last != Some(outputs) => {
                    let longer = (took - known).clamp(0.0, known);
                    self.switching += NEWEST_WEIGHT * (longer - self.switching);
                }
                _ => self.outputs.learn(outputs, took),
            }
            return;
        }
        match self.outputs(outputs) {
            Some(known) if known <= took => self.prefill.learn(prefill, took - known),
            // A whole step that was shorter shows that the curve is too high; nothing else.
            Some(_) if self.prefill.is_known() => self.outputs.learn(outputs, took),
            #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
            _ => {
                let share = prefill as f64 / (outputs + prefill) as f64;
                self.prefill.learn(prefill, took * share);
                self.outputs.learn(outputs, took * (1.0 - share));
            }
        }
    }

    /// Seconds of a step with this many rows whose logits are wanted and no other; none for no row.
    pub(super) fn outputs(&self, rows: usize) -> Option<f64> {
        if rows == 0 {
            Some(0.0)
        } else {
            self.outputs.seconds(rows)
        }
    }

    /// Seconds that this many rows of prompts add to a step.
    pub(super) fn prefill(&self, rows: usize) -> Option<f64> {
        if rows == 0 {
            Some(0.0)
        } else {
            self.prefill.seconds(rows)
        }
    }

    /// The rows whose logits were wanted in the largest steps measured, on the average of their
    /// point of the curve.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a mean of numbers of rows
    pub(super) fn most_output_rows(&self) -> usize {
        let largest = self.outputs.points.iter().flatten().last();
        largest.map_or(0, |point| point.rows.round() as usize)
    }

    /// Seconds that an answering step of `rows` costs, `answers` of them wanted in any case, with
    /// what changing the shape of the batch costs now and, beside a usual step, later.
    pub(super) fn decode_seconds(&self, answers: usize, rows: usize) -> Option<f64> {
        let switches = match self.last {
            Some(last) if last == rows => 0.0,
            Some(last) if last == answers => 2.0,
            _ => 1.0,
        };
        Some(self.outputs(rows)? + switches * self.switching)
    }

    /// Rows of prompts, `most` at most, that keep a step with `outputs` rows within `target`; or
    /// within twice that, if they make the batch `tile` rows large, so that every row is cheaper.
    pub(super) fn prefill_rows(
        &self,
        outputs: usize,
        target: Duration,
        most: usize,
        tile: usize,
    ) -> usize {
        if !self.prefill.is_known() {
            return FIRST_ROWS.min(most);
        }
        let target = target.as_secs_f64();
        let left = target - self.outputs(outputs).unwrap_or(0.0);
        let takes = |rows: usize| self.prefill.seconds(rows).unwrap_or(f64::INFINITY);
        let to_tile = tile.saturating_sub(outputs);
        let least = LEAST_ROWS.min(most);
        let (mut fitting, mut beyond) = (least, most + 1);
        while beyond - fitting > 1 {
            let middle = usize::midpoint(fitting, beyond);
            if takes(middle) <= left {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        if fitting < to_tile && to_tile <= most && takes(to_tile) <= left + target {
            return to_tile;
        }
        fitting
    }
}

/// Seconds by a number of rows: moving averages at a few sizes, straight lines between them, never
/// less for more rows.
#[derive(Debug, Clone)]
struct Curve {
    /// What a row beyond the only size known costs, in shares of a row within it.
    prior: f64,
    /// Up to this many times the largest size known, a further row is hoped to cost no more than
    /// `prior` says: where a second row costs as much as the first, a dozen may cost no more than
    /// four. Too much hope costs a step for each such size; too little is never found out.
    hope: f64,
    /// Sizes 1 to 4 each for itself, then two an octave.
    points: Vec<Option<Point>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Point {
    rows: f64,
    seconds: f64,
    measured: f64,
}

impl Curve {
    fn new(prior: f64, hope: f64) -> Self {
        Self {
            prior,
            hope,
            points: Vec::new(),
        }
    }

    /// Seconds at a size that was measured itself.
    fn known(&self, rows: usize) -> Option<f64> {
        let point = self.points.get(index(rows)).copied().flatten()?;
        let is_sure = point.measured >= FIRST_FEW;
        if is_sure { self.seconds(rows) } else { None }
    }

    fn is_known(&self) -> bool {
        !self.points.is_empty()
    }

    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    fn learn(&mut self, rows: usize, mut seconds: f64) {
        if rows == 0 {
            return;
        }
        let index = index(rows);
        if index >= self.points.len() {
            self.points.resize(index + 1, None);
        }
        let expected = self.seconds(rows).filter(|expected| *expected > 0.0);
        let is_known = self.points[index].is_some_and(|point| point.measured >= FIRST_FEW);
        if let Some(expected) = expected.filter(|_| is_known) {
            let ratio = (seconds / expected).clamp(PLAUSIBLE.0, PLAUSIBLE.1);
            seconds = ratio * expected;
            for point in self.points.iter_mut().flatten() {
                point.seconds *= 1.0 + DRIFT * (ratio - 1.0);
            }
        }
        let point = self.points[index].get_or_insert_default();
        point.measured += 1.0;
        let weight = if point.measured <= FIRST_FEW && seconds < point.seconds {
            1.0
        } else {
            point.measured.recip().max(NEWEST_WEIGHT)
        };
        point.rows += weight * (rows as f64 - point.rows);
        point.seconds += weight * (seconds - point.seconds);
    }

    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    fn seconds(&self, rows: usize) -> Option<f64> {
        let rows = rows as f64;
        let mut known = self.points.iter().flatten().copied();
        let first = known.next()?;
        if rows <= first.rows {
            return Some(first.seconds * (1.0 + self.prior * (rows / first.rows - 1.0)));
        }
        let mut below = first;
        for mut point in known {
            point.seconds = point.seconds.max(below.seconds);
            if rows <= point.rows {
                let share = (rows - below.rows) / (point.rows - below.rows);
                return Some(below.seconds + share * (point.seconds - below.seconds));
            }
            below = point;
        }
        let proposed_tokens = self.prior * first.seconds / first.rows;
        if below.rows <= first.rows {
            return Some(below.seconds + proposed_tokens * (rows - below.rows));
        }
        let known = (below.seconds - first.seconds) / (below.rows - first.rows);
        // Two sizes that took the same say little about ten times as much.
        let known = known.max(proposed_tokens / 4.0);
        let hoped = rows.min(self.hope * below.rows) - below.rows;
        let beyond = rows - below.rows - hoped;
        Some(below.seconds + known.min(proposed_tokens) * hoped + known * beyond)
    }
}

fn index(rows: usize) -> usize {
    if rows <= 4 {
        return rows - 1;
    }
    let octave = (rows - 1).ilog2() as usize;
    let upper_half = (rows - 1) >> (octave - 1) & 1;
    2 * octave + upper_half
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(150);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn chunks_fill_what_decoding_leaves_of_the_target() {
        let mut step_latency = StepLatency::default();
        step_latency.observe(4, 0, millis(50));
        step_latency.observe(4, 100, millis(150));
        assert_eq!(step_latency.prefill_rows(4, TARGET, 512, 0), 100);
    }

    #[test]
    fn each_batch_size_has_its_own_time() {
        let mut step_latency = StepLatency::default();
        for _ in 0..50 {
            step_latency.observe(1, 0, millis(30));
            step_latency.observe(16, 0, millis(100));
            step_latency.observe(0, 100, millis(300));
        }
        let seconds = |rows| step_latency.outputs(rows).expect("known");
        assert!((seconds(1) - 0.030).abs() < 0.003);
        assert!((seconds(16) - 0.100).abs() < 0.010);
        assert!(seconds(4) > seconds(1) && seconds(4) < seconds(16));
        assert!(
            step_latency.prefill_rows(1, TARGET, 512, 0)
                > 2 * step_latency.prefill_rows(16, TARGET, 512, 0)
        );
    }

    #[test]
    fn large_chunks_that_are_cheaper_by_the_row_are_known_to_be() {
        let mut step_latency = StepLatency::default();
        for _ in 0..50 {
            step_latency.observe(1, 0, millis(10));
            step_latency.observe(1, 16, millis(10 + 80));
            step_latency.observe(0, 256, millis(300));
        }
        let rows = step_latency.prefill_rows(1, TARGET, 512, 0);
        assert!((50..130).contains(&rows), "{rows}");
    }

    #[test]
    fn sizes_beyond_those_known_are_hoped_to_be_cheap() {
        let mut step_latency = StepLatency::default();
        for _ in 0..10 {
            step_latency.observe(1, 0, millis(10));
            step_latency.observe(2, 0, millis(22));
        }
        let seconds = |rows| step_latency.outputs(rows).expect("proposed_tokens");
        assert!((0.022..0.035).contains(&seconds(8)), "{}", seconds(8));
        assert!(seconds(16) > seconds(8) + 0.050, "but not without end");
    }

    #[test]
    fn longer_chunks_than_those_known_are_not() {
        let mut step_latency = StepLatency::default();
        for _ in 0..10 {
            step_latency.observe(0, 8, millis(10));
            step_latency.observe(0, 16, millis(40));
        }
        assert!(step_latency.prefill_rows(0, TARGET, 512, 0) < 60);
    }

    #[test]
    fn changing_the_shape_of_the_batch_has_its_own_price() {
        let mut step_latency = StepLatency::default();
        for _ in 0..10 {
            step_latency.observe(1, 0, millis(10));
        }
        for _ in 0..10 {
            step_latency.observe(4, 0, millis(12));
        }
        for _ in 0..60 {
            step_latency.observe(4, 0, millis(20));
            step_latency.observe(1, 0, millis(18));
        }
        let seconds = |rows| step_latency.decode_seconds(1, rows).expect("known");
        assert!((step_latency.outputs(1).expect("known") - 0.010).abs() < 0.001);
        assert!((seconds(1) - 0.010).abs() < 0.001, "as the last");
        assert!(seconds(4) > 0.012 + 0.012, "there and back");
    }

    #[test]
    fn a_chunk_that_comes_near_a_tile_is_one() {
        let mut step_latency = StepLatency::default();
        step_latency.observe(4, 0, millis(40));
        step_latency.observe(4, 60, millis(200));
        assert_eq!(step_latency.prefill_rows(4, TARGET, 512, 64), 60);
        assert!(step_latency.prefill_rows(4, TARGET, 512, 0) < 50);
        for _ in 0..100 {
            step_latency.observe(4, 60, millis(400));
        }
        assert!(
            step_latency.prefill_rows(4, TARGET, 512, 64) < 30,
            "too slow for that"
        );
    }

    #[test]
    fn a_first_step_that_reads_the_weights_from_a_slow_disk_is_not_believed() {
        let mut step_latency = StepLatency::default();
        step_latency.observe(1, 0, Duration::from_secs(3));
        for _ in 0..2 {
            step_latency.observe(1, 0, millis(50));
        }
        step_latency.observe(8, 0, millis(60));
        step_latency.observe(8, 32, millis(90));
        assert!(step_latency.prefill_rows(8, TARGET, 512, 0) >= 64);
    }

    #[test]
    fn chunks_are_learnt_even_if_no_step_is_without_prompts() {
        let mut step_latency = StepLatency::default();
        for _ in 0..5 {
            step_latency.observe(1, 64, Duration::from_secs(3));
        }
        assert_eq!(step_latency.prefill_rows(1, TARGET, 512, 0), LEAST_ROWS);
    }

    #[test]
    fn a_hiccup_is_forgotten_even_if_every_step_has_prompts() {
        let mut step_latency = StepLatency::default();
        step_latency.observe(4, 0, Duration::from_secs(5));
        for _ in 0..100 {
            step_latency.observe(4, 8, millis(20));
        }
        assert!(step_latency.prefill_rows(4, TARGET, 512, 0) > 30);
    }

    #[test]
    fn a_slow_machine_still_gets_on() {
        let mut step_latency = StepLatency::default();
        step_latency.observe(4, 0, millis(900));
        step_latency.observe(0, 10, Duration::from_secs(1));
        assert_eq!(step_latency.prefill_rows(4, TARGET, 512, 0), LEAST_ROWS);
        assert_eq!(step_latency.prefill_rows(4, TARGET, 4, 0), 4);
    }

    #[test]
    fn an_unknown_machine_starts_with_a_modest_chunk() {
        assert_eq!(StepLatency::default().prefill_rows(4, TARGET, 512, 0), 64);
    }

    #[test]
    fn sizes_fall_into_their_own_points_without_gaps() {
        let indices: Vec<usize> = (1..=2048).map(index).collect();
        assert_eq!(indices[..8], [0, 1, 2, 3, 4, 4, 5, 5]);
        assert!(indices.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1));
    }
}
