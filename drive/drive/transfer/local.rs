//! What lies at a local path, as far as a drive can hold it.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::attributes::{self, Attributes};
use super::{BLOCK_BYTES, failed};
use crate::stat::{Device, Kind, Stat};
use crate::time::Time;
use hypermount_core::Result;

/// Longest step of the clock that file systems take times from: two changes within one step look like
/// one. Linux steps each 10 ms at most.
const CLOCK_STEP: Duration = Duration::from_millis(20);
/// Bytes in which `st_blocks` counts.
const BLOCK_UNIT: u64 = 512;
/// How often a file is waited for that changes all the time.
const MAX_RESTS: usize = 3;

/// One local entry, its link not followed.
pub(super) struct Local {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// Bytes on disk; less than the size if it has holes, or is compressed.
    pub(super) allocated: u64,
    /// The numbers of a device.
    pub(super) device: Option<Device>,
    pub(crate) mtime: Time,
    ctime: Time,
    uid: u32,
    gid: u32,
    /// Which inode it is, if that has several names.
    pub(crate) inode: Option<Inode>,
    state: FileState,
}

/// A local inode, by device and number.
pub(super) type Inode = (u64, u64);

/// What changes when the content of a file does: its size, and both times in nanoseconds.
type FileState = (u64, (i64, i64), (i64, i64));

fn state(found: &Metadata) -> FileState {
    let (mtime, ctime) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    (found.size(), mtime, ctime)
}

impl Local {
    /// An open file. Of one that was changed a moment ago the times may stay what they are when it is
    /// changed again: that moment is waited for.
    pub(super) fn at_rest(file: &File) -> std::io::Result<Self> {
        let mut found = file.metadata()?;
        for _ in 0..MAX_RESTS {
            let changed = u64::try_from(found.ctime()).unwrap_or(0);
            let changed = Duration::new(changed, u32::try_from(found.ctime_nsec()).unwrap_or(0));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            match now.checked_sub(changed) {
                Some(age) if age < CLOCK_STEP => std::thread::sleep(CLOCK_STEP - age),
                // Longer ago, or by another clock.
                Some(_) | None => break,
            }
            found = file.metadata()?;
        }
        Ok(Self::new(&found))
    }

    /// Whether nothing has changed the file since.
    pub(super) fn is_still(&self, file: &File) -> std::io::Result<bool> {
        Ok(state(&file.metadata()?) == self.state)
    }

    pub(super) fn new(found: &Metadata) -> Self {
        let kind = Kind::from_mode(found.mode());
        let device = || Device {
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
        };
        Self {
            kind,
            allocated: found.blocks().saturating_mul(BLOCK_UNIT),
            device: matches!(kind, Kind::CharacterDevice | Kind::BlockDevice).then(device),
            mode: found.mode(),
            size: found.size(),
            mtime: time(found.mtime(), found.mtime_nsec()),
            ctime: time(found.ctime(), found.ctime_nsec()),
            uid: found.uid(),
            gid: found.gid(),
            inode: (!found.is_dir() && found.nlink() > 1).then(|| (found.dev(), found.ino())),
            state: state(found),
        }
    }

    /// The stat to store, its extent and link target yet to be filled in.
    pub(super) fn stat(&self, attributes: &Attributes, before: Option<&Stat>) -> Stat {
        Stat {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            ctime: self.ctime,
            // What reads a file here, this program too, is no access in the drive.
            atime: before.and_then(|before| before.atime),
            device: self.device,
            attributes: attributes::stored_for(attributes, before),
            foreign: before.and_then(|before| before.foreign.clone()),
            link: before.and_then(|before| before.link).filter(|_| self.inode.is_some()),
            ..Stat::default()
        }
    }
}

/// A time of a local file; 1970 for one that makes no sense.
pub(super) fn time(seconds: i64, nanoseconds: i64) -> Time {
    let nanoseconds = u32::try_from(nanoseconds).ok();
    nanoseconds.and_then(|rest| Time::new(seconds, rest)).unwrap_or_default()
}

/// Whether two times are equal to the millisecond, which all programs on drives store.
pub(super) fn same_time(one: Time, other: Time) -> bool {
    one.milliseconds() == other.milliseconds()
}

/// Whether two stats are equal for an entry whose content is equal. When the inode was last
/// changed is this machine's affair.
pub(super) fn same_metadata(one: &Stat, other: &Stat) -> bool {
    let what = |stat: &Stat| {
        let names = (stat.linkname.clone(), stat.attributes.clone());
        (stat.mode, stat.uid, stat.gid, stat.device, names)
    };
    what(one) == what(other) && same_time(one.mtime, other.mtime)
}

/// The names in a directory, in order.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>> {
    let listed = fs::read_dir(directory).map_err(failed("list", directory))?;
    let names: std::io::Result<Vec<OsString>> =
        listed.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(failed("list", directory))?;
    names.sort_unstable();
    Ok(names)
}

/// Opens a file or directory that is no link, without waiting for a fifo that took its place.
pub(super) fn open(path: &Path) -> Result<File> {
    let flags = libc_flags();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags).open(path).map_err(failed("open", path))
}

fn libc_flags() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    // All flags are defined in the low 31 bits.
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// The next block of a file; shorter than [`BLOCK_BYTES`] only at its end, and empty after it.
pub(super) fn read_block(file: &mut File, path: &Path) -> Result<Bytes> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let limit = BLOCK_BYTES as u64;
    file.by_ref().take(limit).read_to_end(&mut block).map_err(failed("read", path))?;
    Ok(Bytes::from(block))
}
