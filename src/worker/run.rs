//! The loop that a model's thread runs: requests in, steps, until asked to stop.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::{Heartbeat, WorkError, Worker};

/// How often a rest checks whether it may end sooner, or the process is to stop.
const REST_CHECK: Duration = Duration::from_millis(50);

/// Runs steps until every sender of `requests` is gone, sleeping while there is no work. What has
/// been accepted by then is finished first, unless `abort` says otherwise.
pub fn run<W: Worker>(
    mut worker: W,
    requests: &Receiver<W::Request>,
    heartbeat: &Heartbeat,
    abort: &dyn Fn() -> bool,
) {
    let mut open = true;
    while open || worker.has_work() {
        if open && !worker.has_work() {
            heartbeat.rest();
            let sleep = worker.longest_sleep().unwrap_or(Duration::MAX);
            match requests.recv_timeout(sleep) {
                Ok(request) => worker.accept(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        heartbeat.beat();
        while open {
            match requests.try_recv() {
                Ok(request) => worker.accept(request),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        if abort() {
            worker.abort_all(WorkError::ShuttingDown);
        } else {
            let began = Instant::now();
            worker.run_step(&Instant::now);
            rest(&mut worker, requests, began.elapsed(), heartbeat, abort);
        }
    }
    heartbeat.rest();
}

/// Rests as long as the worker asks for after a step of this length. It is asked again and
/// again, because the governor may change its mind meanwhile. Requests are taken in all the same: what
/// the worker looks after while it rests may be one of them. A rest is not a part of a step: however long
/// it is, the loop does not hang.
fn rest<W: Worker>(
    worker: &mut W,
    requests: &Receiver<W::Request>,
    took: Duration,
    heartbeat: &Heartbeat,
    abort: &dyn Fn() -> bool,
) {
    let began = Instant::now();
    loop {
        let left = worker.rest_after(took).saturating_sub(began.elapsed());
        if left.is_zero() || abort() {
            return;
        }
        heartbeat.beat();
        let pause = left.min(REST_CHECK);
        match requests.recv_timeout(pause) {
            Ok(request) => worker.accept(request),
            Err(RecvTimeoutError::Timeout) => {}
            // Whoever calls this finds out for itself.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
        }
        worker.look_while_resting(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// Takes one step for each request and writes down what it received.
    #[derive(Default)]
    struct Recorder {
        pending: usize,
        log: Rc<RefCell<Vec<&'static str>>>,
    }

    impl Worker for Recorder {
        type Request = ();

        fn accept(&mut self, (): ()) {
            self.pending += 1;
            self.log.borrow_mut().push("accept");
        }

        fn has_work(&self) -> bool {
            self.pending > 0
        }

        fn run_step(&mut self, _clock: &dyn Fn() -> Instant) {
            self.pending = self.pending.saturating_sub(1);
            self.log.borrow_mut().push("step");
        }

        fn rest_after(&self, _worked: Duration) -> Duration {
            Duration::ZERO
        }

        fn abort_all(&mut self, _error: WorkError) {
            self.pending = 0;
            self.log.borrow_mut().push("abort");
        }
    }

    fn run_with_two_requests(abort: bool) -> Vec<&'static str> {
        let (sender, requests) = sync_channel(2);
        for _ in 0..2 {
            sender.send(()).expect("there is room");
        }
        drop(sender);
        let recorder = Recorder::default();
        let log = Rc::clone(&recorder.log);
        let heartbeat = Heartbeat::default();
        run(recorder, &requests, &heartbeat, &|| abort);
        assert_eq!(heartbeat.busy_for(), None, "it rests at the end");
        log.take()
    }

    #[test]
    fn what_was_accepted_is_finished_when_every_sender_is_gone() {
        assert_eq!(
            run_with_two_requests(false),
            ["accept", "accept", "step", "step"]
        );
    }

    /// Rests until what came in meanwhile has been looked at.
    #[derive(Default)]
    struct Resting {
        accepted: usize,
        seen: usize,
    }

    impl Worker for Resting {
        type Request = ();

        fn accept(&mut self, (): ()) {
            self.accepted += 1;
        }

        fn has_work(&self) -> bool {
            true
        }

        fn run_step(&mut self, _clock: &dyn Fn() -> Instant) {}

        fn look_while_resting(&mut self, _now: Instant) {
            self.seen = self.accepted;
        }

        fn rest_after(&self, _worked: Duration) -> Duration {
            let hour = Duration::from_secs(3600);
            if self.seen == 2 { Duration::ZERO } else { hour }
        }

        fn abort_all(&mut self, _error: WorkError) {}
    }

    #[test]
    fn a_long_rest_still_takes_requests_in_and_looks_after_them() {
        let (sender, requests) = sync_channel(2);
        for _ in 0..2 {
            sender.send(()).expect("there is room");
        }
        let mut worker = Resting::default();
        let heartbeat = Heartbeat::default();
        rest(&mut worker, &requests, Duration::ZERO, &heartbeat, &|| {
            false
        });
        assert_eq!(worker.seen, 2);
    }

    #[test]
    fn an_abort_ends_every_request_at_once() {
        assert_eq!(run_with_two_requests(true), ["accept", "accept", "abort"]);
    }
}
