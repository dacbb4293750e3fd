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
mod budget;
mod diff;
mod entries;
mod get;
mod iterate;
mod key;
mod list;
pub mod mounts;
mod node;
mod nodes;
pub mod responder;
pub mod stat;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod vectors;

use std::sync::Arc;

pub use batch::{Batch, Removed};
pub use budget::{Budget, MAX_LISTING_BYTES};
pub use diff::Difference;
pub use entries::stored_at;
pub use get::{Found, Purpose};
pub use iterate::MAX_ITERATED;
pub use key::TrieKey;
pub use list::{Child, ChildNode};
pub use node::{Header, MOUNT, TrieNode};
pub use nodes::{LISTINGS_OF_A_WALK, MAX_EAGER_BLOCKS, MAX_EAGER_BYTES, Nodes};

use hypermount_core::{Error, Result, Wait};

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

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// The block where every walk begins; 0 when there is none.
    pub fn head(&self) -> u64 {
        self.version.saturating_sub(1)
    }

    /// The nodes written in this version's blocks `from..`, at most `limit`, up to the last block
    /// or to where the index was emptied; nothing if it is empty now.
    pub async fn history(&self, from: u64, limit: usize, wait: Wait) -> Result<Vec<Arc<TrieNode>>> {
        let mut history = Vec::new();
        if self.nodes.get(self.head(), wait).await?.is_none() {
            return Ok(history);
        }
        for seq in (from.max(1)..self.version).take(limit) {
            match self.nodes.get(seq, wait).await? {
                Some(node) => history.push(node),
                None => break,
            }
        }
        Ok(history)
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
