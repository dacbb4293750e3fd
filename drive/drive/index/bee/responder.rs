//! Answers a peer that asks which index blocks a lookup or a listing needs, from blocks that are here. The bytes
//! of these messages are in `core/wire`.
//!
//! The peer chooses the question and the publisher the index, so the work is counted in steps and ends at
//! [`MAX_STEPS`].

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::block::{Block, Pointer, TreeNode};
use super::tree::MAX_DEPTH;
use hypermount_core::{Answered, BeeRange, Core};

/// Blocks named in answer to one question.
const MAX_ANSWERED: usize = 2176;
/// Blocks named in one message.
const MAX_ANSWERED_AT_ONCE: usize = 128;
/// Steps that one answer may take; what was found by then is the answer.
const MAX_STEPS: u64 = 1 << 18;
/// Steps that a block costs: it is looked up, read and decoded.
const STEPS_PER_BLOCK: u64 = 16;
/// Bytes of a block that cost one more step.
const BYTES_PER_STEP: u64 = 64;

/// The blocks on the way to `key`.
pub(in crate::index) fn get(
    core: &Core,
    version: u64,
    key: &[u8],
    cancelled: &AtomicBool,
) -> Answered {
    let key = Bytes::copy_from_slice(key);
    let only = BeeRange { version, gte: Some(key.clone()), lte: Some(key), ..BeeRange::default() };
    range(core, &only, cancelled)
}

/// The blocks that a listing of this range needs. A listing that continues begins again: what the peer has by
/// then it does not request.
pub(in crate::index) fn range(core: &Core, range: &BeeRange, cancelled: &AtomicBool) -> Answered {
    let mut answer = Answer {
        core,
        range,
        seqs: Vec::new(),
        seen: HashSet::new(),
        keys: 0,
        steps: 0,
        cancelled,
    };
    if let Some(seq) = range.version.checked_sub(1).filter(|seq| *seq > 0) {
        answer.walk(Pointer { seq, level: 0 }, 0);
    }
    Answered {
        blocks: answer.seqs.chunks(MAX_ANSWERED_AT_ONCE).map(<[u64]>::to_vec).collect(),
        steps: answer.steps,
    }
}

struct Answer<'a> {
    core: &'a Core,
    range: &'a BeeRange,
    seqs: Vec<u64>,
    seen: HashSet<u64>,
    /// Keys of the range that were passed.
    keys: u64,
    steps: u64,
    cancelled: &'a AtomicBool,
}

impl Answer<'_> {
    fn may_continue(&self) -> bool {
        self.steps < MAX_STEPS
            && self.seqs.len() < MAX_ANSWERED
            && (self.range.limit == 0 || self.keys < self.range.limit)
            && !self.cancelled.load(Ordering::Relaxed)
    }

    fn name(&mut self, seq: u64) {
        if self.seqs.len() < MAX_ANSWERED && self.seen.insert(seq) {
            self.seqs.push(seq);
        }
    }

    /// The block, if it is here and makes sense.
    fn local(&mut self, seq: u64) -> Option<Block> {
        if seq == 0 || seq >= self.core.announced_head().length || !self.may_continue() {
            return None;
        }
        self.steps += STEPS_PER_BLOCK;
        let block = self.core.get_local(seq).ok().flatten()?;
        self.steps += block.len() as u64 / BYTES_PER_STEP;
        Block::decode(block, seq).ok()
    }

    /// Names what is needed of the tree node and of those below it that the range reaches.
    fn walk(&mut self, pointer: Pointer, depth: usize) {
        if depth >= MAX_DEPTH || !self.may_continue() {
            return;
        }
        self.name(pointer.seq);
        let Some(block) = self.local(pointer.seq) else { return };
        let Some(node) = block.nodes.get(pointer.level).map(Arc::clone) else { return };
        let order: Vec<usize> = match self.range.reverse {
            false => (0..=node.keys.len()).collect(),
            true => (0..=node.keys.len()).rev().collect(),
        };
        let keys = self.keys_of(&node);
        for at in order {
            let before = at.checked_sub(1).and_then(|at| keys.get(at)).cloned().flatten();
            let after = keys.get(at).cloned().flatten();
            let starts_late = before.as_ref().is_some_and(|key| self.is_past_end(key));
            let ends_early = after.as_ref().is_some_and(|key| self.is_before_start(key));
            if let Some(child) = node.children.get(at).copied()
                && !starts_late
                && !ends_early
            {
                self.walk(child, depth + 1);
            }
            let passed = if self.range.reverse { &before } else { &after };
            if let Some(key) = passed
                && !self.is_past_end(key)
                && !self.is_before_start(key)
            {
                self.keys += 1;
            }
            if !self.may_continue() {
                return;
            }
        }
    }

    /// The keys of a tree node, each named; `None` for those that are not here.
    fn keys_of(&mut self, node: &TreeNode) -> Vec<Option<Bytes>> {
        let mut keys = Vec::with_capacity(node.keys.len());
        for seq in &node.keys {
            self.name(*seq);
            keys.push(self.local(*seq).map(|block| block.key));
        }
        keys
    }

    fn is_before_start(&self, key: &Bytes) -> bool {
        self.range.gte.as_ref().is_some_and(|first| key < first)
            || self.range.gt.as_ref().is_some_and(|before| key <= before)
    }

    fn is_past_end(&self, key: &Bytes) -> bool {
        self.range.lte.as_ref().is_some_and(|last| key > last)
            || self.range.lt.as_ref().is_some_and(|after| key >= after)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::index::bee::testing::Writer;
    use crate::index::trie::testing::core_of;

    fn keys(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|number| format!("files\0/{:03}", number * 7 % count).into_bytes()).collect()
    }

    fn named(answered: &Answered) -> BTreeSet<u64> {
        answered.blocks.iter().flatten().copied().collect()
    }

    #[test]
    fn a_lookup_names_the_way_to_its_key_and_no_more_than_that() {
        let keys = keys(500);
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let (core, version) = (core_of(&writer.blocks), writer.blocks.len() as u64);
        for (seq, key) in (1..).zip(&keys).step_by(17) {
            let answered = get(&core, version, key, &AtomicBool::new(false));
            assert!(named(&answered).contains(&seq), "its own block");
            // Four levels, each with a node of up to 8 keys.
            assert!(named(&answered).len() <= 4 * 9, "{}", named(&answered).len());
        }
        let nothing = get(&core, version + 1, b"x", &AtomicBool::new(false));
        assert!(nothing.blocks.iter().flatten().all(|seq| *seq == version), "not here");
    }

    #[test]
    fn a_range_names_every_key_in_it_within_its_bounds() {
        let keys = keys(900);
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let (core, version) = (core_of(&writer.blocks), writer.blocks.len() as u64);
        let all = BeeRange { version, ..BeeRange::default() };
        let whole = range(&core, &all, &AtomicBool::new(false));
        assert_eq!(named(&whole), (1..version).collect());
        assert!(whole.blocks.iter().all(|blocks| blocks.len() <= MAX_ANSWERED_AT_ONCE));
        assert!(whole.steps <= MAX_STEPS);
        let (after, before) = (keys[3].clone(), keys[40].clone());
        let (after, before) = if after < before { (after, before) } else { (before, after) };
        let some = BeeRange {
            gt: Some(after.clone().into()),
            lt: Some(before.clone().into()),
            ..all.clone()
        };
        let found = named(&range(&core, &some, &AtomicBool::new(false)));
        for (seq, key) in (1..).zip(&keys) {
            assert!(found.contains(&seq) || *key <= after || *key >= before, "{seq}");
        }
        let few = BeeRange { limit: 3, reverse: true, ..all.clone() };
        assert!(named(&range(&core, &few, &AtomicBool::new(false))).len() < 60);
        let cancelled = range(&core, &all, &AtomicBool::new(true));
        assert!(named(&cancelled).is_empty());
    }
}
