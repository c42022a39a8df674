//! Who is at the other end of a connection.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use axum::http::Extensions;

use crate::admission::ClientId;

/// The other end of a connection. The accept loop puts it into the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Whoever connected from this address.
    Address(SocketAddr),
    /// A program of this machine that connected to the Unix socket.
    UnixSocket,
}

/// Its address, without the port, which says nothing to people.
impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.ip().to_canonical().fmt(out),
            Self::UnixSocket => out.write_str("the Unix socket"),
        }
    }
}

impl Peer {
    /// Returns who sent the request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        // Absent only if there is no socket, as in tests.
        let unknown = Self::Address((Ipv4Addr::LOCALHOST, 0).into());
        extensions.get().copied().unwrap_or(unknown)
    }

    /// Whose requests these are, as far as a connection that was just accepted tells.
    pub(crate) fn client(self) -> ClientId {
        match self {
            Self::Address(address) => ClientId::of(address),
            Self::UnixSocket => ClientId::of_one_connection(),
        }
    }
}

/// Which routes a listener serves. The accept loop puts it into the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All routes: there is no listener for operators alone.
    Everybody,
    /// What clients need: operators have a listener of their own.
    Clients,
    /// All routes, for operators.
    Operators,
}
