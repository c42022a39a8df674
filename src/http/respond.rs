//! Turns the events of answers into a response: one JSON body, or server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};

use crate::admission::Outbox;
use crate::inference::{AnswerOutcome, Answers, UsageTotals};
use crate::sampling::Logprobs;
use crate::scheduler::{AnswerEnd, AnswerEvent, AnswerText};
use crate::worker::WorkError;

use super::error::ApiError;
use super::outgoing;
use super::resume::{self, RecordingTicket};
use super::sse::{Frame, KEEP_ALIVE, OutgoingFrame};

/// Renders an endpoint's answers. For a stream, each method's frames are sent; for a whole response, the
/// frames are empty and [`whole`](Self::whole) is called at the end.
pub(crate) trait ResponseRenderer: Send + Sized + 'static {
    /// Returns the frames that open the stream, before any token is generated.
    fn opening(&mut self) -> Vec<Frame>;
    /// Takes the log-probabilities of an answer's prompt tokens, all but the first.
    fn prompt(&mut self, _answer: usize, _logprobs: &[Logprobs]) -> Vec<Frame> {
        Vec::new()
    }
    /// Takes more text of an answer.
    fn text(&mut self, answer: usize, text: &AnswerText) -> Vec<Frame>;
    /// Takes the end of an answer.
    fn end(&mut self, answer: usize, finished: &AnswerEnd) -> Vec<Frame>;
    /// Returns the frames that close the stream, after the end of all answers.
    fn close(&mut self, usage: UsageTotals) -> Vec<Frame>;
    /// Returns the frame that reports an error which ends the stream.
    fn failure(&mut self, error: &ApiError) -> Frame;
    /// Returns how the first answer ended.
    fn outcome(&self) -> AnswerOutcome;
    /// Returns the whole response as one JSON body.
    fn whole(self, usage: UsageTotals) -> String;
}

/// Time within which a request's answers are started, or the stream begins without them: a client is told by
/// comments what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends answers as a stream, which is recorded for resuming if there is a ticket. Where they take long to
/// start because their model is being loaded, comments tell `progress` meanwhile, as long as there is something to
/// tell; an error is then an event of the stream, made by `failure`. Returns with the response how long the answers are estimated to take, where that is
/// known before the stream begins.
pub(crate) async fn respond_with_stream<R: ResponseRenderer>(
    started: impl Future<Output = Result<(Answers, R, Option<Duration>), ApiError>> + Send + 'static,
    progress: impl Fn() -> Option<String> + Send + 'static,
    failure: fn(&ApiError) -> Frame,
    ticket: Option<RecordingTicket>,
) -> (Response, Option<Duration>) {
    let mut started = Box::pin(started);
    let first = loop {
        if let Ok(started) = tokio::time::timeout(PATIENCE, &mut started).await {
            return match started {
                Err(error) => (error.into_response(), None),
                Ok((answers, renderer, estimate)) => {
                    let response = resume::respond(frames(answers, renderer), ticket);
                    (response, estimate)
                }
            };
        }
        if let Some(comment) = progress() {
            break OutgoingFrame::from(Frame::Comment(comment));
        }
    };
    let waiting = stream::unfold(Some(started), move |started| {
        let comment = progress().unwrap_or_else(|| "working".to_owned());
        let comment = OutgoingFrame::from(Frame::Comment(comment));
        async move {
            let mut started = started?;
            let frames = match tokio::time::timeout(PATIENCE, &mut started).await {
                Err(_) => return Some((stream::iter([comment]).boxed(), Some(started))),
                Ok(Ok((answers, renderer, _))) => frames(answers, renderer).boxed(),
                Ok(Err(error)) => stream::iter([failure(&error).into()]).boxed(),
            };
            Some((frames, None))
        }
    });
    let frames = stream::iter([first]).chain(waiting.flatten());
    (resume::respond(frames, ticket), None)
}

/// Waits for the end of all answers and sends them as one body.
pub(crate) async fn whole(mut answers: Answers, mut renderer: impl ResponseRenderer) -> Response {
    drop(renderer.opening());
    while let Some(next) = answers.next().await {
        match next {
            Ok((answer, AnswerEvent::Prompt(logprobs))) => drop(renderer.prompt(answer, &logprobs)),
            Ok((answer, AnswerEvent::Text(text))) => drop(renderer.text(answer, &text)),
            Ok((answer, AnswerEvent::Finished(end))) => drop(renderer.end(answer, &end)),
            Ok((_, AnswerEvent::Failed(_))) => {}
            Err(failure) => return ApiError::from(failure).into_response(),
        }
    }
    let outcome = renderer.outcome();
    let body = renderer.whole(answers.usage());
    match outgoing::json(body, answers.send_budget()).await {
        Ok(response) => {
            answers.finished(outcome);
            response
        }
        Err(error) => {
            answers.end(error.summary());
            error.into_response()
        }
    }
}

/// Streams the answers as they come. Dropping the stream cancels the request.
fn frames(
    answers: Answers,
    mut renderer: impl ResponseRenderer,
) -> impl Stream<Item = OutgoingFrame> + Send + 'static {
    let opening = renderer.opening();
    let mut state = FrameStream {
        outbox: Outbox::new(answers.send_budget()),
        pending: VecDeque::new(),
        answers,
        renderer: Some(renderer),
    };
    state.queue(opening);
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(frame) = state.pending.pop_front() {
                return Some((frame, state));
            }
            // After the end there is no renderer.
            state.renderer.as_ref()?;
            state.advance().await;
        }
    })
}

struct FrameStream<T> {
    answers: Answers,
    /// `None` after the end: its state is not needed to send the remaining frames.
    renderer: Option<T>,
    /// Frames that are ready to be sent.
    pending: VecDeque<OutgoingFrame>,
    /// Counts the memory of pending frames and of sent frames that the client has not taken.
    outbox: Outbox,
}

impl<T: ResponseRenderer> FrameStream<T> {
    async fn advance(&mut self) {
        let Some(renderer) = &mut self.renderer else {
            return;
        };
        let next = tokio::select! {
            next = self.answers.next() => next,
            () = tokio::time::sleep(KEEP_ALIVE) => {
                let comment = self.answers.whereabouts();
                self.pending.push_back(Frame::Comment(comment).into());
                return;
            }
        };
        let frames = match next {
            Some(Ok((answer, AnswerEvent::Prompt(logprobs)))) => renderer.prompt(answer, &logprobs),
            Some(Ok((answer, AnswerEvent::Text(text)))) => renderer.text(answer, &text),
            Some(Ok((answer, AnswerEvent::Finished(end)))) => renderer.end(answer, &end),
            Some(Ok((_, AnswerEvent::Failed(_)))) => Vec::new(),
            Some(Err(failure)) => {
                self.break_off(&failure.into());
                return;
            }
            None => {
                let usage = self.answers.usage();
                let outcome = renderer.outcome();
                let frames = renderer.close(usage);
                if self.queue(frames) {
                    self.answers.finished(outcome);
                }
                self.renderer = None;
                return;
            }
        };
        self.queue(frames);
    }

    /// Queues frames to be sent. Returns false, and ends the stream, if there is no memory for all of them.
    fn queue(&mut self, frames: Vec<Frame>) -> bool {
        for frame in frames {
            let Some(held) = self.outbox.hold(frame.size()) else {
                let error = ApiError::Job(WorkError::Unread);
                self.answers.end(error.summary());
                self.break_off(&error);
                return false;
            };
            let held = Some(held);
            self.pending.push_back(OutgoingFrame { frame, held });
        }
        true
    }

    fn break_off(&mut self, error: &ApiError) {
        if let Some(mut renderer) = self.renderer.take() {
            let frame = renderer.failure(error);
            let held = Some(self.outbox.hold_last(frame.size()));
            self.pending.push_back(OutgoingFrame { frame, held });
        }
    }
}
