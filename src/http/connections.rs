//! How many connections each address has, and the Unix socket, so that one client does not take those of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::admission::client_network;
use crate::sync::{Mutex, MutexGuard};

use super::peer::Peer;

/// Whose connections count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Network(IpAddr),
    /// All programs that come by the Unix socket.
    UnixSocket,
}

impl Origin {
    fn of(peer: Peer) -> Self {
        match peer {
            Peer::Address(address) => Self::Network(client_network(address.ip())),
            Peer::UnixSocket => Self::UnixSocket,
        }
    }
}

/// Counts the open connections by where they come from. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ConnectionCounts(Arc<CountsInner>);

#[derive(Debug)]
struct CountsInner {
    most_of_one: usize,
    open: Mutex<HashMap<Origin, usize>>,
}

impl ConnectionCounts {
    pub(super) fn new(most_of_one: usize) -> Self {
        Self(Arc::new(CountsInner {
            most_of_one,
            open: Mutex::default(),
        }))
    }

    /// Counts a connection, unless there are as many from the same network as one may have.
    pub(super) fn open(&self, peer: Peer) -> Option<OpenConnection> {
        let origin = Origin::of(peer);
        let mut open = self.counts();
        let count = open.entry(origin).or_default();
        if *count >= self.0.most_of_one {
            return None;
        }
        *count += 1;
        Some(OpenConnection {
            counts: self.clone(),
            origin,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        self.0.open.lock()
    }
}

/// A connection that counts until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    counts: ConnectionCounts,
    origin: Origin,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.counts.counts();
        if let Some(count) = open.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Peer {
        let address: IpAddr = text.parse().expect("an address");
        Peer::Address((address, 4000).into())
    }

    #[test]
    fn an_address_with_all_its_connections_keeps_no_other_out() {
        let counts = ConnectionCounts::new(2);
        let [tablet, till] = ["10.0.0.7", "10.0.0.8"].map(address);
        let held = [counts.open(tablet), counts.open(tablet)];
        assert!(held.iter().all(Option::is_some));
        assert!(counts.open(tablet).is_none());
        assert!(counts.open(till).is_some());
        drop(held);
        assert!(counts.open(tablet).is_some());
        assert!(counts.counts().is_empty(), "whoever has none is forgotten");
    }

    #[test]
    fn programs_at_the_unix_socket_leave_places_for_others() {
        let counts = ConnectionCounts::new(1);
        let _first = counts.open(Peer::UnixSocket).expect("the first");
        assert!(counts.open(Peer::UnixSocket).is_none());
        assert!(counts.open(address("10.0.0.8")).is_some());
    }

    #[test]
    fn all_addresses_of_one_host_count_together() {
        let counts = ConnectionCounts::new(1);
        let _first = counts.open(address("fd00::1:2")).expect("the first");
        assert!(counts.open(address("fd00::3:4")).is_none());
        assert!(counts.open(address("fd00:0:0:1::2")).is_some());
        let _mapped = counts.open(address("::ffff:10.0.0.7")).expect("the first");
        assert!(counts.open(address("10.0.0.7")).is_none());
    }
}
