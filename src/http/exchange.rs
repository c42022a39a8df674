//! How far the requests of a connection are, for whoever has to know: the watcher of its socket, and a shutdown.
//!
//! # Clients that close their own side of a connection and wait for the answer
//!
//! Their sockets look like those of clients that have left. Only a write tells them apart: the system of a
//! client that has left answers it with a reset. So such a client is probed: while an answer is computed,
//! with HTTP's `100 Continue`, which every client skips, and while a stream is silent, with a comment.
//!
//! HTTP/1.0 has no `100 Continue`. There, a client that closes its side counts as gone; nginx, which speaks
//! HTTP/1.0 to its upstream servers, means it that way.
//!
//! # Requests that were sent before a shutdown
//!
//! A request gets its [`DrainGuard`] when its head is read, however long its body takes, and gives it back
//! when its answer is out. Pipelined requests behind it may be read only then, perhaps after the drain was
//! closed. So the connection keeps the guard until a read finds nothing more, and whatever is read until then
//! comes in by it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;
use tower::Service;

use crate::admission::{Drain, DrainGuard};
use crate::sync::{Mutex, MutexGuard};

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
    /// Whether a request is being read or answered.
    is_open: AtomicBool,
    /// Lets requests in that are pipelined behind one that came in.
    drain_guard: Mutex<Option<DrainGuard>>,
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

    /// Records that everything that the client has sent so far was read.
    pub(crate) fn has_read_all(&self) {
        if !self.0.is_open.load(Ordering::Relaxed) {
            self.drain_guard().take();
        }
    }

    /// Begins with a request whose head was read. Returns what makes a shutdown wait for it, unless it came
    /// too late.
    fn open(&self, drain: &Drain) -> Option<DrainGuard> {
        self.0.is_open.store(true, Ordering::Relaxed);
        let mut kept = self.drain_guard();
        let guard = drain.enter().or_else(|| kept.take());
        kept.clone_from(&guard);
        guard
    }

    fn close(&self) {
        self.0.is_open.store(false, Ordering::Relaxed);
    }

    fn drain_guard(&self) -> MutexGuard<'_, Option<DrainGuard>> {
        self.0.drain_guard.lock()
    }
}

const COMPUTING: u8 = 1;
const COMPUTING_UNPROBED: u8 = 2;
const SENDING: u8 = 3;

/// A service that records in an [`Exchange`] how far its requests are, and gives them their drain guards.
#[derive(Debug, Clone)]
pub(crate) struct ExchangeService<S> {
    service: S,
    exchange: Exchange,
    drain: Drain,
}

impl<S> ExchangeService<S> {
    pub(crate) fn new(service: S, exchange: Exchange, drain: Drain) -> Self {
        Self {
            service,
            exchange,
            drain,
        }
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = self.exchange.clone();
        let drain_guard = exchange.open(&self.drain);
        if let Some(guard) = &drain_guard {
            request.extensions_mut().insert(guard.clone());
        }
        exchange.enter(match request.version() {
            Version::HTTP_09 | Version::HTTP_10 => COMPUTING_UNPROBED,
            _ => COMPUTING,
        });
        let answer = self.service.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            exchange.enter(SENDING);
            if drain_guard.is_none() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            let event_stream = HeaderValue::from_static("text/event-stream");
            let probes = response.headers().get(header::CONTENT_TYPE) == Some(&event_stream);
            Ok(response.map(|body| {
                Body::new(ExchangeBody {
                    body,
                    probes,
                    alarm: None,
                    exchange,
                    _drain_guard: drain_guard,
                })
            }))
        })
    }
}

/// The body of an answer, which ends the exchange when it is dropped.
struct ExchangeBody {
    body: Body,
    /// Whether it is an event stream: then there are comments in its pauses once the client has closed its
    /// side.
    probes: bool,
    alarm: Option<Pin<Box<Sleep>>>,
    exchange: Exchange,
    _drain_guard: Option<DrainGuard>,
}

impl Drop for ExchangeBody {
    fn drop(&mut self) {
        self.exchange.close();
    }
}

impl HttpBody for ExchangeBody {
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
        if !self.probes || !self.exchange.has_ended() {
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

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
        let service = ExchangeService::new(service, exchange.clone(), Drain::default());
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

    /// Asks and returns the answer, whose body is not read yet: the drain guards that the request came with.
    async fn ask(exchange: &Exchange, drain: &Drain) -> Response<Body> {
        let service = service_fn(|request: Request<()>| async move {
            let came_in = request.extensions().get::<DrainGuard>().is_some();
            Ok::<_, std::convert::Infallible>(came_in.to_string().into_response())
        });
        let service = ExchangeService::new(service, exchange.clone(), drain.clone());
        service.oneshot(Request::new(())).await.expect("an answer")
    }

    async fn came_in(answer: Response<Body>) -> bool {
        let body = answer.into_body().collect().await.expect("a body");
        body.to_bytes() == "true"
    }

    #[tokio::test]
    async fn what_is_pipelined_behind_a_request_comes_in_with_it() {
        let (exchange, drain) = (Exchange::default(), Drain::default());
        let first = ask(&exchange, &drain).await;
        drain.close();
        // Reading its body, the server found nothing more; that says nothing of the requests behind it.
        exchange.has_read_all();
        assert!(came_in(first).await);
        let second = ask(&exchange, &drain).await;
        assert!(second.headers().get(header::CONNECTION).is_none());
        assert!(came_in(second).await);
        assert_eq!(drain.inside(), 1, "the connection may have more");
        exchange.has_read_all();
        assert_eq!(drain.inside(), 0);
        let late = ask(&exchange, &drain).await;
        assert_eq!(late.headers()[header::CONNECTION], "close");
        assert!(!came_in(late).await);
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
            let service = ExchangeService::new(service.clone(), exchange.clone(), Drain::default());
            let response = service.oneshot(request).await.expect("an answer");
            let body = response.into_body().collect().await.expect("a body");
            assert_eq!(body.to_bytes(), stage);
            assert_eq!(exchange.stage(), ExchangeStage::Sending);
        }
    }
}
