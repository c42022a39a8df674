//! When a request came, and from whom.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{
    ClientId, DefaultDeadlines, DrainGuard, MissedDeadline, Principal, QuotaHold, ServiceTier,
};

/// When a request came, from whom, and the memory that is reserved for it until it is a prompt.
pub(crate) struct Arrival {
    /// When the server began to read it.
    pub(crate) at: Instant,
    /// Who sent it.
    pub(crate) client: ClientId,
    /// Who asks.
    pub(crate) principal: Arc<Principal>,
    /// What it takes of its key's quota, until its account has that.
    pub(crate) quota: Option<QuotaHold>,
    /// Makes a shutdown wait for it; `None` if it came when nobody came in any more.
    pub(crate) drain_guard: Option<DrainGuard>,
    /// When its client no longer wants the answer.
    pub(crate) deadline: Option<Instant>,
    /// Dropped when the prompt is tokenized: until then, what a large request is parsed into takes many times
    /// its size.
    pub(crate) memory: Option<Box<dyn Send>>,
}

impl Arrival {
    /// Sets the time for the answer, counted from the request's arrival on the monotonic clock; one that reaches
    /// beyond the end of time is none.
    pub(crate) fn answer_within(&mut self, allowed: Option<Duration>) {
        self.deadline = allowed.and_then(|allowed| self.at.checked_add(allowed));
    }

    /// Sets the deadline of a request of this tier that sets none itself.
    pub(super) fn default_deadline(&mut self, deadlines: &DefaultDeadlines, tier: ServiceTier) {
        self.deadline = self.deadline.or_else(|| deadlines.of(tier, self.at));
    }

    /// Waits for `work`, but no longer than to the deadline.
    pub(super) async fn in_time<T>(
        arrived: Instant,
        deadline: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T, MissedDeadline> {
        let Some(deadline) = deadline else {
            return Ok(work.await);
        };
        let in_time = tokio::time::timeout_at(deadline.into(), work).await;
        in_time.map_err(|_| MissedDeadline::passed(deadline.saturating_duration_since(arrived)))
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Arrival")
            .field("at", &self.at)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
