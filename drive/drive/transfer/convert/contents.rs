//! File bytes on their way from one drive into another: read in blocks of [`BLOCK_BYTES`], appended in batches, each file
//! once however many entries name its bytes. A large file is resumed after the blocks that were appended.
//!
//! Not here: which files, and the entries that name the bytes (`convert.rs`).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::super::resume::MIN_BYTES;
use super::super::{BLOCK_BYTES, Observer};
use super::record::{Begun, Conversion};
use crate::hyperdrive::{Drive, Pieces};
use crate::stat::Extent;
use hypermount_core::{Error, Result, Urgency, Wait};

/// Bytes that are read at once, appended under one signature, and held in memory.
const MAX_APPEND_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that peers are asked for ahead of that.
const AHEAD: u64 = 4 * MAX_APPEND_BYTES;
/// Most places of bytes that are remembered. Bytes that are named again after that are copied again.
const MAX_REMEMBERED: usize = 1_000_000;

/// Where bytes are in the new content core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Stored(Extent),
    /// Not appended yet: counted from the next block of the core.
    Waiting(Extent),
}

/// Why bytes were not copied.
pub(super) enum Failed {
    /// They cannot be read: the file is left out.
    Reading(Error),
    /// The new drive cannot be written, or the store: nothing can go on.
    Writing(Error),
}

/// Copies file bytes.
pub(super) struct Contents<'a> {
    pub(super) old: &'a Drive,
    /// `None` in a dry run.
    pub(super) new: Option<&'a Drive>,
    wait: Wait,
    /// What waits to be appended.
    blocks: Vec<Bytes>,
    bytes: u64,
    /// Where bytes of the old drive are in the new one, by their place in the old one.
    placed: HashMap<Key, Extent>,
    /// Where those are that wait.
    waiting: HashMap<Key, Extent>,
    /// Bytes of the new core that no entry names yet.
    pub(super) unnamed: u64,
}

type Key = [u64; 5];

fn key(extent: &Extent) -> Key {
    let Extent { block, blocks, byte, size, map_size, .. } = *extent;
    // The size of a file with a map does not add to where that is.
    [block, blocks, byte, if map_size > 0 { 0 } else { size }, map_size]
}

/// The place of bytes that were appended at `base`.
pub(super) fn shifted(waiting: Extent, base: &Extent) -> Extent {
    Extent { block: base.block + waiting.block, byte: base.byte + waiting.byte, ..waiting }
}

impl<'a> Contents<'a> {
    pub(super) fn new(old: &'a Drive, new: Option<&'a Drive>, wait: Wait) -> Self {
        let (blocks, placed, waiting) = (Vec::new(), HashMap::new(), HashMap::new());
        Self { old, new, wait, blocks, bytes: 0, placed, waiting, unnamed: 0 }
    }

    /// The bytes of a file are in the new drive already.
    pub(super) fn is_at(&mut self, old: &Extent, new: Extent) {
        if old.size > 0 && self.placed.len() < MAX_REMEMBERED {
            self.placed.insert(key(old), new);
        }
    }

    pub(super) fn known(&self, old: &Extent) -> Option<Placed> {
        if old.size == 0 {
            return Some(Placed::Stored(Extent::default()));
        }
        let waiting = self.waiting.get(&key(old)).copied().map(Placed::Waiting);
        waiting.or_else(|| self.placed.get(&key(old)).copied().map(Placed::Stored))
    }

    /// In a dry run: these bytes would be copied.
    pub(super) fn would_copy(&mut self, old: &Extent) {
        self.is_at(old, Extent::default());
    }

    /// Whether the file is appended as it is read, for which nothing may wait.
    pub(super) fn is_streamed(extent: &Extent) -> bool {
        extent.size > MAX_APPEND_BYTES
    }

    /// Whether it is time to append.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_APPEND_BYTES
    }

    /// How many bytes of a file are holes in the new drive: they are copied as blocks of zeros, which take no disk space. Of an
    /// encrypted core readers cannot tell which blocks these are.
    fn holes(&self, extent: &Extent) -> u64 {
        let content = self.new.and_then(|new| new.content().ok());
        content.filter(|content| !content.is_unlocked()).map_or(0, |_| extent.holes)
    }

    /// Asks peers for the first bytes of a file that will be read soon.
    pub(super) fn prefetch(&self, extent: &Extent) {
        if self.new.is_some() && !self.wait.is_local() && self.known(extent).is_none() {
            self.old.prefetch(extent, 0..extent.size.min(AHEAD), Urgency::Ahead);
        }
    }

    /// Reads a small file, to be appended with others.
    pub(super) async fn small(
        &mut self,
        extent: &Extent,
        observer: &mut dyn Observer,
    ) -> Result<Placed, Failed> {
        let blocks = self.read(extent, 0).await.map_err(Failed::Reading)?;
        let place = Extent {
            block: self.blocks.len() as u64,
            blocks: blocks.len() as u64,
            byte: self.bytes,
            size: extent.size,
            map_size: 0,
            holes: self.holes(extent),
            fork: 0,
        };
        self.blocks.extend(blocks);
        self.bytes += extent.size;
        observer.bytes(extent.size);
        self.waiting.insert(key(extent), place);
        Ok(Placed::Waiting(place))
    }

    /// Appends what waits. Places that were waiting are counted from the extent that is returned.
    pub(super) async fn append(&mut self) -> Result<Option<Extent>> {
        let Some(new) = self.new.filter(|_| !self.blocks.is_empty()) else { return Ok(None) };
        let mut writer = new.content_writer().await?;
        writer.append(&self.blocks)?;
        let base = writer.finish();
        self.blocks.clear();
        self.unnamed += std::mem::take(&mut self.bytes);
        for (key, place) in self.waiting.drain() {
            if self.placed.len() < MAX_REMEMBERED {
                self.placed.insert(key, shifted(place, &base));
            }
        }
        Ok(Some(base))
    }

    /// Appends a large file as it is read. Nothing waits.
    pub(super) async fn large(
        &mut self,
        extent: &Extent,
        conversion: &mut Conversion,
        observer: &mut dyn Observer,
    ) -> Result<Extent, Failed> {
        let Some(new) = self.new else { return Ok(Extent::default()) };
        // Until the end no other writer appends: the blocks of a file are one stretch.
        let mut writer = new.content_writer().await.map_err(Failed::Writing)?;
        let resumed = self.resumed(extent, conversion).await?;
        let content = new.content().map_err(Failed::Writing)?;
        let (block, byte) = (content.head().length, content.plain_bytes());
        let mut placed = resumed.unwrap_or(Extent { block, byte, ..Extent::default() });
        placed.holes = self.holes(extent);
        observer.bytes(placed.size);
        if resumed.is_none() && extent.size >= MIN_BYTES {
            conversion.begun = Some(Begun { block, source: *extent });
            conversion.save().map_err(Failed::Writing)?;
        }
        while placed.size < extent.size {
            let blocks = self.read(extent, placed.size).await.map_err(Failed::Reading)?;
            writer.append(&blocks).map_err(Failed::Writing)?;
            let size = blocks.iter().map(|block| block.len() as u64).sum::<u64>();
            placed.blocks += blocks.len() as u64;
            placed.size += size;
            self.unnamed += size;
            observer.bytes(size);
        }
        self.is_at(extent, placed);
        Ok(placed)
    }

    /// What an interrupted run has appended of the file last: blocks at the end of the core that have its bytes.
    async fn resumed(
        &self,
        extent: &Extent,
        conversion: &Conversion,
    ) -> Result<Option<Extent>, Failed> {
        let begun = conversion.begun.filter(|begun| begun.source.is_same_place(extent));
        let (Some(begun), Some(new)) = (begun, self.new) else { return Ok(None) };
        let content = new.content().map_err(Failed::Writing)?;
        let head = content.head();
        let (mut block, mut size) = (begun.block, 0);
        while block < head.length && size < extent.size {
            for ours in self.read(extent, size).await.map_err(Failed::Reading)? {
                if block == head.length {
                    break;
                }
                let stored = content.get_local(block).map_err(Failed::Writing)?;
                if stored.is_none_or(|stored| stored != ours) {
                    return Ok(None);
                }
                block += 1;
                size += ours.len() as u64;
            }
        }
        let byte = content.plain_bytes().checked_sub(size).filter(|_| block == head.length);
        let found = |byte| Extent {
            block: begun.block,
            blocks: block - begun.block,
            byte,
            size,
            map_size: 0,
            holes: 0,
            fork: 0,
        };
        Ok(byte.filter(|_| size > 0).map(found))
    }

    /// Up to [`MAX_APPEND_BYTES`] of a file from `at`, in blocks. Only the last one of the file is short.
    async fn read(&self, extent: &Extent, at: u64) -> Result<Vec<Bytes>> {
        let end = at.saturating_add(MAX_APPEND_BYTES).min(extent.size);
        if !self.wait.is_local() && end < extent.size {
            let ahead = end..end.saturating_add(AHEAD).min(extent.size);
            self.old.prefetch(extent, ahead, Urgency::Ahead);
        }
        let blocks = blocks_of(self.old.read(extent, at..end, self.wait).await?);
        let read = blocks.iter().map(|block| block.len() as u64).sum::<u64>();
        match read == end - at {
            true => Ok(blocks),
            false => Err(Error::Malformed("a file is shorter than its entry says".into())),
        }
    }
}

/// Cuts bytes into blocks of [`BLOCK_BYTES`]; pieces that are such blocks are not copied.
fn blocks_of(pieces: Pieces) -> Vec<Bytes> {
    let (mut blocks, mut rest) = (Vec::new(), BytesMut::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            if rest.is_empty() && piece.len() >= BLOCK_BYTES {
                blocks.push(piece.split_to(BLOCK_BYTES));
                continue;
            }
            let room = BLOCK_BYTES - rest.len();
            rest.extend_from_slice(&piece.split_to(room.min(piece.len())));
            if rest.len() == BLOCK_BYTES {
                blocks.push(rest.split().freeze());
            }
        }
    }
    if !rest.is_empty() {
        blocks.push(rest.freeze());
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_whole_but_the_last_one(
            sizes in prop::collection::vec(prop_oneof![0..3usize, 65_535..65_538usize, 0..200_000usize], 0..8),
        ) {
            let bytes = |(at, size): (u8, &usize)| Bytes::from(vec![at; *size]);
            let pieces: Pieces = (0..).zip(&sizes).map(bytes).collect();
            let whole = pieces.concat();
            let blocks = blocks_of(pieces);
            prop_assert_eq!(blocks.concat(), whole);
            let (last, others) = blocks.split_last().map_or((None, &[][..]), |(l, o)| (Some(l), o));
            prop_assert!(others.iter().all(|block| block.len() == BLOCK_BYTES));
            prop_assert!(last.is_none_or(|last| !last.is_empty() && last.len() <= BLOCK_BYTES));
        }
    }
}
