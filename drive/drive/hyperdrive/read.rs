//! Bytes of an extent from a content core: which blocks hold them, and all of them at once.
//!
//! Blocks have whatever size their writer chose. Where the tree here tells which block holds a
//! byte, it is asked; else the block is guessed, fetched, and the guess checked against the sizes
//! its proof brought. An extent is signed by the publisher, so it is checked for sense first.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::stat::{Extent, Segment};
use hypermount_core::{
    Core, Error, Located, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, MAX_WANTED_BLOCKS, Result, Ticket,
    Urgency, Wait,
};

/// Blocks of one read that are asked for at once.
pub(super) const MAX_BLOCKS_AT_ONCE: u64 = 512;
/// Blocks on disk that are read and hashed together.
const READ_TOGETHER: u64 = 4;
/// Sizes in bytes into which the known writers cut files; the last block has the rest.
const USUAL_BLOCK_SIZES: [u64; 2] = [64 * 1024, 512 * 1024];
/// Blocks without a byte that one read passes over; no writer makes them, and a publisher that signs
/// millions would keep a reader busy for as long.
const MAX_EMPTY_BLOCKS: usize = 1024;
/// Blocks looked at one by one to count how many bytes are here; beyond it is estimated.
const MAX_COUNTED_BLOCKS: u64 = 4096;
/// Blocks of data looked at one by one for one [`Segment`].
const MAX_LOOKED_AT: u64 = 256;

/// An extent that passed the checks which need no core.
#[derive(Clone, Copy)]
struct Stretch {
    extent: Extent,
    end_block: u64,
}

impl Stretch {
    fn new(extent: &Extent) -> Result<Self> {
        let bad = |what: &str| Err(Error::Malformed(format!("a file's extent {what}")));
        let Some(end_block) = extent.block.checked_add(extent.blocks) else {
            return bad("has more blocks than there are numbers");
        };
        if extent.byte.checked_add(extent.size).is_none() {
            return bad("has more bytes than there are numbers");
        }
        if extent.blocks == 0 && extent.size > 0 {
            return bad("has bytes but no blocks");
        }
        if end_block > MAX_CORE_LENGTH {
            return bad("ends after every core");
        }
        if extent.size.div_ceil(MAX_BLOCK_SIZE as u64) > extent.blocks {
            return bad("has more bytes than its blocks can hold");
        }
        Ok(Self { extent: *extent, end_block })
    }

    fn blocks(&self) -> Range<u64> {
        self.extent.block..self.end_block
    }

    /// The block that holds the core's byte `byte`, if blocks are of even size.
    fn guess(&self, byte: u64) -> u64 {
        let Extent { block, blocks, size, .. } = self.extent;
        let offset = byte.saturating_sub(self.extent.byte);
        let usual = USUAL_BLOCK_SIZES.into_iter().find(|usual| size.div_ceil(*usual) == blocks);
        let index = match usual {
            Some(usual) => offset / usual,
            None => {
                let index = u128::from(offset) * u128::from(blocks) / u128::from(size.max(1));
                u64::try_from(index).unwrap_or(u64::MAX)
            }
        };
        block + index.min(blocks.saturating_sub(1))
    }

    /// The block that holds `byte` as far as the tree here tells, else the guess.
    fn locate_or_guess(&self, core: &Core, byte: u64, blocks: Range<u64>) -> Result<u64> {
        let last = blocks.end.saturating_sub(1);
        Ok(match core.locate(byte, blocks.clone())? {
            Located::Found { block, .. } => block,
            Located::Within(within) => {
                let guess = self.guess(byte).max(within.start);
                guess.min(within.end.saturating_sub(1).max(within.start)).min(last)
            }
        })
    }
}

/// Refuses an extent that no core can have.
pub(super) fn check(extent: &Extent) -> Result<()> {
    Stretch::new(extent).map(drop)
}

/// The bytes of a range in order, as the parts of blocks that hold them. Up to two pieces need no
/// allocation.
pub type Pieces = SmallVec<[Bytes; 2]>;

/// Bytes `range` of the extent, cut at its size.
pub(super) async fn read(
    core: &Core,
    extent: &Extent,
    range: Range<u64>,
    wait: Wait,
) -> Result<Pieces> {
    let range = range.start..range.end.min(extent.size);
    if range.is_empty() {
        return Ok(Pieces::new());
    }
    let stretch = Stretch::new(extent)?;
    if core.writable() && stretch.end_block > core.head().length {
        return Err(Error::Malformed("a file's extent ends after its core".into()));
    }
    let bytes = extent.byte + range.start..extent.byte + range.end;
    // The tickets are held to the end: a want given up and taken up again may be fetched twice.
    let mut tickets = Vec::new();
    let (first, offset) = first_block(core, &stretch, &bytes, wait, &mut tickets).await?;
    gather(core, &stretch, first, offset, bytes, wait).await
}

/// The block that holds the first of `bytes`, and where in it.
async fn first_block(
    core: &Core,
    stretch: &Stretch,
    bytes: &Range<u64>,
    wait: Wait,
    tickets: &mut Vec<Ticket>,
) -> Result<(u64, u64)> {
    let known = core.head().length >= stretch.end_block;
    if known && let Located::Found { block, offset } = core.locate(bytes.start, stretch.blocks())? {
        check_start(core, stretch)?;
        return Ok((block, offset));
    }
    let guess = stretch.guess(bytes.start);
    let likely = guess..stretch.guess(bytes.end - 1).saturating_add(1);
    tickets.extend(want(core, likely, wait));
    core.get(guess, wait).await?;
    if core.head().length < stretch.end_block {
        core.longer_than(stretch.end_block - 1, wait).await?;
    }
    check_start(core, stretch)?;
    // Its own proof tells where it begins, even if the tree above it is not here: a peer with an
    // older version could prove the block and not that.
    if let Some((start, size)) = core.span(guess)?
        && let Some(offset) = bytes.start.checked_sub(start).filter(|offset| *offset < size)
    {
        return Ok((guess, offset));
    }
    match core.locate(bytes.start, stretch.blocks())? {
        Located::Found { block, offset } => Ok((block, offset)),
        Located::Within(within) => core.seek(bytes.start, within, guess, wait).await,
    }
}

/// Refuses an extent whose first byte is not that of its first block, if the tree tells.
fn check_start(core: &Core, stretch: &Stretch) -> Result<()> {
    match core.span(stretch.extent.block)? {
        Some((byte, _)) if byte != stretch.extent.byte => {
            Err(Error::Malformed("a file's extent does not begin where its blocks do".into()))
        }
        Some(_) | None => Ok(()),
    }
}

async fn gather(
    core: &Core,
    stretch: &Stretch,
    first: u64,
    offset: u64,
    bytes: Range<u64>,
    wait: Wait,
) -> Result<Pieces> {
    let mut pieces = Pieces::new();
    let mut left = bytes.end - bytes.start;
    let mut skip = offset;
    let mut tickets = Vec::new();
    let mut wanted_end = first;
    let mut empty = 0;
    for block in first..stretch.end_block {
        if block >= wanted_end {
            let last = stretch.locate_or_guess(core, bytes.end - 1, block..stretch.end_block)?;
            wanted_end = last.max(block).saturating_add(1).min(block + MAX_BLOCKS_AT_ONCE);
            tickets = want(core, block..wanted_end, wait);
        }
        if (block - first).is_multiple_of(READ_TOGETHER) && wanted_end - block > 1 {
            core.warm(block..wanted_end.min(block + READ_TOGETHER));
        }
        let value = core.get(block, wait).await?;
        let length = value.len() as u64;
        if length == 0 {
            empty += 1;
            if empty > MAX_EMPTY_BLOCKS {
                return Err(Error::Malformed("a file of empty blocks".into()));
            }
        }
        let start = skip.min(length);
        let end = length.min(start.saturating_add(left));
        skip -= start;
        left -= end - start;
        if end > start {
            // Both are at most the length of a value that is in memory.
            pieces.push(value.slice(start as usize..end as usize));
        }
        if left == 0 {
            drop(tickets);
            return Ok(pieces);
        }
    }
    Err(Error::Malformed("a file is longer than its blocks".into()))
}

/// Asks for those of `blocks` that are missing, the first ones if there are many.
pub(super) fn want(core: &Core, blocks: Range<u64>, wait: Wait) -> Vec<Ticket> {
    if wait.is_local() {
        return Vec::new();
    }
    let end = blocks.end.min(blocks.start.saturating_add(MAX_BLOCKS_AT_ONCE));
    let demand = core.demand();
    (blocks.start..end).filter(|block| !core.has(*block)).map(|block| demand.want(block)).collect()
}

/// Asks for the bytes without waiting, as far as can be told or guessed where they are.
pub(super) fn prefetch(core: &Core, extent: &Extent, range: Range<u64>, urgency: Urgency) {
    let range = range.start..range.end.min(extent.size);
    let Ok(stretch) = Stretch::new(extent) else {
        return;
    };
    if range.is_empty() {
        return;
    }
    let place = |byte: u64| {
        let byte = extent.byte + byte;
        let located = stretch.locate_or_guess(core, byte, stretch.blocks());
        located.unwrap_or_else(|_| stretch.guess(byte))
    };
    let (mut next, end) = (place(range.start), place(range.end - 1).saturating_add(1));
    let mut missing = Vec::new();
    while missing.len() < MAX_WANTED_BLOCKS
        && let Some(block) = core.first_missing(next..end)
    {
        missing.push(block);
        next = block + 1;
    }
    core.demand().want_ahead(missing, urgency);
}

/// About how many of the bytes are in blocks that are not here.
pub(super) fn lacking(core: &Core, extent: &Extent, range: Range<u64>) -> u64 {
    let range = range.start..range.end.min(extent.size);
    let Ok(stretch) = Stretch::new(extent) else {
        return 0;
    };
    if range.is_empty() || core.first_missing(stretch.blocks()).is_none() {
        return 0;
    }
    let place = |byte: u64| {
        let byte = extent.byte + byte;
        let located = stretch.locate_or_guess(core, byte, stretch.blocks());
        located.unwrap_or_else(|_| stretch.guess(byte - extent.byte))
    };
    let (first, end) = (place(range.start), place(range.end - 1).saturating_add(1));
    let blocks = end.saturating_sub(first);
    let missing = blocks.saturating_sub(core.held(first..end));
    let share = u128::from(range.end - range.start) * u128::from(missing);
    u64::try_from(share / u128::from(blocks.max(1))).unwrap_or(u64::MAX)
}

/// What the extent has from `at` on; `None` if the tree here does not tell.
pub(super) fn segment(core: &Core, extent: &Extent, at: u64) -> Option<Segment> {
    let stretch = Stretch::new(extent).ok()?;
    // The tree of an encrypted core tells nothing of its bytes.
    if core.is_unlocked() {
        return None;
    }
    let located = core.locate(extent.byte + at, stretch.blocks()).ok()?;
    let Located::Found { block: first, offset } = located else { return None };
    let (count, bytes) = core.zero_blocks(first, stretch.end_block).ok()?;
    if count > 0 {
        return Some(Segment { is_hole: true, end: at - offset + count * bytes });
    }
    let mut end = at - offset;
    for block in first..stretch.end_block.min(first + MAX_LOOKED_AT) {
        if block > first && core.zero_blocks(block, block + 1).ok()?.0 > 0 {
            break;
        }
        end += core.span(block).ok()??.1;
    }
    Some(Segment { is_hole: false, end })
}

/// How many bytes and blocks of the extent are here.
pub(super) fn held(core: &Core, extent: &Extent) -> (u64, u64) {
    let Ok(stretch) = Stretch::new(extent) else {
        return (0, 0);
    };
    let blocks = extent.block..stretch.end_block.min(core.head().length).max(extent.block);
    let held = core.held(blocks.clone());
    if held == extent.blocks {
        return (extent.size, held);
    }
    if held == 0 || blocks.end - blocks.start > MAX_COUNTED_BLOCKS {
        let share = u128::from(extent.size) * u128::from(held) / u128::from(extent.blocks.max(1));
        return (u64::try_from(share).unwrap_or(extent.size), held);
    }
    let size = |block: u64| core.span(block).ok().flatten().map_or(0, |(_, size)| size);
    let bytes = blocks.filter(|block| core.has(*block)).map(size).sum::<u64>();
    (bytes.min(extent.size), held)
}
