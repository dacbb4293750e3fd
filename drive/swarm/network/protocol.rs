//! The interface between the network and the protocol of the layer above, which runs on connections.

use std::future::Future;
use std::pin::Pin;

use super::place::{Ended, Place};
use super::transport::Stream;

/// What runs on every connection. A caller hands it to [`Swarm::new`](super::Swarm::new).
pub trait Protocol: Send + Sync + 'static {
    /// Authenticates the peer and runs the connection to its end. It keeps `place` until then, because
    /// dropping that gives the place to another peer. It ends soon after [`Place::ending`] resolves;
    /// the swarm may drop the future when it is closed.
    fn run(&self, place: Place, stream: Stream)
    -> Pin<Box<dyn Future<Output = Ended> + Send + '_>>;

    /// A peer whose address was given to [`Swarm::dial`](super::Swarm::dial) could not be reached or
    /// has left; `trouble` names the address and the reason.
    fn unreachable(&self, trouble: &str);
}
