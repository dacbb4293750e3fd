//! Writes a tree for tests: puts as the reference does, each in a block of its own.
//!
//! Not here: batches that write their tree nodes once, and a removal that changes only a part of the tree. A
//! removal here writes all tree nodes again.

use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, MAX_KEYS, Pointer, TreeNode};

/// The blocks of an index that grows.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) blocks: Vec<Bytes>,
    pub(super) decoded: Vec<Block>,
}

/// A tree node that is rewritten.
struct Changed {
    keys: Vec<u64>,
    children: Vec<Link>,
}

enum Link {
    Kept(Pointer),
    Changed(Changed),
}

impl Writer {
    pub(crate) fn new(header: Bytes) -> Self {
        let empty = Block { key: Bytes::new(), value: None, nodes: Vec::new() };
        Self { blocks: vec![header], decoded: vec![empty] }
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let seq = self.blocks.len() as u64;
        let root = self.root();
        let key = Bytes::copy_from_slice(key);
        let value = Some(Bytes::copy_from_slice(value));
        // The search for its place compares it with the others.
        self.decoded.push(Block { key: key.clone(), value, nodes: Vec::new() });
        let (mut changed, split) = self.insert(&root, &key, seq);
        if let Some((up, right)) = split {
            let children = vec![Link::Changed(changed), Link::Changed(right)];
            changed = Changed { keys: vec![up], children };
        }
        self.finish(changed);
    }

    /// Removes a key. Whether it was there; if not, nothing is written.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let mut keys = Vec::new();
        self.collect(&self.root(), &mut keys);
        let before = keys.len();
        keys.retain(|seq| self.decoded[*seq as usize].key != key);
        if keys.len() == before {
            return false;
        }
        let key = Bytes::copy_from_slice(key);
        self.decoded.push(Block { key, value: None, nodes: Vec::new() });
        self.finish(balanced(&keys));
        true
    }

    fn root(&self) -> Arc<TreeNode> {
        let root = self.decoded.last().and_then(|block| block.nodes.first()).cloned();
        root.unwrap_or_default()
    }

    fn child(&self, pointer: &Pointer) -> Arc<TreeNode> {
        Arc::clone(&self.decoded[pointer.seq as usize].nodes[pointer.level])
    }

    /// Adds the blocks of all keys below a tree node, in the order of the keys.
    fn collect(&self, node: &TreeNode, keys: &mut Vec<u64>) {
        for (at, key) in node.keys.iter().enumerate() {
            if let Some(child) = node.children.get(at) {
                self.collect(&self.child(child), keys);
            }
            keys.push(*key);
        }
        if let Some(last) = node.children.last() {
            self.collect(&self.child(last), keys);
        }
    }

    /// Gives the last block its tree nodes, and encodes it.
    fn finish(&mut self, root: Changed) {
        let mut nodes = Vec::new();
        number(root, self.blocks.len() as u64, &mut nodes);
        if let Some(block) = self.decoded.last_mut() {
            block.nodes = nodes.into_iter().map(Arc::new).collect();
            self.blocks.push(block.encode());
        }
    }

    fn insert(&self, node: &TreeNode, key: &[u8], seq: u64) -> (Changed, Option<(u64, Changed)>) {
        let mut keys = node.keys.clone();
        let mut children: Vec<Link> = node.children.iter().copied().map(Link::Kept).collect();
        let at = keys.partition_point(|seq| self.decoded[*seq as usize].key < key);
        if keys.get(at).is_some_and(|seq| self.decoded[*seq as usize].key == key) {
            keys[at] = seq;
        } else if let Some(child) = node.children.get(at) {
            let (left, split) = self.insert(&self.child(child), key, seq);
            children[at] = Link::Changed(left);
            if let Some((up, right)) = split {
                keys.insert(at, up);
                children.insert(at + 1, Link::Changed(right));
            }
        } else {
            keys.insert(at, seq);
        }
        if keys.len() <= MAX_KEYS {
            return (Changed { keys, children }, None);
        }
        let right_keys = keys.split_off(MAX_KEYS / 2 + 1);
        let up = keys[MAX_KEYS / 2];
        keys.truncate(MAX_KEYS / 2);
        let right_children = match children.is_empty() {
            true => Vec::new(),
            false => children.split_off(MAX_KEYS / 2 + 1),
        };
        let right = Changed { keys: right_keys, children: right_children };
        (Changed { keys, children }, Some((up, right)))
    }
}

/// A tree of these keys, all of whose nodes are new.
fn balanced(keys: &[u64]) -> Changed {
    if keys.len() <= MAX_KEYS {
        return Changed { keys: keys.to_vec(), children: Vec::new() };
    }
    let count = (MAX_KEYS + 1).min(keys.len().div_ceil(2));
    let mut node = Changed { keys: Vec::new(), children: Vec::new() };
    let mut rest = keys;
    for left in (1..=count).rev() {
        let (below, after) = rest.split_at((rest.len() + 1 - left) / left);
        node.children.push(Link::Changed(balanced(below)));
        let Some((key, after)) = after.split_first() else { break };
        node.keys.push(*key);
        rest = after;
    }
    node
}

/// Numbers tree nodes: the root first, then depth first.
fn number(changed: Changed, seq: u64, nodes: &mut Vec<TreeNode>) -> Pointer {
    let level = nodes.len();
    nodes.push(TreeNode { keys: changed.keys, children: Vec::new() });
    for link in changed.children {
        let pointer = match link {
            Link::Kept(pointer) => pointer,
            Link::Changed(child) => number(child, seq, nodes),
        };
        nodes[level].children.push(pointer);
    }
    Pointer { seq, level }
}
