//! When a request came, and from whom.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::admission::{ClientId, DrainGuard, Principal};

/// When a request came, from whom, and the memory that is reserved for it until it is a prompt.
pub(crate) struct Arrival {
    /// When the server began to read it.
    pub(crate) at: Instant,
    /// Who sent it.
    pub(crate) client: ClientId,
    /// Who asks.
    pub(crate) principal: Arc<Principal>,
    /// Makes a shutdown wait for it; `None` if it came when nobody came in any more.
    pub(crate) drain_guard: Option<DrainGuard>,
    /// When its client no longer wants the answer.
    pub(crate) deadline: Option<Instant>,
    /// Dropped when the prompt is tokenized: until then, what a large request is parsed into takes many times
    /// its size.
    pub(crate) memory: Option<Box<dyn Send>>,
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
