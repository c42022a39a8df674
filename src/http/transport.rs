//! What carries the bytes of a connection: TCP, a Unix socket, or TLS above TCP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connection whose handshake, if it has one, is done.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The same for all three.
macro_rules! with_stream {
    ($transport:expr, $stream:ident => $what:expr) => {
        match $transport {
            Transport::Tcp($stream) => $what,
            Transport::Unix($stream) => $what,
            Transport::Tls($stream) => $what,
        }
    };
}

impl Transport {
    /// Waits until bytes or their end have come, and returns whether there are bytes. Of a Unix socket, whose bytes cannot
    /// be looked at without taking them, it says that there are: whether it has ended then tells
    /// [`Transport::is_read_closed`].
    pub(super) fn poll_peek(&self, context: &mut Context<'_>) -> Poll<bool> {
        let stream = match self {
            Self::Unix(stream) => {
                return stream.poll_read_ready(context).map(|ready| ready.is_ok());
            }
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let mut byte = [0];
        let peeked = stream.poll_peek(context, &mut ReadBuf::new(&mut byte));
        peeked.map(|peeked| peeked.is_ok_and(|count| count > 0))
    }

    /// Whether the system has told that the other side sends nothing more, possibly after bytes that are still unread.
    pub(super) fn is_read_closed(&self) -> bool {
        let ready = match self {
            Self::Unix(stream) => stream.ready(Interest::READABLE).now_or_never(),
            Self::Tcp(stream) => stream.ready(Interest::READABLE).now_or_never(),
            Self::Tls(stream) => stream.get_ref().0.ready(Interest::READABLE).now_or_never(),
        };
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }

    /// Whether the other side has reset the connection.
    pub(super) fn is_broken(&self) -> bool {
        let error = match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
            Self::Tls(stream) => stream.get_ref().0.take_error(),
        };
        !matches!(error, Ok(None))
    }

    /// Writes beside the answer that is to come, as far as that is possible without waiting. Never through TLS, whose
    /// records are made elsewhere.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        with_stream!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}
