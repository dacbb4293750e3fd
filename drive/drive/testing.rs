//! Parts of this package for tests outside of it: a drive on storage that fails at a chosen call, a drive that a test
//! publishes in either format, and the writer of an index for publishers that lie (`tests/hostile`).
//!
//! Not for product code, and no part of the public face.

#[cfg(any(test, debug_assertions))]
pub use crate::hyperdrive::publisher::{FORMATS, Publisher};
#[cfg(any(test, debug_assertions))]
pub use crate::hyperdrive::testing::{World, open, open_in};

/// The index of Hyperdrive 10 (docs/format/hyperdrive10.md), node by node.
pub mod trie {
    pub use crate::index::trie::{Batch, MOUNT, Nodes, Trie, TrieKey};

    /// The values of its nodes.
    pub mod stat {
        pub use crate::index::trie::stat::encode;
    }
}
