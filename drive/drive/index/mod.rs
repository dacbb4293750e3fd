//! From path to entry: what turns a metadata core into names.
//!
//! One index exists today, the hypertrie of the legacy era. It speaks keys, nodes and stats; what a
//! path means to a reader (implied directories, mounts) is decided in `hyperdrive.rs`.

pub mod trie;

use hypermount_core::sharing::{Share, SharingOptions};

/// Options with which the hints of peers are answered from the index.
pub fn sharing_options(share: Share) -> SharingOptions {
    SharingOptions { share, answer: Some(trie::responder::respond) }
}
