//! A thread for work that is dear, piece after piece.
//!
//! Eighty clients with a hostile schema each take no more at once than one of them, and the thread's
//! part of the heap is used again: glibc has one for each of many threads, and gives none back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Debug, Default)]
pub(super) struct Workshop {
    /// Begun when first needed; nothing where the system has no thread to give.
    orders: OnceLock<Option<Sender<Work>>>,
}

impl Workshop {
    /// What comes of `work`, after what others have ordered before. `None` when it panicked, or
    /// there is no thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        let orders = self.orders.get_or_init(open).as_ref()?;
        let work = move || drop(done.send(work()));
        orders.send(Box::new(work)).ok()?;
        result.await.ok()
    }
}

/// The thread ends with the sender.
fn open() -> Option<Sender<Work>> {
    let (orders, coming) = channel();
    let thread = std::thread::Builder::new().name("grammars".to_owned());
    match thread.spawn(move || serve(&coming)) {
        Ok(_) => Some(orders),
        Err(error) => {
            tracing::error!(%error, "no thread for grammars");
            None
        }
    }
}

fn serve(coming: &Receiver<Work>) {
    while let Ok(work) = coming.recv() {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("a grammar crashed its compiler");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn one_piece_is_worked_on_at_a_time() {
        let workshop = Workshop::default();
        let now = Arc::new(AtomicUsize::new(0));
        let pieces = (0..8).map(|_| {
            let now = Arc::clone(&now);
            workshop.run(move || {
                let seen = now.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
                seen
            })
        });
        assert_eq!(join_all(pieces).await, [Some(1); 8]);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_piece_only() {
        let workshop = Workshop::default();
        assert_eq!(workshop.run(|| -> u8 { panic!("a defect") }).await, None);
        assert_eq!(workshop.run(|| 7).await, Some(7));
    }
}
