//! A drive as a POSIX filesystem, and its kernel mount.
//!
//! [`Fs`] holds the meaning of every operation and needs no kernel: tests drive it directly.
//! [`Mount`] puts it behind FUSE. This package knows nothing of sockets, trees, eras or keys,
//! except that it prints keys. The package `hypermount-drive` knows what a path holds and where
//! bytes come from.
//!
//! The modules, in import order: `platform` (the only file with compile-time switches),
//! `inherited`, `errno`, `patience`, `stalls`, `set_ids`, `attr`, `symlink`, `xattr`, `staging`,
//! `walk_ahead`, `volume`, `journal`, `handle`, `inode`, `invalidate`, `overtaken`, `showing`,
//! `filesystem` and its parts `file`, `follow`, `listing`, `metadata`, `namespace`, `status` and
//! `write`; `serve`, `mountpoint` (mounts as the system lists them), `root` (several drives in one
//! mount), `shown`, `adapter`, `mount`.
#![deny(unsafe_code)]

mod adapter;
mod attr;
mod errno;
mod file;
mod filesystem;
mod follow;
mod handle;
mod inherited;
mod inode;
mod invalidate;
mod journal;
mod listing;
mod metadata;
mod mount;
mod mountpoint;
mod namespace;
mod overtaken;
mod patience;
mod platform;
mod root;
mod serve;
mod set_ids;
mod showing;
mod shown;
mod staging;
mod stalls;
mod symlink;
#[cfg(test)]
mod testing;
mod status;
mod volume;
mod walk_ahead;
mod write;
mod xattr;

pub use attr::Owner;
pub use errno::{Error, Result, errno};
pub use file::Opened;
pub use filesystem::{Fs, FsOptions, Looked, Room};
pub use inherited::{keep_descriptors_to_ourselves, settle_signals};
pub use invalidate::{Invalidation, Invalidations};
pub use journal::{FailedCall, Fetched, Journal, Process};
pub use listing::{Listed, Page};
pub use metadata::Changes;
pub use mount::{Mount, MountError, MountOptions};
pub use mountpoint::{Detach, MountUser, Mounted, UnmountError, mounts, unmount, users};
pub use namespace::Rename;
pub use patience::Patience;
pub use platform::{Caller, settle_allocator};
pub use root::{Drives, Later, NETWORK, Root, RootLimits};
pub use xattr::Answer;
