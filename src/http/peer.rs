//! Who is at the other end of a connection.

use std::net::SocketAddr;

use crate::admission::ClientId;
use crate::config::TrustedProxy;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Of a TCP connection.
    Address(SocketAddr),
    /// A program of this machine, at the Unix socket.
    UnixSocket,
}

impl Peer {
    /// Whose requests these are, as far as the connection tells.
    pub(crate) fn client(self) -> ClientId {
        match self {
            Self::Address(address) => ClientId::of(address),
            Self::UnixSocket => ClientId::of_one_connection(),
        }
    }

    /// Whether it is one of these proxies.
    pub(crate) fn is_one_of(self, proxies: &[TrustedProxy]) -> bool {
        proxies.iter().any(|proxy| match (proxy, self) {
            (TrustedProxy::Network(network), Self::Address(address)) => {
                network.contains(&address.ip().to_canonical())
            }
            (TrustedProxy::UnixSocket, Self::UnixSocket) => true,
            _ => false,
        })
    }
}

/// Which routes a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All routes: there is no listener for operators alone.
    Everybody,
    /// What clients need: operators have a listener of their own.
    Clients,
    /// All routes, for operators.
    Operators,
}
