//! Finding peers through the distributed hash table of Hyperswarm 2: the socket, the clock and the
//! schedules of a [`DhtNode`].
//!
//! Every topic is looked up, and announced if a caller wants that, every few minutes, and sooner while
//! no peer was found. The nodes on the way learn the topics and our address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::DiscoveryContext;
use super::location::NetworkLocation;
use super::names::{joined, resolve};
use crate::crypto::DiscoveryKey;
use crate::dht::{DhtNode, Event, Goal, MAX_PACKET};
use crate::kademlia::{QueryId, RandomParts};
use crate::network::candidates::{DialTarget, Found, Priority, Source};
use crate::network::topics::Interest;
use crate::sync::{Mutex, MutexGuard, Rank};

/// Time from one query of a topic to the next, in seconds: a random value of this range each time.
const AGAIN_EVERY: std::ops::Range<u64> = 300..600;
/// The first pause while no peer was found or no node accepted an announcement; it doubles each
/// time.
const FIRST_AGAIN: Duration = Duration::from_secs(5);
/// Topics that are queried at the same time.
const RUNNING: usize = 8;
/// How often names are resolved while no node is known.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How often the addresses of the machine and the clock are checked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A node on a socket.
pub(in crate::network) struct NodeSocket {
    node: Mutex<DhtNode>,
    socket: Mutex<Arc<UdpSocket>>,
}

impl NodeSocket {
    fn new(node: DhtNode, socket: UdpSocket) -> Self {
        Self {
            node: Mutex::new(Rank::NODE, node),
            socket: Mutex::new(Rank::LEAF, Arc::new(socket)),
        }
    }

    fn node(&self) -> MutexGuard<'_, DhtNode> {
        // Nothing panics while holding it.
        self.node.lock()
    }

    fn socket(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.socket.lock())
    }

    fn set_socket(&self, socket: UdpSocket) {
        *self.socket.lock() = Arc::new(socket);
    }

    /// Sends waiting packets; those that the system does not take now are lost, as on any network.
    fn flush(&self) {
        let (socket, mut node) = (self.socket(), self.node());
        while let Some((to, packet)) = node.next_packet() {
            if let Err(error) = socket.try_send_to(&packet, to.into()) {
                log::debug!("DHT packet to {to}: {error}");
            }
        }
    }

    /// Receives one packet, or waits until the node's next tick or `until`.
    async fn step(&self, buffer: &mut [u8], until: Instant) {
        let socket = self.socket();
        let tick = self.node().next_tick().min(until);
        tokio::select! {
            received = socket.recv_from(buffer) => match received {
                Ok((count, SocketAddr::V4(from))) => {
                    let packet = buffer.get(..count).unwrap_or_default();
                    self.node().receive(from, packet, Instant::now());
                }
                Ok(_) => {}
                Err(error) => {
                    log::debug!("DHT: {error}");
                    // The error may repeat at once.
                    tokio::task::yield_now().await;
                }
            },
            () = tokio::time::sleep_until(tick) => self.node().tick(Instant::now()),
        }
        self.flush();
    }

    /// Withdraws all announcements, without waiting for answers.
    pub(crate) fn farewell(&self) {
        self.node().take_back_all(Instant::now());
        self.flush();
    }
}

/// A bootstrap node of the hash table of Hyperswarm 2, without topics of its own.
pub struct BootstrapNode {
    link: NodeSocket,
    address: SocketAddr,
}

impl BootstrapNode {
    /// A node at `address` that knows the nodes `others`, each `HOST:PORT` or `ADDRESS@HOST:PORT`.
    ///
    /// # Errors
    /// Fails if the address cannot be bound, or if the operating system returns no random bytes.
    pub async fn bind(address: SocketAddr, others: &[String]) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let others = resolve(others.to_vec(), true).await;
        let node = DhtNode::new(RandomParts::at_random()?, others, false, Instant::now());
        Ok(Self { link: NodeSocket::new(node, socket), address })
    }

    /// The address with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many nodes it knows.
    pub fn nodes(&self) -> usize {
        self.link.node().nodes()
    }

    /// Answers other nodes; never resolves.
    pub async fn run(&self) {
        let mut buffer = vec![0; MAX_PACKET + 1];
        self.link.flush();
        loop {
            self.link.step(&mut buffer, Instant::now() + LOOK_EVERY).await;
        }
    }
}

/// When a topic is queried next.
struct QuerySchedule {
    interest: Interest,
    at: Instant,
    running: bool,
    pause: Duration,
    /// Whether the running query has found a peer.
    found: bool,
}

struct TopicSchedules {
    topics: HashMap<DiscoveryKey, QuerySchedule>,
    queries: HashMap<QueryId, DiscoveryKey>,
}

impl TopicSchedules {
    fn new() -> Self {
        Self { topics: HashMap::new(), queries: HashMap::new() }
    }

    /// Applies a change of the joined topics.
    fn follow(&mut self, context: &mut DiscoveryContext, node: &mut DhtNode, now: Instant) {
        let wanted = context.topics.borrow_and_update();
        self.topics.retain(|topic, known| {
            let interest = wanted.get(topic);
            if known.interest.announce && !interest.is_some_and(|interest| interest.announce) {
                node.take_back(topic.as_bytes(), now);
            }
            interest.is_some()
        });
        for (topic, &interest) in wanted.iter() {
            let known = self.topics.entry(*topic).or_insert_with(|| QuerySchedule {
                interest,
                at: now,
                running: false,
                pause: FIRST_AGAIN,
                found: false,
            });
            if known.interest != interest {
                (known.interest, known.at) = (interest, now);
            }
        }
    }

    /// Makes all topics due now.
    fn all_now(&mut self, now: Instant) {
        for schedule in self.topics.values_mut() {
            (schedule.at, schedule.pause) = (now, FIRST_AGAIN);
        }
    }

    /// Starts the queries that are due; `port` is ours if peers can reach us.
    fn start(&mut self, node: &mut DhtNode, port: Option<u16>, now: Instant) {
        while self.queries.len() < RUNNING {
            let due = |schedule: &QuerySchedule| !schedule.running && schedule.at <= now;
            let next =
                self.topics.iter_mut().filter(|(_, one)| due(one)).min_by_key(|(_, one)| one.at);
            let Some((topic, schedule)) = next else { return };
            let goal = match (schedule.interest, port) {
                (Interest { announce: true, .. }, Some(port)) => Goal::Announce { port },
                (Interest { lookup: true, .. }, _) => Goal::Lookup,
                _ => {
                    // Queried again as soon as there is a port.
                    schedule.at = now + Duration::from_secs(AGAIN_EVERY.end);
                    continue;
                }
            };
            let Some(query) = node.start(*topic.as_bytes(), goal, now) else {
                schedule.at = now + FIRST_AGAIN;
                continue;
            };
            (schedule.running, schedule.found) = (true, false);
            self.queries.insert(query, *topic);
        }
    }

    fn finished(&mut self, query: QueryId, answered: usize, announced: usize, now: Instant) {
        let Some(topic) = self.queries.remove(&query) else { return };
        let Some(schedule) = self.topics.get_mut(&topic) else { return };
        log::debug!("DHT: {topic}: {answered} nodes answered, {announced} took the announcement");
        schedule.running = false;
        let regular = Duration::from_secs(fastrand::u64(AGAIN_EVERY));
        if schedule.found || announced > 0 {
            (schedule.at, schedule.pause) = (now + regular, FIRST_AGAIN);
        } else {
            schedule.at = now + schedule.pause.min(regular);
            schedule.pause *= 2;
        }
    }

    fn next(&self) -> Option<Instant> {
        if self.queries.len() >= RUNNING {
            return None;
        }
        self.topics.values().filter(|one| !one.running).map(|one| one.at).min()
    }
}

/// Runs until the swarm is closed.
pub(super) async fn run(
    mut context: DiscoveryContext,
    link: Arc<NodeSocket>,
    bootstrap: Vec<String>,
) {
    let mut closing = context.closing.clone();
    tokio::select! {
        () = find(&mut context, &link, bootstrap) => {}
        () = crate::network::wait_closed(&mut closing) => {}
    }
}

/// An ephemeral node, on the port where peers reach us, if there is one yet.
pub(super) async fn link(context: &DiscoveryContext) -> io::Result<NodeSocket> {
    let listening = *context.listening.borrow();
    let node = DhtNode::new(RandomParts::at_random()?, Vec::new(), true, Instant::now());
    Ok(NodeSocket::new(node, bind(listening).await?))
}

/// The port with the same number as that of TCP: observers take one for the other.
async fn bind(listening: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let ip = match listening.map(|address| address.ip()) {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let port = listening.map_or(0, |address| address.port());
    match UdpSocket::bind((ip, port)).await {
        // We tell the port we listen on, so that another one will do.
        Err(_) if port != 0 => UdpSocket::bind((ip, 0)).await,
        bound => bound,
    }
}

async fn find(context: &mut DiscoveryContext, link: &NodeSocket, bootstrap: Vec<String>) {
    let mut buffer = vec![0; MAX_PACKET + 1];
    let mut schedules = TopicSchedules::new();
    let mut location = NetworkLocation::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resolving: Option<JoinHandle<Vec<SocketAddrV4>>> =
        Some(tokio::spawn(resolve(bootstrap.clone(), true)));
    let mut resolved = Instant::now();
    context.topics.mark_changed();
    loop {
        let now = Instant::now();
        let port = context.listening.borrow().map(|address| address.port());
        // Without a node to query, a query would only lengthen the pauses.
        if resolving.is_none() {
            schedules.start(&mut link.node(), port, now);
        }
        link.flush();
        for found in take_events(context, link, &mut schedules, port) {
            if context.found.send(found).await.is_err() {
                return;
            }
        }
        let until =
            schedules.next().filter(|_| resolving.is_none()).unwrap_or(now + LOOK_EVERY).max(now);
        tokio::select! {
            () = link.step(&mut buffer, until) => {}
            changed = context.topics.changed() => {
                if changed.is_err() {
                    return;
                }
                schedules.follow(context, &mut link.node(), Instant::now());
            }
            _ = context.listening.changed() => {
                let listening = *context.listening.borrow_and_update();
                match bind(listening).await {
                    Ok(socket) => link.set_socket(socket),
                    Err(error) => log::warn!("no socket for the DHT: {error}"),
                }
                schedules.all_now(Instant::now());
            }
            _ = look.tick() => {
                let here = NetworkLocation::now();
                let moved = here.differ(&location);
                location = here;
                let lost = link.node().nodes() == 0 && resolved.elapsed() >= RESOLVE_EVERY;
                if (moved || lost) && resolving.is_none() {
                    resolving = Some(tokio::spawn(resolve(bootstrap.clone(), true)));
                }
            }
            addresses = joined(&mut resolving) => {
                resolving = None;
                resolved = Instant::now();
                log::debug!("DHT: bootstrap nodes {addresses:?}");
                link.node().set_bootstrap(addresses, resolved);
                schedules.all_now(resolved);
            }
        }
    }
}

/// The peers that the node's queries have found meanwhile.
fn take_events(
    context: &DiscoveryContext,
    link: &NodeSocket,
    schedules: &mut TopicSchedules,
    port: Option<u16>,
) -> Vec<Found> {
    let mut all = Vec::new();
    let mut node = link.node();
    while let Some(event) = node.next_event() {
        match event {
            Event::Finished { query, answered, announced } => {
                schedules.finished(query, answered, announced, Instant::now());
            }
            Event::Peer { query, address, via, seen_as } => {
                let Some(&topic) = schedules.queries.get(&query) else { continue };
                let Some(schedule) = schedules.topics.get_mut(&topic) else { continue };
                let same_host = seen_as.is_some_and(|own| own.ip() == address.ip());
                if same_host && port == Some(address.port()) {
                    continue;
                }
                schedule.found = true;
                let wanted =
                    context.topics.borrow().get(&topic).is_some_and(|interest| interest.lookup);
                if wanted {
                    all.push(Found {
                        topic,
                        target: DialTarget::Tcp(address.into()),
                        source: Source::Node(IpAddr::V4(*via.ip())),
                        priority: if same_host { Priority::SameHost } else { Priority::Normal },
                    });
                }
            }
        }
    }
    all
}
