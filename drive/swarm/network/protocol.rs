//! The interface between the network and the protocol of the layer above, which runs on connections.

use std::future::Future;
use std::pin::Pin;

use super::slot::{ConnectionEnd, ConnectionSlot};
use super::transport::Stream;

/// The protocols of the cores that a caller has open. A given address is dialled with these alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Hypercore-protocol 8.
    pub protocol_8: bool,
    /// What the encrypted streams of Hyperswarm 4 carry.
    pub hyperswarm_4: bool,
}

impl Needs {
    /// Either may be needed.
    pub const BOTH: Self = Self { protocol_8: true, hyperswarm_4: true };
}

/// What runs on every connection. A caller hands it to [`Swarm::new`](super::Swarm::new).
pub trait Protocol: Send + Sync + 'static {
    /// Authenticates the peer and runs the connection to its end. It keeps `slot` until then, because
    /// dropping that gives the slot to another peer. It ends soon after [`ConnectionSlot::ending`] resolves;
    /// the swarm may drop the future when it is closed.
    fn run(
        &self,
        slot: ConnectionSlot,
        stream: Stream,
    ) -> Pin<Box<dyn Future<Output = ConnectionEnd> + Send + '_>>;

    /// A peer whose address was given to [`Swarm::dial`](super::Swarm::dial) could not be reached or
    /// has left; `trouble` names the address and the reason.
    fn unreachable(&self, trouble: &str);
}
