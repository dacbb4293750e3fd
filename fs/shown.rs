//! What a mount shows: one drive, or all of them in a [`Root`]. Where the two differ for those who
//! serve it.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuser::FileAttr;
use hypermount_drive::Drive;

use crate::errno::{Error, Result};
use crate::file::Opened;
use crate::filesystem::{Fs, Looked, Room};
use crate::journal::Journal;
use crate::listing::{Listed, Page};
use crate::root::{self, Root};
use crate::serve::Request;
use crate::xattr::{self, Answer};

#[derive(Clone)]
pub enum Shown {
    Drive(Arc<Fs>),
    Root(Arc<Root>),
}

/// The same without keeping it.
pub enum WeakShown {
    Drive(Weak<Fs>),
    Root(Weak<Root>),
}

/// Names of a directory, to page through.
pub enum Names {
    OfDrive(Page, Arc<Fs>),
    /// From an offset on.
    OfRoot(Arc<root::Listing>, u64),
}

impl Names {
    /// Offers the names to `add` until it says that it is full. With `plus`, each name of a drive but
    /// `.` and `..` is counted as looked up, once it was taken. Names of a root are not: to look one up
    /// opens its drive.
    pub fn fill(&self, plus: bool, add: impl FnMut(&Listed<'_>) -> bool) {
        match self {
            Names::OfDrive(page, fs) => page.fill(fs, plus, add),
            Names::OfRoot(listing, offset) => listing.fill(*offset, add),
        }
    }
}

impl WeakShown {
    pub fn upgrade(&self) -> Option<Shown> {
        match self {
            WeakShown::Drive(fs) => fs.upgrade().map(Shown::Drive),
            WeakShown::Root(root) => root.upgrade().map(Shown::Root),
        }
    }
}

impl Shown {
    pub fn downgrade(&self) -> WeakShown {
        match self {
            Shown::Drive(fs) => WeakShown::Drive(Arc::downgrade(fs)),
            Shown::Root(root) => WeakShown::Root(Arc::downgrade(root)),
        }
    }

    /// The filesystem an inode is in; an error that fits a change, if it is none of a drive.
    pub fn drive_of(&self, ino: u64) -> Result<Arc<Fs>> {
        match self {
            Shown::Drive(fs) => Ok(fs.clone()),
            Shown::Root(root) => root.drive_of(ino),
        }
    }

    /// Whose directory an inode is, if it belongs to no drive.
    fn root_of(&self, ino: u64) -> Option<&Arc<Root>> {
        match self {
            Shown::Root(root) if Root::owns(ino) => Some(root),
            Shown::Drive(_) | Shown::Root(_) => None,
        }
    }

    /// The drive that two inodes are both in.
    pub fn drive_of_both(&self, one: u64, other: u64) -> Result<Arc<Fs>> {
        let same = match self {
            Shown::Drive(_) => true,
            Shown::Root(_) => Root::are_together(one, other),
        };
        if same { self.drive_of(one) } else { Err(Error::OtherDrive) }
    }

    pub fn forget(&self, ino: u64, count: u64) {
        match self {
            Shown::Drive(fs) => fs.forget(ino, count),
            Shown::Root(root) => root.forget(ino, count),
        }
    }

    pub async fn lookup(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Looked> {
        match self.root_of(parent) {
            Some(root) => root.lookup(parent, name).await,
            None => self.drive_of(parent)?.lookup_for(parent, name, thread).await,
        }
    }

    pub async fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        match self.root_of(ino) {
            Some(root) => root.getattr(ino),
            None => self.drive_of(ino)?.getattr(ino).await,
        }
    }

    /// access(2). The kernel has checked the mode bits.
    pub async fn access(&self, ino: u64, mask: i32) -> Result<()> {
        match self.root_of(ino) {
            Some(_) if mask & libc::W_OK == 0 => Ok(()),
            _ => self.drive_of(ino)?.access(ino, mask).await,
        }
    }

    pub async fn opendir(&self, ino: u64) -> Result<Opened> {
        let (handle, keep_cache) = match self.root_of(ino) {
            // The kernel is not told what comes and goes there, so it must keep nothing.
            Some(root) => (root.opendir(ino).await?, false),
            None => (self.drive_of(ino)?.opendir(ino).await?, true),
        };
        Ok(Opened { handle, keep_cache, direct: false })
    }

    pub async fn readdir(&self, ino: u64, handle: u64, offset: u64) -> Result<Names> {
        match self.root_of(ino) {
            Some(root) => Ok(Names::OfRoot(root.readdir(handle)?, offset)),
            None => {
                let fs = self.drive_of(ino)?;
                let page = fs.readdir(handle, offset).await?;
                Ok(Names::OfDrive(page, fs))
            }
        }
    }

    pub fn releasedir(&self, ino: u64, handle: u64) -> Result<()> {
        match self.root_of(ino) {
            Some(root) => root.releasedir(handle),
            None => self.drive_of(ino)?.releasedir(handle),
        }
    }

    pub async fn fsyncdir(&self, ino: u64, handle: u64) -> Result<()> {
        match self.root_of(ino) {
            Some(_) => Ok(()),
            None => self.drive_of(ino)?.fsyncdir(handle).await,
        }
    }

    /// See [`Fs::getxattr`].
    pub async fn getxattr(&self, ino: u64, name: &OsStr, room: u32) -> Result<Answer> {
        match self.root_of(ino) {
            Some(_) => xattr::of_nothing(name),
            None => self.drive_of(ino)?.getxattr(ino, name, room).await,
        }
    }

    pub async fn listxattr(&self, ino: u64, room: u32) -> Result<Answer> {
        match self.root_of(ino) {
            Some(_) => xattr::answer(Vec::new(), room),
            None => self.drive_of(ino)?.listxattr(ino, room).await,
        }
    }

    pub fn statfs(&self, ino: u64) -> Result<Room> {
        match self.root_of(ino) {
            Some(root) => Ok(root.store().space()?),
            None => self.drive_of(ino)?.statfs(),
        }
    }

    /// The filesystems of the drives that are open.
    pub fn open(&self) -> Vec<Arc<Fs>> {
        match self {
            Shown::Drive(fs) => vec![fs.clone()],
            Shown::Root(root) => root.open(),
        }
    }

    /// The drives that are open, nested ones too.
    pub fn drives(&self) -> Vec<Drive> {
        self.open().iter().flat_map(|fs| fs.drives()).collect()
    }

    pub fn journal(&self) -> &Arc<Journal> {
        match self {
            Shown::Drive(fs) => fs.journal(),
            Shown::Root(root) => root.journal(),
        }
    }

    /// Notes in the journal that a request failed.
    pub fn witness(&self, request: Request, error: &Error) {
        let path = match self {
            Shown::Root(root) if Root::owns(request.ino) => root.path_of(request.ino).to_owned(),
            _ => {
                let Ok(fs) = self.drive_of(request.ino) else { return };
                let Ok(path) = fs.node(request.ino, |node| node.path.clone()) else { return };
                fs.part.in_mount(&path)
            }
        };
        self.journal().failed(&path, request.operation, request.thread, error);
    }

    /// Tells the kernel nothing more.
    pub fn stop(&self) {
        match self {
            Shown::Drive(fs) => fs.invalidations().close(),
            Shown::Root(root) => root.stop(),
        }
    }
}
