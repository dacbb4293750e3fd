//! The one place that talks to the swarm: who is dialled and looked for, where we listen, what it
//! cost.

use std::collections::HashSet;
use std::net::SocketAddr;

use hypermount_core::sharing::{Holding, Share};
use hypermount_core::{Sharing, Store};
use hypermount_drive::{Drive, sharing_options};
use hypermount_swarm::network::{
    BootstrapNode, Dialling, DiscoveryOptions, HyperDhtBootstrapNode, Interest, PeerInfo,
};
use hypermount_swarm::{DiscoveryKey, Limit, PublicKey};
use serde::Serialize;

use crate::failure::{Context, Failure, Result};
use crate::terminal::size;

#[derive(Clone)]
pub struct Network(Sharing);

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
    /// For a reader: shares the cores this process opens, and no other of the store.
    pub fn for_reading(store: &Store) -> Result<Self> {
        Self::new(store, Share::Opened)
    }

    /// For a server: shares every core of the store with peers that know its key.
    pub fn for_serving(store: &Store) -> Result<Self> {
        Self::new(store, Share::Store)
    }

    /// For a daemon: shares the cores it is told to.
    pub fn for_choosing(store: &Store) -> Result<Self> {
        Self::new(store, Share::Chosen)
    }

    fn new(store: &Store, share: Share) -> Result<Self> {
        Sharing::new(store, sharing_options(share)).map(Self).context(|| "start the network")
    }

    /// Dials and keeps dialling; that a peer is not there is not an error yet.
    pub fn dial(&self, peers: &[String]) {
        for peer in peers {
            self.0.dial(peer);
        }
    }

    /// The same while what is returned is kept.
    pub fn dial_while(&self, peer: &str) -> Dialling {
        self.0.dial_while(peer)
    }

    /// Begins to look for peers of the drives that are opened from now on, and to announce what
    /// [`Network::announce`] names. Nothing if it is off.
    pub async fn discover(&self, options: &DiscoveryOptions) -> Result {
        if options.is_off() {
            return Ok(());
        }
        self.0.discover(options).await.context(|| "look for peers")
    }

    /// Lets those who have the key find us, where it was said to look for peers.
    pub fn announce(&self, drive: &PublicKey) -> Result {
        let announced = self.0.join(drive.discovery_key(), Interest::BOTH);
        announced.map_err(|error| Failure::failed(format!("announce hyper://{drive}"), error))
    }

    /// Whether a drive is looked for when it is opened, where peers are looked for at all.
    pub fn look_for(&self, drive: &PublicKey, look: bool) -> Result {
        let hushed = self.0.hush(drive.discovery_key(), !look);
        hushed.context(|| "open a drive without looking for it")
    }

    /// Ends looking for a drive, and announcing it.
    pub fn look_no_more(&self, drive: &PublicKey) {
        self.0.leave(&drive.discovery_key());
    }

    /// Whether discovery has named a peer for the drive, reachable or not.
    pub fn found(&self, drive: &PublicKey) -> bool {
        self.0.found(&drive.discovery_key()) > 0
    }

    /// The address it listens on, with the port the system chose for port 0.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.0.listen(address).await.context(|| format!("listen on {address}"))
    }

    /// Most bytes per second sent and received, all peers together.
    pub fn limit(&self, up: Limit, down: Limit) {
        self.0.rates().up.set(up);
        self.0.rates().down.set(down);
    }

    /// The same for the index of a drive and for its content, each; what holds for all together holds
    /// too.
    pub fn limit_drive(&self, drive: &Drive, up: Limit, down: Limit) {
        for core in std::iter::once(drive.metadata_core()).chain(drive.content().ok()) {
            self.0.limit(core.discovery_key(), up, down);
        }
    }

    /// The same as it is: up, down.
    pub fn limits(&self) -> (Limit, Limit) {
        (self.0.rates().up.limit(), self.0.rates().down.limit())
    }

    /// Why peers that were dialled are not connected.
    pub fn troubles(&self) -> Vec<String> {
        self.0.troubles()
    }

    pub fn traffic(&self) -> Traffic {
        let traffic = self.0.traffic();
        Traffic { received: traffic.received, sent: traffic.sent }
    }

    /// With [`Network::for_choosing`]: what is given away from now on.
    pub fn choose(&self, cores: HashSet<DiscoveryKey>) {
        self.0.choose(cores);
    }

    pub fn peers(&self) -> Vec<PeerInfo> {
        self.0.peers()
    }

    /// Who holds how much of a core.
    pub async fn holdings(&self, core: &DiscoveryKey) -> Vec<Holding> {
        self.0.holdings(core).await
    }

    /// Ends every connection.
    pub fn close(&self) {
        self.0.close();
    }
}

/// The same of the HyperDHT; `address` is the one that others see.
pub async fn hyperdht_node(
    address: SocketAddr,
    others: &[String],
) -> Result<HyperDhtBootstrapNode> {
    HyperDhtBootstrapNode::bind(address, others).await.context(|| format!("answer at {address}"))
}

/// A node with which others begin to find each other.
pub async fn bootstrap_node(address: SocketAddr, others: &[String]) -> Result<BootstrapNode> {
    BootstrapNode::bind(address, others).await.context(|| format!("answer at {address}"))
}
