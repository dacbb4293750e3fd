//! Writing: file bytes first, then one signed batch of index changes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::links::{self, PartChange};
use super::maps::Maps;
use super::splice::{self, Splice, is_sparse};
use super::{Drive, Edit};
use crate::stat::Extent;
use hypermount_core::{Core, Dialect, Error, HashedBlocks, Result, View, zeros};

/// Bytes that holes may lengthen a core to. Ext4 keeps files of 16 TiB; the other half is left for data.
const MAX_SPARSE_BYTES: u64 = 8 << 40;
const NOT_OURS: &str = "this machine does not hold the drive's keys";

/// Hashes blocks for the content core of one drive.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    dialect: Dialect,
    encrypted: bool,
}

impl Hasher {
    /// Hashes the blocks, on this thread; those of an encrypted drive are hashed when they are appended.
    pub fn hash(self, blocks: Vec<Bytes>) -> HashedBlocks {
        match self.encrypted {
            true => HashedBlocks::unhashed(self.dialect, blocks),
            false => HashedBlocks::of_kind(self.dialect, blocks),
        }
    }
}

/// The place at the end of the content core, for the blocks of one file after another.
///
/// INVARIANT: while it exists no other writer appends.
pub struct ContentWriter {
    content: Core,
    maps: Arc<Maps>,
    extent: Extent,
    _turn: OwnedMutexGuard<()>,
}

impl ContentWriter {
    fn new(content: Core, maps: Arc<Maps>, turn: OwnedMutexGuard<()>) -> Self {
        let (block, byte) = (content.head().length, content.plain_bytes());
        let extent = Extent { block, byte, ..Extent::default() };
        Self { content, maps, extent, _turn: turn }
    }

    /// Goes on after `extent` if that is what the core ends with; whether it does. Only before
    /// anything was appended.
    pub fn extend(&mut self, extent: &Extent) -> bool {
        let ends = extent.blocks > 0
            && extent.map_size == 0
            && extent.block.checked_add(extent.blocks) == Some(self.content.head().length)
            && extent.byte.checked_add(extent.size) == Some(self.content.plain_bytes());
        if ends && self.extent.blocks == 0 {
            self.extent = *extent;
        }
        ends
    }

    /// What hashes blocks for [`ContentWriter::append_hashed`], on any thread.
    pub fn hasher(&self) -> Hasher {
        Hasher { dialect: self.content.dialect(), encrypted: self.content.is_unlocked() }
    }

    /// Appends a batch of blocks under one signature.
    ///
    /// # Errors
    /// Those of [`Core::append`].
    pub fn append(&mut self, blocks: &[Bytes]) -> Result<()> {
        self.append_hashed(&self.hasher().hash(blocks.to_vec()))
    }

    /// As [`ContentWriter::append`], of blocks that were hashed before.
    ///
    /// # Errors
    /// Those of [`Core::append`].
    pub fn append_hashed(&mut self, hashed: &HashedBlocks) -> Result<()> {
        self.content.append_hashed(hashed)?;
        let blocks = hashed.blocks();
        self.extent.blocks += blocks.len() as u64;
        self.extent.size += blocks.iter().map(|block| block.len() as u64).sum::<u64>();
        Ok(())
    }

    /// As [`ContentWriter::finish`], of a file of which this number of bytes was appended as blocks of zeros.
    pub fn finish_sparse(self, holes: u64) -> Extent {
        // Of an encrypted core readers cannot tell which blocks they are.
        let holes = if self.content.is_unlocked() { 0 } else { holes };
        Extent { holes, ..self.finish() }
    }

    /// What was appended. Not visible until an [`Edit::Put`] names it.
    pub fn finish(self) -> Extent {
        if self.extent.blocks == 0 { Extent::default() } else { self.extent }
    }

    /// Refuses a file of `size` bytes, of which `holes` are to be stored without a map, if the core would get longer than file
    /// systems keep files: such holes take no disk space, so the disk does not end the log. In an encrypted core they
    /// take as much as data, and many are refused.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn check_sparse(&self, size: u64, holes: u64) -> Result<()> {
        if holes > 0 && self.content.head().byte_length.saturating_add(size) > MAX_SPARSE_BYTES {
            let what = "holes count for the length of the drive's log here, which would exceed 8 TiB; store the file with \
                        less of them";
            return Err(Error::TooLarge(what.to_owned()));
        }
        if self.content.is_unlocked() && is_sparse(size, holes) {
            let what = "the file has more parts than a block map lists; store it without holes";
            return Err(Error::TooLarge(what.to_owned()));
        }
        Ok(())
    }

    /// Ends a file of which the new blocks of `splice`, in their order, were appended and nothing else: appends the map
    /// that names them, those that were kept, and blocks of zeros. `holes` of the bytes are holes.
    ///
    /// # Errors
    /// Those of [`Core::append`].
    pub fn finish_spliced(self, splice: &Splice, holes: u64) -> Result<Extent> {
        let mut zeros = BTreeMap::new();
        for bytes in splice.zeros() {
            zeros.insert(bytes, self.shared_zeros(bytes)?);
        }
        let map = splice.map(self.extent.block, &zeros);
        let extent = Extent { holes, ..splice::append_map(&self.content, &map)? };
        self.maps.keep_own(&self.content, &extent, Arc::new(map));
        Ok(extent)
    }
}

impl ContentWriter {
    /// The block of this number of zeros that the holes of the drive share; it is appended unless this process did so before.
    fn shared_zeros(&self, bytes: u64) -> Result<u64> {
        if let Some(block) = self.maps.zeros(&self.content, bytes) {
            return Ok(block);
        }
        let block = self.content.append(&[zeros(bytes)])?.length - 1;
        self.maps.keep_zeros(&self.content, bytes, block);
        Ok(block)
    }
}

/// A turn at changing the index. While it is there the newest version stays the newest.
pub struct Turn(#[allow(dead_code)] OwnedMutexGuard<()>);

impl Drive {
    /// Takes a turn at changing the index. Waits for earlier turns to end, on whatever handle.
    pub async fn turn(&self) -> Turn {
        Turn(Arc::clone(&self.inner.turns.index).lock_owned().await)
    }

    /// Registers a view of the drive, until it is dropped.
    pub fn add_view(&self, view: &Arc<dyn View>) {
        self.inner.turns.add_view(view);
    }

    /// Has every view of the drive show its newest version, one after the other. To be called without a
    /// turn: a view may take one. Takes as long as the limits of the views together.
    pub async fn show_newest(&self) {
        for view in self.inner.turns.views() {
            view.show_newest().await;
        }
    }

    /// Takes a turn at appending file bytes. Waits for earlier turns to end.
    ///
    /// # Errors
    /// `ReadOnly`; those of [`Drive::content`].
    pub async fn content_writer(&self) -> Result<ContentWriter> {
        let content = self.writable_content()?.clone();
        let turn = Arc::clone(&self.inner.turns.content).lock_owned().await;
        Ok(ContentWriter::new(content, Arc::clone(&self.inner.maps), turn))
    }

    /// Appends the bytes of a whole file at once. Only for the sole user of the drive: while another
    /// file is being written it fails.
    ///
    /// # Errors
    /// `Unsupported` while another file is being written, those of [`Core::append`].
    pub fn append_content(&self, blocks: &[Bytes]) -> Result<Extent> {
        let content = self.writable_content()?.clone();
        let turn = Arc::clone(&self.inner.turns.content).try_lock_owned();
        let turn = turn.map_err(|_| Error::Unsupported("two files written at once".into()))?;
        let mut writer = ContentWriter::new(content, Arc::clone(&self.inner.maps), turn);
        writer.append(blocks)?;
        Ok(writer.extent)
    }

    fn writable_content(&self) -> Result<&Core> {
        if !self.writable() {
            return Err(Error::ReadOnly(NOT_OURS));
        }
        self.content()
    }

    /// Applies the edits as one signed batch; the new version. Either all of them become visible
    /// or, on any error, none. Safe against a killed process on return; against power loss after
    /// [`Drive::sync`].
    ///
    /// # Errors
    /// `NotFound` if what is to be removed is not there, `ReadOnly` also for a path inside a nested
    /// drive, `Unsupported`, `TooLarge`, `Storage`.
    pub async fn apply(&self, edits: Vec<Edit>) -> Result<u64> {
        let turn = self.turn().await;
        self.advance_in(&turn, edits).await.map(|versions| versions.end)
    }

    /// An entry that is put with the id of a file with several names is one of them, and a change of it is one of all of
    /// them; see [`crate::Stat::link`].
    ///
    /// As [`Drive::apply`], within a turn of the caller's: what it saw of the newest version since it
    /// has the turn still holds. Returns the version the edits were applied to, and the new one.
    ///
    /// # Errors
    /// Those of [`Drive::apply`].
    pub async fn advance_in(&self, _turn: &Turn, edits: Vec<Edit>) -> Result<Range<u64>> {
        if !self.writable() {
            return Err(Error::ReadOnly(NOT_OURS));
        }
        let core = self.inner.index.core();
        let before = core.head().length;
        let index = self.inner.index.at(before);
        let (edits, parts) = links::spread(&index, edits).await?;
        let mut batch = index.edits().await?;
        for edit in edits {
            batch.add(edit).await?;
        }
        for PartChange { id, part, value } in parts {
            batch.set_link_part(id, part, value).await?;
        }
        let blocks = batch.encode();
        if blocks.is_empty() {
            return Ok(before..before);
        }
        Ok(before..core.append(&blocks)?.length)
    }

    /// Returns when all that was written is on the disk: file bytes first, then the index that
    /// names them. Blocks on the disk.
    ///
    /// # Errors
    /// `Storage`.
    pub fn sync(&self) -> Result<()> {
        self.content()?.sync()?;
        self.inner.index.core().sync()
    }
}
