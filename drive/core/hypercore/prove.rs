//! Proving blocks to peers (hypercore9.md §10.2). Only verified nodes and blocks are sent.

use super::Core;
use super::dialect::{
    Held, Proof, ProofParts, ProofRequest, RemoteTree, Unanswered, answer, plan_proof,
};
use super::flat_tree;
use super::nodes::Lookup;
use crate::error::{Error, Result};

impl Core {
    /// Proves `block` to a peer, under the length that peers are shown; with its value unless `hash_only` or not held. `NotFound` when
    /// the tree here does not reach the block.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Storage`.
    pub fn prove(
        &self,
        block: u64,
        digest: u64,
        hash_only: bool,
        remote: &mut RemoteTree,
    ) -> Result<Proof> {
        let shown = self.announced_head().length;
        if block >= shown {
            return Err(Error::NotFound);
        }
        let value = if hash_only { None } else { self.get_local(block)? };
        let plan = {
            let state = self.inner.state.lock();
            let has = |node| flat_tree::blocks(node).end <= shown && state.bits.has_node(node);
            plan_proof(block * 2, digest, value.is_none(), remote, &has)
        };
        let plan = plan.ok_or(Error::NotFound)?;
        let mut nodes = Vec::with_capacity(plan.nodes.len());
        for index in plan.nodes {
            match self.lookup(index)? {
                Lookup::Known(node) => nodes.push(node),
                Lookup::Absent => return Err(Error::NotFound),
                Lookup::Damaged(error) => return Err(error),
            }
        }
        let signature = match plan.verified_by / 2 {
            0 => None,
            length => {
                let (head, newest) = {
                    let state = self.inner.state.lock();
                    (state.head, state.signature.clone())
                };
                let signature = if length == head.length {
                    newest
                } else {
                    self.inner.files.read_signature(length)?
                };
                Some(signature.ok_or(Error::NotFound)?)
            }
        };
        Ok(Proof { block, value, nodes, signature })
    }

    /// Proves to a peer what it requests of a core of Hypercore 10 and 11, under the length that peers are shown.
    ///
    /// # Errors
    /// The request is one that no core can answer, or asks for what is not here.
    pub(crate) fn prove_requested(
        &self,
        request: &ProofRequest,
    ) -> std::result::Result<ProofParts, Unproven> {
        let (head, signature) = {
            let state = self.inner.state.lock();
            match self.inner.pair {
                Some(_) => (state.settled, state.settled_signature.clone()),
                None => (state.head, state.signature.clone()),
            }
        };
        let signature = signature.ok_or(Unproven::NotHere)?;
        let value = match request.block {
            Some(way) => self.stored_block(way.from).map_err(Unproven::Failed)?,
            None => None,
        };
        let held = Held { fork: head.fork, length: head.length, signature: &signature };
        let local = |index| match self.lookup(index)? {
            Lookup::Known(node) => Ok(Some(node)),
            Lookup::Absent => Ok(None),
            Lookup::Damaged(error) => Err(error),
        };
        answer(request, held, value, local).map_err(|unanswered| match unanswered {
            Unanswered::Invalid(reason) => Unproven::Invalid(reason),
            Unanswered::NoBlock | Unanswered::NoNode(_) => Unproven::NotHere,
            Unanswered::Local(error) => Unproven::Failed(error),
        })
    }
}

/// Why a request of a peer gets no proof.
#[derive(Debug)]
pub(crate) enum Unproven {
    /// No core can answer it.
    Invalid(&'static str),
    /// A block or a node that is not here.
    NotHere,
    /// The files could not be read.
    Failed(Error),
}
