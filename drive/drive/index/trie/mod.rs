//! Hypertrie 5: a key/value index in one core, a node per put, each node pointing to older ones.
//!
//! One file per operation. [`Trie`] is one version of the index; it reads. [`Batch`] computes the
//! nodes that a set of changes appends. The meaning of values is in [`stat`] and [`mounts`].
//!
//! What a publisher signed is not trusted to make sense. Two rules make every walk end: a node may
//! only point to older blocks (checked when it is decoded), and a node reached through a branch
//! must have a key that takes that branch (checked when it is followed). Traversals besides take
//! no block twice.

mod batch;
mod buckets;
mod diff;
mod entries;
mod exact;
mod get;
mod iterate;
mod key;
mod links;
mod list;
pub(crate) mod mounts;
mod node;
mod nodes;
pub(crate) mod responder;
pub(crate) mod stat;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod vectors;

use std::sync::Arc;

#[cfg(test)]
use crate::index::budget::MAX_LISTING_BYTES;
pub use batch::Batch;
pub(crate) use batch::Removed;
pub(crate) use diff::Difference;
pub(crate) use entries::stored_at;
pub(crate) use get::{Found, Purpose};
pub use key::TrieKey;
pub(crate) use list::{Child, ChildNode};
pub use node::MOUNT;
pub(crate) use node::{Header, TrieNode};
pub use nodes::Nodes;

use hypermount_core::{Error, Result};

/// One version of an index.
#[derive(Clone)]
pub struct Trie {
    nodes: Arc<Nodes>,
    version: u64,
}

impl Trie {
    /// The index when its core was `version` blocks long.
    pub fn at(nodes: Arc<Nodes>, version: u64) -> Self {
        Self { nodes, version }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// The block where every walk begins; 0 when there is none.
    pub(crate) fn head(&self) -> u64 {
        self.version.saturating_sub(1)
    }
}

/// Refuses a node that was reached by taking `branch` at `position` from `parent`, unless its key
/// goes that way.
fn check_branch(parent: &TrieNode, position: usize, branch: u8, node: &TrieNode) -> Result<()> {
    let right = node.key.length() > position
        && node.key.digit(position) == branch
        && node.key.shares_way(&parent.key, position);
    if right {
        return Ok(());
    }
    let (from, to) = (parent.seq, node.seq);
    Err(Error::Malformed(format!("index block {from} points to {to}, which is of another key")))
}
