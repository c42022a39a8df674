//! One kiosk: a streamed chat completion over plain HTTP, with its clock.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::uri::Uri;
use hyper::http::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The server under load.
#[derive(Debug, Clone)]
pub(super) struct Target {
    host: String,
    port: u16,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) first_token: Duration,
    pub(super) gaps: Vec<Duration>,
    pub(super) whole: Duration,
    pub(super) generated_tokens: u64,
    pub(super) prompt_tokens: Option<u64>,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{url} does not begin with http://"));
        }
        let host = uri.host().ok_or_else(|| format!("{url} names no host"))?;
        Ok(Self {
            // An IPv6 address stands in brackets in a URL only.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
        })
    }

    pub(super) async fn first_model(&self) -> Result<String, String> {
        let response = self.send("GET", "/v1/models", "").await?;
        let body = response.into_body().collect().await.map_err(text)?;
        let json: Value = serde_json::from_slice(&body.to_bytes()).map_err(text)?;
        let id = json["data"][0]["id"].as_str();
        id.map(str::to_owned)
            .ok_or_else(|| "the server lists no model".to_owned())
    }

    pub(super) async fn ask(&self, body: &str) -> Result<Reply, String> {
        let started = Instant::now();
        let response = self.send("POST", "/v1/chat/completions", body).await?;
        let mut events = response.into_body().into_data_stream().eventsource();
        let mut seen = Vec::new();
        let mut usage = Value::Null;
        let mut whole = false;
        while let Some(event) = events.next().await {
            let data = event.map_err(text)?.data;
            if data == "[DONE]" {
                whole = true;
                break;
            }
            let chunk: Value = serde_json::from_str(&data).map_err(text)?;
            if let Some(error) = chunk["error"]["message"].as_str() {
                return Err(error.to_owned());
            }
            let delta = &chunk["choices"][0]["delta"];
            let has_text = delta["content"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            if has_text || delta["tool_calls"].is_array() {
                seen.push(Instant::now());
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].clone();
            }
        }
        let first = seen.first().filter(|_| whole);
        let first = first.ok_or("the answer broke off, or had no text")?;
        Ok(Reply {
            first_token: first.duration_since(started),
            gaps: seen
                .windows(2)
                .map(|pair| pair[1].duration_since(pair[0]))
                .collect(),
            whole: started.elapsed(),
            // A chunk may hold several tokens: the server knows better.
            generated_tokens: usage["completion_tokens"]
                .as_u64()
                .unwrap_or(seen.len() as u64),
            prompt_tokens: usage["prompt_tokens"].as_u64(),
        })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Response<Incoming>, String> {
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("{}:{}: {error}", self.host, self.port))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(text)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("content-type", "application/json")
            .body(Body::from(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(text)?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(text)?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Err(format!("{status}: {body}"))
    }
}

#[allow(clippy::needless_pass_by_value)] // to be named in `map_err`
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
