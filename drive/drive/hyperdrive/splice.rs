//! Storing a changed file: which blocks of its stored content stay, and which bytes get new ones. A map in the content
//! core then names both (docs/format/hyperbee.md §6).
//!
//! Not here: reading maps (`maps.rs`), and the bytes that get new blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::Drive;
use super::holes::{StoredPart, hole_bytes, stored_parts};
use crate::index::{BlockMap, DriveFormat, MAX_MAP_PIECES, Piece};
use crate::stat::Extent;
use hypermount_core::{Core, Error, Result, Wait, ZERO_BLOCK_SIZES};

/// Bytes of a new block, at most.
const BLOCK_BYTES: u64 = 64 * 1024;
/// A block with fewer bytes beside a change is stored again with it, so that changes in a row do not leave ever shorter
/// ones.
const SHORT_BYTES: u64 = BLOCK_BYTES / 2;
/// Bytes that a piece takes in a map, at most.
const PIECE_BYTES: u64 = 18;
/// Bytes of holes, and their share of the file, from which they are worth a map. Without one they take no disk space
/// here either, but readers fetch them.
const MIN_MAPPED_HOLES: u64 = 1024 * 1024;
const MIN_MAPPED_SHARE: u64 = 16;

/// How a changed file is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A block of the stored content.
    Kept(Piece),
    /// Bytes of the file for which a block is appended.
    New(Range<u64>),
    /// Zeros, as many as this: one of [`ZERO_BLOCK_SIZES`]: a block that all holes of the drive share.
    Zeros(u64),
}

impl Splice {
    /// Of a file of `size` bytes, of which those in `changed` (in order, apart) are not in the blocks `stored`, with these
    /// holes.
    fn new(stored: &[Piece], size: u64, changed: &[Range<u64>], holes: &[Range<u64>]) -> Self {
        let mut changed = changed.iter().filter(|range| !range.is_empty()).peekable();
        let stays = |piece: &Piece| {
            let end = piece.start + piece.bytes;
            while changed.next_if(|range| range.end <= piece.start).is_some() {}
            end <= size && changed.peek().is_none_or(|range| range.start >= end)
        };
        let stays: Vec<bool> = stored.iter().map(stays).collect();
        let grows = stored.last().is_none_or(|last| last.start + last.bytes < size);
        let is_kept = |at: usize| {
            let changes = |at: Option<usize>, otherwise| {
                at.and_then(|at| stays.get(at)).map_or(otherwise, |stays| !stays)
            };
            let beside = changes(at.checked_sub(1), false) || changes(at.checked_add(1), grows);
            stays[at] && !(beside && stored[at].bytes < SHORT_BYTES)
        };
        let (mut parts, mut end) = (Vec::new(), 0);
        for (_, piece) in stored.iter().enumerate().filter(|(at, _)| is_kept(*at)) {
            parts.extend(new_parts(end..piece.start, holes));
            parts.push(Part::Kept(*piece));
            end = piece.start + piece.bytes;
        }
        parts.extend(new_parts(end..size, holes));
        Self { parts }
    }

    /// The bytes of the file for which blocks are appended, block by block.
    pub fn new_blocks(&self) -> impl Iterator<Item = Range<u64>> {
        self.parts.iter().filter_map(|part| match part {
            Part::New(range) => Some(range.clone()),
            Part::Kept(_) | Part::Zeros(_) => None,
        })
    }

    /// The sizes in bytes of the blocks of zeros that it names.
    pub(super) fn zeros(&self) -> BTreeSet<u64> {
        let zeros = |part: &Part| if let Part::Zeros(bytes) = part { Some(*bytes) } else { None };
        self.parts.iter().filter_map(zeros).collect()
    }

    /// About how many bytes it appends.
    fn cost(&self) -> u64 {
        let new: u64 = self.new_blocks().map(|range| range.end - range.start).sum();
        new + self.parts.len() as u64 * PIECE_BYTES
    }

    /// The map, if the first new block got this number, and the blocks of zeros of each size those.
    pub(super) fn map(&self, first: u64, zeros: &BTreeMap<u64, u64>) -> BlockMap {
        let mut next = first;
        let mut map = BlockMap::default();
        for part in &self.parts {
            match part {
                Part::Kept(piece) => map.add(piece.block, piece.bytes),
                Part::Zeros(bytes) => map.add(zeros.get(bytes).copied().unwrap_or(first), *bytes),
                Part::New(range) => {
                    map.add(next, range.end - range.start);
                    next += 1;
                }
            }
        }
        map
    }
}

/// The parts of bytes of which no stored block is kept.
fn new_parts(range: Range<u64>, holes: &[Range<u64>]) -> impl Iterator<Item = Part> {
    stored_parts(range, holes).flat_map(|part| {
        let (range, zeros) = match part {
            StoredPart::Data(range) => (range, None),
            StoredPart::Zeros(range) => (range.clone(), Some(range.end - range.start)),
        };
        let zeros = zeros.filter(|zeros| ZERO_BLOCK_SIZES.contains(zeros));
        let data = if zeros.is_some() { 0..0 } else { range };
        zeros.map(Part::Zeros).into_iter().chain(blocks_of(data).map(Part::New))
    })
}

/// Ranges of at most a block.
fn blocks_of(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = end.min(start + BLOCK_BYTES);
        (start < end).then_some(start..at)
    })
}

/// Whether a file of `size` bytes, of which this number are in holes, is stored with a map for their sake.
pub(super) fn is_sparse(size: u64, holes: u64) -> bool {
    holes >= MIN_MAPPED_HOLES.max(size / MIN_MAPPED_SHARE)
}

impl Drive {
    /// Whether a file of `size` bytes with these holes is to be stored with a map, however much of it is new.
    pub fn maps_holes(&self, size: u64, holes: &[Range<u64>]) -> bool {
        self.format() != DriveFormat::Hyperdrive10 && is_sparse(size, hole_bytes(holes))
    }

    /// How to store a file of `size` bytes whose bytes outside of `changed` (in order, apart) are those of `base`, and whose
    /// holes are these, with a map: if the blocks of `base` can be kept and that saves most of the bytes, or if the holes
    /// are large. Otherwise all of it is to be stored.
    ///
    /// # Errors
    /// Those of [`Drive::read`].
    pub async fn splice(
        &self,
        base: &Extent,
        size: u64,
        changed: &[Range<u64>],
        holes: &[Range<u64>],
        wait: Wait,
    ) -> Result<Option<Splice>> {
        let kept = size.saturating_sub(changed.iter().map(|range| range.end - range.start).sum());
        let is_sparse = self.maps_holes(size, holes);
        let keeps = kept.min(base.size) > size / 2;
        if self.format() == DriveFormat::Hyperdrive10 || !(keeps || is_sparse) {
            return Ok(None);
        }
        let content = self.content()?;
        let stored = match base.map_size {
            0 => blocks_in(content, base)?,
            _ => Some(self.inner.maps.get(content, base, wait).await?.from(0).to_vec()),
        };
        let Some(stored) = stored else { return Ok(None) };
        let stored: Vec<Piece> = stored.into_iter().filter(|piece| piece.bytes > 0).collect();
        let splice = Splice::new(&stored, size, changed, holes);
        let saves = is_sparse || splice.cost() <= size / 2;
        Ok((saves && splice.parts.len() as u64 <= MAX_MAP_PIECES).then_some(splice))
    }
}

/// The blocks of a file without a map; `None` if there are too many for one, or if the tree here does not tell.
fn blocks_in(content: &Core, extent: &Extent) -> Result<Option<Vec<Piece>>> {
    if extent.blocks > MAX_MAP_PIECES {
        return Ok(None);
    }
    let mut pieces = Vec::with_capacity(extent.blocks as usize);
    let mut start = 0;
    let Some(end) = extent.block.checked_add(extent.blocks) else { return Ok(None) };
    let Some(sizes) = content.sizes(extent.block..end)? else { return Ok(None) };
    for (at, bytes) in sizes.into_iter().enumerate() {
        pieces.push(Piece { block: extent.block + at as u64, start, bytes });
        start += bytes;
    }
    Ok((start == extent.size).then_some(pieces))
}

/// Appends the map of a file to its content core; where it is.
pub(super) fn append_map(content: &Core, map: &BlockMap) -> Result<Extent> {
    let (block, byte) = (content.head().length, content.plain_bytes());
    let blocks: Vec<Bytes> = map.encode();
    if blocks.is_empty() {
        return Err(Error::Malformed("a map without a block".into()));
    }
    content.append(&blocks)?;
    let map_size = blocks.iter().map(|block| block.len() as u64).sum();
    let blocks = blocks.len() as u64;
    Ok(Extent { block, blocks, byte, size: map.size(), map_size, holes: 0, fork: 0 })
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one stretch of many is meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Blocks of these sizes, numbered from 100 on.
    fn stored(sizes: &[u64]) -> Vec<Piece> {
        let mut map = BlockMap::default();
        sizes.iter().zip(100..).for_each(|(bytes, block)| map.add(block, *bytes));
        map.from(0).to_vec()
    }

    /// Blocks of zeros of each size, numbered from 1 on.
    fn zeros_at() -> BTreeMap<u64, u64> {
        ZERO_BLOCK_SIZES.into_iter().zip(1..).collect()
    }

    fn blocks(splice: &Splice) -> Vec<(u64, u64)> {
        splice
            .map(900, &zeros_at())
            .from(0)
            .iter()
            .map(|piece| (piece.block, piece.bytes))
            .collect()
    }

    #[test]
    fn blocks_without_a_changed_byte_are_kept() {
        let whole = stored(&[BLOCK_BYTES; 4]);
        let at = |block: u64| block * BLOCK_BYTES;
        let splice = Splice::new(&whole, at(4), &[at(2) + 5..at(2) + 6], &[]);
        let full = BLOCK_BYTES;
        assert_eq!(blocks(&splice), [(100, full), (101, full), (900, full), (103, full)]);
        assert_eq!(splice.new_blocks().collect::<Vec<_>>(), [at(2)..at(3)]);
        // The end of one block and the beginning of the next.
        let splice = Splice::new(&whole, at(4), &[at(1) - 1..at(1) + 1], &[]);
        assert_eq!(blocks(&splice), [(900, full), (901, full), (102, full), (103, full)]);
        // Cut in the middle of a block, and made longer.
        let splice = Splice::new(&whole, at(1) + 7, &[], &[]);
        assert_eq!(blocks(&splice), [(100, full), (900, 7)]);
        let splice = Splice::new(&whole, at(5) + 7, &[at(4)..at(5) + 7], &[]);
        assert_eq!(blocks(&splice)[4..], [(900, full), (901, 7)]);
    }

    #[test]
    fn a_short_block_beside_a_change_is_stored_with_it() {
        let sizes = [BLOCK_BYTES, 10, 20, BLOCK_BYTES, 10];
        let whole = stored(&sizes);
        let size: u64 = sizes.iter().sum();
        let first = Splice::new(&whole, size, &[0..1], &[]);
        assert_eq!(blocks(&first)[..2], [(900, BLOCK_BYTES), (901, 10)]);
        assert_eq!(blocks(&first)[2..], [(102, 20), (103, BLOCK_BYTES), (104, 10)]);
        // Appends in a row leave no short blocks behind.
        let grown = Splice::new(&whole, size + 5, &[size..size + 5], &[]);
        assert_eq!(blocks(&grown).last(), Some(&(900, 15)));
    }

    #[test]
    fn holes_name_one_block_of_zeros_again_and_again() {
        let [_, large, small] = ZERO_BLOCK_SIZES;
        let size = 3 * large + small + 9;
        let new = Splice::new(&[], size, &[0..size], &[large..size]);
        let blocks_of_data = (large / BLOCK_BYTES) as usize;
        assert_eq!(blocks(&new)[blocks_of_data..], [(2, large), (2, large), (3, small), (916, 9)]);
        assert_eq!(new.zeros(), BTreeSet::from([small, large]));
        assert_eq!(new.cost(), large + 9 + (blocks_of_data as u64 + 4) * PIECE_BYTES);
        // A change inside of a large block of zeros leaves smaller ones around it.
        let whole = stored(&[large, large]);
        let at = large + 3 * small;
        let holes = [0..at, at + small..2 * large];
        let changed = Splice::new(&whole, 2 * large, &[at + 5..at + 6], &holes);
        let blocks = blocks(&changed);
        assert_eq!(blocks[..5], [(100, large), (3, small), (3, small), (3, small), (900, small)]);
        assert!(blocks[5..].iter().all(|piece| *piece == (3, small)));
    }

    proptest! {
        /// Every byte comes from where it is: unchanged ones from their block or stored again, changed ones stored again.
        #[test]
        fn each_byte_is_stored_once(
            sizes in prop::collection::vec(0..3 * BLOCK_BYTES, 1..12),
            mut cuts in prop::collection::vec(0..30 * BLOCK_BYTES, 0..8),
            size in 0..40 * BLOCK_BYTES,
        ) {
            let stored: Vec<Piece> =
                stored(&sizes).into_iter().filter(|piece| piece.bytes > 0).collect();
            let before: u64 = sizes.iter().sum();
            cuts.sort_unstable();
            let mut changed: Vec<Range<u64>> = cuts
                .chunks_exact(2)
                .map(|cut| cut[0].min(size).min(before)..cut[1].min(size).min(before))
                .collect();
            changed.push(before.min(size)..size);
            let splice = Splice::new(&stored, size, &changed, &[]);
            let mut new = splice.new_blocks();
            let mut end = 0;
            for (piece, part) in splice.map(1000, &zeros_at()).from(0).iter().zip(&splice.parts) {
                prop_assert_eq!(piece.start, end);
                let range = piece.start..piece.start + piece.bytes;
                end = range.end;
                match part {
                    Part::Kept(kept) => {
                        prop_assert_eq!((kept.block, kept.start, kept.bytes), (piece.block, piece.start, piece.bytes));
                        let touched = changed.iter().any(|changed| {
                            !changed.is_empty() && changed.start < range.end && range.start < changed.end
                        });
                        prop_assert!(!touched);
                    }
                    Part::Zeros(_) => prop_assert!(false, "there is no hole"),
                    Part::New(part) => {
                        prop_assert!(piece.bytes <= BLOCK_BYTES);
                        prop_assert_eq!(part, &range);
                        prop_assert_eq!(new.next(), Some(range));
                    }
                }
            }
            prop_assert_eq!(end, size);
        }
    }
}
