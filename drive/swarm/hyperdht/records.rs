//! Records that a persistent node stores for others: the peers of a topic, and the address of the
//! holder of a key.
//!
//! Signatures are checked before anything comes here.

use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::announcement::{MAX_PEERS, Peer, target_of};
use crate::crypto::PublicKey;
use crate::kademlia::{Id, Limits, TopicStore};

/// Announcements kept, of all topics; the oldest goes first.
pub(crate) const MAX_ANNOUNCEMENTS: usize = 65_536;
/// Of these, how many of one topic.
pub(crate) const MAX_ANNOUNCEMENTS_PER_TOPIC: usize = 1024;
/// Peers whose address is stored by key; the oldest goes first.
pub(crate) const MAX_FORWARDS: usize = 65_536;
/// Relays kept per peer: as many as fit into an answer with [`MAX_PEERS`] peers.
pub(crate) const MAX_RELAYS: usize = 3;
/// Announcements expire after this unless refreshed.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(20 * 60);

/// Where messages for a peer are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The peer's own address, from which the announcement came.
    pub to: SocketAddrV4,
    pub peer: Peer,
}

/// See the module's description.
pub(crate) struct Records {
    topics: TopicStore<Id, PublicKey, Peer>,
    forwards: TopicStore<Id, (), Forward>,
}

impl Default for Records {
    fn default() -> Self {
        let limits = |in_all, of_one| Limits { in_all, of_one, age: MAX_AGE };
        Self {
            topics: TopicStore::new(limits(MAX_ANNOUNCEMENTS, MAX_ANNOUNCEMENTS_PER_TOPIC)),
            forwards: TopicStore::new(limits(MAX_FORWARDS, 1)),
        }
    }
}

impl Records {
    /// A peer at `from` announced itself: under the target of its key, or in a topic.
    pub(crate) fn add(&mut self, target: Id, from: SocketAddrV4, mut peer: Peer, now: Instant) {
        peer.relays.truncate(MAX_RELAYS);
        // The sender chose the capacity of the list: release the spare part.
        peer.relays.shrink_to_fit();
        if target_of(&peer.key) == target {
            self.forwards.put(target, (), Forward { to: from, peer }, now);
        } else {
            self.topics.put(target, peer.key, peer, now);
        }
    }

    pub(crate) fn remove(&mut self, target: &Id, key: &PublicKey) {
        if target_of(key) == *target {
            self.forwards.remove(target, &());
        } else {
            self.topics.remove(target, key);
        }
    }

    /// Where messages for the peer of that target are forwarded to.
    pub(crate) fn forward(&mut self, target: &Id, now: Instant) -> Option<&Forward> {
        self.forwards.expire(now);
        self.forwards.get(target, &())
    }

    /// Peers of a topic: a random selection if there are more than [`MAX_PEERS`].
    pub(crate) fn peers(&mut self, target: &Id, now: Instant) -> Vec<Peer> {
        self.topics.expire(now);
        let mut all: Vec<&Peer> = self.topics.of(*target).map(|(_, peer)| peer).collect();
        fastrand::shuffle(&mut all);
        let mut peers: Vec<Peer> = all.into_iter().take(MAX_PEERS).cloned().collect();
        if let Some(forward) = self.forward(target, now)
            && peers.len() < MAX_PEERS
        {
            peers.push(forward.peer.clone());
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
    const TOPIC: Id = [1; 32];

    fn peer(n: usize) -> Peer {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        Peer { key: PublicKey::new(key), relays: vec![FROM] }
    }

    fn topic(n: usize) -> Id {
        *peer(n).key.as_bytes()
    }

    fn has(records: &mut Records, n: usize, now: Instant) -> bool {
        records.topics.expire(now);
        records.topics.get(&TOPIC, &peer(n).key).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_stored_until_withdrawn_or_expired() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.add(TOPIC, FROM, peer(1), now);
        records.add(TOPIC, FROM, peer(2), now);
        records.remove(&TOPIC, &peer(2).key);
        assert_eq!(records.peers(&TOPIC, now), [peer(1)]);
        assert_eq!(records.peers(&[2; 32], now), []);
        assert!(has(&mut records, 1, now + MAX_AGE - Duration::from_millis(1)));
        assert_eq!(records.peers(&TOPIC, now + MAX_AGE), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_announces_its_key_is_at_the_source_address() {
        let (mut records, now) = (Records::default(), Instant::now());
        let target = target_of(&peer(1).key);
        let forward = Forward { to: FROM, peer: peer(1) };
        records.add(target, FROM, peer(1), now);
        assert_eq!(records.forward(&target, now), Some(&forward));
        assert_eq!(records.peers(&target, now), [peer(1)], "a topic of one");
        // An announcement there by another peer belongs to a topic.
        records.add(target, FROM, peer(2), now);
        assert_eq!(records.forward(&target, now), Some(&forward));
        records.remove(&target, &peer(2).key);
        assert_eq!(records.peers(&target, now), [peer(1)]);
        let elsewhere = SocketAddrV4::new(*FROM.ip(), 10);
        records.add(target, elsewhere, peer(1), now);
        assert_eq!(records.forward(&target, now).map(|forward| forward.to), Some(elsewhere));
        assert_eq!(records.forward(&target, now + MAX_AGE), None);
        records.add(target, FROM, peer(1), now + MAX_AGE);
        records.remove(&target, &peer(1).key);
        assert_eq!(records.forward(&target, now + MAX_AGE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn relays_of_a_peer_and_peers_of_an_answer_are_limited() {
        let (mut records, now) = (Records::default(), Instant::now());
        let relays = |count| Peer { relays: vec![FROM; count], ..peer(0) };
        for count in [MAX_RELAYS, MAX_RELAYS + 1] {
            records.add(TOPIC, FROM, relays(count), now);
            assert_eq!(records.peers(&TOPIC, now), [relays(MAX_RELAYS)]);
        }
        (1..MAX_PEERS).for_each(|n| records.add(TOPIC, FROM, peer(n), now));
        assert_eq!(records.peers(&TOPIC, now).len(), MAX_PEERS);
        records.add(TOPIC, FROM, peer(MAX_PEERS), now);
        assert_eq!(records.peers(&TOPIC, now).len(), MAX_PEERS);
    }

    #[tokio::test(start_paused = true)]
    async fn announcements_of_a_topic_are_limited_and_the_oldest_goes_first() {
        let (mut records, now) = (Records::default(), Instant::now());
        (0..MAX_ANNOUNCEMENTS_PER_TOPIC).for_each(|n| records.add(TOPIC, FROM, peer(n), now));
        assert!(has(&mut records, 0, now));
        records.add(TOPIC, FROM, peer(MAX_ANNOUNCEMENTS_PER_TOPIC), now);
        assert!(!has(&mut records, 0, now) && has(&mut records, 1, now));
        assert_eq!(records.topics.len(), MAX_ANNOUNCEMENTS_PER_TOPIC);
    }

    #[tokio::test(start_paused = true)]
    async fn announcements_in_total_are_limited_and_the_oldest_goes_first() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.add(TOPIC, FROM, peer(0), now);
        for n in 1..MAX_ANNOUNCEMENTS {
            records.add(topic(n), FROM, peer(0), now);
        }
        assert!(has(&mut records, 0, now));
        records.add(topic(MAX_ANNOUNCEMENTS), FROM, peer(0), now);
        assert!(!has(&mut records, 0, now));
        assert_eq!(records.topics.len(), MAX_ANNOUNCEMENTS);

        for n in 0..MAX_FORWARDS {
            records.add(target_of(&peer(n).key), FROM, peer(n), now);
        }
        assert!(records.forward(&target_of(&peer(0).key), now).is_some());
        records.add(target_of(&peer(MAX_FORWARDS).key), FROM, peer(MAX_FORWARDS), now);
        assert!(records.forward(&target_of(&peer(0).key), now).is_none());
        assert_eq!(records.forwards.len(), MAX_FORWARDS);
    }
}
