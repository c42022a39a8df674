//! Who waits for a grammar, and whether still.

use tokio::sync::watch;

use crate::admission::ClientId;

/// Who asked for a grammar.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) client: ClientId,
    here: watch::Receiver<()>,
}

/// Held by who waits; dropping it says that nobody does any more.
#[derive(Debug)]
pub struct CallerGuard {
    _here: watch::Sender<()>,
}

impl Caller {
    /// A request of `client`.
    #[must_use]
    pub fn new(client: ClientId) -> (Self, CallerGuard) {
        let (sender, here) = watch::channel(());
        (Self { client, here }, CallerGuard { _here: sender })
    }

    /// Resolves when nobody waits any more.
    pub(super) async fn left(&self) {
        let mut here = self.here.clone();
        // Nothing is ever sent; it fails when the sender is gone.
        while here.changed().await.is_ok() {}
    }
}
