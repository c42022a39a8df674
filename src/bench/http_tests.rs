use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;

#[test]
fn an_address_is_taken_out_of_a_url() {
    for (url, authority, shown) in [
        ("http://gateway:8080", "gateway:8080", "gateway:8080"),
        ("http://gateway/v1", "gateway:80", "gateway:80"),
        ("http://[::1]:18080/", "[::1]:18080", "[::1]:18080"),
        ("https://gateway", "gateway:443", "https://gateway:443"),
        ("https://[::1]:8443/v1", "[::1]:8443", "https://[::1]:8443"),
        (
            "unix:/run/edgellm.sock",
            "localhost",
            "unix:/run/edgellm.sock",
        ),
    ] {
        let server = ServerAddress::parse(url).expect("an address");
        assert_eq!(server.authority(), authority);
        assert_eq!(server.to_string(), shown);
        assert_eq!(server.is_tls(), url.starts_with("https"));
    }
}

#[test]
fn this_machine_is_known_by_its_address() {
    for (url, is_loopback) in [
        ("https://127.0.0.1:8443", true),
        ("https://[::1]", true),
        ("http://localhost:1", true),
        ("unix:/a", true),
        ("https://localhost.example.com", false),
        ("https://10.0.0.5", false),
        ("https://127.0.0.1.example.com", false),
    ] {
        let server = ServerAddress::parse(url).expect("an address");
        assert_eq!(server.is_loopback(), is_loopback, "{url}");
    }
}

#[test]
fn a_key_is_never_shown() {
    let key = BearerKey::new(" sk-edge-1\n").expect("a key");
    assert_eq!(key.0, "Bearer sk-edge-1");
    let server = ServerAddress::parse("http://gateway").expect("an address");
    let shown = format!("{:?}", server.with_key(Some(key)));
    assert!(!shown.contains("sk-edge"), "{shown}");
    for wrong in ["", " ", "schl\u{fc}ssel", "two\nlines"] {
        let error = BearerKey::new(wrong).expect_err(wrong).to_string();
        assert!(!error.contains("schl"), "{error}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_an_example() {
    for url in [
        "ftp://gateway",
        "gateway:8080",
        "http://",
        "https://",
        "",
        "http://a b",
        "unix:",
        "unix:here.sock",
    ] {
        let error = ServerAddress::parse(url).expect_err(url).to_string();
        assert!(error.contains("e.g. http://127.0.0.1:8080"), "{error}");
    }
}

/// Answers one request with what its header `host` was.
async fn answer(mut stream: impl Connection) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).expect("text");
    let host = request.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.expect("a host");
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}",
        host.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let _ = stream.shutdown().await;
}

/// A server with TLS for `localhost` and 127.0.0.1, and the authority of its certificate.
async fn serve_tls() -> (SocketAddr, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key"));
    let authority = authority.expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).expect("names");
    let certificate = params.signed_by(&key, &authority).expect("signed");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private);
    let mut config = config.expect("they fit");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            if let Ok(stream) = acceptor.accept(stream).await {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                answer(stream).await;
            }
        }
    });
    (address, authority.pem())
}

async fn body(server: &ServerAddress) -> Result<String, HttpError> {
    text(server.get("/").await?).await
}

#[tokio::test]
async fn a_server_with_tls_is_asked_by_its_name_and_by_its_address() {
    let (address, authority) = serve_tls().await;
    let trust = TlsTrust::authorities(authority.as_bytes()).expect("an authority");
    for host in ["localhost", "127.0.0.1"] {
        let at = format!("{host}:{}", address.port());
        let server = ServerAddress::parse(&format!("https://{at}")).expect("an address");
        let key = BearerKey::new("k").expect("a key");
        let server = server.trusting(Some(trust.clone())).with_key(Some(key));
        assert_eq!(body(&server).await.expect("an answer"), at);
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_the_authority_is_not_asked() {
    let (address, _) = serve_tls().await;
    let (_, other) = serve_tls().await;
    let server = ServerAddress::parse(&format!("https://{address}")).expect("an address");
    let none = body(&server).await.expect_err("nobody to believe");
    assert!(none.to_string().contains("--ca FILE"), "{none}");
    let other = TlsTrust::authorities(other.as_bytes()).expect("an authority");
    let wrong = body(&server.clone().trusting(Some(other)))
        .await
        .expect_err("another authority");
    assert!(matches!(wrong, HttpError::Tls { .. }), "{wrong}");
    assert!(wrong.to_string().contains("--ca"), "{wrong}");
    let anybody = server.trusting(Some(TlsTrust::anybody().expect("made")));
    assert_eq!(
        body(&anybody).await.expect("an answer"),
        address.to_string()
    );
    let key = BearerKey::new("k").expect("a key");
    let with_key = body(&anybody.with_key(Some(key)))
        .await
        .expect_err("a key to anybody");
    assert!(matches!(with_key, HttpError::Unverified(_)), "{with_key}");
}

#[tokio::test]
async fn a_server_is_asked_over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        answer(stream).await;
    });
    let of = |path: &Path| ServerAddress::parse(&format!("unix:{}", path.display()));
    let server = of(&path).expect("an address");
    assert_eq!(body(&server).await.expect("an answer"), "localhost");
    let nobody = of(&directory.path().join("nobody")).expect("an address");
    let error = body(&nobody).await.expect_err("nobody").to_string();
    assert!(
        error.contains("unix:/") && error.contains("is the server running?"),
        "{error}"
    );
}

#[test]
fn what_is_no_authority_is_told() {
    let error = |pem: &[u8]| TlsTrust::authorities(pem).expect_err("none");
    assert!(error(b"hello").contains("no certificate"));
    let wrong = b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    assert!(error(wrong).contains("no authority's"));
}
