//! The loop that a model's thread runs: requests in, steps in turn with other models, until asked to stop.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::{ComputeTurns, Heartbeat, TurnTaker, WorkError, Worker};

/// How often a rest, or a wait for a turn, checks whether it may end sooner, or the process is to stop.
const REST_CHECK: Duration = Duration::from_millis(50);

/// Runs steps until every sender of `requests` is gone, sleeping while there is no work. What has
/// been accepted by then is finished first, unless `abort` says otherwise.
pub fn run<W: Worker>(
    mut worker: W,
    requests: &Receiver<W::Request>,
    heartbeat: &Heartbeat,
    turns: &ComputeTurns,
    abort: &dyn Fn() -> bool,
) {
    let taker = turns.join();
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
        open = open && accept_pending(&mut worker, requests);
        if abort() {
            worker.abort_all(WorkError::ShuttingDown);
        } else if let Some(took) = step(&mut worker, requests, &taker, heartbeat, abort) {
            rest(&mut worker, requests, took, heartbeat, abort);
        }
    }
    heartbeat.rest();
}

/// Takes in what was sent so far; returns whether more may come.
fn accept_pending<W: Worker>(worker: &mut W, requests: &Receiver<W::Request>) -> bool {
    loop {
        match requests.try_recv() {
            Ok(request) => worker.accept(request),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

/// Computes a step when it is this model's turn; returns how long it took, without the wait. `None` when
/// the loop was asked to stop meanwhile.
fn step<W: Worker>(
    worker: &mut W,
    requests: &Receiver<W::Request>,
    taker: &TurnTaker,
    heartbeat: &Heartbeat,
    abort: &dyn Fn() -> bool,
) -> Option<Duration> {
    // Without work it only tidies up.
    let turn = if worker.has_work() {
        let turn = taker.take(worker.demand(), REST_CHECK, || {
            heartbeat.beat();
            // That all senders are gone the loop finds out for itself.
            accept_pending(worker, requests);
            worker.look_while_resting(Instant::now());
            !abort()
        })?;
        // What came meanwhile need not wait for another turn.
        accept_pending(worker, requests);
        Some(turn)
    } else {
        None
    };
    let answering = u32::try_from(taker.answering_beside()).unwrap_or(u32::MAX);
    worker.answering_beside(answering);
    heartbeat.beat();
    let began = Instant::now();
    worker.run_step(&Instant::now);
    let took = began.elapsed();
    drop(turn);
    Some(took)
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

    use super::super::ComputeDemand;
    use super::*;

    const ONE_CORE: ComputeDemand = ComputeDemand {
        cores: 1,
        has_answers: false,
    };

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

        fn demand(&self) -> ComputeDemand {
            ONE_CORE
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
        let turns = ComputeTurns::new(1);
        run(recorder, &requests, &heartbeat, &turns, &|| abort);
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

        fn demand(&self) -> ComputeDemand {
            ONE_CORE
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
