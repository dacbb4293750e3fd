//! Who announced what to us: the peers we name to whoever asks for a topic, and the tokens by which
//! an announcement shows that its sender's address is real.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::time::Instant;

use super::id::Id;
use super::message::{LocalPeer, MAX_PEERS};
use crate::crypto::blake2b;

/// Announcements kept, of all topics; the oldest goes first.
pub const MAX_ANNOUNCEMENTS: usize = 65_536;
/// Of these, how many of one topic and kind.
pub const MAX_ANNOUNCEMENTS_PER_TOPIC: usize = 1024;
/// Who does not repeat an announcement within this time has gone.
pub const MAX_AGE: Duration = Duration::from_secs(12 * 60);
/// Local peers in one answer.
pub const MAX_LOCAL: usize = 32;
/// A token is good for this long, and as long again.
const TOKEN_EVERY: Duration = Duration::from_secs(300);

/// A topic, and of local peers the first half of their address.
type Shelf = (Id, Option<[u8; 2]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Entry {
    Remote(SocketAddrV4),
    Local(LocalPeer),
}

/// See the module's description.
#[derive(Default)]
pub struct Announcements {
    shelves: HashMap<Shelf, HashMap<Entry, u64>>,
    /// In the order in which they were made or repeated.
    order: BTreeMap<u64, (Shelf, Entry, Instant)>,
    next: u64,
}

impl Announcements {
    pub fn add(
        &mut self,
        topic: Id,
        peer: SocketAddrV4,
        local: Option<SocketAddrV4>,
        now: Instant,
    ) {
        self.expire(now);
        self.put((topic, None), Entry::Remote(peer), now);
        if let Some((prefix, end)) = local.map(split) {
            self.put((topic, Some(prefix)), Entry::Local(end), now);
        }
    }

    fn put(&mut self, shelf: Shelf, entry: Entry, now: Instant) {
        self.remove_entry(&shelf, &entry);
        let full =
            self.shelves.get(&shelf).is_some_and(|all| all.len() >= MAX_ANNOUNCEMENTS_PER_TOPIC);
        let oldest = if full {
            let oldest = |all: &HashMap<Entry, u64>| all.values().min().copied();
            self.shelves.get(&shelf).and_then(oldest)
        } else if self.order.len() >= MAX_ANNOUNCEMENTS {
            self.order.keys().next().copied()
        } else {
            None
        };
        if let Some((shelf, entry, _)) = oldest.and_then(|oldest| self.order.get(&oldest)).copied()
        {
            self.remove_entry(&shelf, &entry);
        }
        self.order.insert(self.next, (shelf, entry, now));
        self.shelves.entry(shelf).or_default().insert(entry, self.next);
        self.next += 1;
    }

    fn remove_entry(&mut self, shelf: &Shelf, entry: &Entry) {
        let Some(all) = self.shelves.get_mut(shelf) else { return };
        if let Some(number) = all.remove(entry) {
            self.order.remove(&number);
        }
        if all.is_empty() {
            self.shelves.remove(shelf);
        }
    }

    pub fn remove(&mut self, topic: Id, peer: SocketAddrV4, local: Option<SocketAddrV4>) {
        self.remove_entry(&(topic, None), &Entry::Remote(peer));
        if let Some((prefix, end)) = local.map(split) {
            self.remove_entry(&(topic, Some(prefix)), &Entry::Local(end));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, &(shelf, entry, at))) = self.order.first_key_value()
            && now >= at + MAX_AGE
        {
            self.remove_entry(&shelf, &entry);
        }
    }

    /// The peers of a topic for somebody, who is not among them: at most [`MAX_PEERS`] together.
    pub fn peers(
        &mut self,
        topic: Id,
        asker: SocketAddrV4,
        local: Option<SocketAddrV4>,
        now: Instant,
    ) -> (Vec<SocketAddrV4>, Vec<LocalPeer>) {
        self.expire(now);
        let mut near: Vec<LocalPeer> = Vec::new();
        if let Some((prefix, end)) = local.map(split) {
            let all = self.shelves.get(&(topic, Some(prefix))).into_iter().flatten();
            near.extend(all.filter_map(|(entry, _)| match entry {
                Entry::Local(peer) if *peer != end => Some(*peer),
                _ => None,
            }));
            fastrand::shuffle(&mut near);
            near.truncate(MAX_LOCAL);
        }
        let all = self.shelves.get(&(topic, None)).into_iter().flatten();
        let mut peers: Vec<SocketAddrV4> = all
            .filter_map(|(entry, _)| match entry {
                Entry::Remote(peer) if *peer != asker => Some(*peer),
                _ => None,
            })
            .collect();
        fastrand::shuffle(&mut peers);
        peers.truncate(MAX_PEERS - near.len());
        (peers, near)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.order.len()
    }
}

fn split(local: SocketAddrV4) -> ([u8; 2], LocalPeer) {
    let [a, b, c, d] = local.ip().octets();
    let [high, low] = local.port().to_be_bytes();
    ([a, b], [c, d, high, low])
}

/// What shows that a request comes from where it says: who sends it has received an answer there.
pub struct Tokens {
    secrets: [[u8; 32]; 2],
    since: Instant,
}

impl Tokens {
    pub fn new(secrets: [[u8; 32]; 2], now: Instant) -> Self {
        Self { secrets, since: now }
    }

    /// Changes the secret if it is old; `fresh` is a new one.
    pub fn rotate(&mut self, now: Instant, fresh: impl FnOnce() -> Option<[u8; 32]>) {
        if now >= self.since + TOKEN_EVERY
            && let Some(fresh) = fresh()
        {
            self.secrets = [fresh, self.secrets[0]];
            self.since = now;
        }
    }

    pub fn token(&self, host: Ipv4Addr) -> [u8; 32] {
        token(&self.secrets[0], host)
    }

    pub fn accepts(&self, claimed: &[u8; 32], host: Ipv4Addr) -> bool {
        self.secrets.iter().any(|secret| token(secret, host) == *claimed)
    }
}

fn token(secret: &[u8; 32], host: Ipv4Addr) -> [u8; 32] {
    blake2b(&[secret, host.to_string().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n as u32), 1)
    }

    const ASKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

    fn remote(all: &mut Announcements, topic: u8, now: Instant) -> Vec<SocketAddrV4> {
        all.peers([topic; 32], ASKER, None, now).0
    }

    #[tokio::test(start_paused = true)]
    async fn announced_until_taken_back_or_too_old() {
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
        assert_eq!(all.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn local_peers_are_told_to_their_neighbours_only() {
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
    async fn so_many_in_one_answer_of_one_topic_and_in_all() {
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
        let of_topic = all.shelves[&([2; 32], None)].len();
        assert_eq!(of_topic, MAX_ANNOUNCEMENTS_PER_TOPIC);
        assert!(!all.shelves[&([2; 32], None)].contains_key(&Entry::Remote(peer(0))), "the oldest");
        for n in 0..MAX_ANNOUNCEMENTS {
            let mut topic = [0; 32];
            topic[..8].copy_from_slice(&(n as u64).to_be_bytes());
            all.add(topic, peer(n), None, now);
        }
        assert_eq!(all.len(), MAX_ANNOUNCEMENTS);
        assert_eq!(remote(&mut all, 1, now), [], "the oldest went first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_for_one_host_and_two_periods() {
        let start = Instant::now();
        let mut tokens = Tokens::new([[1; 32], [2; 32]], start);
        let host = Ipv4Addr::new(10, 1, 2, 3);
        let token = tokens.token(host);
        assert!(tokens.accepts(&token, host));
        assert!(!tokens.accepts(&token, Ipv4Addr::new(10, 1, 2, 4)));
        let mut at = start;
        for (n, good) in [(3, true), (4, false)] {
            at += TOKEN_EVERY;
            tokens.rotate(at, || Some([n; 32]));
            assert_eq!(tokens.accepts(&token, host), good);
        }
        assert_ne!(tokens.token(host), token);
        assert_eq!(blake2b(&[&[1; 32], b"10.1.2.3"]), token);
    }
}
