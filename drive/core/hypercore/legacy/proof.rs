//! Nodes and proofs of the Merkle tree over a core's blocks: hashing, what is signed, building
//! and verifying proofs (hypercore9.md §2, §3, §10). Pure functions: *the* trust boundary.
//!
//! Not here: where nodes are stored and which of the stored ones are trusted (`mod.rs`); callers
//! hand in a look-up that returns verified nodes only.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::flat_tree;
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey, SignatureBytes, blake2b, blake2b_each};

/// Bytes of the largest block, as in the reference.
pub const MAX_BLOCK_SIZE: usize = 8 * 1024 * 1024;
/// Blocks of the longest core handled: 2^32, 256 TiB of 64 KiB blocks.
pub const MAX_CORE_LENGTH: u64 = 1 << 32;
/// Bytes of the longest core handled: what the reference can count.
pub const MAX_BYTE_LENGTH: u64 = 1 << 53;
/// Highest index of a node in a core of [`MAX_CORE_LENGTH`].
pub const MAX_NODE_INDEX: u64 = 2 * MAX_CORE_LENGTH - 2;
/// Nodes of the longest proof: a path and the other roots of a core of [`MAX_CORE_LENGTH`] need
/// no more than 2 · 33.
pub const MAX_PROOF_NODES: usize = 72;
/// Nodes remembered of what one peer claims to have; on overflow all are forgotten, which only
/// makes later proofs longer.
pub const MAX_REMOTE_NODES: usize = 65_536;

/// A node of the flat tree: the hash and byte size of what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Flat-tree index: leaves are even, block `i` is `2 i`.
    pub index: u64,
    pub hash: Hash,
    pub size: u64,
}

/// Blocks to append, and the hashes of their leaves: those do not depend on where the blocks go, so
/// they can be made while others are still being written.
pub struct HashedBlocks {
    blocks: Vec<Bytes>,
    hashes: Vec<Hash>,
}

impl HashedBlocks {
    pub fn new(blocks: Vec<Bytes>) -> Self {
        // Their places are not known yet; the hash has nothing of them.
        let placed: Vec<(u64, &[u8])> = blocks.iter().map(|block| (0, block.as_ref())).collect();
        let hashes = Node::leaves(&placed).into_iter().map(|leaf| leaf.hash).collect();
        Self { blocks, hashes }
    }

    pub fn blocks(&self) -> &[Bytes] {
        &self.blocks
    }

    /// The leaves, of which the first is that of block `first`.
    pub fn leaves(&self, first: u64) -> impl Iterator<Item = Node> {
        (first..).zip(self.blocks.iter().zip(&self.hashes)).map(|(block, (bytes, hash))| {
            let size = bytes.len() as u64;
            Node { index: block.saturating_mul(2), hash: *hash, size }
        })
    }
}

impl Node {
    /// The leaf over the bytes of `block`.
    pub fn leaf(block: u64, bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let hash = blake2b(&[&leaf_prefix(size), bytes]);
        Self { index: block.saturating_mul(2), hash, size }
    }

    /// The leaves over blocks, as [`Node::leaf`] would make them one by one.
    pub fn leaves(blocks: &[(u64, &[u8])]) -> Vec<Self> {
        let prefixes: Vec<[u8; 9]> =
            blocks.iter().map(|(_, bytes)| leaf_prefix(bytes.len() as u64)).collect();
        let messages: Vec<[&[u8]; 2]> =
            prefixes.iter().zip(blocks).map(|(prefix, (_, bytes))| [&prefix[..], bytes]).collect();
        let hashes = blake2b_each(&messages);
        let nodes = blocks.iter().zip(hashes).map(|((block, bytes), hash)| Self {
            index: block.saturating_mul(2),
            hash,
            size: bytes.len() as u64,
        });
        nodes.collect()
    }

    /// The parent of two siblings, given in either order; `None` if their sizes add up to more
    /// than [`MAX_BYTE_LENGTH`].
    pub fn parent(one: &Self, other: &Self) -> Option<Self> {
        let (left, right) = if one.index < other.index { (one, other) } else { (other, one) };
        let size = left.size.checked_add(right.size).filter(|size| *size <= MAX_BYTE_LENGTH)?;
        let hash = blake2b(&[&[1], &size.to_be_bytes(), &left.hash, &right.hash]);
        Some(Self { index: flat_tree::parent(left.index), hash, size })
    }
}

/// What is hashed before the bytes of a block of this size.
fn leaf_prefix(size: u64) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[1..].copy_from_slice(&size.to_be_bytes());
    prefix
}

/// What a peer sends to prove one block (or, without `value`, one leaf hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub block: u64,
    pub value: Option<Bytes>,
    pub nodes: Vec<Node>,
    pub signature: Option<SignatureBytes>,
}

/// The hash over a core's roots, left to right.
pub fn root_hash(roots: &[Node]) -> Hash {
    let mut message = Vec::with_capacity(1 + roots.len() * 48);
    message.push(2);
    for root in roots {
        message.extend_from_slice(&root.hash);
        message.extend_from_slice(&root.index.to_be_bytes());
        message.extend_from_slice(&root.size.to_be_bytes());
    }
    blake2b(&[&message])
}

/// What writers sign: the root hash and the length in blocks.
pub fn signable(roots: &[Node], length: u64) -> [u8; 40] {
    let mut message = [0; 40];
    message[..32].copy_from_slice(&root_hash(roots));
    message[32..].copy_from_slice(&length.to_be_bytes());
    message
}

pub fn sign(pair: &KeyPair, roots: &[Node], length: u64) -> SignatureBytes {
    pair.sign(&signable(roots, length))
}

/// Whether the signature is `key`'s over these roots: over the root hash and the length, or, as old cores
/// have it, over the root hash alone.
pub fn signed_by(key: &PublicKey, roots: &[Node], length: u64, signature: &SignatureBytes) -> bool {
    let message = signable(roots, length);
    key.verifies(&message, signature) || key.verifies(&message[..32], signature)
}

/// The sum of the roots' sizes, if it is one a core may have.
pub fn byte_length(roots: &[Node]) -> Option<u64> {
    roots
        .iter()
        .try_fold(0u64, |sum, root| sum.checked_add(root.size))
        .filter(|sum| *sum <= MAX_BYTE_LENGTH)
}

/// Adds a leaf to the right of a core's roots; returns the nodes this creates, the leaf first.
/// `None` if the core would grow beyond [`MAX_BYTE_LENGTH`].
pub fn push_leaf(roots: &mut Vec<Node>, leaf: Node) -> Option<Vec<Node>> {
    let mut created = vec![leaf];
    let mut top = leaf;
    while let Some(last) = roots.last() {
        if flat_tree::sibling(last.index) != top.index {
            break;
        }
        top = Node::parent(last, &top)?;
        roots.pop();
        created.push(top);
    }
    roots.push(top);
    byte_length(roots)?;
    Some(created)
}

/// Twice the length of the longest core that `node` is part of as far as `has` tells (§4.4);
/// 0 when it is not here.
pub fn verified_by(node: u64, has: &impl Fn(u64) -> bool) -> u64 {
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
pub fn claimed_length(has: &impl Fn(u64) -> bool, capacity: u64) -> u64 {
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
pub fn digest(node: u64, has: &impl Fn(u64) -> bool, capacity: u64) -> u64 {
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
pub struct ProofPlan {
    /// Flat-tree indexes, in the order they are sent.
    pub nodes: Vec<u64>,
    /// Twice the length whose signature must go along; 0 for none.
    pub verified_by: u64,
}

/// Plans the proof of leaf `node` (§10.2), with the leaf itself if `with_leaf`. `None` when the
/// leaf is not here.
pub fn plan_proof(
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

/// A signed length and the roots it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Number of blocks.
    pub length: u64,
    pub byte_length: u64,
    pub roots: Vec<Node>,
    pub signature: SignatureBytes,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub leaf: Node,
    /// Every node proven, the leaf among them; some may have been known before.
    pub nodes: Vec<Node>,
    /// Present when the proof needed a signature.
    pub signed: Option<Signed>,
}

/// Why a proof proves nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw<E> {
    Invalid(String),
    /// The signature over this many blocks is good, but a node under it differs from ours.
    Forked {
        length: u64,
    },
    /// The look-up of our own nodes failed.
    Local(E),
}

fn invalid<T, E>(reason: impl Into<String>) -> Result<T, Flaw<E>> {
    Err(Flaw::Invalid(reason.into()))
}

/// Verifies a proof (§10.3). `leaf` is the hash of the value that came along, if one did; `local`
/// returns the verified node we have at an index.
pub fn verify<E>(
    key: &PublicKey,
    proof: &Proof,
    leaf: Option<Node>,
    mut local: impl FnMut(u64) -> Result<Option<Node>, E>,
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
            return Ok(Verified { leaf, nodes, signed: None });
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
        top = match Node::parent(&top, &other) {
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
    Ok(Verified { leaf, nodes, signed: Some(signed) })
}

/// Whether a verified proof of `block` under the roots `new` has passed by every one of the roots
/// `old`, so that the one version continues the other. (That the nodes are the same where both have
/// one, [`verify`] has seen to.)
pub fn connects(old: &[Node], new: &[Node], block: u64) -> bool {
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
    proof: &[Node],
    local: &mut impl FnMut(u64) -> Result<Option<Node>, E>,
) -> Result<Option<Node>, Flaw<E>> {
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
    top: Node,
    rest: Vec<Node>,
    local: &mut impl FnMut(u64) -> Result<Option<Node>, E>,
) -> Result<Signed, Flaw<E>> {
    let Some(signature) = proof.signature else {
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
    if !signed_by(key, &roots, length, &signature) {
        return invalid("signature does not verify");
    }
    Ok(Signed { length, byte_length, roots, signature })
}

#[cfg(test)]
mod tests;
