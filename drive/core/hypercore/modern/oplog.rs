//! The `oplog` file of Hypercore 10: two slots for the header of a core, and entries that change it.
//!
//! Every record has a checksum and one bit. The bits of the two slots tell which slot is the current one, and
//! an entry counts while its bit is that of the current slot: writing the other slot makes all entries void
//! at once. A header that is too long for a slot is in a file of its own, and the slot says where.
//!
//! Pure: bytes in, records out, and back. Not here: the other files (`files.rs`), and whether a signature in a
//! record is good.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::super::merkle::TreeNode;
use super::manifest::{BadManifest, Manifest};
use hypermount_swarm::compact::{
    CutOff, put_buffer, put_list, put_uint, take_buffer, take_fixed, take_list, take_uint,
};
use hypermount_swarm::crypto::{Hash, PublicKey};

/// Bytes of one header slot.
pub(super) const SLOT: usize = 4096;
/// Where entries begin.
pub(super) const ENTRIES: usize = 2 * SLOT;
/// Bytes in front of the body of a record: its checksum, and its length with two flags.
const FRAME: usize = 8;
/// Entries of one core that are read; the reference writes a header after 65 KiB of them.
const MAX_ENTRIES: usize = 1 << 20;
/// Nodes of one entry that are read.
const MAX_ENTRY_NODES: usize = 1 << 20;

/// Bytes of the longest header in a file of its own: the longest manifest, several times.
const MAX_EXTERNAL: u64 = 1024 * 1024;

const HEADER_VERSION: u64 = 1;

/// What follows in a header.
mod header_flag {
    /// The header is in the file `header`; nothing else follows than where.
    pub(super) const EXTERNAL: u64 = 1;
    pub(super) const MANIFEST: u64 = 2;
    pub(super) const KEY_PAIR: u64 = 4;
}

/// What follows in an entry.
mod entry_flag {
    pub(super) const USER_DATA: u64 = 1;
    pub(super) const NODES: u64 = 2;
    pub(super) const UPGRADE: u64 = 4;
    pub(super) const BITFIELD: u64 = 8;
}

/// Why bytes are no record of an oplog.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadOplog {
    #[error("neither header is whole")]
    NoHeader,
    #[error("a record ends early")]
    CutOff(#[from] CutOff),
    #[error("the header has version {0}; versions up to {HEADER_VERSION} are understood")]
    Version(u64),
    #[error("the header has flags {0:#x}, which are unknown")]
    Flags(u64),
    #[error("the file with the header does not have it")]
    NoExternal,
    #[error(transparent)]
    Manifest(#[from] BadManifest),
}

/// Where a header lies in the file `header`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct External {
    /// In bytes.
    pub(super) start: u64,
    /// In bytes.
    pub(super) length: u64,
}

impl External {
    /// Where a header of `length` bytes goes without touching this one: as the reference places it, in front if
    /// there is room, else behind.
    fn next(self, length: u64) -> Self {
        let behind = self.start.saturating_add(self.length).next_multiple_of(SLOT as u64);
        Self { start: if length > self.start { behind } else { 0 }, length }
    }
}

/// The signed state of a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredTree {
    pub(super) fork: u64,
    /// Number of blocks.
    pub(super) length: u64,
    /// The hash over the roots; empty in an empty core.
    pub(super) root_hash: Bytes,
    pub(super) signature: Bytes,
}

/// The header of a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: PublicKey,
    pub(super) manifest: Option<Manifest>,
    /// The public and the secret key that sign the core, if the writer stored them.
    pub(super) key_pair: Option<(Bytes, Bytes)>,
    /// Names and values that programs store beside a core.
    pub(super) user_data: Vec<(Bytes, Bytes)>,
    pub(super) tree: StoredTree,
    /// Length of the run of blocks from the first on that are held; 0 if that is to be counted.
    pub(super) contiguous: u64,
}

/// Blocks that an entry says are held, or no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldBlocks {
    pub(super) drop: bool,
    pub(super) start: u64,
    pub(super) length: u64,
}

/// The step to another signed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upgraded {
    pub(super) fork: u64,
    /// Number of blocks that the state before had and this one still has.
    pub(super) ancestors: u64,
    pub(super) length: u64,
    pub(super) signature: Bytes,
}

/// One change of a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) user_data: Option<(Bytes, Bytes)>,
    pub(super) nodes: Vec<TreeNode>,
    pub(super) upgrade: Option<Upgraded>,
    pub(super) held: Option<HeldBlocks>,
}

/// What an oplog says.
#[derive(Debug)]
pub(super) struct Oplog {
    pub(super) header: Header,
    /// In order, each with the bytes that its record takes.
    pub(super) entries: Vec<(Entry, usize)>,
    /// Their records, as they are in the file.
    pub(super) records: Bytes,
    /// The bits of both slots, by which the next header is placed.
    pub(super) slots: Slots,
    /// Where the header is, if it is too long for a slot.
    pub(super) external: External,
}

/// A header as it is to be written.
#[derive(Debug)]
pub(super) struct Placed {
    /// Offset of the record in `oplog`, in bytes.
    pub(super) at: u64,
    pub(super) record: BytesMut,
    /// The bits of the slots once it is written.
    pub(super) slots: Slots,
    /// What is to be written to `header` before, and where.
    pub(super) external: Option<(External, BytesMut)>,
}

/// The bits of both slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots([bool; 2]);

impl Slots {
    /// Those of an oplog without a header.
    pub(super) const EMPTY: Self = Self([true, false]);

    fn current(self) -> usize {
        usize::from(self.0[0] != self.0[1])
    }

    /// The bit that an entry has to have.
    fn entry_bit(self) -> bool {
        self.0[0] != self.0[1]
    }

    /// The slot for the next header, and the bits once it is written.
    fn next(self) -> (usize, Self) {
        let slot = 1 - self.current();
        let mut bits = self.0;
        bits[slot] = !bits[slot];
        (slot, Self(bits))
    }
}

struct Record {
    bit: bool,
    partial: bool,
    body: Bytes,
    /// Bytes that it takes in the file.
    length: usize,
}

/// The record at the front of the bytes; `None` if there is no whole one.
fn take_record(bytes: &Bytes) -> Option<Record> {
    let mut front = bytes.get(..FRAME)?;
    let (checksum, word) = (front.get_u32_le(), front.get_u32_le());
    let length = FRAME + (word >> 2) as usize;
    let covered = bytes.get(4..length)?;
    (word >> 2 > 0 && crc32fast::hash(covered) == checksum).then(|| Record {
        bit: word & 1 == 1,
        partial: word & 2 == 2,
        body: bytes.slice(FRAME..length),
        length,
    })
}

fn put_record(bit: bool, body: &[u8]) -> BytesMut {
    let mut covered = BytesMut::with_capacity(FRAME + body.len());
    covered.put_u32_le(((body.len() as u32) << 2) | u32::from(bit));
    covered.extend_from_slice(body);
    let mut record = BytesMut::with_capacity(FRAME + body.len());
    record.put_u32_le(crc32fast::hash(&covered));
    record.unsplit(covered);
    record
}

/// Reads the bytes of an oplog file; `None` if no header was ever written whole to it. `header_file` reads from the
/// file with a header that is too long for a slot.
///
/// # Errors
/// `NoHeader` if none is whole, and those of the records that count.
pub(super) fn read(
    bytes: &Bytes,
    header_file: impl FnOnce(External) -> Option<Bytes>,
) -> Result<Option<Oplog>, BadOplog> {
    let slot = |at: usize| {
        let bytes = bytes.slice(at.min(bytes.len())..(at + SLOT).min(bytes.len()));
        take_record(&bytes)
    };
    let (slots, record) = match (slot(0), slot(SLOT)) {
        (Some(first), Some(second)) => {
            let slots = Slots([first.bit, second.bit]);
            (slots, if slots.current() == 0 { first } else { second })
        }
        // With one header alone it is the current one, whatever its bit.
        (Some(first), None) => (Slots([first.bit, first.bit]), first),
        (None, Some(second)) => (Slots([!second.bit, second.bit]), second),
        // The file gets this long once the first header is written.
        (None, None) if bytes.len() < ENTRIES || bytes.iter().all(|byte| *byte == 0) => {
            return Ok(None);
        }
        (None, None) => return Err(BadOplog::NoHeader),
    };
    let (header, external) = match External::decode(record.body.clone())? {
        Some(external) => {
            let short = external.length <= MAX_EXTERNAL;
            let body = short.then(|| header_file(external)).flatten();
            (Header::decode(body.ok_or(BadOplog::NoExternal)?)?, external)
        }
        None => (Header::decode(record.body)?, External::default()),
    };
    let rest = bytes.slice(ENTRIES.min(bytes.len())..);
    let entries = read_entries(rest.clone(), slots.entry_bit())?;
    let length: usize = entries.iter().map(|(_, length)| length).sum();
    let records = rest.slice(..length);
    Ok(Some(Oplog { header, entries, records, slots, external }))
}

/// The entries with the bit of the current header, and the bytes that each takes.
fn read_entries(mut rest: Bytes, bit: bool) -> Result<Vec<(Entry, usize)>, CutOff> {
    let mut entries: Vec<(Entry, usize, bool)> = Vec::new();
    while entries.len() < MAX_ENTRIES
        && let Some(record) = take_record(&rest).filter(|record| record.bit == bit)
    {
        rest.advance(record.length);
        entries.push((Entry::decode(record.body)?, record.length, record.partial));
    }
    // A batch that was not written to its end did not happen.
    while entries.last().is_some_and(|(.., partial)| *partial) {
        entries.pop();
    }
    Ok(entries.into_iter().map(|(entry, length, _)| (entry, length)).collect())
}

/// The record of an entry that counts under the current header.
pub(super) fn entry_record(entry: &Entry, slots: Slots) -> BytesMut {
    put_record(slots.entry_bit(), &entry.encode())
}

/// The next header, and where it goes, given the slots and where the current one is in `header`.
pub(super) fn next_header(header: &Header, slots: Slots, external: External) -> Placed {
    let (slot, bits) = slots.next();
    let body = header.encode();
    let placed = |record: BytesMut, external| Placed {
        at: (slot * SLOT) as u64,
        record,
        slots: bits,
        external,
    };
    if FRAME + body.len() <= SLOT {
        return placed(put_record(bits.0[slot], &body), None);
    }
    let external = external.next(body.len() as u64);
    placed(put_record(bits.0[slot], &external.encode()), Some((external, body)))
}

impl External {
    fn encode(self) -> BytesMut {
        let mut to = BytesMut::new();
        put_uint(HEADER_VERSION, &mut to);
        put_uint(header_flag::EXTERNAL, &mut to);
        put_uint(self.start, &mut to);
        put_uint(self.length, &mut to);
        to
    }

    /// What the body of a slot says if its header is in a file of its own.
    fn decode(mut body: Bytes) -> Result<Option<Self>, CutOff> {
        let from = &mut body;
        if take_uint(from)? != HEADER_VERSION || take_uint(from)? & header_flag::EXTERNAL == 0 {
            return Ok(None);
        }
        Ok(Some(Self { start: take_uint(from)?, length: take_uint(from)? }))
    }
}

impl Header {
    fn encode(&self) -> BytesMut {
        let mut to = BytesMut::new();
        put_uint(HEADER_VERSION, &mut to);
        let mut flags = 0;
        if self.manifest.is_some() {
            flags |= header_flag::MANIFEST;
        }
        if self.key_pair.is_some() {
            flags |= header_flag::KEY_PAIR;
        }
        put_uint(flags, &mut to);
        to.extend_from_slice(self.key.as_bytes());
        if let Some(manifest) = &self.manifest {
            manifest.encode(&mut to);
        }
        if let Some((public, secret)) = &self.key_pair {
            put_buffer(public, &mut to);
            put_buffer(secret, &mut to);
        }
        put_list(&self.user_data, &mut to, |(name, value), to| {
            put_buffer(name, to);
            put_buffer(value, to);
        });
        put_uint(self.tree.fork, &mut to);
        put_uint(self.tree.length, &mut to);
        put_buffer(&self.tree.root_hash, &mut to);
        put_buffer(&self.tree.signature, &mut to);
        // Hints of truncations under way: none.
        put_uint(0, &mut to);
        put_uint(self.contiguous, &mut to);
        to
    }

    fn decode(mut body: Bytes) -> Result<Self, BadOplog> {
        let from = &mut body;
        match take_uint(from)? {
            0 => return Self::decode_oldest(from),
            HEADER_VERSION => {}
            version => return Err(BadOplog::Version(version)),
        }
        let flags = take_uint(from)?;
        if flags & !(header_flag::MANIFEST | header_flag::KEY_PAIR) != 0 {
            return Err(BadOplog::Flags(flags));
        }
        let key = PublicKey::new(take_fixed(from)?);
        let has = |flag| flags & flag != 0;
        let manifest = has(header_flag::MANIFEST).then(|| Manifest::decode(from)).transpose()?;
        let key_pair = has(header_flag::KEY_PAIR).then(|| take_pair(from)).transpose()?;
        let user_data = take_list(from, usize::MAX, take_pair)?;
        let tree = StoredTree::decode(from)?;
        take_list(from, usize::MAX, take_hint)?;
        let contiguous = if from.is_empty() { 0 } else { take_uint(from)? };
        Ok(Self { key, manifest, key_pair, user_data, tree, contiguous })
    }

    /// Version 0, of the first releases of Hypercore 10: the key is that of the key pair.
    fn decode_oldest(from: &mut Bytes) -> Result<Self, BadOplog> {
        for _ in 0..3 {
            take_buffer(from)?;
        }
        let user_data = take_list(from, usize::MAX, take_pair)?;
        let tree = StoredTree::decode(from)?;
        let (public, secret) = take_pair(from)?;
        let key = Hash::try_from(public.as_ref()).map_err(|_| CutOff)?;
        take_list(from, usize::MAX, take_hint)?;
        let key_pair = Some((public, secret));
        let key = PublicKey::new(key);
        Ok(Self { key, manifest: None, key_pair, user_data, tree, contiguous: 0 })
    }
}

impl StoredTree {
    fn decode(from: &mut Bytes) -> Result<Self, CutOff> {
        Ok(Self {
            fork: take_uint(from)?,
            length: take_uint(from)?,
            root_hash: take_buffer(from)?,
            signature: take_buffer(from)?,
        })
    }
}

impl Entry {
    fn encode(&self) -> BytesMut {
        let Self { user_data, nodes, upgrade, held } = self;
        let flag = |there: bool, flag| if there { flag } else { 0 };
        let mut to = BytesMut::new();
        put_uint(
            flag(user_data.is_some(), entry_flag::USER_DATA)
                | flag(!nodes.is_empty(), entry_flag::NODES)
                | flag(upgrade.is_some(), entry_flag::UPGRADE)
                | flag(held.is_some(), entry_flag::BITFIELD),
            &mut to,
        );
        if let Some((name, value)) = user_data {
            put_buffer(name, &mut to);
            put_buffer(value, &mut to);
        }
        if !nodes.is_empty() {
            put_list(nodes, &mut to, |node, to| {
                put_uint(node.index, to);
                put_uint(node.size, to);
                to.extend_from_slice(&node.hash);
            });
        }
        if let Some(Upgraded { fork, ancestors, length, signature }) = upgrade {
            [fork, ancestors, length].into_iter().for_each(|number| put_uint(*number, &mut to));
            put_buffer(signature, &mut to);
        }
        if let Some(HeldBlocks { drop, start, length }) = held {
            [u64::from(*drop), *start, *length]
                .into_iter()
                .for_each(|number| put_uint(number, &mut to));
        }
        to
    }

    fn decode(mut body: Bytes) -> Result<Self, CutOff> {
        let from = &mut body;
        let flags = take_uint(from)?;
        let mut entry = Self::default();
        if flags & entry_flag::USER_DATA != 0 {
            entry.user_data = Some(take_pair(from)?);
        }
        if flags & entry_flag::NODES != 0 {
            entry.nodes = take_list(from, MAX_ENTRY_NODES, take_node)?;
        }
        if flags & entry_flag::UPGRADE != 0 {
            entry.upgrade = Some(Upgraded {
                fork: take_uint(from)?,
                ancestors: take_uint(from)?,
                length: take_uint(from)?,
                signature: take_buffer(from)?,
            });
        }
        if flags & entry_flag::BITFIELD != 0 {
            let drop = take_uint(from)? & 1 == 1;
            entry.held =
                Some(HeldBlocks { drop, start: take_uint(from)?, length: take_uint(from)? });
        }
        Ok(entry)
    }
}

fn take_pair(from: &mut Bytes) -> Result<(Bytes, Bytes), CutOff> {
    Ok((take_buffer(from)?, take_buffer(from)?))
}

fn take_hint(from: &mut Bytes) -> Result<(), CutOff> {
    for _ in 0..3 {
        take_uint(from)?;
    }
    Ok(())
}

fn take_node(from: &mut Bytes) -> Result<TreeNode, CutOff> {
    let (index, size) = (take_uint(from)?, take_uint(from)?);
    Ok(TreeNode { index, size, hash: take_fixed(from)? })
}
