//! Following an author that has truncated a core: the same key, another fork, signed from the first block.
//!
//! What both histories share stays here; the rest is forgotten. Not here: hearing of a fork, and asking for it
//! (`replicate/`).

use std::ops::Range;

use super::dialect::ReceivedProof;
use super::flat_tree;
use super::merkle::{Flaw, Signed, TreeNode};
use super::{Accepted, Core, CoreEvent, Head, Rejected};
use crate::error::Result;

impl Core {
    /// Takes over a proof of a higher fork, which has to stand alone. The writer lock is held.
    pub(super) fn follow_truncation(
        &self,
        proof: &ReceivedProof,
        leaf: Option<TreeNode>,
    ) -> std::result::Result<(Accepted, bool), Rejected> {
        let nothing = |_| Ok::<_, std::convert::Infallible>(None);
        let verified = self.inner.author.verify(proof, leaf, nothing).map_err(|flaw| {
            let fork = proof.fork();
            Rejected::Invalid(match flaw {
                Flaw::Invalid(reason) => format!("proof of fork {fork}: {reason}"),
                Flaw::Forked { length } => {
                    format!("fork {fork} has two histories of length {length}")
                }
                Flaw::Unconnected { length } => {
                    format!("fork {fork} of length {length} does not stand alone")
                }
                Flaw::Local(never) => match never {},
            })
        })?;
        let Some(signed) = verified.signed else {
            let reason = format!("a proof of fork {} without its roots", proof.fork());
            return Err(Rejected::Invalid(reason));
        };
        if self.is_own() {
            return Err(self.forked_by(proof.fork(), signed.length));
        }
        self.take_over(proof.fork(), signed, verified.nodes).map_err(Rejected::Storage)
    }

    fn forked_by(&self, fork: u64, theirs: u64) -> Rejected {
        log::error!("core {}: fork {fork} was signed elsewhere", self.inner.discovery_key);
        Rejected::Forked { ours: self.head().length, theirs }
    }

    fn take_over(
        &self,
        fork: u64,
        signed: Signed,
        nodes: Vec<TreeNode>,
    ) -> Result<(Accepted, bool)> {
        if !self.inner.writable {
            return Err(self.read_only());
        }
        let shared = self.shared_with(&signed.roots)?;
        let head = Head { length: signed.length, byte_length: signed.byte_length, fork };
        let mut nodes = nodes;
        nodes.sort_unstable_by_key(|node| node.index);
        nodes.dedup_by_key(|node| node.index);
        let replaced = shared..self.head().length.max(shared);
        self.inner.write_fork(head, &signed, &nodes, replaced.clone())?;
        let cache_id = self.cache_id();
        let dropped = {
            let mut state = self.inner.state.lock();
            state.bits.clear_nodes_beyond(shared);
            let mut next = shared;
            while let Some(block) = state.bits.first_present(next..u64::MAX) {
                state.bits.set_data(block, false);
                self.inner.cache.remove(cache_id, block);
                next = block + 1;
            }
            state.verified.clear();
            for node in &nodes {
                state.bits.set_node(node.index);
                state.verified.put(node.index, *node);
            }
            state.cuts.add(fork, shared);
            state.head = head;
            state.settled = head;
            state.roots = signed.roots;
            state.settled_signature = Some(signed.signature.clone());
            state.signature = Some(signed.signature);
            self.inner.head.send_replace(head);
            replaced
        };
        self.inner.demand.give_up_beyond(head.length);
        self.tell_dropped(dropped);
        Ok((Accepted { stored: false, head: Some(head) }, true))
    }

    /// How many blocks both histories certainly have in common: those below new roots that are nodes here.
    fn shared_with(&self, roots: &[TreeNode]) -> Result<u64> {
        let mut shared = 0;
        for root in roots {
            if self.node(root.index)? != Some(*root) {
                break;
            }
            shared = flat_tree::blocks(root.index).end;
        }
        Ok(shared)
    }

    fn tell_dropped(&self, Range { start, end }: Range<u64>) {
        log::info!(
            "core {}: its author truncated it at most to {start} blocks",
            self.inner.discovery_key
        );
        if start < end {
            let _ = self.inner.events.send(CoreEvent::Cleared { start, length: end - start });
        }
    }
}
