//! Follows changes of the keys file.

use std::sync::Arc;
use std::time::Duration;

use super::ring::KeyRing;

/// How often the file is looked at. A change is read at the second look that sees it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the keys file for ever.
pub async fn watch(ring: Arc<KeyRing>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let looking = Arc::clone(&ring);
        // A disk may take its time.
        let Ok(looked) = tokio::task::spawn_blocking(move || looking.look()).await else {
            continue;
        };
        let file = ring.file().display();
        match looked {
            Ok(None) => {}
            Ok(Some(changes)) => {
                tracing::info!(
                    keys = changes.keys,
                    added = changes.added.join(","),
                    removed = changes.removed.join(","),
                    changed = changes.changed.join(","),
                    "administrator changed the keys file"
                );
                if changes.keys == 0 {
                    tracing::warn!("{file} has no keys any more: nobody may ask");
                }
            }
            Err(error) => {
                tracing::error!("{file}: {error}; the keys stay as they were");
            }
        }
    }
}
