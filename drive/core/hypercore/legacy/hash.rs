//! The hashes of Hypercore 9, and what its writers sign (hypercore9.md §2, §3).

use super::super::flat_tree;
use super::super::merkle::{MAX_BYTE_LENGTH, Signature, TreeNode};
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey, SignatureBytes, blake2b, blake2b_each};

/// The leaf over the bytes of `block`.
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

/// The parent of two siblings, given in either order; `None` if their sizes add up to more
/// than [`MAX_BYTE_LENGTH`].
pub(crate) fn parent(one: &TreeNode, other: &TreeNode) -> Option<TreeNode> {
    let (left, right) = if one.index < other.index { (one, other) } else { (other, one) };
    let size = left.size.checked_add(right.size).filter(|size| *size <= MAX_BYTE_LENGTH)?;
    let hash = blake2b(&[&[1], &size.to_be_bytes(), &left.hash, &right.hash]);
    Some(TreeNode { index: flat_tree::parent(left.index), hash, size })
}

/// What is hashed before the bytes of a block of this size.
fn leaf_prefix(size: u64) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[1..].copy_from_slice(&size.to_be_bytes());
    prefix
}

/// The hash over a core's roots, left to right.
pub(crate) fn root_hash(roots: &[TreeNode]) -> Hash {
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
pub(crate) fn signable(roots: &[TreeNode], length: u64) -> [u8; 40] {
    let mut message = [0; 40];
    message[..32].copy_from_slice(&root_hash(roots));
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
