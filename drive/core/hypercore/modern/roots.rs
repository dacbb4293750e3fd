//! The roots of a core, and how nodes extend them to a greater length.
//!
//! Not here: whether a signature stands for the result (`signature.rs`), and which messages carry the
//! nodes (`proof.rs`).

use super::super::flat_tree;
use super::super::merkle::{MAX_BYTE_LENGTH, MAX_CORE_LENGTH, TreeNode, byte_length};
use super::hash;
use hypermount_swarm::crypto::Hash;

/// Why nodes do not make a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTree {
    #[error("node {0} is missing")]
    Missing(u64),
    #[error("node {found} came where node {expected} is due")]
    Unexpected { found: u64, expected: u64 },
    #[error("node {0} was not needed")]
    Unused(u64),
    #[error("{0} blocks are no extension of the tree")]
    Length(u64),
    #[error("a tree larger than {MAX_CORE_LENGTH} blocks or {MAX_BYTE_LENGTH} bytes")]
    TooLarge,
}

/// The nodes that extend a tree of `from` blocks to one of `to` blocks, in the order in which they are
/// sent: first those right of the last root that make it a part of a larger one, then new roots. Those
/// that both trees have are left out. At most 2 * 64.
pub(crate) fn nodes_between(from: u64, to: u64) -> Vec<u64> {
    let old: Vec<u64> = flat_tree::full_roots(from).collect();
    let mut nodes = Vec::new();
    let mut kept = 0;
    for root in flat_tree::full_roots(to) {
        if old.get(kept) == Some(&root) {
            kept += 1;
        } else if let Some(last) = old.last().filter(|_| kept < old.len()) {
            // The first root that differs contains every old one that is left.
            let mut top = *last;
            while flat_tree::depth(top) < flat_tree::depth(root) {
                let sibling = flat_tree::sibling(top);
                if sibling > top {
                    nodes.push(sibling);
                }
                top = flat_tree::parent(top);
            }
            kept = old.len();
        } else {
            nodes.push(root);
        }
    }
    nodes
}

/// The roots of a core of some length, left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    nodes: Vec<TreeNode>,
}

impl Roots {
    /// Roots that are believed. `None` unless they are those of a core that is no larger than a core may
    /// be.
    pub(crate) fn new(nodes: Vec<TreeNode>) -> Option<Self> {
        let roots = Self { nodes };
        let length = roots.length();
        let indexes = roots.nodes.iter().map(|node| node.index);
        let sound = length <= MAX_CORE_LENGTH && indexes.eq(flat_tree::full_roots(length));
        byte_length(&roots.nodes).filter(|_| sound)?;
        Some(roots)
    }

    /// The roots themselves.
    pub(crate) fn nodes(&self) -> &[TreeNode] {
        &self.nodes
    }

    /// Number of blocks.
    pub(crate) fn length(&self) -> u64 {
        self.nodes.last().map_or(0, |last| flat_tree::blocks(last.index).end)
    }

    /// The hash over them.
    pub(crate) fn tree_hash(&self) -> Hash {
        hash::TREE.of_roots(&self.nodes)
    }

    /// Extends the tree to `to` blocks by the nodes of [`nodes_between`], which `next` returns by index.
    /// Returns every node this adds or creates.
    ///
    /// # Errors
    /// The first error of `next`, or that the tree becomes too large. Then the roots are of no use.
    pub(crate) fn extend(
        &mut self,
        to: u64,
        mut next: impl FnMut(u64) -> Result<TreeNode, BadTree>,
    ) -> Result<Vec<TreeNode>, BadTree> {
        if to > MAX_CORE_LENGTH {
            return Err(BadTree::TooLarge);
        }
        if to < self.length() {
            return Err(BadTree::Length(to));
        }
        let mut created = Vec::new();
        for expected in nodes_between(self.length(), to) {
            let node = next(expected)?;
            if node.index != expected {
                return Err(BadTree::Unexpected { found: node.index, expected });
            }
            self.append(node, &mut created)?;
        }
        byte_length(&self.nodes).ok_or(BadTree::TooLarge)?;
        Ok(created)
    }

    /// Adds the node right of the last root, and makes parents of siblings.
    fn append(&mut self, node: TreeNode, created: &mut Vec<TreeNode>) -> Result<(), BadTree> {
        created.push(node);
        let mut top = node;
        while let Some(last) = self.nodes.pop_if(|last| flat_tree::sibling(last.index) == top.index)
        {
            top = hash::TREE.parent(&last, &top).ok_or(BadTree::TooLarge)?;
            created.push(top);
        }
        self.nodes.push(top);
        Ok(())
    }
}
