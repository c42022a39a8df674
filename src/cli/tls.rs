//! `edgellm tls`: makes certificates for a box without an authority of its own, and shows what stands in them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::tls::{
    Authority, AuthorityError, CertificateError, CertificateFacts, LONGEST_CLIENT_DAYS,
    LONGEST_SERVER_DAYS, MadeCertificate, ServerName, default_server_names, is_client_name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Tls {
    /// Make an authority and a certificate for this server, or renew the certificate
    SelfSigned(SelfSigned),
    /// Make a certificate with which a client may take the place of an API key
    Client(Client),
    /// Show whose a certificate is, for which names, and until when; exit code 1 when it is not good now
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Folder {
    /// The folder of the authority; with the same one, certificates are renewed and what was trusted stays trusted
    #[arg(long, value_name = "DIR", default_value = "tls")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SelfSigned {
    #[command(flatten)]
    folder: Folder,
    /// A further DNS name or IP address under which clients reach the server; may be given several times
    #[arg(long = "name", value_name = "NAME", value_parser = ServerName::parse)]
    names: Vec<ServerName>,
    /// Days until the certificate ends; Apple's devices refuse more than 825
    #[arg(long, value_name = "N", default_value_t = LONGEST_SERVER_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_SERVER_DAYS)))]
    days: u32,
}

#[derive(Debug, Args)]
pub(super) struct Client {
    /// The client's name, such as till-1: letters, digits, dots, dashes, underscores
    #[arg(value_parser = client_name)]
    name: String,
    #[command(flatten)]
    folder: Folder,
    /// Days until the certificate ends
    #[arg(long, value_name = "N", default_value_t = LONGEST_SERVER_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_CLIENT_DAYS)))]
    days: u32,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// A file with one or several certificates, in PEM
    file: PathBuf,
}

fn client_name(name: &str) -> Result<String, String> {
    if is_client_name(name) {
        return Ok(name.to_owned());
    }
    Err(
        "must be 1 to 64 letters, digits, dots, dashes or underscores, like till-1; `ca`, `server` and what ends with \
         `-key` are names of other files"
            .to_owned(),
    )
}

/// Why a command on certificates failed.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{}: cannot be read: {source}", .file.display())]
    Unreadable {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {source}", .file.display())]
    Certificate {
        file: PathBuf,
        source: CertificateError,
    },
}

/// What was done, and whether all is well.
struct Outcome {
    text: String,
    is_good: bool,
}

impl Outcome {
    fn good(text: String) -> Self {
        Self {
            text,
            is_good: true,
        }
    }
}

/// Runs a command on certificates.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
pub(super) fn run(command: Tls) -> ExitCode {
    let now = SystemTime::now();
    let outcome = match command {
        Tls::SelfSigned(arguments) => self_signed(arguments, now).map(Outcome::good),
        Tls::Client(arguments) => client(&arguments, now).map(Outcome::good),
        Tls::Show(Show { file }) => show(&file, now),
    };
    match outcome {
        Ok(Outcome { text, is_good }) => {
            print!("{text}");
            if is_good {
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

fn self_signed(arguments: SelfSigned, now: SystemTime) -> Result<String, TlsError> {
    let mut names = default_server_names();
    for name in arguments.names {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let folder = absolute(&arguments.folder.output);
    let authority = Authority::open_or_make(&folder, now)?;
    let made = authority.certify_server(&names, arguments.days)?;
    Ok(server_text(&authority, &made))
}

fn client(arguments: &Client, now: SystemTime) -> Result<String, TlsError> {
    let folder = absolute(&arguments.folder.output);
    let authority = Authority::open(&folder, now)?;
    let made = authority.certify_client(&arguments.name, arguments.days)?;
    Ok(client_text(&authority, &made, &arguments.name))
}

/// Settings are read from another folder than this one.
fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

fn server_text(authority: &Authority, made: &MadeCertificate) -> String {
    let ca = &authority.files().certificate;
    let (certificate, key) = (&made.files.certificate, &made.files.key);
    let names = made.facts.names.join(", ");
    let (state, devices) = if authority.is_new() {
        ("new", "have to trust it once")
    } else {
        ("as before", "that trust it need nothing new")
    };
    let mut text = format!(
        "authority:   {} ({state}, until {}); devices {devices}\n\
         certificate: {} (until {}{})\n\
         names:       {names}\n",
        ca.display(),
        day(authority.facts().not_after),
        certificate.display(),
        day(made.facts.not_after),
        until_authority(made),
    );
    let has_address = made
        .facts
        .names
        .iter()
        .any(|name| is_address_of_the_network(name));
    if !has_address {
        text.push_str(
            "Clients that reach this box by an IP address need it among the names: run this again with --name 10.0.0.5 or the like.\n",
        );
    }
    let _ = write!(
        text,
        "\nIn the configuration:\n  [server]\n  tls_cert = \"{}\"\n  tls_key = \"{}\"\n\n",
        certificate.display(),
        key.display()
    );
    if authority.is_new() {
        let _ = writeln!(
            text,
            "What kiosks and tills have to trust is {ca} (docs/tls.md has all platforms):\n  \
             curl --cacert {ca}; Node.js NODE_EXTRA_CA_CERTS={ca}; OpenAI SDK for Python SSL_CERT_FILE={ca}\n  \
             Debian, Ubuntu: copy it to /usr/local/share/ca-certificates/edgellm.crt, run update-ca-certificates\n  \
             Chromium on Linux: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n edgellm -i ca.pem\n  \
             Windows, as administrator: certutil -addstore Root ca.pem\n\
             Never give away {}: whoever has it can pretend to be any server to these devices. Keep a copy of both at a safe \
             place.",
            authority.files().key.display(),
            ca = ca.display(),
        );
    } else {
        text.push_str(
            "A running server takes the new certificate within seconds; connections go on.\n",
        );
    }
    text
}

fn client_text(authority: &Authority, made: &MadeCertificate, name: &str) -> String {
    format!(
        "certificate: {certificate} (until {}{})\n\
         key:         {}\n\
         Take both to the client, and remove the key here: curl --cert {name}.pem --key {name}-key.pem\n\
         In the configuration:\n  [server]\n  tls_client_ca = \"{}\"\n\
         In the keys file, so that it needs no API key: edgellm keys add {name} --subject {name} --no-key\n",
        day(made.facts.not_after),
        until_authority(made),
        made.files.key.display(),
        authority.files().certificate.display(),
        certificate = made.files.certificate.display(),
    )
}

fn until_authority(made: &MadeCertificate) -> &'static str {
    if made.ends_with_authority {
        ", with the authority: make a new one in time"
    } else {
        ""
    }
}

fn is_address_of_the_network(name: &str) -> bool {
    let address = name.parse::<std::net::IpAddr>();
    address.is_ok_and(|address| !address.is_loopback())
}

fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}

fn show(file: &Path, now: SystemTime) -> Result<Outcome, TlsError> {
    let text = std::fs::read(file).map_err(|source| TlsError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    let all = CertificateFacts::from_pem(&text).map_err(|source| TlsError::Certificate {
        file: file.to_owned(),
        source,
    })?;
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::MAX);
    let texts: Vec<String> = all.iter().map(|facts| facts_text(facts, now)).collect();
    Ok(Outcome {
        text: texts.join("\n"),
        // Without one between it and its authority, the first is as little good.
        is_good: all.iter().all(|facts| facts.is_good_at(now)),
    })
}

fn facts_text(facts: &CertificateFacts, now: Timestamp) -> String {
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let days = facts.days_left(now);
    let standing = if facts.not_before > now {
        "NOT GOOD YET".to_owned()
    } else if facts.not_after < now {
        let since = now.duration_since(facts.not_after);
        format!("EXPIRED {} days ago", since.as_hours() / 24)
    } else {
        format!("{days} days left")
    };
    let issuer = if facts.issuer == facts.subject {
        "itself"
    } else {
        &facts.issuer
    };
    format!(
        "subject: {}{}\nnames:   {}\nissuer:  {}\nfrom:    {}\nuntil:   {} ({standing})\n",
        or_dash(&facts.subject),
        if facts.is_authority {
            " (an authority)"
        } else {
            ""
        },
        or_dash(&facts.names.join(", ")),
        or_dash(issuer),
        facts.not_before,
        facts.not_after,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_shown_with_the_days_that_are_left() {
        let facts = CertificateFacts {
            subject: "CN=box".to_owned(),
            common_name: Some("box".to_owned()),
            names: vec!["box".to_owned(), "10.0.0.5".to_owned()],
            issuer: "CN=edgellm box".to_owned(),
            not_before: "2026-01-01T00:00:00Z".parse().expect("a moment"),
            not_after: "2027-01-01T00:00:00Z".parse().expect("a moment"),
            is_authority: false,
        };
        let at = |now: &str| facts_text(&facts, now.parse().expect("a moment"));
        assert_eq!(
            at("2026-12-02T00:00:00Z"),
            "subject: CN=box\nnames:   box, 10.0.0.5\nissuer:  CN=edgellm box\nfrom:    2026-01-01T00:00:00Z\n\
             until:   2027-01-01T00:00:00Z (30 days left)\n"
        );
        for (now, standing) in [
            ("2025-12-31T00:00:00Z", "(NOT GOOD YET)"),
            ("2027-01-01T00:00:01Z", "(EXPIRED 0 days ago)"),
            ("2027-01-11T00:00:00Z", "(EXPIRED 10 days ago)"),
        ] {
            assert!(at(now).contains(standing), "{}", at(now));
        }
    }

    #[test]
    fn a_name_that_is_another_files_is_refused_with_the_rule() {
        assert_eq!(client_name("till-1").as_deref(), Ok("till-1"));
        for name in ["ca", "server-key", "a/b"] {
            assert!(client_name(name).is_err_and(|error| error.contains("like till-1")));
        }
    }
}
