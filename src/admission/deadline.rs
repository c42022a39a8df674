//! When a request's client no longer wants its answer, and how it is told that the answer will not be there by then.
//!
//! Deadlines are points on the monotonic clock (`Instant`): setting the system's clock moves none of them.

use std::time::{Duration, Instant};

use super::ServiceTier;

/// The longest and the shortest time that a refused client is told to wait before it asks again. Clients
/// ignore what is longer: OpenAI's SDKs go by a schedule of their own above a minute.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The time for an answer where the request does not set one itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefaultDeadlines {
    /// `None` is no limit.
    pub usual: Option<Duration>,
    /// For the tier `priority`; `None` is as `usual`.
    pub priority: Option<Duration>,
    /// For the tier `flex`; `None` is as `usual`.
    pub flex: Option<Duration>,
}

impl DefaultDeadlines {
    /// Returns when an answer has to be there that arrived at this time in this tier.
    #[must_use]
    pub fn of(&self, tier: ServiceTier, arrived: Instant) -> Option<Instant> {
        let of_tier = match tier {
            ServiceTier::Priority => self.priority,
            ServiceTier::Default => None,
            ServiceTier::Flex => self.flex,
        };
        arrived.checked_add(of_tier.or(self.usual)?)
    }
}

/// A deadline that cannot be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedDeadline {
    /// From the arrival of the request to its deadline.
    pub allowed: Duration,
    /// How long the answer would take from the arrival; `None` where the deadline has passed already.
    pub estimated: Option<Duration>,
    /// Whether it would take too long even if no other request were there.
    pub even_alone: bool,
    /// When the same request is likely to be answered in time.
    pub retry_after: Duration,
}

impl MissedDeadline {
    /// An answer is estimated to take longer than is allowed. The requests before it take as much less
    /// time the later it comes, so it fits when the difference is over.
    #[must_use]
    pub fn foreseen(allowed: Duration, estimated: Duration, even_alone: bool) -> Self {
        Self {
            allowed,
            estimated: Some(estimated),
            even_alone,
            retry_after: retry_after(estimated, allowed),
        }
    }

    /// The deadline passed before there was anything to estimate.
    #[must_use]
    pub fn passed(allowed: Duration) -> Self {
        Self {
            allowed,
            estimated: None,
            even_alone: false,
            retry_after: RETRY_AFTER.0,
        }
    }
}

/// After how long a request is likely to be answered within `allowed` that would take `estimated` now.
#[must_use]
pub fn retry_after(estimated: Duration, allowed: Duration) -> Duration {
    let (least, most) = RETRY_AFTER;
    estimated.saturating_sub(allowed).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_has_the_usual_deadline_unless_it_has_its_own() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let deadlines = DefaultDeadlines {
            usual: Some(seconds(10)),
            priority: Some(seconds(2)),
            flex: None,
        };
        for (tier, expected) in [
            (ServiceTier::Priority, 2),
            (ServiceTier::Default, 10),
            (ServiceTier::Flex, 10),
        ] {
            assert_eq!(deadlines.of(tier, now), Some(now + seconds(expected)));
        }
        assert_eq!(DefaultDeadlines::default().of(ServiceTier::Flex, now), None);
    }

    #[test]
    fn a_deadline_beyond_the_end_of_time_is_none() {
        let endless = DefaultDeadlines {
            usual: Some(Duration::MAX),
            ..DefaultDeadlines::default()
        };
        assert_eq!(endless.of(ServiceTier::Default, Instant::now()), None);
    }

    #[test]
    fn a_client_comes_back_when_the_queue_has_shrunk_enough_but_within_a_minute() {
        let seconds = Duration::from_secs;
        assert_eq!(retry_after(seconds(12), seconds(5)), seconds(7));
        assert_eq!(retry_after(seconds(5), seconds(5)), seconds(1));
        assert_eq!(retry_after(seconds(3), seconds(5)), seconds(1));
        assert_eq!(retry_after(seconds(900), seconds(5)), seconds(60));
    }
}
