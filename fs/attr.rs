//! What stat(2) reports for an entry, and how long the kernel may cache it.
//!
//! The fields of an entry are signed by the publisher, who may be hostile or careless. Here, and
//! only here, every field is brought into the range that a filesystem can hold. Not here: the
//! target of a link (`symlink.rs`), which also determines its size.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::{Device, Entry, Kind, PublicKey, Time};

/// `st_blksize` in bytes, the size in which programs should read: the block size of drives.
const PREFERRED_READ_BYTES: u32 = 64 * 1024;
/// Unit of `st_blocks` in bytes, the same on every filesystem (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;
/// Largest size a file can have for the kernel (`loff_t` is signed).
pub(crate) const MAX_FILE_BYTES: u64 = i64::MAX as u64;
/// Earliest and latest time shown, in seconds since 1970: the years 1 to 9999. Programs that print other
/// times overflow.
const EARLIEST_SECONDS: i64 = -62_135_596_800;
const LATEST_SECONDS: i64 = 253_402_300_799;

/// How long the kernel may cache names and attributes of a version that never changes.
pub(crate) const TTL_FROZEN: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the kernel may cache names and attributes of a followed drive. Changes are announced to
/// the kernel, so this only limits the effect of a lost notice.
pub(crate) const TTL_FOLLOWED: Duration = Duration::from_secs(3600);
/// How long the kernel may cache "no such file" in a followed drive. A notice announces a created
/// name where the difference of two versions is known; where it is not, this is how long the old
/// answer lives.
pub(crate) const TTL_ABSENT_FOLLOWED: Duration = Duration::from_secs(10);

/// Permission bits of a directory that no program made explicitly.
const IMPLIED_DIRECTORY: u16 = 0o755;
const OWNER_READ: u16 = 0o400;
const OWNER_READ_AND_SEARCH: u16 = 0o500;
const PERMISSIONS: u32 = 0o777;
const PERMISSIONS_AND_SPECIAL: u32 = 0o7777;

/// The owner that the files of a mount are shown with, and whether the ids of the drive are
/// trusted.
///
/// The ids stored in the drive of another publisher are numbers of the publisher's machine and mean
/// nothing here: all files are shown as owned by the user who mounted. In a writable drive, ids are
/// shown as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The user this process runs as.
    pub fn current() -> Self {
        Self { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() }
    }

    /// The ids to show for an entry of a writable drive. Programs without owners store 0. A user
    /// other than root could not use root's files in their own drive, so an id of 0 is shown as
    /// that user's.
    fn stored(self, entry: &Entry) -> (u32, u32) {
        let known = |stored: u32, own: u32| if stored == 0 { own } else { stored };
        match entry.explicit {
            true => (known(entry.stat.uid, self.uid), known(entry.stat.gid, self.gid)),
            false => (self.uid, self.gid),
        }
    }
}

/// The file type of the entry. A nested drive is a directory.
pub(crate) fn file_type(entry: &Entry) -> FileType {
    match entry.kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory | Kind::Mount => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The core that is shown as this file; `None` for every other entry.
pub(crate) fn core_of(entry: &Entry) -> Option<&PublicKey> {
    let target = entry.stat.mount.as_ref().filter(|t| t.core && entry.kind == Kind::File)?;
    Some(&target.key)
}

/// The attributes of `entry` under inode number `ino`. The caller supplies `size` in bytes, since
/// the size of a link or of a core is not in the entry.
pub(crate) fn attributes(ino: u64, entry: &Entry, size: u64, owner: Owner, ours: bool) -> FileAttr {
    let kind = file_type(entry);
    let size = if kind == FileType::Directory { 0 } else { size.min(MAX_FILE_BYTES) };
    let (uid, gid) = if ours { owner.stored(entry) } else { (owner.uid, owner.gid) };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: stat_blocks(size, entry.stat.extent.holes),
        atime: time(entry.stat.atime.unwrap_or(entry.stat.mtime)),
        mtime: time(entry.stat.mtime),
        ctime: time(entry.stat.ctime),
        crtime: time(entry.stat.ctime),
        kind,
        perm: permissions(entry, kind, ours),
        nlink: match kind {
            FileType::Directory => 1,
            _ => entry.stat.link.map_or(1, |link| link.names.max(1)),
        },
        uid,
        gid,
        rdev: entry.stat.device.filter(|_| is_device(kind)).map_or(0, device_number),
        blksize: PREFERRED_READ_BYTES,
        flags: 0,
    }
}

/// All but the holes, not what is on this disk: programs look for holes if it is less than the size. Those that find
/// nothing stored read nothing, and what is said of holes may be wrong.
fn stat_blocks(size: u64, holes: u64) -> u64 {
    size.saturating_sub(holes).div_ceil(STAT_BLOCK_BYTES).max(u64::from(size > 0))
}

/// Removes the setuid, setgid and sticky bits in another publisher's drive, and always sets the
/// owner's read bit (and search bit): the user who mounted can read every file that they see.
fn permissions(entry: &Entry, kind: FileType, ours: bool) -> u16 {
    if kind == FileType::Symlink {
        return 0o777;
    }
    if kind == FileType::Directory && !entry.explicit && entry.kind == Kind::Directory {
        return IMPLIED_DIRECTORY;
    }
    let mask = if ours { PERMISSIONS_AND_SPECIAL } else { PERMISSIONS };
    let stored = u16::try_from(entry.stat.mode & mask).unwrap_or(0);
    let readable = if kind == FileType::Directory { OWNER_READ_AND_SEARCH } else { OWNER_READ };
    if ours { stored } else { stored | readable }
}

pub(crate) fn time(time: Time) -> SystemTime {
    let earliest = Time::new(EARLIEST_SECONDS, 0).unwrap_or_default();
    let latest = Time::new(LATEST_SECONDS, 0).unwrap_or_default();
    time.clamp(earliest, latest).into()
}

fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::CharDevice | FileType::BlockDevice)
}

/// The number of a device in requests and replies, as Linux packs it: 12 bits for the driver, 20 for the device.
/// 0, which is no device, for numbers that do not fit.
fn device_number(device: Device) -> u32 {
    let Device { major, minor } = device;
    match major < 1 << 12 && minor < 1 << 20 {
        true => minor & 0xff | major << 8 | (minor & !0xff) << 12,
        false => 0,
    }
}

/// The device of such a number.
pub(crate) fn device(number: u32) -> Device {
    Device { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xf_ff00 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypermount_drive::{Extent, MountTarget, Stat};

    const OWNER: Owner = Owner { uid: 1000, gid: 1001 };

    fn entry(kind: Kind, mode: u32, size: u64) -> Entry {
        let extent = Extent { size, ..Extent::default() };
        Entry {
            kind,
            stat: Stat { mode, uid: 7, gid: 8, extent, ..Stat::default() },
            explicit: true,
        }
    }

    fn shown(entry: &Entry, ours: bool) -> FileAttr {
        attributes(42, entry, entry.stat.extent.size, OWNER, ours)
    }

    /// 19. Files are shown as owned by the user who mounted the drive.
    #[test]
    fn a_file_belongs_to_the_mounter_and_claims_all_its_blocks() {
        for (size, blocks) in [(0, 0), (1, 1), (512, 1), (513, 2), (204_800, 400)] {
            let attr = shown(&entry(Kind::File, 0o100755, size), false);
            assert_eq!((attr.size, attr.blocks), (size, blocks));
            assert_eq!((attr.uid, attr.gid, attr.nlink), (1000, 1001, 1));
            assert_eq!((attr.perm, attr.kind), (0o755, FileType::RegularFile));
            assert_eq!(attr.ino, INodeNo(42));
        }
    }

    /// Sentence 41. "An owner of 0, which programs without owners store, is shown to a mounting
    /// user other than root as that user."
    #[test]
    fn owners_in_a_writable_drive_are_shown_except_root() {
        let mut file = entry(Kind::File, 0o100644, 1);
        let owners = |file: &Entry, ours| (shown(file, ours).uid, shown(file, ours).gid);
        assert_eq!(owners(&file, true), (7, 8));
        assert_eq!(
            owners(&file, false),
            (1000, 1001),
            "ids of another publisher mean nothing here"
        );
        (file.stat.uid, file.stat.gid) = (0, 8);
        assert_eq!(owners(&file, true), (1000, 8));
        let root = Owner { uid: 0, gid: 0 };
        assert_eq!(attributes(42, &file, 1, root, true).uid, 0);
    }

    /// 21. Sizes and times are as published, clamped to the range that a filesystem can hold.
    #[test]
    fn hostile_sizes_and_times_are_brought_into_range() {
        let mut hostile = entry(Kind::File, 0o100644, u64::MAX);
        let at = |seconds, nanoseconds| Time::new(seconds, nanoseconds).expect("a time");
        hostile.stat.mtime = Time::from_milliseconds(1 << 53);
        hostile.stat.ctime = at(i64::MAX, 999_999_999);
        hostile.stat.atime = Some(at(i64::MIN, 5));
        let attr = shown(&hostile, false);
        assert_eq!(attr.size, MAX_FILE_BYTES);
        let latest = at(253_402_300_799, 0).into();
        assert_eq!((attr.mtime, attr.ctime), (latest, latest));
        assert_eq!(attr.atime, at(-62_135_596_800, 0).into());
        hostile.stat.mtime = at(-5, 123_456_789);
        hostile.stat.atime = None;
        let attr = shown(&hostile, false);
        assert_eq!((attr.mtime, attr.atime), (hostile.stat.mtime.into(), attr.mtime));
    }

    #[test]
    fn strangers_bits_are_sanitised_and_ours_are_kept() {
        let table = [
            (Kind::File, 0o104755, 0o755, 0o4755),
            (Kind::File, 0o102711, 0o711, 0o2711),
            (Kind::File, 0o100000, 0o400, 0),
            (Kind::File, 0o100222, 0o622, 0o222),
            (Kind::Directory, 0o041777, 0o777, 0o1777),
            (Kind::Directory, 0o040000, 0o500, 0),
            (Kind::Symlink, 0o120644, 0o777, 0o777),
            (Kind::File, u32::MAX, 0o777, 0o7777),
        ];
        for (kind, mode, stranger, ours) in table {
            assert_eq!(shown(&entry(kind, mode, 0), false).perm, stranger, "{mode:o}");
            assert_eq!(shown(&entry(kind, mode, 0), true).perm, ours, "{mode:o}");
        }
        let implied = Entry { explicit: false, ..entry(Kind::Directory, 0, 0) };
        assert_eq!(shown(&implied, false).perm, 0o755);
    }

    #[test]
    fn a_nested_drive_is_a_directory_and_a_nested_core_a_file() {
        let key = PublicKey::new([1; 32]);
        let nested = |core| {
            let mount = Some(MountTarget { key, version: None, core });
            Entry::stored(Stat { mount, ..entry(Kind::File, 0o040755, 99).stat })
        };
        let (drive, core) = (nested(false), nested(true));
        assert_eq!(
            (shown(&drive, false).kind, shown(&drive, false).size),
            (FileType::Directory, 0)
        );
        assert_eq!(
            (shown(&core, false).kind, shown(&core, false).size),
            (FileType::RegularFile, 99)
        );
        assert_eq!((core_of(&drive), core_of(&core)), (None, Some(&key)));
    }

    #[test]
    fn special_files_keep_their_kind() {
        for (kind, expected) in [
            (Kind::Fifo, FileType::NamedPipe),
            (Kind::Socket, FileType::Socket),
            (Kind::CharacterDevice, FileType::CharDevice),
            (Kind::BlockDevice, FileType::BlockDevice),
        ] {
            let mut special = entry(kind, 0o600, 0);
            assert_eq!((shown(&special, false).kind, shown(&special, false).rdev), (expected, 0));
            special.stat.device = Some(Device { major: 0x12, minor: 0x3_4567 });
            let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
            let number = if is_device { 0x3450_1267 } else { 0 };
            assert_eq!(shown(&special, false).rdev, number, "{kind:?}");
        }
    }

    #[test]
    fn numbers_of_devices_are_packed_as_linux_does() {
        for (major, minor, number) in [
            (1, 3, 0x103),
            (8, 255, 0x8ff),
            (8, 256, 0x10_0800),
            (0xfff, 0xf_ffff, 0xffff_ffff),
            (0, 0, 0),
        ] {
            let packed = Device { major, minor };
            assert_eq!(device_number(packed), number);
            assert_eq!(device(number), packed);
        }
        assert_eq!(device_number(Device { major: 0x1000, minor: 1 }), 0);
        assert_eq!(device_number(Device { major: 1, minor: 1 << 20 }), 0);
    }
}
