//! The way into a model's thread.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::sync::RwLock;

/// The sending end of a model's channel, which can be closed while others still hold it: the
/// thread ends when it is closed, not when the last answer is read.
#[derive(Debug)]
pub(super) struct JobSender<J>(RwLock<Option<SyncSender<J>>>);

impl<J> JobSender<J> {
    /// A queue with room for as many jobs as can be inside at once, and where they come out.
    pub(super) fn new(room: usize) -> (Self, Receiver<J>) {
        let (sender, receiver) = sync_channel(room);
        (Self(RwLock::new(Some(sender))), receiver)
    }

    /// Hands a job to the thread; gives it back when that is gone or the queue is closed.
    pub(super) fn submit(&self, job: J) -> Result<(), Box<J>> {
        let sender = self.0.read();
        let Some(sender) = &*sender else {
            return Err(Box::new(job));
        };
        // It has as many places as there are slots at most, and a job keeps its place: it is never full for
        // jobs. Whatever else comes through it has some places more, and may find them taken.
        sender.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Box::new(job),
        })
    }

    /// Takes no more jobs. What is in the channel still comes out of it.
    pub(super) fn close(&self) {
        let mut sender = self.0.write();
        *sender = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_queue_lets_its_thread_end_though_somebody_holds_it() {
        let (queue, jobs) = JobSender::new(2);
        queue.submit("first").expect("open");
        queue.close();
        assert_eq!(queue.submit("second"), Err(Box::new("second")));
        assert_eq!(jobs.into_iter().collect::<Vec<_>>(), ["first"]);
    }

    #[test]
    fn a_job_comes_back_where_the_thread_is_gone() {
        let (queue, jobs) = JobSender::new(2);
        drop(jobs);
        assert_eq!(queue.submit("job"), Err(Box::new("job")));
    }
}
