//! Holes of files: parts that are zeros, and are stored as blocks of zeros that take no disk space (docs/decisions/0022).
//! Where they are, and which blocks they get.
//!
//! A hole begins and ends at a multiple of [`HOLE_BYTES`], or with the file. Not here: naming one block of zeros many
//! times (`splice.rs`), and leaving zeros out on disk (`hypermount_core`).

use std::ops::Range;

use super::Drive;
use super::read;
use crate::stat::{Extent, Segment};
use hypermount_core::ZERO_BLOCK_SIZES;

/// Size and alignment in bytes of the smallest hole.
pub const HOLE_BYTES: u64 = ZERO_BLOCK_SIZES[2];
/// Bytes of holes from which they are made of the largest blocks of zeros: a hole of 2 TiB then fits in a block map. A
/// reader fetches one of these for each byte of a hole that it does not know to be one.
const LARGE_HOLES: u64 = 64 << 30;
/// Most holes of one file; further ones are stored as data.
const MAX_HOLES: usize = 262_144;

/// The holes of a file, in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    holes: Vec<Range<u64>>,
    /// The one that may grow, not aligned yet.
    last: Range<u64>,
}

impl Holes {
    /// Adds zeros from `range.start` on, which is not before the end of what was added before, in a file of `size` bytes.
    pub fn add(&mut self, range: Range<u64>, size: u64) {
        if range.start == self.last.end {
            self.last.end = range.end;
        } else {
            self.end_last(size);
            self.last = range;
        }
    }

    fn end_last(&mut self, size: u64) {
        let hole = aligned(std::mem::take(&mut self.last), size);
        if !hole.is_empty() && self.holes.len() < MAX_HOLES {
            self.holes.push(hole);
        }
    }

    /// The holes, of a file of `size` bytes.
    pub fn finish(mut self, size: u64) -> Vec<Range<u64>> {
        self.end_last(size);
        self.holes
    }
}

/// The part of these zeros that is a hole, in a file of `size` bytes. It may be empty.
fn aligned(zeros: Range<u64>, size: u64) -> Range<u64> {
    let start = zeros.start.next_multiple_of(HOLE_BYTES);
    let end = if zeros.end >= size { size } else { zeros.end - zeros.end % HOLE_BYTES };
    start.min(end)..end
}

/// Bytes of these holes.
pub fn hole_bytes(holes: &[Range<u64>]) -> u64 {
    holes.iter().map(|hole| hole.end - hole.start).sum()
}

/// A part of a file, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredPart {
    /// Bytes that are cut into blocks.
    Data(Range<u64>),
    /// One block of zeros.
    Zeros(Range<u64>),
}

/// The parts of the bytes `range` of a file with these holes, in order.
pub fn stored_parts(
    range: Range<u64>,
    holes: &[Range<u64>],
) -> impl Iterator<Item = StoredPart> + '_ {
    let sizes = match hole_bytes(holes) < LARGE_HOLES {
        true => &ZERO_BLOCK_SIZES[1..],
        false => &ZERO_BLOCK_SIZES[..],
    };
    let first = holes.partition_point(|hole| hole.end <= range.start);
    let mut holes = holes[first..].iter().take_while(move |hole| hole.start < range.end).peekable();
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at;
        let hole = holes.peek().map_or(end..end, |hole| hole.start.max(start)..hole.end.min(end));
        if start < hole.start {
            at = hole.start;
            return Some(StoredPart::Data(start..at));
        }
        let left = hole.end - start;
        at += sizes.iter().copied().find(|size| *size <= left).unwrap_or(left);
        if at == hole.end {
            holes.next();
        }
        Some(StoredPart::Zeros(start..at))
    })
}

impl Drive {
    /// What the file with this content has from `at` on: as far as is known here, without asking peers. What is not known is
    /// data. Takes at most some milliseconds; a long stretch is told in several parts.
    pub fn segment(&self, extent: &Extent, at: u64) -> Segment {
        let data = Segment { is_hole: false, end: extent.size };
        if extent.holes == 0 || at >= extent.size {
            return data;
        }
        let Ok(content) = self.content() else { return data };
        let segment = match extent.map_size {
            0 => read::segment(content, extent, at),
            _ => self.inner.maps.segment(content, extent, at),
        };
        let segment = segment.unwrap_or(data);
        Segment { end: segment.end.min(extent.size), ..segment }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one hole of many is meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holes_of(zeros: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
        let mut holes = Holes::default();
        zeros.iter().for_each(|zeros| holes.add(zeros.clone(), size));
        holes.finish(size)
    }

    #[test]
    fn holes_are_aligned_and_those_that_touch_are_one() {
        let block = HOLE_BYTES;
        assert_eq!(holes_of(&[0..block, block..3 * block + 1], 9 * block), [0..3 * block]);
        assert_eq!(holes_of(&[1..2 * block - 1], 9 * block), []);
        assert_eq!(holes_of(&[1..2 * block], 9 * block), [block..2 * block]);
        assert_eq!(holes_of(&[5..block + 7], block + 7), [block..block + 7]);
        assert_eq!(holes_of(&[5..block - 1], block - 1), []);
        assert_eq!(holes_of(&[], 7), []);
    }

    #[test]
    fn a_hole_is_made_of_the_largest_blocks_of_zeros() {
        let [largest, large, small] = ZERO_BLOCK_SIZES;
        let sizes = |end: u64| {
            let holes = [0..end];
            let zeros = stored_parts(0..end, &holes).map(|part| match part {
                StoredPart::Zeros(range) => range.end - range.start,
                StoredPart::Data(_) => 0,
            });
            zeros.collect::<Vec<_>>()
        };
        assert_eq!(sizes(2 * large + small + 9), [large, large, small, 9]);
        assert_eq!(sizes(LARGE_HOLES)[0], largest);
        assert_eq!(sizes(LARGE_HOLES - 1)[0], large);
    }

    proptest! {
        #[test]
        fn parts_are_the_file(
            mut cuts in prop::collection::vec(0..40 * HOLE_BYTES, 0..12),
            size in 1..40 * HOLE_BYTES,
            from in 0..40 * HOLE_BYTES,
        ) {
            cuts.sort_unstable();
            let zeros: Vec<_> =
                cuts.chunks_exact(2).map(|cut| cut[0].min(size)..cut[1].min(size)).collect();
            let holes = holes_of(&zeros, size);
            prop_assert!(holes.windows(2).all(|pair| pair[0].end < pair[1].start));
            let from = from.min(size);
            let mut at = from;
            for part in stored_parts(from..size, &holes) {
                let is_hole = matches!(part, StoredPart::Zeros(_));
                let (StoredPart::Data(range) | StoredPart::Zeros(range)) = part;
                prop_assert!(range.start == at && range.start < range.end);
                at = range.end;
                let inside = holes.iter().any(|hole| hole.start <= range.start && range.end <= hole.end);
                let apart = holes.iter().all(|hole| hole.end <= range.start || range.end <= hole.start);
                let fits = if is_hole { inside } else { apart };
                prop_assert!(fits);
            }
            prop_assert_eq!(at, size);
            for hole in &holes {
                let inside = |zeros: &Range<u64>| zeros.start <= hole.start && hole.end <= zeros.end;
                let joined = holes_of(&zeros, u64::MAX).iter().any(inside) || zeros.iter().any(inside);
                prop_assert!(joined || hole.end == size);
            }
        }
    }
}
