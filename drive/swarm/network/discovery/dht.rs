//! Finding peers through the distributed hash table of Hyperswarm 2: the socket, the clock and the
//! timetable of a [`Node`].
//!
//! Every topic is looked up, and announced if that is wanted, every few minutes; sooner while no
//! peer was found. The nodes on the way learn which topics these are, and our address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::Surroundings;
use super::location::Whereabouts;
use super::names::{joined, resolve};
use crate::crypto::DiscoveryKey;
use crate::dht::{Event, Goal, MAX_PACKET, Node};
use crate::kademlia::{Chosen, QueryId};
use crate::network::candidates::{Found, Priority, Source, Target};
use crate::network::topics::Interest;
use crate::sync::{Mutex, MutexGuard, Rank};

/// Time from one query about a topic to the next, in seconds, chosen anew between these each time.
const AGAIN_EVERY: std::ops::Range<u64> = 300..600;
/// The first pause while no peer was found or no node accepted an announcement; it doubles each
/// time.
const FIRST_AGAIN: Duration = Duration::from_secs(5);
/// Topics that are asked about at the same time.
const RUNNING: usize = 8;
/// How often names are resolved while no node is known.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// The machine's addresses and the clock are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A node on a socket.
pub(in crate::network) struct Link {
    node: Mutex<Node>,
    socket: Mutex<Arc<UdpSocket>>,
}

impl Link {
    fn new(node: Node, socket: UdpSocket) -> Self {
        Self {
            node: Mutex::new(Rank::NODE, node),
            socket: Mutex::new(Rank::LEAF, Arc::new(socket)),
        }
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        // Nothing panics while holding it.
        self.node.lock()
    }

    fn socket(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.socket.lock())
    }

    fn set_socket(&self, socket: UdpSocket) {
        *self.socket.lock() = Arc::new(socket);
    }

    /// Sends what waits; what the system does not take now is lost, as on any network.
    fn flush(&self) {
        let (socket, mut node) = (self.socket(), self.node());
        while let Some((to, packet)) = node.next_packet() {
            if let Err(error) = socket.try_send_to(&packet, to.into()) {
                log::debug!("DHT packet to {to}: {error}");
            }
        }
    }

    /// Receives one packet, or waits for the node's next appointment or `until`.
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
                    // Whatever it is, it may be there again at once.
                    tokio::task::yield_now().await;
                }
            },
            () = tokio::time::sleep_until(tick) => self.node().tick(Instant::now()),
        }
        self.flush();
    }

    /// Takes all announcements back, without waiting whether that is heard.
    pub(crate) fn farewell(&self) {
        self.node().take_back_all(Instant::now());
        self.flush();
    }
}

/// A bootstrap node of the hash table of Hyperswarm 2, without topics of its own.
pub struct BootstrapNode {
    link: Link,
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
        let node = Node::new(Chosen::at_random()?, others, false, Instant::now());
        Ok(Self { link: Link::new(node, socket), address })
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

/// When a topic is asked about next.
struct Appointment {
    interest: Interest,
    at: Instant,
    running: bool,
    pause: Duration,
    /// Whether the running query has found a peer.
    found: bool,
}

struct Timetable {
    topics: HashMap<DiscoveryKey, Appointment>,
    queries: HashMap<QueryId, DiscoveryKey>,
}

impl Timetable {
    fn new() -> Self {
        Self { topics: HashMap::new(), queries: HashMap::new() }
    }

    /// Takes over what is wanted now.
    fn follow(&mut self, around: &mut Surroundings, node: &mut Node, now: Instant) {
        let wanted = around.topics.borrow_and_update();
        self.topics.retain(|topic, known| {
            let interest = wanted.get(topic);
            if known.interest.announce && !interest.is_some_and(|interest| interest.announce) {
                node.take_back(topic.as_bytes(), now);
            }
            interest.is_some()
        });
        for (topic, &interest) in wanted.iter() {
            let known = self.topics.entry(*topic).or_insert_with(|| Appointment {
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

    /// Everything is to be asked again now.
    fn all_now(&mut self, now: Instant) {
        for appointment in self.topics.values_mut() {
            (appointment.at, appointment.pause) = (now, FIRST_AGAIN);
        }
    }

    /// Starts what is due, `port` being ours if we can be reached.
    fn start(&mut self, node: &mut Node, port: Option<u16>, now: Instant) {
        while self.queries.len() < RUNNING {
            let due = |appointment: &Appointment| !appointment.running && appointment.at <= now;
            let next =
                self.topics.iter_mut().filter(|(_, one)| due(one)).min_by_key(|(_, one)| one.at);
            let Some((topic, appointment)) = next else { return };
            let goal = match (appointment.interest, port) {
                (Interest { announce: true, .. }, Some(port)) => Goal::Announce { port },
                (Interest { lookup: true, .. }, _) => Goal::Lookup,
                _ => {
                    // Asked again as soon as there is a port.
                    appointment.at = now + Duration::from_secs(AGAIN_EVERY.end);
                    continue;
                }
            };
            let Some(query) = node.start(*topic.as_bytes(), goal, now) else {
                appointment.at = now + FIRST_AGAIN;
                continue;
            };
            (appointment.running, appointment.found) = (true, false);
            self.queries.insert(query, *topic);
        }
    }

    fn finished(&mut self, query: QueryId, answered: usize, announced: usize, now: Instant) {
        let Some(topic) = self.queries.remove(&query) else { return };
        let Some(appointment) = self.topics.get_mut(&topic) else { return };
        log::debug!("DHT: {topic}: {answered} nodes answered, {announced} took the announcement");
        appointment.running = false;
        let regular = Duration::from_secs(fastrand::u64(AGAIN_EVERY));
        if appointment.found || announced > 0 {
            (appointment.at, appointment.pause) = (now + regular, FIRST_AGAIN);
        } else {
            appointment.at = now + appointment.pause.min(regular);
            appointment.pause *= 2;
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
pub(super) async fn run(mut around: Surroundings, link: Arc<Link>, bootstrap: Vec<String>) {
    let mut closing = around.closing.clone();
    tokio::select! {
        () = find(&mut around, &link, bootstrap) => {}
        () = crate::network::closed(&mut closing) => {}
    }
}

/// An ephemeral node, on the port where peers reach us, if there is one yet.
pub(super) async fn link(around: &Surroundings) -> io::Result<Link> {
    let listening = *around.listening.borrow();
    let node = Node::new(Chosen::at_random()?, Vec::new(), true, Instant::now());
    Ok(Link::new(node, bind(listening).await?))
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

async fn find(around: &mut Surroundings, link: &Link, bootstrap: Vec<String>) {
    let mut buffer = vec![0; MAX_PACKET + 1];
    let mut timetable = Timetable::new();
    let mut whereabouts = Whereabouts::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resolving: Option<JoinHandle<Vec<SocketAddrV4>>> =
        Some(tokio::spawn(resolve(bootstrap.clone(), true)));
    let mut resolved = Instant::now();
    around.topics.mark_changed();
    loop {
        let now = Instant::now();
        let port = around.listening.borrow().map(|address| address.port());
        // Without a node to query, a query would only lengthen the pauses.
        if resolving.is_none() {
            timetable.start(&mut link.node(), port, now);
        }
        link.flush();
        for found in take_events(around, link, &mut timetable, port) {
            if around.found.send(found).await.is_err() {
                return;
            }
        }
        let until =
            timetable.next().filter(|_| resolving.is_none()).unwrap_or(now + LOOK_EVERY).max(now);
        tokio::select! {
            () = link.step(&mut buffer, until) => {}
            changed = around.topics.changed() => {
                if changed.is_err() {
                    return;
                }
                timetable.follow(around, &mut link.node(), Instant::now());
            }
            _ = around.listening.changed() => {
                let listening = *around.listening.borrow_and_update();
                match bind(listening).await {
                    Ok(socket) => link.set_socket(socket),
                    Err(error) => log::warn!("no socket for the DHT: {error}"),
                }
                timetable.all_now(Instant::now());
            }
            _ = look.tick() => {
                let here = Whereabouts::now();
                let moved = here.differ(&whereabouts);
                whereabouts = here;
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
                timetable.all_now(resolved);
            }
        }
    }
}

/// The peers that the node's queries have found meanwhile.
fn take_events(
    around: &Surroundings,
    link: &Link,
    timetable: &mut Timetable,
    port: Option<u16>,
) -> Vec<Found> {
    let mut all = Vec::new();
    let mut node = link.node();
    while let Some(event) = node.next_event() {
        match event {
            Event::Finished { query, answered, announced } => {
                timetable.finished(query, answered, announced, Instant::now());
            }
            Event::Peer { query, address, via, seen_as } => {
                let Some(&topic) = timetable.queries.get(&query) else { continue };
                let Some(appointment) = timetable.topics.get_mut(&topic) else { continue };
                let same_host = seen_as.is_some_and(|own| own.ip() == address.ip());
                if same_host && port == Some(address.port()) {
                    continue;
                }
                appointment.found = true;
                let wanted =
                    around.topics.borrow().get(&topic).is_some_and(|interest| interest.lookup);
                if wanted {
                    all.push(Found {
                        topic,
                        target: Target::Tcp(address.into()),
                        source: Source::Node(IpAddr::V4(*via.ip())),
                        priority: if same_host { Priority::SameHost } else { Priority::Normal },
                    });
                }
            }
        }
    }
    all
}
