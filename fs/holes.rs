//! Where the data and the holes of a file are, for lseek(2) and for a commit, whatever tells it of single stretches.
//!
//! Not here: what those tell (`staging.rs`, [`hypermount_drive::Drive::segment`]).

use std::ops::Range;

use hypermount_drive::{HOLE_BYTES, Holes, Segment};

use crate::errno::{Error, Result};

/// Stretches that one lseek(2) looks at; what is beyond them it takes for data. Each may take 256 look-ups in a tree.
const MAX_STRETCHES: usize = 4096;

/// lseek(2) for `SEEK_DATA` and `SEEK_HOLE` in a file of `size` bytes, of which `segment` tells what it has from an offset on.
/// Holes are those that a commit stores: they begin and end at multiples of [`HOLE_BYTES`], or with the file.
pub(crate) fn seek(
    size: u64,
    offset: i64,
    whence: i32,
    segment: impl Fn(u64) -> Result<Segment>,
) -> Result<i64> {
    if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
        return Err(Error::InvalidArgument);
    }
    let size = size.min(i64::MAX as u64);
    let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Error::BeyondEnd)?;
    let found = match whence {
        _ if size < HOLE_BYTES => {
            if whence == libc::SEEK_DATA {
                at
            } else {
                size
            }
        }
        libc::SEEK_DATA => {
            let mut left = MAX_STRETCHES;
            let data = next(false, floor(at), size, &segment, &mut left)?;
            floor(data.ok_or(Error::BeyondEnd)?).max(at)
        }
        _ => next_hole(at, size, &segment)?,
    };
    // At most the size.
    Ok(found as i64)
}

fn next_hole(at: u64, size: u64, segment: &impl Fn(u64) -> Result<Segment>) -> Result<u64> {
    let (mut from, mut left) = (floor(at), MAX_STRETCHES);
    loop {
        let zeros = next(true, from, size, segment, &mut left)?.unwrap_or(size);
        let start = zeros.next_multiple_of(HOLE_BYTES);
        if start >= size || left == 0 {
            return Ok(size);
        }
        let data = next(false, start, size, segment, &mut left)?;
        if data.map_or(size, floor) > start {
            return Ok(start.max(at));
        }
        from = data.unwrap_or(size);
    }
}

/// Where the next data, or the next zeros, from `at` on begin, among the stretches that are `left` to look at. What is beyond
/// them is returned as either.
fn next(
    is_hole: bool,
    mut at: u64,
    size: u64,
    segment: &impl Fn(u64) -> Result<Segment>,
    left: &mut usize,
) -> Result<Option<u64>> {
    while at < size {
        if *left == 0 {
            return Ok(Some(at));
        }
        *left -= 1;
        let found = segment(at)?;
        if found.is_hole == is_hole {
            return Ok(Some(at));
        }
        at = found.end.max(at + 1);
    }
    Ok(None)
}

/// The holes of a file of `size` bytes, in order.
pub(crate) fn all(size: u64, segment: impl Fn(u64) -> Result<Segment>) -> Result<Vec<Range<u64>>> {
    let (mut holes, mut at) = (Holes::default(), 0);
    while at < size && size >= HOLE_BYTES {
        let found = segment(at)?;
        let end = found.end.max(at + 1).min(size);
        if found.is_hole {
            holes.add(at..end, size);
        }
        at = end;
    }
    Ok(holes.finish(size))
}

fn floor(at: u64) -> u64 {
    at - at % HOLE_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(end: u64) -> Segment {
        Segment { is_hole: false, end }
    }

    #[test]
    fn a_file_without_holes_is_data_up_to_its_end() {
        for size in [10, 10 * HOLE_BYTES] {
            let seek = |offset, whence| seek(size, offset, whence, |_| Ok(data(size)));
            let end = size as i64;
            assert!(matches!(seek(3, libc::SEEK_DATA), Ok(3)));
            assert!(matches!(seek(3, libc::SEEK_HOLE), Ok(at) if at == end));
            for offset in [end, end + 1, -1] {
                assert!(matches!(seek(offset, libc::SEEK_DATA), Err(Error::BeyondEnd)));
                assert!(matches!(seek(offset, libc::SEEK_HOLE), Err(Error::BeyondEnd)));
            }
            assert!(matches!(seek(0, libc::SEEK_SET), Err(Error::InvalidArgument)));
        }
        assert!(matches!(seek(0, 0, libc::SEEK_HOLE, |_| Ok(data(0))), Err(Error::BeyondEnd)));
    }

    #[test]
    fn the_work_of_one_call_is_bounded() {
        // Zeros and data in turns, too short for a hole, without an end.
        let (size, looks) = (i64::MAX as u64, std::cell::Cell::new(0));
        let segment = |at: u64| {
            looks.set(looks.get() + 1);
            Ok(Segment { is_hole: (at / 1000).is_multiple_of(2), end: (at / 1000 + 1) * 1000 })
        };
        assert_eq!(seek(size, 0, libc::SEEK_HOLE, segment).unwrap(), size as i64);
        assert!(looks.get() <= MAX_STRETCHES);
        let short = |at: u64| Ok(Segment { is_hole: true, end: at + 1 });
        let data = seek(size, 5, libc::SEEK_DATA, short).unwrap();
        assert!(data >= 5 && data <= 2 * MAX_STRETCHES as i64, "{data}");
    }

    proptest! {
        /// Byte by byte: what lseek(2) tells is where the holes that are stored begin and end.
        #[test]
        fn what_is_told_is_what_is_stored(
            mut cuts in prop::collection::vec(0..6 * HOLE_BYTES, 0..9),
            ends in 1..=6 * HOLE_BYTES,
            asked in prop::collection::vec(0..6 * HOLE_BYTES, 1..20),
        ) {
            cuts.sort_unstable();
            cuts.push(u64::MAX);
            // Data and zeros take turns, in several stretches of one kind at times.
            let segment = |at: u64| {
                let n = cuts.partition_point(|cut| *cut <= at);
                Ok(Segment { is_hole: n % 3 > 0, end: cuts[n] })
            };
            let size = ends;
            let holes = all(size, segment).unwrap();
            let is_hole = |at: u64| holes.iter().any(|hole| hole.contains(&at));
            for at in asked.into_iter().filter(|at| *at < size) {
                let edges = holes.iter().flat_map(|hole| [hole.start, hole.end]).chain([size]);
                let after: Vec<u64> = std::iter::once(at).chain(edges.filter(|edge| *edge > at)).collect();
                let hole = after.iter().copied().filter(|at| *at == size || is_hole(*at)).min();
                let data = after.iter().copied().filter(|at| *at < size && !is_hole(*at)).min();
                prop_assert_eq!(seek(size, at as i64, libc::SEEK_HOLE, segment).ok(), hole.map(|at| at as i64));
                prop_assert_eq!(seek(size, at as i64, libc::SEEK_DATA, segment).ok(), data.map(|at| at as i64));
            }
        }
    }
}
