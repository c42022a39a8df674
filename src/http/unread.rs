//! Reads what a handler has left of a request's body before the answer goes out.
//!
//! A request that is refused before its body is read would end its connection: hyper closes one with an unread
//! body, and a client that is still sending, or sends its next request there, gets a reset instead of the refusal.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

use crate::sync::{Mutex, MutexGuard};

/// How long the rest of a body may take. Who sends more slowly loses the connection.
const LONGEST: Duration = Duration::from_secs(2);
/// Bytes that are read and dropped at most.
const MOST_BYTES: usize = 8 << 20;

/// A body that a handler reads, and after it this module.
#[derive(Debug, Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl SharedBody {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock()
    }

    /// Reads it to its end and drops what comes.
    async fn drain(&mut self) {
        let mut left = MOST_BYTES;
        while let Some(Ok(frame)) = self.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if bytes > left {
                return;
            }
            left -= bytes;
        }
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

pub(crate) async fn read_what_is_left(request: Request, next: Next) -> Response {
    // Who waits for leave to send (`Expect: 100-continue`) would be given it by the first look at the body.
    let waits = request.headers().contains_key(header::EXPECT);
    if waits || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let mut shared = SharedBody(Arc::new(Mutex::new(body)));
    let request = Request::from_parts(parts, Body::new(shared.clone()));
    let response = next.run(request).await;
    // A client that was too slow already gets no more time.
    if !shared.is_end_stream() && response.status() != StatusCode::REQUEST_TIMEOUT {
        let _ = tokio::time::timeout(LONGEST, shared.drain()).await;
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use futures_util::{StreamExt, stream};
    use tower::ServiceExt;

    use super::*;

    /// How many of a body's thousand chunks are read when its handler answers without reading.
    async fn read(status: StatusCode, bytes: usize) -> usize {
        let left = Arc::new(Mutex::new(1000));
        let seen = Arc::clone(&left);
        let chunks = stream::repeat(Bytes::from(vec![b' '; bytes]))
            .take(1000)
            .map(move |chunk| {
                *seen.lock() -= 1;
                Ok::<_, std::io::Error>(chunk)
            });
        let router = Router::new()
            .route("/", post(move || async move { status }))
            .layer(axum::middleware::from_fn(read_what_is_left));
        let request = Request::post("/").body(Body::from_stream(chunks));
        let response = router.oneshot(request.expect("a request")).await;
        assert_eq!(response.expect("an answer").status(), status);
        let left = *left.lock();
        1000 - left
    }

    #[tokio::test]
    async fn what_is_left_is_read_within_bounds() {
        assert_eq!(read(StatusCode::UNAUTHORIZED, 1000).await, 1000);
        assert_eq!(read(StatusCode::REQUEST_TIMEOUT, 1000).await, 0);
        let most = read(StatusCode::UNAUTHORIZED, 100_000).await;
        assert!((80..100).contains(&most), "{most}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let router = Router::new()
            .route("/", post(|| async { StatusCode::FORBIDDEN }))
            .layer(axum::middleware::from_fn(read_what_is_left));
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let began = tokio::time::Instant::now();
        let request = Request::post("/").body(body).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(began.elapsed(), LONGEST);
    }
}
