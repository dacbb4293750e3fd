//! Hyperdrives: the index that turns two cores into a folder, snapshots, reading, commit and
//! mend, and transfer between a drive and a local directory.
//!
//! This package knows nothing of FUSE, inodes, errno or command lines. The modules are listed in
//! import order; `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]

pub mod path;
pub mod stat;
pub mod url;
pub mod scratch;
pub mod index;
pub mod hyperdrive;
pub mod check;
pub mod transfer;

pub use crate::hyperdrive::{Drive, Pieces, Snapshot};
pub use crate::index::sharing_options;
pub use crate::path::{DrivePath, Name};
pub use crate::stat::{Entry, Extent, Kind, Stat};
pub use crate::url::DriveUrl;

// What `fs` needs of the packages below: it depends on this one alone.
pub use hypermount_core::hypercore::demand::Urgency;
pub use hypermount_core::store::{Space, View};
pub use hypermount_core::{Core, Error, Head, Result, Store, Wait};
pub use hypermount_swarm::{DiscoveryKey, Limit, PublicKey, sync};
