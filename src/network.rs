//! The network of a store: which peers are dialled and looked for, where we listen, how many bytes were
//! sent and received.
//!
//! Not here: which drives are shared (the callers decide), and how peers are found (the `swarm` library).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hypermount_core::{Holding, Share, Sharing, Store};
use hypermount_drive::{Drive, sharing_options};
use hypermount_swarm::{
    BootstrapNode, Dialling, DiscoveryKey, DiscoveryOptions, HyperDhtBootstrapNode, Interest,
    PeerInfo, PublicKey, RateLimit,
};
use serde::Serialize;

use crate::failure::{Context, Failure, Result};
use crate::terminal::size;

/// Peers that stay dialled while this is kept.
pub type Dialled = Vec<Arc<Dialling>>;

/// The network of one store in this process. Clones are handles of the same one.
#[derive(Clone)]
pub struct Network {
    sharing: Sharing,
    discovering: Arc<AtomicBool>,
}

/// Bytes on the wire since the start, all peers together, encryption included.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "received {}, sent {}", size(self.received), size(self.sent))
    }
}

impl Network {
    /// For a reader: shares the cores that this process opens, and no others of the store.
    pub fn for_reading(store: &Store) -> Result<Self> {
        Self::new(store, Share::Opened)
    }

    /// For a server: shares every core of the store with peers that know its key.
    pub fn for_serving(store: &Store) -> Result<Self> {
        Self::new(store, Share::Store)
    }

    /// For a daemon: shares the cores of [`Network::set_shared`].
    pub fn for_choosing(store: &Store) -> Result<Self> {
        Self::new(store, Share::Chosen)
    }

    fn new(store: &Store, share: Share) -> Result<Self> {
        let sharing =
            Sharing::new(store, sharing_options(share)).context(|| "start the network")?;
        Ok(Self { sharing, discovering: Arc::default() })
    }

    /// Dials the peers, and again while one is not connected. An unreachable peer is not an error.
    pub fn dial(&self, peers: &[String]) {
        for peer in peers {
            self.sharing.dial(peer);
        }
    }

    /// As [`Network::dial`], until the returned value is dropped.
    pub fn dial_while(&self, peer: &str) -> Dialling {
        self.sharing.dial_while(peer)
    }

    /// Begins to look for peers of the drives that are opened from now on, and to announce the drives
    /// of [`Network::announce`]. Does nothing if discovery is off.
    pub async fn discover(&self, options: &DiscoveryOptions) -> Result {
        if options.is_off() {
            return Ok(());
        }
        self.sharing.discover(options).await.context(|| "look for peers")?;
        self.discovering.store(true, Ordering::Release);
        Ok(())
    }

    /// Announces that we have the drive, where peers are looked for.
    pub fn announce(&self, drive: &PublicKey) -> Result {
        let announced = self.sharing.join(drive.discovery_key(), Interest::BOTH);
        announced.map_err(|error| Failure::failed(format!("announce hyper://{drive}"), error))
    }

    /// Sets whether peers of the drive are looked for when it is opened.
    pub fn look_for(&self, drive: &PublicKey, look: bool) -> Result {
        let set = self.sharing.set_lookup_on_open(drive.discovery_key(), look);
        set.context(|| "open a drive without looking for it")
    }

    /// Stops looking for peers of a drive, and announcing it.
    pub fn stop_looking_for(&self, drive: &PublicKey) {
        self.sharing.leave(&drive.discovery_key());
    }

    /// Whether peers are looked for at all.
    pub fn is_discovering(&self) -> bool {
        self.discovering.load(Ordering::Acquire)
    }

    /// Whether discovery has named a peer for the drive, reachable or not.
    pub fn found(&self, drive: &PublicKey) -> bool {
        self.sharing.found(&drive.discovery_key()) > 0
    }

    /// The address it listens on, with the port the system chose for port 0.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.sharing.listen(address).await.context(|| format!("listen on {address}"))
    }

    /// Limits the bytes per second that are sent and received, for all peers together.
    pub fn limit(&self, up: RateLimit, down: RateLimit) {
        self.sharing.rates().up.set(up);
        self.sharing.rates().down.set(down);
    }

    /// Limits the bytes per second of the index of a drive and of its content, each, in addition to
    /// [`Network::limit`].
    pub fn limit_drive(&self, drive: &Drive, up: RateLimit, down: RateLimit) {
        for core in std::iter::once(drive.metadata_core()).chain(drive.content().ok()) {
            self.sharing.limit(core.discovery_key(), up, down);
        }
    }

    /// The limits of [`Network::limit`]: up, down.
    pub fn limits(&self) -> (RateLimit, RateLimit) {
        (self.sharing.rates().up.limit(), self.sharing.rates().down.limit())
    }

    /// Why dialled peers are not connected, one sentence each.
    pub fn troubles(&self) -> Vec<String> {
        self.sharing.troubles()
    }

    pub fn traffic(&self) -> Traffic {
        let traffic = self.sharing.traffic();
        Traffic { received: traffic.received, sent: traffic.sent }
    }

    /// With [`Network::for_choosing`]: the cores that are shared from now on.
    pub fn set_shared(&self, cores: HashSet<DiscoveryKey>) {
        self.sharing.set_shared(cores);
    }

    pub fn peers(&self) -> Vec<PeerInfo> {
        self.sharing.peers()
    }

    /// How many blocks of a core each peer holds.
    pub async fn holdings(&self, core: &DiscoveryKey) -> Vec<Holding> {
        self.sharing.holdings(core).await
    }

    /// Ends every connection.
    pub fn close(&self) {
        self.sharing.close();
    }
}

/// A bootstrap node of the HyperDHT 6; `address` is the one that other machines see.
pub async fn hyperdht_node(
    address: SocketAddr,
    others: &[String],
) -> Result<HyperDhtBootstrapNode> {
    HyperDhtBootstrapNode::bind(address, others).await.context(|| format!("answer at {address}"))
}

/// A bootstrap node of the Hyperswarm 2 DHT.
pub async fn bootstrap_node(address: SocketAddr, others: &[String]) -> Result<BootstrapNode> {
    BootstrapNode::bind(address, others).await.context(|| format!("answer at {address}"))
}
