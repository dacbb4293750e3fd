//! A set of byte positions, as the fewest ranges that hold it.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of byte positions, as the fewest ranges that hold it.
///
/// INVARIANT: no range is empty, and no two touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start to end.
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds the positions; whether any of them is new.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() || self.covers(&range) {
            return false;
        }
        let Range { mut start, mut end } = range;
        if let Some((before, until)) = self.by_start.range(..start).next_back()
            && *until >= start
        {
            start = *before;
        }
        while let Some((next, until)) = self.by_start.range(start..=end).next() {
            let (next, until) = (*next, *until);
            end = end.max(until);
            self.by_start.remove(&next);
        }
        self.by_start.insert(start, end);
        true
    }

    /// Removes all positions from `end` on.
    pub fn cut(&mut self, end: u64) {
        self.by_start.split_off(&end);
        if let Some((_, until)) = self.by_start.range_mut(..end).next_back() {
            *until = (*until).min(end);
        }
    }

    /// Whether all positions of the range are in the set.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let holder = self.by_start.range(..=range.start).next_back();
        range.is_empty() || holder.is_some_and(|(_, end)| *end >= range.end)
    }

    /// The first range with positions from `from` on, cut to begin there.
    pub fn next(&self, from: u64) -> Option<Range<u64>> {
        if let Some((_, end)) = self.by_start.range(..=from).next_back()
            && *end > from
        {
            return Some(from..*end);
        }
        self.by_start.range(from..).next().map(|(start, end)| *start..*end)
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// How many positions there are.
    pub fn bytes(&self) -> u64 {
        self.by_start.iter().map(|(start, end)| end - start).sum()
    }

    /// How many ranges it takes.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.by_start.iter().map(|(start, end)| *start..*end)
    }

    /// Removes all positions.
    pub fn clear(&mut self) {
        self.by_start.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_positions(
            steps in proptest::collection::vec((0u64..40, 0u64..12, any::<bool>()), 1..40),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (start, length, cut) in steps {
                if cut {
                    ranges.cut(start);
                    model.retain(|position| *position < start);
                } else {
                    let new = (start..start + length).any(|position| !model.contains(&position));
                    prop_assert_eq!(ranges.insert(start..start + length), new);
                    model.extend(start..start + length);
                }
                let positions: BTreeSet<u64> = ranges.iter().flatten().collect();
                prop_assert_eq!(&positions, &model);
                prop_assert_eq!(ranges.bytes(), model.len() as u64);
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
                for from in 0..60 {
                    let next = model.range(from..).next().copied();
                    prop_assert_eq!(ranges.next(from).map(|range| range.start), next);
                    let covered = (from..from + 3).all(|position| model.contains(&position));
                    prop_assert_eq!(ranges.covers(&(from..from + 3)), covered);
                }
            }
        }
    }
}
