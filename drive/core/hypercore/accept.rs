//! Accepting what a peer sent: verify, store, publish (hypercore9.md §10.3). Nothing of a proof
//! that does not verify is kept.

use std::cmp::Ordering;

use super::dialect::ReceivedProof;
use super::flat_tree;
use super::merkle::{Flaw, MAX_BLOCK_SIZE, TreeNode, Verified};
use super::nodes::Lookup;
use super::{Accepted, Core, Head, Rejected};
use crate::error::{Error, Result};

impl Core {
    /// Verifies a proof and stores what it proves; wakes the callers that wait. `Storage(Corrupt)` means
    /// that nodes of ours on the way did not verify and were forgotten: asking again, with a new
    /// digest, helps.
    ///
    /// What is accepted belongs to one history. A proof under a longer signed length must show that
    /// this length continues ours: the proof of block [`Head::length`](super::Head::length) always
    /// does. One under a shorter signed length must lead to nodes that are known here. Otherwise it is
    /// `Unconnected`, and nothing of it is kept.
    ///
    /// # Errors
    /// [`Rejected`] says whose fault it is.
    pub fn accept(
        &self,
        proof: impl Into<ReceivedProof>,
    ) -> std::result::Result<Accepted, Rejected> {
        let one = self.accept_each(vec![proof.into()]);
        one.into_iter().next().unwrap_or_else(|| Err(Rejected::Invalid("no proof".to_owned())))
    }

    /// As [`Core::accept`], of several proofs in turn: their blocks are hashed together, which is
    /// much faster.
    pub(crate) fn accept_each(
        &self,
        proofs: Vec<ReceivedProof>,
    ) -> Vec<std::result::Result<Accepted, Rejected>> {
        // Hashed before the lock is taken: it is the larger part of the work.
        let blocks: Vec<(u64, &[u8])> = proofs
            .iter()
            .filter_map(|proof| Some((proof.block(), proof.value()?.as_ref())))
            .filter(|(_, value)| value.len() <= MAX_BLOCK_SIZE)
            .collect();
        let mut leaves = self.dialect().leaves(&blocks).into_iter();
        let mut judge = |proof: ReceivedProof| match proof.value() {
            Some(value) if value.len() > MAX_BLOCK_SIZE => {
                Err(Rejected::Invalid("block larger than 8 MiB".to_owned()))
            }
            Some(_) => self.accept_one(proof, leaves.next()),
            None => self.accept_one(proof, None),
        };
        proofs.into_iter().map(&mut judge).collect()
    }

    fn accept_one(
        &self,
        proof: ReceivedProof,
        leaf: Option<TreeNode>,
    ) -> std::result::Result<Accepted, Rejected> {
        let value = proof.value().cloned();
        let (before, refused) = (self.stopped(), self.inner.repairing.refused());
        let outcome = {
            let _writer = self.inner.writer.lock();
            let ours = self.head().fork;
            match proof.fork().cmp(&ours) {
                Ordering::Less => Err(Rejected::OtherFork { ours, theirs: proof.fork() }),
                Ordering::Greater => self.follow_truncation(&proof, leaf),
                Ordering::Equal => self.accept_one_history(&proof, leaf),
            }
        };
        if before.is_none() {
            self.announce_stop();
        }
        self.announce_refused(refused);
        let (accepted, new_nodes) = outcome?;
        if let Some(value) = value {
            // One that makes no sense in plain is told to the reader as it is.
            let value = self.plain(proof.block(), value.clone()).unwrap_or(value);
            if accepted.stored {
                self.inner.cache.insert(self.cache_id(), proof.block(), value.clone());
            }
            self.inner.demand.fulfil(proof.block(), &value);
        }
        if new_nodes {
            self.inner.demand.tree_changed(self.head().length);
        }
        if accepted.stored || new_nodes {
            self.claim_later();
        }
        Ok(accepted)
    }

    fn accept_one_history(
        &self,
        proof: &ReceivedProof,
        leaf: Option<TreeNode>,
    ) -> std::result::Result<(Accepted, bool), Rejected> {
        let verified = self.judge_history(self.verify(proof, leaf))?;
        self.check_connected(proof, &verified)?;
        self.store(proof, verified).map_err(Rejected::Storage)
    }

    fn verify(
        &self,
        proof: &ReceivedProof,
        leaf: Option<TreeNode>,
    ) -> std::result::Result<Verified, Rejected> {
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
        match self.inner.author.verify(proof, leaf, local) {
            Ok(verified) => Ok(verified),
            Err(Flaw::Forked { length }) => Err(self.forked(length)),
            Err(Flaw::Local(error)) => Err(Rejected::Storage(error)),
            Err(Flaw::Unconnected { length }) => {
                Err(Rejected::Unconnected { ours: self.head().length, signed: length })
            }
            // Completed by nodes of ours, a proof of another history leads nowhere. If it stands
            // alone, it is a fork and no lie.
            Err(Flaw::Invalid(reason)) => self.verify_alone(proof, leaf)?.ok_or_else(|| {
                Rejected::Invalid(match proof.block() {
                    // An answer to a request for the length alone.
                    u64::MAX => format!("proof of the length: {reason}"),
                    block => format!("proof of block {block}: {reason}"),
                })
            }),
        }
    }

    /// A proof that needs no node of ours, compared with what is here; `None` if it does not stand
    /// alone. Of a core of ours this comes first: nodes of ours must not complete the proof, nor
    /// shorten the way to its roots, as both would hide that it differs.
    fn verify_alone(
        &self,
        proof: &ReceivedProof,
        leaf: Option<TreeNode>,
    ) -> std::result::Result<Option<Verified>, Rejected> {
        let nothing = |_| Ok::<_, std::convert::Infallible>(None);
        let Ok(verified) = self.inner.author.verify(proof, leaf, nothing) else {
            return Ok(None);
        };
        for node in &verified.nodes {
            if let Lookup::Known(ours) = self.lookup(node.index).map_err(Rejected::Storage)?
                && ours != *node
            {
                let length = verified.signed.as_ref().map_or(0, |signed| signed.length);
                return Err(self.forked(length));
            }
        }
        Ok(Some(verified))
    }

    fn forked(&self, theirs: u64) -> Rejected {
        Rejected::Forked { ours: self.head().length, theirs }
    }

    /// Refuses a signed history that is not shown to be ours. That no node of it differs from one of
    /// ours, `verify` has seen to; here at least one way has to lead from the one to the other.
    fn check_connected(
        &self,
        proof: &ReceivedProof,
        verified: &Verified,
    ) -> std::result::Result<(), Rejected> {
        let Some(signed) = &verified.signed else { return Ok(()) };
        let ours = {
            let state = self.inner.state.lock();
            if signed.length > state.head.length && proof.connects(&state.roots, &signed.roots) {
                return Ok(());
            }
            state.head.length
        };
        let mut connected = signed.length <= ours;
        for root in signed.roots.iter().take_while(|_| signed.length <= ours) {
            let known = self.lookup(root.index).map_err(Rejected::Storage)?;
            connected &= matches!(known, Lookup::Known(_));
        }
        match connected {
            true => Ok(()),
            false => Err(Rejected::Unconnected { ours, signed: signed.length }),
        }
    }

    /// Writes the facts, then publishes them. The writer lock is held.
    fn store(&self, proof: &ReceivedProof, verified: Verified) -> Result<(Accepted, bool)> {
        let (mut nodes, missing, length) = {
            let mut state = self.inner.state.lock();
            let mut nodes = verified.nodes;
            // One that is believed and not claimed came from the way of another, while its own record
            // was damaged or its claim lost: both are written again.
            let known =
                proof.nodes().iter().filter(|node| state.believed(node.index) == Some(**node));
            nodes.extend(known.copied().collect::<Vec<_>>());
            nodes.retain(|node| {
                !state.bits.has_node(node.index) || state.believed(node.index).is_none()
            });
            (nodes, !state.bits.has_data(proof.block()), state.head.length)
        };
        nodes.sort_unstable_by_key(|node| node.index);
        nodes.dedup_by_key(|node| node.index);
        let signed = verified.signed.filter(|signed| signed.length > length);
        let value = proof.value().filter(|_| missing);
        if value.is_none() && nodes.is_empty() && signed.is_none() {
            return Ok((Accepted { stored: false, head: None }, false));
        }
        if !self.inner.writable {
            return Err(self.read_only());
        }
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let offset = self.offset_with(proof.block(), &nodes)?;
            self.inner.files.write_data(offset, value)?;
        }
        self.inner.files.write_nodes(&nodes)?;
        if let Some(signed) = &signed {
            let head = self.head().at(signed.length);
            self.inner.write_head(head, &signed.roots, &signed.signature)?;
        }
        let mut state = self.inner.state.lock();
        for node in &nodes {
            state.bits.set_node(node.index);
            state.verified.put(node.index, *node);
        }
        if let Some(value) = value {
            state.bits.set_data(proof.block(), true);
            state.unclaimed.add(1, value.len() as u64);
        }
        let mut head = None;
        if let Some(signed) = signed {
            let fork = state.head.fork;
            let new = Head { length: signed.length, byte_length: signed.byte_length, fork };
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
    fn offset_with(&self, block: u64, proven: &[TreeNode]) -> Result<u64> {
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
