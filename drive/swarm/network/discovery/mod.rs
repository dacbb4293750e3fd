//! How peers of a topic are found. Each method is a task that follows the joined topics and sends the
//! peers it finds.
//!
//! Not here: which of the found peers are dialled (`candidates`).

mod dns;
mod lan;
mod location;
mod names;
mod dht;
mod hyperdht;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::candidates::Found;
use super::topics::Topics;
use super::{Inner, Swarm};

pub use dht::BootstrapNode;
pub(super) use dht::NodeSocket;
pub use hyperdht::{HyperDhtBootstrapNode, PUBLIC_HYPERDHT};
pub(super) use location::NetworkLocation;

/// Which ways of finding peers are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Multicast DNS on the local network.
    pub lan: bool,
    /// Bootstrap nodes of the hash table of Hyperswarm 2, as `HOST:PORT` or `ADDRESS@HOST:PORT`; if
    /// there are none, it is not used.
    pub bootstrap: Vec<String>,
    /// Bootstrap nodes of HyperDHT 6, in the same form; if there are none, it is not used.
    pub hyperdht: Vec<String>,
}

impl DiscoveryOptions {
    /// Whether no way of finding peers is used.
    pub fn is_off(&self) -> bool {
        !self.lan && self.bootstrap.is_empty() && self.hyperdht.is_empty()
    }
}

/// Decodes a datagram of the local network, for the fuzz target.
#[cfg(fuzzing)]
pub(crate) fn parse_multicast_dns(message: &[u8]) {
    drop(dns::parse(message));
}

/// The parts of the swarm that a discovery task uses.
pub(super) struct DiscoveryContext {
    topics: watch::Receiver<Topics>,
    listening: watch::Receiver<Option<SocketAddr>>,
    found: mpsc::Sender<Found>,
    closing: watch::Receiver<bool>,
}

impl Inner {
    fn discovery_context(&self) -> DiscoveryContext {
        DiscoveryContext {
            topics: self.finding.topics.subscribe(),
            listening: self.finding.listening.subscribe(),
            found: self.finding.found.clone(),
            closing: self.closing.subscribe(),
        }
    }
}

impl Swarm {
    /// Starts to find peers of the topics that are joined, now and later. Call it once.
    ///
    /// # Errors
    /// Fails if a socket cannot be opened, or if the operating system returns no random bytes.
    pub async fn discover(&self, options: &DiscoveryOptions) -> std::io::Result<()> {
        let inner = &self.inner;
        if options.lan {
            inner.runtime.spawn(lan::run(inner.discovery_context()));
        }
        if !options.bootstrap.is_empty() {
            let link = Arc::new(dht::link(&inner.discovery_context()).await?);
            if inner.finding.dht.set(Arc::clone(&link)).is_ok() {
                let bootstrap = options.bootstrap.clone();
                inner.runtime.spawn(dht::run(inner.discovery_context(), link, bootstrap));
            }
        }
        if !options.hyperdht.is_empty() {
            let link = Arc::new(super::hyperdht::CurrentEndpoint::new(inner.keys()?.clone()));
            if inner.finding.hyperdht.set(Arc::clone(&link)).is_ok() {
                let swarm = Arc::downgrade(inner);
                let bootstrap = options.hyperdht.clone();
                inner.runtime.spawn(hyperdht::run(
                    swarm,
                    inner.discovery_context(),
                    link,
                    bootstrap,
                ));
            }
        }
        Ok(())
    }
}
