//! The content of a file that is being changed, at one moment: reading it, its holes, and appending it to the content core.
//!
//! Changed bytes come from a scratch file, the others from the stored content (the *base*); bytes that neither has are
//! zeros. Not here: how it changes, and when it is committed (`staging.rs`, `write.rs`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hypermount_drive::scratch::{Ranges, Scratch};
use hypermount_drive::{
    ContentWriter, Drive, Extent, HashedBlocks, Pieces, Segment, StoredPart, Wait, hole_bytes,
    stored_parts, zeros,
};
use tokio::task::JoinHandle;

use crate::appending::Progress;
use crate::errno::{Error, Result};
use crate::holes;

/// Size in bytes of the blocks of a file.
pub(crate) const BLOCK_BYTES: u64 = 64 * 1024;
/// Bytes appended to a drive under one signature.
pub(crate) const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Batches that are read and hashed at the same time, while another one is written.
const BATCHES_AHEAD: usize = 2;
/// Blocks of zeros, which take no memory, in one batch.
const BATCH_ZEROS: usize = 1024;
/// An appended file is rewritten when it has more than this number of blocks in addition to twice
/// the number that it needs.
const SPARE_BLOCKS: u64 = 64;

/// The content of a staged file at one moment.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) base: Extent,
    pub(crate) base_limit: u64,
    pub(crate) size: u64,
    pub(crate) written: Ranges,
    pub(crate) scratch: Option<Arc<Scratch>>,
}

/// The content that a commit stores.
pub(crate) struct Pending {
    pub(crate) view: View,
    /// The extent that is stored now.
    pub(crate) stored: Extent,
    pub(crate) generation: u64,
}

impl View {
    pub(crate) async fn read(
        &self,
        drive: &Drive,
        range: Range<u64>,
        wait: Wait,
    ) -> Result<Pieces> {
        let end = range.end.min(self.size);
        let mut pieces = Pieces::new();
        let mut at = range.start;
        while at < end {
            let next = self.written.next(at).unwrap_or(end..end);
            if next.start == at {
                let until = next.end.min(end);
                pieces.push(self.read_scratch(at..until)?);
                at = until;
            } else if at < self.base_limit {
                let until = next.start.min(self.base_limit).min(end);
                self.read_base(drive, at..until, wait, &mut pieces).await?;
                at = until;
            } else {
                let until = next.start.min(end);
                // One piece has at most the bytes of the largest block of zeros.
                let piece = zeros(until - at);
                at += piece.len() as u64;
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    /// What there is from `at` on, which is before the end of the file.
    pub(crate) fn segment(&self, drive: &Drive, at: u64) -> Result<Segment> {
        let next = self.written.next(at).unwrap_or(self.size..self.size);
        let (found, limit) = if next.start == at {
            let hole = Segment { is_hole: true, end: next.end };
            (self.scratch.as_ref().map_or(Ok(hole), |scratch| scratch.segment(at))?, next.end)
        } else if at < self.base_limit {
            (drive.segment(&self.base, at), next.start.min(self.base_limit))
        } else {
            (Segment { is_hole: true, end: next.start }, next.start)
        };
        Ok(Segment { end: found.end.min(limit), ..found })
    }

    /// The stretches, in order, whose bytes are not those of the base.
    pub(crate) fn changed(&self) -> Vec<Range<u64>> {
        let mut changed = Vec::new();
        let mut from = 0;
        while let Some(stretch) =
            self.written.next(from).filter(|found| found.start < self.base_limit)
        {
            from = stretch.end;
            changed.push(stretch.start..stretch.end.min(self.base_limit));
        }
        changed.push(self.base_limit..self.size);
        changed
    }

    fn is_in_scratch(&self, range: &Range<u64>) -> bool {
        let next = self.written.next(range.start);
        next.is_some_and(|written| written.start <= range.start && written.end >= range.end)
    }

    fn read_scratch(&self, range: Range<u64>) -> Result<Bytes> {
        let mut buffer = vec![0; length_of(&range)];
        if let Some(scratch) = &self.scratch {
            scratch.read(range.start, &mut buffer)?;
        }
        Ok(buffer.into())
    }

    /// The blocks of parts that are in the scratch file, or zeros. Uses the memory of `buffer`, which the second value
    /// shares with the blocks.
    fn blocks_at_hand(
        &self,
        batch: &[StoredPart],
        mut buffer: BytesMut,
    ) -> Result<(Vec<Bytes>, Bytes)> {
        buffer.resize(batch.iter().map(data_bytes).sum(), 0);
        let mut rest = &mut buffer[..];
        for part in batch {
            if let StoredPart::Data(range) = part {
                let (part, after) = rest.split_at_mut(length_of(range));
                match &self.scratch {
                    Some(scratch) => scratch.read(range.start, part)?,
                    None => part.fill(0),
                }
                rest = after;
            }
        }
        let buffer = buffer.freeze();
        let (mut rest, mut blocks) = (buffer.clone(), Vec::new());
        for part in batch {
            match part {
                StoredPart::Data(range) => {
                    blocks.extend(in_blocks(rest.split_to(length_of(range))))
                }
                StoredPart::Zeros(range) => blocks.push(zeros(range.end - range.start)),
            }
        }
        Ok((blocks, buffer))
    }

    async fn read_base(
        &self,
        drive: &Drive,
        range: Range<u64>,
        wait: Wait,
        pieces: &mut Pieces,
    ) -> Result<()> {
        let expected = length_of(&range);
        let read = drive.read(&self.base, range, wait).await?;
        let got: usize = read.iter().map(Bytes::len).sum();
        if got != expected {
            return Err(Error::BadContent(format!("{got} bytes where {expected} were promised")));
        }
        pieces.extend(read);
        Ok(())
    }
}

impl Pending {
    /// The extent that already has this content, if there is one: then nothing is appended.
    pub(crate) fn unchanged(&self) -> Option<Extent> {
        let View { base, base_limit, size, ref written, .. } = self.view;
        let whole = written.is_empty() && base_limit == base.size && size == base.size;
        if size == 0 {
            return Some(Extent::default());
        }
        whole.then_some(base)
    }

    pub(crate) fn size(&self) -> u64 {
        self.view.size
    }

    /// The holes of the content, which [`Pending::append`] stores as such.
    pub(crate) fn holes(&self, drive: &Drive) -> Result<Vec<Range<u64>>> {
        holes::all(self.view.size, |at| self.view.segment(drive, at))
    }

    /// Whether the file is the stored content with bytes appended to it.
    fn is_longer(&self) -> bool {
        let View { base, base_limit, size, ref written, .. } = self.view;
        base == self.stored
            && base_limit == base.size
            && size > base.size
            && written.next(0).is_none_or(|stretch| stretch.start >= base.size)
            && base.blocks <= size.div_ceil(BLOCK_BYTES) * 2 + SPARE_BLOCKS
    }

    /// Appends the content to the drive: only the new bytes if the core ends with the others, and only the blocks that
    /// changed if the others can be kept. Of `holes`, nothing but their places, or blocks that take no disk space.
    pub(crate) async fn append(
        &self,
        drive: &Drive,
        mut writer: ContentWriter,
        holes: &[Range<u64>],
        wait: Wait,
        progress: &Progress,
    ) -> Result<Extent> {
        let View { base, size, .. } = self.view;
        let extends = self.is_longer() && !drive.maps_holes(size, holes) && writer.extend(&base);
        if !extends
            && let Some(splice) =
                drive.splice(&base, size, &self.view.changed(), holes, wait).await?
        {
            progress.begin(splice.new_blocks().map(|range| range.end - range.start).sum());
            let blocks = splice.new_blocks().map(StoredPart::Data);
            self.append_parts(drive, &mut writer, blocks, wait, progress).await?;
            return Ok(writer.finish_spliced(&splice, hole_bytes(holes))?);
        }
        writer.check_sparse(size, hole_bytes(holes))?;
        let at = if extends { base.size } else { 0 };
        progress.begin(size - at);
        let parts = stored_parts(at..size, holes);
        self.append_parts(drive, &mut writer, parts, wait, progress).await?;
        Ok(writer.finish_sparse(hole_bytes(holes)))
    }

    /// Appends these parts of the file, and tells how far it is. While one batch is written, the next ones are read and
    /// hashed on other threads.
    async fn append_parts(
        &self,
        drive: &Drive,
        writer: &mut ContentWriter,
        parts: impl Iterator<Item = StoredPart>,
        wait: Wait,
        progress: &Progress,
    ) -> Result<()> {
        let mut batches = batches(parts).peekable();
        let Some(first) = batches.next() else { return Ok(()) };
        if batches.peek().is_none() {
            return Ok(writer.append(&self.blocks(drive, &first, wait).await?)?);
        }
        let mut spare = Vec::new();
        let mut hashing =
            VecDeque::from([self.hash(drive, writer, first, wait, &mut spare).await?]);
        while let Some(first) = hashing.pop_front() {
            let ready: Result<Batch> = first.await.map_err(|_| Error::Panicked)?;
            let ready = ready?;
            while hashing.len() < BATCHES_AHEAD
                && let Some(batch) = batches.next()
            {
                hashing.push_back(self.hash(drive, writer, batch, wait, &mut spare).await?);
            }
            spare.extend(ready.append(writer, progress)?);
        }
        Ok(())
    }

    /// Reads a batch and hashes it on another thread; into one of the spare buffers, if it is in the scratch file.
    async fn hash(
        &self,
        drive: &Drive,
        writer: &ContentWriter,
        batch: Vec<StoredPart>,
        wait: Wait,
        spare: &mut Vec<BytesMut>,
    ) -> Result<JoinHandle<Result<Batch>>> {
        let hasher = writer.hasher();
        if batch.iter().all(|part| self.is_at_hand(part)) {
            let (view, spare) = (self.view.clone(), spare.pop().unwrap_or_default());
            return Ok(tokio::task::spawn_blocking(move || {
                let (blocks, buffer) = view.blocks_at_hand(&batch, spare)?;
                Ok(Batch { hashed: hasher.hash(blocks), buffer })
            }));
        }
        let blocks = self.blocks(drive, &batch, wait).await?;
        Ok(tokio::task::spawn_blocking(move || {
            Ok(Batch { hashed: hasher.hash(blocks), buffer: Bytes::new() })
        }))
    }

    fn is_at_hand(&self, part: &StoredPart) -> bool {
        match part {
            StoredPart::Data(range) => self.view.is_in_scratch(range),
            StoredPart::Zeros(_) => true,
        }
    }

    async fn blocks(&self, drive: &Drive, batch: &[StoredPart], wait: Wait) -> Result<Vec<Bytes>> {
        let mut blocks = Vec::new();
        for part in batch {
            match part {
                StoredPart::Data(range) => {
                    let read = self.view.read(drive, range.clone(), wait).await?;
                    blocks.extend(in_blocks(joined(read)));
                }
                StoredPart::Zeros(range) => blocks.push(zeros(range.end - range.start)),
            }
        }
        Ok(blocks)
    }
}

/// Blocks that are hashed and not appended yet, and the memory that they share, if they do. A later batch is read into
/// the same memory: new memory for each takes half as long as hashing.
struct Batch {
    hashed: HashedBlocks,
    buffer: Bytes,
}

impl Batch {
    /// Appends the blocks. Returns the memory, unless a reader still has a block.
    fn append(self, writer: &mut ContentWriter, progress: &Progress) -> Result<Option<BytesMut>> {
        let Self { hashed, buffer } = self;
        writer.append_hashed(&hashed)?;
        progress.add(hashed.blocks().iter().map(|block| block.len() as u64).sum());
        drop(hashed);
        Ok(buffer.try_into_mut().ok())
    }
}

/// The bytes that a part has in the scratch file.
fn data_bytes(part: &StoredPart) -> usize {
    match part {
        StoredPart::Data(range) => length_of(range),
        StoredPart::Zeros(_) => 0,
    }
}

/// The parts in batches of about [`BATCH_BYTES`] of data, or [`BATCH_ZEROS`] blocks of zeros.
fn batches(parts: impl Iterator<Item = StoredPart>) -> impl Iterator<Item = Vec<StoredPart>> {
    let mut parts = parts.flat_map(|part| {
        let (data, zeros) = match part {
            StoredPart::Data(range) => (range, None),
            zeros => (0..0, Some(zeros)),
        };
        let end = data.end;
        let starts = data.step_by(BATCH_BYTES as usize);
        let cut = move |start| StoredPart::Data(start..end.min(start + BATCH_BYTES));
        starts.map(cut).chain(zeros)
    });
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_ZEROS {
            let Some(part) = parts.next() else { break };
            if let StoredPart::Data(range) = &part {
                bytes += range.end - range.start;
            }
            batch.push(part);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

fn in_blocks(mut bytes: Bytes) -> Vec<Bytes> {
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.len().min(BLOCK_BYTES as usize);
        blocks.push(bytes.split_to(length));
    }
    blocks
}

fn joined(mut pieces: Pieces) -> Bytes {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces.concat().into(),
    }
}

/// Length of a range that was cut to one request or one batch.
fn length_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}
