//! The way of an answer's events from the scheduler to its client's side: never waited for by the
//! scheduler, and counted in memory until they are taken.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::admission::{Outbox, PendingBytes, SendBudget};
use crate::sampling::Logprobs;

use super::job::{AnswerEvent, AnswerText};

/// A channel that holds a whole answer of `max_tokens`, so that the scheduler never waits for a client
/// and a client that reads slowly holds no KV cells. What waits in it counts in `budget`.
#[must_use]
pub fn channel(max_tokens: u32, budget: &SendBudget) -> (EventSender, EventReceiver) {
    // The prompt, one event a token at most, what was held back at the end, and the end itself.
    let (events, receiver) = mpsc::channel(max_tokens as usize + 3);
    let outbox = Outbox::new(budget);
    (EventSender { events, outbox }, EventReceiver(receiver))
}

/// An event on its way, and the memory that it takes.
#[derive(Debug)]
struct Envelope {
    event: AnswerEvent,
    /// Given back when the event is taken, or dropped with the channel.
    _held: PendingBytes,
}

/// Where an answer goes.
#[derive(Debug)]
pub struct EventSender {
    events: mpsc::Sender<Envelope>,
    outbox: Outbox,
}

/// Why an event could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendError {
    /// The client is gone.
    ClientLeft,
    /// The client has not read what was sent before, and there is no memory for more.
    NoRoom,
}

impl EventSender {
    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn send(&self, event: AnswerEvent) -> Result<(), SendError> {
        let held = match &event {
            // Whoever reads to the end must find one.
            AnswerEvent::Finished(_) | AnswerEvent::Failed(_) => {
                self.outbox.hold_last(event.size())
            }
            AnswerEvent::Prompt(_) | AnswerEvent::Text(_) => {
                self.outbox.hold(event.size()).ok_or(SendError::NoRoom)?
            }
        };
        let envelope = Envelope { event, _held: held };
        self.events.try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => SendError::ClientLeft,
            mpsc::error::TrySendError::Full(_) => {
                debug_assert!(false, "the channel holds a whole answer");
                SendError::NoRoom
            }
        })
    }
}

/// Where an answer comes from.
#[derive(Debug)]
pub struct EventReceiver(mpsc::Receiver<Envelope>);

impl EventReceiver {
    /// Returns the next event; `None` after the last one.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<AnswerEvent>> {
        let next = self.0.poll_recv(context);
        next.map(|next| next.map(|envelope| envelope.event))
    }

    /// Whether nothing is there now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An event that is there already.
    pub fn try_recv(&mut self) -> Option<AnswerEvent> {
        self.0.try_recv().ok().map(|envelope| envelope.event)
    }
}

impl AnswerEvent {
    /// Bytes of memory that it takes, roughly.
    fn size(&self) -> usize {
        let heap = match self {
            Self::Prompt(logprobs) => logprobs_size(logprobs),
            Self::Text(AnswerText { text, logprobs, .. }) => text.len() + logprobs_size(logprobs),
            Self::Finished(_) | Self::Failed(_) => 0,
        };
        size_of::<Envelope>() + heap
    }
}

fn logprobs_size(logprobs: &[Logprobs]) -> usize {
    let sizes = logprobs.iter().map(|token| size_of_val(&*token.top));
    size_of_val(logprobs) + sizes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::FREE_OUTBOX_BYTES;
    use crate::worker::WorkError;

    fn text(bytes: usize) -> AnswerEvent {
        AnswerEvent::Text(AnswerText {
            text: "x".repeat(bytes),
            tokens: 1,
            logprobs: Vec::new(),
        })
    }

    #[test]
    fn what_nobody_reads_is_refused_beyond_the_budget_and_its_end_is_told() {
        let budget = SendBudget::new(FREE_OUTBOX_BYTES);
        let (sender, mut receiver) = channel(8, &budget);
        assert_eq!(sender.send(text(FREE_OUTBOX_BYTES / 2)), Ok(()));
        assert_eq!(
            sender.send(text(FREE_OUTBOX_BYTES / 2)),
            Ok(()),
            "from the budget"
        );
        assert_eq!(sender.send(text(FREE_OUTBOX_BYTES)), Err(SendError::NoRoom));
        let end = AnswerEvent::Failed(WorkError::Unread);
        assert_eq!(sender.send(end.clone()), Ok(()));
        let (other, _its_receiver) = channel(8, &budget);
        assert_eq!(
            other.send(text(FREE_OUTBOX_BYTES / 2)),
            Ok(()),
            "others have their own"
        );
        assert!(receiver.try_recv().is_some() && receiver.try_recv().is_some());
        assert_eq!(receiver.try_recv(), Some(end));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_client_that_leaves_gives_everything_back() {
        let budget = SendBudget::new(FREE_OUTBOX_BYTES);
        let (sender, receiver) = channel(8, &budget);
        assert_eq!(sender.send(text(FREE_OUTBOX_BYTES / 2)), Ok(()));
        assert_eq!(sender.send(text(FREE_OUTBOX_BYTES / 2)), Ok(()));
        assert!(budget.reserved() > 0);
        drop(receiver);
        assert_eq!(budget.reserved(), 0);
        assert_eq!(sender.send(text(1)), Err(SendError::ClientLeft));
    }
}
