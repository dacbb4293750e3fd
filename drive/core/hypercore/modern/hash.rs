//! The hashes of Hypercore 10 and 11: namespaces, tree nodes, and what a peer proves its knowledge of a
//! core's key with.
//!
//! Not here: the hash of a manifest (`manifest.rs`), what is signed (`signature.rs`). The discovery key is
//! the one of Hypercore 9: [`PublicKey::discovery_key`].

use std::sync::LazyLock;

use super::super::flat_tree;
use super::super::merkle::{MAX_BYTE_LENGTH, TreeNode};
use hypermount_swarm::crypto::{Hash, PublicKey, blake2b, blake2b_each, blake2b_keyed};

/// Length in bytes of the hash of a Noise handshake.
pub(crate) const HANDSHAKE_HASH_LENGTH: usize = 64;

/// What a hash or a signature is for. Each purpose has a prefix of its own, so that none can stand for
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Signatures over a tree.
    Tree,
    /// The capability of the peer that opened the connection.
    ReplicateInitiator,
    /// The capability of the peer that accepted the connection.
    ReplicateResponder,
    /// Core keys that are the hash of a manifest.
    Manifest,
    /// The namespace of a signer unless its writer chose another.
    Signer,
    /// Keys of encrypted blocks.
    Encryption,
}

const NAMESPACES: u8 = 6;

static HASHES: LazyLock<[Hash; NAMESPACES as usize]> = LazyLock::new(|| {
    let name = blake2b(&[b"hypercore"]);
    std::array::from_fn(|place| blake2b(&[&name, &[place as u8]]))
});

impl Namespace {
    /// The prefix itself.
    pub(crate) fn hash(self) -> &'static Hash {
        const { assert!((Self::Encryption as u8) < NAMESPACES) };
        &HASHES[self as usize]
    }
}

/// The leaf over the stored bytes of `block`.
pub(crate) fn leaf(block: u64, bytes: &[u8]) -> TreeNode {
    let size = bytes.len() as u64;
    let hash = blake2b(&[&leaf_prefix(size), bytes]);
    TreeNode { index: block.saturating_mul(2), hash, size }
}

/// The leaves over blocks, as [`leaf`] would make them one by one.
pub(crate) fn leaves(blocks: &[(u64, &[u8])]) -> Vec<TreeNode> {
    let prefixes: Vec<[u8; 9]> =
        blocks.iter().map(|(_, bytes)| leaf_prefix(bytes.len() as u64)).collect();
    let messages: Vec<[&[u8]; 2]> =
        prefixes.iter().zip(blocks).map(|(prefix, (_, bytes))| [&prefix[..], bytes]).collect();
    let hashes = blake2b_each(&messages);
    let nodes = blocks.iter().zip(hashes).map(|((block, bytes), hash)| TreeNode {
        index: block.saturating_mul(2),
        hash,
        size: bytes.len() as u64,
    });
    nodes.collect()
}

/// What is hashed before the bytes of a block of this size.
fn leaf_prefix(size: u64) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[1..].copy_from_slice(&size.to_le_bytes());
    prefix
}

/// The parent of two siblings, given in either order; `None` if their sizes add up to more
/// than [`MAX_BYTE_LENGTH`].
///
/// The hash covers the sum of both sizes. How it divides between the two is proven only by their own
/// children.
pub(crate) fn parent(one: &TreeNode, other: &TreeNode) -> Option<TreeNode> {
    let (left, right) = if one.index < other.index { (one, other) } else { (other, one) };
    let size = left.size.checked_add(right.size).filter(|size| *size <= MAX_BYTE_LENGTH)?;
    let hash = blake2b(&[&[1], &size.to_le_bytes(), &left.hash, &right.hash]);
    Some(TreeNode { index: flat_tree::parent(left.index), hash, size })
}

/// The hash over a core's roots, left to right.
pub(crate) fn tree_hash(roots: &[TreeNode]) -> Hash {
    let mut message = Vec::with_capacity(1 + roots.len() * 48);
    message.push(2);
    for root in roots {
        message.extend_from_slice(&root.hash);
        message.extend_from_slice(&root.index.to_le_bytes());
        message.extend_from_slice(&root.size.to_le_bytes());
    }
    blake2b(&[&message])
}

/// Which side of a connection a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It opened the connection.
    Initiator,
    /// It accepted the connection.
    Responder,
}

/// What the peer on this side of a connection sends to show that it knows the key of a core.
pub(crate) fn capability(
    side: Side,
    key: &PublicKey,
    handshake_hash: &[u8; HANDSHAKE_HASH_LENGTH],
) -> Hash {
    let namespace = match side {
        Side::Initiator => Namespace::ReplicateInitiator,
        Side::Responder => Namespace::ReplicateResponder,
    };
    blake2b_keyed(handshake_hash, &[namespace.hash(), key.as_bytes()])
}
