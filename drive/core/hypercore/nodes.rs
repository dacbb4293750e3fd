//! Which tree nodes a core believes: those with a proven path to the roots of its head.
//!
//! A node read from disk is hashed upwards with its siblings until a node already believed: at the
//! latest a root of the head. Everything on the way is then believed too, and kept in memory within
//! a bound.
//!
//! A signature of a shorter length is no anchor. The key may have signed two histories, and a node
//! that leads to such a signature and not to the head may be of the other one.

use super::flat_tree;
use super::merkle::TreeNode;
use super::{Core, CoreState};
use crate::error::{Error, Result};

/// The outcome of looking for a node.
pub(super) enum Lookup {
    Known(TreeNode),
    /// Not here.
    Absent,
    /// Was here, but does not lead to the roots. Of a core others write it has been forgotten.
    Damaged(Error),
}

/// The way from a node up to a believed one.
struct Path {
    node: u64,
    /// Siblings bottom-up, those already believed with their content.
    siblings: Vec<(u64, Option<TreeNode>)>,
    anchor: TreeNode,
}

impl CoreState {
    pub(super) fn believed(&mut self, index: u64) -> Option<TreeNode> {
        if let Some(root) = self.roots.iter().find(|root| root.index == index) {
            return Some(*root);
        }
        self.verified.get(&index).copied()
    }

    /// `None` if the node is not part of a core of the head's length. The bits of siblings are not
    /// asked: a crash may have lost them, and the hashes tell what the records are worth.
    fn plan_path(&mut self, node: u64) -> Option<Path> {
        if flat_tree::blocks(node).end > self.head.length {
            return None;
        }
        let mut siblings = Vec::new();
        let mut top = node;
        loop {
            if let Some(anchor) = self.believed(top) {
                return Some(Path { node, siblings, anchor });
            }
            // Every node below the head's length is a root or below one.
            if flat_tree::blocks(top).end > self.head.length {
                return None;
            }
            let sibling = flat_tree::sibling(top);
            siblings.push((sibling, self.believed(sibling)));
            top = flat_tree::parent(top);
        }
    }

    /// Forgets what is not believed along a path that does not verify, so that peers are told
    /// it is missing and send it again.
    fn forget_path(&mut self, path: &Path) {
        let mut top = path.node;
        self.bits.clear_node(top);
        for (sibling, _) in &path.siblings {
            if self.believed(*sibling).is_none() {
                self.bits.clear_node(*sibling);
            }
            top = flat_tree::parent(top);
            if self.believed(top).is_none() {
                self.bits.clear_node(top);
            }
        }
    }

    /// Forgets a node that is beyond the head's length, and all that lie above it.
    fn forget_beyond(&mut self, node: u64) {
        let mut top = node;
        while top < self.bits.tree_capacity() {
            self.bits.clear_node(top);
            let sibling = flat_tree::sibling(top);
            if flat_tree::blocks(sibling).end > self.head.length {
                self.bits.clear_node(sibling);
            }
            top = flat_tree::parent(top);
        }
    }
}

impl Core {
    /// The node at `index`, believed.
    pub(super) fn lookup(&self, index: u64) -> Result<Lookup> {
        let path = {
            let mut state = self.inner.state.lock();
            if let Some(node) = state.believed(index) {
                return Ok(Lookup::Known(node));
            }
            if !state.bits.has_node(index) {
                return Ok(Lookup::Absent);
            }
            state.plan_path(index)
        };
        let nodes = match &path {
            Some(path) => self.verify_path(path)?,
            None => None,
        };
        if let Some(nodes) = nodes {
            let mut state = self.inner.state.lock();
            for node in &nodes {
                state.verified.put(node.index, *node);
            }
            if let Some(node) = nodes.first() {
                return Ok(Lookup::Known(*node));
            }
        }
        let what = format!("node {index} does not lead to the signed roots");
        let error = self.corrupt("tree", index, what);
        if self.forgets_nodes() {
            log::warn!("{error}; forgotten");
            let mut state = self.inner.state.lock();
            match &path {
                Some(path) => state.forget_path(path),
                None => state.forget_beyond(index),
            }
        }
        Ok(Lookup::Damaged(error))
    }

    /// The node at `index`; `None` when it is missing or, on a core others write, damaged.
    pub(super) fn node(&self, index: u64) -> Result<Option<TreeNode>> {
        match self.lookup(index)? {
            Lookup::Known(node) => Ok(Some(node)),
            Lookup::Damaged(error) if !self.forgets_nodes() => Err(error),
            Lookup::Absent | Lookup::Damaged(_) => Ok(None),
        }
    }

    /// Reads and hashes a path; the nodes it proves, the lowest first, or `None`.
    fn verify_path(&self, path: &Path) -> Result<Option<Vec<TreeNode>>> {
        let files = &*self.inner.files;
        let Some(mut top) = files.read_node(path.node)? else {
            return Ok(None);
        };
        let mut nodes = vec![top];
        for (index, believed) in &path.siblings {
            let sibling = match believed {
                Some(node) => Some(*node),
                None => files.read_node(*index)?,
            };
            let Some(sibling) = sibling else {
                return Ok(None);
            };
            let Some(parent) = self.dialect().parent(&top, &sibling) else {
                return Ok(None);
            };
            top = parent;
            nodes.extend([sibling, top]);
        }
        Ok((path.anchor == top).then_some(nodes))
    }
}
