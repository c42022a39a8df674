//! Why a worker could not answer a request.

/// Why a request could not be answered. One type for all workers: whoever reports it to a client
/// needs one table, and a worker that has no grammars just never returns that variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// The engine failed on a batch that held it.
    #[error("the engine could not compute this request")]
    Engine,
    /// Its grammar took more work than an answer may.
    #[error("the answer's grammar is too complex to be followed: simplify the schema")]
    Grammar,
    /// What waits for its client is more than there is memory for.
    #[error(
        "this answer was not read as fast as it was made, and the memory for answers that wait for \
         their clients is used up: read faster, or ask for fewer tokens or `top_logprobs`"
    )]
    Unread,
    /// It was still running when the grace time of a shutdown ended.
    #[error("the server is shutting down")]
    ShuttingDown,
}
