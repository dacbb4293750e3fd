//! Going through everything below a prefix (hypertrie5.md §8), a level at a time: all nodes that
//! one step needs are asked for together, so a remote listing costs as many round trips as the
//! index is deep, not as many as it has nodes.
//!
//! Not here: reverse order and the reference's other iterator options; nothing needs them.

use std::collections::HashSet;
use std::sync::Arc;

use super::get::{Place, Purpose};
use super::key::{DIGITS_PER_COMPONENT, TrieKey};
use super::node::Node;
use super::{Trie, check_branch};
use crate::error::{Error, Result};
use crate::wait::Wait;

/// Most nodes that one listing or iteration gives; more are `TooLarge`.
pub const MAX_ITERATED: usize = 1_000_000;

/// A branch whose nodes are still to be visited, from `position` on.
struct Frame {
    node: Arc<Node>,
    position: usize,
}

impl Trie {
    /// Every node below `prefix` and its own, in the reference's order, at most `limit`.
    pub async fn iterate(
        &self,
        prefix: &TrieKey,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Arc<Node>>> {
        let place = self
            .walk(prefix, prefix.length() - 1, Purpose::Listing { recursive: true }, wait)
            .await?;
        self.expand(place, prefix, true, limit, wait).await
    }

    /// One node for each component that follows `prefix`, and the prefix's own: not necessarily
    /// the component's own node, but the newest of those below it.
    pub async fn representatives(
        &self,
        prefix: &TrieKey,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Arc<Node>>> {
        let place = self
            .walk(prefix, prefix.length() - 1, Purpose::Listing { recursive: false }, wait)
            .await?;
        self.expand(place, prefix, false, limit, wait).await
    }

    pub(super) async fn expand(
        &self,
        place: Option<Place>,
        prefix: &TrieKey,
        recursive: bool,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Arc<Node>>> {
        let Some(place) = place.filter(|place| place.arrived) else {
            return Ok(Vec::new());
        };
        let limit = limit.min(MAX_ITERATED);
        let start = place.position;
        let end = if recursive { usize::MAX } else { start + DIGITS_PER_COMPONENT };
        let mut visited = HashSet::from([place.node.seq]);
        let mut frontier = vec![Frame { node: place.node, position: start }];
        let mut found = Vec::new();
        let mut lacked = false;
        while !frontier.is_empty() {
            let mut pointers = Vec::new();
            for frame in &frontier {
                for (position, branch, seq) in frame.node.buckets.between(frame.position, end) {
                    if visited.insert(seq) {
                        pointers.push((Arc::clone(&frame.node), position, branch, seq));
                    }
                }
            }
            found.extend(frontier.drain(..).map(|frame| frame.node));
            if found.len() + pointers.len() > limit {
                return Err(Error::TooLarge(format!("more than {limit} entries")));
            }
            let seqs: Vec<u64> = pointers.iter().map(|pointer| pointer.3).collect();
            if !lacked && seqs.iter().any(|seq| self.nodes().lacks(*seq)) {
                lacked = true;
                self.nodes().hint(self.hint(prefix, Purpose::Listing { recursive }), wait);
                self.nodes().listing_lacks_block(self.head(), wait);
            }
            let nodes = self.nodes().get_all(&seqs, wait).await?;
            for ((parent, position, branch, _), node) in pointers.into_iter().zip(nodes) {
                if let Some(node) = node {
                    check_branch(&parent, position, branch, &node)?;
                    frontier.push(Frame { node, position: position + 1 });
                }
            }
        }
        found.sort_by(|a, b| a.key.iteration_order(&b.key));
        Ok(found)
    }
}
