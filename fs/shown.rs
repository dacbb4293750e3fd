//! What a mount shows: one drive, or all drives in a [`Root`]. Dispatches each operation to the one
//! that its inode belongs to.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuser::FileAttr;
use hypermount_drive::{Drive, Pieces, Space};

use crate::errno::{Error, Result};
use crate::file::Opened;
use crate::filesystem::{Fs, Looked};
use crate::journal::Journal;
use crate::listing::{Listed, Page};
use crate::platform::Caller;
use crate::root::{self, Root};
use crate::serve::Request;
use crate::status::{self, Status};
use crate::xattr::{self, XattrAnswer};

#[derive(Clone)]
pub(crate) enum Shown {
    Drive(Arc<Fs>),
    Root(Arc<Root>),
}

/// As [`Shown`], without keeping it alive.
pub(crate) enum WeakShown {
    Drive(Weak<Fs>),
    Root(Weak<Root>),
}

/// What an inode belongs to, which decides what every operation on it does.
enum At<'a> {
    Drive(Arc<Fs>),
    Status(Status),
    /// A directory above all drives.
    Root(&'a Arc<Root>),
}

/// The names of a directory, from an offset.
pub(crate) enum Names {
    Drive(Page, Arc<Fs>),
    /// From an offset on.
    Status(Status, u64),
    /// From an offset on.
    Root(Arc<root::Listing>, u64),
}

impl Names {
    /// Passes the names to `add` until it returns that it is full. With `plus`, each accepted name
    /// in a drive, except `.` and `..`, is counted as looked up. Names of a root are not, since a
    /// lookup of one opens its drive.
    pub(crate) fn fill(&self, plus: bool, add: impl FnMut(&Listed<'_>) -> bool) {
        match self {
            Names::Drive(page, fs) => page.fill(fs, plus, add),
            Names::Status(status, offset) => status.fill(*offset, add),
            Names::Root(listing, offset) => listing.fill(*offset, add),
        }
    }
}

impl WeakShown {
    pub(crate) fn upgrade(&self) -> Option<Shown> {
        match self {
            WeakShown::Drive(fs) => fs.upgrade().map(Shown::Drive),
            WeakShown::Root(root) => root.upgrade().map(Shown::Root),
        }
    }
}

impl Shown {
    pub(crate) fn downgrade(&self) -> WeakShown {
        match self {
            Shown::Drive(fs) => WeakShown::Drive(Arc::downgrade(fs)),
            Shown::Root(root) => WeakShown::Root(Arc::downgrade(root)),
        }
    }

    fn at(&self, ino: u64) -> Result<At<'_>> {
        let fs = match self {
            Shown::Drive(fs) => fs.clone(),
            Shown::Root(root) if Root::owns(ino) => return Ok(At::Root(root)),
            Shown::Root(root) => root.drive_of(ino)?,
        };
        Ok(match Status::at(&fs, ino) {
            Some(status) => At::Status(status),
            None => At::Drive(fs),
        })
    }

    /// The filesystem that an inode is in.
    ///
    /// # Errors
    ///
    /// If it is in none, fails with the error of an attempt to change the inode.
    pub(crate) fn drive_of(&self, ino: u64) -> Result<Arc<Fs>> {
        match self.at(ino)? {
            At::Drive(fs) => Ok(fs),
            At::Status(_) => Err(Error::ReadOnly),
            At::Root(root) => root.drive_of(ino),
        }
    }

    /// The drive that both inodes are in.
    ///
    /// # Errors
    ///
    /// Fails if they are in different drives or in none.
    pub(crate) fn drive_of_both(&self, one: u64, other: u64) -> Result<Arc<Fs>> {
        let same = match self {
            Shown::Drive(_) => true,
            Shown::Root(_) => Root::are_together(one, other),
        };
        if !same {
            return Err(Error::OtherDrive);
        }
        self.drive_of(other)?;
        self.drive_of(one)
    }

    /// The drive of two files, one of which is to be copied into the other.
    pub(crate) fn copy_within(&self, from: u64, to: u64) -> Result<Arc<Fs>> {
        match self.at(from)? {
            At::Status(_) => Err(Error::NotSupported("sharing the blocks of a status")),
            At::Drive(_) | At::Root(_) => self.drive_of_both(from, to),
        }
    }

    pub(crate) fn forget(&self, ino: u64, count: u64) {
        match self {
            Shown::Drive(fs) => fs.forget(ino, count),
            Shown::Root(root) => root.forget(ino, count),
        }
    }

    pub(crate) async fn lookup(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Looked> {
        match self.at(parent)? {
            At::Root(root) => root.lookup(parent, name).await,
            At::Status(status) => status.lookup(name),
            At::Drive(fs) => {
                let looked = fs.lookup_for(parent, name, thread).await?;
                let is_status = parent == fs.root_number() && name == status::DIRECTORY;
                match looked {
                    Looked::Absent { .. } if is_status => Ok(Status::directory(&fs).found()),
                    looked => Ok(looked),
                }
            }
        }
    }

    pub(crate) async fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        match self.at(ino)? {
            At::Root(root) => root.getattr(ino),
            At::Status(status) => Ok(status.getattr()),
            At::Drive(fs) => fs.getattr(ino).await,
        }
    }

    pub(crate) async fn readlink(&self, ino: u64) -> Result<String> {
        match self.at(ino)? {
            At::Drive(fs) => fs.readlink(ino).await,
            At::Status(_) | At::Root(_) => Err(Error::WrongKind),
        }
    }

    /// access(2). The kernel has checked the mode bits already.
    pub(crate) async fn access(&self, ino: u64, mask: i32) -> Result<()> {
        match self.at(ino)? {
            At::Root(_) if mask & libc::W_OK == 0 => Ok(()),
            At::Root(root) => root.drive_of(ino).map(drop),
            At::Status(status) => status.access(mask),
            At::Drive(fs) => fs.access(ino, mask).await,
        }
    }

    pub(crate) async fn open_file(&self, ino: u64, flags: i32, caller: Caller) -> Result<Opened> {
        match self.at(ino)? {
            At::Status(status) => status.open(flags),
            At::Drive(fs) => fs.open(ino, flags, caller).await,
            At::Root(root) => root.drive_of(ino)?.open(ino, flags, caller).await,
        }
    }

    /// See [`Fs::read_for`].
    pub(crate) async fn read(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        length: u32,
        thread: u32,
    ) -> Result<Pieces> {
        match self.at(ino)? {
            At::Status(status) => status.read(handle, offset, length),
            At::Drive(fs) => fs.read_for(handle, offset, length, thread).await,
            At::Root(_) => Err(Error::BadHandle),
        }
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`.
    pub(crate) fn lseek(&self, ino: u64, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        match self.at(ino)? {
            At::Status(status) => status.lseek(handle, offset, whence),
            At::Drive(fs) => fs.lseek(handle, offset, whence),
            At::Root(_) => Err(Error::BadHandle),
        }
    }

    pub(crate) async fn flush(&self, ino: u64, handle: u64) -> Result<()> {
        match self.at(ino)? {
            At::Drive(fs) => fs.flush(handle).await,
            At::Status(_) | At::Root(_) => Ok(()),
        }
    }

    pub(crate) async fn fsync(&self, ino: u64, handle: u64) -> Result<()> {
        match self.at(ino)? {
            At::Drive(fs) => fs.fsync(handle).await,
            At::Status(_) | At::Root(_) => Ok(()),
        }
    }

    pub(crate) async fn release(&self, ino: u64, handle: u64) -> Result<()> {
        match self.at(ino)? {
            At::Status(status) => status.release(handle),
            At::Drive(fs) => fs.release(handle).await,
            At::Root(_) => Err(Error::BadHandle),
        }
    }

    pub(crate) async fn opendir(&self, ino: u64) -> Result<Opened> {
        let (handle, keep_cache) = match self.at(ino)? {
            // The kernel gets no notices of changes there, so it must not cache the listing.
            At::Root(root) => (root.opendir(ino).await?, false),
            At::Status(status) => return status.opendir(),
            At::Drive(fs) => (fs.opendir(ino).await?, true),
        };
        Ok(Opened { handle, keep_cache, direct: false })
    }

    pub(crate) async fn readdir(&self, ino: u64, handle: u64, offset: u64) -> Result<Names> {
        match self.at(ino)? {
            At::Root(root) => Ok(Names::Root(root.readdir(handle)?, offset)),
            At::Status(status) => Ok(Names::Status(status, offset)),
            At::Drive(fs) => Ok(Names::Drive(fs.readdir(handle, offset).await?, fs)),
        }
    }

    pub(crate) fn releasedir(&self, ino: u64, handle: u64) -> Result<()> {
        match self.at(ino)? {
            At::Root(root) => root.releasedir(handle),
            At::Status(_) => Ok(()),
            At::Drive(fs) => fs.releasedir(handle),
        }
    }

    pub(crate) async fn fsyncdir(&self, ino: u64, handle: u64) -> Result<()> {
        match self.at(ino)? {
            At::Drive(fs) => fs.fsyncdir(handle).await,
            At::Status(_) | At::Root(_) => Ok(()),
        }
    }

    /// See [`Fs::getxattr`].
    pub(crate) async fn getxattr(&self, ino: u64, name: &OsStr, room: u32) -> Result<XattrAnswer> {
        match self.at(ino)? {
            At::Drive(fs) => fs.getxattr(ino, name, room).await,
            At::Status(_) | At::Root(_) => xattr::of_nothing(name),
        }
    }

    pub(crate) async fn listxattr(&self, ino: u64, room: u32) -> Result<XattrAnswer> {
        match self.at(ino)? {
            At::Drive(fs) => fs.listxattr(ino, room).await,
            At::Status(_) | At::Root(_) => xattr::answer(Vec::new(), room),
        }
    }

    /// Space on the disk of the store, which all drives of a mount share.
    pub(crate) fn statfs(&self) -> Result<Space> {
        match self {
            Shown::Drive(fs) => fs.statfs(),
            Shown::Root(root) => Ok(root.store().space()?),
        }
    }

    /// The filesystems of the open drives.
    pub(crate) fn open(&self) -> Vec<Arc<Fs>> {
        match self {
            Shown::Drive(fs) => vec![fs.clone()],
            Shown::Root(root) => root.open(),
        }
    }

    /// The open drives, nested ones included.
    pub(crate) fn drives(&self) -> Vec<Drive> {
        self.open().iter().flat_map(|fs| fs.drives()).collect()
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        match self {
            Shown::Drive(fs) => fs.journal(),
            Shown::Root(root) => root.journal(),
        }
    }

    /// Notes a failed request in the journal.
    pub(crate) fn witness(&self, request: Request, error: &Error) {
        let path = match self.at(request.ino) {
            Ok(At::Root(root)) => root.path_of(request.ino).to_owned(),
            Ok(At::Status(status)) => status.path(),
            Ok(At::Drive(fs)) => {
                let Ok(path) = fs.node(request.ino, |node| node.path.clone()) else { return };
                fs.part.in_mount(&path)
            }
            Err(_) => return,
        };
        self.journal().failed(&path, request.operation, request.thread, error);
    }

    /// Sends no more notices to the kernel.
    pub(crate) fn stop(&self) {
        match self {
            Shown::Drive(fs) => fs.invalidations().close(),
            Shown::Root(root) => root.stop(),
        }
    }
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
