//! Which tree nodes a core believes: those with a proven path to signed roots.
//!
//! A node read from disk is hashed upwards with its siblings until a node already believed, or
//! until the roots of a length whose stored signature verifies. Everything on the way is then
//! believed too, and kept in memory within a bound.

use super::flat_tree;
use super::merkle::{self, Node};
use super::{Core, State};
use crate::error::{Error, Result};

/// The outcome of looking for a node.
pub(super) enum Lookup {
    Known(Node),
    /// Not here.
    Absent,
    /// Was here, but does not verify. Of a core others write it has been forgotten.
    Damaged(Error),
}

/// The way from a node upwards, planned from bits alone.
struct Path {
    node: u64,
    /// Siblings bottom-up, those already believed with their content.
    siblings: Vec<(u64, Option<Node>)>,
    anchor: Anchor,
}

enum Anchor {
    Believed(Node),
    /// The roots of this length, with the signature stored for it.
    Signed(u64),
}

impl State {
    pub(super) fn believed(&mut self, index: u64) -> Option<Node> {
        if let Some(root) = self.roots.iter().find(|root| root.index == index) {
            return Some(*root);
        }
        self.verified.get(&index).copied()
    }

    fn plan_path(&mut self, node: u64) -> Path {
        let mut siblings = Vec::new();
        let mut top = node;
        loop {
            if let Some(believed) = self.believed(top) {
                return Path { node, siblings, anchor: Anchor::Believed(believed) };
            }
            let sibling = flat_tree::sibling(top);
            if !self.bits.has_node(sibling) {
                let bits = &self.bits;
                let length = merkle::verified_by(top, &|node| bits.has_node(node)) / 2;
                return Path { node, siblings, anchor: Anchor::Signed(length) };
            }
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
        if let Some(nodes) = self.verify_path(&path)? {
            let mut state = self.inner.state.lock();
            for node in &nodes {
                state.verified.put(node.index, *node);
            }
            if let Some(node) = nodes.first() {
                return Ok(Lookup::Known(*node));
            }
        }
        let error = self.corrupt("tree", index, format!("node {index} does not verify"));
        if !self.owned() {
            log::warn!("{error}; forgotten");
            self.inner.state.lock().forget_path(&path);
        }
        Ok(Lookup::Damaged(error))
    }

    /// The node at `index`; `None` when it is missing or, on a core others write, damaged.
    pub(super) fn node(&self, index: u64) -> Result<Option<Node>> {
        match self.lookup(index)? {
            Lookup::Known(node) => Ok(Some(node)),
            Lookup::Damaged(error) if self.owned() => Err(error),
            Lookup::Absent | Lookup::Damaged(_) => Ok(None),
        }
    }

    /// Reads and hashes a path; the nodes it proves, the lowest first, or `None`.
    fn verify_path(&self, path: &Path) -> Result<Option<Vec<Node>>> {
        let files = &self.inner.files;
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
            let Some(parent) = Node::parent(&top, &sibling) else {
                return Ok(None);
            };
            top = parent;
            nodes.extend([sibling, top]);
        }
        match &path.anchor {
            Anchor::Believed(node) => Ok((*node == top).then_some(nodes)),
            Anchor::Signed(length) => {
                let Some(signature) = files.read_signature(*length)? else {
                    return Ok(None);
                };
                let mut roots = Vec::new();
                for index in flat_tree::full_roots(*length) {
                    let root =
                        if index == top.index { Some(top) } else { files.read_node(index)? };
                    let Some(root) = root else {
                        return Ok(None);
                    };
                    roots.push(root);
                }
                if !roots.contains(&top)
                    || !merkle::signed_by(&self.inner.key, &roots, *length, &signature)
                {
                    return Ok(None);
                }
                nodes.extend(roots);
                Ok(Some(nodes))
            }
        }
    }
}
