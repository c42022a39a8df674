//! Who asks, as far as that is known without keys.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Whose requests share what is given out by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientId {
    /// All connections from this address, or from this network of 64 bits: so many addresses has any
    /// one host with IPv6.
    Address(IpAddr),
    /// One connection from this host itself: behind a proxy on it are many clients.
    Connection(u64),
}

impl ClientId {
    /// Of a connection that was just accepted.
    #[must_use]
    pub fn of(peer: SocketAddr) -> Self {
        let address = peer.ip().to_canonical();
        if address.is_loopback() {
            return Self::of_one_connection();
        }
        Self::of_address(address)
    }

    /// Of a client whose address a proxy told.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(client_network(address))
    }

    /// Of a connection that was just accepted from this host.
    #[must_use]
    pub fn of_one_connection() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        Self::Connection(CONNECTIONS.fetch_add(1, Ordering::Relaxed))
    }
}

/// Returns what an address has in common with all others of its host: itself, or with IPv6 its network of
/// 64 bits.
#[must_use]
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_client_and_connections_from_this_host_are_many() {
        let of = |text: &str| ClientId::of(text.parse().expect("an address"));
        assert_eq!(of("10.0.0.7:4000"), of("10.0.0.7:4001"));
        assert_eq!(of("10.0.0.7:4000"), of("[::ffff:10.0.0.7]:4001"));
        assert_ne!(of("10.0.0.7:4000"), of("10.0.0.8:4000"));
        assert_eq!(of("[fd00::1:2]:4000"), of("[fd00::3:4]:4000"));
        assert_ne!(of("[fd00::1:2]:4000"), of("[fd00:0:0:1::2]:4000"));
        assert_ne!(of("127.0.0.1:4000"), of("127.0.0.1:4000"));
    }

    #[test]
    fn the_network_of_a_loopback_address_is_itself() {
        for text in ["127.0.0.1", "127.0.0.2", "::1"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(client_network(address), address);
        }
    }
}
