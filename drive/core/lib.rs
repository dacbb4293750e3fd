//! Signed append-only logs, the store that keeps them on disk, the wire codecs, the replicator and
//! which core is served on which connection.
//!
//! This package knows no paths and no files. The modules are listed in import order;
//! `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]

pub mod error;
pub mod private_files;
pub mod wait;
pub mod hypercore;
pub mod store;
pub mod wire;
pub mod replicate;
pub mod sharing;

pub use crate::error::{Error, Result};
pub use crate::hypercore::{Core, Head};
pub use crate::sharing::Sharing;
pub use crate::store::Store;
pub use crate::wait::Wait;
