//! Hyperdrives: the index that turns two cores into a folder, snapshots, reading, commit and
//! mend, and transfer between a drive and a local directory.
//!
//! This package knows nothing of FUSE, inodes, errno or command lines. What the packages above use is
//! re-exported here; three modules are public themselves: [`scratch`], [`check`] and [`transfer`]. The
//! modules are listed in import order; `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]

mod escape;
mod path;
mod time;
mod link;
mod stat;
mod key_id;
mod url;
mod sparse;
pub mod scratch;
mod index;
mod hyperdrive;
mod moved;
pub mod check;
pub mod transfer;
#[doc(hidden)]
pub mod testing;

pub use crate::escape::{escape, escape_path, unescape, unescape_path};
pub use crate::hyperdrive::{
    Availability, ContentWriter, Drive, HOLE_BYTES, Hasher, Holes, Pieces, Snapshot, Splice,
    StoredDrives, StoredPart, Turn, drives_opened_by, hole_bytes, stored_drives,
    stored_drives_and_damage, stored_parts,
};
#[cfg(fuzzing)]
pub use crate::index::fuzzing;
pub use crate::index::{Changed, DriveFormat, Edit, sharing_options};
pub use crate::key_id::key_id;
pub use crate::link::{Link, LinkId, MAX_LINKS};
pub use crate::moved::Noted;
pub use crate::path::{DrivePath, MAX_NAME_BYTES, Name};
pub use crate::stat::{
    Device, Entry, Extent, Kind, MountTarget, Segment, Stat, TYPE_BLOCK_DEVICE,
    TYPE_CHARACTER_DEVICE, TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_MASK, TYPE_SOCKET,
    TYPE_SYMLINK,
};
pub use crate::time::Time;
pub use crate::url::DriveUrl;

// What `fs` needs of the packages below: it depends on this one alone.
pub use hypermount_core::{
    Core, Error, HashedBlocks, Result, Space, Store, Urgency, View, Wait, zeros,
};
pub use hypermount_swarm::{DiscoveryKey, PublicKey, sync};
