//! The names that certificates are made for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What clients call a server by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// A DNS name, in small letters; the first label may be `*`.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl ServerName {
    /// Reads a DNS name or an IP address, as clients write them in a URL, without port and brackets.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        if text.contains(['/', ':', '[', '@']) {
            return Err(format!(
                "{text}: give the name or the address alone, without scheme, port, brackets and path: box.example.com, 10.0.0.5"
            ));
        }
        if !text.is_ascii() {
            return Err(format!("{text}: write it as DNS does, beginning with xn--"));
        }
        let name = text.to_ascii_lowercase();
        if is_dns_name(&name) {
            return Ok(Self::Dns(name));
        }
        Err(format!(
            "{text}: must be a DNS name like box.example.com or *.shop.lan, or an IP address like 10.0.0.5"
        ))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => name.fmt(out),
            Self::Ip(address) => address.fmt(out),
        }
    }
}

fn is_dns_name(name: &str) -> bool {
    let below_wildcard = name.strip_prefix("*.");
    let labels: Vec<&str> = below_wildcard.unwrap_or(name).split('.').collect();
    let is_label = |label: &&str| {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(sound)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // 10.0.0 and 10.0.0.256 are addresses that somebody mistyped.
    let is_number = |label: &&str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253
        && labels.iter().all(is_label)
        && !labels.last().is_some_and(is_number)
        // Browsers do not believe a certificate for everything below a top-level domain.
        && (below_wildcard.is_none() || labels.len() > 1)
}

/// The names of this machine that are known without asking anybody: its host name, the same in the domain of mDNS,
/// and loopback.
#[must_use]
pub fn default_server_names() -> Vec<ServerName> {
    names_of_host(
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .as_deref(),
    )
}

fn names_of_host(host: Option<&str>) -> Vec<ServerName> {
    let own = host.and_then(|host| match ServerName::parse(host.trim()) {
        Ok(ServerName::Dns(name)) if name != LOCALHOST && !name.starts_with('*') => Some(name),
        _ => None,
    });
    let mut names = Vec::new();
    if let Some(name) = own {
        let label = name.split('.').next().unwrap_or(&name);
        let local = format!("{label}.local");
        names.push(name.clone());
        if local != name {
            names.push(local);
        }
    }
    names.push(LOCALHOST.to_owned());
    let mut names: Vec<ServerName> = names.into_iter().map(ServerName::Dns).collect();
    names.push(ServerName::Ip(Ipv4Addr::LOCALHOST.into()));
    names.push(ServerName::Ip(Ipv6Addr::LOCALHOST.into()));
    names
}

const LOCALHOST: &str = "localhost";

/// Whether a client's certificate may have this name: it is a common name, an entry of the keys file and the beginning
/// of file names at once, and the names of the authority's and the server's files are taken.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    let sound = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_');
    (1..=64).contains(&name.len())
        && name.chars().all(sound)
        && name.starts_with(|char: char| char.is_ascii_alphanumeric())
        && !["ca", "server"].contains(&name)
        && !name.ends_with("-key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_stands_in_a_url_between_scheme_and_port() {
        for (text, expected) in [
            ("Box-17.Example.COM", "box-17.example.com"),
            ("*.shop.lan", "*.shop.lan"),
            ("10.0.0.5", "10.0.0.5"),
            ("FD00::1", "fd00::1"),
            ("my_box", "my_box"),
        ] {
            assert_eq!(
                ServerName::parse(text).map(|name| name.to_string()),
                Ok(expected.to_owned())
            );
        }
        for (text, words) in [
            ("https://box", "without scheme"),
            ("box:8443", "without scheme, port"),
            ("[::1]", "brackets"),
            ("10.0.0.0/24", "alone"),
            ("10.0.0.256", "DNS name"),
            ("10.0.0", "DNS name"),
            ("", "DNS name"),
            ("a..b", "DNS name"),
            ("-a", "DNS name"),
            ("a b", "DNS name"),
            ("*", "DNS name"),
            ("*.lan", "DNS name"),
            ("a.*.b", "DNS name"),
            ("kühl.example", "xn--"),
        ] {
            let error = ServerName::parse(text).expect_err(text);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_machine_has_its_own_names_and_loopback() {
        let names = |host: Option<&str>| {
            let names = names_of_host(host).into_iter().map(|name| name.to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        let loopback = "localhost 127.0.0.1 ::1";
        assert_eq!(
            names(Some("Box-17\n")),
            format!("box-17 box-17.local {loopback}")
        );
        assert_eq!(
            names(Some("box.example.com")),
            format!("box.example.com box.local {loopback}")
        );
        assert_eq!(names(Some("box.local")), format!("box.local {loopback}"));
        for host in [
            None,
            Some(""),
            Some("localhost"),
            Some("no name"),
            Some("10.0.0.5"),
            Some("*.a.b"),
        ] {
            assert_eq!(names(host), loopback, "{host:?}");
        }
    }

    #[test]
    fn a_client_cannot_have_the_name_of_another_file() {
        for name in ["till-1", "a", "Till_1.front", "server-2", "ca2"] {
            assert!(is_client_name(name), "{name}");
        }
        for name in [
            "",
            "ca",
            "server",
            "ca-key",
            "server-key",
            "a/b",
            "..",
            ".a",
            "-a",
            "a b",
            "é",
            &"a".repeat(65),
        ] {
            assert!(!is_client_name(name), "{name}");
        }
    }
}
