//! A thread that compiles grammars, one after the other.
//!
//! Its stack is large enough for the deepest grammar. Threads are reused because glibc gives each new
//! thread an arena of its own, whose memory it keeps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::compile::STACK;

type Work = Box<dyn FnOnce() + Send>;

/// Why a thread returned no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompileThreadError {
    /// The work took too long; it goes on, and the thread ends after it.
    Overran,
    /// The work panicked.
    Crashed,
    /// The system refused a thread.
    NoThread,
}

/// A thread for one piece of work at a time, started when it is first needed.
#[derive(Debug, Default)]
pub(super) struct CompileThread {
    /// The queue of the thread while it is idle.
    orders: Option<Sender<Work>>,
}

impl CompileThread {
    /// Runs `work` and returns its result, if it takes no longer than `longest`.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        longest: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CompileThreadError> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move || drop(done.send(work())));
        let orders = self
            .orders
            .take()
            .or_else(open)
            .ok_or(CompileThreadError::NoThread)?;
        orders
            .send(work)
            .map_err(|_| CompileThreadError::NoThread)?;
        let result = tokio::time::timeout(longest, result).await;
        let result = result.map_err(|_| CompileThreadError::Overran)?;
        // Only an idle thread is kept: after an overrun the next work gets a new thread.
        self.orders = Some(orders);
        result.map_err(|_| CompileThreadError::Crashed)
    }
}

/// Starts a thread, which ends when the sender is dropped.
fn open() -> Option<Sender<Work>> {
    let (orders, coming) = channel();
    let thread = std::thread::Builder::new()
        .name("grammars".to_owned())
        .stack_size(STACK);
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
    use futures_util::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_panic_ends_its_own_work_only() {
        let mut thread = CompileThread::default();
        let crashed = thread.run(LONG, || -> u8 { panic!("a defect") }).await;
        assert_eq!(crashed, Err(CompileThreadError::Crashed));
        assert_eq!(thread.run(LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_takes_too_long_does_not_hold_up_the_next() {
        let mut thread = CompileThread::default();
        let (go_on, waits) = channel::<()>();
        let overran = thread
            .run(Duration::from_millis(1), move || waits.recv())
            .await;
        assert_eq!(
            overran,
            Err(CompileThreadError::Overran),
            "nobody lets it go on"
        );
        assert_eq!(thread.run(LONG, || 7).await, Ok(7));
        drop(go_on);
    }

    #[tokio::test]
    async fn work_that_is_given_up_does_not_hold_up_the_next() {
        let mut thread = CompileThread::default();
        let (go_on, waits) = channel::<()>();
        let given_up = thread.run(LONG, move || waits.recv()).now_or_never();
        assert_eq!(given_up, None, "nobody lets it go on");
        assert_eq!(thread.run(LONG, || 7).await, Ok(7));
        drop(go_on);
    }
}
