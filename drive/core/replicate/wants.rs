//! The wants of one core in the order of service, and which peers were asked for each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use super::REGION_BLOCKS;
use super::peer::PeerId;
use crate::hypercore::demand::Urgency;

/// Peers remembered per block that were asked or failed; a block asked of more starts over.
const MAX_ASKED: usize = 32;

/// One wanted block.
#[derive(Debug)]
pub(super) struct Want {
    pub(crate) urgency: Urgency,
    /// Peers with an open request for it.
    pub(crate) asked: BTreeSet<PeerId>,
    /// Peers that did not deliver it; asked again only when no other peer is left.
    pub(crate) failed: BTreeSet<PeerId>,
}

/// INVARIANT: every wanted block with no peer asked is in exactly one of `queue` and `unheld`;
/// a block with a peer asked is in neither.
#[derive(Debug, Default)]
pub(super) struct Wants {
    blocks: BTreeMap<u64, Want>,
    /// To be asked for, most urgent first, then ascending.
    queue: BTreeSet<(Reverse<Urgency>, u64)>,
    /// Wanted, but no peer that could be asked holds it.
    unheld: BTreeSet<u64>,
    /// How many of `unheld` are in each region that has any.
    unheld_regions: BTreeMap<u64, usize>,
    /// Those that had none when peers were asked about regions last.
    new_regions: BTreeSet<u64>,
    /// For each peer the blocks that have it among their `failed`.
    failed_at: BTreeMap<PeerId, BTreeSet<u64>>,
}

impl Wants {
    pub(super) fn get(&self, block: u64) -> Option<&Want> {
        self.blocks.get(&block)
    }

    pub(super) fn want(&mut self, block: u64, urgency: Urgency) {
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
    pub(super) fn forget(&mut self, block: u64) -> BTreeSet<PeerId> {
        let Some(want) = self.blocks.remove(&block) else { return BTreeSet::new() };
        self.queue.remove(&(Reverse(want.urgency), block));
        self.take_unheld(block);
        for peer in &want.failed {
            self.forgive_one(block, *peer);
        }
        want.asked
    }

    pub(super) fn blocks(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// The first block of the queue, in the order of service, after `last`.
    pub(crate) fn queued_after(&self, last: Option<(u64, Urgency)>) -> Option<(u64, Urgency)> {
        let after = match last {
            Some((block, urgency)) => Bound::Excluded((Reverse(urgency), block)),
            None => Bound::Unbounded,
        };
        let (urgency, block) = self.queue.range((after, Bound::Unbounded)).next()?;
        Some((*block, urgency.0))
    }

    pub(crate) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn asked(&mut self, block: u64, peer: PeerId) {
        if let Some(want) = self.blocks.get_mut(&block) {
            want.asked.insert(peer);
            self.queue.remove(&(Reverse(want.urgency), block));
        }
        self.take_unheld(block);
    }

    /// `peer` will not deliver the block (it said so, lied, left, or dropped it).
    pub(super) fn failed(&mut self, block: u64, peer: PeerId) {
        let Some(want) = self.blocks.get_mut(&block) else { return };
        want.asked.remove(&peer);
        let all = want.failed.len() >= MAX_ASKED;
        let forgiven = if all { std::mem::take(&mut want.failed) } else { BTreeSet::new() };
        want.failed.insert(peer);
        if want.asked.is_empty() {
            self.queue.insert((Reverse(want.urgency), block));
        }
        for peer in forgiven {
            self.forgive_one(block, peer);
        }
        self.failed_at.entry(peer).or_default().insert(block);
    }

    /// The request is open no more, through no fault of the peer: it may be asked again.
    pub(super) fn released(&mut self, block: u64, peer: PeerId) {
        if let Some(want) = self.blocks.get_mut(&block) {
            want.asked.remove(&peer);
            if want.asked.is_empty() {
                self.queue.insert((Reverse(want.urgency), block));
            }
        }
    }

    /// Puts a block back in the queue although a peer was asked: that peer has stalled.
    pub(crate) fn ask_again(&mut self, block: u64) {
        if let Some(want) = self.blocks.get(&block) {
            self.queue.insert((Reverse(want.urgency), block));
        }
    }

    /// The peer is gone: what it did not deliver is held against it no more.
    pub(crate) fn forgive(&mut self, peer: PeerId) {
        for block in self.failed_at.remove(&peer).unwrap_or_default() {
            if let Some(want) = self.blocks.get_mut(&block) {
                want.failed.remove(&peer);
            }
        }
    }

    fn forgive_one(&mut self, block: u64, peer: PeerId) {
        if let Some(blocks) = self.failed_at.get_mut(&peer) {
            blocks.remove(&block);
            if blocks.is_empty() {
                self.failed_at.remove(&peer);
            }
        }
    }

    /// No peer holds the block: out of the queue until a peer offers it.
    pub(crate) fn park(&mut self, block: u64) {
        let Some(want) = self.blocks.get(&block) else { return };
        self.queue.remove(&(Reverse(want.urgency), block));
        if want.asked.is_empty() && self.unheld.insert(block) {
            let region = block / REGION_BLOCKS;
            let count = self.unheld_regions.entry(region).or_default();
            *count += 1;
            if *count == 1 {
                self.new_regions.insert(region);
            }
        }
    }

    fn take_unheld(&mut self, block: u64) -> bool {
        let parked = self.unheld.remove(&block);
        let region = block / REGION_BLOCKS;
        if parked && let Some(count) = self.unheld_regions.get_mut(&region) {
            *count -= 1;
            if *count == 0 {
                self.unheld_regions.remove(&region);
                self.new_regions.remove(&region);
            }
        }
        parked
    }

    /// All that is parked may be asked for again.
    pub(crate) fn unpark_all(&mut self) {
        while let Some(block) = self.unheld.first().copied() {
            self.unpark(block);
        }
    }

    /// The block may be asked for again, if it is parked.
    pub(crate) fn unpark(&mut self, block: u64) {
        if self.take_unheld(block)
            && let Some(want) = self.blocks.get(&block)
        {
            self.queue.insert((Reverse(want.urgency), block));
        }
    }

    /// What is parked of these blocks, ascending.
    pub(super) fn parked(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.unheld.range(blocks.start..blocks.end.max(blocks.start)).copied()
    }

    /// What is queued of these blocks, the most urgent first.
    pub(super) fn queued(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let (start, end) = (blocks.start, blocks.end.max(blocks.start));
        let urgencies = [Urgency::Reader, Urgency::Ahead, Urgency::Background, Urgency::Spare];
        urgencies.into_iter().flat_map(move |urgency| {
            let queued = self.queue.range((Reverse(urgency), start)..(Reverse(urgency), end));
            queued.map(|(_, block)| *block)
        })
    }

    /// Regions that hold something parked.
    pub(crate) fn parked_regions(&self) -> impl Iterator<Item = u64> + '_ {
        self.unheld_regions.keys().copied()
    }

    /// Those of them that did not when this was asked last.
    pub(crate) fn take_new_regions(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.new_regions)
    }
}
