//! The one place that talks to the swarm: who is dialled, where we listen, what it cost.

use std::net::SocketAddr;

use drive::swarm::SwarmOptions;
use drive::{Store, Swarm};
use serde::Serialize;

use crate::failure::{Context, Result};
use crate::terminal::size;

pub struct Network(Swarm);

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
    /// Replicates every core of the store with every peer, now and later.
    pub fn new(store: &Store) -> Self {
        Self(Swarm::new(store, SwarmOptions::default()))
    }

    /// Dials and keeps dialling; that a peer is not there is not an error yet.
    pub fn dial(&self, peers: &[String]) {
        for peer in peers {
            self.0.dial(peer.clone());
        }
    }

    /// The address it listens on, with the port the system chose for port 0.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.0.listen(address).await.context(|| format!("listen on {address}"))
    }

    pub fn traffic(&self) -> Traffic {
        let traffic = self.0.traffic();
        Traffic { received: traffic.received, sent: traffic.sent }
    }
}
