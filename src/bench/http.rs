//! HTTP/1.1 to one server, with TLS or over a Unix socket as well: all that `bench` and `health` need of a client.

mod tls;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::header::{AUTHORIZATION, HeaderValue};
use hyper::http::uri::Uri;
use hyper::http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

pub use tls::TlsTrust;

/// A server; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    place: Place,
    trust: Option<TlsTrust>,
    key: Option<BearerKey>,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp {
        host: String,
        port: u16,
        /// Whether it speaks TLS.
        is_tls: bool,
    },
    Unix(PathBuf),
}

/// A connection, whatever carries it.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// An API key, as requests carry it. `Debug` does not show it.
#[derive(Debug, Clone)]
pub struct BearerKey(HeaderValue);

impl BearerKey {
    /// Takes a key without the white space around it.
    ///
    /// # Errors
    /// [`HttpError::Key`] for what a header cannot carry.
    pub fn new(key: &str) -> Result<Self, HttpError> {
        let key = key.trim();
        // Headers could carry more, but servers read no more than this.
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HttpError::Key);
        }
        let mut header =
            HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| HttpError::Key)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

/// Why there is no response, or none that helps.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be used.
    #[error(
        "{url} {fault}; give the server's address, e.g. http://127.0.0.1:8080, https://box.example.com:8443 or \
         unix:/run/edgellm/edgellm.sock"
    )]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The API key cannot be one.
    #[error("it is empty, or has characters other than visible ASCII")]
    Key,
    /// Nobody listens there.
    #[error("cannot connect to {address}: {source}; is the server running?")]
    Connect {
        /// Host and port, or the socket.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody said whose certificates are to be believed.
    #[error(
        "{0}: give the certificate of the authority that signed the server's with --ca FILE (in PEM; a box with \
         `edgellm tls self-signed` has it as ca.pem): no others are known here"
    )]
    NoAuthority(String),
    /// The server's certificate is not to be believed, or it speaks no TLS.
    #[error(
        "no TLS with {address}: {source}; is --ca the authority of the server's certificate, and is {address} with TLS \
         and among its names (`edgellm tls show FILE` shows them)?"
    )]
    Tls {
        /// Host and port.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A key would go to somebody who proved nothing.
    #[error("no key is sent to {0}, whose certificate is not verified")]
    Unverified(String),
    /// The connection failed on the way.
    #[error("the connection failed: {}", with_cause(.0))]
    Connection(#[from] hyper::Error),
    /// The path is none.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
}

/// Such as that the server wants a certificate: hyper's own words do not say.
fn with_cause(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

/// Reads a response to its end, as text.
///
/// # Errors
/// When the connection breaks before that.
pub async fn text(response: Response<Incoming>) -> Result<String, HttpError> {
    let body = response.into_body().collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

impl ServerAddress {
    /// Takes host and port out of `url`, or the path of a Unix socket; a path on the server is not kept.
    ///
    /// # Errors
    /// [`HttpError::Url`] for anything but `http://host[:port]`, `https://host[:port]` and `unix:/path`.
    pub fn parse(url: &str) -> Result<Self, HttpError> {
        let place = match url.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Place::Unix(path.into())),
            Some(_) => Err("names no socket by its whole path".to_owned()),
            None => Place::of_url(url),
        };
        Ok(Self {
            place: place.map_err(|fault| HttpError::Url {
                url: url.to_owned(),
                fault,
            })?,
            trust: None,
            key: None,
        })
    }

    /// The same server, believed if it has such a certificate.
    #[must_use]
    pub fn trusting(self, trust: Option<TlsTrust>) -> Self {
        Self { trust, ..self }
    }

    /// Whether it cannot be asked without somebody to believe.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.place, Place::Tcp { is_tls: true, .. })
    }

    /// Whether it is on this machine, by its address alone.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.place {
            Place::Unix(_) => true,
            Place::Tcp { host, .. } => {
                let address = host.parse::<IpAddr>();
                host == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// The same server, asked with this key.
    #[must_use]
    pub fn with_key(self, key: Option<BearerKey>) -> Self {
        Self { key, ..self }
    }

    /// `GET path`; every status is a response.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn get(&self, path: &str) -> Result<Response<Incoming>, HttpError> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// `POST path` with a JSON body and further headers; every status is a response.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, String)],
        json: String,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send(Method::POST, path, headers, json.into()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the response: dropping it unread closes the connection.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.authority())
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(BearerKey(key)) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        let request = request.body(Body::from(body))?;
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> Result<Box<dyn Connection>, HttpError> {
        let cannot = |source| HttpError::Connect {
            address: self.to_string(),
            source,
        };
        let (host, port, is_tls) = match &self.place {
            Place::Unix(path) => {
                return Ok(Box::new(UnixStream::connect(path).await.map_err(cannot)?));
            }
            Place::Tcp { host, port, is_tls } => (host.as_str(), *port, *is_tls),
        };
        let trust = match (&self.trust, is_tls) {
            (Some(trust), true) if self.key.is_some() && !trust.is_verified() => {
                return Err(HttpError::Unverified(self.authority()));
            }
            (Some(trust), true) => Some(trust),
            (None, true) => return Err(HttpError::NoAuthority(self.to_string())),
            (_, false) => None,
        };
        let stream = TcpStream::connect((host, port)).await.map_err(cannot)?;
        let Some(trust) = trust else {
            return Ok(Box::new(stream));
        };
        let stream = trust.connect(host, stream).await;
        Ok(Box::new(stream.map_err(|source| HttpError::Tls {
            address: self.authority(),
            source,
        })?))
    }

    /// What the header `host` says.
    fn authority(&self) -> String {
        match &self.place {
            Place::Unix(_) => "localhost".to_owned(),
            Place::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

/// For messages: a Unix socket by its path, and whatever has TLS with its scheme.
impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(out, "unix:{}", path.display()),
            Place::Tcp { is_tls: true, .. } => write!(out, "https://{}", self.authority()),
            Place::Tcp { .. } => out.write_str(&self.authority()),
        }
    }
}

impl Place {
    fn of_url(url: &str) -> Result<Self, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("is not a URL ({error})"))?;
        let (is_tls, usual_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err("begins with neither http:// nor https:// nor unix:".to_owned()),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| "names no host".to_owned())?;
        Ok(Self::Tcp {
            // An IPv6 address stands in brackets in a URL only.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(usual_port),
            is_tls,
        })
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
