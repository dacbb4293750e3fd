//! Messages of the `hypertrie` extension: a reader shows a peer what it is looking for, the peer
//! answers with the blocks the search will touch (hypertrie 5, §11 there).
//!
//! Only the form. It is an optimisation: whatever it says is a hint, never believed, and a peer
//! may ignore it altogether.

use bytes::Bytes;
use prost::Message as _;

use super::error::{ProtocolError, at_most};

/// Under which name both sides register it, on the channel of a metadata core.
pub const NAME: &str = "hypertrie";
/// Most blocks one answer may name; the reference stops collecting here.
pub(crate) const MAX_BLOCKS: usize = 2176;
/// Longest key, in bytes: the longest path there is.
pub(crate) const MAX_KEY: usize = 4096;
/// Longest checkpoint, in bytes: a pair of integers per open node of an iterator.
pub(crate) const MAX_CHECKPOINT: usize = 64 * 1024;

/// Flags of [`TrieMessage::Iterator`].
pub mod flags {
    /// Below all subdirectories as well.
    pub const RECURSIVE: u64 = 1;
    /// In descending order.
    pub const REVERSE: u64 = 2;
    /// Keys of the hidden name space.
    pub const HIDDEN: u64 = 8;
}

/// What two tries say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrieMessage {
    /// These blocks, all within `start..end`, are what the search needs.
    Cache {
        /// The first block that was searched.
        start: u64,
        /// The block after the last one.
        end: u64,
        /// In any order, at most 2176.
        blocks: Vec<u64>,
    },
    /// The peer lists what is below `key`, as of the node at sequence number `head`.
    Iterator {
        /// Sequence number, 0 for the newest.
        head: u64,
        /// At most 4096 bytes.
        key: String,
        /// See [`flags`].
        flags: u64,
        /// Where an earlier answer stopped, at most 64 KiB.
        checkpoint: Option<Bytes>,
    },
    /// The peer looks up `key`, as of the node at sequence number `head`.
    Get {
        /// Sequence number, 0 for the newest.
        head: u64,
        /// At most 4096 bytes.
        key: String,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(message, optional, tag = "1")]
    cache: Option<Cache>,
    #[prost(message, optional, tag = "2")]
    iterator: Option<Iterator>,
    #[prost(message, optional, tag = "3")]
    get: Option<Get>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cache {
    #[prost(uint64, optional, tag = "1")]
    start: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    end: Option<u64>,
    #[prost(uint64, repeated, packed = "true", tag = "3")]
    blocks: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Iterator {
    #[prost(uint64, optional, tag = "1")]
    head: Option<u64>,
    #[prost(string, optional, tag = "2")]
    key: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    flags: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    checkpoint: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Get {
    #[prost(uint64, optional, tag = "1")]
    head: Option<u64>,
    #[prost(string, optional, tag = "2")]
    key: Option<String>,
}

const WHAT: &str = "hypertrie extension message";
/// Longest message, in bytes: the longest Cache has ten per block; every Iterator fits as well.
pub(crate) const MAX_MESSAGE: usize = MAX_CHECKPOINT + MAX_KEY + 10 * MAX_BLOCKS;

impl TrieMessage {
    /// `None` for a message with none of the three parts, as a later version might send.
    ///
    /// # Errors
    /// Malformed bytes, a missing required field, or one of the limits above. Worth ignoring the
    /// message, not worth ending the connection.
    pub(crate) fn decode(payload: Bytes) -> Result<Option<Self>, ProtocolError> {
        at_most("bytes of extension message", payload.len(), MAX_MESSAGE)?;
        let wire = Wire::decode(payload).map_err(|error| ProtocolError::malformed(WHAT, error))?;
        if let Some(Cache { start, end, blocks }) = wire.cache {
            let (Some(start), Some(end)) = (start, end) else {
                return Err(ProtocolError::malformed(WHAT, "start or end is missing"));
            };
            at_most("blocks in a hint", blocks.len(), MAX_BLOCKS)?;
            return Ok(Some(Self::Cache { start, end, blocks }));
        }
        if let Some(Iterator { head, key, flags, checkpoint }) = wire.iterator {
            let key = key.unwrap_or_default();
            at_most("bytes of key", key.len(), MAX_KEY)?;
            let length = checkpoint.as_ref().map_or(0, Bytes::len);
            at_most("bytes of checkpoint", length, MAX_CHECKPOINT)?;
            let (head, flags) = (head.unwrap_or(0), flags.unwrap_or(0));
            return Ok(Some(Self::Iterator { head, key, flags, checkpoint }));
        }
        let Some(Get { head, key }) = wire.get else { return Ok(None) };
        let key = key.unwrap_or_default();
        at_most("bytes of key", key.len(), MAX_KEY)?;
        Ok(Some(Self::Get { head: head.unwrap_or(0), key }))
    }

    /// The bytes of the message, without the number of the extension.
    pub fn encode(self) -> Bytes {
        let wire = match self {
            Self::Cache { start, end, blocks } => Wire {
                cache: Some(Cache { start: Some(start), end: Some(end), blocks }),
                ..Wire::default()
            },
            Self::Iterator { head, key, flags, checkpoint } => Wire {
                iterator: Some(Iterator {
                    head: Some(head),
                    key: Some(key),
                    flags: Some(flags),
                    checkpoint,
                }),
                ..Wire::default()
            },
            Self::Get { head, key } => {
                Wire { get: Some(Get { head: Some(head), key: Some(key) }), ..Wire::default() }
            }
        };
        wire.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn from_vector(case: &Value) -> TrieMessage {
        let number = |value: &Value| value.as_u64().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        if let Some(get) = case.get("get") {
            return TrieMessage::Get { head: number(&get["head"]), key: text(&get["key"]) };
        }
        if let Some(iterator) = case.get("iterator") {
            let checkpoint = iterator.get("checkpointHex").and_then(Value::as_str);
            return TrieMessage::Iterator {
                head: number(&iterator["head"]),
                key: text(&iterator["key"]),
                flags: number(&iterator["flags"]),
                checkpoint: checkpoint.map(|digits| hex::decode(digits).unwrap().into()),
            };
        }
        let cache = &case["cache"];
        TrieMessage::Cache {
            start: number(&cache["start"]),
            end: number(&cache["end"]),
            blocks: cache["blocks"].as_array().unwrap().iter().map(number).collect(),
        }
    }

    #[test]
    fn matches_every_golden_message() {
        let vectors = super::super::vectors::load("messages.json");
        for case in vectors["trieExtension"].as_array().unwrap() {
            let bytes = Bytes::from(hex::decode(case["encoded"].as_str().unwrap()).unwrap());
            let message = from_vector(case);
            assert_eq!(message.clone().encode(), bytes, "{case}");
            assert_eq!(TrieMessage::decode(bytes).unwrap(), Some(message), "{case}");
        }
    }

    #[test]
    fn every_limit_holds_at_and_past_it() {
        let cache = |count| TrieMessage::Cache { start: 0, end: 1, blocks: vec![u64::MAX; count] };
        let get = |length| TrieMessage::Get { head: 1, key: "k".repeat(length) };
        let iterator = |length| TrieMessage::Iterator {
            head: 1,
            key: String::new(),
            flags: flags::RECURSIVE,
            checkpoint: Some(vec![0; length].into()),
        };
        for (fits, past) in [
            (cache(MAX_BLOCKS), cache(MAX_BLOCKS + 1)),
            (get(MAX_KEY), get(MAX_KEY + 1)),
            (iterator(MAX_CHECKPOINT), iterator(MAX_CHECKPOINT + 1)),
        ] {
            assert_eq!(TrieMessage::decode(fits.clone().encode()).unwrap(), Some(fits));
            let refused = TrieMessage::decode(past.encode());
            assert!(matches!(refused, Err(ProtocolError::TooMany { .. })));
        }
        let spam = Bytes::from(vec![0; MAX_MESSAGE + 1]);
        assert!(matches!(TrieMessage::decode(spam), Err(ProtocolError::TooMany { .. })));
    }

    #[test]
    fn an_unknown_kind_of_message_is_ignored() {
        assert_eq!(TrieMessage::decode(Bytes::from_static(&[0x22, 1, 7])).unwrap(), None);
        let without_end = Bytes::from_static(&[0x0a, 2, 8, 3]);
        assert!(TrieMessage::decode(without_end).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = TrieMessage::decode(bytes.into());
        }
    }
}
