//! Which blocks a peer says it holds, as ranges: whatever it claims, the memory kept is bounded.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::hypercore::merkle::MAX_CORE_LENGTH;

/// Ranges kept per peer and core (about half a MiB). Beyond it the highest are forgotten, which costs
/// speed with very scattered peers and nothing else.
pub(crate) const MAX_RANGES: usize = 16_384;

/// A set of block numbers below [`MAX_CORE_LENGTH`].
///
/// INVARIANT: ranges are not empty, do not touch each other, and there are at most [`MAX_RANGES`].
#[derive(Clone, Debug, Default)]
pub(crate) struct RemoteBlocks {
    ranges: BTreeMap<u64, u64>,
}

impl RemoteBlocks {
    pub(crate) fn contains(&self, block: u64) -> bool {
        self.ranges.range(..=block).next_back().is_some_and(|(_, end)| block < *end)
    }

    /// The first block of `blocks` that is claimed.
    pub(crate) fn first_in(&self, blocks: Range<u64>) -> Option<u64> {
        if self.contains(blocks.start) && !blocks.is_empty() {
            return Some(blocks.start);
        }
        let (first, _) = self.ranges.range(blocks.start..).next()?;
        (*first < blocks.end).then_some(*first)
    }

    /// One past the highest block claimed.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// The parts of `blocks` that are not claimed, ascending.
    pub(crate) fn gaps(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let Some(range) = clamp(blocks) else { return Vec::new() };
        let before = self.ranges.range(..=range.start).next_back();
        let mut at = before.map_or(range.start, |(_, end)| range.start.max(*end));
        let mut gaps = Vec::new();
        for (start, end) in self.ranges.range(range.start..range.end) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(*end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// The parts of `blocks` that are claimed, ascending.
    pub(crate) fn within(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let Some(range) = clamp(blocks) else { return Vec::new() };
        let before = self.ranges.range(..range.start).next_back();
        let ranges = before.into_iter().chain(self.ranges.range(range.clone()));
        ranges
            .map(|(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The lowest range claimed.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.ranges.first_key_value().map(|(start, end)| *start..*end)
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn insert(&mut self, blocks: Range<u64>) {
        let Some(mut range) = clamp(blocks) else { return };
        // It would be the highest one, and forgotten at once.
        if self.ranges.len() >= MAX_RANGES && range.start > self.end() {
            return;
        }
        if let Some((start, end)) = self.ranges.range(..=range.start).next_back()
            && *end >= range.start
        {
            range = *start..range.end.max(*end);
        }
        while let Some((start, end)) =
            self.ranges.range(range.start..=range.end).next().map(|(start, end)| (*start, *end))
        {
            self.ranges.remove(&start);
            range.end = range.end.max(end);
        }
        self.ranges.insert(range.start, range.end);
        if self.ranges.len() > MAX_RANGES {
            self.ranges.pop_last();
        }
    }

    pub(crate) fn remove(&mut self, blocks: Range<u64>) {
        let Some(range) = clamp(blocks) else { return };
        if let Some((start, end)) = self.ranges.range(..range.start).next_back() {
            let (start, end) = (*start, *end);
            if end > range.start {
                self.ranges.insert(start, range.start);
                if end > range.end {
                    self.ranges.insert(range.end, end);
                }
            }
        }
        while let Some((start, end)) =
            self.ranges.range(range.clone()).next().map(|(start, end)| (*start, *end))
        {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// Replaces what is known of `region` by `bits`, most significant bit first from its start.
    pub(crate) fn replace(&mut self, region: Range<u64>, bits: &[u8]) {
        self.remove(region.clone());
        let Some(region) = clamp(region) else { return };
        let mut run: Option<u64> = None;
        let claimed = (bits.len() as u64).saturating_mul(8).min(region.end - region.start);
        let mut offset = 0;
        while offset < claimed {
            // All that follows would be forgotten.
            if self.ranges.len() >= MAX_RANGES && region.start + offset > self.end() {
                return;
            }
            let byte = bits.get((offset / 8) as usize).copied().unwrap_or(0);
            // Eight alike need no look at each: most bytes are all ones or all zeros.
            if offset % 8 == 0 && byte == if run.is_some() { 0xff } else { 0 } {
                offset += 8;
                continue;
            }
            let set = byte & (0x80 >> (offset % 8)) != 0;
            match (set, run) {
                (true, None) => run = Some(region.start + offset),
                (false, Some(start)) => {
                    self.insert(start..region.start + offset);
                    run = None;
                }
                _ => {}
            }
            offset += 1;
        }
        if let Some(start) = run {
            self.insert(start..region.start + claimed);
        }
    }

    /// How many blocks below `length` are claimed.
    pub(crate) fn count_below(&self, length: u64) -> u64 {
        self.ranges.range(..length).map(|(start, end)| (*end).min(length) - start).sum()
    }
}

fn clamp(blocks: Range<u64>) -> Option<Range<u64>> {
    let end = blocks.end.min(MAX_CORE_LENGTH);
    (blocks.start < end).then_some(blocks.start..end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum RangesStep {
        Insert(Range<u64>),
        Remove(Range<u64>),
        Replace(Range<u64>, Vec<u8>),
    }

    fn step() -> impl Strategy<Value = RangesStep> {
        let range = (0u64..200, 0u64..60).prop_map(|(start, length)| start..start + length);
        prop_oneof![
            range.clone().prop_map(RangesStep::Insert),
            range.clone().prop_map(RangesStep::Remove),
            (range, prop::collection::vec(any::<u8>(), 0..10))
                .prop_map(|(range, bits)| RangesStep::Replace(range, bits)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec(step(), 0..40)) {
            let mut ours = RemoteBlocks::default();
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    RangesStep::Insert(range) => {
                        model.extend(range.clone());
                        ours.insert(range);
                    }
                    RangesStep::Remove(range) => {
                        model.retain(|block| !range.contains(block));
                        ours.remove(range);
                    }
                    RangesStep::Replace(range, bits) => {
                        model.retain(|block| !range.contains(block));
                        model.extend(range.clone().filter(|block| {
                            let offset = block - range.start;
                            bits.get((offset / 8) as usize)
                                .is_some_and(|byte| byte & (0x80 >> (offset % 8)) != 0)
                        }));
                        ours.replace(range, &bits);
                    }
                }
                for block in 0..300 {
                    prop_assert_eq!(ours.contains(block), model.contains(&block));
                }
                for start in [0, 7, 100] {
                    let claimed = (start..start + 20).all(|block| model.contains(&block));
                    prop_assert_eq!(ours.gaps(start..start + 20).is_empty(), claimed);
                    let all = |ranges: Vec<Range<u64>>| ranges.into_iter().flatten().collect();
                    let (gaps, within): (BTreeSet<u64>, BTreeSet<u64>) =
                        (all(ours.gaps(start..start + 50)), all(ours.within(start..start + 50)));
                    let expected: BTreeSet<u64> =
                        model.range(start..start + 50).copied().collect();
                    prop_assert_eq!(&within, &expected);
                    prop_assert!(gaps.is_disjoint(&within));
                    prop_assert_eq!(gaps.len() + within.len(), 50);
                }
                prop_assert_eq!(ours.end(), model.last().map_or(0, |block| block + 1));
                prop_assert_eq!(ours.count_below(100), model.range(..100).count() as u64);
            }
        }
    }

    #[test]
    fn claims_are_clamped_and_bounded() {
        let mut blocks = RemoteBlocks::default();
        blocks.insert(u64::MAX - 1..u64::MAX);
        assert_eq!(blocks.end(), 0);
        blocks.insert(5..u64::MAX);
        assert_eq!(blocks.end(), MAX_CORE_LENGTH);
        blocks.remove(0..u64::MAX);
        assert_eq!(blocks.end(), 0);
        for index in 0..MAX_RANGES as u64 {
            blocks.insert(index * 2..index * 2 + 1);
        }
        assert_eq!(blocks.ranges.len(), MAX_RANGES);
        assert!(blocks.contains((MAX_RANGES as u64 - 1) * 2));
        let one_past = MAX_RANGES as u64 * 2;
        blocks.insert(one_past..one_past + 1);
        assert_eq!(blocks.ranges.len(), MAX_RANGES);
        assert!(!blocks.contains(one_past));
    }
}
