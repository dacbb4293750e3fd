//! On what terms the blocks of one core are given to peers: whether at all, and how fast.
//!
//! Connections read them for every block they send, so no lock that connections of other cores take is
//! in the way: the terms belong to the core's replication, and changing them goes there. Without a limit
//! they are two atomic reads. Not here: what was said of cores that are not open (`mod.rs`).

use std::sync::atomic::{AtomicBool, Ordering};

use hypermount_swarm::rate::{Rate, RateLimit};
use tokio::time::Instant;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Terms {
    shared: AtomicBool,
    /// Bytes per second, of all connections together.
    up: Rate,
}

impl Terms {
    pub(super) fn new(shared: bool, up: RateLimit) -> Self {
        Self { shared: AtomicBool::new(shared), up: Rate::new(up) }
    }

    /// Whether peers may be given the blocks that are here.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    pub(super) fn share(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// Changes the limit; what was overdrawn under the old one is forgiven.
    pub(super) fn limit(&self, up: RateLimit) {
        self.up.set(up);
    }

    /// When blocks may be given away again; `None` for now.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.up.ready_at()
    }

    /// Counts bytes sent to peers against the limit.
    pub(super) fn spend(&self, bytes: usize) {
        self.up.spend(bytes);
    }
}
