//! The seam between kinds of cores: which rules a core follows, and whose signatures count.
//!
//! A second kind adds its rules in a folder beside `legacy/` and one arm to each match here. Core's
//! methods name this file and `files.rs`, never a folder of rules. (docs/decisions/0017)
//!
//! Not here: what is the same in every kind (`merkle.rs`, `nodes.rs`, `bitfield.rs`), and the messages
//! that carry proofs (`wire/`).

use bytes::Bytes;

use super::files::{OpenFiles, Opened};
use super::legacy::{self, hash, proof};
use super::merkle::{Flaw, Signature, TreeNode, Verified, push_leaf};
use super::tree_hash::TreeHash;
use crate::error::Result;
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey};

/// A proof as a peer sends it. Core asks it only what its methods tell.
pub use super::legacy::proof::Proof;
/// What requests and proofs of Hypercore 9 say of the nodes the other side has. For `prove.rs` and for
/// wire protocol 8.
pub use super::legacy::proof::RemoteTree;
pub(super) use super::legacy::proof::{digest, plan_proof};

/// The rules of one kind of core.
///
/// An enum and no trait object: hashing runs in loops, and a match with one arm is a direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Hypercore 9: the key is an Ed25519 public key, every length may be signed.
    Legacy,
}

impl Dialect {
    fn tree_hash(self) -> TreeHash {
        match self {
            Self::Legacy => hash::TREE,
        }
    }

    /// [`TreeHash::leaf`].
    pub(crate) fn leaf(self, block: u64, bytes: &[u8]) -> TreeNode {
        self.tree_hash().leaf(block, bytes)
    }

    /// [`TreeHash::leaves`].
    pub(crate) fn leaves(self, blocks: &[(u64, &[u8])]) -> Vec<TreeNode> {
        self.tree_hash().leaves(blocks)
    }

    /// [`TreeHash::parent`].
    pub(crate) fn parent(self, one: &TreeNode, other: &TreeNode) -> Option<TreeNode> {
        self.tree_hash().parent(one, other)
    }

    /// [`TreeHash::of_roots`].
    pub(crate) fn root_hash(self, roots: &[TreeNode]) -> Hash {
        self.tree_hash().of_roots(roots)
    }

    /// [`push_leaf`] with the hashes of this kind.
    pub(crate) fn push_leaf(
        self,
        roots: &mut Vec<TreeNode>,
        leaf: TreeNode,
    ) -> Option<Vec<TreeNode>> {
        push_leaf(roots, leaf, |one, other| self.parent(one, other))
    }

    /// Whether a verified proof under the roots `new` has passed by every one of the roots `old`, so that
    /// the one version continues the other.
    pub(crate) fn connects(self, old: &[TreeNode], new: &[TreeNode], proof: &Proof) -> bool {
        match self {
            Self::Legacy => proof::connects(old, new, proof.block),
        }
    }

    /// Opens the files of a core, makes what is missing where the medium can be written, and finds what
    /// to believe of them.
    ///
    /// # Errors
    /// `NotAStore` if another core is stored there, `Corrupt` if a core of ours lost blocks, `Storage`.
    pub(crate) fn open(self, opening: OpenFiles) -> Result<Opened> {
        match self {
            Self::Legacy => legacy::open(opening),
        }
    }
}

/// Whose signatures count for a core.
#[derive(Clone, Debug)]
pub(super) struct Author {
    dialect: Dialect,
    key: PublicKey,
}

impl Author {
    pub(super) fn new(dialect: Dialect, key: PublicKey) -> Self {
        Self { dialect, key }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the core is named by.
    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether the signature is the author's over these roots of a core of `length` blocks.
    pub(super) fn signed(&self, roots: &[TreeNode], length: u64, signature: &Signature) -> bool {
        match self.dialect {
            Dialect::Legacy => hash::signed_by(&self.key, roots, length, signature),
        }
    }

    /// The signature over these roots of a core of `length` blocks.
    pub(super) fn sign(&self, pair: &KeyPair, roots: &[TreeNode], length: u64) -> Signature {
        match self.dialect {
            Dialect::Legacy => hash::sign(pair, roots, length),
        }
    }

    /// Verifies a proof. `leaf` is the hash of the value that came along, if one did; `local` returns the
    /// believed node at an index.
    ///
    /// # Errors
    /// The flaw of the proof, or the error of `local`.
    pub(super) fn verify<E>(
        &self,
        proof: &Proof,
        leaf: Option<TreeNode>,
        local: impl FnMut(u64) -> std::result::Result<Option<TreeNode>, E>,
    ) -> std::result::Result<Verified, Flaw<E>> {
        match self.dialect {
            Dialect::Legacy => proof::verify(&self.key, proof, leaf, local),
        }
    }
}

/// Blocks to append, and the hashes of their leaves: those do not depend on where the blocks go, so
/// they can be made while others are still being written.
pub struct HashedBlocks {
    blocks: Vec<Bytes>,
    hashes: Vec<Hash>,
}

impl HashedBlocks {
    /// The kind of core that is written here, by whose rules blocks are hashed ahead.
    pub(crate) const DIALECT: Dialect = Dialect::Legacy;

    /// Hashes the blocks, on this thread.
    pub fn new(blocks: Vec<Bytes>) -> Self {
        // Their places are not known yet; the hash has nothing of them.
        let placed: Vec<(u64, &[u8])> = blocks.iter().map(|block| (0, block.as_ref())).collect();
        let hashes = Self::DIALECT.leaves(&placed).into_iter().map(|leaf| leaf.hash).collect();
        Self { blocks, hashes }
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Bytes] {
        &self.blocks
    }

    /// The leaves, of which the first is that of block `first`.
    pub(crate) fn leaves(&self, first: u64) -> impl Iterator<Item = TreeNode> {
        (first..).zip(self.blocks.iter().zip(&self.hashes)).map(|(block, (bytes, hash))| {
            let size = bytes.len() as u64;
            TreeNode { index: block.saturating_mul(2), hash: *hash, size }
        })
    }
}
