//! Whole networks of nodes in one process, with packets that are late, lost and reordered. Time is
//! the test's own, so that nothing depends on the machine.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::node::{DhtNode, Event};
use super::purpose::Goal;
use crate::kademlia::RandomParts;

const TOPIC: [u8; 32] = [0xab; 32];

struct Network {
    nodes: BTreeMap<SocketAddrV4, DhtNode>,
    /// Under way: when it arrives, a number to keep the order, from, to, what.
    packets: BTreeMap<(Instant, u64), (SocketAddrV4, SocketAddrV4, Bytes)>,
    chance: fastrand::Rng,
    loss: f64,
    now: Instant,
    sent: u64,
    events: HashMap<SocketAddrV4, Vec<Event>>,
    down: Vec<SocketAddrV4>,
}

fn address(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 1000 + u16::from(n))
}

impl Network {
    /// A persistent bootstrap node, and `count - 1` others that know no other node.
    fn new(count: u8, loss: f64, seed: u64) -> Self {
        let now = Instant::now();
        let mut network = Self {
            nodes: BTreeMap::new(),
            packets: BTreeMap::new(),
            chance: fastrand::Rng::with_seed(seed),
            loss,
            now,
            sent: 0,
            events: HashMap::new(),
            down: Vec::new(),
        };
        for n in 0..count {
            network.enter(n, false);
        }
        network
    }

    fn enter(&mut self, n: u8, ephemeral: bool) {
        let bootstrap = if n == 0 { Vec::new() } else { vec![address(0)] };
        let mut random = || std::array::from_fn(|_| self.chance.u8(..));
        let chosen = RandomParts { id: random(), secrets: [random(), random()], first_request: 9 };
        self.nodes.insert(address(n), DhtNode::new(chosen, bootstrap, ephemeral, self.now));
    }

    fn node(&mut self, n: u8) -> &mut DhtNode {
        self.nodes.get_mut(&address(n)).unwrap()
    }

    fn start(&mut self, n: u8, goal: Goal) -> u64 {
        let now = self.now;
        self.node(n).start(TOPIC, goal, now).unwrap()
    }

    /// Sends what waits to be sent, then lets the next thing happen, unless it is after `until`.
    fn step(&mut self, until: Instant) -> bool {
        for (from, node) in &mut self.nodes {
            while let Some((to, packet)) = node.next_packet() {
                self.sent += 1;
                let lost = self.chance.f64() < self.loss || self.down.contains(from);
                if !lost {
                    let delay = Duration::from_micros(self.chance.u64(5_000..80_000));
                    self.packets.insert((self.now + delay, self.sent), (*from, to, packet));
                }
            }
            self.events.entry(*from).or_default().extend(std::iter::from_fn(|| node.next_event()));
        }
        let tick = self.nodes.values().map(DhtNode::next_tick).min().unwrap();
        let arrival = self.packets.first_key_value().map(|((at, _), _)| *at);
        let next = arrival.map_or(tick, |arrival| arrival.min(tick)).max(self.now);
        if next > until {
            self.now = until;
            return false;
        }
        self.now = next;
        if arrival == Some(next) {
            let (_, (from, to, packet)) = self.packets.pop_first().unwrap();
            if !self.down.contains(&to)
                && let Some(node) = self.nodes.get_mut(&to)
            {
                node.receive(from, &packet, next);
            }
        }
        for node in self.nodes.values_mut().filter(|node| node.next_tick() <= next) {
            node.tick(next);
        }
        true
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs a query to its end: how many nodes answered, how many took the announcement, and the
    /// peers that were named.
    fn finish(&mut self, n: u8, query: u64) -> (usize, usize, Vec<SocketAddrV4>) {
        let until = self.now + Duration::from_secs(45);
        loop {
            let events = self.events.entry(address(n)).or_default();
            let ended = events.iter().find_map(|event| match event {
                Event::Finished { query: ended, answered, announced } if *ended == query => {
                    Some((*answered, *announced))
                }
                _ => None,
            });
            if let Some((answered, announced)) = ended {
                let named = events.iter().filter_map(|event| match event {
                    Event::Peer { query: of, address, .. } if *of == query => Some(*address),
                    _ => None,
                });
                let mut named: Vec<_> = named.collect();
                named.sort_unstable();
                named.dedup();
                return (answered, announced, named);
            }
            assert!(self.step(until), "the query does not end");
        }
    }
}

fn announced_is_found(loss: f64, seed: u64) {
    let mut network = Network::new(40, loss, seed);
    network.run(Duration::from_secs(30));
    let fewest = network.nodes.values().map(DhtNode::nodes).min().unwrap();
    assert!(fewest >= 10, "a node knows only {fewest} others");

    // Repeated when no node answered, as every node does: a single bootstrap node may lose its
    // packets.
    network.enter(100, true);
    let took = (0..5).map(|_| {
        let announce = network.start(100, Goal::Announce { port: 4000 });
        network.finish(100, announce).1
    });
    let took = took.into_iter().find(|took| *took > 0).unwrap_or(0);
    assert!(took >= 10, "{took} nodes took the announcement");
    let seeder = SocketAddrV4::new(*address(100).ip(), 4000);
    for reader in [101, 102] {
        network.enter(reader, true);
        let named = (0..5).map(|_| {
            let lookup = network.start(reader, Goal::Lookup);
            network.finish(reader, lookup).2
        });
        assert_eq!(named.into_iter().find(|named| !named.is_empty()), Some(vec![seeder]));
    }
    let own = network.start(100, Goal::Lookup);
    network.finish(100, own);
    for node in network.nodes.values() {
        assert!(node.nodes() <= 40, "no node remembers an ephemeral node");
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_of_one_of_forty_nodes_is_found_by_the_others() {
    announced_is_found(0.0, 1);
}

#[tokio::test(start_paused = true)]
async fn lookups_succeed_when_a_fifth_of_all_packets_is_lost() {
    for seed in 1..=5 {
        announced_is_found(0.2, seed);
    }
}

#[tokio::test(start_paused = true)]
async fn lookups_succeed_after_half_of_the_nodes_disappear() {
    let mut network = Network::new(40, 0.05, 3);
    network.run(Duration::from_secs(30));
    network.enter(100, true);
    let announce = network.start(100, Goal::Announce { port: 4000 });
    network.finish(100, announce);
    network.down = (1..40).step_by(2).map(address).collect();
    network.enter(101, true);
    let lookup = network.start(101, Goal::Lookup);
    assert_eq!(network.finish(101, lookup).2.len(), 1);
    // Announced again, as every node does every few minutes, it is where lookups search now.
    network.run(Duration::from_secs(300));
    let announce = network.start(100, Goal::Announce { port: 4000 });
    assert!(network.finish(100, announce).1 >= 10);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_withdrawn_and_expires() {
    let mut network = Network::new(30, 0.0, 4);
    network.run(Duration::from_secs(30));
    for n in [100, 101] {
        network.enter(n, true);
        let announce = network.start(n, Goal::Announce { port: 4000 });
        network.finish(n, announce);
    }
    let now = network.now;
    network.node(100).take_back(&TOPIC, now);
    network.run(Duration::from_secs(1));
    network.enter(102, true);
    let lookup = network.start(102, Goal::Lookup);
    assert_eq!(network.finish(102, lookup).2, [SocketAddrV4::new(*address(101).ip(), 4000)]);
    network.run(super::announcements::MAX_AGE);
    let lookup = network.start(102, Goal::Lookup);
    assert_eq!(network.finish(102, lookup).2, []);
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_node_alone_is_a_network() {
    let mut network = Network::new(1, 0.0, 5);
    network.enter(100, true);
    network.enter(101, true);
    let announce = network.start(100, Goal::Announce { port: 4000 });
    assert_eq!(network.finish(100, announce), (1, 1, vec![]));
    let lookup = network.start(101, Goal::Lookup);
    assert_eq!(network.finish(101, lookup).2.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_any_answer_a_query_ends_in_time() {
    let mut network = Network::new(1, 1.0, 6);
    network.enter(100, true);
    let start = network.now;
    let lookup = network.start(100, Goal::Lookup);
    assert_eq!(network.finish(100, lookup), (0, 0, vec![]));
    assert!(network.now - start <= Duration::from_secs(7));
}
