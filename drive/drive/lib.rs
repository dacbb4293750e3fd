//! Hyperdrives: signed append-only cores, the index that turns two of them into a folder, and the
//! replication that fills them block by block from peers.
//!
//! This crate knows nothing of FUSE, inodes, errno or command lines. Its public face is [`Store`]
//! (the cores of one directory), [`Drive`] (an index plus a content core), [`Snapshot`] (one
//! version of a drive) and [`Swarm`] (connections to peers). The modules are listed in import
//! order: a file may `use crate::…` only what stands above it. `scripts/layers.sh` checks that.
#![forbid(unsafe_code)]

pub mod sync;
pub mod crypto;
pub mod error;
pub mod private;
pub mod path;
pub mod stat;
pub mod wait;
pub mod rate;
pub mod url;
pub mod core;
pub mod store;
pub mod scratch;
pub mod index;
pub mod drive;
pub mod compact;
pub mod check;
pub mod wire;
pub mod replicate;
pub mod kademlia;
pub mod dht;
pub mod secret_stream;
pub mod hyperdht;
pub mod protomux;
pub mod udx;
pub mod swarm;
pub mod transfer;

pub use crate::core::{Core, Head};
pub use crate::crypto::{DiscoveryKey, PublicKey};
pub use crate::drive::{Drive, Snapshot};
pub use crate::error::{Error, Result};
pub use crate::path::{DrivePath, Name};
pub use crate::rate::{Limit, Rate};
pub use crate::stat::{Entry, Extent, Kind, Stat};
pub use crate::store::Store;
pub use crate::swarm::Swarm;
pub use crate::url::DriveUrl;
pub use crate::wait::Wait;
