//! The request that waits for a grammar, and whether it still does.

use tokio::sync::watch;

use crate::admission::ClientId;

/// The request that asked for a grammar.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) client: ClientId,
    here: watch::Receiver<()>,
}

/// Held by the request; dropping it tells the compiler that nobody waits any more.
#[derive(Debug)]
pub struct CallerGuard {
    _here: watch::Sender<()>,
}

impl Caller {
    /// Makes the caller of a request of `client`.
    #[must_use]
    pub fn new(client: ClientId) -> (Self, CallerGuard) {
        let (sender, here) = watch::channel(());
        (Self { client, here }, CallerGuard { _here: sender })
    }

    /// Resolves when the request is gone.
    pub(super) async fn left(&self) {
        let mut here = self.here.clone();
        // Nothing is ever sent: `changed` fails when the sender is dropped.
        while here.changed().await.is_ok() {}
    }
}
