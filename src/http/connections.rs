//! How many connections each address has, so that one client does not take those of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::admission::client_network;
use crate::sync::{Mutex, MutexGuard};

/// Counts the open connections by the client's network. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ConnectionCounts(Arc<CountsInner>);

#[derive(Debug)]
struct CountsInner {
    most_per_network: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionCounts {
    pub(super) fn new(most_per_network: usize) -> Self {
        Self(Arc::new(CountsInner {
            most_per_network,
            open: Mutex::default(),
        }))
    }

    /// Counts a connection from `address`, unless its network has as many as one may have.
    pub(super) fn open(&self, address: IpAddr) -> Option<OpenConnection> {
        let network = client_network(address);
        let mut open = self.counts();
        let count = open.entry(network).or_default();
        if *count >= self.0.most_per_network {
            return None;
        }
        *count += 1;
        Some(OpenConnection {
            counts: self.clone(),
            network,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.open.lock()
    }
}

/// A connection that counts until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    counts: ConnectionCounts,
    network: IpAddr,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.counts.counts();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
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
    fn all_addresses_of_one_host_count_together() {
        let counts = ConnectionCounts::new(1);
        let _first = counts.open(address("fd00::1:2")).expect("the first");
        assert!(counts.open(address("fd00::3:4")).is_none());
        assert!(counts.open(address("fd00:0:0:1::2")).is_some());
        let _mapped = counts.open(address("::ffff:10.0.0.7")).expect("the first");
        assert!(counts.open(address("10.0.0.7")).is_none());
    }
}
