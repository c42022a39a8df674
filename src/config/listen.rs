//! The forms of network settings: where it listens, whom it believes, and which names and pages are known.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::schema::{EntryForm, KeyDefault, KeyKind};
use super::setting::{Setting, entries, list, text};

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress {
    /// IP address and port.
    pub address: SocketAddr,
    /// Whether it is without TLS even where there is a certificate; written `http://` before the address.
    pub is_plain: bool,
}

const PLAIN: &str = "http://";

impl ListenAddress {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_prefix(PLAIN);
        Some(Self {
            address: plain.unwrap_or(text).parse().ok()?,
            is_plain: plain.is_some(),
        })
    }

    /// Whether only programs of this machine reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.is_plain { PLAIN } else { "" };
        write!(out, "{before}{}", self.address)
    }
}

const LISTEN_ADDRESS: EntryForm = EntryForm {
    fits: |text| ListenAddress::parse(text).is_some(),
    expected: "an IP address and a port, like \"127.0.0.1:8080\", or a list of such, each with http:// before it where \
               it is to be without TLS in spite of server.tls_cert",
    values: "IP address and port, or a list of them; `http://` before one is for no TLS",
    may_stand_alone: true,
};

/// Addresses to listen on. One alone is written without brackets, as by programs that know no more.
pub(super) const fn listen_addresses(default: KeyDefault) -> Setting<Vec<ListenAddress>> {
    Setting::new(
        KeyKind::Entries(LISTEN_ADDRESS),
        default,
        |value| match text(value) {
            Some(text) => Some(vec![ListenAddress::parse(text)?]),
            None => entries(value, ListenAddress::parse),
        },
        |addresses| match addresses.as_slice() {
            [one] => one.to_string().into(),
            all => list(all.iter().map(ListenAddress::to_string)),
        },
    )
}

/// A proxy that is believed what it says about its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Whoever connects from such an address.
    Network(IpNet),
    /// Whoever connects to the Unix socket; written `unix`.
    UnixSocket,
}

const UNIX: &str = "unix";

impl TrustedProxy {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == UNIX {
            return Some(Self::UnixSocket);
        }
        let network = text.parse::<IpNet>();
        let network = network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .ok()
            .map(|network| Self::Network(canonical(network)))
    }
}

/// Addresses of IPv4 that are written as such of IPv6 are those of IPv4, as which they are compared.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network.network().to_canonical() {
        IpAddr::V4(address) => network.prefix_len().checked_sub(96).zip(Some(address)),
        IpAddr::V6(_) => None,
    };
    match (network, mapped) {
        (IpNet::V6(_), Some((prefix, address))) => {
            IpNet::new(address.into(), prefix).map_or(network.trunc(), |network| network.trunc())
        }
        _ => network.trunc(),
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(out)
            }
            Self::Network(network) => network.fmt(out),
            Self::UnixSocket => out.write_str(UNIX),
        }
    }
}

const TRUSTED_PROXY: EntryForm = EntryForm {
    fits: |text| TrustedProxy::parse(text).is_some(),
    expected: "a list of IP addresses, networks and the word unix, like [\"127.0.0.1\", \"10.0.7.0/24\"]",
    values: "list of IP addresses, networks, `unix`",
    may_stand_alone: false,
};

/// Proxies, none unless it is set.
pub(super) const fn trusted_proxies() -> Setting<Vec<TrustedProxy>> {
    Setting::new(
        KeyKind::Entries(TRUSTED_PROXY),
        KeyDefault::NoEntries,
        |value| entries(value, TrustedProxy::parse),
        |proxies| list(proxies.iter().map(TrustedProxy::to_string)),
    )
}

const HOST_NAME: EntryForm = EntryForm {
    fits: is_host,
    expected: "a list of host names without scheme and port, each with *. before it for all names below it, or * for \
               every name, like [\"box-17.example.com\", \"*.shop.lan\"]",
    values: "list of host names, `*.` before one for those below it, `*` for all",
    may_stand_alone: false,
};

/// Names of hosts, none unless it is set.
pub(super) const fn host_names() -> Setting<Vec<String>> {
    Setting::new(
        KeyKind::Entries(HOST_NAME),
        KeyDefault::NoEntries,
        |value| entries(value, |name| Some(name.to_ascii_lowercase())),
        |names| list(names.iter().cloned()),
    )
}

fn is_host(text: &str) -> bool {
    if text == "*" || text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_part)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

const ORIGIN: EntryForm = EntryForm {
    fits: is_origin,
    expected: "a list of origins of web pages as browsers write them, without a path or a slash at the end, or \"null\" \
               for pages out of files, or \"*\" for every page, like [\"https://kiosk.example.com\", \
               \"http://10.0.0.7:3000\"]",
    values: "list of origins, `null` for pages out of files, `*` for every page",
    may_stand_alone: false,
};

/// Origins of web pages, none unless it is set.
pub(super) const fn origins() -> Setting<Vec<String>> {
    Setting::new(
        KeyKind::Entries(ORIGIN),
        KeyDefault::NoEntries,
        |value| entries(value, |origin| Some(origin.to_ascii_lowercase())),
        |origins| list(origins.iter().cloned()),
    )
}

/// Browsers leave out the port that a scheme has by itself: whoever writes it names no origin there is.
fn is_origin(text: &str) -> bool {
    if text == "*" || text == "null" {
        return true;
    }
    let Some((scheme, host)) = text.split_once("://") else {
        return false;
    };
    let usual_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "\0",
    };
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    !scheme.is_empty()
        && scheme.bytes().all(is_scheme)
        && !host.is_empty()
        && !host.contains(['/', '?', '#', '@', '*', '\\'])
        && host.bytes().all(|byte| byte.is_ascii_graphic())
        && !host.ends_with(usual_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_say_that_it_is_plain() {
        for text in ["127.0.0.1:8080", "http://[::1]:80", "0.0.0.0:0"] {
            let listen = ListenAddress::parse(text).expect(text);
            assert_eq!(listen.to_string(), text);
            assert_eq!(listen.is_plain, text.starts_with("http"));
        }
        for text in [
            "",
            "localhost:80",
            "https://127.0.0.1:1",
            "127.0.0.1",
            "http://",
        ] {
            assert_eq!(ListenAddress::parse(text), None, "{text}");
        }
        let mapped = ListenAddress::parse("[::ffff:127.0.0.1]:80").expect("an address");
        assert!(mapped.is_loopback());
    }

    #[test]
    fn a_proxy_is_an_address_a_network_or_the_unix_socket() {
        for (text, written) in [
            ("127.0.0.1", "127.0.0.1"),
            ("10.0.7.9/24", "10.0.7.0/24"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:10.0.7.9/120", "10.0.7.0/24"),
            ("::/0", "::/0"),
            ("unix", "unix"),
        ] {
            let proxy = TrustedProxy::parse(text).expect(text);
            assert_eq!(proxy.to_string(), written);
        }
        for text in [
            "",
            "proxy.example.com",
            "10.0.0.0/33",
            "Unix",
            "10.0.0.1:80",
        ] {
            assert_eq!(TrustedProxy::parse(text), None, "{text}");
        }
    }

    #[test]
    fn origins_are_as_browsers_write_them() {
        for text in [
            "https://kiosk.example.com",
            "http://10.0.0.7:3000",
            "http://[fd00::1]:80000",
            "capacitor://localhost",
            "null",
            "*",
        ] {
            assert!(is_origin(text), "{text}");
        }
        for text in [
            "",
            "kiosk.example.com",
            "https://",
            "https://a/",
            "https://a:443",
            "HTTP://a:80",
            "https://*.a",
            "https://u@a",
            "https://a b",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }

    #[test]
    fn hosts_are_names_without_scheme_and_port() {
        for text in [
            "box",
            "box-17.example.com",
            "*.shop.lan",
            "*",
            "10.0.0.5",
            "::1",
            "my_box",
        ] {
            assert!(is_host(text), "{text}");
        }
        for text in [
            "",
            "http://box",
            "box:8080",
            "*.",
            "a..b",
            "a*.b",
            "[::1]",
            "box/",
        ] {
            assert!(!is_host(text), "{text}");
        }
    }
}
