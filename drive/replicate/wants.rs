//! The wants of one core in the order of service, and which peers were asked for each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use super::peer::PeerId;
use crate::core::demand::Urgency;

/// Peers remembered per block that were asked or failed; a block asked of more starts over.
const MAX_ASKED: usize = 32;

/// One block somebody wants.
#[derive(Debug)]
pub struct Want {
    pub urgency: Urgency,
    /// Peers with an open request for it.
    pub asked: BTreeSet<PeerId>,
    /// Peers that did not deliver it; asked again only when nobody else is left.
    pub failed: BTreeSet<PeerId>,
}

/// INVARIANT: every wanted block with no peer asked is in exactly one of `queue` and `unheld`;
/// a block with a peer asked is in neither.
#[derive(Debug, Default)]
pub struct Wants {
    blocks: BTreeMap<u64, Want>,
    /// To be asked for, most urgent first, then ascending.
    queue: BTreeSet<(Reverse<Urgency>, u64)>,
    /// Wanted, but no peer that could be asked holds it.
    unheld: BTreeSet<u64>,
}

impl Wants {
    pub fn get(&self, block: u64) -> Option<&Want> {
        self.blocks.get(&block)
    }

    pub fn want(&mut self, block: u64, urgency: Urgency) {
        let old = self.blocks.get(&block).map(|want| want.urgency);
        if let Some(old) = old {
            if old == urgency {
                return;
            }
            let queued = self.queue.remove(&(Reverse(old), block));
            if queued {
                self.queue.insert((Reverse(urgency), block));
            }
            if let Some(want) = self.blocks.get_mut(&block) {
                want.urgency = urgency;
            }
            return;
        }
        let want = Want { urgency, asked: BTreeSet::new(), failed: BTreeSet::new() };
        self.blocks.insert(block, want);
        self.queue.insert((Reverse(urgency), block));
    }

    /// Forgets the block; the peers that were asked for it.
    pub fn forget(&mut self, block: u64) -> BTreeSet<PeerId> {
        let Some(want) = self.blocks.remove(&block) else { return BTreeSet::new() };
        self.queue.remove(&(Reverse(want.urgency), block));
        self.unheld.remove(&block);
        want.asked
    }

    pub fn blocks(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// The first block of the queue, in the order of service, after `last`.
    pub fn queued_after(&self, last: Option<(u64, Urgency)>) -> Option<(u64, Urgency)> {
        let after = match last {
            Some((block, urgency)) => Bound::Excluded((Reverse(urgency), block)),
            None => Bound::Unbounded,
        };
        let (urgency, block) = self.queue.range((after, Bound::Unbounded)).next()?;
        Some((*block, urgency.0))
    }

    pub fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn asked(&mut self, block: u64, peer: PeerId) {
        if let Some(want) = self.blocks.get_mut(&block) {
            want.asked.insert(peer);
            self.queue.remove(&(Reverse(want.urgency), block));
            self.unheld.remove(&block);
        }
    }

    /// `peer` will not deliver the block (it said so, lied, left, or dropped it).
    pub fn failed(&mut self, block: u64, peer: PeerId) {
        if let Some(want) = self.blocks.get_mut(&block) {
            want.asked.remove(&peer);
            if want.failed.len() >= MAX_ASKED {
                want.failed.clear();
            }
            want.failed.insert(peer);
            if want.asked.is_empty() {
                self.queue.insert((Reverse(want.urgency), block));
            }
        }
    }

    /// The request is open no more, through no fault of the peer: it may be asked again.
    pub fn released(&mut self, block: u64, peer: PeerId) {
        if let Some(want) = self.blocks.get_mut(&block) {
            want.asked.remove(&peer);
            if want.asked.is_empty() {
                self.queue.insert((Reverse(want.urgency), block));
            }
        }
    }

    /// Puts a block back in the queue although a peer was asked: that peer has stalled.
    pub fn ask_again(&mut self, block: u64) {
        if let Some(want) = self.blocks.get(&block) {
            self.queue.insert((Reverse(want.urgency), block));
        }
    }

    pub fn forgive(&mut self, peer: PeerId) {
        for want in self.blocks.values_mut() {
            want.failed.remove(&peer);
            want.asked.remove(&peer);
        }
    }

    /// Nobody holds the block: out of the queue until somebody says otherwise.
    pub fn park(&mut self, block: u64) {
        if let Some(want) = self.blocks.get(&block) {
            self.queue.remove(&(Reverse(want.urgency), block));
            if want.asked.is_empty() {
                self.unheld.insert(block);
            }
        }
    }

    /// A peer came: everything parked may be asked for again.
    pub fn unpark(&mut self) {
        self.unpark_range(0..u64::MAX);
    }

    /// A peer told of these blocks: what is parked of them may be asked for again.
    pub fn unpark_range(&mut self, blocks: Range<u64>) {
        let parked: Vec<u64> = match blocks.is_empty() {
            true => Vec::new(),
            false => self.unheld.range(blocks).copied().collect(),
        };
        for block in parked {
            self.unheld.remove(&block);
            if let Some(want) = self.blocks.get(&block) {
                self.queue.insert((Reverse(want.urgency), block));
            }
        }
    }

    /// Regions of `region_length` blocks that hold something parked.
    pub fn parked_regions(&self, region_length: u64) -> BTreeSet<u64> {
        self.unheld.iter().map(|block| block / region_length).collect()
    }
}
