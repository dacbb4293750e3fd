//! The hashes of a tree, which differ between Hypercore 9 and Hypercore 10 and 11 only in the order of the
//! bytes of numbers.
//!
//! Not here: what is signed, and namespaces (`legacy/hash.rs`, `modern/hash.rs`).

use super::flat_tree;
use super::merkle::{MAX_BYTE_LENGTH, TreeNode};
use hypermount_swarm::crypto::{Hash, blake2b, blake2b_each};

/// The order in which the bytes of a number are hashed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TreeHash {
    BigEndian,
    LittleEndian,
}

impl TreeHash {
    fn number(self, number: u64) -> [u8; 8] {
        match self {
            Self::BigEndian => number.to_be_bytes(),
            Self::LittleEndian => number.to_le_bytes(),
        }
    }

    /// The leaf over the stored bytes of `block`.
    pub(crate) fn leaf(self, block: u64, bytes: &[u8]) -> TreeNode {
        let size = bytes.len() as u64;
        let hash = blake2b(&[&self.leaf_prefix(size), bytes]);
        TreeNode { index: block.saturating_mul(2), hash, size }
    }

    /// The leaves over blocks, as [`TreeHash::leaf`] would make them one by one.
    pub(crate) fn leaves(self, blocks: &[(u64, &[u8])]) -> Vec<TreeNode> {
        let prefixes: Vec<[u8; 9]> =
            blocks.iter().map(|(_, bytes)| self.leaf_prefix(bytes.len() as u64)).collect();
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
    fn leaf_prefix(self, size: u64) -> [u8; 9] {
        let mut prefix = [0; 9];
        prefix[1..].copy_from_slice(&self.number(size));
        prefix
    }

    /// The parent of two siblings, given in either order; `None` if their sizes add up to more
    /// than [`MAX_BYTE_LENGTH`].
    ///
    /// The hash covers the sum of both sizes. How it divides between the two is proven only by their own
    /// children.
    pub(crate) fn parent(self, one: &TreeNode, other: &TreeNode) -> Option<TreeNode> {
        let (left, right) = if one.index < other.index { (one, other) } else { (other, one) };
        let size = left.size.checked_add(right.size).filter(|size| *size <= MAX_BYTE_LENGTH)?;
        let hash = blake2b(&[&[1], &self.number(size), &left.hash, &right.hash]);
        Some(TreeNode { index: flat_tree::parent(left.index), hash, size })
    }

    /// The hash over a core's roots, left to right.
    pub(crate) fn of_roots(self, roots: &[TreeNode]) -> Hash {
        let mut message = Vec::with_capacity(1 + roots.len() * 48);
        message.push(2);
        for root in roots {
            message.extend_from_slice(&root.hash);
            message.extend_from_slice(&self.number(root.index));
            message.extend_from_slice(&self.number(root.size));
        }
        blake2b(&[&message])
    }
}
