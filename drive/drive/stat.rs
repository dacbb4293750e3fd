//! What a path of a drive holds: [`Entry`] with its [`Stat`] and [`Extent`], era-neutral.
//!
//! The legacy protobuf encoding of a `Stat` is in `index/trie/stat.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::link::Link;
use crate::time::Time;
use hypermount_swarm::crypto::PublicKey;

/// Mask of the file type bits in [`Stat::mode`] (`S_IFMT` of inode(7); part of the format).
pub const TYPE_MASK: u32 = 0o170000;
/// A socket (`S_IFSOCK`).
pub const TYPE_SOCKET: u32 = 0o140000;
/// A symbolic link (`S_IFLNK`).
pub const TYPE_SYMLINK: u32 = 0o120000;
/// A regular file (`S_IFREG`).
pub const TYPE_FILE: u32 = 0o100000;
/// A block device (`S_IFBLK`).
pub const TYPE_BLOCK_DEVICE: u32 = 0o060000;
/// A directory (`S_IFDIR`).
pub const TYPE_DIRECTORY: u32 = 0o040000;
/// A character device (`S_IFCHR`).
pub const TYPE_CHARACTER_DEVICE: u32 = 0o020000;
/// A named pipe (`S_IFIFO`).
pub const TYPE_FIFO: u32 = 0o010000;

/// Mode of a directory without an entry of its own.
const IMPLIED_MODE: u32 = TYPE_DIRECTORY | 0o755;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another drive begins here; crossed like a mount point.
    Mount,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// Where a file's bytes are in the content core. Signed by the publisher, so never trusted to
/// make sense: readers check it against the core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// First block in the content core.
    pub block: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Offset of the first byte in the content core.
    pub byte: u64,
    /// Size of the file, in bytes.
    pub size: u64,
    /// 0 if the blocks hold the bytes of the file. Else they hold a map: the list of the blocks, anywhere in
    /// the content core, that do. It is this long, in bytes, and begins at `byte`.
    pub map_size: u64,
    /// How many of the bytes are holes: zeros that are stored as such. A statement of the publisher, as far as it made one;
    /// which bytes they are, [`crate::Drive::segment`] tells.
    pub holes: u64,
    /// The fork counter of the content core at the version that this is of. Later truncations may have put other bytes
    /// there, and reading fails then. No part of what an extent says: equal extents may differ in it.
    pub fork: u64,
}

impl PartialEq for Extent {
    fn eq(&self, other: &Self) -> bool {
        let said = |of: &Self| (of.block, of.blocks, of.byte, of.size, of.map_size, of.holes);
        said(self) == said(other)
    }
}

impl Eq for Extent {}

impl Extent {
    /// Whether both name the same bytes of a content core. What is said of holes does not count. The size of a file with a map is known only to
    /// those that have read the map, and does not count then.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |extent: &Self| match extent.map_size {
            0 => Self { holes: 0, ..*extent },
            _ => Self { size: 0, holes: 0, ..*extent },
        };
        place(self) == place(other)
    }
}

/// A stretch of a file that is all data or all hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whether it is known to be zeros that are stored as such.
    pub is_hole: bool,
    /// Where it ends in the file. The next stretch may be of the same kind.
    pub end: u64,
}

/// The drive (or, with `core`, the single core) mounted at an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountTarget {
    /// Of the mounted drive or core.
    pub key: PublicKey,
    /// Pinned version; `None` follows the newest.
    pub version: Option<u64>,
    /// The entry's bytes are the whole of this core, from byte 0 (`hypercore: true`).
    pub core: bool,
}

/// The numbers by which a system knows a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Of the driver.
    pub major: u32,
    /// Of the device among those of the driver.
    pub minor: u32,
}

/// The metadata of an entry, as a drive stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits as stored.
    pub mode: u32,
    /// The owner, as a number of the publisher's system.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// The bytes of a file.
    pub extent: Extent,
    /// When the content changed.
    pub mtime: Time,
    /// When the content or the metadata changed.
    pub ctime: Time,
    /// When the content was last read, as far as that is stored; without it, when it changed.
    pub atime: Option<Time>,
    /// The numbers of a device.
    pub device: Option<Device>,
    /// Target of a symbolic link, as stored.
    pub linkname: Option<String>,
    /// The drive or core that is mounted here.
    pub mount: Option<MountTarget>,
    /// Extended attributes in stored order; a removed one keeps its name with no value.
    pub attributes: Vec<(String, Option<Vec<u8>>)>,
    /// Set if the file has, or had, several names.
    pub link: Option<Link>,
    /// What other programs stored with the entry; it stays with it.
    pub foreign: Option<Arc<Foreign>>,
}

impl Stat {
    /// Whether both can be entries of one file: all is equal that a change of the file changes under each name.
    pub fn is_same_file(&self, other: &Self) -> bool {
        // When the file got or lost a name, its record says. A read under one name changes no entry.
        let rest = |stat: &Self| Self {
            ctime: Time::default(),
            atime: None,
            link: None,
            foreign: None,
            extent: Default::default(),
            ..stat.clone()
        };
        self.extent.is_same_place(&other.extent) && rest(self) == rest(other)
    }
}

/// What no format has a field for, and drives store in a member of their own: what of a stat the coarse times
/// do not say, the numbers of a device, and how much of a file is holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exact {
    pub(crate) mtime: Option<Time>,
    pub(crate) ctime: Option<Time>,
    pub(crate) atime: Option<Time>,
    pub(crate) device: Option<Device>,
    /// See [`Extent::holes`].
    pub(crate) holes: u64,
}

impl Exact {
    /// Of this stat; `None` if there is nothing that has to be stored.
    pub(crate) fn of(stat: &Stat) -> Option<Self> {
        let exact = |time: Time| Some(time).filter(|time| !time.is_coarse());
        let exact = Self {
            mtime: exact(stat.mtime),
            ctime: exact(stat.ctime),
            atime: stat.atime,
            device: stat.device,
            holes: stat.extent.holes,
        };
        (exact != Self::default()).then_some(exact)
    }
}

/// What other programs stored with an entry of Hyperdrive 11 to 13, as JSON by the names of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Members of its metadata.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Members of the entry itself.
    pub(crate) members: BTreeMap<String, String>,
}

/// What is at a path of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// By the stat, see [`Entry::stored`].
    pub kind: Kind,
    /// Its metadata.
    pub stat: Stat,
    /// False for a directory that exists only because something lies below it.
    pub explicit: bool,
}

impl Entry {
    /// What it counts in the budget of a listing: its bytes in memory, those of links and attributes four
    /// times, since one directory may be listed several times at once. Usual files have none.
    pub(crate) fn weight(&self) -> usize {
        let Stat { linkname, attributes, foreign, .. } = &self.stat;
        let attribute = |(name, value): &(String, Option<Vec<u8>>)| {
            size_of::<(String, Option<Vec<u8>>)>() + name.len() + value.as_ref().map_or(0, Vec::len)
        };
        let members = |foreign: &Arc<Foreign>| {
            let all = foreign.metadata.iter().chain(&foreign.members);
            all.map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len()).sum()
        };
        let fat = linkname.as_ref().map_or(0, String::len)
            + foreign.as_ref().map_or(0, members)
            + attributes.iter().map(attribute).sum::<usize>();
        size_of::<Self>() + 4 * fat
    }
}

impl Kind {
    /// What the type bits of `mode` say. Signed nonsense (no type, or one that does not exist) is
    /// taken for a file: it can be looked at and does no harm.
    pub(crate) fn from_mode(mode: u32) -> Self {
        match mode & TYPE_MASK {
            TYPE_DIRECTORY => Kind::Directory,
            TYPE_SYMLINK => Kind::Symlink,
            TYPE_FIFO => Kind::Fifo,
            TYPE_SOCKET => Kind::Socket,
            TYPE_CHARACTER_DEVICE => Kind::CharacterDevice,
            TYPE_BLOCK_DEVICE => Kind::BlockDevice,
            _ => Kind::File,
        }
    }
}

impl Entry {
    /// The entry of a stat that a drive stores. Another drive mounted there makes it a
    /// [`Kind::Mount`] and a mounted core a [`Kind::File`], whatever the mode says.
    pub fn stored(stat: Stat) -> Self {
        let kind = match &stat.mount {
            Some(target) if target.core => Kind::File,
            Some(_) => Kind::Mount,
            None => Kind::from_mode(stat.mode),
        };
        Self { kind, stat, explicit: true }
    }

    /// A directory that exists because something is below it, changed when `mtime` says.
    pub(crate) fn implied_directory(mtime: Time) -> Self {
        let stat = Stat { mode: IMPLIED_MODE, mtime, ctime: mtime, ..Stat::default() };
        Self { kind: Kind::Directory, stat, explicit: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_kind_and_nonsense_is_a_file() {
        for (mode, kind) in [
            (0o100644, Kind::File),
            (0o040755, Kind::Directory),
            (0o120777, Kind::Symlink),
            (0o010600, Kind::Fifo),
            (0o140600, Kind::Socket),
            (0o020600, Kind::CharacterDevice),
            (0o060600, Kind::BlockDevice),
            (0, Kind::File),
            (0o170000, Kind::File),
            (u32::MAX, Kind::File),
        ] {
            assert_eq!(Kind::from_mode(mode), kind, "{mode:o}");
        }
    }

    #[test]
    fn a_mounted_drive_is_a_mount_and_a_mounted_core_a_file() {
        let stat = |core| {
            let key = PublicKey::new([1; 32]);
            let mount = Some(MountTarget { key, version: None, core });
            Stat { mode: TYPE_DIRECTORY, mount, ..Stat::default() }
        };
        assert_eq!(Entry::stored(stat(false)).kind, Kind::Mount);
        assert_eq!(Entry::stored(stat(true)).kind, Kind::File);
    }

    #[test]
    fn entries_of_one_file_differ_in_nothing_that_a_program_sees() {
        let at = Time::from_milliseconds;
        let stat = Stat { mode: 0o100_644, mtime: at(1), ctime: at(2), ..Stat::default() };
        let link = crate::link::LinkId::random().ok().map(Link::unread);
        assert!(stat.is_same_file(&Stat { ctime: at(9), link, ..stat.clone() }));
        assert!(!stat.is_same_file(&Stat { mtime: at(2), ..stat.clone() }));
        assert!(!stat.is_same_file(&Stat { mode: 0o100_600, ..stat.clone() }));
        let extent = Extent { block: 1, blocks: 1, ..Default::default() };
        assert!(!stat.is_same_file(&Stat { extent, ..stat.clone() }));
    }
}
