//! Nodes of the Merkle tree over a core's blocks, what a verified proof proves, and the limits of a
//! core: what is the same in every kind of core. Pure.
//!
//! Not here: hashing, what is signed and the shape of a proof (`dialect.rs`), where nodes are stored
//! and which of the stored ones are believed (`nodes.rs`).

use bytes::Bytes;

use super::flat_tree;
use hypermount_swarm::crypto::{Hash, SignatureBytes};

/// Bytes of the largest block, as in the reference.
pub const MAX_BLOCK_SIZE: usize = 8 * 1024 * 1024;
/// Blocks of the longest core handled: 2^32, 256 TiB of 64 KiB blocks.
pub const MAX_CORE_LENGTH: u64 = 1 << 32;
/// Bytes of the longest core handled: what the reference can count.
pub(crate) const MAX_BYTE_LENGTH: u64 = 1 << 53;
/// Highest index of a node in a core of [`MAX_CORE_LENGTH`].
pub(crate) const MAX_NODE_INDEX: u64 = 2 * MAX_CORE_LENGTH - 2;

/// How long a core provably is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of blocks.
    pub length: u64,
    /// Number of bytes of all blocks.
    pub byte_length: u64,
    /// How often its author has truncated it; 0 in Hypercore 9, which cannot.
    pub fork: u64,
}

impl Head {
    /// The head that this core had at another length, as far as a signature covers it: without the bytes.
    pub(crate) fn at(self, length: u64) -> Self {
        Self { length, byte_length: 0, fork: self.fork }
    }
}

/// A node of the flat tree: the hash and byte size of what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeNode {
    /// Flat-tree index: leaves are even, block `i` is `2 i`.
    pub index: u64,
    /// The hash of the block, or of both children.
    pub hash: Hash,
    /// Bytes of all blocks below.
    pub size: u64,
}

/// A signature as it is stored and sent: its length and content depend on the kind of core. A copy of its
/// own, so that it keeps no buffer of a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(Bytes);

impl Signature {
    /// The bytes, which only the dialect of the core judges.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<SignatureBytes> for Signature {
    fn from(bytes: SignatureBytes) -> Self {
        Self(Bytes::copy_from_slice(&bytes))
    }
}

impl From<&[u8]> for Signature {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Signature({} bytes)", self.0.len())
    }
}

/// The sum of the roots' sizes, if it is one a core may have.
pub(crate) fn byte_length(roots: &[TreeNode]) -> Option<u64> {
    roots
        .iter()
        .try_fold(0u64, |sum, root| sum.checked_add(root.size))
        .filter(|sum| *sum <= MAX_BYTE_LENGTH)
}

/// Adds a leaf to the right of a core's roots; returns the nodes this creates, the leaf first.
/// `None` if the core would grow beyond [`MAX_BYTE_LENGTH`]. `parent` hashes two siblings.
pub(crate) fn push_leaf(
    roots: &mut Vec<TreeNode>,
    leaf: TreeNode,
    parent: impl Fn(&TreeNode, &TreeNode) -> Option<TreeNode>,
) -> Option<Vec<TreeNode>> {
    let mut created = vec![leaf];
    let mut top = leaf;
    while let Some(last) = roots.last() {
        if flat_tree::sibling(last.index) != top.index {
            break;
        }
        top = parent(last, &top)?;
        roots.pop();
        created.push(top);
    }
    roots.push(top);
    byte_length(roots)?;
    Some(created)
}

/// A signed length and the roots it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Number of blocks.
    pub(crate) length: u64,
    pub(crate) byte_length: u64,
    pub(crate) roots: Vec<TreeNode>,
    pub(crate) signature: Signature,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Every node proven, the leaf among them; some may have been known before.
    pub(crate) nodes: Vec<TreeNode>,
    /// Present when the proof needed a signature.
    pub(crate) signed: Option<Signed>,
}

/// Why a proof proves nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw<E> {
    Invalid(String),
    /// The signature over this many blocks is good, but a node under it differs from ours.
    Forked {
        length: u64,
    },
    /// What is proven is of a core of this many blocks, which is not shown to be part of the one here.
    Unconnected {
        length: u64,
    },
    /// The look-up of our own nodes failed.
    Local(E),
}
