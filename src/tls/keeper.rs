//! Holds what the server speaks TLS with, and follows its files: a renewed certificate serves new connections, and those
//! that are open go on with the old one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::{IntCounterVec, IntGauge, Opts};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::file_stamp::FileFollower;
use crate::sync::{Mutex, RwLock};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::MetricsError;

use super::certificate::CertificateFacts;
use super::server_config::{LoadedTls, TlsFiles, TlsFilesError, TlsStamps};

/// How often the files are looked at. A change is read at the second look that sees it.
const INTERVAL: Duration = Duration::from_secs(1);
/// From so many days before its end a certificate is announced to end.
const ANNOUNCED_DAYS: i64 = 30;
/// How often it is announced.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// In a connection.
    Done,
    /// With an error, or the client left.
    Failed,
    /// The client took too long.
    TimedOut,
    /// It was none: the client spoke HTTP without TLS.
    Plain,
}

impl Handshake {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::TimedOut, Self::Plain];

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Plain => "plain",
        }
    }
}

/// The series about TLS, which are there where TLS is.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    expiry: IntGauge,
    reload_failed: IntGauge,
    handshakes: IntCounterVec,
}

impl TlsMetrics {
    /// Shows them.
    ///
    /// # Errors
    /// [`MetricsError`] on a defect of the names below.
    pub fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let shown = Self {
            expiry: IntGauge::with_opts(options(
                "tls_certificate_expiry_timestamp_seconds",
                "When the server's certificate ends, in seconds since 1970.",
            ))?,
            reload_failed: IntGauge::with_opts(options(
                "tls_reload_failed",
                "1 while the files for TLS have changed and cannot be used, so that the certificate before them is served on.",
            ))?,
            handshakes: IntCounterVec::new(
                options(
                    "tls_handshakes_total",
                    "Handshakes of TLS by their result: ok, failed (an error, or the client left), timeout, plain (the client spoke HTTP without TLS).",
                ),
                &["result"],
            )?,
        };
        for result in Handshake::ALL {
            shown.handshakes.with_label_values(&[result.as_str()]);
        }
        metrics.register(Box::new(shown.expiry.clone()))?;
        metrics.register(Box::new(shown.reload_failed.clone()))?;
        metrics.register(Box::new(shown.handshakes.clone()))?;
        Ok(shown)
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("edgellm")
}

/// What the server speaks TLS with.
#[derive(Debug)]
pub struct TlsKeeper {
    files: TlsFiles,
    current: RwLock<Arc<LoadedTls>>,
    follower: Mutex<FileFollower<TlsStamps>>,
    metrics: TlsMetrics,
}

impl TlsKeeper {
    /// Reads the files.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    pub fn open(files: TlsFiles, metrics: TlsMetrics) -> Result<Self, TlsFilesError> {
        // Looked at before they are read: a change meanwhile is seen at the next look.
        let stamps = files.look();
        let loaded = files.load()?;
        metrics.expiry.set(loaded.facts.not_after.as_second());
        Ok(Self {
            files,
            current: RwLock::new(Arc::new(loaded)),
            follower: Mutex::new(FileFollower::new(stamps)),
            metrics,
        })
    }

    /// The names that stand in the certificate.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.current.read().facts.names.clone()
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When that fails.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config());
        acceptor.accept(stream).await
    }

    /// Counts how a handshake ended.
    pub fn count(&self, handshake: Handshake) {
        let handshakes = &self.metrics.handshakes;
        handshakes.with_label_values(&[handshake.as_str()]).inc();
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().config)
    }

    /// Looks whether the files have changed, and reads them if they have stayed the same since the look before. What
    /// cannot be used changes nothing. Returns whether there is another certificate.
    ///
    /// # Errors
    /// What is wrong with the files, once for each new problem.
    fn look(&self) -> Result<bool, TlsFilesError> {
        let mut follower = self.follower.lock();
        let stamps = self.files.look();
        if !follower.is_to_be_read(stamps) {
            if follower.is_current(stamps) {
                self.metrics.reload_failed.set(0);
            }
            return Ok(false);
        }
        match self.files.load() {
            Ok(loaded) => {
                self.metrics.expiry.set(loaded.facts.not_after.as_second());
                self.metrics.reload_failed.set(0);
                *self.current.write() = Arc::new(loaded);
                follower.took(stamps);
                Ok(true)
            }
            Err(error) => {
                self.metrics.reload_failed.set(1);
                if follower.is_news(&error.to_string()) {
                    return Err(error);
                }
                Ok(false)
            }
        }
    }

    /// Says when the certificate ends soon, or has ended.
    fn announce(&self, now: Timestamp) {
        let current = Arc::clone(&self.current.read());
        let file = self.files.certificate.display();
        if let Some(note) = expiry_note(&current.facts, now) {
            tracing::warn!("server.tls_cert {file}: {note}");
        }
    }
}

/// What there is to say about the time of a certificate. It is served in any case: clients decide, and their clocks may be
/// right where this one is wrong.
fn expiry_note(facts: &CertificateFacts, now: Timestamp) -> Option<String> {
    let days = facts.days_left(now);
    if now < facts.not_before {
        return Some(format!(
            "the certificate is good from {} on, which is still to come: is the clock of this machine right?",
            facts.not_before
        ));
    }
    if days < 0 {
        return Some(format!(
            "the certificate ended at {}: clients refuse it until it is renewed; it is served on",
            facts.not_after
        ));
    }
    (days < ANNOUNCED_DAYS).then(|| {
        format!(
            "the certificate ends in {days} days, at {}: renew it, the new one is taken without a restart",
            facts.not_after
        )
    })
}

/// Looks at the files for ever; `renewed` is told the names of each certificate that comes into use.
pub async fn watch(keeper: Arc<TlsKeeper>, renewed: impl Fn(Vec<String>) + Send + Sync) {
    let mut announced = None;
    loop {
        // By a clock that nobody sets.
        let now = tokio::time::Instant::now();
        if announced.is_none_or(|last| now.duration_since(last) >= ANNOUNCE_INTERVAL) {
            announced = Some(now);
            keeper.announce(Timestamp::now());
        }
        tokio::time::sleep(INTERVAL).await;
        let looking = Arc::clone(&keeper);
        // A disk may take its time.
        match tokio::task::spawn_blocking(move || looking.look()).await {
            Ok(Ok(true)) => {
                tracing::info!(
                    names = keeper.names().join(","),
                    ends = %keeper.current.read().facts.not_after,
                    "new connections get the certificate that was put in place"
                );
                announced = None;
                renewed(keeper.names());
            }
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::error!(
                    "{error}; new connections get the certificate that was there before"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn write_pair(folder: &std::path::Path, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("names");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let certificate = params.self_signed(&key).expect("signed");
        std::fs::write(folder.join("cert.pem"), certificate.pem()).expect("written");
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("written");
    }

    fn keeper(folder: &std::path::Path) -> TlsKeeper {
        let files = TlsFiles {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            client_authorities: None,
            requires_client: false,
        };
        let metrics = Metrics::new().expect("metrics");
        let metrics = TlsMetrics::new(&metrics).expect("metrics");
        TlsKeeper::open(files, metrics).expect("sound")
    }

    #[test]
    fn a_renewed_pair_is_taken_at_the_second_look_and_half_of_one_never() {
        let folder = tempfile::tempdir().expect("a folder");
        write_pair(folder.path(), "old.local");
        let keeper = keeper(folder.path());
        let old_key = std::fs::read(folder.path().join("key.pem")).expect("there");
        write_pair(folder.path(), "new.local");
        let new_key = std::fs::read(folder.path().join("key.pem")).expect("there");
        std::fs::write(folder.path().join("key.pem"), old_key).expect("written");
        assert_eq!(keeper.look(), Ok(false));
        let error = keeper.look().expect_err("they are no pair").to_string();
        assert!(error.contains("not the key of the certificate"), "{error}");
        assert_eq!(keeper.look(), Ok(false), "told once");
        assert_eq!(keeper.metrics.reload_failed.get(), 1);
        assert_eq!(keeper.names(), ["old.local"]);
        std::fs::write(folder.path().join("key.pem"), new_key).expect("written");
        assert_eq!(keeper.look(), Ok(false));
        assert_eq!(keeper.look(), Ok(true));
        assert_eq!(keeper.metrics.reload_failed.get(), 0);
        assert_eq!(keeper.names(), ["new.local"]);
    }

    #[test]
    fn files_that_are_gone_change_nothing_and_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        write_pair(folder.path(), "old.local");
        let keeper = keeper(folder.path());
        let key = folder.path().join("key.pem");
        std::fs::rename(&key, folder.path().join("aside.pem")).expect("moved");
        assert_eq!(keeper.look(), Ok(false));
        assert!(keeper.look().is_err());
        assert_eq!(keeper.names(), ["old.local"]);
        std::fs::rename(folder.path().join("aside.pem"), &key).expect("moved");
        assert_eq!((keeper.look(), keeper.look()), (Ok(false), Ok(true)));
        assert_eq!(keeper.metrics.reload_failed.get(), 0);
    }

    #[test]
    fn an_end_is_announced_thirty_days_before() {
        let folder = tempfile::tempdir().expect("a folder");
        write_pair(folder.path(), "box.local");
        let facts = keeper(folder.path()).current.read().facts.clone();
        for (now, words) in [
            (
                "2025-12-31T00:00:00Z",
                Some("is the clock of this machine right"),
            ),
            ("2026-06-01T00:00:00Z", None),
            ("2026-12-01T23:59:59Z", None),
            ("2026-12-02T00:00:01Z", Some("ends in 29 days")),
            ("2027-01-02T00:00:00Z", Some("it is served on")),
        ] {
            let note = expiry_note(&facts, now.parse().expect("a moment"));
            match (note, words) {
                (Some(note), Some(words)) => assert!(note.contains(words), "{note}"),
                (note, words) => assert_eq!(note.as_deref(), words, "{now}"),
            }
        }
    }
}
