//! `edgellm health`: what a container's health check runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use clap::Args;

use super::Files;
use super::authority_file::AuthorityFile;
use crate::bench::http::{self, HttpError, ServerAddress, TlsTrust};
use crate::config::ServerSettings;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Health {
    /// The server, beginning with http:// or https://, or unix: and the path of a socket [default: this machine's, where files and environment let it listen]
    #[arg(conflicts_with = "files")]
    url: Option<String>,
    #[command(flatten)]
    authority: AuthorityFile,
    #[command(flatten)]
    files: Files,
}

/// Exit code 0 when the server is ready, 2 when the configuration that should say where it is, is wrong.
#[allow(clippy::print_stderr)] // this is what the command is for
pub(super) fn run(arguments: Health) -> ExitCode {
    let (url, is_own) = match arguments.url {
        Some(url) => (url, false),
        None => match arguments.files.load() {
            Ok(settings) => match own_address(&settings.server) {
                Ok(url) => (url, true),
                Err(mistake) => {
                    eprintln!("{mistake}");
                    return ExitCode::from(2);
                }
            },
            Err(error) => return super::wrong_config(&error),
        },
    };
    let answer = ask(&url, &arguments.authority, is_own).and_then(|answer| {
        // Files and environment of whoever asks may not be those of the server.
        match answer.over_tls(&url) {
            Some(url) => ask(&url, &arguments.authority, is_own),
            None => Ok(answer),
        }
    });
    told(answer)
}

/// How this machine reaches a server with these settings: the way on which least can go wrong.
fn own_address(server: &ServerSettings) -> Result<String, String> {
    if let Some(socket) = &server.unix_socket {
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
        return Ok(format!("unix:{}", socket.display()));
    }
    let mut listens = server.admin_listen.iter().chain(&server.listen);
    let has_tls = server.tls_cert.is_some();
    let first = listens.clone().next();
    if let Some(plain) = listens.find(|listen| listen.is_plain || !has_tls) {
        return Ok(url_of("http", plain.address));
    }
    match first {
        Some(_) if server.tls_require_client => Err(
            "server.tls_require_client: only who has a certificate can connect, and this command has none: add an address \
             without TLS for this machine, as in server.listen = [\"0.0.0.0:8443\", \"http://127.0.0.1:8080\"], or set \
             server.unix_socket"
                .to_owned(),
        ),
        Some(listen) => Ok(url_of("https", listen.address)),
        None => Err(
            "server.listen: it is empty, and so are server.unix_socket and server.admin_listen: there is no server to ask"
                .to_owned(),
        ),
    }
}

/// How a client on the same machine reaches a server that listens on `listen`.
fn url_of(scheme: &str, listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, listen.port()))
}

/// Of a server on this machine, any certificate will do: nothing secret is sent, and nobody else answers there.
fn server(url: &str, authority: &AuthorityFile, is_own: bool) -> Result<ServerAddress, String> {
    let server = ServerAddress::parse(url).map_err(|error| error.to_string())?;
    let trust = match authority.read()? {
        None if server.is_tls() && (is_own || server.is_loopback()) => Some(TlsTrust::anybody()?),
        given => given,
    };
    Ok(server.trusting(trust))
}

/// What `GET /ready` was answered.
struct Readiness {
    status: StatusCode,
    body: String,
}

impl Readiness {
    /// The same server's address with TLS, if that is what it asks for and it is on this machine: on the way to others,
    /// who takes it for granted would ask anybody.
    fn over_tls(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix("http://")?;
        let is_here = ServerAddress::parse(url).is_ok_and(|server| server.is_loopback());
        let asks_for_tls =
            self.status == StatusCode::BAD_REQUEST && self.body.contains("tls_required");
        (is_here && asks_for_tls).then(|| format!("https://{rest}"))
    }
}

/// Asks whether the server is ready.
fn ask(url: &str, authority: &AuthorityFile, is_own: bool) -> Result<Readiness, String> {
    let server = server(url, authority, is_own)?;
    let runtime = super::small_runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match tokio::time::timeout(TIMEOUT, ready(&server)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("{url}: no answer within {TIMEOUT:?}")),
        }
    })
}

async fn ready(server: &ServerAddress) -> Result<Readiness, HttpError> {
    let response = server.get("/ready").await?;
    Ok(Readiness {
        status: response.status(),
        body: http::text(response).await?,
    })
}

/// Exit code 0 when it is ready.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
fn told(answer: Result<Readiness, String>) -> ExitCode {
    match answer {
        Ok(Readiness { status, body }) => {
            println!("{body}");
            if status.is_success() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Sources};

    fn settings(env: &[(&str, &str)]) -> Settings {
        let of = |(name, value): &(&str, &str)| {
            (format!("EDGELLM__SERVER__{name}"), (*value).to_owned())
        };
        let mut env: Vec<(String, String)> = env.iter().map(of).collect();
        env.push(("EDGELLM__AUTH__OPEN".to_owned(), "true".to_owned()));
        let sources = Sources {
            env,
            ..Sources::default()
        };
        crate::config::load(&sources).expect("sound")
    }

    #[test]
    fn the_own_server_is_asked_where_least_can_go_wrong() {
        let tls = [("TLS_CERT", "/c.pem"), ("TLS_KEY", "/k.pem")];
        let both = "0.0.0.0:8443,http://127.0.0.1:8080";
        for (more, expected) in [
            (vec![("LISTEN", "0.0.0.0:8080")], "http://127.0.0.1:8080"),
            (vec![("LISTEN", "[::]:80")], "http://[::1]:80"),
            (
                vec![("LISTEN", "192.168.1.5:9000")],
                "http://192.168.1.5:9000",
            ),
            (vec![("UNIX_SOCKET", "/run/e.sock")], "unix:/run/e.sock"),
            (
                vec![("ADMIN_LISTEN", "127.0.0.1:9090")],
                "http://127.0.0.1:9090",
            ),
            (
                [&tls[..], &[("LISTEN", "0.0.0.0:8443")]].concat(),
                "https://127.0.0.1:8443",
            ),
            (
                [&tls[..], &[("LISTEN", both)]].concat(),
                "http://127.0.0.1:8080",
            ),
            (
                [
                    &tls[..],
                    &[
                        ("LISTEN", both),
                        ("TLS_CLIENT_CA", "/ca.pem"),
                        ("TLS_REQUIRE_CLIENT", "true"),
                    ],
                ]
                .concat(),
                "http://127.0.0.1:8080",
            ),
        ] {
            assert_eq!(
                own_address(&settings(&more).server).as_deref(),
                Ok(expected)
            );
        }
    }

    #[test]
    fn where_everybody_needs_a_certificate_the_way_out_is_told() {
        let settings = settings(&[
            ("LISTEN", "0.0.0.0:8443"),
            ("TLS_CERT", "/c.pem"),
            ("TLS_KEY", "/k.pem"),
            ("TLS_CLIENT_CA", "/ca.pem"),
            ("TLS_REQUIRE_CLIENT", "true"),
        ]);
        let mistake = own_address(&settings.server).expect_err("no way");
        for words in [
            "server.tls_require_client",
            "http://127.0.0.1:8080",
            "server.unix_socket",
        ] {
            assert!(mistake.contains(words), "{mistake}");
        }
        let empty = ServerSettings {
            listen: Vec::new(),
            ..settings.server
        };
        assert!(own_address(&empty).is_err_and(|mistake| mistake.contains("empty")));
    }
}
