//! How long batches take, by their tokens.

use std::time::Duration;

/// Tokens of the first batch that has to be short, while nothing was measured yet.
const FIRST_TOKENS: usize = 64;
/// What the newest batch counts for.
const NEWEST_WEIGHT: f64 = 0.2;

/// Learns how many tokens a batch may have so that it takes a given time.
#[derive(Debug, Default)]
pub(super) struct BatchPace {
    /// Seconds for each token, what a batch costs in any case included: so it holds for batches of the size
    /// of the last ones, and sizes approach the one that takes the time.
    seconds_per_token: Option<f64>,
}

impl BatchPace {
    /// Learns from a batch.
    #[allow(clippy::cast_precision_loss)] // at most some thousands
    pub(super) fn observe(&mut self, tokens: usize, seconds: f64) {
        let newest = seconds / tokens.max(1) as f64;
        let known = self.seconds_per_token.unwrap_or(newest);
        self.seconds_per_token = Some(known + NEWEST_WEIGHT * (newest - known));
    }

    /// Returns how many tokens take no longer than `time`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    pub(super) fn tokens(&self, time: Duration) -> usize {
        match self.seconds_per_token {
            Some(seconds) if seconds > 0.0 => (time.as_secs_f64() / seconds) as usize,
            Some(_) => usize::MAX,
            None => FIRST_TOKENS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(75);

    #[test]
    fn batches_approach_the_size_that_takes_the_time() {
        // Every batch costs 5 ms, and each token 0.2 ms: 350 tokens take 75 ms.
        let seconds = |tokens: u32| 0.005 + 0.0002 * f64::from(tokens);
        for first in [8, 2000] {
            let mut pace = BatchPace::default();
            let mut tokens = first;
            for _ in 0..40 {
                pace.observe(tokens as usize, seconds(tokens));
                tokens = u32::try_from(pace.tokens(TIME)).expect("few");
            }
            assert!((330..=351).contains(&tokens), "{tokens} from {first}");
        }
    }

    #[test]
    fn an_unknown_machine_starts_with_a_modest_batch() {
        assert_eq!(BatchPace::default().tokens(TIME), FIRST_TOKENS);
    }
}
