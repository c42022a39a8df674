//! A client's socket, shared between hyper and who watches whether the client is still there.
//!
//! While it answers, hyper looks for the end of a connection only as long as nothing lies in its
//! buffer: after a byte too many behind a request, such as the line break that some clients send, it
//! would compute for a client that has left.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What lies unread is looked behind this often, and who sends nothing more has so long for an answer
/// that takes no time.
const GLANCE: Duration = Duration::from_millis(100);

/// All its clones belong into one task: a socket wakes one.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<Mutex<TcpStream>>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Resolves a moment after the client has closed its side, with nothing before that left to be read.
    pub(super) async fn left(self) {
        while self.holds_bytes().await {
            tokio::time::sleep(GLANCE).await;
        }
        tokio::time::sleep(GLANCE).await;
    }

    /// Waits for something to read; false is the end.
    async fn holds_bytes(&self) -> bool {
        let mut byte = [0];
        let peeked = poll_fn(|context| {
            self.stream()
                .poll_peek(context, &mut ReadBuf::new(&mut byte))
        });
        peeked.await.is_ok_and(|count| count > 0)
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(context)
    }
}
