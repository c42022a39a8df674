//! The error with which a worker ends a request.

use std::time::Duration;

/// Why a request could not be answered. One type for all workers: the code that reports it to a
/// client needs one table, and a worker without grammars just never returns that variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// The engine failed on a batch with this request.
    #[error("the engine could not compute this request")]
    Engine,
    /// The answer's grammar took more work than one answer may use.
    #[error("the answer's grammar is too complex to be followed: simplify the schema")]
    Grammar,
    /// The memory for text that waits for its client is used up.
    #[error(
        "this answer was not read as fast as it was made, and the memory for answers that wait for \
         their clients is used up: read faster, or ask for fewer tokens or `top_logprobs`"
    )]
    Unread,
    /// The request's deadline passed before there was anything of its answer.
    #[error(
        "the deadline of this request passed before its answer began: allow more time in `x-deadline-ms`, or ask \
         again when fewer requests are waiting"
    )]
    DeadlinePassed {
        /// When the same request is likely to be answered in time.
        retry_after: Duration,
    },
    /// The queue was full, mostly of requests of the same key, and another key's request came.
    #[error(
        "too many requests are waiting, and this key has the most of them, so that this one made room for \
         another key's: send fewer at once, and retry after the time in `retry-after`"
    )]
    Displaced {
        /// When a place should be free.
        retry_after: Duration,
    },
    /// The adapter for which the request waited was removed.
    #[error(
        "the adapter that this request asks for was removed while it waited: ask for another, or for the model alone"
    )]
    AdapterRemoved,
    /// The request was still running when the grace time of a shutdown ended.
    #[error("the server is shutting down")]
    ShuttingDown,
}
