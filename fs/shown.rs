//! What a mount shows: one drive, or all of them in a [`Root`]. Where the two differ for those who
//! serve it.

use std::sync::{Arc, Weak};

use hypermount_drive::Drive;

use crate::errno::{Error, Result};
use crate::filesystem::{Fs, Room};
use crate::journal::Journal;
use crate::root::Root;
use crate::serve::Request;

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
    pub fn root_of(&self, ino: u64) -> Option<&Arc<Root>> {
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
