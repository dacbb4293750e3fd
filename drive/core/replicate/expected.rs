//! The tree nodes that the answers to open requests of one channel will bring. A later proof may end at such a node:
//! without that, each block of a row that is requested together comes with the same nodes again, and the peer reads
//! and sends each of them many times.
//!
//! A peer may answer in another order, so an answer that comes too early is held back until the one that it builds on
//! has come. Not here: what becomes of a proof whose nodes never came. It does not verify, and the block is requested
//! again with a proof that needs none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::hypercore::{Way, flat_tree};

/// Bytes of answers held back; an answer beyond it is judged at once.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;

/// The node that a proof leads to that was requested for this way.
pub(super) fn end_of(way: Way) -> u64 {
    (0..way.steps).fold(way.from * 2, |node, _| flat_tree::parent(node))
}

/// What such a proof brings: the leaf, its parents below the end of the way, and what lies beside each of them.
fn brought_on(way: Way) -> impl Iterator<Item = u64> {
    let up = std::iter::successors(Some(way.from * 2), |node| Some(flat_tree::parent(*node)));
    up.take(usize::try_from(way.steps).unwrap_or(usize::MAX))
        .flat_map(|node| [node, flat_tree::sibling(node)])
}

/// By the node: the number of an open request that brings it.
#[derive(Debug, Default)]
pub(super) struct ExpectedNodes(HashMap<u64, u64>);

impl ExpectedNodes {
    /// The request that brings `node`.
    pub(super) fn brought_by(&self, node: u64) -> Option<u64> {
        self.0.get(&node).copied()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn requested(&mut self, id: u64, way: Way) {
        for node in brought_on(way) {
            self.0.entry(node).or_insert(id);
        }
    }

    /// That request is open no more.
    pub(super) fn ended(&mut self, id: u64, way: Way) {
        for node in brought_on(way) {
            if self.0.get(&node) == Some(&id) {
                self.0.remove(&node);
            }
        }
    }
}

/// Answers that came before the one that they build on.
///
/// INVARIANT: `ids` has the request of each answer; `bytes` are those of their blocks.
#[derive(Debug)]
pub(super) struct HeldBack<A> {
    /// By the request that they wait for.
    answers: BTreeMap<u64, Vec<(u64, usize, A)>>,
    ids: BTreeSet<u64>,
    bytes: usize,
}

impl<A> Default for HeldBack<A> {
    fn default() -> Self {
        Self { answers: BTreeMap::new(), ids: BTreeSet::new(), bytes: 0 }
    }
}

impl<A> HeldBack<A> {
    pub(super) fn has(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Whether an answer waits for that to request `id`.
    pub(super) fn is_waited_for(&self, id: u64) -> bool {
        self.answers.contains_key(&id)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.ids.is_empty() && self.bytes == 0
    }

    /// Holds back the answer to request `id`, whose block has `bytes`, until request `needs` has ended. Gives it back if
    /// there is no room.
    pub(super) fn hold(&mut self, id: u64, needs: u64, bytes: usize, answer: A) -> Option<A> {
        if self.bytes.saturating_add(bytes) > MAX_HELD_BYTES {
            return Some(answer);
        }
        self.bytes += bytes;
        self.ids.insert(id);
        self.answers.entry(needs).or_default().push((id, bytes, answer));
        None
    }

    /// What waited for request `id`, or for what waited for it, in the order in which it can be judged.
    pub(super) fn ended(&mut self, id: u64) -> Vec<A> {
        let (mut released, mut ended) = (Vec::new(), vec![id]);
        while let Some(id) = ended.pop() {
            for (id, bytes, answer) in self.answers.remove(&id).unwrap_or_default() {
                self.bytes -= bytes;
                self.ids.remove(&id);
                released.push(answer);
                ended.push(id);
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_expected_until_the_request_that_brings_it_has_ended() {
        let mut expected = ExpectedNodes::default();
        let (first, second) = (Way { from: 0, steps: 2 }, Way { from: 3, steps: 1 });
        expected.requested(7, first);
        expected.requested(8, second);
        let brought = [0, 1, 2, 3, 4, 5, 6].map(|node| expected.brought_by(node));
        assert_eq!(brought, [Some(7), Some(7), Some(7), None, Some(8), Some(7), Some(8)]);
        expected.ended(7, first);
        assert_eq!([0, 1, 2, 5].map(|node| expected.brought_by(node)), [None; 4]);
        expected.ended(8, second);
        assert!(expected.0.is_empty());
    }

    #[test]
    fn what_is_held_back_comes_after_what_it_waits_for() {
        let mut held = HeldBack::default();
        for (id, needs) in [(4, 3), (3, 2), (5, 1), (2, 1)] {
            assert_eq!(held.hold(id, needs, 10, id), None);
        }
        assert!(held.has(4) && !held.has(1));
        let released = held.ended(1);
        let place = |id| released.iter().position(|other| *other == id);
        assert_eq!(released.len(), 4);
        assert!(place(2) < place(3) && place(3) < place(4));
        assert!((1..6).all(|id| !held.has(id)));
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn bytes_of_answers_that_are_held_back() {
        let mut held = HeldBack::default();
        assert_eq!(held.hold(2, 1, MAX_HELD_BYTES, ()), None);
        assert_eq!(held.hold(3, 1, 1, ()), Some(()));
        assert_eq!(held.ended(1).len(), 1);
        assert_eq!(held.hold(3, 1, 1, ()), None);
    }
}
