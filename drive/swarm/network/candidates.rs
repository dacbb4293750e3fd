//! Addresses that discovery found: which one is dialled next, and which are not dialled for a while.
//!
//! Priorities and pauses are those of the original: peers of the local network first, then others,
//! then those behind our own public address; after a failure a pause of 1, 5 and 15 seconds, then
//! the address is forgotten until it is found again. The bounds are ours: discovery can return
//! wrong addresses, and any number of them.
//!
//! Times are passed in, and tests choose the seed. Not here: dialling, and how addresses are found.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::crypto::DiscoveryKey;

/// Addresses remembered at once.
pub(crate) const MAX_CANDIDATES: usize = 1024;
/// Of these, addresses from one source: one answer of an honest node has at most 128.
pub(crate) const MAX_CANDIDATES_PER_SOURCE: usize = 128;
/// Topics remembered of one address; it is dialled while one of them is still joined.
pub(crate) const MAX_TOPICS_PER_CANDIDATE: usize = 64;
/// Concurrent attempts to connect.
pub(crate) const MAX_DIALLING: usize = 16;
/// Of these, attempts by the key of a HyperDHT node: each may take most of a minute.
pub(crate) const MAX_DIALLING_BY_KEY: usize = 8;
/// Pauses after the first, second and third failure in a row, each times 0.66 to 1.33.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// How long an address that failed too often is remembered.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(7500);
/// How long an address that proved to be our own is not dialled.
const OURSELVES_FOR: Duration = Duration::from_secs(600);
/// How long a peer that speaks another protocol is not dialled.
const FOREIGN_FOR: Duration = Duration::from_secs(600);

/// Where a peer can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DialTarget {
    Tcp(SocketAddr),
    /// The public key of its HyperDHT node.
    HyperDht([u8; 32]),
}

impl std::fmt::Display for DialTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialTarget::Tcp(address) => address.fmt(f),
            DialTarget::HyperDht(key) => {
                f.write_str("HyperDHT ")?;
                key.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// The source of a peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The peer itself, on the local network.
    Lan(IpAddr),
    /// A node of the DHT.
    Node(IpAddr),
    /// A node of the HyperDHT.
    HyperNode(IpAddr),
    /// The peer itself, over another connection to us.
    Itself(IpAddr),
}

/// Candidates of the greatest priority are dialled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// The peer has our own public address.
    SameHost,
    Normal,
    Local,
}

/// A peer that discovery found for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub topic: DiscoveryKey,
    pub target: DialTarget,
    pub source: Source,
    pub priority: Priority,
}

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It could not be reached, opened no channel, or sent invalid data.
    Failed,
    /// It had opened a channel, so it knows a key of ours.
    Left,
    /// We have another connection to the peer with this static key.
    Duplicate([u8; 32]),
    Ourselves,
    /// It does not speak our protocol, which is no fault.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CandidateState {
    Waiting(Instant),
    /// Being dialled.
    Dialling,
    Connected,
    /// Failed too often; forgotten at that time unless it is found again.
    Spent(Instant),
    /// Not dialled while another connection to that static key lasts.
    Duplicate([u8; 32]),
    /// It is this process, or speaks another protocol: not dialled until that time.
    Aside(Instant),
}

struct Candidate {
    topics: Vec<DiscoveryKey>,
    source: Source,
    priority: Priority,
    failures: usize,
    state: CandidateState,
}

/// All candidates.
#[derive(Default)]
pub(crate) struct Candidates {
    all: HashMap<DialTarget, Candidate>,
    chance: fastrand::Rng,
}

impl Candidates {
    #[cfg(test)]
    fn with_seed(seed: u64) -> Self {
        Self { all: HashMap::new(), chance: fastrand::Rng::with_seed(seed) }
    }

    /// Adds a peer that was found; false if there is no room for it.
    pub(crate) fn found(&mut self, found: &Found, now: Instant) -> bool {
        if let Some(known) = self.all.get_mut(&found.target) {
            known.priority = known.priority.max(found.priority);
            if !known.topics.contains(&found.topic) && known.topics.len() < MAX_TOPICS_PER_CANDIDATE
            {
                known.topics.push(found.topic);
            }
            if matches!(known.state, CandidateState::Spent(_)) {
                known.failures = 0;
                known.state = CandidateState::Waiting(now);
            }
            return true;
        }
        let of_source = self.all.values().filter(|other| other.source == found.source).count();
        if of_source >= MAX_CANDIDATES_PER_SOURCE || !self.make_room() {
            return false;
        }
        let candidate = Candidate {
            topics: vec![found.topic],
            source: found.source,
            priority: found.priority,
            failures: 0,
            state: CandidateState::Waiting(now),
        };
        self.all.insert(found.target, candidate);
        true
    }

    /// Forgets the address that failed most often if the limit is reached.
    fn make_room(&mut self) -> bool {
        if self.all.len() < MAX_CANDIDATES {
            return true;
        }
        let idle = |state: CandidateState| {
            matches!(state, CandidateState::Waiting(_) | CandidateState::Spent(_))
        };
        let failed = self.all.iter().filter(|(_, one)| one.failures > 0 && idle(one.state));
        let Some(most) = failed.max_by_key(|(_, one)| one.failures).map(|(address, _)| *address)
        else {
            return false;
        };
        self.all.remove(&most);
        true
    }

    /// The address to dial now; it counts as being dialled until [`Candidates::connected`] or
    /// [`Candidates::ended`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<DialTarget> {
        self.all.retain(|_, one| match one.state {
            CandidateState::Spent(until) | CandidateState::Aside(until) => now < until,
            _ => true,
        });
        if self.dialling(|_| true) >= MAX_DIALLING {
            return None;
        }
        let by_key = |target: &DialTarget| matches!(target, DialTarget::HyperDht(_));
        let only_addresses = self.dialling(by_key) >= MAX_DIALLING_BY_KEY;
        let due = |target: &DialTarget, one: &Candidate| {
            let due = matches!(one.state, CandidateState::Waiting(at) if at <= now);
            (due && !(only_addresses && by_key(target))).then_some(one.priority)
        };
        let best = self.all.iter().filter_map(|(target, one)| due(target, one)).max()?;
        let equals = self.all.iter().filter(|(target, one)| due(target, one) == Some(best));
        let equals: Vec<_> = equals.map(|(target, _)| *target).collect();
        let address = *self.chance.choice(&equals)?;
        self.set(&address, CandidateState::Dialling);
        Some(address)
    }

    fn dialling(&self, count: impl Fn(&DialTarget) -> bool) -> usize {
        let dialling = |(at, one): &(&DialTarget, &Candidate)| {
            one.state == CandidateState::Dialling && count(at)
        };
        self.all.iter().filter(dialling).count()
    }

    /// The first source of a peer, and the topics it was found for.
    pub(crate) fn origin(&self, target: &DialTarget) -> Option<(Source, Vec<DiscoveryKey>)> {
        self.all.get(target).map(|one| (one.source, one.topics.clone()))
    }

    /// Addresses that are being dialled or connected.
    pub(crate) fn busy(&self) -> usize {
        let busy = |one: &&Candidate| {
            matches!(one.state, CandidateState::Dialling | CandidateState::Connected)
        };
        self.all.values().filter(busy).count()
    }

    fn set(&mut self, address: &DialTarget, state: CandidateState) {
        if let Some(one) = self.all.get_mut(address) {
            one.state = state;
        }
    }

    pub(crate) fn connected(&mut self, address: &DialTarget) {
        self.set(address, CandidateState::Connected);
    }

    /// An attempt failed, or a connection that was dialled is over.
    pub(crate) fn ended(&mut self, address: &DialTarget, outcome: Outcome, now: Instant) {
        let jitter = 0.66 + 0.67 * self.chance.f64();
        let Some(one) = self.all.get_mut(address) else { return };
        if one.topics.is_empty() {
            self.all.remove(address);
            return;
        }
        one.state = match outcome {
            Outcome::Duplicate(key) => CandidateState::Duplicate(key),
            Outcome::Ourselves => CandidateState::Aside(now + OURSELVES_FOR),
            Outcome::Foreign => CandidateState::Aside(now + FOREIGN_FOR),
            Outcome::Failed | Outcome::Left => {
                one.failures = if outcome == Outcome::Left { 1 } else { one.failures + 1 };
                match PAUSES.get(one.failures - 1) {
                    Some(pause) => CandidateState::Waiting(now + pause.mul_f64(jitter)),
                    None => CandidateState::Spent(now + FORGOTTEN_AFTER),
                }
            }
        };
    }

    /// The last connection to the peer with this static key is over.
    pub(crate) fn gone(&mut self, key: &[u8; 32], now: Instant) {
        for one in self.all.values_mut().filter(|one| one.state == CandidateState::Duplicate(*key))
        {
            one.state = CandidateState::Waiting(now);
        }
    }

    /// Stops dialling peers for this topic. Connections stay.
    pub(crate) fn left(&mut self, topic: &DiscoveryKey) {
        self.all.retain(|_, one| {
            one.topics.retain(|other| other != topic);
            !one.topics.is_empty()
                || matches!(one.state, CandidateState::Dialling | CandidateState::Connected)
        });
    }

    /// When [`Candidates::next`] may have an answer that it has not now.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = |one: &Candidate| match one.state {
            CandidateState::Waiting(at) => Some(at),
            _ => None,
        };
        self.all.values().filter_map(waiting).min()
    }

    #[cfg(test)]
    pub(super) fn is_any(&self, holds: impl Fn(CandidateState) -> bool) -> bool {
        self.all.values().any(|one| holds(one.state))
    }

    /// How many addresses are known for a topic, in any state.
    pub(crate) fn known_for(&self, topic: &DiscoveryKey) -> usize {
        self.all.values().filter(|one| one.topics.contains(topic)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: u8) -> DiscoveryKey {
        DiscoveryKey::new([n; 32])
    }

    fn address(n: usize) -> DialTarget {
        DialTarget::Tcp(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1)))
    }

    fn found(n: usize, source: u8, priority: Priority) -> Found {
        let source = Source::Node(IpAddr::from([192, 0, 2, source]));
        Found { topic: topic(1), target: address(n), source, priority }
    }

    fn normal(n: usize) -> Found {
        found(n, (n / MAX_CANDIDATES_PER_SOURCE) as u8, Priority::Normal)
    }

    #[tokio::test(start_paused = true)]
    async fn local_peers_are_dialled_first_and_concurrent_attempts_are_limited() {
        let (mut candidates, now) = (Candidates::with_seed(1), Instant::now());
        for n in 0..MAX_DIALLING + 3 {
            let priority = match n {
                0 => Priority::SameHost,
                1 => Priority::Local,
                _ => Priority::Normal,
            };
            assert!(candidates.found(&found(n, 1, priority), now));
        }
        let order: Vec<_> = std::iter::from_fn(|| candidates.next(now)).collect();
        assert_eq!(order.len(), MAX_DIALLING, "no more at once");
        assert_eq!(order[0], address(1), "the local one first");
        assert!(!order.contains(&address(0)), "our own public address last");
        candidates.ended(&order[0], Outcome::Failed, now);
        assert!(candidates.next(now).is_some(), "one more when one has ended");
        assert!(candidates.next(now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_forgotten_after_three_pauses_until_it_is_found_again() {
        let (mut candidates, start) = (Candidates::with_seed(2), Instant::now());
        candidates.found(&normal(0), start);
        let mut now = start;
        for pause in PAUSES {
            assert_eq!(candidates.next(now), Some(address(0)));
            candidates.ended(&address(0), Outcome::Failed, now);
            let due = candidates.due().unwrap();
            let factor = (due - now).as_secs_f64() / pause.as_secs_f64();
            assert!((0.65..1.34).contains(&factor), "{factor}");
            assert_eq!(candidates.next(due - Duration::from_millis(1)), None);
            now = due;
        }
        assert_eq!(candidates.next(now), Some(address(0)));
        candidates.ended(&address(0), Outcome::Failed, now);
        assert_eq!(candidates.due(), None, "not tried again");
        candidates.found(&normal(0), now);
        assert_eq!(candidates.next(now), Some(address(0)), "named again");
        for _ in 0..=PAUSES.len() {
            candidates.ended(&address(0), Outcome::Failed, now);
        }
        assert_eq!(candidates.next(now + FORGOTTEN_AFTER), None);
        assert_eq!(candidates.known_for(&topic(1)), 0, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_useful_is_dialled_again_after_the_shortest_pause() {
        let (mut candidates, now) = (Candidates::with_seed(3), Instant::now());
        candidates.found(&normal(0), now);
        candidates.ended(&address(0), Outcome::Failed, now);
        candidates.ended(&address(0), Outcome::Failed, now);
        candidates.ended(&address(0), Outcome::Left, now);
        assert!(candidates.due().unwrap() - now < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn candidates_in_total_are_limited() {
        let (mut candidates, now) = (Candidates::with_seed(4), Instant::now());
        for n in 0..MAX_CANDIDATES {
            assert!(candidates.found(&normal(n), now), "{n}");
        }
        assert!(!candidates.found(&normal(MAX_CANDIDATES), now));
        candidates.ended(&address(7), Outcome::Failed, now);
        assert!(candidates.found(&normal(MAX_CANDIDATES), now), "in the place of one that failed");
        assert!(!candidates.found(&normal(MAX_CANDIDATES + 1), now));
        assert_eq!(candidates.all.len(), MAX_CANDIDATES);
    }

    #[tokio::test(start_paused = true)]
    async fn candidates_of_one_source_are_limited() {
        let (mut candidates, now) = (Candidates::with_seed(5), Instant::now());
        for n in 0..MAX_CANDIDATES_PER_SOURCE {
            assert!(candidates.found(&found(n, 1, Priority::Normal), now));
        }
        let one_more = MAX_CANDIDATES_PER_SOURCE;
        assert!(!candidates.found(&found(one_more, 1, Priority::Normal), now));
        assert!(candidates.found(&found(one_more, 2, Priority::Normal), now), "another's word");
    }

    #[tokio::test(start_paused = true)]
    async fn topics_of_one_address_are_limited() {
        let (mut candidates, now) = (Candidates::with_seed(6), Instant::now());
        for n in 0..=MAX_TOPICS_PER_CANDIDATE {
            candidates.found(&Found { topic: topic(n as u8), ..normal(0) }, now);
        }
        assert_eq!(candidates.known_for(&topic(MAX_TOPICS_PER_CANDIDATE as u8 - 1)), 1);
        assert_eq!(candidates.known_for(&topic(MAX_TOPICS_PER_CANDIDATE as u8)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_peer_is_dialled_for_a_topic_that_was_left() {
        let (mut candidates, now) = (Candidates::with_seed(7), Instant::now());
        candidates.found(&normal(0), now);
        candidates.found(&normal(1), now);
        candidates.found(&Found { topic: topic(2), ..normal(1) }, now);
        candidates.left(&topic(1));
        assert_eq!(candidates.next(now), Some(address(1)), "found for another topic too");
        assert_eq!(candidates.next(now), None);
        candidates.left(&topic(2));
        candidates.ended(&address(1), Outcome::Left, now);
        assert_eq!(candidates.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_attempts_by_key_are_limited() {
        let (mut candidates, now) = (Candidates::with_seed(9), Instant::now());
        let by_key = |n: u8| Found { target: DialTarget::HyperDht([n; 32]), ..normal(0) };
        for n in 0..=MAX_DIALLING_BY_KEY as u8 {
            assert!(candidates.found(&by_key(n), now));
        }
        for _ in 0..MAX_DIALLING_BY_KEY {
            assert!(matches!(candidates.next(now), Some(DialTarget::HyperDht(_))));
        }
        assert_eq!(candidates.next(now), None);
        candidates.found(&normal(1), now);
        assert_eq!(candidates.next(now), Some(address(1)), "an address has its places");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_of_another_protocol_is_not_dialled_again_soon() {
        let (mut candidates, now) = (Candidates::with_seed(10), Instant::now());
        candidates.found(&normal(0), now);
        candidates.ended(&address(0), Outcome::Foreign, now);
        candidates.found(&normal(0), now);
        let before = now + FOREIGN_FOR - Duration::from_millis(1);
        assert_eq!(candidates.next(before), None, "naming it again changes nothing");
        assert_eq!(candidates.next(now + FOREIGN_FOR), None, "forgotten");
        candidates.found(&normal(0), now);
        assert_eq!(candidates.next(now + FOREIGN_FOR), Some(address(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn duplicates_wait_for_the_other_connection_and_we_are_not_dialled() {
        let (mut candidates, now) = (Candidates::with_seed(8), Instant::now());
        for n in 0..2 {
            candidates.found(&normal(n), now);
            candidates.next(now);
        }
        candidates.ended(&address(0), Outcome::Duplicate([9; 32]), now);
        candidates.ended(&address(1), Outcome::Ourselves, now);
        candidates.found(&normal(0), now);
        candidates.found(&normal(1), now);
        assert_eq!(candidates.next(now), None, "naming them again changes nothing");
        candidates.gone(&[8; 32], now);
        assert_eq!(candidates.next(now), None, "another peer's connection");
        candidates.gone(&[9; 32], now);
        assert_eq!(candidates.next(now), Some(address(0)));
    }
}
