//! Accepting what a peer sent: verify, store, publish (hypercore9.md §10.3). Nothing of a proof
//! that does not verify is kept.

use super::flat_tree;
use super::merkle::{self, Flaw, MAX_BLOCK_SIZE, Node, Proof, Verified};
use super::nodes::Lookup;
use super::{Accepted, Core, Head, Rejected};
use crate::error::{Error, Result};

impl Core {
    /// Verifies a proof and stores what it proves; wakes those who wait. `Storage(Corrupt)` means
    /// that nodes of ours on the way did not verify and were forgotten: asking again, with a new
    /// digest, helps.
    pub fn accept(&self, proof: Proof) -> std::result::Result<Accepted, Rejected> {
        self.accept_one(proof, false)
    }

    /// As [`Core::accept`], but a longer head only if the proof also shows that it continues ours:
    /// that of block [`Head::length`](super::Head::length) always does. Else `Unconnected`, and
    /// nothing is kept.
    pub fn accept_connected(&self, proof: Proof) -> std::result::Result<Accepted, Rejected> {
        self.accept_one(proof, true)
    }

    fn accept_one(&self, proof: Proof, connected: bool) -> std::result::Result<Accepted, Rejected> {
        let one = self.accept_each(vec![(proof, connected)]);
        one.into_iter().next().unwrap_or_else(|| Err(Rejected::Invalid("no proof".to_owned())))
    }

    /// As [`Core::accept`], or where the second is true [`Core::accept_connected`], of several
    /// proofs in turn: their blocks are hashed together, which is much faster.
    pub fn accept_each(
        &self,
        proofs: Vec<(Proof, bool)>,
    ) -> Vec<std::result::Result<Accepted, Rejected>> {
        // Hashed before the lock is taken: it is the larger part of the work.
        let blocks: Vec<(u64, &[u8])> = proofs
            .iter()
            .filter_map(|(proof, _)| Some((proof.block, proof.value.as_deref()?)))
            .filter(|(_, value)| value.len() <= MAX_BLOCK_SIZE)
            .collect();
        let mut leaves = Node::leaves(&blocks).into_iter();
        let mut judge = |(proof, connected): (Proof, bool)| match proof.value.as_ref() {
            Some(value) if value.len() > MAX_BLOCK_SIZE => {
                Err(Rejected::Invalid("block larger than 8 MiB".to_owned()))
            }
            Some(_) => self.accept_if(proof, leaves.next(), connected),
            None => self.accept_if(proof, None, connected),
        };
        proofs.into_iter().map(&mut judge).collect()
    }

    fn accept_if(
        &self,
        proof: Proof,
        leaf: Option<Node>,
        connected: bool,
    ) -> std::result::Result<Accepted, Rejected> {
        let value = proof.value.as_ref();
        let before = self.stopped();
        let outcome = {
            let _writer = self.inner.writer.lock();
            self.judge_history(self.verify(&proof, leaf)).and_then(|verified| {
                if connected {
                    self.check_connected(&proof, &verified)?;
                }
                self.store(&proof, verified).map_err(Rejected::Storage)
            })
        };
        if before.is_none() {
            self.announce_stop();
        }
        let (accepted, new_nodes) = outcome?;
        if let Some(value) = value {
            if accepted.stored {
                self.inner.cache.insert(self.inner.id, proof.block, value.clone());
            }
            self.inner.demand.fulfil(proof.block, value);
        }
        if new_nodes {
            self.inner.demand.tree_changed(self.head().length);
        }
        if accepted.stored || new_nodes {
            self.claim_later();
        }
        Ok(accepted)
    }

    fn verify(&self, proof: &Proof, leaf: Option<Node>) -> std::result::Result<Verified, Rejected> {
        if self.inner.pair.is_some()
            && let Some(verified) = self.verify_alone(proof, leaf)?
        {
            return Ok(verified);
        }
        let local = |index| match self.lookup(index)? {
            Lookup::Known(node) => Ok(Some(node)),
            Lookup::Absent => Ok(None),
            Lookup::Damaged(error) => Err(error),
        };
        merkle::verify(&self.inner.key, proof, leaf, local).map_err(|flaw| match flaw {
            Flaw::Invalid(reason) => {
                Rejected::Invalid(format!("proof of block {}: {reason}", proof.block))
            }
            Flaw::Forked(index) => Rejected::Forked(format!(
                "a signed proof of block {} has another node {index} than was verified before",
                proof.block
            )),
            Flaw::Local(error) => Rejected::Storage(error),
        })
    }

    /// Of a core of ours: a proof that stands alone, whose history is compared with ours. What is
    /// here must not complete it, nor shorten the way to its roots: both would hide that it differs.
    fn verify_alone(
        &self,
        proof: &Proof,
        leaf: Option<Node>,
    ) -> std::result::Result<Option<Verified>, Rejected> {
        let nothing = |_| Ok::<_, std::convert::Infallible>(None);
        let Ok(verified) = merkle::verify(&self.inner.key, proof, leaf, nothing) else {
            return Ok(None);
        };
        for node in &verified.nodes {
            if let Lookup::Known(ours) = self.lookup(node.index).map_err(Rejected::Storage)?
                && ours != *node
            {
                let (block, index) = (proof.block, node.index);
                return Err(Rejected::Forked(format!(
                    "a signed proof of block {block} has another node {index} than we wrote"
                )));
            }
        }
        Ok(Some(verified))
    }

    fn check_connected(
        &self,
        proof: &Proof,
        verified: &Verified,
    ) -> std::result::Result<(), Rejected> {
        let Some(signed) = &verified.signed else { return Ok(()) };
        let state = self.inner.state.lock();
        let longer = signed.length > state.head.length;
        if longer && !merkle::connects(&state.roots, &signed.roots, proof.block) {
            return Err(Rejected::Unconnected(state.head.length));
        }
        Ok(())
    }

    /// Writes the facts, then publishes them. The writer lock is held.
    fn store(&self, proof: &Proof, verified: Verified) -> Result<(Accepted, bool)> {
        let (mut nodes, missing, length) = {
            let mut state = self.inner.state.lock();
            let mut nodes = verified.nodes;
            nodes.retain(|node| state.believed(node.index).is_none());
            (nodes, !state.bits.has_data(proof.block), state.head.length)
        };
        nodes.sort_unstable_by_key(|node| node.index);
        nodes.dedup_by_key(|node| node.index);
        let signed = verified.signed.filter(|signed| signed.length > length || !nodes.is_empty());
        let value = proof.value.as_ref().filter(|_| missing);
        if value.is_none() && nodes.is_empty() && signed.is_none() {
            return Ok((Accepted { stored: false, head: None }, false));
        }
        if !self.inner.writable {
            return Err(self.read_only());
        }
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let offset = self.offset_with(proof.block, &nodes)?;
            self.inner.files.write_data(offset, value)?;
        }
        self.inner.files.write_nodes(&nodes)?;
        if let Some(signed) = &signed {
            self.inner.files.write_signature(signed.length, &signed.signature)?;
        }
        let mut state = self.inner.state.lock();
        for node in &nodes {
            state.bits.set_node(node.index);
            state.verified.put(node.index, *node);
        }
        if let Some(value) = value {
            state.bits.set_data(proof.block, true);
            state.unclaimed.add(1, value.len() as u64);
        }
        let mut head = None;
        if let Some(signed) = signed.filter(|signed| signed.length > length) {
            let new = Head { length: signed.length, byte_length: signed.byte_length };
            state.head = new;
            state.roots = signed.roots;
            state.signature = Some(signed.signature);
            head = Some(new);
            // Under the lock, so that watchers never see the head go back.
            self.inner.head.send_replace(new);
        }
        Ok((Accepted { stored: value.is_some(), head }, !nodes.is_empty() || head.is_some()))
    }

    /// Byte offset of a block, from nodes just proven and those believed before.
    fn offset_with(&self, block: u64, proven: &[Node]) -> Result<u64> {
        let mut offset = 0u64;
        for index in flat_tree::full_roots(block) {
            let node = match proven.binary_search_by_key(&index, |node| node.index) {
                Ok(at) => proven.get(at).copied(),
                Err(_) => self.node(index)?,
            };
            let Some(node) = node else {
                return Err(self.corrupt("tree", index, "a node that was verified is gone"));
            };
            offset = offset
                .checked_add(node.size)
                .ok_or_else(|| Error::TooLarge("byte offset".to_owned()))?;
        }
        Ok(offset)
    }
}
