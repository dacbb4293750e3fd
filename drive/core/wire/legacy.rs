//! The messages of protocol 8 as protobuf (§5).
//!
//! The structs are the wire: every field optional, because presence is what gets encoded (the
//! reference writes zeros and `false` it has set, and leaves out what it has not). Required fields
//! are checked when a struct becomes an era-neutral [`Message`], and defaults are filled in there.
//!
//! Everything repeated is counted before it is decoded, so no claim of a peer allocates more than
//! a small multiple of the bytes it sent.

use bytes::{Buf, Bytes};
use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::error::ProtocolError;
use super::message::Message;
use crate::hypercore::merkle::{Signature, TreeNode};
use hypermount_swarm::crypto::{DiscoveryKey, Hash, SIGNATURE_LENGTH};

/// Most tree nodes in one Data. A proof needs a sibling per level and the roots: two times 53 at
/// the greatest length a core can have, and as many again for the bytes of a seek.
pub(crate) const MAX_NODES: usize = 256;
/// Most extension names in one Options.
pub(crate) const MAX_EXTENSIONS: usize = 64;
/// Longest extension name, in bytes.
pub(crate) const MAX_EXTENSION_NAME: usize = 128;

/// The message types, low four bits of a frame's header. 11 to 14 are reserved and ignored.
pub mod kind {
    /// Opens a channel: `Open`.
    pub const OPEN: u8 = 0;
    /// `Options`.
    pub const OPTIONS: u8 = 1;
    /// `Status`.
    pub const STATUS: u8 = 2;
    /// `Have`.
    pub const HAVE: u8 = 3;
    /// `Range`.
    pub const UNHAVE: u8 = 4;
    /// `Range`.
    pub const WANT: u8 = 5;
    /// `Range`.
    pub const UNWANT: u8 = 6;
    /// `Request`.
    pub const REQUEST: u8 = 7;
    /// `Cancel`.
    pub const CANCEL: u8 = 8;
    /// `Data`.
    pub const DATA: u8 = 9;
    /// `Close`.
    pub const CLOSE: u8 = 10;
    /// Not protobuf: `varint(id) ‖ payload`.
    pub const EXTENSION: u8 = 15;
}

/// Opens a core on a channel (wire8.md §6).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// 32 bytes.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub discovery_key: Option<Bytes>,
    /// 32 bytes that prove knowledge of the key.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub capability: Option<Bytes>,
}

/// What the sender understands on the channel (wire8.md §8).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// Names, sorted; the position is the number used in messages.
    #[prost(string, repeated, tag = "1")]
    pub extensions: Vec<String>,
    /// Whether Haves are to be acknowledged.
    #[prost(bool, optional, tag = "2")]
    pub ack: Option<bool>,
}

/// What the sender does with the core.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// Whether the sender sends blocks.
    #[prost(bool, optional, tag = "1")]
    pub uploading: Option<bool>,
    /// Whether the sender requests blocks.
    #[prost(bool, optional, tag = "2")]
    pub downloading: Option<bool>,
}

/// Blocks that are held.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Have {
    /// The first block.
    #[prost(uint64, optional, tag = "1")]
    pub start: Option<u64>,
    /// Number of blocks; 1 if absent.
    #[prost(uint64, optional, tag = "2")]
    pub length: Option<u64>,
    /// Which of them, run-length encoded.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub bitfield: Option<Bytes>,
    /// Whether it answers a Data.
    #[prost(bool, optional, tag = "4")]
    pub ack: Option<bool>,
}

/// Unhave, Want and Unwant; they differ in what a missing length means.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Range {
    /// The first block.
    #[prost(uint64, optional, tag = "1")]
    pub start: Option<u64>,
    /// Number of blocks.
    #[prost(uint64, optional, tag = "2")]
    pub length: Option<u64>,
}

/// Requests a block.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// The block.
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
    /// Offset in the core, in bytes, if it is to be found by that.
    #[prost(uint64, optional, tag = "2")]
    pub bytes: Option<u64>,
    /// Whether only the proof is requested.
    #[prost(bool, optional, tag = "3")]
    pub hash: Option<bool>,
    /// Digest of the nodes that the sender holds.
    #[prost(uint64, optional, tag = "4")]
    pub nodes: Option<u64>,
}

/// Withdraws a Request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cancel {
    /// As in the Request.
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
    /// As in the Request.
    #[prost(uint64, optional, tag = "2")]
    pub bytes: Option<u64>,
    /// As in the Request.
    #[prost(bool, optional, tag = "3")]
    pub hash: Option<bool>,
}

/// A block with its proof.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Data {
    /// The block.
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
    /// Absent in an answer to a hash request; present and empty for an empty block.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<Bytes>,
    /// At most 256.
    #[prost(message, repeated, tag = "3")]
    pub nodes: Vec<WireNode>,
    /// 64 bytes.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub signature: Option<Bytes>,
}

/// A tree node in a Data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireNode {
    /// Flat-tree index.
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
    /// 32 bytes.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub hash: Option<Bytes>,
    /// Bytes of all blocks below.
    #[prost(uint64, optional, tag = "3")]
    pub size: Option<u64>,
}

/// Closes a channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Close {
    /// 32 bytes.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub discovery_key: Option<Bytes>,
}

/// Decodes any of the structs above; `bytes` fields are slices of `payload`, not copies.
pub(super) fn decode<T: prost::Message + Default>(
    what: &'static str,
    payload: Bytes,
) -> Result<T, ProtocolError> {
    T::decode(payload).map_err(|error| ProtocolError::malformed(what, error))
}

/// Fails if field `tag` occurs more than `max` times in `payload`.
pub(super) fn limit_repeats(
    what: &'static str,
    tag: u32,
    max: usize,
    mut payload: Bytes,
) -> Result<(), ProtocolError> {
    let mut count = 0;
    while payload.has_remaining() {
        let field = decode_key(&mut payload).and_then(|(field, wire)| {
            skip_field(wire, field, &mut payload, DecodeContext::default()).map(|()| field)
        });
        if field.map_err(|error| ProtocolError::malformed(what, error))? == tag {
            count += 1;
        }
        if count > max {
            return Err(ProtocolError::TooMany { what, count, max });
        }
    }
    Ok(())
}

pub(super) fn required<T>(
    what: &'static str,
    field: &'static str,
    value: Option<T>,
) -> Result<T, ProtocolError> {
    value.ok_or_else(|| ProtocolError::malformed(what, format!("{field} is missing")))
}

fn sized<const N: usize>(
    what: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], ProtocolError> {
    bytes.try_into().map_err(|_| {
        ProtocolError::malformed(what, format!("{field} has {} bytes, not {N}", bytes.len()))
    })
}

/// What an Open says: the core, and the proof of knowing its key if there was one of that form.
pub(super) fn decode_open(
    payload: Bytes,
) -> Result<(DiscoveryKey, Option<[u8; 32]>), ProtocolError> {
    let Open { discovery_key, capability } = decode("open", payload)?;
    let discovery_key = required("open", "discovery key", discovery_key)?;
    let discovery_key = DiscoveryKey::new(sized("open", "discovery key", &discovery_key)?);
    Ok((discovery_key, capability.and_then(|bytes| bytes.as_ref().try_into().ok())))
}

pub(super) fn decode_close(payload: Bytes) -> Result<Option<DiscoveryKey>, ProtocolError> {
    let Close { discovery_key } = decode("close", payload)?;
    let Some(bytes) = discovery_key else { return Ok(None) };
    Ok(Some(DiscoveryKey::new(sized("close", "discovery key", &bytes)?)))
}

pub(super) fn decode_options(payload: Bytes) -> Result<(bool, Vec<String>), ProtocolError> {
    limit_repeats("extension names", 1, MAX_EXTENSIONS, payload.clone())?;
    let Options { extensions, ack } = decode("options", payload)?;
    if let Some(name) = extensions.iter().find(|name| name.len() > MAX_EXTENSION_NAME) {
        let (count, max) = (name.len(), MAX_EXTENSION_NAME);
        return Err(ProtocolError::TooMany { what: "bytes of extension name", count, max });
    }
    Ok((ack.unwrap_or(false), extensions))
}

/// Decodes a message about a core: types 2 to 9. `None` for any other type.
pub fn decode_message(kind: u8, payload: Bytes) -> Result<Option<Message>, ProtocolError> {
    Ok(Some(match kind {
        kind::STATUS => {
            let Status { uploading, downloading } = decode("status", payload)?;
            Message::Status {
                uploading: uploading.unwrap_or(false),
                downloading: downloading.unwrap_or(false),
            }
        }
        kind::HAVE => {
            let Have { start, length, bitfield, ack } = decode("have", payload)?;
            Message::Have {
                start: required("have", "start", start)?,
                length: length.unwrap_or(1),
                bitfield,
                ack: ack.unwrap_or(false),
            }
        }
        kind::UNHAVE => {
            let (start, length) = decode_range("unhave", payload, 1)?;
            Message::Unhave { start, length }
        }
        kind::WANT => {
            let (start, length) = decode_range("want", payload, 0)?;
            Message::Want { start, length }
        }
        kind::UNWANT => {
            let (start, length) = decode_range("unwant", payload, 0)?;
            Message::Unwant { start, length }
        }
        kind::REQUEST => {
            let Request { index, bytes, hash, nodes } = decode("request", payload)?;
            Message::Request {
                index: required("request", "index", index)?,
                bytes: bytes.unwrap_or(0),
                hash: hash.unwrap_or(false),
                nodes: nodes.unwrap_or(0),
            }
        }
        kind::CANCEL => {
            let Cancel { index, bytes, hash } = decode("cancel", payload)?;
            Message::Cancel {
                index: required("cancel", "index", index)?,
                bytes: bytes.unwrap_or(0),
                hash: hash.unwrap_or(false),
            }
        }
        kind::DATA => decode_data(payload)?,
        _ => return Ok(None),
    }))
}

fn decode_range(
    what: &'static str,
    payload: Bytes,
    default: u64,
) -> Result<(u64, u64), ProtocolError> {
    let Range { start, length } = decode(what, payload)?;
    Ok((required(what, "start", start)?, length.unwrap_or(default)))
}

fn decode_data(payload: Bytes) -> Result<Message, ProtocolError> {
    limit_repeats("tree nodes", 3, MAX_NODES, payload.clone())?;
    let Data { index, value, nodes, signature } = decode("data", payload)?;
    let nodes = nodes.into_iter().map(|WireNode { index, hash, size }| {
        let hash = required("data", "hash of a node", hash)?;
        Ok(TreeNode {
            index: required("data", "index of a node", index)?,
            hash: sized("data", "hash of a node", &hash)?,
            size: required("data", "size of a node", size)?,
        })
    });
    Ok(Message::Data {
        index: required("data", "index", index)?,
        value,
        nodes: nodes.collect::<Result<_, ProtocolError>>()?,
        signature: signature
            .map(|bytes| sized::<SIGNATURE_LENGTH>("data", "signature", &bytes))
            .transpose()?
            .map(Signature::from),
    })
}

/// A [`Message`] in the form the reference gives it, ready to be measured and written.
#[derive(Debug)]
pub enum Encodable {
    Status(Status),
    Have(Have),
    Range(Range),
    Request(Request),
    Cancel(Cancel),
    Data(Data),
}

/// The type and wire form of a message about a core; `None` for an extension message, whose
/// number only the channel knows.
pub fn encode_message(message: Message) -> Option<(u8, Encodable)> {
    Some(match message {
        Message::Status { uploading, downloading } => {
            let (uploading, downloading) = (Some(uploading), Some(downloading));
            (kind::STATUS, Encodable::Status(Status { uploading, downloading }))
        }
        Message::Have { start, length, bitfield, ack } => {
            // One block is announced without length, but acknowledged with it.
            let implied = length == 1 && bitfield.is_none() && !ack;
            let length = (!implied).then_some(length);
            let ack = ack.then_some(true);
            (kind::HAVE, Encodable::Have(Have { start: Some(start), length, bitfield, ack }))
        }
        Message::Unhave { start, length } => (kind::UNHAVE, range(start, length)),
        Message::Want { start, length } => (kind::WANT, range(start, length)),
        Message::Unwant { start, length } => (kind::UNWANT, range(start, length)),
        Message::Request { index, bytes, hash, nodes } => {
            let request = Request {
                index: Some(index),
                bytes: Some(bytes),
                hash: Some(hash),
                nodes: Some(nodes),
            };
            (kind::REQUEST, Encodable::Request(request))
        }
        Message::Cancel { index, bytes, hash } => {
            let cancel = Cancel { index: Some(index), bytes: Some(bytes), hash: Some(hash) };
            (kind::CANCEL, Encodable::Cancel(cancel))
        }
        Message::Data { index, value, nodes, signature } => {
            let signature = signature.map(|bytes| Bytes::copy_from_slice(bytes.as_bytes()));
            let nodes = tree_nodes(&nodes);
            (kind::DATA, Encodable::Data(Data { index: Some(index), value, nodes, signature }))
        }
        Message::Extension { .. } => return None,
    })
}

fn range(start: u64, length: u64) -> Encodable {
    Encodable::Range(Range { start: Some(start), length: Some(length) })
}

fn tree_nodes(nodes: &[TreeNode]) -> Vec<WireNode> {
    // One allocation for all hashes.
    let hashes: Bytes = nodes.iter().flat_map(|node| node.hash).collect();
    let hash_length = size_of::<Hash>();
    nodes
        .iter()
        .enumerate()
        .map(|(position, node)| WireNode {
            index: Some(node.index),
            hash: Some(hashes.slice(position * hash_length..(position + 1) * hash_length)),
            size: Some(node.size),
        })
        .collect()
}

impl Encodable {
    /// Bytes [`Encodable::encode`] will append.
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Self::Status(message) => message.encoded_len(),
            Self::Have(message) => message.encoded_len(),
            Self::Range(message) => message.encoded_len(),
            Self::Request(message) => message.encoded_len(),
            Self::Cancel(message) => message.encoded_len(),
            Self::Data(message) => message.encoded_len(),
        }
    }

    pub fn encode(&self, out: &mut bytes::BytesMut) {
        match self {
            Self::Status(message) => message.encode_raw(out),
            Self::Have(message) => message.encode_raw(out),
            Self::Range(message) => message.encode_raw(out),
            Self::Request(message) => message.encode_raw(out),
            Self::Cancel(message) => message.encode_raw(out),
            Self::Data(message) => message.encode_raw(out),
        }
    }
}

#[cfg(test)]
#[path = "legacy_tests.rs"]
pub(super) mod tests;
