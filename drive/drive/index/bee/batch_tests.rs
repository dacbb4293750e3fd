//! A batch against the recorded blocks of the reference, and against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::batch::Batch;
use super::block::{MAX_KEYS, Pointer};
use super::blocks::Blocks;
use super::testing::{bee_blocks, header};
use super::tree::Tree;
use crate::index::trie::testing::core_of;
use crate::index::trie::vectors;
use hypermount_core::Wait;

/// An index that grows.
struct Written {
    blocks: Arc<Blocks>,
}

impl Written {
    fn new(header: Bytes) -> Self {
        Self { blocks: Arc::new(Blocks::new(core_of(&[header]))) }
    }

    fn tree(&self) -> Tree {
        Tree::at(Arc::clone(&self.blocks), self.blocks.core().head().length)
    }

    /// Applies puts (with a value) and removals as one batch; how many blocks that made.
    async fn apply(&self, changes: &[(Bytes, Option<Bytes>)]) -> usize {
        let mut batch = Batch::new(&self.tree()).await.unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key.clone(), value.clone()).await.unwrap(),
                None => drop(batch.remove(key).await.unwrap()),
            }
        }
        let blocks = batch.encode();
        if !blocks.is_empty() {
            self.blocks.core().append(&blocks).unwrap();
        }
        blocks.len()
    }

    /// All keys and values; every node but the root has enough keys, and all leaves are at one depth.
    async fn read(&self) -> BTreeMap<Bytes, Bytes> {
        let mut found = BTreeMap::new();
        let mut cursor = self.tree().cursor(Wait::Local).await.unwrap();
        while let Some(next) = cursor.next().await.unwrap() {
            found.insert(next.block.key.clone(), next.block.value.clone().unwrap());
        }
        let newest = self.tree().version() - 1;
        if newest > 0 {
            let mut depths = Vec::new();
            let mut open = vec![(Pointer { seq: newest, level: 0 }, 0)];
            while let Some((pointer, depth)) = open.pop() {
                let block = self.blocks.get(pointer.seq, Wait::Local).await.unwrap();
                let node = &block.nodes[pointer.level];
                assert!(node.keys.len() <= MAX_KEYS);
                assert!(depth == 0 || node.keys.len() >= MAX_KEYS / 2, "{pointer:?}");
                if node.children.is_empty() {
                    depths.push(depth);
                }
                open.extend(node.children.iter().map(|child| (*child, depth + 1)));
            }
            depths.dedup();
            assert_eq!(depths.len(), 1);
        }
        found
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn the_recorded_changes_make_the_blocks_of_the_reference() {
    let vectors = vectors::load("modern/bee.json");
    let blocks = bee_blocks();
    let written = Written::new(blocks[0].clone());
    let operations = vectors["ops"].as_array().unwrap();
    let is_of_batch = |operation: &serde_json::Value| operation["op"] == "batch put";
    for run in operations.chunk_by(|one, next| is_of_batch(one) && is_of_batch(next)) {
        let part = |operation: &serde_json::Value, name: &str| operation[name].as_str().map(bytes);
        let change = |operation| (part(operation, "key").unwrap(), part(operation, "value"));
        written.apply(&run.iter().map(change).collect::<Vec<_>>()).await;
    }
    let core = written.blocks.core();
    assert_eq!(core.head().length, blocks.len() as u64);
    for (seq, block) in blocks.iter().enumerate() {
        assert_eq!(core.get_local(seq as u64).unwrap().as_ref(), Some(block), "block {seq}");
    }
}

fn changes() -> impl Strategy<Value = Vec<Vec<(Bytes, Option<Bytes>)>>> {
    let key = (0..90u32).prop_map(|key| bytes(&format!("k{:03}", key * key % 997)));
    let value =
        prop::option::weighted(0.55, (0..1000u32).prop_map(|value| bytes(&value.to_string())));
    prop::collection::vec(prop::collection::vec((key, value), 1..40), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_version_has_what_a_map_has(batches in changes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (written, mut model) = (Written::new(header()), BTreeMap::new());
            for batch in batches {
                let mut blocks = 0;
                for (key, value) in &batch {
                    blocks += usize::from(match value {
                        Some(value) => {
                            model.insert(key.clone(), value.clone());
                            true
                        }
                        None => model.remove(key).is_some(),
                    });
                }
                assert_eq!(written.apply(&batch).await, blocks);
                assert_eq!(written.read().await, model);
            }
        });
    }

    /// One key after the other, so that each version is read.
    #[test]
    fn single_changes_do_too(changes in prop::collection::vec((0..60u8, any::<bool>()), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (written, mut model) = (Written::new(header()), BTreeMap::new());
            for (key, put) in changes {
                let key = Bytes::from(vec![key]);
                let value = put.then(|| bytes("v"));
                match &value {
                    Some(value) => drop(model.insert(key.clone(), value.clone())),
                    None => drop(model.remove(&key)),
                }
                written.apply(&[(key, value)]).await;
                assert_eq!(written.read().await, model);
            }
        });
    }
}

#[tokio::test]
async fn a_batch_sees_its_own_changes() {
    let written = Written::new(header());
    let mut batch = Batch::new(&written.tree()).await.unwrap();
    for at in 0..100u8 {
        batch.put(Bytes::from(vec![at]), Bytes::from(vec![at; 2])).await.unwrap();
    }
    assert!(batch.remove(&[7]).await.unwrap());
    assert!(!batch.remove(&[7]).await.unwrap());
    let blocks = batch.encode();
    assert_eq!(blocks.len(), 101);
    // No block has more tree nodes than one change rewrites.
    assert!(blocks.iter().all(|block| block.len() < 300));
}
