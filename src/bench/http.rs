//! Plain HTTP/1.1 to one server: all that `bench` and `health` need of a client.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::header::{AUTHORIZATION, HeaderValue};
use hyper::http::uri::Uri;
use hyper::http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A server at an `http://` address; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    host: String,
    port: u16,
    key: Option<BearerKey>,
}

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
    #[error("{url} {fault}; give the server's address, e.g. http://127.0.0.1:8080")]
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
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection failed on the way.
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    /// The path is none.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
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
    /// Takes host and port out of `url`; a path is not kept.
    ///
    /// # Errors
    /// [`HttpError::Url`] for anything but `http://host[:port]`.
    pub fn parse(url: &str) -> Result<Self, HttpError> {
        let wrong = |fault: String| HttpError::Url {
            url: url.to_owned(),
            fault,
        };
        let uri: Uri = url
            .parse()
            .map_err(|error| wrong(format!("is not a URL ({error})")))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("does not begin with http://".to_owned()));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("names no host".to_owned()))?;
        Ok(Self {
            // An IPv6 address stands in brackets in a URL only.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            key: None,
        })
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
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|source| HttpError::Connect {
                address: self.authority(),
                source,
            })?;
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

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_out_of_a_url() {
        for (url, authority) in [
            ("http://gateway:8080", "gateway:8080"),
            ("http://gateway/v1", "gateway:80"),
            ("http://[::1]:18080/", "[::1]:18080"),
        ] {
            let server = ServerAddress::parse(url).expect("an address");
            assert_eq!(server.authority(), authority);
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
            "https://gateway",
            "gateway:8080",
            "http://",
            "",
            "http://a b",
        ] {
            let error = ServerAddress::parse(url).expect_err(url).to_string();
            assert!(error.contains("e.g. http://127.0.0.1:8080"), "{error}");
        }
    }
}
