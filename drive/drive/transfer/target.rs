//! A local directory that is written without ever leaving it: every step is relative to an open
//! directory, and no link is followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat as Found, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::{Errno, Result};

use super::local::{self, Inode};
use crate::stat::{Stat, TYPE_MASK};
use crate::time::Time;
use hypermount_swarm::crypto;

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One open directory.
pub(super) struct TargetDirectory(OwnedFd);

impl TargetDirectory {
    /// The directory a person named; here links are followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self)
    }

    /// What lies under the name; `None` if nothing does.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<Found>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The subdirectory, made if it is not there; for its owner alone until [`TargetDirectory::finish`].
    pub(super) fn subdirectory(&self, name: &OsStr) -> Result<Self> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        self.existing(name)
    }

    pub(super) fn existing(&self, name: &OsStr) -> Result<Self> {
        rustix::fs::openat(&self.0, name, OPEN_DIRECTORY, Mode::empty()).map(Self)
    }

    /// Makes an open directory one we may write in, whatever its mode is to be in the end.
    pub(super) fn unlock(&self) -> Result<()> {
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.0)?.st_mode);
        if mode.contains(Mode::RWXU) {
            return Ok(());
        }
        rustix::fs::fchmod(&self.0, mode | Mode::RWXU)
    }

    pub(super) fn file(&self, name: &OsStr) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, name, flags, Mode::empty()).map(File::from)
    }

    /// The name under which `name` is written until it is whole. Always the same, so that what an
    /// interrupted run leaves behind is replaced by the next.
    pub(super) fn temporary(name: &OsStr) -> OsString {
        let hash = crypto::blake2b(&[b"hypermount export", name.as_bytes()]);
        let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!(".hypermount-{hex}.partial").into()
    }

    /// A new empty file for its owner alone; what had the name is gone.
    pub(super) fn create(&self, name: &OsStr) -> Result<File> {
        self.unlink(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::openat(&self.0, name, flags | OFlags::CLOEXEC, mode).map(File::from)
    }

    pub(super) fn symlink(&self, name: &OsStr, target: &[u8]) -> Result<()> {
        self.unlink(name)?;
        rustix::fs::symlinkat(target, &self.0, name)
    }

    /// Makes the fifo, socket or device with this stat, for its owner alone.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn special(&self, name: &OsStr, stat: &Stat) -> Result<()> {
        self.unlink(name)?;
        let device = stat.device.unwrap_or_default();
        let device = rustix::fs::makedev(device.major, device.minor);
        let kind = FileType::from_raw_mode((stat.mode & TYPE_MASK) as RawMode);
        rustix::fs::mknodat(&self.0, name, kind, Mode::RUSR | Mode::WUSR, device)
    }

    /// Mode and modification time of what is no file, directory or link. It is not opened: that would wait for a fifo, and
    /// may start a device.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn finish_special(&self, name: &OsStr, mode: u32, mtime: Time) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        if rustix::fs::fstat(&node).map(|found| is_symlink(&found) || is_file(&found))? {
            return Err(Errno::EXIST);
        }
        // A descriptor of this kind has a name, and no other access to the mode.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
        rustix::fs::chmod(path, Mode::from_raw_mode((mode & 0o7777) as RawMode))?;
        self.set_link_time(name, mtime)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn special(&self, _name: &OsStr, _stat: &Stat) -> Result<()> {
        Err(Errno::NOTSUP)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn finish_special(&self, _name: &OsStr, _mode: u32, _mtime: Time) -> Result<()> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn link_target(&self, name: &OsStr) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(&self.0, name, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        rustix::fs::renameat(&self.0, from, &self.0, to)
    }

    /// Makes `name` another name of the file `other` in the directory `from`.
    pub(super) fn link(&self, from: &Self, other: &OsStr, name: &OsStr) -> Result<()> {
        self.unlink(name)?;
        rustix::fs::linkat(&from.0, other, &self.0, name, AtFlags::empty())
    }

    /// Removes what is no directory, if it is there.
    pub(super) fn unlink(&self, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn remove_directory(&self, name: &OsStr) -> Result<()> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// The names inside.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Sets the times of a link itself.
    pub(super) fn set_link_time(&self, name: &OsStr, mtime: Time) -> Result<()> {
        rustix::fs::utimensat(&self.0, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(super) fn as_file(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }

    /// Returns when everything on the file system of this directory is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&self.0)?;
        #[cfg(not(target_os = "linux"))]
        rustix::fs::sync();
        Ok(())
    }
}

/// Mode and modification time of an open file or directory, the last things set.
pub(super) fn finish(file: impl AsFd, mode: u32, mtime: Time) -> Result<()> {
    // Mode bits fit the narrowest type a system has for them.
    let mode = Mode::from_raw_mode((mode & 0o7777) as RawMode);
    rustix::fs::fchmod(&file, mode)?;
    rustix::fs::futimens(&file, &times(mtime))
}

fn times(mtime: Time) -> Timestamps {
    // Below 10^9.
    let nanoseconds = mtime.nanoseconds() as _;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: mtime.seconds(), tv_nsec: nanoseconds },
    }
}

pub(super) fn is_directory(found: &Found) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

pub(super) fn is_file(found: &Found) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}

/// Whether it is the fifo, socket or device with this stat.
#[allow(clippy::useless_conversion)] // the widths of these fields differ between systems
pub(super) fn is_special(found: &Found, stat: &Stat) -> bool {
    let kind = FileType::from_raw_mode((stat.mode & TYPE_MASK) as RawMode);
    let device = stat.device.unwrap_or_default();
    FileType::from_raw_mode(found.st_mode) == kind
        && (stat.device.is_none()
            || u64::from(found.st_rdev) == rustix::fs::makedev(device.major, device.minor))
}

pub(super) fn is_symlink(found: &Found) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Symlink
}

#[allow(clippy::useless_conversion)] // the widths of these fields differ between systems
pub(super) fn inode(found: &Found) -> Inode {
    (found.st_dev.into(), found.st_ino.into())
}

#[allow(clippy::useless_conversion)] // the widths of these fields differ between systems
pub(super) fn permissions(found: &Found) -> u32 {
    u32::from(found.st_mode) & 0o7777
}

/// Whether it has this modification time, to the millisecond.
#[allow(clippy::useless_conversion)] // the widths of these fields differ between systems
pub(super) fn has_mtime(found: &Found, mtime: Time) -> bool {
    let nanoseconds = i64::try_from(found.st_mtime_nsec).unwrap_or(0);
    local::same_time(local::time(found.st_mtime.into(), nanoseconds), mtime)
}
