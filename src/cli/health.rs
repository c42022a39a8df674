//! `edgellm health`: what a container's health check runs.

use std::process::ExitCode;
use std::time::Duration;

use crate::bench::http::{self, HttpError, Server};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code 0 when `GET {url}/ready` answers 200 in time.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
pub(super) fn ask(url: &str) -> ExitCode {
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
    let response = Server::parse(url)?.get("/ready").await?;
    let ready = response.status().is_success();
    Ok((ready, http::text(response).await?))
}
