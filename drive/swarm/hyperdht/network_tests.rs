//! Whole networks of nodes in one process, behind routers of several kinds, with packets that are
//! late, lost and reordered. Time is the test's own, so that nothing depends on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::announcement::target_of;
use super::interface::{Ask, Asked, Event, Reachability, Role, SocketId};
use super::message::Command;
use super::node::HyperDhtNode;
use super::payload::{Handshake, Holepunch, Mode};
use super::records::MAX_AGE;
use crate::crypto::KeyPair;
use crate::kademlia::{Id, RandomParts};

const TOPIC: Id = [0xab; 32];
const STAYING: u8 = 40;

/// The router between a host and the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Router {
    None,
    /// Admits addresses to which a packet was sent; one port for all remotes.
    Consistent,
    /// A port for each remote address.
    Random,
}

struct Host {
    node: HyperDhtNode,
    router: Router,
    /// The addresses to which each socket has sent.
    known: BTreeSet<(SocketId, SocketAddrV4)>,
    events: Vec<Event>,
}

struct Network {
    hosts: BTreeMap<u8, Host>,
    /// The owner of an address, and for routers with one port per remote, the remote.
    places: BTreeMap<SocketAddrV4, (u8, SocketId, Option<SocketAddrV4>)>,
    /// Under way: when it arrives, a number to keep the order, from, to, what.
    packets: BTreeMap<(Instant, u64), (SocketAddrV4, SocketAddrV4, Bytes)>,
    chance: fastrand::Rng,
    loss: f64,
    now: Instant,
    sent: u64,
    down: BTreeSet<u8>,
}

fn address(n: u8, socket: SocketId) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 1000 + u16::from(n) + 1000 * socket.0 as u16)
}

fn keys(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

fn target(n: u8) -> Id {
    target_of(&keys(n).public_key())
}

impl Network {
    /// Nodes that stay: the first is what all begin with.
    fn new(count: u8, loss: f64, seed: u64) -> Self {
        let mut network = Self {
            hosts: BTreeMap::new(),
            places: BTreeMap::new(),
            packets: BTreeMap::new(),
            chance: fastrand::Rng::with_seed(seed),
            loss,
            now: Instant::now(),
            sent: 0,
            down: BTreeSet::new(),
        };
        for n in 0..count {
            let role = Role::Persistent { address: address(n, SocketId::SERVER) };
            network.add(n, role, Router::None);
        }
        network
    }

    /// A network that has run for half a minute.
    fn settled(count: u8, loss: f64, seed: u64) -> Self {
        let mut network = Self::new(count, loss, seed);
        network.run(Duration::from_secs(30));
        network
    }

    fn enter(&mut self, n: u8, router: Router) {
        let server_port = address(n, SocketId::SERVER).port();
        self.add(n, Role::Ephemeral { server_port }, router);
    }

    fn add(&mut self, n: u8, role: Role, router: Router) {
        let first = if n == 0 { Vec::new() } else { vec![address(0, SocketId::SERVER)] };
        let mut random = || std::array::from_fn(|_| self.chance.u8(..));
        let chosen = RandomParts { id: random(), secrets: [random(), random()], first_request: 9 };
        let node = HyperDhtNode::new(chosen, keys(n), first, role, self.now);
        for socket in [SocketId::CLIENT, SocketId::SERVER] {
            self.places.insert(address(n, socket), (n, socket, None));
        }
        let host = Host { node, router, known: BTreeSet::new(), events: Vec::new() };
        self.hosts.insert(n, host);
    }

    fn node(&mut self, n: u8) -> &mut HyperDhtNode {
        &mut self.hosts.get_mut(&n).unwrap().node
    }

    fn with<T>(&mut self, n: u8, act: impl FnOnce(&mut HyperDhtNode, Instant) -> T) -> T {
        let now = self.now;
        act(self.node(n), now)
    }

    /// Where `to` sees a socket.
    fn seen(&mut self, n: u8, socket: SocketId, to: SocketAddrV4) -> SocketAddrV4 {
        if self.hosts[&n].router != Router::Random {
            return address(n, socket);
        }
        let place = (n, socket, Some(to));
        if let Some((seen, _)) = self.places.iter().find(|(_, known)| **known == place) {
            return *seen;
        }
        let port = 20_000 + self.places.len() as u16;
        let seen = SocketAddrV4::new(*address(n, socket).ip(), port);
        self.places.insert(seen, place);
        seen
    }

    /// Another router, without state.
    fn reroute(&mut self, n: u8, router: Router) {
        let host = self.hosts.get_mut(&n).unwrap();
        host.router = router;
        host.known.clear();
    }

    fn send_all(&mut self) {
        let numbers: Vec<u8> = self.hosts.keys().copied().collect();
        for n in numbers {
            while let Some(out) = self.node(n).next_packet() {
                let from = self.seen(n, out.socket, out.to);
                self.hosts.get_mut(&n).unwrap().known.insert((out.socket, out.to));
                self.sent += 1;
                if self.chance.f64() >= self.loss && !self.down.contains(&n) {
                    let delay = Duration::from_micros(self.chance.u64(5_000..80_000));
                    self.packets.insert((self.now + delay, self.sent), (from, out.to, out.bytes));
                }
            }
        }
    }

    fn take_events(&mut self) {
        for host in self.hosts.values_mut() {
            host.events.extend(std::iter::from_fn(|| host.node.next_event()));
        }
    }

    /// Sends what waits to be sent, then lets the next thing happen, unless it is after `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.take_events();
        self.send_all();
        let tick = self.hosts.values().map(|host| host.node.next_tick()).min().unwrap();
        let arrival = self.packets.first_key_value().map(|((at, _), _)| *at);
        let next = arrival.map_or(tick, |arrival| arrival.min(tick)).max(self.now);
        if next > until {
            self.now = until;
            return false;
        }
        self.now = next;
        if arrival == Some(next) {
            let (_, (from, to, packet)) = self.packets.pop_first().unwrap();
            self.arrive(from, to, &packet);
        }
        for host in self.hosts.values_mut().filter(|host| host.node.next_tick() <= next) {
            host.node.tick(next);
        }
        self.take_events();
        true
    }

    fn arrive(&mut self, from: SocketAddrV4, to: SocketAddrV4, packet: &[u8]) {
        let Some((n, socket, only)) = self.places.get(&to).copied() else { return };
        let host = self.hosts.get_mut(&n).unwrap();
        let let_in = match host.router {
            Router::None => true,
            Router::Consistent => host.known.contains(&(socket, from)),
            Router::Random => only.is_some(),
        };
        if let_in && only.is_none_or(|only| only == from) && !self.down.contains(&n) {
            host.node.receive(socket, from, packet, self.now);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until a host has events; returns them.
    fn wait<T>(&mut self, n: u8, within: Duration, what: impl Fn(&Event) -> Option<T>) -> T {
        let until = self.now + within;
        loop {
            if let Some(found) = self.hosts[&n].events.iter().find_map(&what) {
                return found;
            }
            assert!(self.step(until), "it does not happen");
        }
    }

    /// Runs a query to its end: how many nodes answered, and how many took the announcement.
    fn finish(&mut self, n: u8, query: u64) -> (usize, usize) {
        self.wait(n, Duration::from_secs(45), |event| match event {
            Event::Finished { query: ended, answered, announced } if *ended == query => {
                Some((*answered, *announced))
            }
            _ => None,
        })
    }

    fn announce(&mut self, n: u8) -> usize {
        let query = self.with(n, |node, now| node.announce(TOPIC, now)).unwrap();
        self.finish(n, query).1
    }

    /// The hosts whose keys a lookup of the topic finds.
    fn lookup(&mut self, n: u8) -> Vec<u8> {
        let query = self.with(n, |node, now| node.lookup(TOPIC, now)).unwrap();
        self.finish(n, query);
        let found = self.hosts[&n].events.iter().filter_map(|event| match event {
            Event::Peer { query: of, key, .. } if *of == query => Some(*key),
            _ => None,
        });
        let found: BTreeSet<_> = found.collect();
        (0..=255).filter(|n| found.contains(&keys(*n).public_key())).collect()
    }

    /// The nodes that forward messages to a server.
    fn records(&mut self, n: u8, of: u8) -> Vec<SocketAddrV4> {
        let query = self.with(n, |node, now| node.find_peer(target(of), now)).unwrap();
        self.finish(n, query);
        let found = self.hosts[&n].events.iter().filter_map(|event| match event {
            Event::Record { query: of, from, .. } if *of == query => Some(*from),
            _ => None,
        });
        found.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Serves; returns the number of nodes that know the server.
    fn serve(&mut self, n: u8) -> usize {
        self.with(n, |node, now| node.serve(now));
        self.wait(n, Duration::from_secs(60), |event| match event {
            Event::Served { relays } if *relays > 0 => Some(*relays),
            _ => None,
        })
    }

    /// Sends a request, and waits for the answer's value and the address of its sender.
    fn ask(&mut self, n: u8, ask: Ask) -> Option<(Bytes, SocketAddrV4)> {
        let request = self.with(n, |node, now| node.request(ask, now)).unwrap();
        self.wait(n, Duration::from_secs(10), |event| match event {
            Event::Answered { request: of, answer } if *of == request => {
                Some(answer.clone().and_then(|answer| Some((answer.value?, answer.from))))
            }
            _ => None,
        })
    }
}

fn announced_is_found(loss: f64, seed: u64) {
    let mut network = Network::settled(STAYING, loss, seed);
    let fewest = network.hosts.values().map(|host| host.node.nodes()).min().unwrap();
    assert!(fewest >= 10, "a node knows only {fewest} others");
    network.enter(100, Router::Consistent);
    // Repeated when no node answered, as every node does: a single bootstrap node may lose its
    // packets.
    let took = (0..5).map(|_| network.announce(100)).find(|took| *took > 0);
    assert!(took >= Some(10), "{took:?} nodes took the announcement");
    for reader in [101, 102] {
        network.enter(reader, Router::Consistent);
        let named = (0..5).map(|_| network.lookup(reader)).find(|named| !named.is_empty());
        assert_eq!(named, Some(vec![100]));
    }
    for host in network.hosts.values() {
        assert!(host.node.nodes() <= usize::from(STAYING), "no node remembers an ephemeral node");
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_of_one_node_is_found_by_the_others() {
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
    let mut network = Network::settled(STAYING, 0.05, 3);
    network.enter(100, Router::None);
    network.announce(100);
    network.down = (1..STAYING).step_by(2).collect();
    network.enter(101, Router::None);
    assert_eq!(network.lookup(101), [100]);
    // Announced again, as every node does every few minutes, it is where lookups search now.
    network.run(Duration::from_secs(300));
    assert!(network.announce(100) >= 10);
}

/// The waiting time of a caller that opens a drive.
#[tokio::test(start_paused = true)]
async fn a_few_silent_nodes_do_not_delay_a_lookup() {
    let mut network = Network::settled(STAYING, 0.0, 8);
    network.enter(100, Router::None);
    network.run(Duration::from_secs(5));
    network.down = (1..STAYING).step_by(5).collect();
    let start = network.now;
    network.lookup(100);
    let took = network.now - start;
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_withdrawn_and_expires() {
    let mut network = Network::settled(30, 0.0, 4);
    for n in [100, 101] {
        network.enter(n, Router::Consistent);
        assert!(network.announce(n) > 0);
    }
    network.enter(102, Router::Consistent);
    assert_eq!(network.lookup(102), [100, 101]);
    network.with(100, |node, now| node.take_back(&TOPIC, now));
    assert!(network.node(100).is_taking_back());
    network.run(Duration::from_secs(1));
    assert!(!network.node(100).is_taking_back());
    assert_eq!(network.lookup(102), [101]);
    network.run(MAX_AGE);
    assert!(network.lookup(102).is_empty());
}

/// Tokens are forgotten long before announcements.
#[tokio::test(start_paused = true)]
async fn an_announcement_is_withdrawn_after_its_tokens_have_expired() {
    let mut network = Network::settled(30, 0.1, 5);
    network.enter(100, Router::Consistent);
    network.enter(101, Router::Consistent);
    assert!(network.announce(100) > 0);
    network.run(Duration::from_secs(15 * 60));
    assert_eq!(network.lookup(101), [100]);
    network.loss = 0.0;
    network.with(100, |node, now| node.take_back_all(now));
    network.run(Duration::from_secs(1));
    assert!(network.lookup(101).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_node_alone_is_a_network() {
    let mut network = Network::new(1, 0.0, 5);
    network.enter(100, Router::None);
    network.enter(101, Router::None);
    assert_eq!(network.serve(100), 1);
    assert_eq!(network.announce(100), 1);
    assert_eq!(network.lookup(101), [100]);
    assert_eq!(network.records(101, 100), [address(0, SocketId::SERVER)]);
}

#[tokio::test(start_paused = true)]
async fn without_any_answer_a_query_ends_in_time() {
    let mut network = Network::new(1, 1.0, 6);
    network.enter(100, Router::None);
    let start = network.now;
    let query = network.with(100, |node, now| node.lookup(TOPIC, now)).unwrap();
    assert_eq!(network.finish(100, query), (0, 0));
    assert!(network.now - start <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn every_node_determines_the_kind_of_its_router() {
    for seed in 1..=3 {
        let mut network = Network::settled(STAYING, 0.05, seed);
        network.enter(100, Router::None);
        network.enter(101, Router::Consistent);
        network.enter(102, Router::Random);
        network.run(Duration::from_secs(60));
        let open = Reachability::Open(address(100, SocketId::SERVER));
        assert_eq!(network.node(100).reachability(), open);
        let consistent = Reachability::Consistent(address(101, SocketId::CLIENT));
        assert_eq!(network.node(101).reachability(), consistent);
        assert_eq!(network.node(102).reachability(), Reachability::Random);
        let staying = Reachability::Open(address(1, SocketId::SERVER));
        assert_eq!(network.node(1).reachability(), staying);
        network.reroute(100, Router::Random);
        network.run(Duration::from_secs(600));
        assert_eq!(network.node(100).reachability(), Reachability::Random);
    }
}

/// A client that has found a relay of a hidden server says hello through it, and then talks about the
/// hole: what comes to the server, what it answers, and what the client hears.
fn through_a_relay(network: &mut Network, client: u8, server: u8, relay: SocketAddrV4) {
    let message = |text: &'static str| Bytes::from_static(text.as_bytes());
    let hello = |mode, noise, peer_address| {
        Handshake { mode, noise, peer_address, relay_address: None }.encode()
    };
    let mut ask = Ask::new(relay, Command::Handshake);
    ask.target = Some(target(server));
    ask.value = Some(hello(Mode::FromClient, message("hello"), None));
    let request = network.with(client, |node, now| node.request(ask, now)).unwrap();
    let asked = network.wait(server, Duration::from_secs(5), |event| match event {
        Event::Handshake(asked) => Some(asked.clone()),
        _ => None,
    });
    let seen_as = network.seen(client, SocketId::CLIENT, relay);
    assert_eq!((asked.from, asked.peer, &asked.message), (relay, Some(seen_as), &message("hello")));
    // A socket of its own for the hole, as the original has.
    let (hole, holed) = (SocketId(7), address(server, SocketId(7)));
    network.places.insert(holed, (server, hole, None));
    network.node(server).answer_handshake(&asked, hole, message("welcome"));
    let answer = network.wait(client, Duration::from_secs(5), answered(request)).unwrap();
    assert_eq!(answer, (hello(Mode::Reply, message("welcome"), Some(holed)), relay));

    let round = |mode, id, text, peer_address| {
        Holepunch { mode, id, payload: message(text), peer_address }.encode()
    };
    let mut ask = Ask::new(relay, Command::Holepunch);
    ask.target = Some(target(server));
    ask.value = Some(round(Mode::FromClient, 300, "punch", Some(holed)));
    let request = network.with(client, |node, now| node.request(ask, now)).unwrap();
    let asked: Asked = network.wait(server, Duration::from_secs(5), |event| match event {
        Event::Holepunch(asked) => Some(asked.clone()),
        _ => None,
    });
    assert_eq!((asked.socket, asked.id, asked.peer), (hole, 300, Some(seen_as)));
    network.node(server).answer_holepunch(&asked, hole, message("punching"));
    let answer = network.wait(client, Duration::from_secs(5), answered(request)).unwrap();
    assert_eq!(answer, (round(Mode::Reply, 0, "punching", Some(holed)), relay));
    network.hosts.get_mut(&server).unwrap().events.clear();
}

fn answered(request: u64) -> impl Fn(&Event) -> Option<Option<(Bytes, SocketAddrV4)>> {
    move |event| match event {
        Event::Answered { request: of, answer } if *of == request => {
            Some(answer.clone().and_then(|answer| Some((answer.value?, answer.from))))
        }
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_hidden_server_is_found_and_reached_through_its_relays() {
    let mut network = Network::settled(STAYING, 0.0, 1);
    network.enter(100, Router::Consistent);
    network.enter(101, Router::Consistent);
    assert_eq!(network.serve(100), 3);
    let relays = network.node(100).relays();
    for relay in &relays {
        assert_eq!(relay.peer_address, address(100, SocketId::CLIENT));
    }
    let mut known: Vec<_> = relays.iter().map(|relay| relay.relay_address).collect();
    known.sort_unstable();
    assert_eq!(network.records(101, 100), known);
    // For longer than a router remembers, were it not woken.
    network.run(Duration::from_secs(120));
    for relay in known {
        through_a_relay(&mut network, 101, 100, relay);
    }
    // What is announced names them.
    network.announce(100);
    network.lookup(101);
    let named = network.wait(101, Duration::ZERO, |event| match event {
        Event::Peer { relays, .. } => Some(relays.clone()),
        _ => None,
    });
    assert_eq!(BTreeSet::from_iter(named).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_the_wrong_node_gets_an_answer_at_once() {
    let mut network = Network::settled(20, 0.0, 1);
    network.enter(101, Router::Consistent);
    network.run(Duration::from_secs(5));
    let start = network.now;
    let mut ask = Ask::new(address(3, SocketId::SERVER), Command::Handshake);
    ask.target = Some(target(100));
    let noise = Bytes::from_static(b"hello");
    let hello =
        Handshake { mode: Mode::FromClient, noise, peer_address: None, relay_address: None };
    ask.value = Some(hello.encode());
    assert_eq!(network.ask(101, ask), None);
    assert!(network.now - start < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stops_answering_is_replaced() {
    for (loss, seed) in [(0.0, 1), (0.05, 2), (0.05, 3)] {
        let mut network = Network::settled(STAYING, loss, seed);
        network.enter(100, Router::Consistent);
        network.enter(101, Router::Consistent);
        network.serve(100);
        network.run(Duration::from_secs(20));
        let dead = network.node(100).relays()[0].relay_address;
        let (n, ..) = network.places[&dead];
        network.down.insert(n);
        network.run(Duration::from_secs(30));
        let relays = network.node(100).relays();
        assert_eq!(relays.len(), 3, "loss {loss}");
        assert!(relays.iter().all(|relay| relay.relay_address != dead));
        let records = network.records(101, 100);
        assert!(relays.iter().all(|relay| records.contains(&relay.relay_address)));
        through_a_relay_without_loss(&mut network, relays[2].relay_address);
    }
}

fn through_a_relay_without_loss(network: &mut Network, relay: SocketAddrV4) {
    let loss = std::mem::take(&mut network.loss);
    through_a_relay(network, 101, 100, relay);
    network.loss = loss;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_is_not_found_and_one_that_disappears_expires() {
    let mut network = Network::settled(STAYING, 0.0, 1);
    for n in [100, 101] {
        network.enter(n, Router::Consistent);
        network.serve(n);
    }
    network.enter(102, Router::Consistent);
    network.with(100, |node, now| node.stop_serving(now));
    network.run(Duration::from_secs(1));
    assert_eq!(network.records(102, 100), []);
    assert_eq!(network.records(102, 101).len(), 3);
    network.run(MAX_AGE * 2);
    assert_eq!(network.records(102, 101).len(), 3, "announced again every few minutes");
    network.down.insert(101);
    network.run(MAX_AGE);
    assert_eq!(network.records(102, 101), []);
}

/// A router forgets its ports, or a machine its network: relays would send clients nowhere.
#[tokio::test(start_paused = true)]
async fn a_node_whose_address_changes_announces_it_to_its_relays() {
    let mut network = Network::settled(STAYING, 0.0, 1);
    network.enter(100, Router::Consistent);
    network.enter(101, Router::Consistent);
    network.serve(100);
    network.run(Duration::from_secs(10));
    network.reroute(100, Router::Random);
    network.run(Duration::from_secs(30));
    let relays = network.node(100).relays();
    assert_eq!(relays.len(), 3);
    for relay in relays {
        let elsewhere = network.seen(100, SocketId::CLIENT, relay.relay_address);
        assert_eq!(relay.peer_address, elsewhere);
        let mut ask = Ask::new(relay.relay_address, Command::Handshake);
        ask.target = Some(target(100));
        let noise = Bytes::from_static(b"hello");
        let hello =
            Handshake { mode: Mode::FromClient, noise, peer_address: None, relay_address: None };
        ask.value = Some(hello.encode());
        network.with(101, |node, now| node.request(ask, now));
        network.wait(100, Duration::from_secs(2), |event| match event {
            Event::Handshake(asked) if asked.from == relay.relay_address => Some(()),
            _ => None,
        });
    }
}

/// The address of an openly reachable peer is sent to every peer.
#[tokio::test(start_paused = true)]
async fn a_reachable_server_announces_its_own_address_as_relay() {
    let mut network = Network::settled(STAYING, 0.0, 1);
    network.enter(100, Router::None);
    network.serve(100);
    network.run(Duration::from_secs(60));
    let open = address(100, SocketId::SERVER);
    assert!(network.node(100).relays().iter().all(|relay| relay.peer_address == open));
    network.announce(100);
    network.enter(101, Router::Random);
    network.lookup(101);
    let named = network.wait(101, Duration::ZERO, |event| match event {
        Event::Peer { relays, .. } => Some(relays.clone()),
        _ => None,
    });
    assert_eq!((named.len(), named[0]), (3, open));
    // Asked without a relay, it answers itself.
    let noise = Bytes::from_static(b"hello");
    let hello =
        Handshake { mode: Mode::FromClient, noise, peer_address: None, relay_address: None };
    let mut ask = Ask::new(open, Command::Handshake);
    (ask.target, ask.value) = (Some(target(100)), Some(hello.encode()));
    let request = network.with(101, |node, now| node.request(ask, now)).unwrap();
    let asked = network.wait(100, Duration::from_secs(1), |event| match event {
        Event::Handshake(asked) => Some(asked.clone()),
        _ => None,
    });
    assert_eq!((asked.peer, asked.to, asked.socket), (None, open, SocketId::SERVER));
    network.node(100).answer_handshake(&asked, asked.socket, Bytes::from_static(b"welcome"));
    let (value, from) = network.wait(101, Duration::from_secs(1), answered(request)).unwrap();
    let reply = Handshake::decode(value).unwrap();
    assert_eq!((reply.mode, reply.peer_address, from), (Mode::Reply, None, open));
}
