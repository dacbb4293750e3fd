//! The blocks of a Hyperbee: its header, and one block per change, with a key, a value, and the tree nodes
//! that the change rewrote.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, decode_varint, encode_varint, skip_field};

use crate::index::core_blocks::detached;
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::PublicKey;

/// `protocol` of the header.
const PROTOCOL: &str = "hyperbee";
/// User data of the header of an index that may have records.
const RECORDS: &[u8] = b"hypermount 1";
/// Bytes of the key in the header; more are ignored.
const CONTENT_KEY_BYTES: usize = 32;

/// Most keys of a tree node: it splits when a ninth arrives.
pub(super) const MAX_KEYS: usize = 8;
/// Most tree nodes in one block. A change rewrites some for each level of the tree; only a batch that puts
/// all its nodes in its last block has more.
pub(super) const MAX_TREE_NODES: usize = 4096;
/// Longest key, in bytes. A walk holds two for each level of the tree. A filesystem holds shorter paths.
pub(super) const MAX_KEY_BYTES: usize = 64 * 1024;

/// What block 0 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The core that holds file bytes, if it cannot be derived from the manifest of this one.
    pub(crate) content: Option<PublicKey>,
    /// Whether the index may have records (`records.rs`).
    pub(crate) records: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMessage {
    #[prost(string, required, tag = "1")]
    protocol: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<MetadataMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    content_feed: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    user_data: Option<Vec<u8>>,
}

impl Header {
    /// Reads block 0.
    ///
    /// # Errors
    /// `Malformed` for a block that begins no Hyperbee.
    pub(crate) fn decode(block: &[u8]) -> Result<Self> {
        let header = HeaderMessage::decode(block).ok();
        let header = header.filter(|header| header.protocol == PROTOCOL);
        let header = header
            .ok_or_else(|| Error::Malformed("its first block is not a Hyperbee header".into()))?;
        let metadata = header.metadata.unwrap_or_default();
        let records = metadata.user_data.as_deref() == Some(RECORDS);
        let content = metadata.content_feed;
        let content = content.as_deref().and_then(|bytes| bytes.get(..CONTENT_KEY_BYTES));
        Ok(Self { content: content.and_then(PublicKey::from_slice), records })
    }

    /// Block 0 of a drive.
    pub(crate) fn encode(&self) -> Bytes {
        let content_feed = self.content.map(|key| key.as_bytes().to_vec());
        let user_data = self.records.then(|| RECORDS.to_vec());
        let metadata = Some(MetadataMessage { content_feed, user_data });
        HeaderMessage { protocol: PROTOCOL.into(), metadata }.encode_to_vec().into()
    }
}

/// Where a tree node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pointer {
    /// Number of the block.
    pub(crate) seq: u64,
    /// Position among the tree nodes of the block (a level of the format).
    pub(crate) level: usize,
}

/// A node of the B-tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeNode {
    /// The blocks with the keys, in the order of the keys.
    pub(crate) keys: Vec<u64>,
    /// One more than keys, or none in a leaf.
    pub(crate) children: Vec<Pointer>,
}

/// One change: a key, its value, and the tree nodes that were rewritten for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) key: Bytes,
    /// `None` in a block that records a deletion.
    pub(crate) value: Option<Bytes>,
    /// The first is the root, except inside a batch.
    pub(crate) nodes: Vec<Arc<TreeNode>>,
}

#[derive(Clone, PartialEq, Message)]
struct BlockMessage {
    #[prost(bytes = "bytes", optional, tag = "1")]
    index: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    value: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct IndexMessage {
    #[prost(message, repeated, tag = "1")]
    levels: Vec<LevelMessage>,
}

/// Both fields are packed numbers, left packed until they are counted.
#[derive(Clone, PartialEq, Message)]
struct LevelMessage {
    #[prost(bytes = "bytes", optional, tag = "1")]
    keys: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    children: Option<Bytes>,
}

impl Block {
    /// Reads a block after the first.
    ///
    /// # Errors
    /// `Malformed` for a block that is none of a Hyperbee, exceeds a limit above, or points to a block
    /// that is newer.
    pub(crate) fn decode(block: Bytes, seq: u64) -> Result<Self> {
        let bad = |what: &str| Error::Malformed(format!("index block {seq}: {what}"));
        let length = block.len();
        let message = BlockMessage::decode(block).map_err(|_| bad("not a Hyperbee node"))?;
        let key = message.key.ok_or_else(|| bad("a node without a key"))?;
        if key.len() > MAX_KEY_BYTES {
            return Err(bad(&format!("a key of {} bytes", key.len())));
        }
        let nodes =
            decode_nodes(message.index.unwrap_or_default(), seq).map_err(|what| bad(&what))?;
        let value = message.value.map(|value| detached(value, length));
        Ok(Self { key: detached(key, length), value, nodes })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let levels = self.nodes.iter().map(|node| LevelMessage {
            keys: Some(packed(node.keys.iter().copied())).filter(|keys| !keys.is_empty()),
            children: Some(packed(
                node.children.iter().flat_map(|child| [child.seq, child.level as u64]),
            ))
            .filter(|children| !children.is_empty()),
        });
        let index = IndexMessage { levels: levels.collect() }.encode_to_vec();
        let (key, value) = (Some(self.key.clone()), self.value.clone());
        BlockMessage { index: Some(index.into()), key, value }.encode_to_vec().into()
    }

    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let node = |node: &Arc<TreeNode>| {
            size_of::<TreeNode>()
                + 8 * node.keys.capacity()
                + size_of::<Pointer>() * node.children.capacity()
        };
        size_of::<Self>()
            + self.key.len()
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.nodes.iter().map(node).sum::<usize>()
    }
}

fn decode_nodes(index: Bytes, seq: u64) -> Result<Vec<Arc<TreeNode>>, String> {
    // Counted before they are decoded: an empty one takes 2 bytes here and 72 in memory.
    let (mut rest, mut count) = (index.clone(), 0);
    while rest.has_remaining() {
        let field = decode_key(&mut rest).and_then(|(field, wire)| {
            skip_field(wire, field, &mut rest, DecodeContext::default()).map(|()| field)
        });
        count += usize::from(field.map_err(|error| error.to_string())? == 1);
        if count > MAX_TREE_NODES {
            return Err(format!("more than {MAX_TREE_NODES} tree nodes"));
        }
    }
    let IndexMessage { levels } = IndexMessage::decode(index).map_err(|error| error.to_string())?;
    let count = levels.len();
    let nodes = levels.into_iter().enumerate().map(|(level, message)| {
        let node = TreeNode::decode(message)?;
        node.check(Pointer { seq, level }, count)?;
        Ok(Arc::new(node))
    });
    nodes.collect()
}

impl TreeNode {
    fn decode(message: LevelMessage) -> Result<Self, String> {
        let keys = unpacked(message.keys, MAX_KEYS)?;
        let numbers = unpacked(message.children, 2 * (MAX_KEYS + 1))?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a child without a level".into());
        }
        let children = pairs.iter().map(|[seq, level]| {
            let level = usize::try_from(*level).unwrap_or(usize::MAX);
            Pointer { seq: *seq, level }
        });
        Ok(Self { keys, children: children.collect() })
    }

    /// Checks what can be checked without another block. `count` is the number of nodes in this block.
    fn check(&self, own: Pointer, count: usize) -> Result<(), String> {
        let exists = |seq: u64| (1..=own.seq).contains(&seq);
        if let Some(seq) = self.keys.iter().find(|seq| !exists(**seq)) {
            return Err(format!("a key in block {seq}"));
        }
        if self.children.is_empty() {
            return Ok(());
        }
        let (keys, children) = (self.keys.len(), self.children.len());
        if keys == 0 || children != keys + 1 {
            return Err(format!("a tree node of {keys} keys and {children} children"));
        }
        let sensible = |child: &Pointer| {
            exists(child.seq)
                && child.level < MAX_TREE_NODES
                && (child.seq < own.seq || (child.level < count && *child != own))
        };
        match self.children.iter().find(|child| !sensible(child)) {
            Some(child) => Err(format!("a child in block {}, level {}", child.seq, child.level)),
            None => Ok(()),
        }
    }
}

/// At most `most` packed numbers.
fn unpacked(packed: Option<Bytes>, most: usize) -> Result<Vec<u64>, String> {
    let mut packed = packed.unwrap_or_default();
    let mut numbers = Vec::new();
    while packed.has_remaining() {
        if numbers.len() == most {
            return Err(format!("more than {most} numbers in a tree node"));
        }
        numbers.push(decode_varint(&mut packed).map_err(|error| error.to_string())?);
    }
    Ok(numbers)
}

fn packed(numbers: impl Iterator<Item = u64>) -> Bytes {
    let mut packed = Vec::new();
    numbers.for_each(|number| encode_varint(number, &mut packed));
    packed.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::bee::testing;

    #[test]
    fn every_recorded_block_decodes_and_encodes_to_the_same_bytes() {
        for blocks in [testing::bee_blocks(), testing::drive_blocks()] {
            assert!(blocks.len() > 20);
            for (seq, block) in blocks.into_iter().enumerate().skip(1) {
                let decoded = Block::decode(block.clone(), seq as u64).unwrap();
                assert_eq!(decoded.encode(), block, "block {seq}");
            }
        }
    }

    #[test]
    fn headers_are_the_references() {
        let named = testing::bee_blocks().swap_remove(0);
        let header = Header { content: Some(PublicKey::new([0xcf; 32])), records: false };
        assert_eq!(Header::decode(&named).unwrap(), header);
        assert_eq!(header.encode(), named);
        let plain = testing::drive_blocks().swap_remove(0);
        let header = Header { content: None, records: false };
        assert_eq!(Header::decode(&plain).unwrap(), header);
        assert_eq!(header.encode(), plain);
        let ours = Header { content: None, records: true };
        assert_eq!(Header::decode(&ours.encode()).unwrap(), ours);
    }

    #[test]
    fn only_the_first_32_bytes_of_a_content_key_count() {
        let header = |length| {
            let content_feed = Some(vec![7; length]);
            let metadata = Some(MetadataMessage { content_feed, user_data: None });
            let header = HeaderMessage { protocol: PROTOCOL.into(), metadata };
            Header::decode(&header.encode_to_vec()).unwrap().content
        };
        assert_eq!(header(31), None);
        assert_eq!(header(32), Some(PublicKey::new([7; 32])));
        assert_eq!(header(33), Some(PublicKey::new([7; 32])));
    }

    #[test]
    fn other_headers_are_malformed() {
        let protocol = |protocol: &str| {
            HeaderMessage { protocol: protocol.into(), metadata: None }.encode_to_vec()
        };
        assert!(Header::decode(&protocol("hyperbee")).is_ok());
        for block in [protocol("hypertrie"), protocol(""), Vec::new(), vec![0xff; 9]] {
            assert!(matches!(Header::decode(&block), Err(Error::Malformed(_))), "{block:?}");
        }
    }

    /// Block 5 with one tree node of these numbers, packed.
    fn node(keys: &[u64], children: &[u64]) -> Result<Block> {
        nodes(&[(keys, children)])
    }

    fn nodes(nodes: &[(&[u64], &[u64])]) -> Result<Block> {
        let levels = nodes.iter().map(|(keys, children)| LevelMessage {
            keys: Some(packed(keys.iter().copied())),
            children: Some(packed(children.iter().copied())),
        });
        let index = IndexMessage { levels: levels.collect() }.encode_to_vec();
        let key = Some(Bytes::from_static(b"key"));
        let block = BlockMessage { index: Some(index.into()), key, value: None };
        Block::decode(block.encode_to_vec().into(), 5)
    }

    #[test]
    fn a_tree_node_has_at_most_eight_keys_and_a_child_more_than_keys() {
        let eight = [1; 8];
        let nine_children = [2, 0].repeat(9);
        assert!(node(&eight, &[]).is_ok());
        assert!(node(&eight, &nine_children).is_ok());
        assert!(node(&[], &[]).is_ok());
        for (keys, children) in [
            (&[1; 9][..], &[][..]),
            (&eight, &[2, 0].repeat(10)),
            (&eight, &nine_children[2..]),
            (&eight, &nine_children[1..]),
            (&[1], &[2, 0]),
            (&[], &[2, 0]),
            (&[1], &[2, 0, 3]),
        ] {
            let refused = node(keys, children);
            assert!(matches!(refused, Err(Error::Malformed(_))), "{keys:?} {children:?}");
        }
    }

    #[test]
    fn a_tree_node_points_to_no_newer_block_and_not_to_itself() {
        assert!(node(&[1, 5], &[]).is_ok());
        for keys in [[0], [6], [u64::MAX]] {
            assert!(node(&keys, &[]).is_err(), "{keys:?}");
        }
        assert!(node(&[1], &[4, 4095, 2, 0]).is_ok());
        for children in [[4, 4096], [0, 0], [6, 0], [u64::MAX, 0], [4, u64::MAX], [5, 0], [5, 1]] {
            let children = [&children[..], &[2, 0]].concat();
            assert!(node(&[1], &children).is_err(), "{children:?}");
        }
        assert!(nodes(&[(&[1], &[5, 1, 2, 0]), (&[1], &[])]).is_ok());
    }

    #[test]
    fn tree_nodes_are_counted_before_they_are_decoded() {
        let empty: (&[u64], &[u64]) = (&[], &[]);
        assert_eq!(nodes(&[empty; MAX_TREE_NODES]).unwrap().nodes.len(), MAX_TREE_NODES);
        assert!(nodes(&[empty; MAX_TREE_NODES + 1]).is_err());
    }

    #[test]
    fn a_key_has_a_limit_and_must_be_there() {
        let key = |key: Option<usize>| {
            let key = key.map(|length| vec![1; length].into());
            let block = BlockMessage { index: None, key, value: None };
            Block::decode(block.encode_to_vec().into(), 5)
        };
        assert!(key(Some(MAX_KEY_BYTES)).is_ok());
        for refused in [Some(MAX_KEY_BYTES + 1), None] {
            assert!(matches!(key(refused), Err(Error::Malformed(_))));
        }
    }

    #[test]
    fn a_key_does_not_keep_the_bytes_of_a_large_value() {
        let value = Some(vec![1; 1 << 20].into());
        let block = BlockMessage { index: None, key: Some("k".into()), value }.encode_to_vec();
        let block = Bytes::from(block);
        let decoded = Block::decode(block.clone(), 5).unwrap();
        assert!(!block.as_ptr_range().contains(&decoded.key.as_ptr()));
        assert!(decoded.weight() > 1 << 20);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_block_or_malformed(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            match Block::decode(bytes.into(), 5) {
                Ok(block) => prop_assert_eq!(Block::decode(block.encode(), 5).unwrap(), block),
                Err(error) => prop_assert!(matches!(error, Error::Malformed(_))),
            }
        }

        #[test]
        fn an_arbitrary_index_is_taken_or_malformed(
            index in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let key = Some(Bytes::from_static(b"key"));
            let block = BlockMessage { index: Some(index.into()), key, value: None };
            match Block::decode(block.encode_to_vec().into(), 5) {
                Ok(block) => prop_assert_eq!(Block::decode(block.encode(), 5).unwrap(), block),
                Err(error) => prop_assert!(matches!(error, Error::Malformed(_))),
            }
        }

        #[test]
        fn arbitrary_bytes_are_a_header_or_malformed(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
            }
        }
    }
}
