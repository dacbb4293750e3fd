//! What runs on a connection: the seam between the network and the layer above it.

use std::future::Future;
use std::pin::Pin;

use super::place::{Ended, Place};
use super::transport::Stream;

/// What runs on every connection that has its place. The layer above hands it to
/// [`Swarm::new`](super::Swarm::new).
pub trait Protocol: Send + Sync + 'static {
    /// Runs the connection to its end. Dropping `place` gives the place back, so it is kept until
    /// then. The future is dropped when the swarm closes.
    fn run(&self, place: Place, stream: Stream)
    -> Pin<Box<dyn Future<Output = Ended> + Send + '_>>;

    /// A peer whose address was given to [`Swarm::dial`](super::Swarm::dial) could not be reached or
    /// has left; `trouble` names the address and the reason.
    fn unreachable(&self, trouble: &str);
}
