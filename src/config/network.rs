//! What of the settings of listeners, TLS and keys does not go together.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::ConfigMistake;
use super::listen::ListenAddress;
use super::sections::{AuthSettings, ServerSettings};

/// Bytes of a Unix socket's path (`sockaddr_un`), of which the last is a NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The first address at which the network can connect without a certificate.
fn first_open_address(server: &ServerSettings) -> Option<(&'static str, &ListenAddress)> {
    let is_open = |listen: &ListenAddress| {
        let asks_for_certificates =
            server.tls_cert.is_some() && server.tls_require_client && !listen.is_plain;
        !listen.is_loopback() && !asks_for_certificates
    };
    addresses(server).find(|(_, listen)| is_open(listen))
}

/// All addresses, each with its key.
fn addresses(server: &ServerSettings) -> impl Iterator<Item = (&'static str, &ListenAddress)> {
    let clients = server.listen.iter().map(|listen| ("listen", listen));
    let operators = server.admin_listen.iter();
    clients.chain(operators.map(|listen| ("admin_listen", listen)))
}

pub(super) fn check(
    server: &ServerSettings,
    auth: &AuthSettings,
    mistakes: &mut Vec<ConfigMistake>,
) {
    check_who_may_ask(server, auth, mistakes);
    check_addresses(server, mistakes);
    check_unix_socket(server, mistakes);
    check_tls(server, auth, mistakes);
}

fn contradiction(key: &str, found: &dyn ToString, expected: &str) -> ConfigMistake {
    ConfigMistake::Contradiction {
        key: format!("server.{key}"),
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}

/// A server that would answer the whole network, where nobody said that it may.
fn check_who_may_ask(
    server: &ServerSettings,
    auth: &AuthSettings,
    mistakes: &mut Vec<ConfigMistake>,
) {
    if auth.keys_file.is_some() || auth.open {
        return;
    }
    if let Some((key, open)) = first_open_address(server) {
        mistakes.push(contradiction(
            key,
            &open,
            "an address of this machine alone, like 127.0.0.1:8080, while there are no keys: set \
             auth.keys_file to the file for keys (a first one is made), or auth.open to true if \
             anybody on the network may ask",
        ));
    }
}

fn check_addresses(server: &ServerSettings, mistakes: &mut Vec<ConfigMistake>) {
    if server.listen.is_empty() && server.unix_socket.is_none() {
        mistakes.push(contradiction(
            "listen",
            &"empty",
            "an address while there is no server.unix_socket: nobody could ask",
        ));
    }
    let mut seen: Vec<&ListenAddress> = Vec::new();
    for (key, listen) in addresses(server) {
        let overlap = seen
            .iter()
            .find(|other| overlap(other.address, listen.address));
        if let Some(other) = overlap {
            mistakes.push(contradiction(
                key,
                &listen,
                &format!("another address or port: {other} has this one already"),
            ));
        }
        seen.push(listen);
    }
}

/// Whether the system would refuse the second of two addresses, because the first has it.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let includes = |all: SocketAddr, one: SocketAddr| {
        // All addresses of IPv6 are those of IPv4 as well.
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || includes(one, other) || includes(other, one))
}

fn check_unix_socket(server: &ServerSettings, mistakes: &mut Vec<ConfigMistake>) {
    let Some(path) = &server.unix_socket else {
        return;
    };
    let expected = if path.as_os_str().as_bytes().starts_with(b"unix:") {
        "the path alone, without unix: before it"
    } else if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        "a path of at most 107 bytes, which is all that a Unix socket may have"
    } else {
        return;
    };
    mistakes.push(contradiction("unix_socket", &path.display(), expected));
}

fn check_tls(server: &ServerSettings, auth: &AuthSettings, mistakes: &mut Vec<ConfigMistake>) {
    match (&server.tls_cert, &server.tls_key) {
        (Some(_), None) => mistakes.push(contradiction(
            "tls_key",
            &"empty",
            "the file with the private key of server.tls_cert",
        )),
        (None, Some(_)) => mistakes.push(contradiction(
            "tls_cert",
            &"empty",
            "the file with the certificate of server.tls_key",
        )),
        _ => {}
    }
    if server.tls_require_client && server.tls_client_ca.is_none() {
        mistakes.push(contradiction(
            "tls_require_client",
            &true,
            "false while there is no server.tls_client_ca: nobody could connect",
        ));
    }
    let Some(authorities) = server.tls_client_ca.as_deref().map(Path::display) else {
        return;
    };
    if server.tls_cert.is_none() {
        mistakes.push(contradiction(
            "tls_client_ca",
            &authorities,
            "empty while there is no server.tls_cert: certificates of clients need TLS",
        ));
    }
    if !server.tls_require_client && auth.keys_file.is_none() {
        mistakes.push(contradiction(
            "tls_client_ca",
            &authorities,
            "beside auth.keys_file, whose keys say who has which certificate; or set server.tls_require_client to true, and \
             whoever has a certificate of it may ask",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_the_system_would_refuse_the_second() {
        let overlap = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse().expect("an address"));
            assert_eq!(overlap(one, other), overlap(other, one));
            overlap(one, other)
        };
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "0.0.0.0:80"));
        assert!(overlap("10.0.0.5:80", "10.0.0.5:80"));
        assert!(!overlap("0.0.0.0:80", "[::1]:80"));
        assert!(!overlap("0.0.0.0:80", "127.0.0.1:81"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
    }
}
