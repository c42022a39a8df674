//! The host and port that a client asked for.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::header;

/// A host, such that two that are written differently and mean the same are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// An IP address.
    Address(IpAddr),
    /// A name in lower case, without a dot at its end.
    Name(String),
}

/// A host, with its port where one is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

/// The request does not say properly for which host it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImproperHost;

impl Authority {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                // Some clients write which of their own networks a link-local address is in.
                let address = address.split('%').next()?;
                (
                    Host::Address(address.parse::<Ipv6Addr>().ok()?.into()),
                    port,
                )
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (named(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Returns what a request asks for: what its first line says, or else its `Host`. Programs that send neither, as
    /// HTTP/1.0 allows, ask for nothing in particular.
    pub(crate) fn of(request: &Request) -> Result<Option<Self>, ImproperHost> {
        if let Some(authority) = request.uri().authority() {
            return Self::parse(authority.as_str())
                .map(Some)
                .ok_or(ImproperHost);
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let Some(host) = hosts.next() else {
            return Ok(None);
        };
        if hosts.next().is_some() {
            return Err(ImproperHost);
        }
        match host.to_str().map(str::trim) {
            Ok("") => Ok(None),
            Ok(host) => Self::parse(host).map(Some).ok_or(ImproperHost),
            Err(_) => Err(ImproperHost),
        }
    }

    /// Whether both mean the same place, where what has no port means `usual_port`.
    pub(crate) fn is_same(&self, other: &Self, usual_port: u16) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(usual_port);
        self.host == other.host && port(self) == port(other)
    }
}

/// A name, or an address of IPv4.
fn named(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::Address(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_part);
    is_name.then(|| Host::Name(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str, port: Option<u16>) -> Authority {
        let host = Host::Name(name.to_owned());
        Authority { host, port }
    }

    fn address(address: &str, port: Option<u16>) -> Authority {
        let host = Host::Address(address.parse().expect("an address"));
        Authority { host, port }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_may_have_a_port() {
        for (text, expected) in [
            ("box", Some(name("box", None))),
            (
                "BOX-17.Shop.LAN.:8080",
                Some(name("box-17.shop.lan", Some(8080))),
            ),
            ("my_box:", Some(name("my_box", None))),
            ("10.0.0.5:80", Some(address("10.0.0.5", Some(80)))),
            ("[::1]", Some(address("::1", None))),
            ("[FD00:0::5]:8080", Some(address("fd00::5", Some(8080)))),
            ("[fe80::1%25eth0]:80", Some(address("fe80::1", Some(80)))),
            // As a browser would never write it: no address, so a name that nobody has.
            ("127.1", Some(name("127.1", None))),
            ("", None),
            (".", None),
            (":8080", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]8080", None),
            ("[box]", None),
            ("box:80:80", None),
            ("box:+80", None),
            ("box:99999", None),
            ("user@box", None),
            ("box/", None),
            ("a box", None),
            ("b%6fx", None),
            ("b\u{f6}x", None),
        ] {
            assert_eq!(Authority::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_request_asks_for_its_first_lines_host_or_for_that_of_its_header() {
        let asked = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            Authority::of(&request.body(Body::empty()).expect("a request"))
        };
        assert_eq!(asked("/", &["box:80"]), Ok(Some(name("box", Some(80)))));
        assert_eq!(asked("http://a/", &["b"]), Ok(Some(name("a", None))));
        assert_eq!(asked("/", &[]), Ok(None));
        assert_eq!(asked("/", &[""]), Ok(None));
        assert_eq!(asked("/", &["box", "box"]), Err(ImproperHost));
        assert_eq!(asked("/", &["a box"]), Err(ImproperHost));
        assert_eq!(asked("/", &["box\u{e9}"]), Err(ImproperHost));
        assert_eq!(asked("http://user@a/", &[]), Err(ImproperHost));
    }

    #[test]
    fn a_port_that_is_not_written_is_the_usual_one() {
        let same = |a: &str, b: &str, usual| {
            let parse = |text| Authority::parse(text).expect("an authority");
            parse(a).is_same(&parse(b), usual)
        };
        assert!(same("box", "BOX.:80", 80));
        assert!(same("box:8080", "box:8080", 80));
        assert!(!same("box", "box:80", 443));
        assert!(!same("box", "bax", 80));
        assert!(same("[::1]", "[0:0::1]:80", 80));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_name_is_of_letters_digits_and_dots(
            text in prop_oneof![any::<String>(), "[a-z0-9:.\\[\\]%-]{0,20}"],
        ) {
            if let Some(Authority { host: Host::Name(name), .. }) = Authority::parse(&text) {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(name.to_ascii_lowercase(), name);
            }
        }
    }
}
