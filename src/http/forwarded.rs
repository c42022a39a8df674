//! Whom a proxy asks for: `x-forwarded-for` and `x-forwarded-host`, which anybody can write and which therefore are
//! believed only from `server.trusted_proxies`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::admission::ClientId;
use crate::config::TrustedProxy;

use super::peer::Peer;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The proxies that are believed.
#[derive(Debug, Clone)]
pub(crate) struct TrustedProxies(Arc<[TrustedProxy]>);

impl TrustedProxies {
    pub(crate) fn new(proxies: &[TrustedProxy]) -> Self {
        Self(proxies.into())
    }

    /// Whether whoever sent a request is one of them.
    pub(super) fn include(&self, peer: Peer) -> bool {
        match peer {
            Peer::Address(address) => self.include_address(address.ip().to_canonical()),
            Peer::UnixSocket => self.0.contains(&TrustedProxy::UnixSocket),
        }
    }

    fn include_address(&self, address: IpAddr) -> bool {
        self.0.iter().any(|proxy| match proxy {
            TrustedProxy::Network(network) => network.contains(&address),
            TrustedProxy::UnixSocket => false,
        })
    }
}

/// The hosts that a client asked its proxies for, as those say: each comma-separated, the client's own first. In the
/// extensions of a request only if its sender is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardedHosts(Vec<HeaderValue>);

impl ForwardedHosts {
    /// Puts those that a request names into its extensions. Its sender must be trusted.
    pub(super) fn believe(request: &mut Request) {
        let hosts = request.headers().get_all(FORWARDED_HOST);
        let hosts: Vec<_> = hosts.iter().cloned().collect();
        if !hosts.is_empty() {
            request.extensions_mut().insert(Self(hosts));
        }
    }

    /// Returns them in their order; what is no text is `None`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().flat_map(entries)
    }
}

/// Puts what a trusted proxy says of its client into the request's extensions.
pub(crate) async fn believe_proxies(
    State(proxies): State<TrustedProxies>,
    mut request: Request,
    next: Next,
) -> Response {
    if proxies.include(Peer::of(request.extensions())) {
        if let Some(address) = client_address(request.headers(), &proxies) {
            request
                .extensions_mut()
                .insert(ClientId::of_address(address));
        }
        ForwardedHosts::believe(&mut request);
    }
    next.run(request).await
}

/// Returns the address of the client that a trusted proxy asks for.
///
/// Every proxy appends the address that it was asked from, so the last entry is the only one that the trusted proxy
/// vouches for. If that is another trusted proxy, it vouches for the entry before it, and so on: the client is the last
/// entry that is no trusted proxy. What stands before it may be invented. An entry that is no address ends the walk
/// just so, and the client is then the farthest proxy known: it counts for all that it hides. A loopback address is the
/// exception, because as many clients may be behind it as behind a connection from this machine; `None` leaves each
/// connection a client of its own.
pub(super) fn client_address(headers: &HeaderMap, proxies: &TrustedProxies) -> Option<IpAddr> {
    let lines: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
    let hops = lines
        .iter()
        .rev()
        .flat_map(|line| entries(line).into_iter().rev());
    let mut farthest = None;
    for hop in hops {
        let Some(address) = hop.and_then(entry_address) else {
            break;
        };
        if !proxies.include_address(address) {
            return Some(address);
        }
        farthest = Some(address);
    }
    farthest.filter(|address| !address.is_loopback())
}

/// The entries of a header line. A line that is no text is one entry that is `None`.
fn entries(line: &HeaderValue) -> Vec<Option<&str>> {
    let Ok(text) = line.to_str() else {
        return vec![None];
    };
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(Some).collect()
}

/// Reads an address. Some proxies write a port after it, and then brackets around one of IPv6.
fn entry_address(entry: &str) -> Option<IpAddr> {
    let bare = entry
        .strip_prefix('[')
        .and_then(|entry| entry.strip_suffix(']'));
    let address = bare.unwrap_or(entry).parse::<IpAddr>();
    let address = address.or_else(|_| entry.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(texts: &[&str]) -> TrustedProxies {
        let proxies = texts.iter().map(|text| match *text {
            "unix" => TrustedProxy::UnixSocket,
            network => TrustedProxy::Network(network.parse().expect("a network")),
        });
        TrustedProxies(proxies.collect())
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).expect("a header");
            headers.append(FORWARDED_FOR, value);
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_entry_that_is_no_trusted_proxy() {
        let proxies = proxies(&["127.0.0.1/32", "10.0.7.0/24", "fd00::/64"]);
        for (lines, client) in [
            (vec![], None),
            (vec![""], None),
            (vec!["192.0.2.1"], Some("192.0.2.1")),
            // Whatever the client wrote itself stands before.
            (vec!["8.8.8.8, 192.0.2.1"], Some("192.0.2.1")),
            (vec!["8.8.8.8", "192.0.2.1"], Some("192.0.2.1")),
            (vec!["nonsense, 192.0.2.1 ,"], Some("192.0.2.1")),
            (vec!["192.0.2.1, 10.0.7.3"], Some("192.0.2.1")),
            (
                vec!["8.8.8.8,192.0.2.1", "10.0.7.4,fd00::7"],
                Some("192.0.2.1"),
            ),
            // All are proxies: the farthest is the best that is known, but for this machine itself.
            (vec!["10.0.7.9, 10.0.7.3"], Some("10.0.7.9")),
            (vec!["127.0.0.1"], None),
            (vec!["127.0.0.1, 10.0.7.3"], None),
            // The walk ends at what is no address.
            (vec!["192.0.2.1, unknown, 10.0.7.3"], Some("10.0.7.3")),
            (vec!["192.0.2.1, unknown"], None),
            (vec!["192.0.2.1, 256.0.0.1"], None),
            (vec!["192.0.2.1, \"10.0.7.3\""], None),
            // As Azure and IIS write them, and as sockets for both families do.
            (vec!["192.0.2.1:51234"], Some("192.0.2.1")),
            (vec!["192.0.2.1:51234, 10.0.7.3:80"], Some("192.0.2.1")),
            (vec!["[2001:db8::1]:51234"], Some("2001:db8::1")),
            (vec!["[2001:db8::1]"], Some("2001:db8::1")),
            (vec!["2001:db8::1"], Some("2001:db8::1")),
            (vec!["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (vec!["192.0.2.1, ::ffff:10.0.7.3"], Some("192.0.2.1")),
            (vec!["192.0.2.1:"], None),
            (vec!["192.0.2.1:99999"], None),
        ] {
            let found = client_address(&headers(&lines), &proxies);
            let client: Option<IpAddr> = client.map(|text| text.parse().expect("an address"));
            assert_eq!(found, client, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_text_ends_the_walk() {
        let mut headers = headers(&["192.0.2.1"]);
        let value = HeaderValue::from_bytes(b"192.0.2.1, \xff").expect("a header");
        headers.append(FORWARDED_FOR, value);
        assert_eq!(client_address(&headers, &proxies(&["10.0.0.0/8"])), None);
    }

    #[test]
    fn proxies_are_known_by_their_address_or_by_the_unix_socket() {
        let peer = |text: &str| Peer::Address(text.parse().expect("an address"));
        let network = proxies(&["10.0.7.0/24"]);
        assert!(network.include(peer("10.0.7.1:4000")));
        assert!(network.include(peer("[::ffff:10.0.7.1]:4000")));
        assert!(!network.include(peer("10.0.8.1:4000")));
        assert!(!network.include(Peer::UnixSocket));
        let unix = proxies(&["unix"]);
        assert!(unix.include(Peer::UnixSocket));
        assert!(!unix.include(peer("127.0.0.1:4000")));
        // A request without a socket is nobody's.
        assert!(!proxies(&[]).include(Peer::of(&axum::http::Extensions::new())));
    }

    /// What the rest of the server sees of a request from `peer` that says it is forwarded.
    async fn seen(peer: Peer) -> (Option<ClientId>, Option<ForwardedHosts>) {
        use axum::Router;
        use tower::ServiceExt;

        let (send, mut receive) = tokio::sync::mpsc::channel(1);
        let router = Router::new()
            .fallback(async move |request: Request| {
                let client = request.extensions().get::<ClientId>().copied();
                let hosts = request.extensions().get::<ForwardedHosts>().cloned();
                send.send((client, hosts)).await.expect("awaited");
            })
            .layer(axum::middleware::from_fn_with_state(
                proxies(&["10.0.7.1/32"]),
                believe_proxies,
            ));
        let request = Request::builder()
            .header(FORWARDED_FOR, "192.0.2.1")
            .header(FORWARDED_HOST, "shop.example")
            .extension(peer)
            .body(axum::body::Body::empty());
        let _ = router.oneshot(request.expect("a request")).await;
        receive.recv().await.expect("a request")
    }

    #[tokio::test]
    async fn only_a_trusted_proxy_is_believed() {
        let (client, hosts) = seen(Peer::Address(([10, 0, 7, 1], 4000).into())).await;
        assert_eq!(client, Some(ClientId::Address([192, 0, 2, 1].into())));
        let hosts = hosts.expect("believed");
        assert_eq!(hosts.iter().collect::<Vec<_>>(), [Some("shop.example")]);
        for stranger in [
            Peer::Address(([10, 0, 7, 2], 4000).into()),
            Peer::UnixSocket,
        ] {
            assert_eq!(seen(stranger).await, (None, None));
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_makes_a_client_of_the_proxy_on_this_machine(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(32_u8..=255, 0..40),
                    "([0-9.:,\\[\\] ]|10\\.0\\.7\\.3|unknown){0,12}".prop_map(String::into_bytes),
                ],
                0..4,
            ),
        ) {
            let mut headers = HeaderMap::new();
            for line in lines {
                if let Ok(value) = HeaderValue::from_bytes(&line) {
                    headers.append(FORWARDED_FOR, value);
                }
            }
            if let Some(address) = client_address(&headers, &proxies(&["127.0.0.0/8"])) {
                prop_assert!(!address.is_loopback());
                prop_assert_eq!(address, address.to_canonical());
            }
        }
    }
}
