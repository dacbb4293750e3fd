//! Messages of the `hyperbee` extension: a reader shows a peer what it is looking for, the peer answers with the
//! blocks the search will touch (docs/format/hyperbee.md).
//!
//! A message is the length of a protobuf message and that message: the default encoding of an extension.
//!
//! Only the form. It is an optimisation: whatever it says is a hint, never believed, and a peer may ignore it
//! altogether.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::error::{ProtocolError, at_most};
use super::extension::{MAX_BLOCKS, MAX_CHECKPOINT};
use hypermount_swarm::compact::{put_buffer, take_buffer};

/// Its name on the channel of an index core.
pub(crate) const NAME: &str = "hyperbee";
/// Longest key, in bytes: as long as the longest path with what stands before it.
pub(crate) const MAX_KEY: usize = 8 * 1024;
/// Most numbers in a checkpoint: what takes [`MAX_CHECKPOINT`] bytes at least.
const MAX_CHECKPOINT_NUMBERS: usize = 3 * 4096;

/// What two Hyperbees say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BeeMessage {
    /// These blocks, all within `start..end`, are what the search needs.
    Cache {
        /// The first block that was searched.
        start: u64,
        /// The block after the last one.
        end: u64,
        /// In any order, at most 2176.
        blocks: Vec<u64>,
    },
    /// The peer looks up `key` in a version of the index.
    Get {
        /// Length of the index core, in blocks.
        version: u64,
        /// At most 8 KiB.
        key: Bytes,
    },
    /// The peer lists a range of keys.
    Iterator(Range),
}

/// A range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Length of the index core, in blocks.
    pub version: u64,
    /// The first key.
    pub gte: Option<Bytes>,
    /// The key before the first one.
    pub gt: Option<Bytes>,
    /// The last key.
    pub lte: Option<Bytes>,
    /// The key after the last one.
    pub lt: Option<Bytes>,
    /// Most keys; 0 for all.
    pub limit: u64,
    /// In descending order.
    pub reverse: bool,
    /// Where an earlier answer stopped: block, level and position of each open tree node, from the root on.
    pub checkpoint: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(message, optional, tag = "1")]
    cache: Option<WireCache>,
    #[prost(message, optional, tag = "2")]
    get: Option<WireGet>,
    #[prost(message, optional, tag = "3")]
    iterator: Option<WireIterator>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCache {
    #[prost(uint64, optional, tag = "1")]
    start: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    end: Option<u64>,
    #[prost(uint64, repeated, packed = "true", tag = "3")]
    blocks: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireGet {
    #[prost(uint64, optional, tag = "1")]
    version: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    key: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireIterator {
    #[prost(uint64, optional, tag = "1")]
    version: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    gte: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    gt: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    lte: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    lt: Option<Bytes>,
    #[prost(uint64, optional, tag = "6")]
    limit: Option<u64>,
    #[prost(bool, optional, tag = "7")]
    reverse: Option<bool>,
    #[prost(uint64, repeated, packed = "true", tag = "8")]
    checkpoint: Vec<u64>,
}

const WHAT: &str = "hyperbee extension message";
/// Longest message, in bytes.
pub(crate) const MAX_MESSAGE: usize = MAX_CHECKPOINT + 4 * MAX_KEY + 10 * MAX_BLOCKS;

impl BeeMessage {
    /// `None` for a message with none of the three parts, as a later version might send.
    ///
    /// # Errors
    /// Malformed bytes or one of the limits above. Worth ignoring the message, not worth ending the connection.
    pub(crate) fn decode(mut payload: Bytes) -> Result<Option<Self>, ProtocolError> {
        at_most("bytes of extension message", payload.len(), MAX_MESSAGE)?;
        let payload =
            take_buffer(&mut payload).map_err(|error| ProtocolError::malformed(WHAT, error))?;
        let wire = Wire::decode(payload).map_err(|error| ProtocolError::malformed(WHAT, error))?;
        if let Some(WireCache { start, end, blocks }) = wire.cache {
            at_most("blocks in a hint", blocks.len(), MAX_BLOCKS)?;
            let (start, end) = (start.unwrap_or(0), end.unwrap_or(0));
            return Ok(Some(Self::Cache { start, end, blocks }));
        }
        if let Some(WireGet { version, key }) = wire.get {
            let key = key.unwrap_or_default();
            at_most("bytes of key", key.len(), MAX_KEY)?;
            return Ok(Some(Self::Get { version: version.unwrap_or(0), key }));
        }
        let Some(asked) = wire.iterator else { return Ok(None) };
        for key in [&asked.gte, &asked.gt, &asked.lte, &asked.lt].into_iter().flatten() {
            at_most("bytes of key", key.len(), MAX_KEY)?;
        }
        at_most("numbers of a checkpoint", asked.checkpoint.len(), MAX_CHECKPOINT_NUMBERS)?;
        Ok(Some(Self::Iterator(Range {
            version: asked.version.unwrap_or(0),
            gte: asked.gte,
            gt: asked.gt,
            lte: asked.lte,
            lt: asked.lt,
            limit: asked.limit.unwrap_or(0),
            reverse: asked.reverse.unwrap_or(false),
            checkpoint: asked.checkpoint,
        })))
    }

    /// The bytes of the message.
    pub(crate) fn encode(self) -> Bytes {
        let wire = match self {
            Self::Cache { start, end, blocks } => Wire {
                cache: Some(WireCache { start: Some(start), end: Some(end), blocks }),
                ..Wire::default()
            },
            Self::Get { version, key } => Wire {
                get: Some(WireGet { version: Some(version), key: Some(key) }),
                ..Wire::default()
            },
            Self::Iterator(range) => Wire {
                iterator: Some(WireIterator {
                    version: Some(range.version),
                    gte: range.gte,
                    gt: range.gt,
                    lte: range.lte,
                    lt: range.lt,
                    limit: Some(range.limit).filter(|limit| *limit > 0),
                    reverse: Some(range.reverse).filter(|reverse| *reverse),
                    checkpoint: range.checkpoint,
                }),
                ..Wire::default()
            },
        };
        let mut payload = BytesMut::new();
        put_buffer(&wire.encode_to_vec(), &mut payload);
        payload.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(length: usize) -> Bytes {
        Bytes::from(vec![b'k'; length])
    }

    #[test]
    fn every_limit_holds_at_and_past_it() {
        let cache = |count| BeeMessage::Cache { start: 0, end: 1, blocks: vec![u64::MAX; count] };
        let get = |length| BeeMessage::Get { version: 1, key: key(length) };
        let range = |length, numbers| {
            BeeMessage::Iterator(Range {
                version: 1,
                gt: Some(key(length)),
                checkpoint: vec![1; numbers],
                ..Range::default()
            })
        };
        for (fits, past) in [
            (cache(MAX_BLOCKS), cache(MAX_BLOCKS + 1)),
            (get(MAX_KEY), get(MAX_KEY + 1)),
            (range(MAX_KEY, 0), range(MAX_KEY + 1, 0)),
            (range(1, MAX_CHECKPOINT_NUMBERS), range(1, MAX_CHECKPOINT_NUMBERS + 1)),
        ] {
            assert_eq!(BeeMessage::decode(fits.clone().encode()).unwrap(), Some(fits));
            let refused = BeeMessage::decode(past.encode());
            assert!(matches!(refused, Err(ProtocolError::TooMany { .. })));
        }
        let spam = Bytes::from(vec![0; MAX_MESSAGE + 1]);
        assert!(matches!(BeeMessage::decode(spam), Err(ProtocolError::TooMany { .. })));
    }

    /// A length, and what protobuf has: `get {version 7, key "ab"}`, `cache {1, 9, [1, 300]}`.
    #[test]
    fn the_bytes_are_those_of_protobuf() {
        let get = BeeMessage::Get { version: 7, key: Bytes::from_static(b"ab") };
        assert_eq!(&get.encode()[..], [8, 0x12, 6, 8, 7, 0x12, 2, b'a', b'b']);
        let cache = BeeMessage::Cache { start: 1, end: 9, blocks: vec![1, 300] };
        assert_eq!(&cache.encode()[..], [11, 0x0a, 9, 8, 1, 0x10, 9, 0x1a, 3, 1, 0xac, 2]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = BeeMessage::decode(bytes.into());
        }
    }
}
