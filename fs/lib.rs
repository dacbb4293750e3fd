//! A drive as a POSIX filesystem, and its kernel mount.
//!
//! [`Fs`] holds the meaning of every operation and needs no kernel: tests drive it directly.
//! [`Mount`] puts it behind FUSE. This package knows nothing of sockets, trees, formats or
//! keys, except that it prints keys. The package `hypermount-drive` knows what a path holds and where
//! bytes come from.
//!
//! Compile-time switches between operating systems are in `platform`, and one in `adapter`. The modules are
//! listed in import order; `scripts/layers.sh` checks it.
#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]

mod platform;
mod inherited;
mod errno;
mod patience;
mod stalls;
mod set_ids;
mod accessed;
mod attr;
mod symlink;
mod xattr;
mod appending;
mod holes;
mod staged_content;
mod staging;
mod walk_ahead;
mod volume;
mod journal;
mod handle;
mod inode;
mod invalidate;
mod overtaken;
mod showing;
mod filesystem;
mod file;
mod follow;
mod links;
mod listing;
mod metadata;
mod write;
mod namespace;
mod serve;
mod mountpoint;
mod root;
mod status;
mod shown;
mod adapter;
mod mount;
#[cfg(test)]
mod testing;

pub use appending::Storing;
pub use attr::Owner;
pub use errno::{Error, Result, errno};
pub use file::Opened;
pub use filesystem::{Fs, FsOptions, Looked};
pub use inherited::{set_close_on_exec, settle_signals};
pub use invalidate::{Invalidation, Invalidations};
pub use journal::{FailedCall, Fetched, Journal, Process};
pub use listing::{Listed, Page};
pub use metadata::AttributeChanges;
pub use mount::{Mount, MountError, MountOptions};
pub use mountpoint::{MountUser, Mounted, UnmountError, UnmountMode, mount_users, mounts, unmount};
pub use namespace::Rename;
pub use patience::Patience;
pub use platform::{Caller, settle_allocator};
pub use root::{DriveFuture, Drives, NETWORK, Root, RootLimits};
pub use xattr::XattrAnswer;
