//! Proofs of Hypercore 9: what a request says of the nodes its sender has, which nodes answer it, and
//! what an answer proves (hypercore9.md §4.4, §10). Pure functions: *the* trust boundary.
//!
//! Not here: where nodes are stored and which of the stored ones are trusted (`nodes.rs`); callers hand
//! in a look-up that returns verified nodes only.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::flat_tree;
use super::super::merkle::{
    Flaw, MAX_BLOCK_SIZE, MAX_BYTE_LENGTH, MAX_CORE_LENGTH, MAX_NODE_INDEX, Signature, Signed,
    TreeNode, Verified, byte_length,
};
use super::hash;
use hypermount_swarm::crypto::PublicKey;

/// Nodes of the longest proof: a path and the other roots of a core of [`MAX_CORE_LENGTH`] need
/// no more than 2 · 33.
pub(crate) const MAX_PROOF_NODES: usize = 72;
/// Nodes remembered of what one peer claims to have; on overflow all are forgotten, which only
/// makes later proofs longer.
pub(crate) const MAX_REMOTE_NODES: usize = 65_536;

/// What a peer sends to prove one block (or, without `value`, one leaf hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub(crate) block: u64,
    pub(crate) value: Option<Bytes>,
    pub(crate) nodes: Vec<TreeNode>,
    pub(crate) signature: Option<Signature>,
}

/// Twice the length of the longest core that `node` is part of as far as `has` tells (§4.4);
/// 0 when it is not here.
pub(crate) fn verified_by(node: u64, has: &impl Fn(u64) -> bool) -> u64 {
    if !has(node) {
        return 0;
    }
    let mut top = node;
    let mut parent = flat_tree::parent(top);
    while has(parent) && has(flat_tree::sibling(top)) {
        top = parent;
        parent = flat_tree::parent(top);
    }
    let left_child = |node| flat_tree::children(node).map_or(node, |(left, _)| left);
    let mut depth = flat_tree::depth(top);
    while depth > 0 {
        top = left_child(flat_tree::index(depth, flat_tree::offset(top).saturating_add(1)));
        depth -= 1;
        while !has(top) && depth > 0 {
            top = left_child(top);
            depth -= 1;
        }
    }
    if has(top) { top.saturating_add(2) } else { top }
}

/// The length in blocks that the tree bits claim (§4.4). `capacity` is the number of tree bits.
pub(crate) fn claimed_length(has: &impl Fn(u64) -> bool, capacity: u64) -> u64 {
    let mut top = 0;
    let mut next = 0;
    while flat_tree::right_span(next) < capacity {
        next = flat_tree::parent(next);
        if has(next) {
            top = next;
        }
    }
    verified_by(top, has) / 2
}

/// What a request for leaf `node` tells of the nodes we already have (§10.1).
pub(crate) fn digest(node: u64, has: &impl Fn(u64) -> bool, capacity: u64) -> u64 {
    if has(node) {
        return 1;
    }
    let mut digest = 0u64;
    let mut bit = 2u64;
    let mut next = flat_tree::sibling(node);
    let mut parent = flat_tree::parent(next);
    let limit = capacity.max(next.saturating_add(2));
    while flat_tree::right_span(next) < limit || flat_tree::left_span(parent) > 0 {
        if has(next) {
            digest |= bit;
        }
        if has(parent) {
            digest |= bit << 1;
            if digest + 1 == bit << 2 {
                return 1;
            }
            return digest | 1;
        }
        next = flat_tree::sibling(parent);
        parent = flat_tree::parent(next);
        bit = match bit.checked_mul(2) {
            Some(bit) if bit < 1 << 60 => bit,
            _ => return digest,
        };
    }
    digest
}

/// Nodes the remote side of one channel is known to hold, fed from the digests of its requests.
#[derive(Default)]
pub struct RemoteTree {
    nodes: HashSet<u64>,
}

impl RemoteTree {
    fn has(&self, node: u64) -> bool {
        self.nodes.contains(&node)
    }

    fn insert(&mut self, node: u64) {
        if self.nodes.len() >= MAX_REMOTE_NODES {
            self.nodes.clear();
        }
        let mut node = node;
        while node <= MAX_NODE_INDEX
            && self.nodes.insert(node)
            && self.has(flat_tree::sibling(node))
        {
            node = flat_tree::parent(node);
        }
    }

    /// Learns from the digest of a request for leaf `node` (§10.2). Only nodes that are here
    /// are remembered: of the others no proof needs to know.
    fn learn(&mut self, node: u64, digest: u64, has: &impl Fn(u64) -> bool) {
        let trusts_top = digest & 1 == 1;
        let mut digest = digest >> 1;
        let mut next = node;
        while digest > 0 && next <= MAX_NODE_INDEX {
            if digest == 1 && trusts_top {
                if has(next) {
                    self.insert(next);
                }
                let left = next.min(flat_tree::sibling(next));
                for root in flat_tree::full_roots(flat_tree::blocks(left).end) {
                    if has(root) {
                        self.insert(root);
                    }
                }
                return;
            }
            let sibling = flat_tree::sibling(next);
            if digest & 1 == 1 && has(sibling) {
                self.insert(sibling);
            }
            next = flat_tree::parent(next);
            digest >>= 1;
        }
    }
}

/// Which nodes prove a leaf to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProofPlan {
    /// Flat-tree indexes, in the order they are sent.
    pub(crate) nodes: Vec<u64>,
    /// Twice the length whose signature must go along; 0 for none.
    pub(crate) verified_by: u64,
}

/// Plans the proof of leaf `node` (§10.2), with the leaf itself if `with_leaf`. `None` when the
/// leaf is not here.
pub(crate) fn plan_proof(
    node: u64,
    digest: u64,
    with_leaf: bool,
    remote: &mut RemoteTree,
    has: &impl Fn(u64) -> bool,
) -> Option<ProofPlan> {
    if !has(node) {
        return None;
    }
    let mut plan = ProofPlan::default();
    if with_leaf {
        plan.nodes.push(node);
    }
    if digest == 1 {
        return Some(plan);
    }
    remote.learn(node, digest, has);
    let mut next = node;
    while !remote.has(next) {
        let sibling = flat_tree::sibling(next);
        if !has(sibling) {
            plan.verified_by = verified_by(next, has);
            for root in flat_tree::full_roots(plan.verified_by / 2) {
                if root != next && !remote.has(root) {
                    plan.nodes.push(root);
                }
            }
            return Some(plan);
        }
        if !remote.has(sibling) {
            plan.nodes.push(sibling);
        }
        next = flat_tree::parent(next);
    }
    Some(plan)
}

fn invalid<T, E>(reason: impl Into<String>) -> Result<T, Flaw<E>> {
    Err(Flaw::Invalid(reason.into()))
}

/// Verifies a proof (§10.3). `leaf` is the hash of the value that came along, if one did; `local`
/// returns the verified node we have at an index.
pub(crate) fn verify<E>(
    key: &PublicKey,
    proof: &Proof,
    leaf: Option<TreeNode>,
    mut local: impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Verified, Flaw<E>> {
    let index = check_bounds(proof)?;
    let (leaf, rest) = match (leaf, proof.nodes.split_first()) {
        (Some(leaf), _) => (leaf, proof.nodes.as_slice()),
        (None, Some((first, rest))) if first.index == index => (*first, rest),
        (None, _) => return invalid("neither a value nor its leaf"),
    };
    let trusted = find_trusted(index, rest, &mut local)?;
    let mut rest = rest.iter().copied().peekable();
    let mut nodes = Vec::new();
    let mut top = leaf;
    loop {
        nodes.push(top);
        if trusted == Some(top) {
            return Ok(Verified { nodes, signed: None });
        }
        let sibling = flat_tree::sibling(top.index);
        let other = if let Some(node) = rest.next_if(|node| node.index == sibling) {
            nodes.push(node);
            node
        } else if let Some(node) = local(sibling).map_err(Flaw::Local)? {
            node
        } else {
            break;
        };
        top = match hash::TREE.parent(&top, &other) {
            Some(parent) if parent.index <= MAX_NODE_INDEX => parent,
            _ => return invalid("sizes or indexes beyond every core"),
        };
    }
    let signed = verify_roots(key, proof, top, rest.collect(), &mut local)?;
    nodes.extend(signed.roots.iter().filter(|root| root.index != top.index));
    for node in &nodes {
        if local(node.index).map_err(Flaw::Local)?.is_some_and(|ours| ours != *node) {
            return Err(Flaw::Forked { length: signed.length });
        }
    }
    Ok(Verified { nodes, signed: Some(signed) })
}

/// Whether a verified proof of `block` under the roots `new` has passed by every one of the roots
/// `old`, so that the one version continues the other. (That the nodes are the same where both have
/// one, [`verify`] has seen to.)
pub(crate) fn connects(old: &[TreeNode], new: &[TreeNode], block: u64) -> bool {
    let is_root = |index: u64| new.iter().any(|root| root.index == index);
    let mut passed = Vec::new();
    let mut top = block.saturating_mul(2);
    while !is_root(top) && top <= MAX_NODE_INDEX {
        passed.extend([top, flat_tree::sibling(top)]);
        top = flat_tree::parent(top);
    }
    old.iter().all(|root| is_root(root.index) || passed.contains(&root.index))
}

fn check_bounds<E>(proof: &Proof) -> Result<u64, Flaw<E>> {
    if proof.block >= MAX_CORE_LENGTH {
        return invalid(format!("block {} is beyond every core", proof.block));
    }
    if proof.nodes.len() > MAX_PROOF_NODES {
        return invalid(format!("{} nodes", proof.nodes.len()));
    }
    if proof.value.as_ref().is_some_and(|value| value.len() > MAX_BLOCK_SIZE) {
        return invalid("block larger than 8 MiB");
    }
    if proof.nodes.iter().any(|node| node.index > MAX_NODE_INDEX || node.size > MAX_BYTE_LENGTH) {
        return invalid("a node beyond every core");
    }
    Ok(proof.block * 2)
}

/// The lowest node on the way up from the leaf that is here already.
fn find_trusted<E>(
    leaf: u64,
    proof: &[TreeNode],
    local: &mut impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Option<TreeNode>, Flaw<E>> {
    let mut proof = proof.iter().peekable();
    let mut next = leaf;
    while next <= MAX_NODE_INDEX {
        if let Some(node) = local(next).map_err(Flaw::Local)? {
            return Ok(Some(node));
        }
        let sibling = flat_tree::sibling(next);
        if proof.next_if(|node| node.index == sibling).is_none()
            && local(sibling).map_err(Flaw::Local)?.is_none()
        {
            break;
        }
        next = flat_tree::parent(next);
    }
    Ok(None)
}

fn verify_roots<E>(
    key: &PublicKey,
    proof: &Proof,
    top: TreeNode,
    rest: Vec<TreeNode>,
    local: &mut impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Signed, Flaw<E>> {
    let Some(signature) = &proof.signature else {
        return invalid("does not lead to a node we trust, and is not signed");
    };
    let last = rest.last().unwrap_or(&top);
    let length = flat_tree::blocks(top.index).end.max(flat_tree::blocks(last.index).end);
    if length > MAX_CORE_LENGTH {
        return invalid(format!("length {length}"));
    }
    let mut rest = rest.into_iter().peekable();
    let mut roots = Vec::new();
    for index in flat_tree::full_roots(length) {
        let root = if index == top.index {
            Some(top)
        } else if let Some(node) = rest.next_if(|node| node.index == index) {
            Some(node)
        } else {
            local(index).map_err(Flaw::Local)?
        };
        let Some(root) = root else {
            return invalid(format!("root {index} of length {length} is missing"));
        };
        roots.push(root);
    }
    // Else the signature would be good and say nothing about this proof.
    if !roots.contains(&top) {
        return invalid(format!("node {} is no root of length {length}", top.index));
    }
    let Some(byte_length) = byte_length(&roots) else {
        return invalid("byte length beyond every core");
    };
    if !hash::signed_by(key, &roots, length, signature) {
        return invalid("signature does not verify");
    }
    Ok(Signed { length, byte_length, roots, signature: signature.clone() })
}

#[cfg(test)]
mod tests;
