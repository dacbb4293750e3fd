//! Today's Hyperswarm network: connections to peers by their public key, through routers where that
//! is possible, and what is carried over them.
//!
//! The hash table, its messages, the hole punching and the encrypted datagram streams are the crate
//! `peeroxide-dht`; ours are who is answered and when (`server`), what goes over a connection
//! (`carry`), and when topics are asked about (`discovery/hyperdht`).

mod carry;
mod server;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libudx::UdxRuntime;
use peeroxide_dht::crypto::hash;
use peeroxide_dht::hyperdht::{
    HyperDhtConfig, HyperDhtHandle, KeyPair, PeerConnection, ServerEvent,
};
use peeroxide_dht::messages::Ipv4Peer;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use carry::{CarryError, carry};
pub use server::{Arrival, serve};

/// How long finding a peer's node, its handshake and the hole punching may take together.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(45);
/// How long a new node may take to know others.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A node of the network, as long as this machine stays where it is.
#[derive(Clone)]
pub struct Node {
    pub handle: HyperDhtHandle,
    /// Who we are on this network. It proves nothing to anybody: made anew by every process.
    pub keys: KeyPair,
    /// The nodes that pass peers on to us, and our address as each sees it.
    relays: Arc<Mutex<Vec<(Ipv4Peer, Ipv4Peer)>>>,
}

impl Node {
    /// What our own address is kept under.
    pub fn target(&self) -> [u8; 32] {
        hash(&self.keys.public_key)
    }

    pub fn relays(&self) -> Vec<(Ipv4Peer, Ipv4Peer)> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the nodes that pass peers on to us hear from us, and learns what they see.
    pub async fn greet_relays(&self) {
        let mut relays = Vec::new();
        for relay in self.handle.current_relay_addresses() {
            match self.handle.dht().ping(&relay.host, relay.port).await {
                Ok(answer) => relays.extend(answer.to.map(|ours| (relay, ours))),
                Err(error) => log::debug!("HyperDHT node {}:{}: {error}", relay.host, relay.port),
            }
        }
        *self.relays.lock().unwrap_or_else(PoisonError::into_inner) = relays;
    }

    /// Connects to a peer by its public key.
    pub async fn connect(&self, key: [u8; 32]) -> Result<(PeerConnection, SocketAddr), String> {
        let runtime = UdxRuntime::new().map_err(|error| error.to_string())?;
        let connecting = self.handle.connect(&self.keys, key, &runtime);
        let connection = match timeout(CONNECT_WITHIN, connecting).await {
            Ok(connection) => connection.map_err(|error| format!("cannot connect: {error}"))?,
            Err(_) => return Err(format!("not connected within {CONNECT_WITHIN:?}")),
        };
        let address = connection.remote_addr.ok_or("has no address")?;
        Ok((connection, address))
    }
}

/// The node there is now, for who dials.
pub struct Link {
    keys: KeyPair,
    node: Mutex<Option<Node>>,
}

impl Link {
    pub fn new() -> Self {
        Self { keys: KeyPair::generate(), node: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Node>> {
        // Nothing panics while holding it.
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn node(&self) -> Option<Node> {
        self.lock().clone()
    }

    pub fn set(&self, node: Option<Node>) {
        *self.lock() = node;
    }

    /// A node on a new socket, with what peers want of it.
    pub async fn start(
        &self,
        bootstrap: &[String],
    ) -> Result<(Node, mpsc::UnboundedReceiver<ServerEvent>, JoinHandle<()>), String> {
        let mut config = HyperDhtConfig::default();
        config.dht.bootstrap = bootstrap.to_vec();
        config.dht.ephemeral = Some(true);
        let (handle, events, task) = start(config).await?;
        Ok((Node { handle, keys: self.keys.clone(), relays: Arc::default() }, events, task))
    }
}

/// A node that is told of others, or has asked whom it was told to begin with.
pub async fn start(
    config: HyperDhtConfig,
) -> Result<(HyperDhtHandle, mpsc::UnboundedReceiver<ServerEvent>, JoinHandle<()>), String> {
    let runtime = UdxRuntime::new().map_err(|error| error.to_string())?;
    let starting = async {
        let (task, handle, events) = peeroxide_dht::hyperdht::spawn(&runtime, config).await?;
        handle.bootstrapped().await?;
        Ok((task, handle, events))
    };
    let started: Result<_, peeroxide_dht::hyperdht::HyperDhtError> =
        timeout(START_WITHIN, starting).await.map_err(|_| "nobody answered".to_owned())?;
    let (task, handle, events) = started.map_err(|error| error.to_string())?;
    let ended = tokio::spawn(async move {
        if let Ok(Err(error)) = task.await {
            log::debug!("HyperDHT node: {error}");
        }
        drop(runtime);
    });
    Ok((handle, events, ended))
}
