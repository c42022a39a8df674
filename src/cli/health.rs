//! `edgellm health`: what a container's health check runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Files;
use crate::bench::http::{self, HttpError, ServerAddress};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Health {
    /// The server [default: this machine's, where files and environment let it listen]
    #[arg(conflicts_with = "files")]
    url: Option<String>,
    #[command(flatten)]
    files: Files,
}

/// Exit code 0 when the server is ready, 2 when the configuration that should say where it is, is wrong.
pub(super) fn run(arguments: Health) -> ExitCode {
    let url = match arguments.url {
        Some(url) => url,
        None => match arguments.files.load() {
            Ok(settings) => url_of(settings.server.listen[0].address),
            Err(error) => return super::wrong_config(&error),
        },
    };
    ask(&url)
}

/// How a client on the same machine reaches a server that listens on `listen`.
fn url_of(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Exit code 0 when `GET {url}/ready` answers 200 in time.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
fn ask(url: &str) -> ExitCode {
    let answer = super::small_runtime()
        .map_err(|error| error.to_string())
        .and_then(|runtime| {
            runtime.block_on(async {
                match tokio::time::timeout(TIMEOUT, ready(url)).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("{url}: no answer within {TIMEOUT:?}")),
                }
            })
        });
    match answer {
        Ok((ready, body)) => {
            println!("{body}");
            if ready {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn ready(url: &str) -> Result<(bool, String), HttpError> {
    let response = ServerAddress::parse(url)?.get("/ready").await?;
    let ready = response.status().is_success();
    Ok((ready, http::text(response).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_this_machine() {
        let url = |listen: &str| url_of(listen.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("192.168.1.5:9000"), "http://192.168.1.5:9000");
    }
}
