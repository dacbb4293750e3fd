//! Signed append-only logs, the store that keeps them on disk, the wire codecs, the replicator and
//! which core is served on which connection.
//!
//! This package knows no paths and no files. What the packages above use is re-exported here; one
//! module is public itself: [`private_files`]. The modules are listed in import order;
//! `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]

mod error;
pub mod private_files;
mod wait;
mod hypercore;
mod store;
mod wire;
mod replicate;
mod sharing;
#[doc(hidden)]
pub mod testing;
#[cfg(fuzzing)]
pub mod fuzzing;

pub use crate::error::{Error, Result};
pub use crate::hypercore::check::{CoreCheck, MAX_DAMAGED_RANGES, SIGNATURES_PER_STEP};
pub use crate::hypercore::demand::{Demand, Hint, MAX_WANTED_BLOCKS, PeerSummary, Ticket, Urgency};
pub use crate::hypercore::merkle::{MAX_BLOCK_SIZE, MAX_CORE_LENGTH};
pub use crate::hypercore::repair::{FetchOutcome, Repairing};
pub use crate::hypercore::zeros::{ZERO_BLOCK_SIZES, is_zeros, zeros};
pub use crate::hypercore::{Core, CoreEvent, Dialect, HashedBlocks, Head, Located, StopReason};
pub use crate::sharing::{
    Answered, Answerer, ExtensionRequest, Holding, Share, Sharing, SharingOptions,
};
pub use crate::store::{
    DamagedCore, MachineIdentity, Space, StopReasons, Store, StoreKind, Turns, View, content_name,
    keep_encryption_key, kept_encryption_key, lacks_descriptors,
};
pub use crate::wait::Wait;
pub use crate::wire::bee_extension::Range as BeeRange;
