//! How peers are found by the topic of a drive. Each way is a task that follows the topics that are
//! joined and hands over what it finds; that is all they have in common.
//!
//! Not here: who of those that were found is dialled (`candidates`).

mod dns;
mod interfaces;
mod lan;

use std::net::SocketAddr;

use tokio::sync::{mpsc, watch};

use super::candidates::Found;
use super::topics::Topics;
use super::{Inner, Swarm};

/// Which ways of finding peers are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Multicast DNS on the local network.
    pub lan: bool,
}

/// What a way of finding peers sees of the swarm.
pub(super) struct Surroundings {
    topics: watch::Receiver<Topics>,
    listening: watch::Receiver<Option<SocketAddr>>,
    found: mpsc::Sender<Found>,
    closing: watch::Receiver<bool>,
}

impl Inner {
    fn surroundings(&self) -> Surroundings {
        Surroundings {
            topics: self.finding.topics.subscribe(),
            listening: self.finding.listening.subscribe(),
            found: self.finding.found.clone(),
            closing: self.closing.subscribe(),
        }
    }
}

impl Swarm {
    /// Starts finding peers of the topics that are joined, now and later.
    pub fn discover(&self, options: &DiscoveryOptions) {
        if options.lan {
            self.inner.runtime.spawn(lan::run(self.inner.surroundings()));
        }
    }
}
