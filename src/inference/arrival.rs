//! How a request came.

use std::fmt;
use std::time::Instant;

use crate::admission::ClientId;

/// When a request came, from whom, and the memory that it takes on its way to a prompt.
pub(crate) struct Arrival {
    /// When its first byte was there.
    pub(crate) at: Instant,
    /// Who sent it.
    pub(crate) client: ClientId,
    /// Dropped when the prompt is laid out: what is made of a large request on the way there takes many
    /// times its size.
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
