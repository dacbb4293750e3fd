//! Finding peers through HyperDHT 6: which topics its node queries and when, and when its sockets are
//! replaced.
//!
//! Every topic is looked up, and announced if a caller wants that, every few minutes, and sooner while
//! no peer was found. The nodes on the way learn the topics and our address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::DiscoveryContext;
use super::location::NetworkLocation;
use super::names::{joined, resolve};
use crate::crypto::{DiscoveryKey, KeyPair, random_bytes};
use crate::hyperdht::Event;
use crate::network::Inner;
use crate::network::candidates::{DialTarget, Found, Priority, Source};
use crate::network::hyperdht::{self, Connection, CurrentEndpoint, Endpoint, Settings};
use crate::network::topics::Interest;

/// The bootstrap nodes of the public network, which are those of the reference: `ADDRESS@HOST:PORT`,
/// with a long-lived address, and a name to resolve if the address does not answer.
pub const PUBLIC_HYPERDHT: [&str; 3] = [
    "88.99.3.86@node1.hyperdht.org:49737",
    "142.93.90.113@node2.hyperdht.org:49737",
    "138.68.147.8@node3.hyperdht.org:49737",
];

/// Time from one query of a topic to the next, in seconds: a random value of this range each time.
/// Announcements last 20 minutes.
const AGAIN_EVERY: std::ops::Range<u64> = 300..600;
/// The first pause while no useful peer was found or no node accepted an announcement; it doubles
/// each time.
const FIRST_AGAIN: Duration = Duration::from_secs(5);
/// Topics that are queried at the same time.
const RUNNING: usize = 4;
/// Longest time for one query with its announcements.
const QUERY_WITHIN: Duration = Duration::from_secs(60);
/// Peers taken from the answers of one query; an honest node names at most 20.
const MAX_FOUND: usize = 128;
/// How often the addresses of the machine and the clock are checked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often names are resolved while no node is known.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Pause before another attempt to open sockets.
const SOCKETS_AGAIN: Duration = Duration::from_secs(5);
/// Connected peers that wait for their place.
const ARRIVALS: usize = 16;

/// Runs until the swarm is closed.
pub(super) async fn run(
    swarm: Weak<Inner>,
    mut context: DiscoveryContext,
    link: Arc<CurrentEndpoint>,
    bootstrap: Vec<String>,
) {
    let mut closing = context.closing.clone();
    tokio::select! {
        () = find(&swarm, &mut context, &link, &bootstrap) => {}
        () = crate::network::wait_closed(&mut closing) => {}
    }
    link.set(None);
}

/// Runs one endpoint after the other: a new one when this machine has changed its network.
async fn find(
    swarm: &Weak<Inner>,
    context: &mut DiscoveryContext,
    link: &Arc<CurrentEndpoint>,
    bootstrap: &[String],
) {
    loop {
        let settings = Settings { ip: Ipv4Addr::UNSPECIFIED, port: 0, stays_at: None };
        let (endpoint, events) = match Endpoint::new(link.keys.clone(), settings).await {
            Ok(started) => started,
            Err(error) => {
                log::warn!("no sockets for the HyperDHT: {error}");
                tokio::time::sleep(SOCKETS_AGAIN).await;
                continue;
            }
        };
        link.set(Some(Arc::clone(&endpoint)));
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let serving = tokio::spawn(hyperdht::serve(Arc::clone(&endpoint), events, sender));
        let mut running =
            EndpointTasks::new(endpoint, Arc::clone(link), bootstrap, arrivals, serving);
        let ended = running.find(swarm, context).await;
        link.set(None);
        running.endpoint.retire();
        if ended == Ended::Closed {
            return;
        }
    }
}

/// Why an endpoint has ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Closed,
    /// A new endpoint replaces it.
    Restart,
}

/// When a topic is queried next.
struct QuerySchedule {
    at: Instant,
    pause: Duration,
    running: bool,
}

impl QuerySchedule {
    fn new(at: Instant) -> Self {
        Self { at, pause: FIRST_AGAIN, running: false }
    }

    fn finished(&mut self, success: bool, now: Instant) {
        self.running = false;
        let regular = Duration::from_secs(fastrand::u64(AGAIN_EVERY));
        if success {
            (self.at, self.pause) = (now + regular, FIRST_AGAIN);
        } else {
            self.at = now + self.pause.min(regular);
            self.pause *= 2;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.running && self.at <= now
    }
}

/// The result of one query.
struct Answer {
    topic: DiscoveryKey,
    found: Vec<Peer>,
    announced: usize,
}

/// A peer that a node has named.
struct Peer {
    key: [u8; 32],
    relays: Vec<SocketAddrV4>,
    via: IpAddr,
}

/// An endpoint with its running tasks; dropping it ends them.
struct EndpointTasks {
    endpoint: Arc<Endpoint>,
    link: Arc<CurrentEndpoint>,
    topics: HashMap<DiscoveryKey, (Interest, QuerySchedule)>,
    /// Whether peers can find us by our key.
    serving: bool,
    queries: JoinSet<Answer>,
    arrivals: mpsc::Receiver<Connection>,
    answering: JoinHandle<()>,
    bootstrap: Vec<String>,
    resolving: Option<JoinHandle<Vec<SocketAddrV4>>>,
    resolved: Instant,
}

impl Drop for EndpointTasks {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl EndpointTasks {
    fn new(
        endpoint: Arc<Endpoint>,
        link: Arc<CurrentEndpoint>,
        bootstrap: &[String],
        arrivals: mpsc::Receiver<Connection>,
        answering: JoinHandle<()>,
    ) -> Self {
        Self {
            endpoint,
            link,
            topics: HashMap::new(),
            serving: false,
            queries: JoinSet::new(),
            arrivals,
            answering,
            bootstrap: bootstrap.to_vec(),
            resolving: Some(tokio::spawn(resolve(bootstrap.to_vec(), false))),
            resolved: Instant::now(),
        }
    }

    /// Runs until the endpoint has ended.
    async fn find(&mut self, swarm: &Weak<Inner>, context: &mut DiscoveryContext) -> Ended {
        let mut location = NetworkLocation::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow(context);
        loop {
            self.start(Instant::now());
            let next = self.next().unwrap_or_else(|| Instant::now() + LOOK_EVERY);
            tokio::select! {
                changed = context.topics.changed() => {
                    if changed.is_err() {
                        return Ended::Closed;
                    }
                    self.follow(context);
                }
                Some(answer) = self.queries.join_next(), if !self.queries.is_empty() => {
                    // A task that panicked returns no topic.
                    let Ok(answer) = answer else { return Ended::Restart };
                    let useful = swarm.upgrade().is_some_and(|swarm| swarm.has_useful_peer());
                    if self.finished(context, answer, useful).await.is_err() {
                        return Ended::Closed;
                    }
                }
                Some(arrival) = self.arrivals.recv() => {
                    let Some(swarm) = swarm.upgrade() else { return Ended::Closed };
                    let runtime = swarm.runtime.clone();
                    runtime.spawn(swarm.welcome(arrival));
                }
                addresses = joined(&mut self.resolving) => {
                    self.resolving = None;
                    self.resolved = Instant::now();
                    log::debug!("HyperDHT: bootstrap nodes {addresses:?}");
                    self.endpoint.with(|node, now| node.set_bootstrap(addresses, now));
                    self.all_now(self.resolved);
                }
                () = tokio::time::sleep_until(next) => {}
                _ = look.tick() => {
                    let here = NetworkLocation::now();
                    if here.differ(&location) {
                        return Ended::Restart;
                    }
                    location = here;
                    let alone = self.endpoint.with(|node, _| node.nodes() == 0);
                    let long_ago = self.resolved.elapsed() >= RESOLVE_EVERY;
                    if alone && long_ago && self.resolving.is_none() {
                        self.resolving = Some(tokio::spawn(resolve(self.bootstrap.clone(), true)));
                    }
                }
            }
        }
    }

    fn all_now(&mut self, now: Instant) {
        self.topics.values_mut().for_each(|(_, schedule)| schedule.at = now);
    }

    /// Applies a change of the joined topics.
    fn follow(&mut self, context: &mut DiscoveryContext) {
        let now = Instant::now();
        let wanted = context.topics.borrow_and_update();
        self.topics.retain(|topic, (interest, _)| {
            let kept = wanted.get(topic);
            if interest.announce && !kept.is_some_and(|kept| kept.announce) {
                self.endpoint.with(|node, now| node.take_back(topic.as_bytes(), now));
            }
            kept.is_some()
        });
        for (topic, &interest) in wanted.iter() {
            let (known, schedule) =
                self.topics.entry(*topic).or_insert_with(|| (interest, QuerySchedule::new(now)));
            if *known != interest {
                (*known, schedule.at) = (interest, now);
            }
        }
    }

    /// Starts the queries that are due. Without a node to query, a query would only lengthen the pauses.
    fn start(&mut self, now: Instant) {
        if self.resolving.is_some() {
            return;
        }
        let announced = self.topics.values().any(|(interest, _)| interest.announce);
        if announced != std::mem::replace(&mut self.serving, announced) {
            self.endpoint.with(|node, now| match announced {
                true => node.serve(now),
                false => node.stop_serving(now),
            });
        }
        while self.queries.len() < RUNNING {
            let due = self.topics.iter_mut().filter(|(_, one)| one.1.is_due(now));
            let Some((topic, one)) = due.min_by_key(|(_, one)| one.1.at) else { return };
            one.1.running = true;
            self.queries.spawn(ask(Arc::clone(&self.endpoint), *topic, one.0));
        }
    }

    fn next(&self) -> Option<Instant> {
        if self.queries.len() >= RUNNING || self.resolving.is_some() {
            return None;
        }
        let all = self.topics.values().map(|one| &one.1);
        all.filter(|one| !one.running).map(|one| one.at).min()
    }

    /// Hands over the found peers. While none of them is `useful`, the topic is queried again soon.
    async fn finished(
        &mut self,
        context: &DiscoveryContext,
        answer: Answer,
        useful: bool,
    ) -> Result<(), ()> {
        let Answer { topic, found, announced } = answer;
        log::debug!("HyperDHT: {topic}: {} peers, {announced} announcements", found.len());
        let Some((interest, schedule)) = self.topics.get_mut(&topic) else { return Ok(()) };
        let success = announced > 0 || (useful && !found.is_empty());
        schedule.finished(success, Instant::now());
        if !interest.lookup {
            return Ok(());
        }
        for Peer { key, relays, via } in found {
            self.link.know(&key, relays);
            let (target, source) = (DialTarget::HyperDht(key), Source::HyperNode(via));
            let found = Found { topic, target, source, priority: Priority::Normal };
            context.found.send(found).await.map_err(|_| ())?;
        }
        Ok(())
    }
}

/// Queries a topic once.
async fn ask(endpoint: Arc<Endpoint>, topic: DiscoveryKey, interest: Interest) -> Answer {
    let id = *topic.as_bytes();
    let mut answer = Answer { topic, found: Vec::new(), announced: 0 };
    let events = endpoint.query(|node, now| match interest.announce {
        true => node.announce(id, now),
        false => node.lookup(id, now),
    });
    let Some(mut events) = events else { return answer };
    let own = endpoint.keys.public_key();
    let listen = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Peer { key, relays, via, .. } if key != own => {
                    let known = answer.found.iter().any(|peer| peer.key == *key.as_bytes());
                    if !known && answer.found.len() < MAX_FOUND {
                        let (key, via) = (*key.as_bytes(), IpAddr::V4(*via.ip()));
                        answer.found.push(Peer { key, relays, via });
                    }
                }
                Event::Finished { announced, .. } => answer.announced = announced,
                _ => {}
            }
        }
    };
    // A timeout keeps the peers found so far.
    let _ = timeout(QUERY_WITHIN, listen).await;
    answer
}

/// A bootstrap node of HyperDHT 6, without topics of its own.
pub struct HyperDhtBootstrapNode {
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    /// No peer connects to it.
    _events: mpsc::Receiver<hyperdht::ServerEvent>,
}

impl HyperDhtBootstrapNode {
    /// A node at `address`, which is the one that others see, since the id of the node is a hash of it.
    /// It knows the nodes `others`, each `HOST:PORT` or `ADDRESS@HOST:PORT`.
    ///
    /// # Errors
    /// Fails if the address cannot be bound, or if other machines cannot reach it.
    pub async fn bind(address: SocketAddr, others: &[String]) -> io::Result<Self> {
        let seen = match address {
            SocketAddr::V4(v4) => Some(v4).filter(|v4| !v4.ip().is_unspecified()),
            SocketAddr::V6(_) => None,
        };
        let Some(v4) = seen else {
            let why = "a HyperDHT node needs the IPv4 address that others see";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        };
        let settings = Settings { ip: *v4.ip(), port: v4.port(), stays_at: Some(*v4.ip()) };
        let keys = KeyPair::from_seed(&random_bytes()?);
        let (endpoint, events) = Endpoint::new(keys, settings).await?;
        let others = resolve(others.to_vec(), true).await;
        endpoint.with(|node, now| node.set_bootstrap(others, now));
        let port = endpoint.server_socket().map_or(v4.port(), |socket| socket.port());
        let address = SocketAddr::from((*v4.ip(), port));
        Ok(Self { endpoint, address, _events: events })
    }

    /// The address with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many nodes it knows.
    pub async fn nodes(&self) -> usize {
        self.endpoint.with(|node, _| node.nodes())
    }

    /// Answers other nodes until dropped; never resolves.
    pub async fn run(&mut self) {
        std::future::pending().await
    }
}
