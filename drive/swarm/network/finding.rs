//! From joined topics to connections: peers that discovery finds become candidates, candidates are
//! dialled, and of two connections to one peer one is kept.
//!
//! Not here: which candidate is next (`candidates`) and how peers are found (`discovery/`).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Inner;
#[cfg(test)]
use super::candidates::CandidateState;
use super::candidates::{
    Candidates, DialTarget, Found, MAX_TOPICS_PER_CANDIDATE, Outcome, Priority, Source,
};
use super::dial::CONNECT_WITHIN;
use super::discovery::NodeSocket;
use super::encrypted::Carrier;
use super::hyperdht;
use super::slot::{ConnectionEnd, ConnectionHandle, ConnectionSlot, GivenUp};
use super::slots::MAX_CONNECTIONS;
use super::tcp::level;
use super::topics::{Interest, MAX_TOPICS, TooManyTopics, Topics};
use super::transport::{FoundBy, Stream, Transport};
use crate::crypto::DiscoveryKey;
use crate::sync::{Mutex, MutexGuard, Rank};

/// Connections to peers that were found, those being dialled included: slots stay for peers that
/// dial us.
pub(crate) const MAX_FOUND_CONNECTIONS: usize = MAX_CONNECTIONS / 2;
/// How long a connection of protocol 8 has to share something before the address is also tried as a server of
/// Hyperswarm 4.
const ENCRYPTED_AFTER: Duration = Duration::from_millis(500);
/// Found peers that wait for the task below; when full, discovery waits.
const PENDING: usize = 256;

/// What the swarm knows of topics and of peers that were found.
pub(super) struct Finding {
    pub topics: watch::Sender<Topics>,
    /// Receives the peers that discovery finds.
    pub found: mpsc::Sender<Found>,
    /// The port that peers can dial.
    pub listening: watch::Sender<Option<SocketAddr>>,
    /// The node of the hash table of Hyperswarm 2, if it is used.
    pub dht: OnceLock<Arc<NodeSocket>>,
    /// The node of HyperDHT 6, if it is used.
    pub hyperdht: OnceLock<Arc<hyperdht::CurrentEndpoint>>,
    candidates: Mutex<Candidates>,
    /// Notified when a candidate becomes due or a slot becomes free.
    changed: Notify,
    /// Notified when any connection has ended.
    gone: Notify,
}

impl Finding {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Found>) {
        let (found, receiver) = mpsc::channel(PENDING);
        let finding = Self {
            topics: watch::channel(Topics::new()).0,
            found,
            listening: watch::channel(None).0,
            dht: OnceLock::new(),
            hyperdht: OnceLock::new(),
            candidates: Mutex::new(Rank::CANDIDATES, Candidates::default()),
            changed: Notify::new(),
            gone: Notify::new(),
        };
        (finding, receiver)
    }

    fn candidates(&self) -> MutexGuard<'_, Candidates> {
        // Nothing panics while holding it.
        self.candidates.lock()
    }

    pub(crate) fn join(
        &self,
        topic: DiscoveryKey,
        interest: Interest,
    ) -> Result<(), TooManyTopics> {
        let mut full = false;
        self.topics.send_if_modified(|topics| {
            full = topics.len() >= MAX_TOPICS && !topics.contains_key(&topic);
            !full && topics.insert(topic, interest) != Some(interest)
        });
        if full { Err(TooManyTopics) } else { Ok(()) }
    }

    pub(crate) fn leave(&self, topic: &DiscoveryKey) {
        if self.topics.send_if_modified(|topics| topics.remove(topic).is_some()) {
            self.candidates().left(topic);
        }
    }

    /// Joined topics, at most as many as one candidate may have.
    fn some_topics(&self) -> Vec<DiscoveryKey> {
        self.topics.borrow().keys().copied().take(MAX_TOPICS_PER_CANDIDATE).collect()
    }

    /// How many addresses were found for a topic.
    pub(crate) fn known_for(&self, topic: &DiscoveryKey) -> usize {
        self.candidates().known_for(topic)
    }

    #[cfg(test)]
    pub(crate) fn busy(&self) -> usize {
        self.candidates().busy()
    }

    #[cfg(test)]
    pub(crate) fn has_duplicates(&self) -> bool {
        self.candidates().is_any(|state| matches!(state, CandidateState::Duplicate(_)))
    }

    #[cfg(test)]
    pub(crate) fn knows_itself(&self) -> bool {
        self.candidates().is_any(|state| matches!(state, CandidateState::Aside(_)))
    }

    /// Notes the end of a connection; `last` is its static key if no other connection to it is left.
    pub(crate) fn connection_gone(&self, last: Option<&[u8; 32]>) {
        if let Some(key) = last {
            self.candidates().gone(key, Instant::now());
        }
        self.changed.notify_one();
        self.gone.notify_waiters();
    }
}

impl Inner {
    /// Notes the static key that a peer has proved, and decides whether the connection is kept.
    ///
    /// Of two connections between two peers, both keep the one with the faster transport; of two with the
    /// same transport, the one that the peer with the smaller key dialled. So both decide alike without
    /// a message. The key on Hyperswarm 4 is compared the other way round, as JavaScript peers do. Two connections that the remote dialled are both kept: it may have moved, and one of
    /// them may be dead.
    pub(super) fn identified(&self, id: u64, remote: [u8; 32]) -> Result<(), String> {
        let state = self.state();
        let Some(this) = state.connections.get(&id) else { return Ok(()) };
        let _ = this.identity.set(remote);
        let network_key = self.keys.get().map(|keys| *keys.public_key().as_bytes());
        let network_key = network_key.filter(|_| this.network_key.get() == Some(&remote));
        if remote == network_key.unwrap_or(self.identity) {
            let _ = this.given_up.set(GivenUp::Ourselves);
            return Err("it is this process itself".into());
        }
        let same = |(other, handle): &(&u64, &ConnectionHandle)| {
            let dialled_both = handle.incoming && this.incoming;
            let ended = handle.is_ending() || dialled_both;
            **other != id && handle.identity.get() == Some(&remote) && !ended
        };
        let Some((_, other)) = state.connections.iter().find(same) else { return Ok(()) };
        let keep_this = match this.transport.cmp(&other.transport) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => {
                let ours_stays = network_key.map_or(self.identity < remote, |ours| ours > remote);
                ours_stays != this.incoming
            }
        };
        let reason = "we have another connection to it";
        if keep_this {
            let _ = other.given_up.set(GivenUp::Duplicate);
            other.end(reason.into(), false);
            return Ok(());
        }
        let _ = this.given_up.set(GivenUp::Duplicate);
        Err(reason.into())
    }

    /// Whether any peer has a channel open with us.
    pub(super) fn has_useful_peer(&self) -> bool {
        self.state().connections.values().any(|handle| handle.channels() > 0 && !handle.is_ending())
    }

    fn is_connected_to(&self, key: &[u8; 32]) -> bool {
        self.state()
            .connections
            .values()
            .any(|handle| handle.identity.get() == Some(key) && !handle.is_ending())
    }

    /// Resolves when no connection to this static key is left.
    pub(super) async fn gone(&self, key: &[u8; 32]) {
        loop {
            let gone = self.finding.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if !self.is_connected_to(key) {
                return;
            }
            gone.await;
        }
    }

    /// The address to dial now, if there is one and a slot for it.
    fn next_candidate(&self) -> Option<DialTarget> {
        let connected = self.peer_count();
        let mut candidates = self.finding.candidates();
        if connected >= MAX_CONNECTIONS || candidates.busy() >= MAX_FOUND_CONNECTIONS {
            return None;
        }
        candidates.next(Instant::now())
    }

    /// Adds the peers that discovery found, for topics with a lookup.
    fn take_found(&self, all: impl Iterator<Item = Found>) {
        let topics = self.finding.topics.borrow();
        let wanted = |topic: &DiscoveryKey| topics.get(topic).is_some_and(|one| one.lookup);
        let mut candidates = self.finding.candidates();
        for found in all.filter(|found| wanted(&found.topic)) {
            let room = candidates.found(&found, Instant::now());
            let and = if room { "" } else { ", and have no room for it" };
            log::debug!("found {} by {:?}{and}", found.target, found.source);
        }
    }
}

/// Takes the peers that discovery finds and dials them, until the swarm is closed or dropped.
pub(super) async fn run(swarm: Weak<Inner>, mut found: mpsc::Receiver<Found>) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    let mut batch = Vec::new();
    loop {
        let Some(inner) = swarm.upgrade() else { return };
        while let Some(target) = inner.next_candidate() {
            inner.runtime.spawn(attempt(Arc::clone(&inner), target));
        }
        let due = inner.finding.candidates().due().filter(|due| *due > Instant::now());
        let finding = Arc::clone(&inner.finding);
        drop(inner);
        tokio::select! {
            received = found.recv_many(&mut batch, PENDING) => {
                let Some(swarm) = swarm.upgrade().filter(|_| received > 0) else { return };
                swarm.take_found(batch.drain(..));
            }
            () = finding.changed.notified() => {}
            () = crate::network::wait_until(due) => {}
            () = super::wait_closed(&mut closing) => return,
        }
    }
}

/// One attempt at a peer that was found, and the connection that comes of it.
async fn attempt(swarm: Arc<Inner>, target: DialTarget) {
    let mut closing = swarm.closing.subscribe();
    let (reason, outcome) = tokio::select! {
        ending = connect(&swarm, target) => ending,
        () = super::wait_closed(&mut closing) => return,
    };
    log::debug!("peer {target}, which was found: {reason}");
    swarm.finding.candidates().ended(&target, outcome, Instant::now());
    if let Outcome::Duplicate(key) = outcome
        && !swarm.is_connected_to(&key)
    {
        // The other connection ended meanwhile.
        swarm.finding.candidates().gone(&key, Instant::now());
    }
    swarm.finding.changed.notify_one();
}

async fn connect(swarm: &Arc<Inner>, target: DialTarget) -> (String, Outcome) {
    let origin = swarm.finding.candidates().origin(&target);
    let Some((source, topics)) = origin else { return ("is forgotten".into(), Outcome::Failed) };
    let connected = match target {
        DialTarget::Tcp(address) => connect_tcp(swarm, target, address, source.into()).await,
        DialTarget::HyperDht(key) => {
            connect_by_key(swarm, target, key, source.into(), topics).await
        }
    };
    let (connection, stream) = match connected {
        Ok(connected) => connected,
        Err(failure) => return failure,
    };
    let handle = connection.handle.clone();
    let encrypted = async {
        match target {
            DialTarget::Tcp(address) => {
                also_encrypted(swarm, &handle, address, source.into()).await
            }
            DialTarget::HyperDht(_) => false,
        }
    };
    let (ConnectionEnd { reason, lied }, shared) = tokio::join!(connection.run(stream), encrypted);
    let outcome = match (handle.given_up.get(), handle.identity.get()) {
        (Some(GivenUp::Ourselves), _) => Outcome::Ourselves,
        _ if shared => Outcome::Left,
        (Some(GivenUp::Duplicate), Some(key)) => Outcome::Duplicate(*key),
        _ if !lied && handle.channels() > 0 => Outcome::Left,
        _ if handle.foreign.get().is_some() => Outcome::Foreign,
        _ => Outcome::Failed,
    };
    if lied {
        log::log!(level(lied), "peer {target}: {reason}");
    }
    (reason, outcome)
}

/// Connects to the address as a server of Hyperswarm 4 too, if the connection of protocol 8 shares nothing: our own
/// servers are both, and have cores of Hypercore 11 on the other kind of connection alone. Whether that shared one.
async fn also_encrypted(
    swarm: &Arc<Inner>,
    of_protocol_8: &ConnectionHandle,
    address: SocketAddr,
    found_by: FoundBy,
) -> bool {
    tokio::time::sleep(ENCRYPTED_AFTER).await;
    let nothing_shared = of_protocol_8.channels() == 0 && of_protocol_8.given_up.get().is_none();
    let needed = nothing_shared && swarm.needs.borrow().hyperswarm_4;
    if !needed || *swarm.closing.borrow() {
        return false;
    }
    let stream = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
    let Ok(Ok(stream)) = stream else { return false };
    let dialled = swarm.dialled_encrypted(address, stream, found_by).await;
    let Ok((slot, stream)) = dialled else { return false };
    let handle = slot.handle.clone();
    let ConnectionEnd { reason, lied } = slot.run(stream).await;
    log::log!(level(lied), "peer {address}, by Hyperswarm 4: {reason}");
    !lied && handle.channels() > 0
}

/// A connection with its slot and its bytes, or why there is none.
type Connected = Result<(ConnectionSlot, Stream), (String, Outcome)>;

/// Registers a connection that was dialled; its slot among the attempts becomes free.
fn registered(
    swarm: &Arc<Inner>,
    target: DialTarget,
    at: SocketAddr,
    found_by: FoundBy,
) -> ConnectionSlot {
    swarm.finding.candidates().connected(&target);
    swarm.finding.changed.notify_one();
    let transport = match target {
        DialTarget::Tcp(_) => Transport::Tcp,
        DialTarget::HyperDht(_) => Transport::HyperDht,
    };
    swarm.register(at, transport, found_by)
}

async fn connect_tcp(
    swarm: &Arc<Inner>,
    target: DialTarget,
    address: SocketAddr,
    found_by: FoundBy,
) -> Connected {
    let failed = |reason| (reason, Outcome::Failed);
    let stream = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
    let stream = stream
        .map_err(|_| failed(format!("did not answer within {CONNECT_WITHIN:?}")))?
        .map_err(|error| failed(format!("cannot connect: {error}")))?;
    let connection = registered(swarm, target, address, found_by);
    Ok((connection, Stream::Tcp(stream)))
}

async fn connect_by_key(
    swarm: &Arc<Inner>,
    target: DialTarget,
    key: [u8; 32],
    found_by: FoundBy,
    topics: Vec<DiscoveryKey>,
) -> Connected {
    let failed = |reason| (reason, Outcome::Failed);
    let link = swarm.finding.hyperdht.get();
    let link = link.ok_or_else(|| failed("the HyperDHT is not used".into()))?;
    let connection = link.connect(key).await.map_err(failed)?;
    let address = SocketAddr::V4(connection.address);
    let slot = registered(swarm, target, address, found_by);
    let carrier = Carrier::Datagrams(connection.datagrams);
    let channels = swarm.channels(&slot, carrier, &connection.secrets, topics).await;
    let channels = channels.map_err(|error| failed(error.to_string()))?;
    Ok((slot, Stream::Channels(channels)))
}

impl Inner {
    /// A peer has named its TCP port: its address becomes a candidate for these topics.
    pub(super) fn add_tcp_address(&self, ip: IpAddr, port: NonZeroU16, topics: Vec<DiscoveryKey>) {
        let target = DialTarget::Tcp((ip, port.get()).into());
        let source = Source::Itself(ip);
        let found = |topic| Found { topic, target, source, priority: Priority::Normal };
        self.take_found(topics.into_iter().map(found));
        self.finding.changed.notify_one();
    }

    /// Handles a peer that connected by Hyperswarm 4.
    pub(super) async fn welcome(self: Arc<Self>, connection: hyperdht::Connection) {
        let address = SocketAddr::V4(connection.address);
        let slot = self.register(address, Transport::HyperDht, FoundBy::Incoming);
        // The peer does not name the topic.
        let topics = self.finding.some_topics();
        let carrier = Carrier::Datagrams(connection.datagrams);
        match self.channels(&slot, carrier, &connection.secrets, topics).await {
            Ok(channels) => {
                let ConnectionEnd { reason, lied } = slot.run(Stream::Channels(channels)).await;
                log::log!(level(lied), "peer {address} left: {reason}");
            }
            Err(error) => log::debug!("HyperDHT peer {address}: {error}"),
        }
    }
}
