//! Clients that close their own side of a connection and wait for the answer.
//!
//! Their sockets look like those of clients that have left. Only a write tells them apart: the system of a
//! client that has left answers it with a reset. So such a client is probed: while an answer is computed,
//! with HTTP's `100 Continue`, which every client skips, and while a stream is silent, with a comment.
//!
//! HTTP/1.0 has no `100 Continue`. There, a client that closes its side counts as gone; nginx, which speaks
//! HTTP/1.0 to its upstream servers, means it that way.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Frame;
use tokio::time::Sleep;
use tower::Service;

/// Time between two comments in a stream that is silent.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_COMMENT: &[u8] = b": is anybody there?\n";

/// How far the current request of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeStage {
    /// There is no request, or it is still being read.
    Waiting,
    /// The answer is being computed, and nothing of it is written yet. A `100 Continue` may be sent.
    Computing,
    /// The answer is being computed, and nothing may be written before it (HTTP/1.0).
    ComputingUnprobed,
    /// The answer is being written.
    Sending,
}

/// The state of a connection, shared by its service and its socket's watcher.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange(Arc<ExchangeState>);

#[derive(Debug, Default)]
struct ExchangeState {
    stage: AtomicU8,
    /// Whether the client has closed its side.
    has_ended: AtomicBool,
}

impl Exchange {
    pub(crate) fn stage(&self) -> ExchangeStage {
        match self.0.stage.load(Ordering::Relaxed) {
            COMPUTING => ExchangeStage::Computing,
            COMPUTING_UNPROBED => ExchangeStage::ComputingUnprobed,
            SENDING => ExchangeStage::Sending,
            _ => ExchangeStage::Waiting,
        }
    }

    /// Records that the client will send nothing more.
    pub(crate) fn end(&self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Relaxed)
    }

    fn enter(&self, stage: u8) {
        self.0.stage.store(stage, Ordering::Relaxed);
    }
}

const COMPUTING: u8 = 1;
const COMPUTING_UNPROBED: u8 = 2;
const SENDING: u8 = 3;

/// A service that records in an [`Exchange`] how far its requests are.
#[derive(Debug, Clone)]
pub(crate) struct ExchangeService<S> {
    service: S,
    exchange: Exchange,
}

impl<S> ExchangeService<S> {
    pub(crate) fn new(service: S, exchange: Exchange) -> Self {
        Self { service, exchange }
    }
}

type ResponseFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for ExchangeService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = self.exchange.clone();
        exchange.enter(match request.version() {
            Version::HTTP_09 | Version::HTTP_10 => COMPUTING_UNPROBED,
            _ => COMPUTING,
        });
        let answer = self.service.call(request);
        Box::pin(async move {
            let response = answer.await?;
            exchange.enter(SENDING);
            Ok(with_probes(response, exchange))
        })
    }
}

fn with_probes(response: Response<Body>, exchange: Exchange) -> Response<Body> {
    let event_stream = HeaderValue::from_static("text/event-stream");
    if response.headers().get(header::CONTENT_TYPE) != Some(&event_stream) {
        return response;
    }
    response.map(|body| {
        Body::new(ProbingBody {
            body,
            exchange,
            alarm: None,
        })
    })
}

/// An event stream with comments in its pauses once the client has closed its side.
struct ProbingBody {
    body: Body,
    exchange: Exchange,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for ProbingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.alarm = None;
            return Poll::Ready(frame);
        }
        // The watcher that notices the end runs in this task, and so wakes it.
        if !self.exchange.has_ended() {
            return Poll::Pending;
        }
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(PROBE_INTERVAL)));
        if alarm.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.alarm = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PROBE_COMMENT)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tower::service_fn;

    /// A stream with one event and then nothing, told on this exchange.
    async fn silent_stream(exchange: &Exchange) -> Body {
        let service = service_fn(|_: Request<()>| async {
            let event = stream::iter([Ok::<_, std::convert::Infallible>("data: 1\n\n")]);
            let events = futures_util::StreamExt::chain(event, stream::pending());
            let head = [(header::CONTENT_TYPE, "text/event-stream")];
            Ok::<_, std::convert::Infallible>((head, Body::from_stream(events)).into_response())
        });
        let service = ExchangeService::new(service, exchange.clone());
        let response = service.oneshot(Request::new(())).await.expect("an answer");
        response.into_body()
    }

    async fn next(body: &mut Body) -> Bytes {
        let frame = body.frame().await.expect("more").expect("no error");
        frame.into_data().expect("data")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_asks_only_whoever_closed_its_side() {
        let exchange = Exchange::default();
        let mut body = silent_stream(&exchange).await;
        assert_eq!(next(&mut body).await, "data: 1\n\n");
        let waiting = tokio::time::timeout(60 * PROBE_INTERVAL, next(&mut body)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        exchange.end();
        let began = tokio::time::Instant::now();
        assert_eq!(next(&mut body).await, PROBE_COMMENT);
        assert_eq!(next(&mut body).await, PROBE_COMMENT);
        assert_eq!(began.elapsed(), 2 * PROBE_INTERVAL);
    }

    #[tokio::test]
    async fn stages_follow_a_request() {
        let exchange = Exchange::default();
        assert_eq!(exchange.stage(), ExchangeStage::Waiting);
        let seen = exchange.clone();
        let service = service_fn(move |_: Request<()>| {
            let stage = seen.stage();
            async move { Ok::<_, std::convert::Infallible>(format!("{stage:?}").into_response()) }
        });
        for (version, stage) in [
            (Version::HTTP_11, "Computing"),
            (Version::HTTP_10, "ComputingUnprobed"),
        ] {
            let mut request = Request::new(());
            *request.version_mut() = version;
            let service = ExchangeService::new(service.clone(), exchange.clone());
            let response = service.oneshot(request).await.expect("an answer");
            let body = response.into_body().collect().await.expect("a body");
            assert_eq!(body.to_bytes(), stage);
            assert_eq!(exchange.stage(), ExchangeStage::Sending);
        }
    }
}
