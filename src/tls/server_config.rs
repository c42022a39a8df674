//! Reading the files that the server speaks TLS with.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::engine::sandbox_hint;
use crate::file_stamp::FileStamp;

use super::certificate::{CertificateError, CertificateFacts};

/// Chains and bundles of authorities are far smaller.
const MOST_BYTES: u64 = 4 << 20;

/// HTTP/1.1 alone: the bounds of this server, and how it notices that a client has left, are those of a connection. In
/// HTTP/2 each stream would need its own.
const PROTOCOL: &[u8] = b"http/1.1";

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `server.tls_cert`.
    pub certificate: PathBuf,
    /// `server.tls_key`.
    pub key: PathBuf,
    /// `server.tls_client_ca`.
    pub client_authorities: Option<PathBuf>,
    /// `server.tls_require_client`.
    pub requires_client: bool,
}

/// Why the files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {}: {problem}", .file.display())]
pub struct TlsFilesError {
    /// The setting that names the file.
    setting: &'static str,
    file: PathBuf,
    problem: String,
}

/// How the files look from outside.
pub(super) type TlsStamps = [Option<FileStamp>; 3];

/// What was read of the files.
#[derive(Debug)]
pub(super) struct LoadedTls {
    pub(super) config: Arc<ServerConfig>,
    /// Of the server's own certificate.
    pub(super) facts: CertificateFacts,
}

const CERTIFICATE: &str = "server.tls_cert";
const KEY: &str = "server.tls_key";
const CLIENT_AUTHORITIES: &str = "server.tls_client_ca";

impl TlsFiles {
    /// Looks at all files; one that is not there has no stamp, and cannot be read either.
    pub(super) fn look(&self) -> TlsStamps {
        let look = |path: &Path| FileStamp::look(path).ok();
        [
            look(&self.certificate),
            look(&self.key),
            self.client_authorities.as_deref().and_then(look),
        ]
    }

    /// Reads all files.
    pub(super) fn load(&self) -> Result<LoadedTls, TlsFilesError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(CERTIFICATE, &self.certificate)?;
        let facts = CertificateFacts::from_der(&chain[0]);
        let facts =
            facts.map_err(|error| wrong(CERTIFICATE, &self.certificate, error.to_string()))?;
        let key = private_key(&self.key)?;
        let verifier = self.client_verifier(&provider)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(CERTIFICATE, &self.certificate, error.to_string()))?;
        let config = match verifier {
            Some(verifier) => config.with_client_cert_verifier(verifier),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "it is not the key of the certificate in {CERTIFICATE} ({}): put the pair in place that belongs together",
                    self.certificate.display()
                ),
                other => format!("it cannot be used: {other}"),
            };
            wrong(KEY, &self.key, problem)
        })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        if self.client_authorities.is_some() {
            // A session that is taken up again is not held against the client's certificate, which may have ended since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(LoadedTls {
            config: Arc::new(config),
            facts,
        })
    }

    /// What looks at certificates of clients.
    fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsFilesError> {
        let Some(file) = &self.client_authorities else {
            return Ok(None);
        };
        let unusable = |problem: String| wrong(CLIENT_AUTHORITIES, file, problem);
        let mut roots = RootCertStore::empty();
        for authority in certificates(CLIENT_AUTHORITIES, file)? {
            let added = roots.add(authority);
            added.map_err(|error| {
                unusable(format!("a certificate in it is of no authority: {error}"))
            })?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if !self.requires_client {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build();
        Ok(Some(verifier.map_err(|error| unusable(error.to_string()))?))
    }
}

fn wrong(setting: &'static str, file: &Path, problem: String) -> TlsFilesError {
    TlsFilesError {
        setting,
        file: file.to_owned(),
        problem,
    }
}

fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, TlsFilesError> {
    let unreadable = |error: std::io::Error| {
        let remedy = match (error.kind(), sandbox_hint(file, &error)) {
            (std::io::ErrorKind::PermissionDenied, "") => {
                "; the user that runs edgellm must be able to read it"
            }
            (_, hint) => hint,
        };
        wrong(setting, file, format!("cannot be read: {error}{remedy}"))
    };
    // Opening a pipe would wait for somebody who writes.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(wrong(setting, file, "is not a file".to_owned()));
    }
    let mut text = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let read = opened.take(MOST_BYTES + 1).read_to_end(&mut text);
    if read.map_err(unreadable)? as u64 > MOST_BYTES {
        return Err(wrong(
            setting,
            file,
            format!("is larger than {MOST_BYTES} bytes"),
        ));
    }
    Ok(text)
}

/// The certificates of a file, one at least.
fn certificates(
    setting: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let text = read(setting, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| {
        let error = CertificateError::Pem(error.to_string());
        wrong(setting, file, error.to_string())
    })?;
    if found.is_empty() {
        return Err(wrong(setting, file, CertificateError::NoPem.to_string()));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsFilesError> {
    let text = read(KEY, file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = text
            .windows(ENCRYPTED.len())
            .any(|part| part.eq_ignore_ascii_case(ENCRYPTED));
        let problem = if is_encrypted {
            "is encrypted, and nobody is there to type its password: decrypt it with `openssl pkey -in FILE -out FILE`, and \
             keep others from reading it"
                .to_owned()
        } else {
            format!("holds no private key in PEM (-----BEGIN PRIVATE KEY-----): {error}")
        };
        wrong(KEY, file, problem)
    })
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    struct Pair {
        folder: tempfile::TempDir,
    }

    impl Pair {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let pair = Self { folder };
            pair.renew(&["box.local"]);
            pair
        }

        fn renew(&self, names: &[&str]) {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(names).expect("names");
            let certificate = params.self_signed(&key).expect("signed");
            self.write("cert.pem", &certificate.pem());
            self.write("key.pem", &key.serialize_pem());
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).expect("written");
        }

        fn files(&self) -> TlsFiles {
            TlsFiles {
                certificate: self.folder.path().join("cert.pem"),
                key: self.folder.path().join("key.pem"),
                client_authorities: None,
                requires_client: false,
            }
        }

        fn problem(&self, files: &TlsFiles) -> String {
            let error = files.load().expect_err("it is wrong").to_string();
            error.replace(&format!("{}/", self.folder.path().display()), "")
        }
    }

    #[test]
    fn a_pair_is_read_with_what_stands_in_the_certificate() {
        let loaded = Pair::new().files().load().expect("sound");
        assert_eq!(loaded.facts.names, ["box.local"]);
        assert_eq!(loaded.config.alpn_protocols, [PROTOCOL]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_setting() {
        let pair = Pair::new();
        let files = pair.files();
        let other = Pair::new();
        let key = std::fs::read_to_string(other.files().key).expect("there");
        pair.write("other-key.pem", &key);
        pair.write("empty.pem", "");
        pair.write(
            "secret.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        pair.write("half.pem", "-----BEGIN CERTIFICATE-----\nMIIB");
        let in_folder = |name: &str| pair.folder.path().join(name);
        let with_key = |name: &str| TlsFiles {
            key: in_folder(name),
            ..files.clone()
        };
        let with_certificate = |name: &str| TlsFiles {
            certificate: in_folder(name),
            ..files.clone()
        };
        for (files, words) in [
            (
                with_key("none.pem"),
                "server.tls_key none.pem: cannot be read: No such file",
            ),
            (
                with_key("other-key.pem"),
                "server.tls_key other-key.pem: it is not the key of the certificate",
            ),
            (
                with_key("empty.pem"),
                "server.tls_key empty.pem: holds no private key",
            ),
            (
                with_key("secret.pem"),
                "server.tls_key secret.pem: is encrypted",
            ),
            (
                with_key("cert.pem"),
                "server.tls_key cert.pem: holds no private key",
            ),
            (with_key(""), "is not a file"),
            (
                with_certificate("empty.pem"),
                "server.tls_cert empty.pem: there is no certificate",
            ),
            (
                with_certificate("half.pem"),
                "server.tls_cert half.pem: its PEM is broken",
            ),
            (
                TlsFiles {
                    client_authorities: Some(in_folder("key.pem")),
                    ..files.clone()
                },
                "server.tls_client_ca key.pem: there is no certificate",
            ),
        ] {
            let problem = pair.problem(&files);
            assert!(problem.contains(words), "{problem}");
        }
    }
}
