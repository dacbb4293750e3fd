//! Going through everything below a prefix (hypertrie5.md §8), a level at a time: all nodes that
//! one step needs are asked for together, so a remote listing costs as many round trips as the
//! index is deep, not as many as it has nodes. Only pointers are kept from one level to the next: how
//! large a node is, its publisher decides.
//!
//! Not here: reverse order and the reference's other iterator options; nothing needs them.

use std::collections::HashSet;
use std::sync::Arc;

use super::get::Purpose;
use super::key::{DIGITS_PER_COMPONENT, TrieKey};
use super::node::TrieNode;
use super::nodes::MAX_WANTED_AT_ONCE;
use super::{Trie, check_branch};
use crate::index::budget::Budget;
use hypermount_core::{Error, Result, Wait};

/// Most nodes that one listing or iteration gives; more are `TooLarge`.
pub(super) const MAX_ITERATED: usize = 1_000_000;

/// A pointer that is still to be followed.
struct Pointer {
    parent: u64,
    position: usize,
    branch: u8,
    seq: u64,
}

/// What a visited block and a pointer take.
const VISITED_BYTES: usize = 2 * size_of::<u64>() + size_of::<Pointer>();

impl Trie {
    /// Every node below `prefix` and its own, in the reference's order, at most `limit`.
    #[cfg(test)]
    pub(crate) async fn iterate(
        &self,
        prefix: &TrieKey,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Arc<TrieNode>>> {
        let limit = limit.min(MAX_ITERATED);
        let mut budget = Budget::new(self.nodes().core());
        let mut found = Vec::new();
        self.visit(prefix, true, &mut budget, wait, |node, budget| {
            if found.len() >= limit {
                return Err(Error::TooLarge(format!("more than {limit} entries")));
            }
            budget.take(node.weight())?;
            found.push(Arc::clone(node));
            Ok(())
        })
        .await?;
        found.sort_by(|a, b| a.key.iteration_order(&b.key));
        Ok(found)
    }

    /// Shows `found` each node below `prefix` and its own once, in no order; without `recursive` one
    /// for each component that follows, not necessarily the component's own node, but the newest of
    /// those below it.
    pub(super) async fn visit(
        &self,
        prefix: &TrieKey,
        recursive: bool,
        budget: &mut Budget,
        wait: Wait,
        mut found: impl FnMut(&Arc<TrieNode>, &mut Budget) -> Result<()>,
    ) -> Result<()> {
        let purpose = Purpose::Listing { recursive };
        let place = self.walk(prefix, prefix.length() - 1, purpose, wait).await?;
        let Some(place) = place.filter(|place| place.arrived) else { return Ok(()) };
        let start = place.position;
        let end = if recursive { usize::MAX } else { start + DIGITS_PER_COMPONENT };
        let mut visited = HashSet::from([place.node.seq]);
        let mut next = Vec::new();
        let mut lacked = false;
        let mut enter =
            |node: &Arc<TrieNode>, from: usize, next: &mut Vec<Pointer>, budget: &mut Budget| {
                found(node, budget)?;
                for (position, branch, seq) in node.buckets.between(from, end) {
                    if visited.insert(seq) {
                        budget.take(VISITED_BYTES)?;
                        next.push(Pointer { parent: node.seq, position, branch, seq });
                    }
                }
                Ok::<(), Error>(())
            };
        enter(&place.node, start, &mut next, budget)?;
        let mut parent = place.node;
        let mut all = 0;
        while !next.is_empty() {
            let pointers = std::mem::take(&mut next);
            all += pointers.len();
            if all > MAX_ITERATED {
                return Err(Error::TooLarge(format!("more than {MAX_ITERATED} entries")));
            }
            for part in pointers.chunks(MAX_WANTED_AT_ONCE) {
                let seqs = || part.iter().map(|pointer| pointer.seq);
                if !lacked && seqs().any(|seq| self.nodes().lacks(seq)) {
                    lacked = true;
                    self.nodes().hint(self.hint(prefix, purpose), wait);
                    self.nodes().listing_lacks_block(self.head(), wait);
                }
                let _wanted = self.nodes().want(seqs(), wait);
                for pointer in part {
                    if parent.seq != pointer.parent {
                        let again = self.nodes().get(pointer.parent, wait).await?;
                        // It was there a moment ago, and was no empty index.
                        let Some(again) = again else { continue };
                        parent = again;
                    }
                    if let Some(node) = self.nodes().get(pointer.seq, wait).await? {
                        check_branch(&parent, pointer.position, pointer.branch, &node)?;
                        enter(&node, pointer.position + 1, &mut next, budget)?;
                    }
                }
            }
        }
        budget.give_back(visited.len() * VISITED_BYTES);
        Ok(())
    }
}
