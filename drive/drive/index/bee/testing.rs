//! For the tests of this room: recorded blocks, and trees, honest or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Header, Pointer, TreeNode};
use super::blocks::Blocks;
use super::tree::Tree;
pub(crate) use super::writer::Writer;
use crate::index::trie::testing::core_of;
use crate::index::trie::vectors;

fn recorded(blocks: &serde_json::Value) -> Vec<Bytes> {
    let block = |block: &serde_json::Value| hex::decode(block.as_str().unwrap()).unwrap().into();
    blocks.as_array().unwrap().iter().map(block).collect()
}

/// The blocks of `bee.json`.
pub(crate) fn bee_blocks() -> Vec<Bytes> {
    recorded(&vectors::load("modern/bee.json")["blocks"])
}

/// `drive.json`.
pub(crate) fn recorded_drive() -> serde_json::Value {
    vectors::load("modern/drive.json")
}

/// The blocks of the metadata core of `drive.json`.
pub(crate) fn drive_blocks() -> Vec<Bytes> {
    recorded(&recorded_drive()["dbBlocks"])
}

pub(crate) fn header() -> Bytes {
    Header { content: None, records: false }.encode()
}

/// The newest version of the tree in these blocks.
pub(crate) fn tree_of(blocks: &[Bytes]) -> Tree {
    Tree::at(Arc::new(Blocks::new(core_of(blocks))), blocks.len() as u64)
}

/// A tree node: the blocks of its keys, and the block and the level of each child.
pub(crate) type Parts<'a> = (&'a [u64], &'a [(u64, usize)]);

/// A block with these tree nodes.
pub(crate) fn block(key: &[u8], nodes: &[Parts]) -> Bytes {
    let nodes = nodes.iter().map(|(keys, children)| {
        let children = children.iter().map(|(seq, level)| Pointer { seq: *seq, level: *level });
        Arc::new(TreeNode { keys: keys.to_vec(), children: children.collect() })
    });
    let key = Bytes::copy_from_slice(key);
    Block { key, value: Some(Bytes::from_static(b"v")), nodes: nodes.collect() }.encode()
}

impl Writer {
    /// The blocks of these keys, put in the order given.
    pub(crate) fn of<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut writer = Self::new(header());
        keys.into_iter().for_each(|key| writer.put(key, b"v"));
        writer
    }

    /// The keys and the numbers of their blocks at a version before which none was removed.
    pub(crate) fn model(&self, version: usize) -> BTreeMap<Bytes, u64> {
        let keys = self.decoded[..version].iter().enumerate().skip(1);
        keys.map(|(seq, block)| (block.key.clone(), seq as u64)).collect()
    }

    pub(crate) fn tree(&self) -> Tree {
        tree_of(&self.blocks)
    }
}
