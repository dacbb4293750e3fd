//! Which stored blocks are zeros, as the tree tells: holes of files.
//!
//! Not here: the bytes of such blocks (`zeros.rs`), and where they are left out on disk (`files.rs`).

use super::Core;
use super::dialect::Dialect;
use super::flat_tree;
use super::merkle::{MAX_CORE_LENGTH, TreeNode};
use super::zeros::{ZERO_BLOCK_SIZES, zeros};
use crate::error::Result;

/// The nodes over 2^n blocks of zeros of one size, for each height n; the highest was compared last.
struct ZeroTree {
    dialect: Dialect,
    nodes: Vec<TreeNode>,
}

impl ZeroTree {
    /// Of blocks of `size` bytes, if that is one of [`ZERO_BLOCK_SIZES`].
    fn new(dialect: Dialect, size: u64) -> Option<Self> {
        ZERO_BLOCK_SIZES
            .contains(&size)
            .then(|| Self { dialect, nodes: vec![dialect.leaf(0, &zeros(size))] })
    }

    /// Whether below this node are nothing but such blocks.
    fn is(&mut self, node: &TreeNode) -> bool {
        let height = flat_tree::depth(node.index) as usize;
        while let (Some(top), true) = (self.nodes.last(), self.nodes.len() <= height) {
            let right = TreeNode { index: flat_tree::sibling(top.index), ..*top };
            let Some(parent) = self.dialect.parent(top, &right) else { return false };
            self.nodes.push(parent);
        }
        let zeros = self.nodes.get(height);
        zeros.is_some_and(|zeros| (zeros.hash, zeros.size) == (node.hash, node.size))
    }
}

impl Core {
    /// How many blocks from `first` on, and before `end`, are known to be zeros, and how many bytes each of them has: blocks
    /// of one of [`ZERO_BLOCK_SIZES`], all of one size, or one shorter block. The tree tells, as far as it is
    /// here; of an encrypted core it tells nothing.
    ///
    /// # Errors
    /// `Corrupt`, `Storage`.
    pub fn zero_blocks(&self, first: u64, end: u64) -> Result<(u64, u64)> {
        let end = end.min(MAX_CORE_LENGTH);
        if first >= end || self.is_unlocked() {
            return Ok((0, 0));
        }
        let Some(leaf) = self.node(first * 2)? else { return Ok((0, 0)) };
        let Some(mut tree) = ZeroTree::new(self.dialect(), leaf.size) else {
            // The last block of a hole at the end of a file.
            let is_short = leaf.size > 0 && leaf.size < ZERO_BLOCK_SIZES[2];
            let is_zeros = is_short && self.dialect().leaf(first, &zeros(leaf.size)) == leaf;
            return Ok((u64::from(is_zeros), leaf.size));
        };
        let (mut next, mut height) = (first, 0);
        while next < end {
            // Twice as many blocks as the last time, if they have a node of their own; half of them if they are not all
            // zeros.
            height = height.min(next.trailing_zeros()).min((end - next).ilog2());
            let index = flat_tree::index(height, next >> height);
            if self.node(index)?.is_some_and(|node| tree.is(&node)) {
                next += 1 << height;
                height += 1;
            } else if height == 0 {
                break;
            } else {
                height -= 1;
            }
        }
        Ok((next - first, leaf.size))
    }
}
