//! A client's socket, shared between hyper and a watcher that notices when the client has left.
//!
//! While hyper serves a request, it notices the end of the connection only if its read buffer is empty.
//! After a stray byte behind a request, such as the line break that some clients send, the server would
//! go on computing for a client that has left.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use crate::http::allowance::Allowance;
use crate::http::exchange::{Exchange, ExchangeStage};
use crate::http::transport::Transport;
use crate::sync::{Mutex, MutexGuard};

/// How often a half-closed connection is looked at. It also lets responses that take no time be written
/// before the connection is dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// A client that closed its sending side is first probed after this time, and then at growing intervals up
/// to [`LONGEST_PROBE_INTERVAL`].
const FIRST_PROBE_AFTER: Duration = Duration::from_millis(500);
const LONGEST_PROBE_INTERVAL: Duration = Duration::from_secs(8);
/// Upper bound of the growing interval at which unread bytes are checked for an end of stream after them.
const LONGEST_PEEK_INTERVAL: Duration = Duration::from_secs(1);

/// A handle to the socket. All clones must be polled by one task, because a socket wakes only one.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Arc<Mutex<SocketState>>);

#[derive(Debug)]
struct SocketState {
    transport: Transport,
    /// Whether anything was sent since the watcher last checked.
    sent: bool,
    /// Whether a write is waiting for the client to read.
    blocked: bool,
    /// How long writes may wait.
    allowance: Allowance,
    /// Wakes the writer when the allowance is used up; present while a write waits.
    alarm: Option<Pin<Box<Sleep>>>,
    exchange: Exchange,
}

impl Socket {
    /// Wraps a connection whose client may keep writes waiting for `write_timeout` in all. `exchange` is told
    /// what becomes of it.
    pub(super) fn new(transport: Transport, write_timeout: Duration, exchange: Exchange) -> Self {
        Self(Arc::new(Mutex::new(SocketState {
            transport,
            sent: false,
            blocked: false,
            allowance: Allowance::new(write_timeout),
            alarm: None,
            exchange,
        })))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.lock().transport.is_tls()
    }

    /// Resolves when the client has closed its side and nobody is there to take an answer; see
    /// [`crate::http::exchange`].
    pub(crate) async fn left(self) {
        let exchange = self.lock().exchange.clone();
        let mut glance = POLL_INTERVAL;
        while !self.has_ended().await {
            tokio::time::sleep(glance).await;
            glance = LONGEST_PEEK_INTERVAL.min(2 * glance);
        }
        exchange.end();
        if self.lock().transport.is_tls() {
            // Nobody could ask it without a hand in its records, and clients of TLS close both sides at once.
            return;
        }
        let mut asks = Instant::now() + FIRST_PROBE_AFTER;
        let mut pause = FIRST_PROBE_AFTER;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut watched = self.lock();
            if watched.is_broken() {
                return;
            }
            if std::mem::take(&mut watched.sent) || watched.blocked {
                continue;
            }
            match exchange.stage() {
                ExchangeStage::Waiting | ExchangeStage::ComputingUnprobed => return,
                ExchangeStage::Computing if Instant::now() >= asks => {
                    if !watched.ask() {
                        return;
                    }
                    pause = LONGEST_PROBE_INTERVAL.min(2 * pause);
                    asks = Instant::now() + pause;
                }
                // Streams probe between their events; a whole response is written soon.
                ExchangeStage::Computing | ExchangeStage::Sending => {}
            }
        }
    }

    /// Waits until the socket is readable, and returns whether the client has closed its side, possibly
    /// after bytes that are still unread.
    async fn has_ended(&self) -> bool {
        let holds_bytes = poll_fn(|context| self.lock().transport.poll_peek(context)).await;
        !holds_bytes || self.lock().transport.is_read_closed()
    }

    fn lock(&self) -> MutexGuard<'_, SocketState> {
        self.0.lock()
    }

    fn send(
        &self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut watched = self.lock();
        let result = write(Pin::new(&mut watched.transport), context);
        watched.blocked = result.is_pending();
        watched.sent |= result.is_ready();
        match &result {
            Poll::Ready(Ok(bytes)) => watched.took(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if watched.has_waited_too_long(context) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        result
    }

    /// Sends what is left of earlier writes. With TLS that may wait for the client as a write does; otherwise there is
    /// never anything.
    fn finish(
        &self,
        context: &mut Context<'_>,
        finish: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let mut watched = self.lock();
        let result = finish(Pin::new(&mut watched.transport), context);
        if watched.transport.is_tls() {
            watched.blocked = result.is_pending();
            if result.is_ready() {
                watched.took(0);
            } else if watched.has_waited_too_long(context) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }
}

impl SocketState {
    fn took(&mut self, bytes: usize) {
        self.alarm = None;
        self.allowance.took(bytes, Instant::now());
    }

    /// Whether the other side has reset the connection.
    fn is_broken(&self) -> bool {
        self.transport.is_broken()
    }

    /// Probes the client with a `100 Continue`, which clients skip and the system of a client that has left
    /// answers with a reset. Returns false if it cannot be written. No part of a response may have been
    /// written before.
    fn ask(&self) -> bool {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        matches!(self.transport.try_write(CONTINUE), Ok(count) if count == CONTINUE.len())
    }

    /// Returns whether the allowance is used up, and otherwise arranges for the writer to be woken then.
    fn has_waited_too_long(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.allowance.waits(Instant::now());
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        alarm.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut watched = self.lock();
        let read = Pin::new(&mut watched.transport).poll_read(context, buffer);
        // Without budget, a read is pending whatever there is to read.
        if read.is_pending() && coop::has_budget_remaining() {
            watched.exchange.has_read_all();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send(context, |transport, context| {
            transport.poll_write(context, bytes)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(context, |transport, context| {
            transport.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpSocket, TcpStream};
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// A server's and a client's end of a connection with TLS, with small buffers between them.
    async fn tls_pair() -> (Transport, tokio_rustls::client::TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["box.local".to_owned()]).expect("made");
        let certificate = made.cert.der().clone();
        let key = made.signing_key.serialize_der().try_into().expect("a key");
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a pair");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("added");
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listening = TcpSocket::new_v4().expect("a socket");
        listening.set_send_buffer_size(4096).expect("set");
        listening.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let listener = listening.listen(1).expect("listening");
        let address = listener.local_addr().expect("an address");
        let connecting = TcpSocket::new_v4().expect("a socket");
        connecting.set_recv_buffer_size(4096).expect("set");
        let name = ServerName::try_from("box.local").expect("a name");
        let connector = TlsConnector::from(Arc::new(client));
        let (connected, accepted) = tokio::join!(
            async {
                connector
                    .connect(name, connecting.connect(address).await?)
                    .await
            },
            async {
                TlsAcceptor::from(Arc::new(server))
                    .accept(listener.accept().await?.0)
                    .await
            }
        );
        let accepted: io::Result<_> = accepted;
        let connected: io::Result<_> = connected;
        (
            Transport::Tls(Box::new(accepted.expect("shaken"))),
            connected.expect("shaken"),
        )
    }

    #[tokio::test]
    async fn the_last_records_of_tls_wait_no_longer_than_other_writes() {
        const PATIENCE: Duration = Duration::from_millis(300);
        let (transport, client) = tls_pair().await;
        let mut socket = Socket::new(transport, PATIENCE, Exchange::default());
        // Until what is between them is full, and the rest waits in the records.
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(50), socket.write(&[0; 1024])).await
        {
            written.expect("taken");
        }
        let began = Instant::now();
        let flushed = tokio::time::timeout(10 * PATIENCE, socket.flush()).await;
        let error = flushed.expect("it ends").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= 2 * PATIENCE, "{:?}", began.elapsed());
        drop(client);
    }
}
