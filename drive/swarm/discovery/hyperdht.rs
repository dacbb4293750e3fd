//! Finding peers through today's HyperDHT: which topics its node asks about and when, and when the
//! node is made anew.
//!
//! Every topic is looked up, and announced if that is wanted, every few minutes; sooner while nobody
//! was found. The nodes on the way learn which topics these are, and our address. Announcements end
//! by themselves after some minutes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use peeroxide_dht::hyperdht::{HyperDhtConfig, HyperDhtHandle, ServerEvent};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Surroundings;
use super::whereabouts::Whereabouts;
use crate::crypto::DiscoveryKey;
use crate::swarm::Inner;
use crate::swarm::candidates::{Found, Priority, Source, Target};
use crate::swarm::hyperdht::{self, Link, Node};
use crate::swarm::topics::Interest;

/// Where the public network is entered: the nodes the reference has built in.
pub const PUBLIC_HYPERDHT: [&str; 3] = peeroxide_dht::hyperdht::DEFAULT_BOOTSTRAP;

/// Time from one query about a topic to the next, in seconds, chosen anew between these each time.
/// Announcements last 20 minutes.
const AGAIN_EVERY: std::ops::Range<u64> = 300..600;
/// While nobody was found who is of use, or nobody took an announcement, it is so long at first and
/// twice as long each time.
const FIRST_AGAIN: Duration = Duration::from_secs(5);
/// Topics that are asked about at the same time.
const RUNNING: usize = 4;
/// Longest time for one query with its announcements.
const QUERY_WITHIN: Duration = Duration::from_secs(60);
/// Peers taken from the answers of one query; an honest node names at most 20.
const MAX_FOUND: usize = 128;
/// The machine's addresses and the clock are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A node that knows nobody is made anew after this long, and then twice as long each time.
const FIRST_ANEW: Duration = Duration::from_secs(5);
const LAST_ANEW: Duration = Duration::from_secs(120);
/// The nodes that pass peers on to us hear from us this often: routers forget soon who may answer.
const STAY_KNOWN_EVERY: Duration = Duration::from_secs(15);
/// Peers that have connected and wait to be welcomed.
const ARRIVALS: usize = 16;

/// Runs until the swarm is closed.
pub(super) async fn run(
    swarm: Weak<Inner>,
    mut around: Surroundings,
    link: Arc<Link>,
    bootstrap: Vec<String>,
) {
    let mut closing = around.closing.clone();
    tokio::select! {
        () = find(&swarm, &mut around, &link, &bootstrap) => {}
        () = crate::swarm::closed(&mut closing) => {}
    }
    if let Some(node) = link.node() {
        link.set(None);
        let _ = timeout(LOOK_EVERY, node.handle.destroy()).await;
    }
}

/// One node after the other.
async fn find(
    swarm: &Weak<Inner>,
    around: &mut Surroundings,
    link: &Arc<Link>,
    bootstrap: &[String],
) {
    let mut pause = FIRST_ANEW;
    loop {
        match link.start(bootstrap).await {
            Ok((node, events, task)) => {
                link.set(Some(node.clone()));
                let mut running = Running::new(node.clone(), events, task);
                let ended = running.find(swarm, around, pause).await;
                link.set(None);
                let _ = timeout(LOOK_EVERY, node.handle.destroy()).await;
                match ended {
                    Ended::Closed => return,
                    Ended::Moved => {
                        pause = FIRST_ANEW;
                        continue;
                    }
                    Ended::Alone => {}
                }
            }
            Err(reason) => {
                log::info!("HyperDHT: {reason}; next attempt in {pause:?}");
                tokio::time::sleep(pause).await;
            }
        }
        pause = (pause * 2).min(LAST_ANEW);
    }
}

/// Why a node is given up.
enum Ended {
    Closed,
    Moved,
    Alone,
}

/// When something is asked next.
struct Appointment {
    at: Instant,
    pause: Duration,
    running: bool,
}

impl Appointment {
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

/// What came of one query.
struct Answer {
    /// Of our own address, if of no topic.
    topic: Option<DiscoveryKey>,
    found: Vec<([u8; 32], IpAddr)>,
    announced: usize,
}

/// A node with what goes on on it; dropping it ends that.
struct Running {
    node: Node,
    topics: HashMap<DiscoveryKey, (Interest, Appointment)>,
    /// When our own address is told again, where anything is announced.
    own: Option<Appointment>,
    /// Whether it was told once.
    known: bool,
    queries: JoinSet<Answer>,
    arrivals: mpsc::Receiver<hyperdht::Arrival>,
    serving: JoinHandle<()>,
    task: JoinHandle<()>,
    stay_known: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Running {
    fn new(node: Node, events: mpsc::UnboundedReceiver<ServerEvent>, task: JoinHandle<()>) -> Self {
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let serving = tokio::spawn(hyperdht::serve(node.clone(), events, sender));
        Self {
            node,
            topics: HashMap::new(),
            own: None,
            known: false,
            queries: JoinSet::new(),
            arrivals,
            serving,
            task,
            stay_known: Instant::now(),
        }
    }

    /// Until the node is of no use any more; `patience` is how long it may know nobody.
    async fn find(
        &mut self,
        swarm: &Weak<Inner>,
        around: &mut Surroundings,
        patience: Duration,
    ) -> Ended {
        let started = Instant::now();
        let mut whereabouts = Whereabouts::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow(around);
        loop {
            self.start(Instant::now());
            let next = self.next().unwrap_or_else(|| Instant::now() + LOOK_EVERY);
            tokio::select! {
                changed = around.topics.changed() => {
                    if changed.is_err() {
                        return Ended::Closed;
                    }
                    self.follow(around);
                }
                Some(answer) = self.queries.join_next(), if !self.queries.is_empty() => {
                    // One that panicked has not said what it was about.
                    let Ok(answer) = answer else { return Ended::Alone };
                    let useful = swarm.upgrade().is_some_and(|swarm| swarm.has_useful_peer());
                    if self.finished(around, answer, useful).await.is_err() {
                        return Ended::Closed;
                    }
                }
                Some(arrival) = self.arrivals.recv() => {
                    let Some(swarm) = swarm.upgrade() else { return Ended::Closed };
                    let runtime = swarm.runtime.clone();
                    runtime.spawn(swarm.welcome(arrival));
                }
                () = tokio::time::sleep_until(next) => {}
                _ = look.tick() => {
                    let here = Whereabouts::now();
                    if here.differ(&whereabouts) {
                        return Ended::Moved;
                    }
                    whereabouts = here;
                    let nodes = self.node.handle.table_size().await.unwrap_or(0);
                    if nodes == 0 && started.elapsed() >= patience {
                        return Ended::Alone;
                    }
                    self.stay_known();
                }
                _ = &mut self.task => return Ended::Alone,
            }
        }
    }

    /// Takes over what is wanted now.
    fn follow(&mut self, around: &mut Surroundings) {
        let now = Instant::now();
        let wanted = around.topics.borrow_and_update();
        self.topics.retain(|topic, (interest, _)| {
            let kept = wanted.get(topic);
            if interest.announce && !kept.is_some_and(|kept| kept.announce) {
                take_back(&self.node, *topic);
            }
            kept.is_some()
        });
        for (topic, &interest) in wanted.iter() {
            let (known, appointment) =
                self.topics.entry(*topic).or_insert_with(|| (interest, Appointment::new(now)));
            if *known != interest {
                (*known, appointment.at) = (interest, now);
            }
        }
        let announced = wanted.values().any(|interest| interest.announce);
        match (&self.own, announced) {
            (None, true) => {
                self.node.handle.register_server(&self.node.target());
                self.own = Some(Appointment::new(now));
            }
            (Some(_), false) => {
                self.node.handle.unregister_server(&self.node.target());
                (self.own, self.known) = (None, false);
            }
            _ => {}
        }
    }

    /// Starts what is due. Topics are announced once our address is known: it is told along.
    fn start(&mut self, now: Instant) {
        if let Some(own) = self.own.as_mut().filter(|own| own.is_due(now)) {
            own.running = true;
            self.queries.spawn(tell_own(self.node.clone()));
        }
        while self.queries.len() < RUNNING {
            let known = self.known;
            let due =
                |one: &(Interest, Appointment)| one.1.is_due(now) && (known || !one.0.announce);
            let next = self.topics.iter_mut().filter(|(_, one)| due(one));
            let Some((topic, one)) = next.min_by_key(|(_, one)| one.1.at) else { return };
            one.1.running = true;
            self.queries.spawn(ask(self.node.clone(), *topic, one.0));
        }
    }

    fn next(&self) -> Option<Instant> {
        if self.queries.len() >= RUNNING {
            return None;
        }
        let topics = self.topics.values().filter(|one| self.known || !one.0.announce);
        let all = topics.map(|one| &one.1).chain(&self.own);
        all.filter(|one| !one.running).map(|one| one.at).min()
    }

    /// Hands over who was found. While nobody of them is `useful`, others may come: the topic
    /// is asked about again soon.
    async fn finished(
        &mut self,
        around: &Surroundings,
        answer: Answer,
        useful: bool,
    ) -> Result<(), ()> {
        let now = Instant::now();
        let Answer { topic, found, announced } = answer;
        let Some(topic) = topic else {
            // Even if nobody took it: who finds the topic may still find us.
            self.known = true;
            log::debug!("HyperDHT: our address is at {announced} nodes");
            if let Some(own) = &mut self.own {
                own.finished(announced > 0, now);
            }
            return Ok(());
        };
        log::debug!("HyperDHT: {topic}: {} peers, {announced} announcements", found.len());
        let Some((interest, appointment)) = self.topics.get_mut(&topic) else { return Ok(()) };
        appointment.finished(announced > 0 || (useful && !found.is_empty()), now);
        if !interest.lookup {
            return Ok(());
        }
        for (key, via) in found {
            let (target, source) = (Target::HyperDht(key), Source::HyperNode(via));
            let found = Found { topic, target, source, priority: Priority::Normal };
            around.found.send(found).await.map_err(|_| ())?;
        }
        Ok(())
    }

    /// Lets the nodes that pass peers on to us hear from us.
    fn stay_known(&mut self) {
        if self.own.is_none() || self.stay_known.elapsed() < STAY_KNOWN_EVERY {
            return;
        }
        self.stay_known = Instant::now();
        let node = self.node.clone();
        tokio::spawn(async move { node.greet_relays().await });
    }
}

async fn tell_own(node: Node) -> Answer {
    let announced = announce(&node, node.target()).await;
    node.greet_relays().await;
    Answer { topic: None, found: Vec::new(), announced }
}

/// How many nodes were asked to keep it.
async fn announce(node: &Node, target: [u8; 32]) -> usize {
    let relays = node.handle.current_relay_addresses();
    let announcing = node.handle.announce(target, &node.keys, &relays);
    match timeout(QUERY_WITHIN, announcing).await {
        Ok(Ok(announced)) => announced.closest_nodes.len(),
        Ok(Err(error)) => {
            log::debug!("HyperDHT announcement: {error}");
            0
        }
        Err(_) => 0,
    }
}

async fn ask(node: Node, topic: DiscoveryKey, interest: Interest) -> Answer {
    let announced = if interest.announce { announce(&node, *topic.as_bytes()).await } else { 0 };
    let mut found = Vec::new();
    if interest.lookup
        && let Ok(Ok(results)) = timeout(QUERY_WITHIN, node.handle.lookup(*topic.as_bytes())).await
    {
        for result in results {
            let Ok(via) = result.from.host.parse() else { continue };
            let others = result.peers.into_iter().map(|peer| peer.public_key);
            for key in others.filter(|key| *key != node.keys.public_key) {
                if found.len() < MAX_FOUND && !found.iter().any(|(known, _)| *known == key) {
                    found.push((key, via));
                }
            }
        }
    }
    Answer { topic: Some(topic), found, announced }
}

fn take_back(node: &Node, topic: DiscoveryKey) {
    let node = node.clone();
    tokio::spawn(async move {
        let taking = node.handle.unannounce(*topic.as_bytes(), &node.keys);
        if !matches!(timeout(QUERY_WITHIN, taking).await, Ok(Ok(()))) {
            log::debug!("HyperDHT: {topic} stays announced for some minutes");
        }
    });
}

/// A HyperDHT node that others begin with, and nothing else.
pub struct HyperDhtBootstrapNode {
    handle: HyperDhtHandle,
    address: SocketAddr,
    task: JoinHandle<()>,
    /// Nobody connects to it.
    _events: mpsc::UnboundedReceiver<ServerEvent>,
}

impl HyperDhtBootstrapNode {
    /// `address` is the one that others see: a node's id is made of it.
    ///
    /// # Errors
    /// When the address cannot be had, or is none that others could see.
    pub async fn bind(address: SocketAddr, others: &[String]) -> io::Result<Self> {
        let unseen = address.ip().is_unspecified() || address.is_ipv6();
        if unseen {
            let why = "a HyperDHT node needs the IPv4 address that others see";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut config = HyperDhtConfig::default();
        config.dht.bootstrap = others.to_vec();
        config.dht.host = address.ip().to_string();
        config.dht.port = address.port();
        config.dht.ephemeral = Some(false);
        config.dht.firewalled = false;
        let (handle, events, task) = hyperdht::start(config).await.map_err(io::Error::other)?;
        let port = handle.local_port().await.map_err(io::Error::other)?;
        let address = SocketAddr::new(address.ip(), port);
        Ok(Self { handle, address, task, _events: events })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nodes it knows.
    pub async fn nodes(&self) -> usize {
        self.handle.table_size().await.unwrap_or(0)
    }

    /// Answers until dropped.
    pub async fn run(&mut self) {
        let _ = (&mut self.task).await;
    }
}
