//! A file that is being changed: one per inode, shared by all its handles, so that each handle
//! reads what the others wrote.
//!
//! Changed bytes are in a scratch file, which is sparse. Nothing is copied up before it must be. A commit appends the file to
//! the drive and names it in one batch; `write.rs` decides when.
//!
//! Not here: what its bytes are at one moment, and appending them (`staged_content.rs`), names and
//! inodes. A staged file only knows the path under which it is to be stored.

use std::ops::Range;
use std::sync::Arc;

use hypermount_drive::scratch::{Origin, Pool, Ranges, Scratch};
use hypermount_drive::sync::{Mutex, Rank};
use hypermount_drive::{
    Drive, DrivePath, Entry, Extent, Link, Pieces, PublicKey, Stat, Time, Wait,
};

use crate::appending::Append;
use crate::errno::{Error, Result};
use crate::holes;
use crate::staged_content::{BATCH_BYTES, Pending, View};

/// Largest size of a file that is written, 2 TiB: holes of it fit in a block map. (docs/decisions/0022)
pub(crate) const MAX_WRITTEN_BYTES: u64 = 1 << 41;
/// Most separate stretches of changed bytes in one file. Beyond this, the whole file is copied up.
pub(crate) const MAX_STRETCHES: usize = 65_536;

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
        (stat.extent.size, stat.extent.holes) = (state.size, state.holes());
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
        let content = |extent: Extent| match extent.size {
            0 => Extent::default(),
            // Another program may have dropped what is said of holes.
            _ => Extent { holes: 0, ..extent },
        };
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
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= MAX_WRITTEN_BYTES);
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
        if size > MAX_WRITTEN_BYTES {
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

    /// Makes the range a hole, up to the end of the file. Returns `false`, with nothing changed, if the file must be copied
    /// up first.
    pub(crate) fn zero(&self, range: Range<u64>, now: Time) -> Result<bool> {
        let mut state = self.state.lock();
        if state.written.len() >= MAX_STRETCHES {
            return Ok(false);
        }
        let end = range.end.min(state.size);
        self.put_hole(&mut state, range.start..end)?;
        state.changed(now);
        Ok(true)
    }

    /// Has the bytes of the scratch file in the range read as zeros, without disk space.
    fn put_hole(&self, state: &mut State, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let scratch = self.scratch(state)?;
        scratch.zero(range.clone())?;
        if !state.written.covers(&range) {
            scratch.written(&range)?;
            state.written.insert(range);
        }
        Ok(())
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`.
    pub(crate) fn seek(&self, drive: &Drive, offset: i64, whence: i32) -> Result<i64> {
        let view = self.view();
        holes::seek(view.size, offset, whence, |at| view.segment(drive, at))
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
            let found = drive.segment(&view.base, at);
            let longest = if found.is_hole { found.end } else { at + BATCH_BYTES };
            let chunk = at..next.min(limit).min(longest);
            let bytes = match found.is_hole {
                true => Vec::new(),
                false => view.read(drive, chunk.clone(), wait).await?.concat(),
            };
            let mut state = self.state.lock();
            // Written or cut meanwhile: try again.
            let free = state.written.next(at).is_none_or(|stretch| stretch.start >= chunk.end);
            if free && state.base_limit >= chunk.end && state.base == view.base {
                match found.is_hole {
                    true => self.put_hole(&mut state, chunk.clone())?,
                    false => self.put(&mut state, at, &bytes)?,
                }
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

    /// How many bytes are certainly in holes, for `st_blocks`: all that was written counts as data.
    fn holes(&self) -> u64 {
        let stored = self.base_limit.saturating_sub(self.base.holes);
        self.size.saturating_sub(stored + self.written.bytes())
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

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
