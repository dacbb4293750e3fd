//! A file that is being changed: one per inode, shared by all its handles, so that each handle
//! reads what the others wrote.
//!
//! Changed bytes are in a scratch file. The other bytes are read from the stored content (the
//! *base*); bytes that neither has are zeros. Nothing is copied up before it must be. A commit
//! appends the file to the drive, where its format allows that only the blocks that changed, and names it in one batch;
//! `write.rs` decides when.
//!
//! Not here: names and inodes. A staged file only knows the path under which it is to be stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hypermount_drive::scratch::{Origin, Pool, Ranges, Scratch};
use hypermount_drive::sync::{Mutex, Rank};
use hypermount_drive::{
    ContentWriter, Drive, DrivePath, Entry, Extent, HashedBlocks, Link, Pieces, PublicKey, Splice,
    Stat, Time, Wait,
};

use crate::appending::{Append, Progress};
use crate::attr::MAX_FILE_BYTES;
use crate::errno::{Error, Result};

/// Size in bytes of the blocks of a file.
pub(crate) const BLOCK_BYTES: u64 = 64 * 1024;
/// Bytes appended to a drive under one signature; about the memory that a commit takes.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Most separate stretches of changed bytes in one file. Beyond this, the whole file is copied up.
pub(crate) const MAX_STRETCHES: usize = 65_536;
/// An appended file is rewritten when it has more than this number of blocks in addition to twice
/// the number that it needs.
const SPARE_BLOCKS: u64 = 64;

/// A file that is being changed; see the module documentation.
pub(crate) struct StagedFile {
    /// The drive it belongs to, for the record beside the scratch file.
    drive: PublicKey,
    pool: Arc<Pool>,
    /// Held during a commit. Taken before every other lock. Contains the append that a commit has begun and not seen
    /// the end of.
    pub commit: tokio::sync::Mutex<Option<Append>>,
    state: Mutex<State>,
}

/// INVARIANTS: `base_limit` is at most `size` and at most `base.size`; `written` ends at `size`;
/// bytes in `written` are in `scratch`.
struct State {
    path: DrivePath,
    /// The stat to be stored, except that its extent is the stored one.
    stat: Stat,
    base: Extent,
    /// Offset from which on bytes are not read from the base.
    base_limit: u64,
    size: u64,
    written: Ranges,
    scratch: Option<Arc<Scratch>>,
    /// Whether the drive has this file.
    stored: bool,
    /// The stat that the drive has, if `stored`.
    known: Stat,
    /// Whether the file was unlinked: no further change is committed.
    removed: bool,
    /// See [`StagedFile::overtake`].
    overtaken: bool,
    writers: u32,
    /// Number of changes.
    generation: u64,
    /// The value of `generation` at the last complete commit.
    committed: u64,
}

/// The content of a staged file at one moment.
#[derive(Clone)]
struct View {
    base: Extent,
    base_limit: u64,
    size: u64,
    written: Ranges,
    scratch: Option<Arc<Scratch>>,
}

/// The content that a commit stores.
#[derive(Clone)]
pub(crate) struct Pending {
    view: View,
    /// The extent that is stored now.
    stored: Extent,
    pub generation: u64,
}

impl StagedFile {
    /// A file of `drive`: with the stored content of `stat` if `stored`, otherwise new and empty.
    pub(crate) fn new(
        drive: PublicKey,
        path: DrivePath,
        stat: Stat,
        stored: bool,
        pool: Arc<Pool>,
    ) -> Self {
        let state = State {
            path,
            base: stat.extent,
            base_limit: stat.extent.size,
            size: stat.extent.size,
            known: stat.clone(),
            stat,
            written: Ranges::default(),
            scratch: None,
            stored,
            removed: false,
            overtaken: false,
            writers: 0,
            generation: u64::from(!stored),
            committed: 0,
        };
        let (commit, state) = (tokio::sync::Mutex::new(None), Mutex::new(Rank::STAGED, state));
        Self { drive, pool, commit, state }
    }

    /// The entry as programs see it now.
    pub(crate) fn entry(&self) -> Arc<Entry> {
        let state = self.state.lock();
        let mut stat = state.stat.clone();
        stat.extent.size = state.size;
        Arc::new(Entry::stored(stat))
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.lock().size
    }

    pub(crate) fn path(&self) -> DrivePath {
        self.state.lock().path.clone()
    }

    /// Whether the drive has the content `extent` for this file, as far as this mount knows. `None`
    /// asks whether the drive does not have the file.
    pub(crate) fn is_stored_as(&self, extent: Option<Extent>) -> bool {
        let state = self.state.lock();
        let content = |extent: Extent| if extent.size == 0 { Extent::default() } else { extent };
        state.stored.then_some(state.stat.extent).map(content) == extent.map(content)
    }

    /// Another writer has changed what is stored beside the content. Takes over every value that
    /// was not changed here too.
    pub(crate) fn take_over(&self, after: &Stat) {
        let mut state = self.state.lock();
        let State { stat, known, .. } = &mut *state;
        fn take<T: Clone + PartialEq>(ours: &mut T, known: &mut T, theirs: &T) {
            if ours == known {
                ours.clone_from(theirs);
            }
            known.clone_from(theirs);
        }
        take(&mut stat.mode, &mut known.mode, &after.mode);
        take(&mut stat.uid, &mut known.uid, &after.uid);
        take(&mut stat.gid, &mut known.gid, &after.gid);
        take(&mut stat.mtime, &mut known.mtime, &after.mtime);
        take(&mut stat.ctime, &mut known.ctime, &after.ctime);
        take(&mut stat.atime, &mut known.atime, &after.atime);
        take(&mut stat.attributes, &mut known.attributes, &after.attributes);
    }

    /// Another writer has replaced or removed the path. Further changes of this file are not
    /// committed; they stay in the scratch file.
    pub(crate) fn overtake(&self) {
        let mut state = self.state.lock();
        state.overtaken = true;
        if let Some(scratch) = &state.scratch {
            scratch.keep();
        }
    }

    pub(crate) fn is_overtaken(&self) -> bool {
        self.state.lock().overtaken
    }

    pub(crate) fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        !state.removed && state.generation != state.committed
    }

    /// Whether the drive has this file.
    pub(crate) fn is_stored(&self) -> bool {
        self.state.lock().stored
    }

    /// Whether the path no longer leads to this file.
    pub(crate) fn is_removed(&self) -> bool {
        self.state.lock().removed
    }

    pub(crate) fn has_writers(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// Counts a handle that may write.
    pub(crate) fn open_writer(&self) {
        self.state.lock().writers += 1;
    }

    pub(crate) fn close_writer(&self) {
        let mut state = self.state.lock();
        state.writers = state.writers.saturating_sub(1);
    }

    /// The path no longer leads to this file, which ends with its last handle.
    pub(crate) fn remove(&self) {
        let mut state = self.state.lock();
        state.removed = true;
        if let Some(scratch) = &state.scratch {
            scratch.let_go();
        }
    }

    /// The file has another path now.
    pub(crate) fn rename(&self, path: DrivePath) {
        let mut state = self.state.lock();
        if let Some(scratch) = &state.scratch
            && let Err(error) = scratch.moved(&path)
        {
            log::warn!("{error}");
        }
        state.path = path;
    }

    /// The file got or lost a name, at the time `ctime`; that is stored already.
    pub(crate) fn set_link(&self, link: Option<Link>, ctime: Time) {
        let mut state = self.state.lock();
        state.stat.ctime = state.stat.ctime.max(ctime);
        (state.stat.link, state.known.link) = (link, link);
    }

    /// Changes what is stored beside the content.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Stat) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        change(&mut state.stat)?;
        state.generation += 1;
        Ok(())
    }

    /// Removes set-id bits before the content changes, with `remove`, which changes the mode if it
    /// must.
    pub(crate) fn remove_set_ids(&self, remove: impl FnOnce(&mut Stat)) {
        let mut state = self.state.lock();
        let before = state.stat.mode;
        remove(&mut state.stat);
        if state.stat.mode != before {
            state.generation += 1;
        }
    }

    /// Writes bytes. Returns `false`, with nothing written, if the file must be copied up first.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], now: Time) -> Result<bool> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= MAX_FILE_BYTES);
        let end = end.ok_or(Error::FileTooLarge)?;
        if bytes.is_empty() {
            return Ok(true);
        }
        let mut state = self.state.lock();
        if state.written.len() >= MAX_STRETCHES {
            return Ok(false);
        }
        self.put(&mut state, offset, bytes)?;
        state.size = state.size.max(end);
        state.changed(now);
        Ok(true)
    }

    /// Writes bytes to the scratch file.
    fn put(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let scratch = self.scratch(state)?;
        scratch.write(offset, bytes)?;
        if !state.written.covers(&range) {
            scratch.written(&range)?;
            state.written.insert(range);
        }
        Ok(())
    }

    fn scratch(&self, state: &mut State) -> Result<Arc<Scratch>> {
        if let Some(scratch) = &state.scratch {
            return Ok(scratch.clone());
        }
        // The record names a drive only for the recovery of files that a killed process left.
        let origin = Origin {
            drive: self.drive,
            path: state.path.clone(),
            base: state.base,
            mode: state.stat.mode,
        };
        let scratch = Arc::new(Scratch::create(&self.pool, &origin)?);
        if state.base_limit < state.base.size {
            scratch.resized(state.base_limit)?;
        }
        if state.size != state.base_limit {
            scratch.resized(state.size)?;
        }
        state.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    /// Cuts the file, or extends it with zeros.
    pub(crate) fn resize(&self, size: u64, now: Time) -> Result<()> {
        if size > MAX_FILE_BYTES {
            return Err(Error::FileTooLarge);
        }
        let mut state = self.state.lock();
        if size != state.size {
            if let Some(scratch) = &state.scratch {
                scratch.resized(size)?;
            }
            state.written.cut(size);
            state.base_limit = state.base_limit.min(size);
            state.size = size;
        }
        state.changed(now);
        Ok(())
    }

    /// Sets the bytes of the range to zero, up to the end of the file.
    pub(crate) fn zero(&self, range: Range<u64>, now: Time) -> Result<()> {
        static ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        let mut state = self.state.lock();
        let end = range.end.min(state.size);
        let mut at = range.start;
        while at < end {
            let length = (end - at).min(BLOCK_BYTES);
            // At most the length of ZEROS.
            self.put(&mut state, at, &ZEROS[..length as usize])?;
            at += length;
        }
        state.changed(now);
        Ok(())
    }

    /// Takes an extent of the same drive as content. Returns false, without a change, unless this
    /// file is empty.
    pub(crate) fn share(&self, extent: Extent, now: Time) -> bool {
        let mut state = self.state.lock();
        if state.size > 0 {
            return false;
        }
        state.drop_scratch();
        (state.base, state.base_limit, state.size) = (extent, extent.size, extent.size);
        state.changed(now);
        true
    }

    /// The extent of the whole content, if nothing was changed since it was stored.
    pub(crate) fn whole_extent(&self) -> Option<Extent> {
        let state = self.state.lock();
        let whole = state.written.is_empty()
            && state.base_limit == state.base.size
            && state.size == state.base.size;
        whole.then_some(state.base)
    }

    fn view(&self) -> View {
        self.state.lock().view()
    }

    /// Reads the bytes of the range, up to the end of the file, in pieces.
    pub(crate) async fn read(
        &self,
        drive: &Drive,
        range: Range<u64>,
        wait: Wait,
    ) -> Result<Pieces> {
        self.view_of(&range).read(drive, range, wait).await
    }

    /// A view that is only valid for `range`, so that not all stretches are copied.
    fn view_of(&self, range: &Range<u64>) -> View {
        let state = self.state.lock();
        let mut written = Ranges::default();
        let mut from = range.start;
        while let Some(stretch) = state.written.next(from).filter(|found| found.start < range.end) {
            from = stretch.end;
            written.insert(stretch);
        }
        let State { base, base_limit, size, .. } = *state;
        View { base, base_limit, size, written, scratch: state.scratch.clone() }
    }

    /// Copies the bytes that are still read from the base to the scratch file. After that the file
    /// is one stretch.
    pub(crate) async fn copy_up(&self, drive: &Drive, wait: Wait) -> Result<()> {
        let mut at = 0;
        loop {
            let view = self.view();
            let limit = view.base_limit;
            while let Some(stretch) = view.written.next(at).filter(|stretch| stretch.start == at) {
                at = stretch.end;
            }
            if at >= limit {
                return self.fill_gaps();
            }
            let next = view.written.next(at).map_or(limit, |stretch| stretch.start);
            let chunk = at..next.min(limit).min(at + BATCH_BYTES);
            let bytes = view.read(drive, chunk.clone(), wait).await?.concat();
            let mut state = self.state.lock();
            // Written or cut meanwhile: try again.
            let free = state.written.next(at).is_none_or(|stretch| stretch.start >= chunk.end);
            if free && state.base_limit >= chunk.end && state.base == view.base {
                self.put(&mut state, at, &bytes)?;
                at = chunk.end;
            }
        }
    }

    /// Marks bytes beyond the base as written. They are zeros in the scratch file already.
    fn fill_gaps(&self) -> Result<()> {
        let mut state = self.state.lock();
        let (start, end) = (state.base_limit, state.size);
        if start < end {
            let scratch = self.scratch(&mut state)?;
            scratch.written(&(start..end))?;
            state.written.insert(start..end);
        }
        Ok(())
    }

    /// What a commit has to store now, if anything.
    pub(crate) fn pending(&self) -> Option<Pending> {
        let state = self.state.lock();
        if state.removed || state.generation == state.committed {
            return None;
        }
        let (stored, generation) = (state.stat.extent, state.generation);
        Some(Pending { view: state.view(), stored, generation })
    }

    /// The path and the stat with which a commit is to name `extent`; `None` if the file was
    /// unlinked.
    pub(crate) fn destination(&self, extent: Extent) -> Option<(DrivePath, Stat)> {
        let state = self.state.lock();
        let stat = Stat { extent, ..state.stat.clone() };
        (!state.removed).then(|| (state.path.clone(), stat))
    }

    /// Notes that `stat`, with the changes up to `generation`, is stored. Returns whether that is
    /// all of them.
    pub(crate) fn stored(&self, stat: &Stat, generation: u64) -> bool {
        let extent = stat.extent;
        let mut state = self.state.lock();
        state.stored = true;
        state.stat.extent = extent;
        state.known = stat.clone();
        if state.generation != generation {
            return false;
        }
        state.committed = generation;
        (state.base, state.base_limit) = (extent, extent.size);
        state.drop_scratch();
        true
    }

    /// Leaves uncommitted bytes on the disk when this file is dropped.
    pub(crate) fn keep_scratch(&self) {
        if let Some(scratch) = &self.state.lock().scratch {
            scratch.keep();
        }
    }
}

impl State {
    fn changed(&mut self, now: Time) {
        (self.stat.mtime, self.stat.ctime) = (now, now);
        self.generation += 1;
    }

    /// Drops the scratch file, since its bytes are stored or replaced.
    fn drop_scratch(&mut self) {
        self.written.clear();
        if let Some(scratch) = self.scratch.take() {
            scratch.let_go();
        }
    }

    fn view(&self) -> View {
        View {
            base: self.base,
            base_limit: self.base_limit,
            size: self.size,
            written: self.written.clone(),
            scratch: self.scratch.clone(),
        }
    }
}

impl View {
    async fn read(&self, drive: &Drive, range: Range<u64>, wait: Wait) -> Result<Pieces> {
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
                pieces.push(zeros(until - at));
                at = until;
            }
        }
        Ok(pieces)
    }

    /// The stretches, in order, whose bytes are not those of the base.
    fn changed(&self) -> Vec<Range<u64>> {
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
    /// changed if the others can be kept.
    pub(crate) async fn append(
        &self,
        drive: &Drive,
        mut writer: ContentWriter,
        wait: Wait,
        progress: &Progress,
    ) -> Result<Extent> {
        let size = self.view.size;
        let base = self.view.base;
        let mut at = if self.is_longer() && writer.extend(&base) { base.size } else { 0 };
        if at == 0
            && let Some(splice) = drive.splice(&base, size, &self.view.changed(), wait).await?
        {
            return self.append_splice(drive, writer, &splice, wait, progress).await;
        }
        progress.begin(size - at);
        if size - at <= BATCH_BYTES {
            let blocks = in_blocks(joined(self.view.read(drive, at..size, wait).await?));
            return writer.append(&blocks).map(|()| writer.finish()).map_err(Error::from);
        }
        // While one batch is written, the next is read and hashed on another thread.
        let hasher = writer.hasher();
        let mut hashed: Option<HashedBlocks> = None;
        while at < size {
            let until = size.min(at + BATCH_BYTES);
            let hashing = if self.view.is_in_scratch(&(at..until)) {
                let view = self.view.clone();
                tokio::task::spawn_blocking(move || {
                    Ok(hasher.hash(in_blocks(view.read_scratch(at..until)?)))
                })
            } else {
                let bytes = joined(self.view.read(drive, at..until, wait).await?);
                tokio::task::spawn_blocking(move || Ok(hasher.hash(in_blocks(bytes))))
            };
            if let Some(ready) = hashed.take() {
                writer.append_hashed(&ready)?;
                progress.add(BATCH_BYTES);
            }
            let ready: Result<HashedBlocks> = hashing.await.map_err(|_| Error::Panicked)?;
            hashed = Some(ready?);
            at = until;
        }
        if let Some(last) = hashed {
            writer.append_hashed(&last)?;
        }
        Ok(writer.finish())
    }

    /// Appends the new blocks, and the map that names them and those that were kept.
    async fn append_splice(
        &self,
        drive: &Drive,
        mut writer: ContentWriter,
        splice: &Splice,
        wait: Wait,
        progress: &Progress,
    ) -> Result<Extent> {
        progress.begin(splice.new_blocks().map(|range| range.end - range.start).sum());
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        for range in splice.new_blocks() {
            bytes += range.end - range.start;
            blocks.push(joined(self.view.read(drive, range, wait).await?));
            if bytes >= BATCH_BYTES {
                writer.append(&blocks)?;
                progress.add(bytes);
                (blocks, bytes) = (Vec::new(), 0);
            }
        }
        if !blocks.is_empty() {
            writer.append(&blocks)?;
        }
        Ok(writer.finish_spliced(splice)?)
    }
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

fn zeros(length: u64) -> Bytes {
    vec![0; usize::try_from(length).unwrap_or(usize::MAX)].into()
}

/// Length of a range that was cut to one request or one batch.
fn length_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
