//! For the tests of this room: recorded blocks, and a writer of trees, honest or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Header, MAX_KEYS, Pointer, TreeNode};
use super::blocks::Blocks;
use super::tree::Tree;
use crate::index::trie::testing::core_of;
use crate::index::trie::vectors;

fn recorded(blocks: &serde_json::Value) -> Vec<Bytes> {
    let block = |block: &serde_json::Value| hex::decode(block.as_str().unwrap()).unwrap().into();
    blocks.as_array().unwrap().iter().map(block).collect()
}

/// The blocks of `bee.json`.
pub(super) fn bee_blocks() -> Vec<Bytes> {
    recorded(&vectors::load("modern/bee.json")["blocks"])
}

/// The blocks of the metadata core of `drive.json`.
pub(super) fn drive_blocks() -> Vec<Bytes> {
    recorded(&vectors::load("modern/drive.json")["dbBlocks"])
}

pub(super) fn header() -> Bytes {
    Header { content: None }.encode()
}

/// The newest version of the tree in these blocks.
pub(super) fn tree_of(blocks: &[Bytes]) -> Tree {
    Tree::at(Arc::new(Blocks::new(core_of(blocks))), blocks.len() as u64)
}

/// A tree node: the blocks of its keys, and the block and the level of each child.
pub(super) type Parts<'a> = (&'a [u64], &'a [(u64, usize)]);

/// A block with these tree nodes.
pub(super) fn block(key: &[u8], nodes: &[Parts]) -> Bytes {
    let nodes = nodes.iter().map(|(keys, children)| {
        let children = children.iter().map(|(seq, level)| Pointer { seq: *seq, level: *level });
        Arc::new(TreeNode { keys: keys.to_vec(), children: children.collect() })
    });
    let key = Bytes::copy_from_slice(key);
    Block { key, value: Some(Bytes::from_static(b"v")), nodes: nodes.collect() }.encode()
}

/// Writes as the reference does, but only puts, each alone.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) blocks: Vec<Bytes>,
    decoded: Vec<Block>,
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
    pub(super) fn new(header: Bytes) -> Self {
        let empty = Block { key: Bytes::new(), value: None, nodes: Vec::new() };
        Self { blocks: vec![header], decoded: vec![empty] }
    }

    /// The blocks of these keys, put in the order given.
    pub(super) fn of<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut writer = Self::new(header());
        keys.into_iter().for_each(|key| writer.put(key, b"v"));
        writer
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let seq = self.blocks.len() as u64;
        let root = self.decoded.last().and_then(|block| block.nodes.first()).cloned();
        let key = Bytes::copy_from_slice(key);
        self.decoded.push(Block {
            key: key.clone(),
            value: Some(Bytes::copy_from_slice(value)),
            nodes: Vec::new(),
        });
        let (mut changed, split) = self.insert(&root.unwrap_or_default(), &key, seq);
        if let Some((up, right)) = split {
            let children = vec![Link::Changed(changed), Link::Changed(right)];
            changed = Changed { keys: vec![up], children };
        }
        let mut nodes = Vec::new();
        number(changed, seq, &mut nodes);
        let block = self.decoded.last_mut().unwrap();
        block.nodes = nodes.into_iter().map(Arc::new).collect();
        self.blocks.push(block.encode());
    }

    fn insert(&self, node: &TreeNode, key: &[u8], seq: u64) -> (Changed, Option<(u64, Changed)>) {
        let mut keys = node.keys.clone();
        let mut children: Vec<Link> = node.children.iter().copied().map(Link::Kept).collect();
        let at = keys.partition_point(|seq| self.decoded[*seq as usize].key < key);
        if keys.get(at).is_some_and(|seq| self.decoded[*seq as usize].key == key) {
            keys[at] = seq;
        } else if let Some(child) = node.children.get(at) {
            let child = Arc::clone(&self.decoded[child.seq as usize].nodes[child.level]);
            let (left, split) = self.insert(&child, key, seq);
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
        let up = keys.pop().unwrap();
        let right_children = match children.is_empty() {
            true => Vec::new(),
            false => children.split_off(MAX_KEYS / 2 + 1),
        };
        let right = Changed { keys: right_keys, children: right_children };
        (Changed { keys, children }, Some((up, right)))
    }

    /// The keys and the numbers of their blocks at a version.
    pub(super) fn model(&self, version: usize) -> BTreeMap<Bytes, u64> {
        let keys = self.decoded[..version].iter().enumerate().skip(1);
        keys.map(|(seq, block)| (block.key.clone(), seq as u64)).collect()
    }

    pub(super) fn tree(&self) -> Tree {
        tree_of(&self.blocks)
    }
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
