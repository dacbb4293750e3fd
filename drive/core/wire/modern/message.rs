//! The ten messages of `hypercore/alpha`, and its handshake.
//!
//! Numbers of a peer are taken as they are: the receiver compares indexes and lengths with its core. Here,
//! only that is bounded which takes memory. Bytes that follow a known message are ignored, so that a later
//! version may append fields.
//!
//! Not here: the bytes of a manifest and of a signature, which `hypercore` decodes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::hypercore::merkle::TreeNode;
use crate::wire::error::{ProtocolError, at_most};
use hypermount_swarm::compact::{CutOff, put_buffer, put_uint, take_buffer, take_fixed, take_uint};

/// Most tree nodes in one list of a proof. A path needs a sibling per level, an upgrade the roots as well:
/// two times 53 at the greatest length a core can have, and as many again for a seek.
pub(crate) const MAX_NODES: usize = 256;
/// Most words in one Bitfield: those of 2^21 blocks, the unit in which blocks are wanted.
pub(crate) const MAX_BITFIELD_WORDS: usize = (1 << 21) / 32;
/// Longest signature, in bytes: room for 256 signers and as many nodes of patches.
pub(crate) const MAX_SIGNATURE_BYTES: usize = 64 * 1024;
/// Longest manifest, in bytes: room for 256 signers and for user data.
pub(crate) const MAX_MANIFEST_BYTES: usize = 64 * 1024;
/// Longest name of an extension, in bytes.
pub(crate) const MAX_EXTENSION_NAME: usize = 128;
/// Longest content of an extension message, in bytes. A question with checkpoints fits.
pub(crate) const MAX_EXTENSION_BYTES: usize = 128 * 1024;

/// The message types on the channel. Others are ignored.
pub(crate) mod kind {
    pub(crate) const SYNC: u64 = 0;
    pub(crate) const REQUEST: u64 = 1;
    pub(crate) const CANCEL: u64 = 2;
    pub(crate) const DATA: u64 = 3;
    pub(crate) const NO_DATA: u64 = 4;
    pub(crate) const WANT: u64 = 5;
    pub(crate) const UNWANT: u64 = 6;
    pub(crate) const BITFIELD: u64 = 7;
    pub(crate) const RANGE: u64 = 8;
    pub(crate) const EXTENSION: u64 = 9;
}

mod flag {
    /// Of a handshake.
    pub(super) const SEEKS: u64 = 1;

    /// Of a Sync.
    pub(super) const CAN_UPGRADE: u64 = 1;
    pub(super) const UPLOADING: u64 = 2;
    pub(super) const DOWNLOADING: u64 = 4;
    pub(super) const HAS_MANIFEST: u64 = 8;
    pub(super) const ALLOW_PUSH: u64 = 16;

    /// Of a Request and of a Data: which parts follow.
    pub(super) const BLOCK: u64 = 1;
    pub(super) const HASH: u64 = 2;
    pub(super) const SEEK: u64 = 4;
    pub(super) const UPGRADE: u64 = 8;
    pub(super) const MANIFEST: u64 = 16;
    pub(super) const PRIORITY: u64 = 32;

    /// Of a NoData.
    pub(super) const REASON: u64 = 1;

    /// Of a Want and of an Unwant.
    pub(super) const ANY: u64 = 1;

    /// Of a Range.
    pub(super) const DROP: u64 = 1;
    pub(super) const LENGTH_IS_ONE: u64 = 2;
}

/// What is sent with the request to open the channel, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// Whether requests may contain a seek.
    pub(crate) seeks: bool,
    /// Proves that the sender knows the key of the core.
    pub(crate) capability: [u8; 32],
}

/// A message about the core of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Sync(Sync),
    Request(Request),
    /// Withdraws the Request with this id.
    Cancel {
        request: u64,
    },
    Data(Data),
    NoData {
        request: u64,
        /// `None` from Hypercore 10.
        reason: Option<NoDataReason>,
    },
    Want(Want),
    Unwant(Want),
    /// Which of the blocks from `start` on are held, 32 a word, the first in the least significant bit.
    Bitfield {
        start: u64,
        words: Vec<u32>,
    },
    /// The blocks are held; with `drop`, they no longer are.
    Range {
        drop: bool,
        start: u64,
        length: u64,
    },
    Extension {
        name: String,
        payload: Bytes,
    },
}

/// The state of the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sync {
    /// It can prove its length to a peer that has less.
    pub(crate) can_upgrade: bool,
    /// It answers requests.
    pub(crate) uploading: bool,
    /// It sends requests.
    pub(crate) downloading: bool,
    /// It has a manifest to send.
    pub(crate) has_manifest: bool,
    /// It takes data that it has not requested.
    pub(crate) allow_push: bool,
    pub(crate) fork: u64,
    pub(crate) length: u64,
    /// The length that the receiver has announced, at the same fork; 0 otherwise.
    pub(crate) remote_length: u64,
}

/// A block or a node and the number of parents above it that the answer has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestedNode {
    /// A block number in [`Request::block`], the index of a tree node in [`Request::hash`].
    pub(crate) index: u64,
    pub(crate) nodes: u64,
}

/// A byte of the core whose block is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestedSeek {
    pub(crate) bytes: u64,
    /// Bytes at the front of each block that do not count: 8 in an encrypted core.
    pub(crate) padding: u64,
}

/// The step from one length to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestedUpgrade {
    /// The length of the asker.
    pub(crate) start: u64,
    /// Blocks beyond it.
    pub(crate) length: u64,
}

/// Asks for parts of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) fork: u64,
    pub(crate) block: Option<RequestedNode>,
    pub(crate) hash: Option<RequestedNode>,
    pub(crate) seek: Option<RequestedSeek>,
    pub(crate) upgrade: Option<RequestedUpgrade>,
    pub(crate) manifest: bool,
    pub(crate) priority: u64,
}

/// A block with the nodes beside its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataBlock {
    pub(crate) index: u64,
    pub(crate) value: Bytes,
    pub(crate) nodes: Vec<TreeNode>,
}

/// A tree node with the nodes beside its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataHash {
    /// Of the tree node.
    pub(crate) index: u64,
    pub(crate) nodes: Vec<TreeNode>,
}

/// The nodes that lead to the block with a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSeek {
    pub(crate) bytes: u64,
    pub(crate) nodes: Vec<TreeNode>,
}

/// What proves a greater length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataUpgrade {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) nodes: Vec<TreeNode>,
    /// From there to the length that is signed.
    pub(crate) additional_nodes: Vec<TreeNode>,
    /// Of the form that the manifest demands.
    pub(crate) signature: Bytes,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// The id of the request; 0 for data that was not requested.
    pub(crate) request: u64,
    pub(crate) fork: u64,
    pub(crate) block: Option<DataBlock>,
    pub(crate) hash: Option<DataHash>,
    pub(crate) seek: Option<DataSeek>,
    pub(crate) upgrade: Option<DataUpgrade>,
    /// The manifest and all that follows it in the message.
    pub(crate) manifest: Option<Bytes>,
}

/// Why a [`Request`] is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoDataReason {
    NotAvailable,
    InvalidRequest,
    Other(u64),
}

impl NoDataReason {
    fn new(number: u64) -> Option<Self> {
        match number {
            0 => None,
            1 => Some(Self::NotAvailable),
            2 => Some(Self::InvalidRequest),
            other => Some(Self::Other(other)),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::NotAvailable => 1,
            Self::InvalidRequest => 2,
            Self::Other(number) => number,
        }
    }
}

/// Blocks that the sender asks to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// One block of them is enough.
    pub(crate) any: bool,
}

/// Why the bytes are no message, before it is known of which type they were to be.
enum Flaw {
    CutOff,
    Other(ProtocolError),
}

impl From<CutOff> for Flaw {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}

impl From<ProtocolError> for Flaw {
    fn from(error: ProtocolError) -> Self {
        Self::Other(error)
    }
}

fn named<T>(what: &'static str, decoded: Result<T, Flaw>) -> Result<T, ProtocolError> {
    decoded.map_err(|flaw| match flaw {
        Flaw::CutOff => ProtocolError::malformed(what, CutOff),
        Flaw::Other(error) => error,
    })
}

/// The length of a list of elements that take at least `bytes` bytes each.
fn take_count(
    from: &mut Bytes,
    what: &'static str,
    max: usize,
    bytes: usize,
) -> Result<usize, Flaw> {
    let count = usize::try_from(take_uint(from)?).unwrap_or(usize::MAX);
    at_most(what, count, max)?;
    if count * bytes > from.len() {
        return Err(Flaw::CutOff);
    }
    Ok(count)
}

/// The fewest bytes that a tree node takes: two numbers and a hash.
const NODE_BYTES: usize = 34;

fn take_nodes(from: &mut Bytes) -> Result<Vec<TreeNode>, Flaw> {
    let count = take_count(from, "tree nodes", MAX_NODES, NODE_BYTES)?;
    let node = |_| -> Result<TreeNode, Flaw> {
        let (index, size) = (take_uint(from)?, take_uint(from)?);
        Ok(TreeNode { index, size, hash: take_fixed(from)? })
    };
    (0..count).map(node).collect()
}

fn put_nodes(nodes: &[TreeNode], to: &mut BytesMut) {
    put_uint(nodes.len() as u64, to);
    for node in nodes {
        put_uint(node.index, to);
        put_uint(node.size, to);
        to.put_slice(&node.hash);
    }
}

fn set(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

impl Handshake {
    /// # Errors
    /// The bytes end before the capability does.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, ProtocolError> {
        let from = &mut bytes;
        let mut decode = || -> Result<Self, Flaw> {
            let seeks = take_uint(from)? & flag::SEEKS != 0;
            Ok(Self { seeks, capability: take_fixed(from)? })
        };
        named("handshake", decode())
    }

    pub(crate) fn encode(&self, to: &mut BytesMut) {
        put_uint(set(self.seeks, flag::SEEKS), to);
        to.put_slice(&self.capability);
    }
}

/// Decodes the messages of one direction of one channel, in order.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The name that an extension message without a name has: that of the one before.
    extension: Option<String>,
}

impl Decoder {
    /// Decodes one message; `None` for a type that is not known. Byte strings are slices of `payload`.
    ///
    /// # Errors
    /// Bytes that are no message of that type, or more than a limit above.
    pub(crate) fn decode(
        &mut self,
        kind: u64,
        mut payload: Bytes,
    ) -> Result<Option<Message>, ProtocolError> {
        let from = &mut payload;
        let message = match kind {
            kind::SYNC => Message::Sync(named("sync", Sync::take(from))?),
            kind::REQUEST => Message::Request(named("request", Request::take(from))?),
            kind::CANCEL => {
                let request = named("cancel", take_uint(from).map_err(Flaw::from))?;
                Message::Cancel { request }
            }
            kind::DATA => Message::Data(named("data", Data::take(from))?),
            kind::NO_DATA => named("no data", take_no_data(from))?,
            kind::WANT => Message::Want(named("want", Want::take(from))?),
            kind::UNWANT => Message::Unwant(named("unwant", Want::take(from))?),
            kind::BITFIELD => named("bitfield", take_bitfield(from))?,
            kind::RANGE => named("range", take_range(from))?,
            kind::EXTENSION => self.take_extension(payload)?,
            _ => return Ok(None),
        };
        Ok(Some(message))
    }

    fn take_extension(&mut self, mut payload: Bytes) -> Result<Message, ProtocolError> {
        const WHAT: &str = "extension message";
        let name = named(WHAT, take_buffer(&mut payload).map_err(Flaw::from))?;
        at_most("bytes of extension name", name.len(), MAX_EXTENSION_NAME)?;
        if !name.is_empty() {
            let name = std::str::from_utf8(&name);
            let name = name.map_err(|error| ProtocolError::malformed(WHAT, error))?;
            self.extension = Some(name.to_owned());
        }
        at_most("bytes of extension message", payload.len(), MAX_EXTENSION_BYTES)?;
        let name = self.extension.clone();
        let name = name.ok_or_else(|| ProtocolError::malformed(WHAT, "the first has no name"))?;
        Ok(Message::Extension { name, payload })
    }
}

impl Message {
    /// The type of the message on the channel.
    pub(crate) fn kind(&self) -> u64 {
        match self {
            Self::Sync(_) => kind::SYNC,
            Self::Request(_) => kind::REQUEST,
            Self::Cancel { .. } => kind::CANCEL,
            Self::Data(_) => kind::DATA,
            Self::NoData { .. } => kind::NO_DATA,
            Self::Want(_) => kind::WANT,
            Self::Unwant(_) => kind::UNWANT,
            Self::Bitfield { .. } => kind::BITFIELD,
            Self::Range { .. } => kind::RANGE,
            Self::Extension { .. } => kind::EXTENSION,
        }
    }

    /// Appends the message without its type. An extension message is written with its name.
    pub(crate) fn encode(&self, to: &mut BytesMut) {
        match self {
            Self::Sync(sync) => sync.put(to),
            Self::Request(request) => request.put(to),
            Self::Cancel { request } => put_uint(*request, to),
            Self::Data(data) => data.put(to),
            Self::NoData { request, reason } => {
                put_uint(*request, to);
                put_uint(set(reason.is_some(), flag::REASON), to);
                if let Some(reason) = reason {
                    put_uint(reason.number(), to);
                }
            }
            Self::Want(want) | Self::Unwant(want) => want.put(to),
            Self::Bitfield { start, words } => {
                put_uint(*start, to);
                put_uint(words.len() as u64, to);
                words.iter().for_each(|word| to.put_u32_le(*word));
            }
            Self::Range { drop, start, length } => {
                let one = *length == 1;
                put_uint(set(*drop, flag::DROP) | set(one, flag::LENGTH_IS_ONE), to);
                put_uint(*start, to);
                if !one {
                    put_uint(*length, to);
                }
            }
            Self::Extension { name, payload } => {
                put_buffer(name.as_bytes(), to);
                to.put_slice(payload);
            }
        }
    }
}

impl Sync {
    fn take(from: &mut Bytes) -> Result<Self, Flaw> {
        let flags = take_uint(from)?;
        Ok(Self {
            can_upgrade: flags & flag::CAN_UPGRADE != 0,
            uploading: flags & flag::UPLOADING != 0,
            downloading: flags & flag::DOWNLOADING != 0,
            has_manifest: flags & flag::HAS_MANIFEST != 0,
            allow_push: flags & flag::ALLOW_PUSH != 0,
            fork: take_uint(from)?,
            length: take_uint(from)?,
            remote_length: take_uint(from)?,
        })
    }

    fn put(&self, to: &mut BytesMut) {
        let flags = set(self.can_upgrade, flag::CAN_UPGRADE)
            | set(self.uploading, flag::UPLOADING)
            | set(self.downloading, flag::DOWNLOADING)
            | set(self.has_manifest, flag::HAS_MANIFEST)
            | set(self.allow_push, flag::ALLOW_PUSH);
        put_uint(flags, to);
        put_uint(self.fork, to);
        put_uint(self.length, to);
        put_uint(self.remote_length, to);
    }
}

/// A part of a message that is there if its flag is set.
fn part<T>(
    from: &mut Bytes,
    present: bool,
    take: impl FnOnce(&mut Bytes) -> Result<T, Flaw>,
) -> Result<Option<T>, Flaw> {
    present.then(|| take(from)).transpose()
}

fn take_pair(from: &mut Bytes) -> Result<(u64, u64), Flaw> {
    Ok((take_uint(from)?, take_uint(from)?))
}

fn put_pair(first: u64, second: u64, to: &mut BytesMut) {
    put_uint(first, to);
    put_uint(second, to);
}

impl Request {
    fn take(from: &mut Bytes) -> Result<Self, Flaw> {
        let flags = take_uint(from)?;
        let has = |flag| flags & flag != 0;
        let (id, fork) = take_pair(from)?;
        let node =
            |from: &mut Bytes| take_pair(from).map(|(index, nodes)| RequestedNode { index, nodes });
        let seek = |from: &mut Bytes| {
            take_pair(from).map(|(bytes, padding)| RequestedSeek { bytes, padding })
        };
        let upgrade = |from: &mut Bytes| {
            take_pair(from).map(|(start, length)| RequestedUpgrade { start, length })
        };
        Ok(Self {
            id,
            fork,
            block: part(from, has(flag::BLOCK), node)?,
            hash: part(from, has(flag::HASH), node)?,
            seek: part(from, has(flag::SEEK), seek)?,
            upgrade: part(from, has(flag::UPGRADE), upgrade)?,
            manifest: has(flag::MANIFEST),
            priority: if has(flag::PRIORITY) { take_uint(from)? } else { 0 },
        })
    }

    fn put(&self, to: &mut BytesMut) {
        let flags = set(self.block.is_some(), flag::BLOCK)
            | set(self.hash.is_some(), flag::HASH)
            | set(self.seek.is_some(), flag::SEEK)
            | set(self.upgrade.is_some(), flag::UPGRADE)
            | set(self.manifest, flag::MANIFEST)
            | set(self.priority != 0, flag::PRIORITY);
        put_uint(flags, to);
        put_pair(self.id, self.fork, to);
        for node in self.block.iter().chain(&self.hash) {
            put_pair(node.index, node.nodes, to);
        }
        if let Some(seek) = self.seek {
            put_pair(seek.bytes, seek.padding, to);
        }
        if let Some(upgrade) = self.upgrade {
            put_pair(upgrade.start, upgrade.length, to);
        }
        if self.priority != 0 {
            put_uint(self.priority, to);
        }
    }
}

impl Data {
    fn take(from: &mut Bytes) -> Result<Self, Flaw> {
        let flags = take_uint(from)?;
        let has = |flag| flags & flag != 0;
        let (request, fork) = take_pair(from)?;
        let block = part(from, has(flag::BLOCK), |from| {
            let (index, value) = (take_uint(from)?, take_buffer(from)?);
            Ok(DataBlock { index, value, nodes: take_nodes(from)? })
        })?;
        let hash = part(from, has(flag::HASH), |from| {
            Ok(DataHash { index: take_uint(from)?, nodes: take_nodes(from)? })
        })?;
        let seek = part(from, has(flag::SEEK), |from| {
            Ok(DataSeek { bytes: take_uint(from)?, nodes: take_nodes(from)? })
        })?;
        let upgrade = part(from, has(flag::UPGRADE), |from| {
            let (start, length) = take_pair(from)?;
            let (nodes, additional_nodes) = (take_nodes(from)?, take_nodes(from)?);
            let signature = take_buffer(from)?;
            at_most("bytes of signature", signature.len(), MAX_SIGNATURE_BYTES)?;
            Ok(DataUpgrade { start, length, nodes, additional_nodes, signature })
        })?;
        let manifest = part(from, has(flag::MANIFEST), |from| {
            at_most("bytes of manifest", from.len(), MAX_MANIFEST_BYTES)?;
            Ok(from.split_off(0))
        })?;
        Ok(Self { request, fork, block, hash, seek, upgrade, manifest })
    }

    fn put(&self, to: &mut BytesMut) {
        let flags = set(self.block.is_some(), flag::BLOCK)
            | set(self.hash.is_some(), flag::HASH)
            | set(self.seek.is_some(), flag::SEEK)
            | set(self.upgrade.is_some(), flag::UPGRADE)
            | set(self.manifest.is_some(), flag::MANIFEST);
        put_uint(flags, to);
        put_pair(self.request, self.fork, to);
        if let Some(DataBlock { index, value, nodes }) = &self.block {
            put_uint(*index, to);
            put_buffer(value, to);
            put_nodes(nodes, to);
        }
        if let Some(DataHash { index, nodes }) = &self.hash {
            put_uint(*index, to);
            put_nodes(nodes, to);
        }
        if let Some(DataSeek { bytes, nodes }) = &self.seek {
            put_uint(*bytes, to);
            put_nodes(nodes, to);
        }
        if let Some(upgrade) = &self.upgrade {
            put_pair(upgrade.start, upgrade.length, to);
            put_nodes(&upgrade.nodes, to);
            put_nodes(&upgrade.additional_nodes, to);
            put_buffer(&upgrade.signature, to);
        }
        if let Some(manifest) = &self.manifest {
            to.put_slice(manifest);
        }
    }
}

fn take_no_data(from: &mut Bytes) -> Result<Message, Flaw> {
    let request = take_uint(from)?;
    let flags = take_optional(from)?;
    let reason = part(from, flags & flag::REASON != 0, |from| Ok(take_uint(from)?))?;
    Ok(Message::NoData { request, reason: reason.and_then(NoDataReason::new) })
}

/// A number at the end of a message that an older version does not send; 0 if it is missing.
fn take_optional(from: &mut Bytes) -> Result<u64, Flaw> {
    if from.is_empty() {
        return Ok(0);
    }
    Ok(take_uint(from)?)
}

impl Want {
    fn take(from: &mut Bytes) -> Result<Self, Flaw> {
        let (start, length) = take_pair(from)?;
        Ok(Self { start, length, any: take_optional(from)? & flag::ANY != 0 })
    }

    fn put(&self, to: &mut BytesMut) {
        put_pair(self.start, self.length, to);
        if self.any {
            put_uint(flag::ANY, to);
        }
    }
}

fn take_bitfield(from: &mut Bytes) -> Result<Message, Flaw> {
    const WORD_BYTES: usize = 4;
    let start = take_uint(from)?;
    let count = take_count(from, "words of bitfield", MAX_BITFIELD_WORDS, WORD_BYTES)?;
    let bytes = from.split_to(count * WORD_BYTES);
    let (words, _) = bytes.as_chunks::<WORD_BYTES>();
    let words = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    Ok(Message::Bitfield { start, words })
}

fn take_range(from: &mut Bytes) -> Result<Message, Flaw> {
    let flags = take_uint(from)?;
    let start = take_uint(from)?;
    let length = if flags & flag::LENGTH_IS_ONE != 0 { 1 } else { take_uint(from)? };
    Ok(Message::Range { drop: flags & flag::DROP != 0, start, length })
}
