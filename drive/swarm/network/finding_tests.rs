//! Swarms on this machine that find each other, twice, and themselves. The tests take the part of
//! discovery. On each connection both sides only exchange their keys.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::candidates::{DialTarget, Found, Priority, Source};
use super::testing::{idle, introducing};
use super::topics::MAX_TOPICS;
use super::*;

/// Two swarms that look for the same topic.
struct Pair {
    topic: DiscoveryKey,
    swarms: [(Swarm, SocketAddr); 2],
}

impl Pair {
    async fn new() -> Self {
        let topic = DiscoveryKey::new([3; 32]);
        let mut swarms = Vec::new();
        for _ in 0..2 {
            let swarm = introducing();
            let address = swarm.listen((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            swarm.join(topic, Interest::LOOKUP).unwrap();
            swarms.push((swarm, address));
        }
        Self { topic, swarms: swarms.try_into().ok().unwrap() }
    }

    async fn find(&self, who: usize, address: SocketAddr) {
        let source = Source::Lan(address.ip());
        let found = Found {
            topic: self.topic,
            target: DialTarget::Tcp(address),
            source,
            priority: Priority::Local,
        };
        self.swarms[who].0.inner.finding.found.send(found).await.unwrap();
    }

    /// Whether each has one connection, the same, with a channel.
    fn settled(&self) -> bool {
        let peers = self.swarms.each_ref().map(|(swarm, _)| swarm.peers());
        let one = peers.iter().all(|peers| peers.len() == 1 && peers[0].cores == 1);
        one && peers[0][0].incoming != peers[1][0].incoming
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Which of the two may keep what it dialled.
    fn smaller(&self) -> usize {
        let [first, second] = self.swarms.each_ref().map(|(swarm, _)| swarm.inner.identity);
        usize::from(second < first)
    }
}

/// Both dial each other at the same time: both keep the one connection of the smaller key.
#[tokio::test]
async fn both_peers_keep_the_same_one_of_two_connections() {
    for _ in 0..10 {
        let pair = Pair::new().await;
        let addresses = [pair.swarms[1].1, pair.swarms[0].1];
        tokio::join!(pair.find(0, addresses[0]), pair.find(1, addresses[1]));
        let smaller = pair.smaller();
        pair.eventually("the smaller key's connection is the one that is kept", |pair| {
            pair.settled() && !pair.swarms[smaller].0.peers()[0].incoming
        })
        .await;
        pair.swarms.iter().for_each(|(swarm, _)| swarm.close());
    }
}

#[tokio::test]
async fn a_duplicate_is_dialled_when_the_other_connection_is_over() {
    let pair = Pair::new().await;
    let larger = 1 - pair.smaller();
    // What the smaller dials survives whatever comes later.
    pair.find(1 - larger, pair.swarms[larger].1).await;
    pair.eventually("connected", Pair::settled).await;
    pair.find(larger, pair.swarms[1 - larger].1).await;
    let duplicate = |pair: &Pair| pair.swarms[larger].0.inner.finding.has_duplicates();
    pair.eventually("the second is given up", duplicate).await;
    assert!(pair.settled());
    // The first is over, and its side dials no more.
    let first = &pair.swarms[1 - larger].0;
    first.leave(&pair.topic);
    for handle in first.inner.state().connections.values() {
        handle.end("the test is over".into(), false);
    }
    pair.eventually("the other one dials", |pair| {
        pair.settled() && !pair.swarms[larger].0.peers()[0].incoming
    })
    .await;
}

#[tokio::test]
async fn we_do_not_stay_connected_to_ourselves() {
    let pair = Pair::new().await;
    let (swarm, address) = &pair.swarms[0];
    pair.find(0, *address).await;
    pair.eventually("it is noticed", |pair| {
        pair.swarms[0].0.inner.finding.knows_itself() && pair.swarms[0].0.peers().is_empty()
    })
    .await;
    swarm.dial(&address.to_string());
    pair.eventually("both sides report the same connection", |pair| {
        pair.swarms[0].0.troubles().iter().any(|trouble| trouble.ends_with("this process itself"))
    })
    .await;
}

#[tokio::test]
async fn peers_are_dialled_only_for_topics_with_lookup() {
    let pair = Pair::new().await;
    let (first, _) = &pair.swarms[0];
    first.leave(&pair.topic);
    pair.find(0, pair.swarms[1].1).await;
    first.join(pair.topic, Interest { announce: true, lookup: false }).unwrap();
    pair.find(0, pair.swarms[1].1).await;
    pair.eventually("all addresses were handled", |pair| {
        let found = &pair.swarms[0].0.inner.finding.found;
        found.capacity() == found.max_capacity()
    })
    .await;
    assert_eq!(first.found(&pair.topic), 0);
    first.join(pair.topic, Interest::LOOKUP).unwrap();
    pair.find(0, pair.swarms[1].1).await;
    pair.eventually("connected", Pair::settled).await;
}

#[tokio::test]
async fn joined_topics_are_limited() {
    let swarm = idle();
    let topic = |n: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        DiscoveryKey::new(bytes)
    };
    for n in 0..MAX_TOPICS {
        swarm.join(topic(n), Interest::LOOKUP).unwrap();
    }
    assert_eq!(swarm.join(topic(MAX_TOPICS), Interest::LOOKUP), Err(TooManyTopics));
    swarm.join(topic(0), Interest::BOTH).unwrap();
    swarm.leave(&topic(1));
    swarm.join(topic(MAX_TOPICS), Interest::LOOKUP).unwrap();
}

/// 20,000 addresses from one source are dialled with a bounded number of attempts at a time.
#[tokio::test]
async fn a_flood_of_addresses_causes_a_limited_number_of_attempts() {
    let pair = Pair::new().await;
    let swarm = &pair.swarms[0].0;
    for n in 0..20_000_u32 {
        // 127.0.0.0/8 is all this machine; nothing listens at that port.
        let address = SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + n), 9));
        let source = Source::Node(Ipv4Addr::from(0xc000_0200 + n % 16).into());
        let found = Found {
            topic: pair.topic,
            target: DialTarget::Tcp(address),
            source,
            priority: Priority::Normal,
        };
        swarm.inner.finding.found.send(found).await.unwrap();
        assert!(swarm.inner.finding.busy() <= finding::MAX_FOUND_CONNECTIONS);
    }
    assert!(swarm.found(&pair.topic) <= candidates::MAX_CANDIDATES);
}
