//! Plain HTTP/1.1 to one server: all that `bench` and `health` need of a client.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::uri::Uri;
use hyper::http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A server at an `http://` address; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    host: String,
    port: u16,
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
        })
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
        let request = request.body(Body::from(body))?;
        Ok(sender.send_request(request).await?)
    }

    fn authority(&self) -> String {
        let Self { host, port } = self;
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
