//! When a core whose secret key is here must take no more appends: another history of it exists,
//! or may. A log has one writer; a second one that appends to a copy signs two histories, and no
//! reader can ever reconcile them.
//!
//! What finds out: the store, from its marks (`store/mark.rs`), and [`Core::accept`], from a signed
//! proof. Not here: making it writable again, which takes a person (`Store::adopt`).

use std::sync::Arc;

use super::flat_tree;
use super::merkle::Verified;
use super::{Core, Rejected};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::Hash;

const UNPROVEN: &str = "a peer's longer history is not proven to begin with what is here";

const REPAIRED: &str = "a peer's history is longer than the one that is being repaired";

/// Why a core takes no appends although its secret key is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The store was copied or moved here; its original may still be written.
    Moved,
    /// More was written than is here: the store is an older state of itself.
    Restored,
    /// A peer holds a longer history, of this many blocks, signed with our key.
    Behind {
        /// In blocks.
        length: u64,
    },
    /// A peer holds another history, signed with our key.
    Forked,
}

/// Called once with a core that has just stopped, under none of its locks.
pub(crate) type OnStop = Arc<dyn Fn(&Core, StopReason) + Send + Sync>;

impl StopReason {
    /// For people, after "read-only: ".
    pub fn reason(&self) -> &'static str {
        match self {
            StopReason::Moved => {
                "the store was copied or moved here, and its original may be in use"
            }
            StopReason::Restored => {
                "the store is older than what was last written: restored or damaged"
            }
            StopReason::Behind { .. } => {
                "a peer holds a longer history signed with this drive's key"
            }
            StopReason::Forked => "a peer holds another history signed with this drive's key",
        }
    }
}

impl Core {
    /// Why no appends are taken although the secret key is here.
    pub fn stopped(&self) -> Option<StopReason> {
        self.inner.pair.as_ref().and_then(|_| self.inner.stop.get().copied())
    }

    /// Takes no more appends until the core is opened again. The first reason counts.
    pub(crate) fn stop(&self, reason: StopReason) {
        let _writer = self.inner.writer.lock();
        let _ = self.inner.stop.set(reason);
    }

    /// The hash over the roots this core had at `length` blocks; `None` where it is shorter, or the
    /// nodes are not here.
    pub(crate) fn root_hash_at(&self, length: u64) -> Result<Option<Hash>> {
        if length > self.head().length {
            return Ok(None);
        }
        let mut roots = Vec::new();
        for index in flat_tree::full_roots(length) {
            match self.node(index)? {
                Some(node) => roots.push(node),
                None => return Ok(None),
            }
        }
        Ok(Some(self.dialect().root_hash(&roots)))
    }

    /// Whether the secret key is here and in use: what is damaged then is damaged for good, and
    /// never quietly fetched again.
    pub(super) fn owned(&self) -> bool {
        self.inner.pair.is_some() && self.inner.stop.get().is_none()
    }

    /// Whether nodes that are damaged are forgotten, and fetched again with the blocks that need them.
    pub(crate) fn forgets_nodes(&self) -> bool {
        !self.owned() || self.is_repaired()
    }

    /// Of a core we write no peer can have more than we do, nor anything else. The writer lock is
    /// held, so what is being appended is either not sent to any peer yet or counted here.
    pub(super) fn judge_history(
        &self,
        verified: std::result::Result<Verified, Rejected>,
    ) -> std::result::Result<Verified, Rejected> {
        if self.inner.pair.is_none() {
            return verified;
        }
        let length = self.head().length;
        match &verified {
            Err(Rejected::Forked { .. }) => drop(self.inner.stop.set(StopReason::Forked)),
            Ok(Verified { signed: Some(signed), nodes, .. }) if signed.length > length => {
                let _ = self.inner.stop.set(StopReason::Behind { length: signed.length });
                if self.is_repaired() && signed.length > self.inner.repairing.known() {
                    self.inner.repairing.refuse(signed.length);
                    return Err(Rejected::Storage(Error::ReadOnly(REPAIRED)));
                }
                // A longer history is taken over only if it is proven to begin with ours: the way
                // from our last block up to its roots passes everything before that block.
                let last = length.checked_sub(1).map(|last| last * 2);
                if last.is_some_and(|last| !nodes.iter().any(|node| node.index == last)) {
                    return Err(Rejected::Storage(Error::ReadOnly(UNPROVEN)));
                }
            }
            _ => {}
        }
        verified
    }

    /// Says and reports that the core has stopped, if it has.
    pub(super) fn announce_stop(&self) {
        if let Some(stop) = self.stopped() {
            self.report_stop(stop);
        }
    }

    /// Has it remembered that peers have a longer history, whatever the core was stopped for before.
    pub(super) fn announce_refused(&self, before: u64) {
        let length = self.inner.repairing.refused();
        if length > before {
            self.report_stop(StopReason::Behind { length });
        }
    }

    fn report_stop(&self, stop: StopReason) {
        log::error!("core {}: no longer written: {}", self.inner.discovery_key, stop.reason());
        if let Some(on_stop) = &self.inner.on_stop {
            on_stop(self, stop);
        }
    }
}
