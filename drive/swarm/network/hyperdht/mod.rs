//! The network of Hyperswarm 4: connections to peers by the key of their node, through routers where
//! possible.
//!
//! The hash table is in `hyperdht/`, the datagram streams are in `udx/` and what encrypts them in
//! `secret_stream/`, all without sockets. Here are the sockets (`endpoint`) and both sides of a handshake
//! with the holes that are punched for it (`connect`, `server`). Not here: when topics are queried
//! (`discovery/hyperdht`), and what goes over a connection (`network/channels.rs`).

mod socket;
mod socket_stream;
mod endpoint;
mod connection;
mod sealed;
mod punch;
mod connect;
mod server;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddrV4;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use tokio::time::timeout;

pub(crate) use connection::{Connection, Datagrams};
pub(crate) use endpoint::{Endpoint, ServerEvent, Settings};
pub(crate) use server::serve;
pub(crate) use socket_stream::SocketStreamError;

use crate::crypto::{KeyPair, PublicKey};
use crate::hyperdht::payload::{Firewall, NoisePayload, UdxInfo};
use crate::sync::{Mutex, MutexGuard, Rank};

/// How long finding a peer's node, its handshake and the hole punching may take together.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// Peers whose relays are remembered.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");
/// Relays remembered per peer.
const MAX_RELAYS: usize = 8;
/// Own addresses in a handshake.
const MAX_OWN_ADDRESSES: usize = 8;

/// The current endpoint, for dialling.
pub(crate) struct CurrentEndpoint {
    /// Our key pair on this network. It proves no identity: each process makes a new one.
    pub keys: KeyPair,
    endpoint: Mutex<Option<Arc<Endpoint>>>,
    known: Mutex<LruCache<[u8; 32], Vec<SocketAddrV4>>>,
}

impl CurrentEndpoint {
    pub(crate) fn new(keys: KeyPair) -> Self {
        Self {
            keys,
            endpoint: Mutex::new(Rank::ENDPOINT, None),
            known: Mutex::new(Rank::LEAF, LruCache::new(MAX_KNOWN)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Endpoint>>> {
        // Nothing panics while holding it.
        self.endpoint.lock()
    }

    pub(crate) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, endpoint: Option<Arc<Endpoint>>) {
        *self.lock() = endpoint;
    }

    /// Remembers nodes that may know a peer.
    pub(crate) fn know(&self, key: &[u8; 32], relays: Vec<SocketAddrV4>) {
        let mut known = self.known.lock();
        let all = known.get_or_insert_mut(*key, Vec::new);
        for relay in relays {
            all.retain(|other| *other != relay);
            all.insert(0, relay);
        }
        all.truncate(MAX_RELAYS);
    }

    /// Connects to a peer by the key of its node.
    pub(crate) async fn connect(&self, key: [u8; 32]) -> Result<Connection, String> {
        let endpoint = self.endpoint().ok_or("there is no HyperDHT node")?;
        let relays = {
            let mut known = self.known.lock();
            known.get(&key).cloned().unwrap_or_default()
        };
        let key = PublicKey::new(key);
        match timeout(CONNECT_WITHIN, connect::connect(&endpoint, &key, relays)).await {
            Ok(connection) => connection.map_err(|error| format!("cannot connect: {error}")),
            Err(_) => Err(format!("not connected within {CONNECT_WITHIN:?}")),
        }
    }

    /// Withdraws all announcements, without waiting for answers.
    pub(crate) fn farewell(&self) {
        if let Some(endpoint) = self.endpoint() {
            endpoint.farewell();
        }
    }
}

/// The payload of our handshake message. `open` is the address at which every peer can reach us, if there
/// is one; `stream` is our number of the stream.
fn hello(endpoint: &Endpoint, open: Option<SocketAddrV4>, stream: u32) -> NoisePayload {
    let port = endpoint.server_socket().map_or(0, |socket| socket.port());
    let near = super::interfaces::usable().into_iter();
    let near = near.map(|interface| SocketAddrV4::new(interface.address, port));
    NoisePayload {
        firewall: open.map_or(Firewall::Unknown, |_| Firewall::Open),
        addresses4: open.into_iter().chain(near).take(MAX_OWN_ADDRESSES).collect(),
        udx: Some(UdxInfo { version: 1, reusable_socket: false, id: stream, seq: 0 }),
        secret_stream: Some(1),
        ..NoisePayload::default()
    }
}
