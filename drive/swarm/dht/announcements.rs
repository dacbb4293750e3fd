//! Announcements that we store for other nodes: the peers of a topic.

use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{LocalPeer, MAX_PEERS};
use crate::kademlia::{Id, Limits, TopicStore};

/// Announcements kept, of all topics; the oldest goes first.
pub(crate) const MAX_ANNOUNCEMENTS: usize = 65_536;
/// Of these, how many of one topic and kind.
pub(crate) const MAX_ANNOUNCEMENTS_PER_TOPIC: usize = 1024;
/// Announcements expire after this unless refreshed.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(12 * 60);
/// Local peers in one answer.
pub(crate) const MAX_LOCAL: usize = 32;

/// A topic; for local peers, with the first half of their IPv4 address.
type TopicKey = (Id, Option<[u8; 2]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Entry {
    Remote(SocketAddrV4),
    Local(LocalPeer),
}

/// All stored announcements.
pub(crate) struct Announcements(TopicStore<TopicKey, Entry, ()>);

impl Default for Announcements {
    fn default() -> Self {
        Self(TopicStore::new(Limits {
            in_all: MAX_ANNOUNCEMENTS,
            of_one: MAX_ANNOUNCEMENTS_PER_TOPIC,
            age: MAX_AGE,
        }))
    }
}

impl Announcements {
    pub(crate) fn add(
        &mut self,
        topic: Id,
        peer: SocketAddrV4,
        local: Option<SocketAddrV4>,
        now: Instant,
    ) {
        self.0.put((topic, None), Entry::Remote(peer), (), now);
        if let Some((prefix, end)) = local.map(split) {
            self.0.put((topic, Some(prefix)), Entry::Local(end), (), now);
        }
    }

    pub(crate) fn remove(&mut self, topic: Id, peer: SocketAddrV4, local: Option<SocketAddrV4>) {
        self.0.remove(&(topic, None), &Entry::Remote(peer));
        if let Some((prefix, end)) = local.map(split) {
            self.0.remove(&(topic, Some(prefix)), &Entry::Local(end));
        }
    }

    /// The peers of a topic for a querying node, which is not among them: at most [`MAX_PEERS`]
    /// together.
    pub(crate) fn peers(
        &mut self,
        topic: Id,
        asker: SocketAddrV4,
        local: Option<SocketAddrV4>,
        now: Instant,
    ) -> (Vec<SocketAddrV4>, Vec<LocalPeer>) {
        self.0.expire(now);
        let mut near: Vec<LocalPeer> = Vec::new();
        if let Some((prefix, end)) = local.map(split) {
            near.extend(self.0.of((topic, Some(prefix))).filter_map(|(entry, ())| match entry {
                Entry::Local(peer) if *peer != end => Some(*peer),
                _ => None,
            }));
            fastrand::shuffle(&mut near);
            near.truncate(MAX_LOCAL);
        }
        let all = self.0.of((topic, None));
        let mut peers: Vec<SocketAddrV4> = all
            .filter_map(|(entry, ())| match entry {
                Entry::Remote(peer) if *peer != asker => Some(*peer),
                _ => None,
            })
            .collect();
        fastrand::shuffle(&mut peers);
        peers.truncate(MAX_PEERS - near.len());
        (peers, near)
    }
}

fn split(local: SocketAddrV4) -> ([u8; 2], LocalPeer) {
    let [a, b, c, d] = local.ip().octets();
    let [high, low] = local.port().to_be_bytes();
    ([a, b], [c, d, high, low])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(n: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n as u32), 1)
    }

    const ASKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

    fn remote(all: &mut Announcements, topic: u8, now: Instant) -> Vec<SocketAddrV4> {
        all.peers([topic; 32], ASKER, None, now).0
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_stored_until_withdrawn_or_expired() {
        let (mut all, now) = (Announcements::default(), Instant::now());
        all.add([1; 32], peer(1), None, now);
        all.add([1; 32], peer(2), None, now + Duration::from_secs(60));
        all.add([1; 32], ASKER, None, now + Duration::from_secs(60));
        assert_eq!(remote(&mut all, 1, now).len(), 2, "all but the asker");
        assert_eq!(remote(&mut all, 2, now), []);
        all.remove([1; 32], peer(2), None);
        assert_eq!(remote(&mut all, 1, now), [peer(1)]);
        assert_eq!(remote(&mut all, 1, now + MAX_AGE - Duration::from_millis(1)), [peer(1)]);
        assert_eq!(remote(&mut all, 1, now + MAX_AGE), []);
        assert_eq!(all.0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn local_peers_are_named_only_to_nodes_of_their_network() {
        let (mut all, now) = (Announcements::default(), Instant::now());
        let local = |c, d| Some(SocketAddrV4::new(Ipv4Addr::new(192, 168, c, d), 7));
        for n in 0..=MAX_LOCAL as u8 {
            all.add([1; 32], peer(1), local(3, n), now);
        }
        let (peers, near) = all.peers([1; 32], ASKER, local(3, 200), now);
        assert_eq!((peers.len(), near.len()), (1, MAX_LOCAL));
        let stranger = Some(SocketAddrV4::new(Ipv4Addr::new(192, 169, 3, 4), 7));
        assert_eq!(all.peers([1; 32], ASKER, stranger, now).1.len(), 0);
        all.remove([1; 32], peer(1), local(3, 0));
        assert_eq!(all.peers([1; 32], ASKER, local(3, 1), now).1.len(), MAX_LOCAL - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_limited_per_answer_per_topic_and_in_total() {
        let (mut all, now) = (Announcements::default(), Instant::now());
        for n in 0..MAX_PEERS {
            all.add([1; 32], peer(n), None, now);
        }
        assert_eq!(remote(&mut all, 1, now).len(), MAX_PEERS);
        all.add([1; 32], peer(MAX_PEERS), None, now);
        assert_eq!(remote(&mut all, 1, now).len(), MAX_PEERS);
        for n in 0..=MAX_ANNOUNCEMENTS_PER_TOPIC {
            all.add([2; 32], peer(n), None, now);
        }
        let of_topic = all.0.of(([2; 32], None)).count();
        assert_eq!(of_topic, MAX_ANNOUNCEMENTS_PER_TOPIC);
        assert!(all.0.get(&([2; 32], None), &Entry::Remote(peer(0))).is_none(), "the oldest");
        for n in 0..MAX_ANNOUNCEMENTS {
            let mut topic = [0; 32];
            topic[..8].copy_from_slice(&(n as u64).to_be_bytes());
            all.add(topic, peer(n), None, now);
        }
        assert_eq!(all.0.len(), MAX_ANNOUNCEMENTS);
        assert_eq!(remote(&mut all, 1, now), [], "the oldest went first");
    }
}
