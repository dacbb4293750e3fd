//! The seam between kinds of cores: which rules a core follows, and whose signatures count.
//!
//! A kind has its rules in a folder (`legacy/`, `modern/`) and one arm in each match here. Core's methods name
//! this file and `files.rs`, never a folder of rules. (docs/decisions/0017)
//!
//! Not here: what is the same in every kind (`merkle.rs`, `nodes.rs`, `bitfield.rs`), and the messages
//! that carry proofs (`wire/`).

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

use super::files::{OpenFiles, Opened};
use super::legacy::{self, hash, proof};
use super::merkle::{Flaw, Head, Signature, TreeNode, Verified, push_leaf};
use super::modern::{self, Verifier};
use super::tree_hash::TreeHash;
use crate::error::Result;
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey};

/// A proof of Hypercore 9 as a peer sends it.
pub use super::legacy::proof::Proof;
/// What requests and proofs of Hypercore 9 say of the nodes the other side has. For `prove.rs` and for
/// wire protocol 8.
pub use super::legacy::proof::RemoteTree;
pub(super) use super::legacy::proof::{digest, plan_proof};
pub(super) use super::modern::answer::{Held, Unanswered, answer};
/// A request of Hypercore 10 and 11, and what answers it. For `prove.rs` and for `hypercore/alpha`.
pub(crate) use super::modern::answer::{Request as ProofRequest, Seek, Upgrade, Way};
/// Of encrypted blocks, see `unlock.rs`.
pub(super) use super::modern::encryption::{BlockKeys, PREFIX_LENGTH};

/// Bytes that an encrypted block has before those of its content.
pub(super) const BLOCK_PREFIX: u64 = PREFIX_LENGTH as u64;
#[cfg(fuzzing)]
pub(crate) use super::modern::fuzzing;
/// What a peer shows that it knows the key of a core with, on a connection of Hyperswarm 4.
pub(crate) use super::modern::hash::{Side, capability};
/// An answer of Hypercore 10 and 11 as a peer sends it, and its parts.
pub(crate) use super::modern::proof::{
    BlockPart, HashPart, Proof as ProofParts, SeekPart, UpgradePart,
};
pub(crate) use super::modern::received::Received;
/// The key in an `oplog` file of Hypercore 10, if the file says one.
pub(crate) use super::modern::stored_key;

/// The kind of a core: the rules it follows.
///
/// An enum and no trait object: hashing runs in loops, and a match with few arms is a direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Hypercore 9: the key is an Ed25519 public key, every length may be signed.
    Legacy,
    /// Hypercore 10 and 11: the key is the hash of a manifest, or in a compat core a public key.
    Modern,
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Legacy => "hypercore 9",
            Self::Modern => "hypercore 10-11",
        })
    }
}

impl Dialect {
    fn tree_hash(self) -> TreeHash {
        match self {
            Self::Legacy => hash::TREE,
            Self::Modern => modern::hash::TREE,
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

    /// Opens the files of a core, makes what is missing where the medium can be written, and finds what
    /// to believe of them.
    ///
    /// # Errors
    /// `NotAStore` if another core is stored there, `Corrupt` if a core of ours lost blocks, `Storage`.
    pub(super) fn open(self, opening: OpenFiles) -> Result<(Opened, Author)> {
        let key = *opening.key;
        let (opened, verifier) = match self {
            Self::Legacy => (legacy::open(opening)?, None),
            Self::Modern => modern::open(opening)?,
        };
        Ok((opened, Author::new(self, key, verifier)))
    }

    /// The key of the core that `pair` alone signs, as a new core of this kind has it.
    pub(crate) fn key_of(self, pair: &KeyPair) -> PublicKey {
        match self {
            Self::Legacy => pair.public_key(),
            Self::Modern => modern::Manifest::of_one_signer(pair.public_key()).key(),
        }
    }
}

/// What a peer sent to prove something.
#[derive(Clone, Debug)]
pub enum ReceivedProof {
    /// Of Hypercore 9.
    Legacy(Proof),
    /// Of Hypercore 10 and 11.
    #[expect(private_interfaces, reason = "made and taken apart in this crate alone")]
    Modern(Box<Received>),
}

impl From<Proof> for ReceivedProof {
    fn from(proof: Proof) -> Self {
        Self::Legacy(proof)
    }
}

impl ReceivedProof {
    /// The block that was requested.
    pub(crate) fn block(&self) -> u64 {
        match self {
            Self::Legacy(proof) => proof.block,
            Self::Modern(received) => received.asked,
        }
    }

    /// Its bytes, if they came along.
    pub(crate) fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Legacy(proof) => proof.value.as_ref(),
            Self::Modern(received) => received.value(),
        }
    }

    /// Nodes that came along and may be written again although they are known.
    pub(crate) fn nodes(&self) -> &[TreeNode] {
        match self {
            Self::Legacy(proof) => &proof.nodes,
            // A proof that verified lists all of them.
            Self::Modern(_) => &[],
        }
    }

    /// The fork that it is of.
    pub(crate) fn fork(&self) -> u64 {
        match self {
            Self::Legacy(_) => 0,
            Self::Modern(received) => received.proof.fork,
        }
    }

    /// Whether, once verified under the roots `new`, it has passed by every one of the roots `old`, so that the
    /// one version continues the other.
    pub(crate) fn connects(&self, old: &[TreeNode], new: &[TreeNode]) -> bool {
        match self {
            Self::Legacy(proof) => proof::connects(old, new, proof.block),
            Self::Modern(received) => received.connects(old, new),
        }
    }
}

/// Whose signatures count for a core.
#[derive(Debug)]
pub(super) struct Author {
    dialect: Dialect,
    key: PublicKey,
    /// Of Hypercore 10 and 11, once a manifest that hashes to the key, or a signature without one, is known.
    verifier: OnceLock<Verifier>,
}

impl Author {
    fn new(dialect: Dialect, key: PublicKey, verifier: Option<Verifier>) -> Self {
        Self { dialect, key, verifier: verifier.map_or_else(OnceLock::new, OnceLock::from) }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the core is named by.
    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The bytes of the manifest, once it is known; compat cores and those of Hypercore 9 have none.
    pub(super) fn manifest(&self) -> Option<Bytes> {
        self.verifier.get()?.encoded_manifest()
    }

    /// Whether it is not known yet whose signatures count.
    pub(super) fn is_unknown(&self) -> bool {
        self.dialect == Dialect::Modern && self.verifier.get().is_none()
    }

    /// See [`super::Core::key_with_namespaces`].
    pub(super) fn key_with_namespaces(&self, derive: impl Fn(&Hash) -> Hash) -> Option<PublicKey> {
        let manifest = self.verifier.get()?.manifest()?.with_namespaces(derive)?;
        Some(manifest.key())
    }

    /// See [`super::Core::beside`].
    pub(super) fn beside(&self, derive: impl Fn(&Hash) -> Hash) -> Option<(PublicKey, Bytes)> {
        let manifest = self.verifier.get()?.manifest()?.with_namespaces(derive)?;
        Some((manifest.key(), manifest.bytes()))
    }

    /// Whether the core has a manifest, as far as is known.
    pub(super) fn has_manifest(&self) -> bool {
        self.verifier.get().is_some_and(|verifier| verifier.manifest().is_some())
    }

    /// Takes a manifest that hashes to the key. Whether it does.
    pub(super) fn take_manifest(&self, mut bytes: Bytes) -> bool {
        if !self.is_unknown() {
            return true;
        }
        let manifest = modern::Manifest::decode(&mut bytes).ok();
        let verifier = manifest.and_then(|manifest| Verifier::new(self.key, Some(manifest)).ok());
        // That of a compat core says nothing that its key does not.
        match verifier.filter(|verifier| verifier.manifest().is_some()) {
            Some(verifier) => self.verifier.set(verifier).is_ok(),
            None => false,
        }
    }

    /// Whether the signature is the author's over these roots of the core at this head.
    pub(super) fn signed(&self, roots: &[TreeNode], head: Head, signature: &Signature) -> bool {
        match self.dialect {
            Dialect::Legacy => hash::signed_by(&self.key, roots, head.length, signature),
            Dialect::Modern => self
                .verifier
                .get()
                .is_some_and(|verifier| verifier.signed(roots, head.fork, signature)),
        }
    }

    /// The signature over these roots of the core at this head; `None` where it is not known what it has to cover.
    pub(super) fn sign(&self, pair: &KeyPair, roots: &[TreeNode], head: Head) -> Option<Signature> {
        match self.dialect {
            Dialect::Legacy => Some(hash::sign(pair, roots, head.length)),
            Dialect::Modern => Some(self.verifier.get()?.sign(pair, roots, head)),
        }
    }

    /// Verifies a proof. `leaf` is the hash of the value that came along, if one did; `local` returns the
    /// believed node at an index.
    ///
    /// # Errors
    /// The flaw of the proof, or the error of `local`.
    pub(super) fn verify<E>(
        &self,
        proof: &ReceivedProof,
        leaf: Option<TreeNode>,
        local: impl FnMut(u64) -> std::result::Result<Option<TreeNode>, E>,
    ) -> std::result::Result<Verified, Flaw<E>> {
        match proof {
            ReceivedProof::Legacy(_) if self.dialect != Dialect::Legacy => other_kind(),
            ReceivedProof::Modern(_) if self.dialect != Dialect::Modern => other_kind(),
            ReceivedProof::Legacy(proof) => proof::verify(&self.key, proof, leaf, local),
            ReceivedProof::Modern(received) => {
                let known = self.verifier.get();
                let (verified, verifier) = received.verify(&self.key, known, leaf, local)?;
                if let Some(verifier) = verifier {
                    let _ = self.verifier.set(verifier);
                }
                Ok(verified)
            }
        }
    }
}

fn other_kind<T, E>() -> std::result::Result<T, Flaw<E>> {
    Err(Flaw::Invalid("a proof of another kind of core".to_owned()))
}

/// Blocks to append, and the hashes of their leaves: those do not depend on where the blocks go, so
/// they can be made while others are still being written.
#[derive(Clone)]
pub struct HashedBlocks {
    dialect: Dialect,
    blocks: Vec<Bytes>,
    /// Once they were needed.
    hashes: OnceLock<Vec<Hash>>,
}

impl HashedBlocks {
    /// Hashes the blocks for a core of Hypercore 9, on this thread.
    pub fn new(blocks: Vec<Bytes>) -> Self {
        Self::of_kind(Dialect::Legacy, blocks)
    }

    /// Hashes the blocks for a core of this kind, on this thread.
    pub fn of_kind(dialect: Dialect, blocks: Vec<Bytes>) -> Self {
        let hashed = Self::unhashed(dialect, blocks);
        hashed.hashes();
        hashed
    }

    /// Blocks for a core of this kind that are hashed when they are appended: those of an encrypted core are encrypted
    /// before.
    pub fn unhashed(dialect: Dialect, blocks: Vec<Bytes>) -> Self {
        Self { dialect, blocks, hashes: OnceLock::new() }
    }

    fn hashes(&self) -> &[Hash] {
        self.hashes.get_or_init(|| {
            // Their places are not known yet; the hash has nothing of them.
            let placed: Vec<(u64, &[u8])> =
                self.blocks.iter().map(|block| (0, block.as_ref())).collect();
            self.dialect.leaves(&placed).into_iter().map(|leaf| leaf.hash).collect()
        })
    }

    /// The kind of core they are hashed for.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Bytes] {
        &self.blocks
    }

    /// The leaves, of which the first is that of block `first`.
    pub(crate) fn leaves(&self, first: u64) -> impl Iterator<Item = TreeNode> {
        (first..).zip(self.blocks.iter().zip(self.hashes())).map(|(block, (bytes, hash))| {
            let size = bytes.len() as u64;
            TreeNode { index: block.saturating_mul(2), hash: *hash, size }
        })
    }
}
