//! `edgellm health`: what a container's health check runs.

use std::process::ExitCode;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::http::Request;
use hyper::http::uri::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code 0 when `GET {url}/ready` answers 200 in time.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
pub(super) fn ask(url: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, ready(url))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
        }),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok((true, body)) => {
            println!("{body}");
            ExitCode::SUCCESS
        }
        Ok((false, body)) => {
            println!("{body}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{url}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ready(url: &str) -> Result<(bool, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// URLs can be asked".to_owned());
    }
    let authority = uri.authority().ok_or("the URL names no host")?;
    // An IPv6 address stands in brackets in a URL only.
    let host = authority.host().trim_matches(['[', ']']);
    let address = (host, authority.port_u16().unwrap_or(80));
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|e| text(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let request = Request::get("/ready")
        .header("host", authority.as_str())
        .body(Body::empty())
        .map_err(|e| text(&e))?;
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    let ready = response.status().is_success();
    let body = response.into_body().collect().await.map_err(|e| text(&e))?;
    Ok((
        ready,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}
