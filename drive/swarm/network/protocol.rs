//! What runs on a connection: the seam between the network and the layer above it.

use std::future::Future;
use std::pin::Pin;

use super::place::Place;
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

/// Why a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    /// Whether the peer sent something that did not verify.
    pub lied: bool,
}

impl Ended {
    pub(super) fn closing() -> Self {
        Self { reason: "we are closing".into(), lied: false }
    }
}
