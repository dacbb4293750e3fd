//! Connections to peers: listening, dialling those that were given and those that were found, and
//! which cores are shared over them.
//!
//! Not here: how peers find each other (`discovery/`), what is asked of them (`replicate/`), and how
//! bytes become messages (`wire/`).

mod topics;
mod candidates;
mod places;
mod transport;
mod hyperdht;
mod finding;
#[cfg(test)]
mod finding_tests;
mod discovery;
mod moved;
mod hints;
mod connection;
mod dial;
#[cfg(test)]
mod limit_tests;
mod replication;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use hypermount_core::hypercore::Core;
use crate::crypto::{DiscoveryKey, random_bytes};
use hypermount_core::error::{Error, Result};
use crate::rate::{Limit, Rate};
use hypermount_core::replicate::Event;
use hypermount_core::store::Store;
use crate::sync::{Mutex, MutexGuard, Rank};
use hypermount_core::wire::message::Message;
use hypermount_core::wire::noise::{Role, StaticKeyPair};

use finding::{Finding, GivenUp};
use replication::Replication;
use transport::Stream;

pub use candidates::{Found, Priority, Source, Target};
pub use dial::Dialling;
#[cfg(fuzzing)]
pub use discovery::hear_on_the_lan;
pub use discovery::{BootstrapNode, DiscoveryOptions, HyperDhtBootstrapNode, PUBLIC_HYPERDHT};
pub use places::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_HOST, MAX_STRANGERS};
pub use topics::{Interest, MAX_TOPICS, TooManyTopics, Topics};
pub use transport::{Transport, Way};

/// Bytes of frames that have not arrived whole, all connections together; beyond it the connection
/// that holds most is ended.
pub const MAX_HALF_RECEIVED: usize = 32 * 1024 * 1024;
/// Messages to one peer that may wait for its connection; a peer that lets them pile up is slow
/// beyond use.
const COMMANDS: usize = 4096;
/// Drives that are opened without being looked for, while others are.
pub const MAX_HUSHED: usize = 4096;
/// Pause of the accept loop after a failure such as running out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Which cores peers that know their keys are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Those this process has opened.
    Opened,
    /// Every core of the store.
    Store,
    /// Those named to [`Swarm::choose`], whatever else is open.
    Chosen,
}

#[derive(Clone, Debug)]
pub struct SwarmOptions {
    pub share: Share,
}

impl Default for SwarmOptions {
    fn default() -> Self {
        Self { share: Share::Opened }
    }
}

/// Bytes on all connections since the start, everything included that TCP carries for us; without
/// what the HyperDHT adds to what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// How much of a core one connected peer says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// [`PeerInfo::id`].
    pub peer: u64,
    /// Blocks, of those we know of.
    pub blocks: u64,
}

/// How fast bytes may flow, and may be changed while they do.
#[derive(Debug)]
pub struct Rates {
    pub up: Rate,
    pub down: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self { up: Rate::new(None), down: Rate::new(None) }
    }
}

/// One connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Names the connection as long as the swarm lives.
    pub id: u64,
    pub address: SocketAddr,
    /// Whether it dialled us.
    pub incoming: bool,
    pub transport: Transport,
    pub way: Way,
    /// Cores open on both sides.
    pub cores: usize,
    pub traffic: Traffic,
}

/// See the module documentation. Dropping the last handle ends all connections.
#[derive(Clone)]
pub struct Swarm {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    store: Store,
    options: SwarmOptions,
    keys: StaticKeyPair,
    runtime: Handle,
    closing: watch::Sender<bool>,
    next_connection: AtomicU64,
    state: Mutex<State>,
    received: AtomicU64,
    sent: AtomicU64,
    finding: Arc<Finding>,
    rates: Rates,
    /// Answers to hints of all peers take turns.
    hint_turns: Arc<Semaphore>,
}

/// How fast the blocks of one core may flow.
#[derive(Debug)]
struct CoreLimits {
    up: Rate,
    down: Limit,
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, ConnectionHandle>,
    replications: HashMap<DiscoveryKey, Replication>,
    /// Topics that are looked for only when they are joined.
    hushed: HashSet<DiscoveryKey>,
    /// What [`Share::Chosen`] shares.
    chosen: HashSet<DiscoveryKey>,
    /// What was said of single cores; the others have no limit of their own.
    limits: HashMap<DiscoveryKey, CoreLimits>,
    /// Why each dialled address could not be reached, or left us, last.
    troubles: HashMap<String, String>,
}

/// How the rest of the swarm talks to a connection's task.
#[derive(Clone)]
pub(crate) struct ConnectionHandle {
    address: SocketAddr,
    incoming: bool,
    transport: Transport,
    way: Way,
    commands: mpsc::Sender<Command>,
    /// Set once: ends the connection, with the reason and whether the peer lied.
    ending: watch::Sender<Option<(String, bool)>>,
    statistics: Arc<connection::Statistics>,
    /// The peer's static key, once it has shown it.
    identity: Arc<OnceLock<[u8; 32]>>,
    given_up: Arc<OnceLock<GivenUp>>,
    /// Where it goes out from, over TCP.
    local: Arc<OnceLock<IpAddr>>,
    since: Instant,
}

pub(crate) enum Command {
    Open(Core),
    Close(DiscoveryKey),
    Send(DiscoveryKey, Message),
}

impl Swarm {
    /// Starts sharing `store`'s cores; tasks run on the current tokio runtime.
    pub fn new(store: &Store, options: SwarmOptions) -> Result<Self> {
        let keys = StaticKeyPair::generate().map_err(|source| Error::Storage {
            op: "generate",
            path: "network key".into(),
            source,
        })?;
        let (finding, found) = Finding::new();
        let inner = Arc::new(Inner {
            store: store.clone(),
            options,
            keys,
            runtime: Handle::current(),
            closing: watch::channel(false).0,
            next_connection: AtomicU64::new(1),
            state: Mutex::new(Rank::SWARM, State::default()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            finding: Arc::new(finding),
            rates: Rates::default(),
            hint_turns: Arc::new(Semaphore::new(hints::ANSWERED_AT_ONCE)),
        });
        let (opened, closed) = (store.opened(), store.closed());
        for core in store.cores() {
            inner.core_opened(core);
        }
        inner.runtime.spawn(follow_store(Arc::downgrade(&inner), opened, closed));
        inner.runtime.spawn(finding::run(Arc::downgrade(&inner), found));
        inner.runtime.spawn(moved::run(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Listens for peers; returns the address with the port that was chosen.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        self.inner.runtime.spawn(accept(Arc::downgrade(&self.inner), listener));
        self.inner.finding.listening.send_replace(Some(address));
        Ok(address)
    }

    /// Takes interest in a topic: the discovery key of a drive's metadata core. What is announced
    /// is the address that [`Swarm::listen`] returned last; what is found is dialled.
    ///
    /// # Errors
    /// When [`MAX_TOPICS`] are joined.
    pub fn join(&self, topic: DiscoveryKey, interest: Interest) -> Result<(), TooManyTopics> {
        self.inner.finding.join(topic, interest)
    }

    /// From now on a drive that is opened is not looked for by itself, if `hushed`; what is joined is.
    ///
    /// # Errors
    /// When [`MAX_HUSHED`] are hushed.
    pub fn hush(&self, topic: DiscoveryKey, hushed: bool) -> Result<()> {
        let mut state = self.inner.state();
        if !hushed {
            state.hushed.remove(&topic);
        } else if state.hushed.len() < MAX_HUSHED || state.hushed.contains(&topic) {
            state.hushed.insert(topic);
        } else {
            return Err(Error::TooLarge(format!("{MAX_HUSHED} drives are not looked for already")));
        }
        Ok(())
    }

    /// Takes a topic's announcement back and dials nobody for it any more; connections stay.
    pub fn leave(&self, topic: &DiscoveryKey) {
        self.inner.finding.leave(topic);
    }

    /// How many addresses discovery has named for a topic, good or bad.
    pub fn found(&self, topic: &DiscoveryKey) -> usize {
        self.inner.finding.known_for(topic)
    }

    /// Connects to `address` (`HOST:PORT`) and keeps trying, with growing pauses, until closed.
    pub fn dial(&self, address: &str) {
        let (forever, needed) = watch::channel(());
        let dialling = dial::keep_dialling(Arc::downgrade(&self.inner), address.to_owned(), needed);
        self.inner.runtime.spawn(async move {
            dialling.await;
            drop(forever);
        });
    }

    /// The same, until what is returned is dropped; the connection then ends, too.
    pub fn dial_while(&self, address: &str) -> Dialling {
        let (sender, needed) = watch::channel(());
        let swarm = Arc::downgrade(&self.inner);
        self.inner.runtime.spawn(dial::keep_dialling(swarm, address.to_owned(), needed));
        Dialling { _needed: sender }
    }

    /// How fast everything together may flow.
    pub fn rates(&self) -> &Rates {
        &self.inner.rates
    }

    /// How fast blocks of this core may be given away and asked for, from now on.
    pub fn limit(&self, core: &DiscoveryKey, up: Limit, down: Limit) {
        let replication = {
            let mut state = self.inner.state();
            state.limits.insert(*core, CoreLimits { up: Rate::new(up), down });
            state.replications.get(core).cloned()
        };
        if let Some(replication) = replication {
            self.inner.runtime.spawn(async move {
                replication.deliver(Event::Limited { limit: down }, 0).await;
            });
        }
    }

    pub fn traffic(&self) -> Traffic {
        Traffic {
            received: self.inner.received.load(Ordering::Relaxed),
            sent: self.inner.sent.load(Ordering::Relaxed),
        }
    }

    pub fn peers(&self) -> Vec<PeerInfo> {
        let state = self.inner.state();
        state.connections.iter().map(|(id, handle)| handle.info(*id)).collect()
    }

    /// With [`Share::Chosen`]: shares these cores, and no others, from now on.
    pub fn choose(&self, cores: HashSet<DiscoveryKey>) {
        let new: Vec<DiscoveryKey> = {
            let mut state = self.inner.state();
            let new = cores.difference(&state.chosen).copied().collect();
            state.chosen = cores;
            new
        };
        // Peers that were connected before are asked for them too.
        for core in self.inner.store.cores() {
            if new.contains(core.discovery_key()) {
                self.inner.core_opened(core);
            }
        }
    }

    /// What the connected peers say they hold of a core; empty for one that is not open.
    pub async fn holdings(&self, core: &DiscoveryKey) -> Vec<Holding> {
        let replication = self.inner.state().replications.get(core).cloned();
        match replication {
            Some(replication) => replication.holdings().await,
            None => Vec::new(),
        }
    }

    /// Why dialled peers are not connected, one sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.inner.state();
        state.troubles.iter().map(|(address, trouble)| format!("{address}: {trouble}")).collect()
    }

    /// Ends every connection and stops listening and dialling; announcements are taken back.
    pub fn close(&self) {
        if let Some(link) = self.inner.finding.dht.get() {
            link.farewell();
        }
        if let Some(link) = self.inner.finding.hyperdht.get() {
            link.farewell();
        }
        self.inner.closing.send_replace(true);
    }
}

impl ConnectionHandle {
    fn cores(&self) -> usize {
        self.statistics.cores.load(Ordering::Relaxed)
    }

    fn info(&self, id: u64) -> PeerInfo {
        PeerInfo {
            id,
            address: self.address,
            incoming: self.incoming,
            transport: self.transport,
            way: self.way,
            cores: self.cores(),
            traffic: self.statistics.traffic(),
        }
    }

    /// Ends the connection soon; the first reason given counts.
    pub(crate) fn end(&self, reason: String, lied: bool) {
        self.ending.send_if_modified(|ending| {
            let first = ending.is_none();
            if first {
                *ending = Some((reason, lied));
            }
            first
        });
    }

    fn is_ending(&self) -> bool {
        self.ending.borrow().is_some()
    }

    pub(crate) fn command(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.end("does not read what it is sent".into(), false);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; the maps stay usable whatever happened elsewhere.
        self.state.lock()
    }

    /// A core was opened in this process: it gets a replicator, and peers are asked for it.
    fn core_opened(self: &Arc<Self>, core: Core) {
        self.replication(&core);
        let connections: Vec<ConnectionHandle> =
            self.state().connections.values().cloned().collect();
        for connection in connections {
            connection.command(Command::Open(core.clone()));
        }
    }

    /// The store has closed a core: its replicator ends, and so do its channels.
    fn core_closed(&self, key: &DiscoveryKey) {
        if self.store.has_open(key) {
            return; // opened again, of which there is word behind this one
        }
        let (replication, connections) = {
            let mut state = self.state();
            let connections: Vec<ConnectionHandle> = state.connections.values().cloned().collect();
            (state.replications.remove(key), connections)
        };
        for connection in connections {
            connection.command(Command::Close(*key));
        }
        if let Some(replication) = replication {
            replication.stop();
        }
    }

    fn replication(self: &Arc<Self>, core: &Core) -> Replication {
        let mut state = self.state();
        let limit = state.limits.get(core.discovery_key()).and_then(|limits| limits.down);
        state
            .replications
            .entry(*core.discovery_key())
            .or_insert_with(|| {
                replication::spawn(
                    &self.runtime,
                    Arc::downgrade(self),
                    core.clone(),
                    self.closing.subscribe(),
                    limit,
                )
            })
            .clone()
    }

    /// Whether what is here of a core may be given away.
    fn shares(&self, key: &DiscoveryKey) -> bool {
        self.options.share != Share::Chosen || self.state().chosen.contains(key)
    }

    /// The core a peer asked for, if it is one we share.
    fn shared(&self, key: &DiscoveryKey) -> Option<Core> {
        if !self.shares(key) {
            return None;
        }
        let opened = self.store.cores().into_iter().find(|core| core.discovery_key() == key);
        if opened.is_some() || self.options.share == Share::Opened {
            return opened;
        }
        self.store.find(key).unwrap_or_else(|error| {
            log::warn!("core {key} cannot be shared: {error}");
            None
        })
    }

    /// A dialled address could not be reached, or has left us. Cores keep the reason for those who wait.
    fn not_connected(&self, address: &str, reason: String) {
        let trouble = format!("peer {address}: {reason}");
        let mut state = self.state();
        state.troubles.insert(address.to_owned(), reason);
        for replication in state.replications.values() {
            replication.tell(Event::Unreachable { trouble: trouble.clone() });
        }
    }

    /// When blocks of this core may be given away again; `None` for now.
    fn may_give(&self, core: &DiscoveryKey) -> Option<Instant> {
        self.state().limits.get(core)?.up.ready_at()
    }

    fn given(&self, core: &DiscoveryKey, bytes: usize) {
        if let Some(limits) = self.state().limits.get(core) {
            limits.up.spend(bytes);
        }
    }

    pub(crate) fn connection(&self, id: u64) -> Option<ConnectionHandle> {
        self.state().connections.get(&id).cloned()
    }

    /// Ends the connection that holds most, if all together have received too much of frames that
    /// are not whole.
    fn bound_half_received(&self) {
        let state = self.state();
        let held =
            |handle: &ConnectionHandle| handle.statistics.half_received.load(Ordering::Relaxed);
        // One that is being ended still holds its bytes, but not for long.
        let staying = || state.connections.values().filter(|handle| !handle.is_ending());
        if staying().map(held).sum::<usize>() > MAX_HALF_RECEIVED
            && let Some(most) = staying().max_by_key(|handle| held(handle))
        {
            most.end("sends too much at a time".into(), false);
        }
    }

    /// A place for a connection (`places.rs`).
    fn register(
        self: &Arc<Self>,
        address: SocketAddr,
        transport: Transport,
        way: Way,
    ) -> Registered {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let handle = ConnectionHandle {
            address,
            incoming: way == Way::Incoming,
            transport,
            way,
            commands,
            ending: watch::channel(None).0,
            statistics: Arc::default(),
            identity: Arc::default(),
            given_up: Arc::default(),
            local: Arc::default(),
            since: Instant::now(),
        };
        let mut state = self.state();
        if handle.incoming {
            state.make_room_for_stranger(address.ip());
        }
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        state.connections.insert(id, handle.clone());
        Registered { swarm: Arc::clone(self), id, handle, receiver }
    }
}

/// A connection that has its place, which it gives back when dropped.
struct Registered {
    swarm: Arc<Inner>,
    id: u64,
    handle: ConnectionHandle,
    receiver: mpsc::Receiver<Command>,
}

impl Registered {
    /// Runs the connection to its end; the reason it ended and whether the peer lied.
    async fn run(mut self, stream: Stream) -> (String, bool) {
        if let Stream::Tcp(stream) = &stream
            && let Ok(local) = stream.local_addr()
        {
            let _ = self.handle.local.set(local.ip().to_canonical());
        }
        let role = if self.handle.incoming { Role::Responder } else { Role::Initiator };
        let nonce = match random_bytes() {
            Ok(nonce) => nonce,
            Err(error) => return (format!("no random numbers: {error}"), false),
        };
        connection::run(&self.swarm, self.id, stream, role, nonce, &self.handle, &mut self.receiver)
            .await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let identity = self.handle.identity.get();
        let mut state = self.swarm.state();
        state.connections.remove(&self.id);
        let another = state.connections.values().any(|other| other.identity.get() == identity);
        drop(state);
        self.swarm.finding.connection_gone(identity.filter(|_| !another));
    }
}

async fn follow_store(
    swarm: Weak<Inner>,
    mut opened: tokio::sync::broadcast::Receiver<Core>,
    mut closed: tokio::sync::broadcast::Receiver<DiscoveryKey>,
) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        tokio::select! {
            core = opened.recv() => {
                let Some(swarm) = swarm.upgrade() else { return };
                match core {
                    Ok(core) => swarm.core_opened(core),
                    Err(RecvError::Lagged(_)) => {
                        for core in swarm.store.cores() {
                            swarm.core_opened(core);
                        }
                    }
                    Err(RecvError::Closed) => return,
                }
            }
            key = closed.recv() => {
                let Some(swarm) = swarm.upgrade() else { return };
                match key {
                    Ok(key) => swarm.core_closed(&key),
                    Err(RecvError::Lagged(_)) => {
                        let known: Vec<DiscoveryKey> =
                            swarm.state().replications.keys().copied().collect();
                        known.iter().for_each(|key| swarm.core_closed(key));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

async fn accept(swarm: Weak<Inner>, listener: TcpListener) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed(&mut closing) => return,
        };
        let Some(swarm) = swarm.upgrade() else { return };
        match accepted {
            Ok((stream, address)) => {
                let connection = swarm.register(address, Transport::Tcp, Way::Incoming);
                swarm.runtime.spawn(async move {
                    let (reason, lied) = connection.run(Stream::Tcp(stream)).await;
                    log::log!(dial::level(lied), "peer {address} left: {reason}");
                });
            }
            Err(error) => {
                log::warn!("cannot accept peers: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Resolves when the swarm is being closed.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // A swarm that is gone without a word is closed, too.
    let _ = closing.wait_for(|closing| *closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who moved dials anew, and its old connection is not known to be dead for a while.
    #[tokio::test]
    async fn who_dials_twice_is_not_turned_away_and_whom_we_dialled_twice_is_kept_once() {
        let swarm = Swarm::new(&Store::memory(), SwarmOptions::default()).unwrap().inner;
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        for (number, remote) in [(1, [0; 32]), (2, [0xff; 32])] {
            let register = |way| swarm.register(address, Transport::Tcp, way);
            let (old, new) = (register(Way::Incoming), register(Way::Incoming));
            for place in [&old, &new] {
                assert_eq!(swarm.identified(place.id, remote), Ok(()), "{number}");
            }
            assert!(!old.handle.is_ending() && !new.handle.is_ending(), "{number}");
            drop((old, new));
            let (old, new) = (register(Way::Lan), register(Way::Dht));
            assert_eq!(swarm.identified(old.id, remote), Ok(()), "{number}");
            let refused = swarm.identified(new.id, remote).is_err();
            assert!(refused != old.handle.is_ending(), "{number}: one of them");
        }
    }

    #[tokio::test]
    async fn half_received_frames_have_a_budget() {
        let swarm = Swarm::new(&Store::memory(), SwarmOptions::default()).unwrap().inner;
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let register = || swarm.register(address, Transport::Tcp, Way::Incoming);
        let (small, large) = (register(), register());
        let hold = |place: &Registered, bytes| {
            place.handle.statistics.half_received.store(bytes, Ordering::Relaxed);
            swarm.bound_half_received();
        };
        hold(&small, 1000);
        hold(&large, MAX_HALF_RECEIVED - 1000);
        assert!(!large.handle.is_ending());
        hold(&small, 1001);
        assert!(large.handle.is_ending() && !small.handle.is_ending());
    }
}
