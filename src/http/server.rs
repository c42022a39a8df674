//! The accept loop. `axum::serve` gives hyper no timer, so slow headers would
//! hold a connection for ever; here every stage of a connection is bounded:
//! their number, in all and from one address, the time for headers, the time for which an answer may wait to
//! be read.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::AddExtension;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Layer;

use crate::admission::{ClientId, Drain};
use crate::telemetry::Metrics;

use crate::http::connections::ConnectionCounts;
use crate::http::exchange::{Exchange, ExchangeService};
use crate::http::peer::Peer;
use crate::http::socket::Socket;
use crate::http::turned_away::{Doorkeeper, MOST_TOLD_AT_ONCE};

/// Files that are open beside connections, with room: models, sensors, the runtime's own.
const OTHER_FILES: usize = 96 + MOST_TOLD_AT_ONCE;

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
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Connections open at once; more wait in the system's backlog.
    pub max_connections: usize,
    /// Connections open at once from one address; more are told so and closed.
    pub max_connections_per_address: usize,
    /// Time for the headers of a request.
    pub header_timeout: Duration,
    /// Time for which a client may let its answer wait, in all; what it reads wins some of it back.
    pub write_timeout: Duration,
}

/// A bound socket, not yet accepting.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    options: ServerOptions,
    backlog_is_empty: watch::Sender<bool>,
}

impl Server {
    /// Binds `address`.
    ///
    /// # Errors
    /// Such as the address being in use.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            options,
            backlog_is_empty: watch::Sender::new(true),
        })
    }

    /// Where it listens; the port that was chosen when 0 was asked for.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Tells whether all clients that have connected are accepted. They are not while as many as may be
    /// connected are.
    #[must_use]
    pub fn backlog_is_empty(&self) -> watch::Receiver<bool> {
        self.backlog_is_empty.subscribe()
    }

    /// Accepts until `stop` resolves, then lets open connections finish the
    /// request that they are in, for `farewell` at most.
    pub async fn serve(
        self,
        router: Router,
        drain: Drain,
        metrics: Metrics,
        stop: impl Future<Output = ()>,
        farewell: Duration,
    ) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.options.max_connections));
        let counts = ConnectionCounts::new(self.options.max_connections_per_address);
        let mut doorkeeper = Doorkeeper::new(metrics);
        let mut stop = std::pin::pin!(stop);
        loop {
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = self.accept(&places) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(counted) = counts.open(peer.ip()) else {
                doorkeeper.turn_away(stream);
                continue;
            };
            // Tokens are small and must not wait for more.
            let _ = stream.set_nodelay(true);
            let exchange = Exchange::default();
            let socket = Socket::new(stream, self.options.write_timeout, exchange.clone());
            let service = Extension(ClientId::of(peer)).layer(router.clone());
            let service = Extension(Peer::Address(peer)).layer(service);
            let service = ExchangeService::new(service, exchange, drain.clone());
            let connection = connection(socket.clone(), service, self.options);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    // A client that breaks off or breaks the protocol concerns only itself.
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    },
                    () = socket.left() => {}
                }
                drop((place, counted));
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(farewell, graceful.shutdown()).await;
    }

    /// Waits until one more may be connected, and accepts a connection.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> (
        Option<OwnedSemaphorePermit>,
        std::io::Result<(TcpStream, SocketAddr)>,
    ) {
        // The semaphore is never closed.
        let place = Arc::clone(places).acquire_owned().await.ok();
        let accepted = poll_fn(|context| {
            let accepted = self.listener.poll_accept(context);
            self.backlog_is_empty.send_if_modified(|is_empty| {
                let was_empty = std::mem::replace(is_empty, accepted.is_pending());
                was_empty != *is_empty
            });
            accepted
        });
        (place, accepted.await)
    }
}

/// Bytes of a request's head at most; also what a connection buffers.
const LARGEST_HEAD: usize = 64 << 10;

/// All routes, told who asks.
type Service = ExchangeService<AddExtension<AddExtension<Router, ClientId>, Peer>>;

fn connection(
    socket: Socket,
    service: Service,
    options: ServerOptions,
) -> http1::Connection<TokioIo<Socket>, TowerToHyperService<Service>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(LARGEST_HEAD)
        // Whoever closes only its own side wants its answer; who has left is for the socket to notice.
        .half_close(true)
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
