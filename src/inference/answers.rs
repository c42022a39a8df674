//! The answers to a request while they are generated: their events, as they come.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::admission::{DrainGuard, SendBudget};
use crate::scheduler::{AnswerEvent, EventReceiver, QueueProgress};

use super::AnswerOutcome;
use super::account::{FailureSummary, RequestAccount, UsageTotals};
use super::error::InferenceFailure;

/// The answers to one request. Dropping this cancels those still running, no longer delays a shutdown and
/// writes the access log line.
#[derive(Debug)]
pub(crate) struct Answers {
    /// One entry per answer; `None` after its end.
    running: Vec<Option<RunningAnswer>>,
    /// How many answers each input has.
    choices: usize,
    /// The index of the answer that is polled first, for fairness.
    turn: usize,
    _presence: DrainGuard,
    account: RequestAccount,
    send_budget: SendBudget,
}

impl Answers {
    pub(crate) fn new(
        answers: Vec<RunningAnswer>,
        choices: usize,
        presence: DrainGuard,
        account: RequestAccount,
        send_budget: SendBudget,
    ) -> Self {
        Self {
            running: answers.into_iter().map(Some).collect(),
            choices,
            turn: 0,
            _presence: presence,
            account,
            send_budget,
        }
    }

    /// Describes the progress, for a comment in a stream that has been silent for a while.
    pub(crate) fn whereabouts(&self) -> String {
        let mut ahead = self.running.iter().flatten().map(|a| a.progress.ahead());
        match ahead.next().flatten() {
            Some(ahead) => format!("waiting, {ahead} ahead"),
            None => "working".to_owned(),
        }
    }

    /// Returns the next event with the index of its answer, or `None` when all answers have ended. The future
    /// may be dropped before it is ready without losing an event.
    ///
    /// # Errors
    /// A failure of one answer ends all of them.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, AnswerEvent), InferenceFailure>> {
        let next = poll_fn(|context| self.poll(context)).await?;
        let failure = match next {
            (_, Some(AnswerEvent::Failed(error))) => InferenceFailure::Job(error),
            // The scheduler has ended in the middle of an answer.
            (_, None) => InferenceFailure::Internal,
            (answer, Some(event)) => {
                if let AnswerEvent::Finished(finished) = &event {
                    self.running[answer] = None;
                    // The choices of an input share its prompt, which counts once.
                    self.account.add(finished, answer % self.choices == 0);
                }
                return Some(Ok((answer, event)));
            }
        };
        self.charge_unfinished();
        self.account.failed(&failure.clone().into());
        self.running.clear();
        Some(Err(failure))
    }

    /// Ends all answers with a failure of the front.
    pub(crate) fn end(&mut self, failure: FailureSummary) {
        self.charge_unfinished();
        self.account.ended(failure);
        self.running.clear();
    }

    /// Returns the memory budget of responses that wait for their clients to read.
    pub(crate) fn send_budget(&self) -> &SendBudget {
        &self.send_budget
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Option<AnswerEvent>)>> {
        let count = self.running.len();
        let mut all_ended = true;
        for answer in (0..count).map(|offset| (self.turn + offset) % count) {
            let Some(running) = &mut self.running[answer] else {
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

    /// Charges the key for what was computed of answers that did not end.
    fn charge_unfinished(&mut self) {
        for (answer, running) in self.running.iter().enumerate() {
            // One that still waits has cost nothing.
            if let Some(running) = running
                && running.progress.ahead().is_none()
            {
                let has_prompt = answer % self.choices == 0;
                let prompt = if has_prompt { running.prompt_tokens } else { 0 };
                let generated = running.progress.generated();
                self.account.used(prompt, 0, generated);
            }
        }
    }

    /// Records that all answers ended normally, the first one like `first`.
    pub(crate) fn finished(&mut self, first: AnswerOutcome) {
        self.account.finished(first);
    }

    /// Returns the totals of all answers that ended, as far as they are disclosed to the client.
    pub(crate) fn usage(&self) -> UsageTotals {
        self.account.disclosed()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.charge_unfinished();
    }
}

/// One answer that the scheduler works on.
#[derive(Debug)]
pub(crate) struct RunningAnswer {
    events: EventReceiver,
    progress: Arc<QueueProgress>,
    prompt_tokens: u32,
}

impl RunningAnswer {
    pub(crate) fn new(
        events: EventReceiver,
        progress: Arc<QueueProgress>,
        prompt_tokens: usize,
    ) -> Self {
        Self {
            events,
            progress,
            prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
        }
    }
}
