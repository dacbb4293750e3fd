//! A drive as a POSIX filesystem, and its kernel mount.
//!
//! [`Fs`] holds the meaning of every operation and knows no kernel: tests drive it directly.
//! [`Mount`] puts it behind FUSE. This crate knows nothing of sockets, trees, eras or keys beyond
//! printing them; what a path holds and where bytes come from is the `drive` crate's affair.
//!
//! The rooms, in import order: `platform` (the only file with compile-time switches), `errno`,
//! `attr`, `symlink`, `xattr`, `volume`, `handle`, `inode`, `invalidate`, `filesystem`, `follow`,
//! `serve`, `adapter`, `mountpoint` (mounts as the system lists them), `mount`.

mod adapter;
mod attr;
mod errno;
mod filesystem;
mod follow;
mod handle;
mod inode;
mod invalidate;
mod mount;
mod mountpoint;
mod platform;
mod serve;
mod symlink;
mod volume;
mod walk_ahead;
mod xattr;

pub use attr::Owner;
pub use errno::{Error, Result, errno};
pub use filesystem::{Fs, FsOptions, Listed, Looked, Opened, Page, Patience, Room};
pub use invalidate::{Invalidation, Invalidations};
pub use mount::{Mount, MountError, MountOptions};
pub use mountpoint::{Detach, MountUser, Mounted, UnmountError, mounts, unmount, users};
pub use xattr::Answer;
