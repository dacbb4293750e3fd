//! Slots of connections: which peers get one, and which lose it to others.
//!
//! A peer that dials us is a stranger until it has a channel open that the protocol has admitted.
//! Strangers have slots of their own, so that no number of them keeps a peer out. When those are taken,
//! a random stranger of the host with most strangers is displaced: a host that floods us displaces
//! itself. Strangers that are too young to have opened a channel are displaced last.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{ConnectionHandle, ConnectionTable, Inner};
use crate::crypto::random_bytes;

/// Peers connected at once: those that we dialled, and those with an admitted channel.
pub(crate) const MAX_CONNECTIONS: usize = 128;
/// Of the latter, peers at one address.
pub(crate) const MAX_CONNECTIONS_PER_HOST: usize = 32;
/// Strangers connected at once: peers that dialled us and have no channel open yet.
pub const MAX_STRANGERS: usize = 384;
/// A handshake and the opening of a channel take three round trips; a stranger has this time for them.
const TIME_TO_SHOW: Duration = Duration::from_secs(3);

impl ConnectionHandle {
    fn is_stranger(&self) -> bool {
        self.incoming && self.channels() == 0
    }
}

impl Inner {
    /// Counts a channel that was opened on a connection; false if there is no slot for another peer.
    pub(super) fn admit(&self, id: u64) -> bool {
        let state = self.state();
        // A connection that has lost its slot is being ended.
        let Some(this) = state.connections.get(&id) else { return false };
        if this.is_stranger() {
            let peers = || state.connections.values().filter(|other| !other.is_stranger());
            let here = |other: &&ConnectionHandle| {
                other.incoming && other.address.ip() == this.address.ip()
            };
            if peers().count() >= MAX_CONNECTIONS
                || peers().filter(here).count() >= MAX_CONNECTIONS_PER_HOST
            {
                return false;
            }
        }
        this.statistics.channels.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The number of peers, without strangers.
    pub(super) fn peer_count(&self) -> usize {
        self.state().connections.values().filter(|handle| !handle.is_stranger()).count()
    }
}

impl ConnectionTable {
    /// Displaces a stranger if there is no slot for one more, which comes from `newcomer`.
    pub(super) fn make_room_for_stranger(&mut self, newcomer: IpAddr) {
        let strangers = || self.connections.iter().filter(|(_, handle)| handle.is_stranger());
        if strangers().count() < MAX_STRANGERS {
            return;
        }
        let mut hosts = HashMap::from([(newcomer, 1_usize)]);
        for (_, handle) in strangers() {
            *hosts.entry(handle.address.ip()).or_default() += 1;
        }
        let most = hosts.iter().max_by_key(|(_, count)| **count).map(|(host, _)| *host);
        let of_host = strangers().filter(|(_, handle)| Some(handle.address.ip()) == most);
        let of_host: Vec<(u64, Instant)> =
            of_host.map(|(id, handle)| (*id, handle.since)).collect();
        let late: Vec<(u64, Instant)> =
            of_host.iter().copied().filter(|(_, since)| since.elapsed() >= TIME_TO_SHOW).collect();
        let candidates = if late.is_empty() { of_host } else { late };
        let chance = random_bytes().map_or(0, u64::from_le_bytes);
        let chosen = usize::try_from(chance % candidates.len().max(1) as u64).unwrap_or(0);
        if let Some(evicted) =
            candidates.get(chosen).and_then(|(id, _)| self.connections.remove(id))
        {
            evicted.end("made room for another peer".into(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::testing::idle;
    use super::super::{ConnectionSlot, FoundBy, Swarm, Transport};
    use super::*;

    struct Slots {
        _swarm: Swarm,
        inner: std::sync::Arc<Inner>,
        taken: Vec<ConnectionSlot>,
    }

    impl Slots {
        fn new() -> Self {
            let swarm = idle();
            Self { inner: std::sync::Arc::clone(&swarm.inner), _swarm: swarm, taken: Vec::new() }
        }

        fn connect(&mut self, host: u16, found_by: FoundBy) -> u64 {
            let [high, low] = host.to_be_bytes();
            let address = SocketAddr::from(([10, 0, high, low], 1));
            let slot = self.inner.register(address, Transport::Tcp, found_by);
            let id = slot.id;
            self.taken.push(slot);
            id
        }

        fn is_connected(&self, id: u64) -> bool {
            self.inner.state().connections.contains_key(&id)
        }

        fn strangers(&self) -> usize {
            let state = self.inner.state();
            state.connections.values().filter(|handle| handle.is_stranger()).count()
        }
    }

    #[tokio::test]
    async fn peers_are_limited_per_host_and_in_total() {
        let mut slots = Slots::new();
        let mut admitted = |host| {
            let id = slots.connect(host, FoundBy::Incoming);
            let admitted = slots.inner.admit(id);
            assert!(!admitted || slots.inner.admit(id), "a second channel needs no second slot");
            admitted
        };
        for _ in 0..MAX_CONNECTIONS_PER_HOST {
            assert!(admitted(0));
        }
        assert!(!admitted(0), "one host too many");
        for host in 1..=(MAX_CONNECTIONS - MAX_CONNECTIONS_PER_HOST) as u16 {
            assert!(admitted(host));
        }
        assert!(!admitted(9999), "one peer too many");
        assert_eq!(slots.inner.peer_count(), MAX_CONNECTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_displaces_strangers_of_the_host_with_most_connections() {
        let mut slots = Slots::new();
        let dialled = slots.connect(1, FoundBy::Given);
        let known = slots.connect(1, FoundBy::Incoming);
        assert!(slots.inner.admit(known));
        let honest: Vec<u64> =
            (100..110).map(|host| slots.connect(host, FoundBy::Incoming)).collect();
        for connection in 0..10 * MAX_STRANGERS {
            slots.connect(1 + (connection % 8) as u16, FoundBy::Incoming);
            assert!(slots.strangers() <= MAX_STRANGERS);
        }
        assert_eq!(slots.strangers(), MAX_STRANGERS);
        assert!(honest.into_iter().all(|id| slots.is_connected(id)), "hosts with one stranger");
        assert!(slots.is_connected(dialled) && slots.is_connected(known), "peers");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_that_are_older_than_three_seconds_are_displaced_first() {
        let mut slots = Slots::new();
        let old: Vec<u64> = (0..10).map(|_| slots.connect(1, FoundBy::Incoming)).collect();
        tokio::time::advance(TIME_TO_SHOW).await;
        let young: Vec<u64> =
            (10..MAX_STRANGERS).map(|_| slots.connect(1, FoundBy::Incoming)).collect();
        for left in (0..10).rev() {
            slots.connect(1, FoundBy::Incoming);
            assert_eq!(old.iter().filter(|id| slots.is_connected(**id)).count(), left);
        }
        assert!(young.iter().all(|id| slots.is_connected(*id)));
        // Then at random: not always the same, and not the newcomers only.
        let more: Vec<u64> = (0..100).map(|_| slots.connect(1, FoundBy::Incoming)).collect();
        assert!(young.iter().any(|id| !slots.is_connected(*id)));
        assert!(more.iter().filter(|id| slots.is_connected(**id)).count() > 50);
    }
}
