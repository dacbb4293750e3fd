//! How Hypercore 9 hashes trees, and what its writers sign (hypercore9.md §2, §3).

use super::super::merkle::{Signature, TreeNode};
use super::super::tree_hash::TreeHash;
use hypermount_swarm::crypto::{KeyPair, PublicKey, SignatureBytes};

/// How trees are hashed.
pub(crate) const TREE: TreeHash = TreeHash::BigEndian;

/// What writers sign: the root hash and the length in blocks.
pub(crate) fn signable(roots: &[TreeNode], length: u64) -> [u8; 40] {
    let mut message = [0; 40];
    message[..32].copy_from_slice(&TREE.of_roots(roots));
    message[32..].copy_from_slice(&length.to_be_bytes());
    message
}

pub(crate) fn sign(pair: &KeyPair, roots: &[TreeNode], length: u64) -> Signature {
    pair.sign(&signable(roots, length)).into()
}

/// Whether the signature is `key`'s over these roots: over the root hash and the length, or, as old cores
/// have it, over the root hash alone.
pub(crate) fn signed_by(
    key: &PublicKey,
    roots: &[TreeNode],
    length: u64,
    signature: &Signature,
) -> bool {
    let Ok(signature) = SignatureBytes::try_from(signature.as_bytes()) else { return false };
    let message = signable(roots, length);
    key.verifies(&message, &signature) || key.verifies(&message[..32], &signature)
}
