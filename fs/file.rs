//! Open files: reading, writing, and what closing them means.
//!
//! In a writable drive all open files of an inode share one [`StagedFile`]. Elsewhere a file pins
//! its content at open.

use std::ops::Range;
use std::sync::Arc;

use fuser::FileType;
use hypermount_drive::{Entry, Extent, Pieces, Segment, Time, Urgency, Wait};

use crate::attr;
use crate::errno::{Error, Result};
use crate::filesystem::{Fs, Part, Place, Resolved};
use crate::handle::{Content, FileHandle};
use crate::holes;
use crate::platform::Caller;
use crate::staging::StagedFile;
use crate::stalls::Missing;

/// How often the file may change between the lookup and the open before the open takes a turn,
/// which other writers have to wait for.
const MAX_OVERTAKEN: usize = 100;

/// An open file, as the kernel gets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// Handle number for the other calls on the file.
    pub handle: u64,
    /// The kernel's cached pages of this file hold the same bytes.
    pub keep_cache: bool,
    /// The kernel caches no pages of this file.
    pub direct: bool,
}

impl Fs {
    /// Opens a regular file; `flags` as in open(2).
    pub async fn open(&self, ino: u64, flags: i32, caller: Caller) -> Result<Opened> {
        let mut resolved = self.resolve(ino).await?;
        if resolved.place.volume.writable {
            for _ in 0..MAX_OVERTAKEN {
                if let Some(opened) = self.open_local(ino, resolved, flags, caller)? {
                    return Ok(opened);
                }
                resolved = self.resolve(ino).await?;
            }
            // While the volume is locked for changes, nothing replaces the entry.
            let volume = resolved.place.volume;
            let _turn = self.turn(&volume).await;
            let resolved = self.resolve(ino).await?;
            return self.open_local(ino, resolved, flags, caller)?.ok_or(Error::Stale);
        }
        let Resolved { place, entry, version } = resolved;
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(Error::ReadOnly);
        }
        if version.is_some() {
            self.overtaken.opened(caller.thread);
        } else if self.overtaken.look_again(caller.thread) {
            return Err(Error::Stale);
        }
        let Some(mut content) = Content::of(&entry) else {
            return Err(match attr::file_type(&entry) {
                FileType::Directory => hypermount_drive::Error::IsADirectory.into(),
                _ => Error::WrongKind,
            });
        };
        if let Content::Extent(extent) = &mut content {
            // The content core may have followed a truncation since the entry was looked up.
            let shown = place.volume.snapshot();
            if version == Some(shown.version()) {
                extent.fork = shown.content_fork();
            }
            hypermount_drive::Drive::check_extent(extent)?;
            let volume = &place.volume;
            let snapshot = || volume.snapshot();
            let ahead = &volume.walk_ahead;
            ahead.opened(&volume.drive, snapshot, &place.path, extent.size, &self.runtime);
        }
        let keep_cache = self.inodes_mut().open(ino, &entry, &content);
        let is_core = matches!(content, Content::Core(_));
        let handle = self.files.insert(FileHandle {
            ino,
            size: self.size(&place.volume, &place.path, &entry),
            volume: place.volume,
            content,
            readahead: Default::default(),
            charged: Default::default(),
            stalled: Default::default(),
            staged: None,
            writes: false,
        });
        Ok(Opened { handle, keep_cache: keep_cache && !is_core, direct: false })
    }

    /// Reads up to `length` bytes from `offset`; fewer only at the end of the file. Returns the
    /// pieces as they lie in blocks.
    pub async fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Pieces> {
        self.read_for(handle, offset, length, 0).await
    }

    /// As [`Fs::read`], and charges fetched bytes to the process of `thread`.
    pub(crate) async fn read_for(
        &self,
        handle: u64,
        offset: u64,
        length: u32,
        thread: u32,
    ) -> Result<Pieces> {
        let file = self.files.get(handle)?;
        let range = file.clamp(offset, length)?;
        if range.is_empty() {
            return Ok(Pieces::new());
        }
        let drive = &file.volume.drive;
        if let Some(staged) = &file.staged {
            if !staged.is_removed() {
                file.volume.accessed.note(&staged.path(), &staged.entry().stat);
            }
            return staged.read(drive, range, self.options.patience.read()).await;
        }
        let ahead = file.readahead.lock().read(range.clone(), file.size);
        let local = read_extent(&file, range.clone(), Wait::Local).await;
        let is_missing =
            matches!(local, Err(Error::Drive(hypermount_drive::Error::Unavailable { .. })));
        if let Content::Extent(extent) = &file.content {
            if is_missing {
                self.charge(&file, extent, range.clone(), thread);
            }
            if let Some(ahead) = ahead {
                self.charge(&file, extent, ahead.clone(), thread);
                drive.prefetch(extent, ahead, Urgency::Ahead);
            }
        }
        if is_missing { self.fetch(&file, range).await } else { local }
    }

    /// Reads bytes of which some are not in the store. If the same bytes failed to arrive for this
    /// handle within the last 2 s, fails at once.
    async fn fetch(&self, file: &FileHandle, range: Range<u64>) -> Result<Pieces> {
        let asked = |known: &Range<u64>| known.start <= range.start && range.end <= known.end;
        if file.stalled.any()
            && let Some(missing) = file.stalled.find(asked)
        {
            return Err(hypermount_drive::Error::from(missing).into());
        }
        let read = read_extent(file, range.clone(), self.options.patience.read()).await;
        if let Err(Error::Drive(error)) = &read
            && let Some(missing) = Missing::of(error)
        {
            file.stalled.note(range, missing);
        }
        read
    }

    /// Charges a process for the bytes that are not in the store, once per open file.
    fn charge(&self, file: &FileHandle, extent: &Extent, range: Range<u64>, thread: u32) {
        let drive = &file.volume.drive;
        if drive.lacking(extent, range.clone()) == 0 {
            return;
        }
        let new = file.charged.lock().add(range);
        let bytes: u64 = new.into_iter().map(|range| drive.lacking(extent, range)).sum();
        if bytes > 0
            && let Ok(path) = self.node(file.ino, |node| node.path.clone())
        {
            let Part { prefix, journal, .. } = &self.part;
            journal.fetched(prefix, &self.part.in_mount(&path), thread, bytes);
        }
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`. What is not known to be a hole is data, whether or not it is in the
    /// store. (Programs that copy skip holes.)
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.files.get(handle)?;
        let drive = &file.volume.drive;
        if let Some(staged) = &file.staged {
            return staged.seek(drive, offset, whence);
        }
        let size = file.size();
        holes::seek(size, offset, whence, |at| {
            Ok(match &file.content {
                Content::Extent(extent) => drive.segment(extent, at),
                Content::Core(_) => Segment { is_hole: false, end: size },
            })
        })
    }

    // Operations on open files of writable drives.

    /// Opens a file of a writable drive. `None` if another change has overtaken what was resolved;
    /// the caller resolves again.
    fn open_local(
        &self,
        ino: u64,
        resolved: Resolved,
        flags: i32,
        caller: Caller,
    ) -> Result<Option<Opened>> {
        let Resolved { place, entry, version } = resolved;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let Some(content) = Content::of(&entry) else {
            return Err(match attr::file_type(&entry) {
                FileType::Directory => hypermount_drive::Error::IsADirectory.into(),
                _ => Error::WrongKind,
            });
        };
        if let Content::Core(_) = content {
            if writes || flags & libc::O_TRUNC != 0 {
                return Err(Error::NotPermitted("another core's bytes cannot be written"));
            }
            let keep_cache = false;
            self.inodes_mut().open(ino, &entry, &content);
            let size = self.size(&place.volume, &place.path, &entry);
            let volume = place.volume;
            let handle = self.files.insert(FileHandle {
                ino,
                volume,
                content,
                size,
                readahead: Default::default(),
                charged: Default::default(),
                stalled: Default::default(),
                staged: None,
                writes,
            });
            return Ok(Some(Opened { handle, keep_cache, direct: false }));
        }
        let Some(opened) = self.open_staged(ino, &place, version, &entry, flags) else {
            return Ok(None);
        };
        if flags & libc::O_TRUNC != 0 {
            let staged = self.files.get(opened.handle)?.staged.clone().ok_or(Error::BadHandle)?;
            staged.remove_set_ids(|stat| caller.writes(stat, false));
            staged.resize(0, Time::now())?;
        }
        Ok(Some(opened))
    }

    /// Opens a handle on the inode's staged file, which is made from `entry` if there is none.
    /// `None` if `entry` is no longer what is stored: another handle may have been closed since the
    /// caller looked. The inode table stays locked from the check until the handle is counted, so
    /// an inode never has two staged files.
    pub(crate) fn open_staged(
        &self,
        ino: u64,
        place: &Place,
        version: Option<u64>,
        entry: &Entry,
        flags: i32,
    ) -> Option<Opened> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let mut inodes = self.inodes_mut();
        let node = inodes.get_mut(ino)?;
        let there = node.place.staged.clone();
        let open_already = there.is_some();
        let staged = match there {
            Some(staged) => staged,
            // Unlinked or replaced since the kernel looked it up: the drive stores nothing of it
            // any more.
            None if node.is_detached() => {
                let (key, path) = (*place.volume.drive.key(), node.place.path.clone());
                let pool = self.scratch.clone();
                let staged = Arc::new(StagedFile::new(key, path, entry.stat.clone(), true, pool));
                staged.remove();
                node.place.staged = Some(staged.clone());
                staged
            }
            None => {
                let current = version == Some(place.volume.snapshot().version());
                if place.staged.is_some() || !current {
                    return None;
                }
                let (key, path) = (*place.volume.drive.key(), node.place.path.clone());
                let pool = self.scratch.clone();
                let staged = Arc::new(StagedFile::new(key, path, entry.stat.clone(), true, pool));
                node.place.staged = Some(staged.clone());
                staged
            }
        };
        let entry = staged.entry();
        let content = Content::Extent(entry.stat.extent);
        let same = inodes.open(ino, &entry, &content);
        if writes {
            staged.open_writer();
        }
        drop(inodes);
        let handle = self.files.insert(FileHandle {
            ino,
            volume: place.volume.clone(),
            content,
            size: entry.stat.extent.size,
            readahead: Default::default(),
            charged: Default::default(),
            stalled: Default::default(),
            staged: Some(staged),
            writes,
        });
        // Writes go through the page cache, so the pages of an open file are always current.
        Some(Opened { handle, keep_cache: same || open_already, direct: false })
    }

    /// Writes at `offset`. Returns `false`, with nothing written, if [`Fs::copy_up`] must come
    /// first. `unprivileged` is the caller if the kernel says that it has no CAP_FSETID.
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        unprivileged: Option<Caller>,
    ) -> Result<bool> {
        let file = self.files.get(handle)?;
        let staged = file.writer()?;
        if let Some(caller) = unprivileged {
            staged.remove_set_ids(|stat| caller.writes(stat, true));
        }
        staged.write(offset, bytes, Time::now())
    }

    /// As [`Fs::write`], and copies up first where that is required.
    pub(crate) async fn write_copied_up(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        unprivileged: Option<Caller>,
    ) -> Result<()> {
        while !self.write(handle, offset, bytes, unprivileged)? {
            self.copy_up(handle).await?;
        }
        Ok(())
    }

    /// Merges the stretches of changed bytes into one, so that more fit.
    pub async fn copy_up(&self, handle: u64) -> Result<()> {
        let file = self.files.get(handle)?;
        let wait = self.options.patience.each_block();
        file.writer()?.copy_up(&file.volume.drive, wait).await
    }

    /// A descriptor of the file was closed: commits what was written to the drive.
    pub async fn flush(&self, handle: u64) -> Result<()> {
        let file = self.files.get(handle)?;
        match &file.staged {
            Some(staged) => self.commit(&file.volume, staged).await,
            None => Ok(()),
        }
    }

    /// Commits the file and syncs the drive. On return, no power cut can lose what was written.
    pub async fn fsync(&self, handle: u64) -> Result<()> {
        let file = self.files.get(handle)?;
        let Some(staged) = &file.staged else { return Ok(()) };
        self.commit(&file.volume, staged).await?;
        self.sync(&file.volume).await
    }

    /// The last descriptor and the last mapping are gone. Pages changed through a mapping arrive
    /// after the last close, so there may be something to commit. The kernel ignores the result, so
    /// no program learns of a failure.
    pub async fn release(&self, handle: u64) -> Result<()> {
        let file = self.files.remove(handle)?;
        let mut result = Ok(());
        if let Some(staged) = &file.staged {
            if file.writes {
                staged.close_writer();
            }
            result = self.commit(&file.volume, staged).await;
            if let Err(error) = &result {
                log::error!("{}: not stored, kept in scratch: {error}", staged.path());
                staged.keep_scratch();
            }
        }
        let mut inodes = self.inodes_mut();
        inodes.close(file.ino);
        let over = inodes.opens(file.ino) == 0;
        if let Some(node) = inodes.get_mut(file.ino).filter(|_| over)
            && let Some(staged) = node.place.staged.take_if(|staged| !staged.is_dirty())
            && !staged.is_removed()
        {
            let entry = staged.entry();
            let version = node.place.volume.snapshot().version();
            node.place.know(version, &entry);
        }
        result
    }

    /// fallocate(2).
    pub async fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
        caller: Caller,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        let staged = file.writer()?;
        let end = offset.checked_add(length).ok_or(Error::FileTooLarge)?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeroing = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if length == 0 {
            return Err(Error::InvalidArgument);
        }
        if mode & !(libc::FALLOC_FL_KEEP_SIZE | zeroing) != 0 {
            return Err(Error::NotSupported("this mode of fallocate"));
        }
        if mode & zeroing == 0 && end.saturating_sub(file.size()) > self.store.space()?.available {
            return Err(Error::NoSpace);
        }
        staged.remove_set_ids(|stat| caller.writes(stat, false));
        if !keep_size && end > file.size() {
            staged.resize(end, Time::now())?;
        }
        while mode & zeroing != 0 && !staged.zero(offset..end, Time::now())? {
            self.copy_up(handle).await?;
        }
        Ok(())
    }

    /// copy_file_range(2) of a whole file into an empty one of the same drive: the two then share
    /// their blocks. The kernel does any other copy itself.
    pub async fn copy_file_range(
        &self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        length: u64,
        caller: Caller,
    ) -> Result<u32> {
        const ELSE: Error = Error::NotSupported("sharing a part of a file");
        let (from, to) = (self.files.get(from)?, self.files.get(to)?);
        let (Some(source), target) = (&from.staged, to.writer()?) else { return Err(ELSE) };
        let size = source.size();
        let copied = u32::try_from(size).map_err(|_| ELSE)?;
        let whole = from_offset == 0 && to_offset == 0 && length >= size && size > 0;
        if !whole || !Arc::ptr_eq(&from.volume, &to.volume) || Arc::ptr_eq(source, target) {
            return Err(ELSE);
        }
        self.commit(&from.volume, source).await?;
        let extent = source.whole_extent().filter(|extent| extent.size == size).ok_or(ELSE)?;
        target.remove_set_ids(|stat| caller.writes(stat, false));
        if target.share(extent, Time::now()) { Ok(copied) } else { Err(ELSE) }
    }
}

/// Bytes `range` of an open file; the range lies inside the file.
async fn read_extent(file: &FileHandle, range: Range<u64>, wait: Wait) -> Result<Pieces> {
    let (drive, expected) = (&file.volume.drive, range.end - range.start);
    let pieces = match &file.content {
        Content::Extent(extent) => drive.read(extent, range, wait).await?,
        Content::Core(key) => drive.read_core(key, range, wait).await?,
    };
    // The kernel would fill a short answer with zeros, which the publisher did not sign.
    let got: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    if got != expected {
        return Err(Error::BadContent(format!("{got} bytes where {expected} were promised")));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_remote_drive_is_only_read() {
        use crate::testing::{on_a_filesystem, put, walk};
        on_a_filesystem(true, async |fs| {
            put(&fs, "file", b"content").await;
            let (ino, _) = walk(&fs, "file").await.expect("a file");
            for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
                assert!(matches!(fs.open(ino, flags, Caller::SELF).await, Err(Error::ReadOnly)));
            }
            let handle = fs.open(ino, libc::O_RDONLY, Caller::SELF).await.expect("opened").handle;
            assert!(matches!(fs.write(handle, 0, b"x", None), Err(Error::BadHandle)));
            // The open file keeps the content it had at open.
            put(&fs, "file", b"other").await;
            assert_eq!(fs.read(handle, 0, 100).await.expect("read").concat(), b"content");
            assert_eq!(fs.read(handle, 5, 100).await.expect("read").concat(), b"nt");
            assert!(fs.read(handle, 7, 1).await.expect("read").is_empty());
            fs.release(handle).await.expect("closed");
            assert!(matches!(fs.read(handle, 0, 1).await, Err(Error::BadHandle)));
        });
    }
}
