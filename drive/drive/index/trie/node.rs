//! The blocks of a metadata core: its header and its nodes (hypertrie5.md §1).

use bytes::Bytes;
use prost::Message;

use super::buckets::Buckets;
use super::key::TrieKey;
use crate::index::core_blocks::detached;
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::PublicKey;

/// `type` of a hypertrie's header.
const HEADER_TYPE: &str = "hypertrie";
/// `protocol` of the modern index's header, in the same field.
const MODERN_HEADER_TYPE: &str = "hyperbee";
/// `subtype` of a drive's header.
const DRIVE_SUBTYPE: &str = "hyperdrive";

/// Flag of a key that no listing of visible keys meets.
const HIDDEN: u64 = 1;
/// The users of a trie have their own flags, above the trie's eight.
const USER_FLAGS_SHIFT: u32 = 8;
/// User flag: another trie begins here.
pub const MOUNT: u64 = 1;

/// What block 0 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The core that holds file bytes, if the trie is a drive's.
    pub(crate) content: Option<PublicKey>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMessage {
    #[prost(string, required, tag = "1")]
    kind: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    metadata: Option<Vec<u8>>,
    #[prost(string, optional, tag = "3")]
    subtype: Option<String>,
}

impl Header {
    /// Reads block 0. A trie whose subtype is not a drive's is refused; one without any is taken.
    pub(crate) fn decode(block: &[u8]) -> Result<Self> {
        let header = HeaderMessage::decode(block)
            .map_err(|_| Error::Malformed("its first block is not an index header".into()))?;
        match header.kind.as_str() {
            HEADER_TYPE => {}
            MODERN_HEADER_TYPE => {
                return Err(Error::Unsupported("drives of the modern format (Hyperbee)".into()));
            }
            _ => return Err(Error::Malformed("its first block is not an index header".into())),
        }
        if header.subtype.as_deref().is_some_and(|subtype| subtype != DRIVE_SUBTYPE) {
            return Err(Error::Unsupported("an index that is not a drive's".into()));
        }
        let content = match header.metadata.as_deref() {
            None | Some([]) => None,
            Some(key) => Some(PublicKey::from_slice(key).ok_or_else(|| {
                Error::Malformed(format!("a content key of {} bytes", key.len()))
            })?),
        };
        Ok(Self { content })
    }

    /// Block 0 of a drive.
    pub(crate) fn encode(&self) -> Bytes {
        let header = HeaderMessage {
            kind: HEADER_TYPE.into(),
            metadata: self.content.map(|key| key.as_bytes().to_vec()),
            subtype: Some(DRIVE_SUBTYPE.into()),
        };
        header.encode_to_vec().into()
    }
}

/// One key with its value, as written by one put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrieNode {
    /// The block it is in. The copy inside the block is not believed.
    pub(crate) seq: u64,
    pub(crate) key: TrieKey,
    pub(crate) value: Option<Bytes>,
    /// User flags, [`MOUNT`] being the only one in use.
    pub(crate) flags: u64,
    pub(crate) buckets: Buckets,
}

#[derive(Clone, PartialEq, Message)]
struct NodeMessage {
    /// Bytes, not a string: what is not UTF-8 is read as the reference reads it.
    #[prost(bytes = "vec", optional, tag = "1")]
    key: Option<Vec<u8>>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
    #[prost(bytes = "vec", optional, tag = "3")]
    buckets: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "4")]
    seq: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    flags: Option<u64>,
}

impl TrieNode {
    pub(crate) fn decode(block: Bytes, seq: u64) -> Result<Self> {
        let bad = |what: &str| Error::Malformed(format!("index block {seq}: {what}"));
        let length = block.len();
        let message = NodeMessage::decode(block).map_err(|_| bad("not a node"))?;
        let key = message.key.ok_or_else(|| bad("a node without a key"))?;
        let flags = message.flags.unwrap_or(0);
        let key = TrieKey::new(&String::from_utf8_lossy(&key), flags & HIDDEN != 0)?;
        let encoded = message.buckets.unwrap_or_default();
        let buckets = Buckets::decode(&encoded, seq, key.length())?;
        let value = message.value.map(|value| detached(value, length));
        Ok(Self { seq, key, value, flags: flags >> USER_FLAGS_SHIFT, buckets })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let hidden = if self.key.hidden() { HIDDEN } else { 0 };
        let message = NodeMessage {
            key: Some(self.key.text().as_bytes().to_vec()),
            value: self.value.clone(),
            buckets: Some(self.buckets.encode()),
            seq: Some(self.seq),
            flags: Some(self.flags << USER_FLAGS_SHIFT | hidden),
        };
        message.encode_to_vec().into()
    }

    /// Whether this node only says that the trie is empty again: it is left by a delete of the
    /// last key.
    pub(crate) fn is_reset(&self) -> bool {
        self.key.text().is_empty() && self.value.is_none()
    }

    pub(crate) fn is_mount(&self) -> bool {
        self.flags == MOUNT
    }

    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let value = self.value.as_ref().map_or(0, Bytes::len);
        size_of::<Self>()
            + 2 * self.key.text().len()
            + value
            + Buckets::POINTER_BYTES * self.buckets.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::trie::vectors;

    #[test]
    fn every_recorded_node_decodes_and_encodes_to_the_same_bytes() {
        let mut blocks: Vec<(u64, Bytes)> = Vec::new();
        for scenario in vectors::trie()["scenarios"].as_object().unwrap().values() {
            blocks.extend(vectors::blocks(&scenario["nodes"]));
        }
        blocks.extend(vectors::blocks(&vectors::drive_small()["metadataBlocks"]));
        assert!(blocks.len() > 80);
        for (seq, block) in blocks.into_iter().filter(|(seq, _)| *seq > 0) {
            let node = TrieNode::decode(block.clone(), seq).unwrap();
            assert_eq!(node.encode(), block, "block {seq}");
        }
    }

    #[test]
    fn headers_are_the_references() {
        let plain = &vectors::messages()["trieHeader"][0]["encoded"];
        let plain = hex::decode(plain.as_str().unwrap()).unwrap();
        assert_eq!(Header::decode(&plain).unwrap(), Header { content: None });
        let drive = &vectors::messages()["trieHeader"][1]["encoded"];
        let drive = hex::decode(drive.as_str().unwrap()).unwrap();
        let header = Header { content: Some(PublicKey::new([7; 32])) };
        assert_eq!(Header::decode(&drive).unwrap(), header);
        assert_eq!(header.encode(), drive);
    }

    #[test]
    fn other_headers_are_refused_with_a_reason() {
        let header = |kind: &str, metadata: Option<Vec<u8>>, subtype: Option<&str>| {
            let subtype = subtype.map(str::to_owned);
            Header::decode(&HeaderMessage { kind: kind.into(), metadata, subtype }.encode_to_vec())
        };
        assert!(matches!(header("hyperbee", None, None), Err(Error::Unsupported(_))));
        assert!(matches!(header("hypertrie", None, Some("other")), Err(Error::Unsupported(_))));
        assert!(matches!(header("nothing", None, None), Err(Error::Malformed(_))));
        assert!(matches!(header("hypertrie", Some(vec![1; 5]), None), Err(Error::Malformed(_))));
        assert!(matches!(Header::decode(&[0xff; 9]), Err(Error::Malformed(_))));
    }

    #[test]
    fn an_empty_or_foreign_block_is_not_a_reset() {
        for block in [&[][..], &[0x0a], &[0xff; 40], b"\x12\x01v"] {
            let decoded = TrieNode::decode(Bytes::copy_from_slice(block), 3);
            assert!(matches!(decoded, Err(Error::Malformed(_))), "{block:?}");
        }
    }
}
