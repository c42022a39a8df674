//! The accept loop. `axum::serve` gives hyper no timer, so slow headers would
//! hold a connection for ever; here every stage of a connection is bounded:
//! their number, the time for headers, the time for which an answer may wait to be read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::AddExtension;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::Layer;

use crate::admission::ClientId;

use crate::http::exchange::{Exchange, ExchangeService};
use crate::http::socket::Socket;

/// Files that are open beside connections, with room: models, sensors, the runtime's own.
const OTHER_FILES: usize = 96;

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
}

impl Server {
    /// Binds `address`.
    ///
    /// # Errors
    /// Such as the address being in use.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, options })
    }

    /// Where it listens; the port that was chosen when 0 was asked for.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until `stop` resolves, then lets open connections finish the
    /// request that they are in, for `farewell` at most.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>, farewell: Duration) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.options.max_connections));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accept = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accept => accepted,
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
            // Tokens are small and must not wait for more.
            let _ = stream.set_nodelay(true);
            let socket = Socket::new(stream, self.options.write_timeout);
            let service = Extension(ClientId::of(peer)).layer(router.clone());
            let exchange = Exchange::default();
            let service = ExchangeService::new(service, exchange.clone());
            let connection = connection(socket.clone(), service, self.options);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    // A client that breaks off or breaks the protocol concerns only itself.
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    },
                    () = socket.left(exchange) => {}
                }
                drop(place);
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(farewell, graceful.shutdown()).await;
    }
}

/// Bytes of a request's head at most; also what a connection buffers.
const LARGEST_HEAD: usize = 64 << 10;

/// All routes, told who asks.
type Service = ExchangeService<AddExtension<Router, ClientId>>;

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
