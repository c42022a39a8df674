//! Answers under way: their events, as they come.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::admission::{Presence, SendBudget};
use crate::scheduler::{Event, EventReceiver, QueueProgress};

use super::account::{FailureSummary, RequestAccount, UsageTotals};
use super::error::InferenceFailure;

/// The answers to one request. Dropping it tells the scheduler that the client has left, lets a
/// shutdown go on and writes the access line.
#[derive(Debug)]
pub(crate) struct Answers {
    /// One an answer; `None` after its end.
    answers: Vec<Option<RunningAnswer>>,
    /// Answers to each input.
    choices: usize,
    /// Whose turn it is to be asked first.
    turn: usize,
    _presence: Presence,
    account: RequestAccount,
    send_budget: SendBudget,
}

impl Answers {
    pub(crate) fn new(
        answers: Vec<RunningAnswer>,
        choices: usize,
        presence: Presence,
        account: RequestAccount,
        send_budget: SendBudget,
    ) -> Self {
        Self {
            answers: answers.into_iter().map(Some).collect(),
            choices,
            turn: 0,
            _presence: presence,
            account,
            send_budget,
        }
    }

    /// What a client may like to know that has not heard anything for a while.
    pub(crate) fn whereabouts(&self) -> String {
        let mut ahead = self.answers.iter().flatten().map(|a| a.progress.ahead());
        match ahead.next().flatten() {
            Some(ahead) => format!("waiting, {ahead} ahead"),
            None => "working".to_owned(),
        }
    }

    /// The next event and the answer that it is of; `None` when all have ended. May be dropped
    /// before it is ready without losing an event.
    ///
    /// # Errors
    /// Whatever ends an answer before its end ends all of them.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Event), InferenceFailure>> {
        let next = poll_fn(|context| self.poll(context)).await?;
        let failure = match next {
            (_, Some(Event::Failed(error))) => InferenceFailure::Job(error),
            // The scheduler is gone in mid-answer.
            (_, None) => InferenceFailure::Internal,
            (answer, Some(event)) => {
                if let Event::Finished(finished) = &event {
                    self.answers[answer] = None;
                    // The choices of an input share its prompt, which counts once.
                    self.account.add(finished, answer % self.choices == 0);
                }
                return Some(Ok((answer, event)));
            }
        };
        self.account.failed(&failure.clone().into());
        self.answers.clear();
        Some(Err(failure))
    }

    /// Ends all answers, with a failure as the front tells it.
    pub(crate) fn end(&mut self, failure: FailureSummary) {
        self.account.ended(failure);
        self.answers.clear();
    }

    /// Of what waits for clients.
    pub(crate) fn send_budget(&self) -> &SendBudget {
        &self.send_budget
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Option<Event>)>> {
        let count = self.answers.len();
        let mut all_ended = true;
        for answer in (0..count).map(|offset| (self.turn + offset) % count) {
            let Some(running) = &mut self.answers[answer] else {
                continue;
            };
            all_ended = false;
            if let Poll::Ready(event) = running.events.poll_recv(context) {
                self.turn = answer + 1;
                return Poll::Ready(Some((answer, event)));
            }
        }
        if all_ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// All answers ended as they should; `reason` is the first one's.
    pub(crate) fn finished(&mut self, reason: &'static str) {
        self.account.finished(reason);
    }

    /// What all answers that ended took together, as far as the client may know.
    pub(crate) fn usage(&self) -> UsageTotals {
        self.account.disclosed()
    }
}

/// One answer that the scheduler works on.
#[derive(Debug)]
pub(crate) struct RunningAnswer {
    events: EventReceiver,
    progress: Arc<QueueProgress>,
}

impl RunningAnswer {
    pub(crate) fn new(events: EventReceiver, progress: Arc<QueueProgress>) -> Self {
        Self { events, progress }
    }
}
