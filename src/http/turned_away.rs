//! Connections that the server does not serve, because their address has too many already.
//!
//! Their clients are told so. Whoever closes a connection on which bytes are unread resets it, and the client
//! may lose the answer; so the request is read and thrown away, for a short time.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::admission::{AdmissionRefusal, RefusalReason};
use crate::telemetry::Metrics;

use super::error::ApiError;
use super::listener::Accepted;

/// Connections that are told so with patience at the same time.
pub(super) const MOST_TOLD_AT_ONCE: usize = 128;
/// How long a client may take to begin with its request, and then to end with it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How much of its request is read.
const LONGEST_REQUEST: u64 = 1 << 20;
/// Between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Turns connections away.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    answer: Arc<str>,
    places: Arc<Semaphore>,
    metrics: Metrics,
    last_logged: Option<Instant>,
}

impl Doorkeeper {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            answer: answer(&ApiError::Refused(AdmissionRefusal::too_many_connections())).into(),
            places: Arc::new(Semaphore::new(MOST_TOLD_AT_ONCE)),
            metrics,
            last_logged: None,
        }
    }

    /// Tells the client that it has too many connections, and closes this one. Where it would have to be told in TLS it is
    /// closed without a word: shaking hands with whoever has too many is what it wants.
    pub(super) fn turn_away(&mut self, accepted: Accepted, is_tls: bool) {
        let reason = RefusalReason::TooManyConnections.as_str();
        self.metrics.request_rejected("", reason);
        if self.may_log() {
            tracing::warn!(
                address = %accepted.peer(),
                "an address has as many connections as server.max_connections_per_address allows: \
                 further ones are refused (this is logged once a minute at most)"
            );
        }
        let Accepted::Tcp(stream, _) = accepted else {
            return;
        };
        if is_tls {
            return;
        }
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                let answer = Arc::clone(&self.answer);
                tokio::spawn(async move {
                    // A client that breaks off concerns only itself.
                    let _ = tell(stream, &answer).await;
                    drop(place);
                });
            }
            Err(_) => tell_at_once(stream, &self.answer),
        }
    }

    /// The system gives no further connection.
    pub(super) fn could_not_accept(&mut self, error: &std::io::Error) {
        if self.may_log() {
            tracing::warn!(%error, "could not accept a connection (this is logged once a minute at most)");
        }
    }

    fn may_log(&mut self) -> bool {
        let may_log = self
            .last_logged
            .is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if may_log {
            self.last_logged = Some(Instant::now());
        }
        may_log
    }
}

/// Tells a client that speaks HTTP at a port for TLS how to ask.
pub(super) async fn tell_about_tls(stream: TcpStream) {
    // A client that breaks off concerns only itself.
    let _ = tell(stream, &answer(&ApiError::PlainHttp)).await;
}

/// Answers without waiting for anything. A client reads it if its request has come already.
fn tell_at_once(stream: TcpStream, answer: &str) {
    // The runtime does not know yet whether it is readable; the system does, and does not wait either.
    let Ok(mut stream) = stream.into_std() else {
        return;
    };
    // Whoever floods the server may miss the answer.
    let _ = stream.read(&mut [0; 16 << 10]);
    let _ = stream.write(answer.as_bytes());
}

/// The whole response of an error, as it is written to a socket.
/// Writes the answer by hand. It has none of the headers for pages of [`super::browsers`]: nobody has read who asks.
fn answer(error: &ApiError) -> String {
    let body = error.body().to_string();
    let retry_after = error
        .retry_after_seconds()
        .map_or(String::new(), |after| format!("retry-after: {after}\r\n"));
    format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{retry_after}\
         connection: close\r\n\r\n{body}",
        error.status(),
        body.len()
    )
}

/// Answers once the client has begun with its request (some clients take an earlier answer for an error), and
/// waits for it to close.
async fn tell(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let begun = tokio::time::timeout(LONGEST_PAUSE, stream.readable()).await;
    if let Ok(readable) = begun {
        readable?;
    }
    let telling = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut request = stream.take(LONGEST_REQUEST);
        tokio::io::copy(&mut request, &mut tokio::io::sink()).await
    };
    tokio::time::timeout(LONGEST_PAUSE, telling).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn when_many_are_told_further_ones_are_told_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut doorkeeper = Doorkeeper::new(Metrics::new().expect("metrics"));
        let _told = Arc::clone(&doorkeeper.places)
            .acquire_many_owned(u32::try_from(MOST_TOLD_AT_ONCE).expect("few"))
            .await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        client
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("sent");
        let (stream, peer) = listener.accept().await.expect("accepted");
        doorkeeper.turn_away(Accepted::Tcp(stream, peer), false);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("no reset");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }

    #[tokio::test]
    async fn a_client_reads_why_it_is_turned_away_whatever_it_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let metrics = Metrics::new().expect("metrics");
        let mut doorkeeper = Doorkeeper::new(metrics.clone());
        let request = "POST / HTTP/1.1\r\ncontent-length: 300000\r\n\r\n".to_owned();
        for request in [String::new(), request + &" ".repeat(300_000)] {
            let mut client = TcpStream::connect(address).await.expect("connected");
            let (stream, peer) = listener.accept().await.expect("accepted");
            doorkeeper.turn_away(Accepted::Tcp(stream, peer), false);
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("no reset");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
            for header in ["retry-after: 5", "connection: close"] {
                assert!(head.lines().any(|line| line == header), "{head}");
            }
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(body["error"]["type"], "overloaded_error");
            assert_eq!(body["error"]["code"], "too_many_connections");
        }
        let (text, _) = metrics.encode().expect("text");
        let text = String::from_utf8(text).expect("text");
        let counted =
            "edgellm_requests_rejected_total{model=\"\",reason=\"too_many_connections\"} 2";
        assert!(text.contains(counted), "{text}");
    }
}
