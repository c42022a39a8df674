//! Figures of rounds.

use std::time::Duration;

use serde::Serialize;

use super::Burst;

/// Answers of one or more rounds, taken together.
#[derive(Debug, Serialize)]
pub struct Round {
    /// Whole answers.
    pub answers: usize,
    /// Answers that failed or broke off.
    pub errors: usize,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// Seconds from sending to the first token; absent without answers.
    pub time_to_first_token: Option<Percentiles>,
    /// Seconds between two tokens of an answer.
    pub inter_token: Option<Percentiles>,
    /// Seconds from sending to the end.
    pub duration: Option<Percentiles>,
    /// Generated tokens of all clients in a second of wall clock.
    pub tokens_per_second: f64,
}

/// Of some measurements in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Round {
    pub(super) fn new(bursts: &[Burst]) -> Self {
        let replies = || bursts.iter().flat_map(|burst| &burst.replies);
        let good: Vec<_> = replies().filter_map(|reply| reply.as_ref().ok()).collect();
        let mut errors = replies().filter_map(|reply| reply.as_ref().err());
        let tokens: u64 = good.iter().map(|reply| reply.generated_tokens).sum();
        let took: f64 = bursts.iter().map(|burst| burst.took.as_secs_f64()).sum();
        #[allow(clippy::cast_precision_loss)] // nobody generates 2^52 tokens
        let tokens_per_second = if took > 0.0 {
            tokens as f64 / took
        } else {
            0.0
        };
        Self {
            answers: good.len(),
            first_error: errors.next().cloned(),
            errors: replies().filter(|reply| reply.is_err()).count(),
            time_to_first_token: Percentiles::of(good.iter().map(|reply| reply.first_token)),
            inter_token: Percentiles::of(good.iter().flat_map(|reply| reply.gaps.iter().copied())),
            duration: Percentiles::of(good.iter().map(|reply| reply.whole)),
            tokens_per_second,
        }
    }
}

impl Percentiles {
    /// By nearest rank; `None` of nothing.
    pub(super) fn of(values: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.map(|value| value.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(index).copied()
        };
        Some(Self {
            p50: rank(50)?,
            p90: rank(90)?,
            p99: rank(99)?,
            max: rank(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values = (1..=10).map(Duration::from_secs);
        let expected = Percentiles {
            p50: 5.0,
            p90: 9.0,
            p99: 10.0,
            max: 10.0,
        };
        assert_eq!(Percentiles::of(values), Some(expected));
        assert_eq!(Percentiles::of(std::iter::empty()), None);
    }
}
