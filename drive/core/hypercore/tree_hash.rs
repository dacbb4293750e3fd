//! The hashes of a tree, which differ between Hypercore 9 and Hypercore 10 and 11 only in the order of the
//! bytes of numbers.
//!
//! Not here: what is signed, and namespaces (`legacy/hash.rs`, `modern/hash.rs`).

use std::sync::OnceLock;

use super::flat_tree;
use super::merkle::{MAX_BYTE_LENGTH, TreeNode};
use super::zeros::{ZERO_BLOCK_SIZES, is_zeros, zeros};
use hypermount_swarm::crypto::{Hash, blake2b, blake2b_each};

/// The order in which the bytes of a number are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        let hash = self.known(bytes).unwrap_or_else(|| self.of_block(bytes));
        TreeNode { index: block.saturating_mul(2), hash, size }
    }

    fn of_block(self, bytes: &[u8]) -> Hash {
        blake2b(&[&self.leaf_prefix(bytes.len() as u64), bytes])
    }

    /// The hash of a block of zeros, of one of the sizes that holes are made of; it is computed once.
    fn known(self, bytes: &[u8]) -> Option<Hash> {
        static HASHES: [[OnceLock<Hash>; ZERO_BLOCK_SIZES.len()]; 2] =
            [const { [const { OnceLock::new() }; ZERO_BLOCK_SIZES.len()] }; 2];
        let size = bytes.len() as u64;
        let at = ZERO_BLOCK_SIZES.iter().position(|zeros| *zeros == size)?;
        if !is_zeros(bytes) {
            return None;
        }
        let known = HASHES.get(usize::from(self == Self::LittleEndian))?.get(at)?;
        Some(*known.get_or_init(|| self.of_block(&zeros(size))))
    }

    /// The leaves over blocks, as [`TreeHash::leaf`] would make them one by one.
    pub(crate) fn leaves(self, blocks: &[(u64, &[u8])]) -> Vec<TreeNode> {
        let known: Vec<Option<Hash>> = blocks.iter().map(|(_, bytes)| self.known(bytes)).collect();
        let unknown = || blocks.iter().zip(&known).filter(|(_, known)| known.is_none());
        let prefixes: Vec<[u8; 9]> =
            unknown().map(|((_, bytes), _)| self.leaf_prefix(bytes.len() as u64)).collect();
        let messages: Vec<[&[u8]; 2]> = prefixes
            .iter()
            .zip(unknown())
            .map(|(prefix, ((_, bytes), _))| [&prefix[..], bytes])
            .collect();
        let mut hashed = blake2b_each(&messages).into_iter();
        let node = |((block, bytes), known): (&(u64, &[u8]), Option<Hash>)| {
            let hash = known.or_else(|| hashed.next())?;
            Some(TreeNode { index: block.saturating_mul(2), hash, size: bytes.len() as u64 })
        };
        blocks.iter().zip(known).filter_map(node).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes_are_those_of_the_bytes() {
        for tree in [TreeHash::BigEndian, TreeHash::LittleEndian] {
            for size in ZERO_BLOCK_SIZES {
                let bytes = vec![0; size as usize];
                assert_eq!(tree.known(&bytes), Some(tree.of_block(&bytes)));
                let stored = zeros(size);
                let blocks =
                    [(0, &[9; 100][..]), (1, &stored[..]), (2, &[][..]), (3, &stored[..7])];
                let leaves = tree.leaves(&blocks);
                for (leaf, (block, bytes)) in leaves.iter().zip(blocks) {
                    let node = TreeNode {
                        index: block * 2,
                        hash: tree.of_block(bytes),
                        size: bytes.len() as u64,
                    };
                    assert_eq!((*leaf, tree.leaf(block, bytes)), (node, node));
                }
            }
            let mut other = vec![0; ZERO_BLOCK_SIZES[2] as usize];
            other[5] = 1;
            assert_eq!(tree.known(&other), None);
            assert_eq!(tree.known(&[0; 100]), None);
        }
    }
}
