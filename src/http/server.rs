//! The accept loops. `axum::serve` gives hyper no timer, so slow headers would
//! hold a connection for ever; here every stage of a connection is bounded:
//! their number, in all and from one address, the time for a handshake and for headers, the time for which an answer may
//! wait to be read.
//!
//! Clients and operators have a loop each where operators have a listener of their own, so that they come in however many
//! clients there are.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::future::RouteFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;

use crate::admission::{ClientId, Drain};
use crate::config::TrustedProxy;
use crate::telemetry::Metrics;
use crate::tls::{ClientCertificate, Handshake, TlsKeeper};

use crate::http::connections::{ConnectionCounts, OpenConnection};
use crate::http::exchange::{Exchange, ExchangeService};
use crate::http::forwarded::TrustedProxies;
use crate::http::listener::{Accepted, Listener, Listeners};
use crate::http::peer::{Audience, Peer};
use crate::http::socket::Socket;
use crate::http::transport::Transport;
use crate::http::turned_away::{self, Doorkeeper, MOST_TOLD_AT_ONCE};

/// Files that are open beside connections, with room: models, sensors, the runtime's own.
const OTHER_FILES: usize = 96 + MOST_TOLD_AT_ONCE + OPERATOR_CONNECTIONS;
/// Connections of operators open at once, where they have a listener of their own.
const OPERATOR_CONNECTIONS: usize = 64;

/// How many of the `wanted` connections the system lets this process have. Most systems begin with
/// 1,024 open files and allow more to who asks; beyond that even sensors could not be read.
#[must_use]
pub fn affordable_connections(wanted: usize) -> usize {
    let files = wanted.saturating_add(OTHER_FILES);
    let Ok(limit) = rlimit::increase_nofile_limit(files as u64) else {
        return wanted;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit >= files {
        return wanted;
    }
    let affordable = limit.saturating_sub(OTHER_FILES).max(1);
    tracing::warn!(
        "this process may open {limit} files, which is enough for {affordable} connections; for the \
         {wanted} of server.max_connections raise its limit (ulimit -n, LimitNOFILE of systemd)"
    );
    affordable
}

/// Bounds of a connection.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections open at once; more wait in the system's backlog.
    pub max_connections: usize,
    /// Connections open at once from one address; more are told so and closed.
    pub max_connections_per_address: usize,
    /// Time for a handshake, and for the headers of a request.
    pub header_timeout: Duration,
    /// Time for which a client may let its answer wait, in all; what it reads wins some of it back.
    pub write_timeout: Duration,
    /// Who may have as many connections as it likes, because there are many clients behind it.
    pub trusted_proxies: Vec<TrustedProxy>,
}

/// When a server stops.
#[derive(Debug, Clone)]
pub struct ServerStops {
    /// True from when no new clients are to be served: sockets that another process takes over are no longer accepted
    /// from then on, and connections that are idle are closed, so that their clients go to that process.
    pub handing_over: watch::Receiver<bool>,
    /// Time for requests that were sent before that to be read.
    pub settling: Duration,
    /// True from when nothing is to be served any more.
    pub stopping: watch::Receiver<bool>,
    /// Time that open connections then have to end.
    pub farewell: Duration,
}

/// Sockets that are bound and not yet accepting.
#[derive(Debug)]
pub struct Server {
    clients: Entrance,
    operators: Option<Entrance>,
}

/// Sockets whose connections come in one after the other, and what they are served with.
#[derive(Debug)]
struct Entrance {
    listeners: Vec<Listener>,
    audience: Audience,
    most_connections: usize,
    most_per_address: usize,
    options: Arc<ServerOptions>,
    tls: Option<Arc<TlsKeeper>>,
    backlog_is_empty: watch::Sender<bool>,
    /// The listener that is asked first, so that none waits for another.
    first: usize,
}

/// What a connection is served with.
struct Serving {
    router: Router,
    drain: Drain,
    options: Arc<ServerOptions>,
    audience: Audience,
    tls: Option<Arc<TlsKeeper>>,
}

impl Server {
    /// Serves on `listeners`, with `tls` where they speak it.
    #[must_use]
    pub fn new(listeners: Listeners, tls: Option<&Arc<TlsKeeper>>, options: ServerOptions) -> Self {
        let options = Arc::new(options);
        let entrance =
            |listeners, audience, [most_connections, most_per_address]: [usize; 2]| Entrance {
                listeners,
                audience,
                most_connections,
                most_per_address,
                options: Arc::clone(&options),
                tls: tls.cloned(),
                backlog_is_empty: watch::Sender::new(true),
                first: 0,
            };
        let most = [options.max_connections, options.max_connections_per_address];
        let Listeners { clients, operators } = listeners;
        if operators.is_empty() {
            return Self {
                clients: entrance(clients, Audience::Everybody, most),
                operators: None,
            };
        }
        Self {
            clients: entrance(clients, Audience::Clients, most),
            operators: Some(entrance(
                operators,
                Audience::Operators,
                // One address never has all of them.
                [OPERATOR_CONNECTIONS, OPERATOR_CONNECTIONS / 2],
            )),
        }
    }

    /// Tells whether all clients that have connected are accepted. They are not while as many as may be
    /// connected are.
    #[must_use]
    pub fn backlog_is_empty(&self) -> watch::Receiver<bool> {
        self.clients.backlog_is_empty.subscribe()
    }

    /// Accepts until it is to stop, then lets open connections finish the request that they are in.
    pub async fn serve(self, router: Router, drain: Drain, metrics: Metrics, stops: ServerStops) {
        let clients = (self.clients).serve(
            router.clone(),
            drain.clone(),
            metrics.clone(),
            stops.clone(),
        );
        match self.operators {
            Some(operators) => {
                tokio::join!(clients, operators.serve(router, drain, metrics, stops));
            }
            None => clients.await,
        }
    }
}

impl Entrance {
    async fn serve(
        mut self,
        router: Router,
        drain: Drain,
        metrics: Metrics,
        mut stops: ServerStops,
    ) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.most_connections));
        let counts = ConnectionCounts::new(self.most_per_address);
        let proxies = TrustedProxies::new(&self.options.trusted_proxies);
        let mut doorkeeper = Doorkeeper::new(metrics);
        let serving = Arc::new(Serving {
            router,
            drain,
            options: Arc::clone(&self.options),
            audience: self.audience,
            tls: self.tls.clone(),
        });
        let mut handing_over = stops.handing_over.clone();
        loop {
            let (place, accepted) = tokio::select! {
                () = is_true(&mut stops.stopping) => break,
                () = is_true(&mut handing_over), if self.has_inherited() => {
                    self.hand_over();
                    if self.listeners.is_empty() {
                        break;
                    }
                    continue;
                }
                accepted = self.accept(&places) => accepted,
            };
            let (accepted, is_tls) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    doorkeeper.could_not_accept(&error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let peer = accepted.peer();
            let counted = if proxies.include(peer) {
                None
            } else {
                let Some(counted) = counts.open(peer) else {
                    doorkeeper.turn_away(accepted, is_tls);
                    continue;
                };
                Some(counted)
            };
            let connection = Connection {
                place,
                counted,
                watcher: graceful.watcher(),
                serving: Arc::clone(&serving),
            };
            tokio::spawn(connection.serve(accepted, is_tls));
        }
        self.backlog_is_empty.send_replace(true);
        drop(self.listeners);
        let ended = async {
            if !*stops.stopping.borrow() {
                tokio::time::sleep(stops.settling).await;
            }
            graceful.shutdown().await;
        };
        let mut stopping = stops.stopping.clone();
        tokio::select! {
            () = ended => {}
            () = async {
                is_true(&mut stopping).await;
                tokio::time::sleep(stops.farewell).await;
            } => {}
        }
    }

    fn has_inherited(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_inherited)
    }

    /// Leaves to the next process the sockets that it takes over.
    fn hand_over(&mut self) {
        self.listeners.retain(|listener| !listener.is_inherited);
    }

    /// Waits until one more may be connected, and accepts a connection, of which it says whether it speaks TLS.
    async fn accept(
        &mut self,
        places: &Arc<Semaphore>,
    ) -> (Option<OwnedSemaphorePermit>, io::Result<(Accepted, bool)>) {
        // The semaphore is never closed.
        let place = Arc::clone(places).acquire_owned().await.ok();
        let accepted = poll_fn(|context| {
            let accepted = self.poll_accept(context);
            self.backlog_is_empty.send_if_modified(|is_empty| {
                let was_empty = std::mem::replace(is_empty, accepted.is_pending());
                was_empty != *is_empty
            });
            accepted
        });
        (place, accepted.await)
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Accepted, bool)>> {
        let count = self.listeners.len();
        for index in (0..count).map(|step| (self.first + step) % count) {
            let listener = &self.listeners[index];
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                self.first = index + 1;
                return Poll::Ready(accepted.map(|accepted| (accepted, listener.is_tls)));
            }
        }
        Poll::Pending
    }
}

/// Resolves when it is true, or will never be.
async fn is_true(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|is_true| *is_true).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A connection and what it holds while it is open.
struct Connection {
    place: Option<OwnedSemaphorePermit>,
    counted: Option<OpenConnection>,
    watcher: Watcher,
    serving: Arc<Serving>,
}

impl Connection {
    async fn serve(self, accepted: Accepted, is_tls: bool) {
        let Self {
            place,
            counted,
            watcher,
            serving,
        } = self;
        let peer = accepted.peer();
        let Some((transport, certificate)) = serving.transport(accepted, is_tls).await else {
            return;
        };
        let options = &serving.options;
        let exchange = Exchange::default();
        let socket = Socket::new(transport, options.write_timeout, exchange.clone());
        let introduced = Introduced {
            router: serving.router.clone(),
            peer,
            client: peer.client(),
            audience: serving.audience,
            certificate,
        };
        let service = ExchangeService::new(introduced, exchange, serving.drain.clone());
        let connection = watcher.watch(connection(socket.clone(), service, options));
        tokio::select! {
            // A client that breaks off or breaks the protocol concerns only itself.
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            },
            () = socket.left() => {}
        }
        drop((place, counted));
    }
}

impl Serving {
    /// What carries the bytes, and the certificate of the client if it has one.
    async fn transport(
        &self,
        accepted: Accepted,
        is_tls: bool,
    ) -> Option<(Transport, Option<Arc<ClientCertificate>>)> {
        let stream = match accepted {
            Accepted::Unix(stream) => return Some((Transport::Unix(stream), None)),
            Accepted::Tcp(stream, _) => stream,
        };
        // Tokens are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            Some(tls) if is_tls => self.handshake(tls, stream).await,
            _ => Some((Transport::Tcp(stream), None)),
        }
    }

    async fn handshake(
        &self,
        tls: &TlsKeeper,
        stream: TcpStream,
    ) -> Option<(Transport, Option<Arc<ClientCertificate>>)> {
        let end = tokio::time::Instant::now() + self.options.header_timeout;
        let is_plain = tokio::time::timeout_at(end, speaks_http(&stream)).await;
        if let Ok(true) = is_plain {
            turned_away::tell_about_tls(stream).await;
            tls.count(Handshake::Plain);
            return None;
        }
        let shaken = tokio::time::timeout_at(end, tls.accept(stream)).await;
        tls.count(match &shaken {
            Ok(Ok(_)) => Handshake::Done,
            Ok(Err(_)) => Handshake::Failed,
            Err(_) => Handshake::TimedOut,
        });
        match shaken {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(<[_]>::first);
                let certificate = certificate.and_then(|one| ClientCertificate::from_der(one).ok());
                Some((Transport::Tls(Box::new(stream)), certificate.map(Arc::new)))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }
}

/// Whether a client at a port for TLS begins as one does that does not know so: with a letter of a method.
async fn speaks_http(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first[0].is_ascii_uppercase())
}

/// All routes, told of each request from where it came.
#[derive(Debug, Clone)]
struct Introduced {
    router: Router,
    peer: Peer,
    client: ClientId,
    audience: Audience,
    certificate: Option<Arc<ClientCertificate>>,
}

impl Service<Request<Incoming>> for Introduced {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Incoming>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(self.peer);
        extensions.insert(self.client);
        extensions.insert(self.audience);
        if let Some(certificate) = &self.certificate {
            extensions.insert(Arc::clone(certificate));
        }
        self.router.call(request)
    }
}

/// Bytes of a request's head at most; also what a connection buffers.
const LARGEST_HEAD: usize = 64 << 10;

type Http = http1::Connection<TokioIo<Socket>, TowerToHyperService<ExchangeService<Introduced>>>;

fn connection(
    socket: Socket,
    service: ExchangeService<Introduced>,
    options: &ServerOptions,
) -> Http {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(LARGEST_HEAD)
        // Whoever closes only its own side wants its answer; who has left is for the socket to notice. In TLS nobody closes
        // one side, and some that leave say so there long before their system does.
        .half_close(!socket.is_tls())
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_connections_than_files_may_be_open() {
        assert_eq!(affordable_connections(2), 2);
        let affordable = affordable_connections(usize::MAX);
        let (soft, hard) = rlimit::Resource::NOFILE.get().expect("a limit");
        assert_eq!(soft, hard);
        assert_eq!((affordable + OTHER_FILES) as u64, soft);
    }
}
