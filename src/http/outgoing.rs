//! Response bodies, whose memory is counted until the client's socket has taken them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

use crate::admission::{Reservation, SendBudget};
use crate::engine::return_freed_soon;

use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Bodies up to this many bytes are not counted in the budget.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Larger bodies are written in pieces of this many bytes, each of which returns its memory once written.
const PIECE_BYTES: usize = 256 << 10;
/// Bodies of at least this many bytes leave enough freed memory behind to be worth returning to the system.
const WORTH_TRIMMING_BYTES: usize = 1 << 20;

/// Marks a response whose bytes are already counted in the budget.
#[derive(Debug, Clone, Copy)]
struct CountedMarker;

/// A layer around every handler: reserves room in the budget for a large body, or replaces the response
/// with an error.
pub(crate) async fn count_large_answers(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let is_counted = response.extensions().get::<CountedMarker>().is_some();
    let size = response.body().size_hint().exact();
    let is_large = size.is_some_and(|size| size > SMALL_BODY_BYTES as u64);
    if is_counted || !is_large {
        return response;
    }
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return ApiError::Internal.into_response();
    };
    match whole(body.to_bytes(), &state.send_budget).await {
        Ok(body) => Response::from_parts(head, body),
        Err(error) => {
            if let ApiError::Refused(refusal) = &error {
                state.metrics.request_rejected("", refusal.reason.as_str());
            }
            let mut response = error.into_response();
            // Whatever marked the response as counted still holds.
            response.extensions_mut().extend(head.extensions);
            response
        }
    }
}

/// Makes a JSON response of `body`.
///
/// # Errors
/// If the budget has no room for it.
pub(crate) async fn json(body: String, budget: &SendBudget) -> Result<Response, ApiError> {
    let body = whole(body.into(), budget).await?;
    let head = [(axum::http::header::CONTENT_TYPE, "application/json")];
    let mut response = (head, body).into_response();
    response.extensions_mut().insert(CountedMarker);
    Ok(response)
}

async fn whole(body: Bytes, budget: &SendBudget) -> Result<Body, ApiError> {
    if body.len() <= SMALL_BODY_BYTES {
        return Ok(body.into());
    }
    if body.len() > budget.capacity() {
        return Err(ApiError::AnswerTooLarge {
            bytes: body.len(),
            limit: budget.capacity(),
        });
    }
    if body.len() >= WORTH_TRIMMING_BYTES {
        // The values that it was made of are freed by now.
        return_freed_soon();
    }
    let reservation = budget.reserve(body.len()).await?;
    Ok(Body::new(PiecewiseBody::new(body.into(), reservation)))
}

/// A large body, sent piece by piece.
struct PiecewiseBody {
    rest: VecDeque<Bytes>,
    left: u64,
    worth_returning: bool,
}

impl PiecewiseBody {
    /// Cuts the pieces from the end of `body`, so that its memory is never held twice.
    fn new(mut body: Vec<u8>, mut reservation: Reservation) -> Self {
        let left = body.len();
        let mut rest = VecDeque::with_capacity(left.div_ceil(PIECE_BYTES));
        while body.len() > PIECE_BYTES {
            let piece = body.split_off((body.len() - 1) / PIECE_BYTES * PIECE_BYTES);
            body.shrink_to_fit();
            let reservation = reservation.split(piece.len());
            rest.push_front(holding(piece, reservation));
        }
        rest.push_front(holding(body, reservation));
        Self {
            rest,
            left: left as u64,
            worth_returning: left >= WORTH_TRIMMING_BYTES,
        }
    }
}

impl HttpBody for PiecewiseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.pop_front();
        self.left -= piece.as_ref().map_or(0, Bytes::len) as u64;
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for PiecewiseBody {
    fn drop(&mut self) {
        if self.worth_returning {
            return_freed_soon();
        }
    }
}

/// Returns `bytes` that keep `held` alive until the socket has taken them.
pub(crate) fn holding<T: AsRef<[u8]> + Send + 'static, H: Send + 'static>(
    bytes: T,
    held: H,
) -> Bytes {
    struct Holding<T, H> {
        bytes: T,
        _held: H,
    }

    impl<T: AsRef<[u8]>, H> AsRef<[u8]> for Holding<T, H> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }

    Bytes::from_owner(Holding { bytes, _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Vec<u8> {
        (0..251).cycle().take(length).collect()
    }

    #[tokio::test]
    async fn a_large_answer_is_whole_and_gives_its_room_back_piece_by_piece() {
        let budget = SendBudget::new(4 << 20);
        let length = 3 * PIECE_BYTES + 17;
        let answer = whole(body(length).into(), &budget).await.expect("room");
        assert_eq!(budget.reserved(), length);
        assert_eq!(answer.size_hint().exact(), Some(length as u64));
        let mut answer = answer;
        let mut read = Vec::new();
        while let Some(frame) = answer.frame().await {
            let piece = frame.expect("no error").into_data().expect("data");
            assert_eq!(budget.reserved(), length - read.len(), "not written yet");
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, body(length));
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn small_answers_need_no_room_and_large_ones_are_refused_without_any() {
        let budget = SendBudget::new(2 * SMALL_BODY_BYTES);
        let _taken = budget.try_reserve(2 * SMALL_BODY_BYTES).expect("room");
        assert!(whole(body(SMALL_BODY_BYTES).into(), &budget).await.is_ok());
        let refused = whole(body(SMALL_BODY_BYTES + 1).into(), &budget).await;
        let ApiError::Refused(refusal) = refused.expect_err("no room") else {
            panic!("refused for another reason");
        };
        assert_eq!(refusal.reason.as_str(), "memory");
        let too_large = whole(body(2 * SMALL_BODY_BYTES + 1).into(), &budget).await;
        let error = too_large.expect_err("larger than all").to_string();
        assert!(error.contains("server.max_unsent_bytes"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_is_dropped_in_the_middle_gives_everything_back() {
        let budget = SendBudget::new(4 << 20);
        let mut answer = whole(body(4 * PIECE_BYTES).into(), &budget)
            .await
            .expect("room");
        let first = answer.frame().await;
        drop(answer);
        assert_eq!(
            budget.reserved(),
            PIECE_BYTES,
            "what hyper has is still there"
        );
        drop(first);
        assert_eq!(budget.reserved(), 0);
    }
}
