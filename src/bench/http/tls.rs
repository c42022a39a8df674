//! TLS to a server: whom the client believes, and the handshake.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub struct TlsTrust {
    config: Arc<ClientConfig>,
    /// Whether it is known who answers.
    is_verified: bool,
}

impl TlsTrust {
    /// Believes what the authorities of a text in PEM have signed.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn authorities(pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("its PEM is broken: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("it holds what is no authority's certificate: {error}"))?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in PEM in it".to_owned());
        }
        let builder = builder()?.with_root_certificates(roots);
        Ok(Self::new(builder.with_no_client_auth(), true))
    }

    /// Believes anybody. Keys are not sent to such a server.
    ///
    /// # Errors
    /// Of rustls, if this was built without what it needs.
    pub fn anybody() -> Result<Self, String> {
        let verifier = AnyCertificateAsNothingSecretIsSent(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Self::new(builder.with_no_client_auth(), false))
    }

    fn new(mut config: ClientConfig, is_verified: bool) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            config: Arc::new(config),
            is_verified,
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.is_verified
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder() -> Result<Builder, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions();
    builder.map_err(|error| error.to_string())
}

/// For asking whether the server of this very machine is ready: nothing secret is sent, and its name in the
/// certificate is not the address at which this machine reaches it.
#[derive(Debug)]
struct AnyCertificateAsNothingSecretIsSent(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificateAsNothingSecretIsSent {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
