//! What a path of a drive holds: [`Entry`] with its [`Stat`] and [`Extent`], era-neutral.
//!
//! The legacy protobuf encoding of a `Stat` is in `index/trie/stat.rs`.

use crate::crypto::PublicKey;

/// Mask and values of the file type bits in [`Stat::mode`] (stat(2) numbers, part of the format).
pub const TYPE_MASK: u32 = 0o170000;
pub const TYPE_SOCKET: u32 = 0o140000;
pub const TYPE_SYMLINK: u32 = 0o120000;
pub const TYPE_FILE: u32 = 0o100000;
pub const TYPE_BLOCK_DEVICE: u32 = 0o060000;
pub const TYPE_DIRECTORY: u32 = 0o040000;
pub const TYPE_CHARACTER_DEVICE: u32 = 0o020000;
pub const TYPE_FIFO: u32 = 0o010000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Another drive begins here; crossed like a mount point.
    Mount,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// Where a file's bytes are in the content core. Signed by the publisher, so never trusted to
/// make sense: readers check it against the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First block and number of blocks in the content core.
    pub block: u64,
    pub blocks: u64,
    /// First byte in the content core, and the file's size in bytes.
    pub byte: u64,
    pub size: u64,
}

/// The drive (or, with `core`, the single core) mounted at an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountTarget {
    pub key: PublicKey,
    /// Pinned version; `None` follows the newest.
    pub version: Option<u64>,
    /// The entry's bytes are the whole of this core, from byte 0 (`hypercore: true`).
    pub core: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits as stored.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub extent: Extent,
    /// Milliseconds since the epoch.
    pub mtime: u64,
    pub ctime: u64,
    /// Target of a symbolic link, as stored.
    pub linkname: Option<String>,
    pub mount: Option<MountTarget>,
    /// Extended attributes in stored order; a removed one keeps its name with no value.
    pub attributes: Vec<(String, Option<Vec<u8>>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub stat: Stat,
    /// False for a directory that exists only because something lies below it.
    pub explicit: bool,
}
