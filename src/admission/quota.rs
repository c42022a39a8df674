//! What one API key may use in a minute, and at once.
//!
//! Requests and tokens are each a bucket that fills up over a minute. A request takes what it is expected to
//! need when it is admitted and settles with what it really took at its end. What it took beyond that is a
//! debt: answers are never cut for a quota, the next request waits for longer instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Mutex, MutexGuard};

const MINUTE: Duration = Duration::from_secs(60);

/// Longer waits are not told: OpenAI's SDKs give up at once when they are told to wait over two minutes.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// How many tokens an answer is expected to have before the first one of a key has ended.
const FIRST_EXPECTED_ANSWER: f64 = 128.0;

/// The limits of a key; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaLimits {
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, of prompts and answers.
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub requests_at_once: Option<u32>,
}

/// Which limit a request was refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaLimit {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests at once.
    AtOnce,
}

impl QuotaLimit {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::AtOnce => "requests_at_once",
        }
    }
}

/// A refusal for a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaRefusal {
    /// The limit that was reached.
    pub limit: QuotaLimit,
    /// What it is set to.
    pub allowed: u32,
    /// How long it takes until the request would be admitted, if nothing else comes.
    pub retry_after: Duration,
}

/// What is left of a limit, as OpenAI's `x-ratelimit-*` headers say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaStanding {
    /// The limit a minute.
    pub limit: u32,
    /// What is left of it now.
    pub remaining: u32,
    /// How long it takes until all of it is there again.
    pub reset: Duration,
}

/// Something that refills over a minute up to a limit, and may be in debt.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Fills it up to `now`.
    fn refill(&mut self, limit: u32, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / MINUTE.as_secs_f64();
        let limit = f64::from(limit);
        self.level = (self.level + minutes * limit).min(limit);
        self.at = self.at.max(now);
    }

    /// How long it takes until `wanted` is in it. Of more than it can ever hold, a full one has to do.
    fn wait_for(&self, limit: u32, wanted: f64) -> Option<Duration> {
        let missing = wanted.min(f64::from(limit)) - self.level;
        (missing > 0.0).then(|| time_to_fill(missing, limit))
    }

    fn standing(&self, limit: u32) -> QuotaStanding {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and a u32
        let remaining = self.level.max(0.0) as u32;
        QuotaStanding {
            limit,
            remaining,
            reset: time_to_fill(f64::from(limit) - self.level, limit),
        }
    }
}

fn time_to_fill(missing: f64, limit: u32) -> Duration {
    /// Nobody is in debt for longer than the longest answer takes; this only keeps the number finite.
    const LONGEST: f64 = 1e9;
    let seconds = missing.max(0.0) / f64::from(limit.max(1)) * MINUTE.as_secs_f64();
    Duration::from_secs_f64(seconds.min(LONGEST))
}

#[derive(Debug)]
struct QuotaState {
    limits: QuotaLimits,
    requests: Bucket,
    tokens: Bucket,
    at_once: u32,
    /// Tokens that answers of this key have on average.
    usual_answer: f64,
}

impl QuotaState {
    fn new(limits: QuotaLimits, now: Instant) -> Self {
        let full = |limit: Option<u32>| Bucket {
            level: limit.map_or(0.0, f64::from),
            at: now,
        };
        Self {
            limits,
            requests: full(limits.requests_per_minute),
            tokens: full(limits.tokens_per_minute),
            at_once: 0,
            usual_answer: FIRST_EXPECTED_ANSWER,
        }
    }

    fn refill(&mut self, now: Instant) {
        if let Some(limit) = self.limits.requests_per_minute {
            self.requests.refill(limit, now);
        }
        if let Some(limit) = self.limits.tokens_per_minute {
            self.tokens.refill(limit, now);
        }
    }

    /// Whether one more request may come, of which only that is known.
    fn admit(&self) -> Result<(), QuotaRefusal> {
        if let Some(allowed) = self.limits.requests_at_once
            && self.at_once >= allowed
        {
            return Err(QuotaRefusal {
                limit: QuotaLimit::AtOnce,
                allowed,
                retry_after: Duration::from_secs(1),
            });
        }
        if let Some(allowed) = self.limits.requests_per_minute
            && let Some(retry_after) = self.requests.wait_for(allowed, 1.0)
        {
            return Err(QuotaRefusal {
                limit: QuotaLimit::Requests,
                allowed,
                retry_after,
            });
        }
        self.reserve(1.0)
    }

    /// Whether there are so many tokens.
    fn reserve(&self, tokens: f64) -> Result<(), QuotaRefusal> {
        if let Some(allowed) = self.limits.tokens_per_minute
            && let Some(retry_after) = self.tokens.wait_for(allowed, tokens)
        {
            return Err(QuotaRefusal {
                limit: QuotaLimit::Tokens,
                allowed,
                retry_after,
            });
        }
        Ok(())
    }
}

/// The account of one key. It is kept when the keys file is read again, so that a change of the file
/// forgives no debt.
#[derive(Debug)]
pub struct Quota {
    state: Mutex<QuotaState>,
}

impl Quota {
    /// Opens a full account.
    #[must_use]
    pub fn new(limits: QuotaLimits) -> Self {
        Self {
            state: Mutex::new(QuotaState::new(limits, Instant::now())),
        }
    }

    /// Changes the limits. What was used of the old ones stays used.
    pub fn set_limits(&self, limits: QuotaLimits) {
        let mut state = self.state();
        if state.limits == limits {
            return;
        }
        let now = Instant::now();
        state.refill(now);
        let used =
            |limit: Option<u32>, level: f64| limit.map_or(0.0, |limit| f64::from(limit) - level);
        let requests = used(state.limits.requests_per_minute, state.requests.level);
        let tokens = used(state.limits.tokens_per_minute, state.tokens.level);
        let (at_once, usual_answer) = (state.at_once, state.usual_answer);
        *state = QuotaState::new(limits, now);
        state.requests.level -= requests;
        state.tokens.level -= tokens;
        (state.at_once, state.usual_answer) = (at_once, usual_answer);
    }

    /// Lets a request begin, of which not more is known than that it came.
    ///
    /// # Errors
    /// When the key has as many requests as it may, or no tokens left.
    pub fn admit(self: &Arc<Self>) -> Result<QuotaHold, QuotaRefusal> {
        let mut state = self.state();
        state.refill(Instant::now());
        state.admit()?;
        state.requests.level -= 1.0;
        state.at_once += 1;
        drop(state);
        Ok(QuotaHold {
            quota: Arc::clone(self),
            reserved: 0.0,
            used: 0.0,
        })
    }

    /// What is left of the requests and of the tokens a minute; `None` where they have no limit.
    #[must_use]
    pub fn standing(&self) -> [Option<QuotaStanding>; 2] {
        let mut state = self.state();
        state.refill(Instant::now());
        let QuotaLimits {
            requests_per_minute,
            tokens_per_minute,
            ..
        } = state.limits;
        [
            requests_per_minute.map(|limit| state.requests.standing(limit)),
            tokens_per_minute.map(|limit| state.tokens.standing(limit)),
        ]
    }

    fn state(&self) -> MutexGuard<'_, QuotaState> {
        self.state.lock()
    }
}

/// What a request holds of its key's quota. Dropped, it settles: tokens that were reserved and not used go
/// back, and what was used beyond that becomes a debt.
#[derive(Debug)]
pub struct QuotaHold {
    quota: Arc<Quota>,
    reserved: f64,
    used: f64,
}

impl QuotaHold {
    /// Reserves the tokens of the prompts, and for each answer what it may have at most, or, where it has no
    /// limit, what this key's answers usually have.
    ///
    /// # Errors
    /// When the key has not so many tokens left.
    pub fn reserve(
        &mut self,
        prompt_tokens: usize,
        longest_answers: impl Iterator<Item = Option<u32>>,
    ) -> Result<(), QuotaRefusal> {
        let mut state = self.quota.state();
        state.refill(Instant::now());
        let usual = state.usual_answer;
        let answers: f64 = longest_answers
            .map(|longest| longest.map_or(usual, f64::from))
            .sum();
        #[allow(clippy::cast_precision_loss)] // millions at most
        let wanted = prompt_tokens as f64 + answers;
        state.reserve(wanted)?;
        state.tokens.level -= wanted;
        self.reserved += wanted;
        Ok(())
    }

    /// Notes tokens that were computed for it: of its prompts, and of an answer that has ended.
    pub fn used(&mut self, prompt_tokens: u32, answer_tokens: u32) {
        self.used += f64::from(prompt_tokens) + f64::from(answer_tokens);
        if answer_tokens > 0 {
            let mut state = self.quota.state();
            state.usual_answer = (state.usual_answer * 7.0 + f64::from(answer_tokens)) / 8.0;
        }
    }

    /// Takes it back: the server refused the request for a reason of its own.
    pub fn undo(self) {
        self.quota.state().requests.level += 1.0;
    }
}

impl Drop for QuotaHold {
    fn drop(&mut self) {
        let mut state = self.quota.state();
        state.at_once -= 1;
        state.tokens.level += self.reserved - self.used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuotaLimits = QuotaLimits {
        requests_per_minute: Some(6),
        tokens_per_minute: Some(600),
        requests_at_once: Some(2),
    };

    fn state(limits: QuotaLimits) -> (QuotaState, Instant) {
        let now = Instant::now();
        (QuotaState::new(limits, now), now)
    }

    #[test]
    fn a_bucket_fills_up_in_a_minute_and_no_further() {
        let (mut state, start) = state(LIMITS);
        state.requests.level = 0.0;
        assert_eq!(
            state.admit().expect_err("none left").retry_after,
            Duration::from_secs(10)
        );
        state.refill(start + Duration::from_secs(10));
        assert_eq!(state.admit(), Ok(()));
        state.refill(start + Duration::from_secs(1000));
        assert!((state.requests.level - 6.0).abs() < 1e-9);
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_fills_nothing() {
        let (mut state, start) = state(LIMITS);
        state.refill(start + Duration::from_secs(5));
        state.requests.level = 0.0;
        state.refill(start);
        assert!(state.requests.level.abs() < 1e-9);
        state.refill(start + Duration::from_secs(5));
        assert!(state.requests.level.abs() < 1e-9, "nothing counts twice");
    }

    #[test]
    fn what_is_larger_than_the_whole_limit_waits_for_a_full_bucket_and_makes_a_debt() {
        let quota = Arc::new(Quota::new(LIMITS));
        let mut hold = quota.admit().expect("a full account");
        hold.reserve(10_000, std::iter::empty()).expect("all of it");
        let refusal = quota.admit().expect_err("in debt");
        assert_eq!(refusal.limit, QuotaLimit::Tokens);
        assert!(
            refusal.retry_after > Duration::from_secs(900),
            "{refusal:?}"
        );
    }

    #[test]
    fn what_was_not_used_goes_back_and_more_is_a_debt() {
        let quota = Arc::new(Quota::new(LIMITS));
        let mut hold = quota.admit().expect("room");
        hold.reserve(100, [Some(400)].into_iter()).expect("room");
        let [_, tokens] = quota.standing();
        assert_eq!(tokens.expect("limited").remaining, 100);
        hold.used(100, 20);
        drop(hold);
        let [requests, tokens] = quota.standing();
        assert_eq!(tokens.expect("limited").remaining, 480);
        assert_eq!(requests.expect("limited").remaining, 5);
        let mut hold = quota.admit().expect("room");
        hold.reserve(10, [None].into_iter()).expect("room");
        hold.used(10, 1000);
        drop(hold);
        let [_, tokens] = quota.standing();
        let tokens = tokens.expect("limited");
        assert_eq!(tokens.remaining, 0);
        assert!(tokens.reset > MINUTE, "{tokens:?}");
    }

    #[test]
    fn requests_at_once_are_given_back_by_drop_and_a_refusal_of_the_server_costs_no_request() {
        let quota = Arc::new(Quota::new(LIMITS));
        let first = quota.admit().expect("room");
        let second = quota.admit().expect("room");
        assert_eq!(
            quota.admit().expect_err("two at once").limit,
            QuotaLimit::AtOnce
        );
        drop(first);
        second.undo();
        let [requests, _] = quota.standing();
        assert_eq!(requests.expect("limited").remaining, 5);
        assert!(quota.admit().is_ok());
    }

    #[test]
    fn new_limits_forgive_no_debt() {
        let quota = Quota::new(LIMITS);
        quota.state().tokens.level = -300.0;
        quota.set_limits(QuotaLimits {
            tokens_per_minute: Some(1000),
            ..LIMITS
        });
        assert!((quota.state().tokens.level - 100.0).abs() < 1.0);
        quota.set_limits(QuotaLimits::default());
        assert_eq!(quota.standing(), [None, None]);
    }

    #[test]
    fn answers_without_a_limit_are_expected_to_be_as_long_as_they_usually_are() {
        let quota = Arc::new(Quota::new(LIMITS));
        for _ in 0..100 {
            let mut hold = quota.admit().unwrap_or_else(|_| {
                quota.state().requests.level = 6.0;
                quota.state().tokens.level = 600.0;
                quota.admit().expect("filled")
            });
            hold.used(0, 10);
        }
        quota.state().tokens.level = 600.0;
        quota.state().requests.level = 6.0;
        let mut hold = quota.admit().expect("room");
        hold.reserve(0, [None, Some(3)].into_iter()).expect("room");
        let [_, tokens] = quota.standing();
        assert_eq!(
            tokens.expect("limited").remaining,
            586,
            "10 and 3, and a part of one"
        );
    }
}
