//! Which cores are shared on which connection.
//!
//! Not here: how peers find and reach each other (`hypermount_swarm::Swarm`), what is asked of
//! them (`replicate/`), and how bytes become messages (`wire/`).

mod hints;
mod terms;
mod replication;
mod connection;
mod alpha;
#[cfg(test)]
mod alpha_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod twice_tests;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use hypermount_swarm::crypto::{DiscoveryKey, random_bytes};
use hypermount_swarm::rate::RateLimit;
use hypermount_swarm::sync::{Mutex, MutexGuard, Rank};
use hypermount_swarm::{
    ConnectionEnd, ConnectionHandle, ConnectionSlot, Dialling, DiscoveryOptions, Interest, Needs,
    PeerInfo, Protocol, Rates, Stream, Swarm, TooManyTopics, Traffic,
};
use tokio::net::ToSocketAddrs;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc};

use crate::error::{Error, Result};
use crate::hypercore::{Core, CoreName, Dialect};
use crate::replicate::Event;
use crate::store::Store;
use crate::wire::message::Message;
use crate::wire::noise::{Role, StaticKeyPair};

use connection::Bearer;
use replication::Replication;
use terms::Terms;

pub use hints::{Answered, Answerer, ExtensionRequest};

/// Messages to one peer that may wait for its connection; a peer that lets them pile up is slow
/// beyond use.
const COMMANDS: usize = 4096;
/// Drives that are opened without being looked for, while others are.
pub(crate) const MAX_WITHOUT_LOOKUP: usize = 4096;

/// Which cores peers that know their keys are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Those this process has opened.
    Opened,
    /// Every core of the store.
    Store,
    /// Those named to [`Sharing::set_shared`], whatever else is open.
    Chosen,
}

/// What a [`Sharing`] shares, and how it answers.
#[derive(Clone, Debug)]
pub struct SharingOptions {
    /// Which cores peers may have.
    pub share: Share,
    /// Answers the hints of peers about the cores that are shared; without it they are ignored.
    pub answer: Option<Answerer>,
}

impl Default for SharingOptions {
    fn default() -> Self {
        Self { share: Share::Opened, answer: None }
    }
}

/// How much of a core one connected peer says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// [`PeerInfo::id`].
    pub peer: u64,
    /// Blocks, of those we know of.
    pub blocks: u64,
}

/// Shares the cores of a store with peers, and fetches from peers what is wanted of them. Connections
/// go on after the last handle is dropped, until their ends; [`Sharing::close`] ends them.
#[derive(Clone)]
pub struct Sharing {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    swarm: Swarm,
    store: Store,
    options: SharingOptions,
    keys: StaticKeyPair,
    runtime: Handle,
    state: Mutex<SharingState>,
    /// Answers to hints of all peers take turns.
    hint_turns: Arc<Semaphore>,
}

/// How fast the blocks of one core may flow.
#[derive(Clone, Copy, Debug, Default)]
struct CoreLimits {
    up: RateLimit,
    down: RateLimit,
}

#[derive(Default)]
struct SharingState {
    /// A connection of Hyperswarm 4 may carry cores of both kinds.
    connections: HashMap<(u64, Dialect), Connected>,
    replications: HashMap<CoreName, Replication>,
    /// Topics that are looked for only when they are joined.
    without_lookup: HashSet<DiscoveryKey>,
    /// What [`Share::Chosen`] shares.
    chosen: HashSet<DiscoveryKey>,
    /// What was said of single cores; the others have no limit of their own.
    limits: HashMap<DiscoveryKey, CoreLimits>,
}

/// How cores talk to a connection's task.
#[derive(Clone)]
struct Connected {
    /// The kind of cores that it carries.
    dialect: Dialect,
    commands: mpsc::Sender<Command>,
    handle: ConnectionHandle,
}

pub(crate) enum Command {
    Open(Core),
    Close(DiscoveryKey),
    Send(DiscoveryKey, Message),
    /// The head of the core has moved.
    Grown(DiscoveryKey),
    /// Ask the peer to prove its history of the core from the first block on.
    AskForHistory(DiscoveryKey),
    /// Prove ours to it.
    ProveHistory(DiscoveryKey),
}

impl Sharing {
    /// Starts sharing `store`'s cores; tasks run on the current tokio runtime.
    ///
    /// # Errors
    /// `Storage` if the operating system has no randomness to give.
    pub fn new(store: &Store, options: SharingOptions) -> Result<Self> {
        let keys = StaticKeyPair::generate().map_err(|source| Error::Storage {
            op: "generate",
            path: "network key".into(),
            source,
        })?;
        let inner = Arc::new_cyclic(|inner| Inner {
            swarm: Swarm::new(*keys.public(), Arc::new(Shared(Weak::clone(inner)))),
            store: store.clone(),
            options,
            keys,
            runtime: Handle::current(),
            state: Mutex::new(Rank::SHARING, SharingState::default()),
            hint_turns: Arc::new(Semaphore::new(hints::ANSWERED_AT_ONCE)),
        });
        let (opened, closed) = (store.opened(), store.closed());
        for core in store.cores() {
            inner.core_opened(core);
        }
        inner.runtime.spawn(follow_store(Arc::downgrade(&inner), opened, closed));
        Ok(Self { inner })
    }

    /// [`Swarm::listen`].
    ///
    /// # Errors
    /// The error of the system if the address does not resolve or cannot be bound.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> std::io::Result<SocketAddr> {
        self.inner.swarm.listen(address).await
    }

    /// [`Swarm::join`]; the topic of a drive is the discovery key of its metadata core.
    ///
    /// # Errors
    /// [`TooManyTopics`] if 4096 other topics are joined already.
    pub fn join(&self, topic: DiscoveryKey, interest: Interest) -> Result<(), TooManyTopics> {
        self.inner.swarm.join(topic, interest)
    }

    /// Whether this drive is looked for when it is opened, from now on; by default it is. A topic that is
    /// joined is always looked for.
    ///
    /// # Errors
    /// `TooLarge` when 4096 drives are not looked for.
    pub fn set_lookup_on_open(&self, topic: DiscoveryKey, lookup: bool) -> Result<()> {
        let mut state = self.inner.state();
        let quiet = &mut state.without_lookup;
        if lookup {
            quiet.remove(&topic);
        } else if quiet.len() < MAX_WITHOUT_LOOKUP || quiet.contains(&topic) {
            quiet.insert(topic);
        } else {
            let most = MAX_WITHOUT_LOOKUP;
            return Err(Error::TooLarge(format!("{most} drives are not looked for already")));
        }
        Ok(())
    }

    /// [`Swarm::leave`].
    pub fn leave(&self, topic: &DiscoveryKey) {
        self.inner.swarm.leave(topic);
    }

    /// [`Swarm::found`].
    pub fn found(&self, topic: &DiscoveryKey) -> usize {
        self.inner.swarm.found(topic)
    }

    /// [`Swarm::dial`].
    pub fn dial(&self, address: &str) {
        self.inner.swarm.dial(address);
    }

    /// [`Swarm::dial_while`].
    pub fn dial_while(&self, address: &str) -> Dialling {
        self.inner.swarm.dial_while(address)
    }

    /// Starts finding peers, to be called once: of the topics that are joined, now and later, and of
    /// every drive that is, from now on, opened to be read from peers, nested drives included.
    ///
    /// # Errors
    /// The error of the system if a socket for it cannot be opened.
    pub async fn discover(&self, options: &DiscoveryOptions) -> std::io::Result<()> {
        let wanted = self.inner.store.drives_wanted();
        self.inner.runtime.spawn(follow_drives(Arc::downgrade(&self.inner), wanted));
        self.inner.swarm.discover(options).await
    }

    /// How fast everything together may flow.
    pub fn rates(&self) -> &Rates {
        self.inner.swarm.rates()
    }

    /// How fast blocks of this core may be given away (`up`) and asked for (`down`), from now on. In
    /// bytes of blocks per second, `None` is no limit; lasts as long as this [`Sharing`].
    pub fn limit(&self, core: &DiscoveryKey, up: RateLimit, down: RateLimit) {
        let replications = {
            let mut state = self.inner.state();
            state.limits.insert(*core, CoreLimits { up, down });
            let replications = state.replications_of(core);
            // Before another call can change it again.
            for replication in &replications {
                replication.terms().limit(up);
            }
            replications
        };
        for replication in replications {
            self.inner.runtime.spawn(async move {
                replication.deliver(Event::Limited { limit: down }, 0).await;
            });
        }
    }

    /// [`Swarm::traffic`].
    pub fn traffic(&self) -> Traffic {
        self.inner.swarm.traffic()
    }

    /// [`Swarm::peers`], without connections that share no core beside another one to the same peer: an address
    /// is tried with both protocols, of which a peer may need one.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let all = self.inner.swarm.peers();
        let same = |one: &PeerInfo, other: &PeerInfo| match one.incoming && other.incoming {
            true => one.address.ip() == other.address.ip(),
            false => one.address == other.address,
        };
        let is_spare = |peer: &PeerInfo| {
            let better = |other: &PeerInfo| other.cores > 0 || other.id < peer.id;
            peer.cores == 0
                && all.iter().any(|other| other.id != peer.id && same(peer, other) && better(other))
        };
        all.iter().filter(|peer| !is_spare(peer)).cloned().collect()
    }

    /// With [`Share::Chosen`]: shares these cores, and no others, from now on.
    pub fn set_shared(&self, cores: HashSet<DiscoveryKey>) {
        let new: Vec<DiscoveryKey> = {
            let mut state = self.inner.state();
            let new = cores.difference(&state.chosen).copied().collect();
            state.chosen = cores;
            if self.inner.options.share == Share::Chosen {
                for (name, replication) in &state.replications {
                    replication.terms().share(state.chosen.contains(&name.discovery_key));
                }
            }
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
        let replications = self.inner.state().replications_of(core);
        let mut holdings = Vec::new();
        for replication in replications {
            holdings.extend(replication.holdings().await);
        }
        holdings
    }

    /// [`Swarm::troubles`].
    pub fn troubles(&self) -> Vec<String> {
        self.inner.swarm.troubles()
    }

    /// [`Swarm::close`].
    pub fn close(&self) {
        self.inner.swarm.close();
    }
}

impl SharingState {
    /// The connections that carry cores of this kind.
    fn connections_for(&self, dialect: Dialect) -> Vec<Connected> {
        let all = self.connections.values();
        all.filter(|connection| connection.dialect == dialect).cloned().collect()
    }

    /// Those of the cores of either kind with this discovery key.
    fn replications_of(&self, core: &DiscoveryKey) -> Vec<Replication> {
        let names = [Dialect::Legacy, Dialect::Modern]
            .map(|dialect| CoreName { dialect, discovery_key: *core });
        names.iter().filter_map(|name| self.replications.get(name).cloned()).collect()
    }
}

impl Connected {
    fn command(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.handle.end("does not read what it is sent".into(), false);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, SharingState> {
        // Nothing panics while holding it; the maps stay usable whatever happened elsewhere.
        self.state.lock()
    }

    /// A core was opened in this process: it gets a replicator, and peers are asked for it.
    fn core_opened(self: &Arc<Self>, core: Core) {
        self.replication(&core);
        self.tell_needs();
        for connection in self.state().connections_for(core.dialect()) {
            connection.command(Command::Open(core.clone()));
        }
    }

    /// The store has closed a core: its replicator ends, and so do its channels.
    fn core_closed(&self, name: &CoreName) {
        if self.store.has_open(name) {
            return; // opened again, of which there is word behind this one
        }
        self.tell_needs();
        let (replication, connections) = {
            let mut state = self.state();
            let connections = state.connections_for(name.dialect);
            (state.replications.remove(name), connections)
        };
        for connection in connections {
            connection.command(Command::Close(name.discovery_key));
        }
        if let Some(replication) = replication {
            replication.stop();
        }
    }

    /// An address is dialled for the kinds of cores that are open; for both while none is, and where peers may
    /// have what is not open.
    fn tell_needs(&self) {
        let cores = self.store.cores();
        let has = |dialect| cores.iter().any(|core| core.dialect() == dialect);
        let mut needs = Needs::BOTH;
        if self.options.share != Share::Store && !cores.is_empty() {
            needs.protocol_8 = has(Dialect::Legacy);
            needs.hyperswarm_4 = has(Dialect::Modern);
        }
        self.swarm.set_needs(needs);
    }

    fn replication(self: &Arc<Self>, core: &Core) -> Replication {
        let mut state = self.state();
        let limits = state.limits.get(core.discovery_key()).copied().unwrap_or_default();
        let shared =
            self.options.share != Share::Chosen || state.chosen.contains(core.discovery_key());
        state
            .replications
            .entry(core.name())
            .or_insert_with(|| {
                replication::spawn(
                    &self.runtime,
                    core.clone(),
                    self.swarm.closing(),
                    limits.down,
                    Terms::new(shared, limits.up),
                )
            })
            .clone()
    }

    /// Whether peers may be given the blocks of a core that are here.
    fn shares(&self, key: &DiscoveryKey) -> bool {
        self.options.share != Share::Chosen || self.state().chosen.contains(key)
    }

    /// The core a peer asked for, if it is one we share.
    fn shared(&self, name: &CoreName) -> Option<Core> {
        if !self.shares(&name.discovery_key) {
            return None;
        }
        let opened = self.store.cores().into_iter().find(|core| core.name() == *name);
        if opened.is_some() || self.options.share == Share::Opened {
            return opened;
        }
        self.store.find_named(name).unwrap_or_else(|error| {
            let key = &name.discovery_key;
            log::warn!("core {key} cannot be shared: {error}");
            None
        })
    }

    async fn run(self: Arc<Self>, slot: ConnectionSlot, stream: Stream) -> (String, bool) {
        let stream = match stream {
            Stream::Tcp(stream) => stream,
            Stream::Channels(channels) => return alpha::run(&self, &slot, channels).await,
        };
        self.run_protocol_8(&slot, Bearer::Tcp(stream)).await
    }

    /// Runs hypercore-protocol 8 to the end of what carries it.
    async fn run_protocol_8(
        self: &Arc<Self>,
        slot: &ConnectionSlot,
        bearer: Bearer,
    ) -> (String, bool) {
        let role = if slot.is_incoming() { Role::Responder } else { Role::Initiator };
        let nonce = match random_bytes() {
            Ok(nonce) => nonce,
            Err(error) => return (format!("no random numbers: {error}"), false),
        };
        let (commands, mut receiver) = mpsc::channel(COMMANDS);
        let handle = slot.handle().clone();
        let connected = Connected { dialect: Dialect::Legacy, commands, handle };
        let _entry = Entry::new(self, slot.id(), connected.clone());
        connection::run(self, slot, bearer, role, nonce, connected, &mut receiver).await
    }
}

/// What is shared, as the network runs it on every connection.
struct Shared(Weak<Inner>);

impl Protocol for Shared {
    fn run(
        &self,
        slot: ConnectionSlot,
        stream: Stream,
    ) -> Pin<Box<dyn Future<Output = ConnectionEnd> + Send + '_>> {
        Box::pin(async move {
            let Some(inner) = self.0.upgrade() else {
                return ConnectionEnd { reason: "we are closing".into(), lied: false };
            };
            let (reason, lied) = inner.run(slot, stream).await;
            ConnectionEnd { reason, lied }
        })
    }

    /// Cores keep the reason for the callers that wait.
    fn unreachable(&self, trouble: &str) {
        let Some(inner) = self.0.upgrade() else { return };
        for replication in inner.state().replications.values() {
            replication.tell(Event::Unreachable { trouble: trouble.to_owned() });
        }
    }
}

/// A connection among those that cores talk to, until it is dropped.
struct Entry<'a> {
    sharing: &'a Inner,
    id: (u64, Dialect),
}

impl<'a> Entry<'a> {
    fn new(sharing: &'a Inner, id: u64, connected: Connected) -> Self {
        let id = (id, connected.dialect);
        sharing.state().connections.insert(id, connected);
        Self { sharing, id }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.sharing.state().connections.remove(&self.id);
    }
}

async fn follow_store(
    sharing: Weak<Inner>,
    mut opened: broadcast::Receiver<Core>,
    mut closed: broadcast::Receiver<CoreName>,
) {
    loop {
        tokio::select! {
            core = opened.recv() => {
                let Some(sharing) = sharing.upgrade() else { return };
                match core {
                    Ok(core) => sharing.core_opened(core),
                    Err(RecvError::Lagged(_)) => {
                        for core in sharing.store.cores() {
                            sharing.core_opened(core);
                        }
                    }
                    Err(RecvError::Closed) => return,
                }
            }
            name = closed.recv() => {
                let Some(sharing) = sharing.upgrade() else { return };
                match name {
                    Ok(name) => sharing.core_closed(&name),
                    Err(RecvError::Lagged(_)) => {
                        let known: Vec<CoreName> =
                            sharing.state().replications.keys().copied().collect();
                        known.iter().for_each(|name| sharing.core_closed(name));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

/// Looks for peers of every drive that wants any.
async fn follow_drives(sharing: Weak<Inner>, mut wanted: broadcast::Receiver<DiscoveryKey>) {
    loop {
        let topic = match wanted.recv().await {
            Ok(topic) => topic,
            // More drives at once than can be looked up: the rest is looked up when opened again.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let Some(sharing) = sharing.upgrade() else { return };
        if sharing.state().without_lookup.contains(&topic) {
            continue;
        }
        if !sharing.swarm.is_joined(&topic)
            && let Err(error) = sharing.swarm.join(topic, Interest::LOOKUP)
        {
            log::warn!("peers of {topic} are not looked for: {error}");
        }
    }
}
