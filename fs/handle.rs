//! Open files and directories: what each of them pinned at open.
//!
//! A file pins its content and reads it to the end, also after the path has changed. A directory
//! pins one listing and pages through it; rewinddir(3) makes a new listing.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hypermount_drive::sync::{Mutex, Rank, RwLock};
use hypermount_drive::{DrivePath, Entry, Extent, Kind, Name, PublicKey, Snapshot};

use crate::attr::{MAX_FILE_BYTES, core_of};
use crate::errno::{Error, Result};
use crate::journal::Charged;
use crate::staging::StagedFile;
use crate::stalls::Stalls;
use crate::volume::Volume;

/// Smallest and largest range requested from peers ahead of a sequential reader, in bytes.
const FIRST_WINDOW_BYTES: u64 = 64 * 1024;
const LARGEST_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Read-ahead requests one byte for this number of bytes that were read in sequence.
const READ_PER_AHEAD: u64 = 4;
/// After a jump, a reader gets at once as much as its previous sequence had, up to this many bytes.
/// A first jump says nothing yet: only the kernel reads ahead, until this sequence is longer.
const LARGEST_LEAP_BYTES: u64 = 1024 * 1024;
/// The kernel sends the parts of its own readahead in parallel, so the requests of a sequential
/// reader arrive out of order by up to this many bytes.
const REORDERING_BYTES: u64 = 1024 * 1024;

/// The source of an open file's bytes. Equal values stand for the same bytes.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Extent(Extent),
    /// A whole core shown as a file. It only grows.
    Core(PublicKey),
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // After a truncation of the content core the same place may have other bytes.
            (Self::Extent(one), Self::Extent(other)) => (one, one.fork) == (other, other.fork),
            (Self::Core(one), Self::Core(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Content {}

impl Content {
    /// The content of a regular file; `None` for anything else.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let core = core_of(entry).map(|key| Content::Core(*key));
        let file = || (entry.kind == Kind::File).then_some(Content::Extent(entry.stat.extent));
        core.or_else(file)
    }
}

/// Computes how far to read ahead in one open file.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    /// Offset at which the next sequential read would begin.
    next: u64,
    /// Bytes read in sequence up to `next`; `None` before the first read.
    run: Option<u64>,
    /// Offset up to which bytes were requested already.
    asked: u64,
    /// Length in bytes of the sequence before the last jump. The next is probably as long.
    usual: Option<u64>,
    /// The sequence began with a jump into the file.
    jumped: bool,
}

impl Readahead {
    /// Notes a read of `range` in a file of `size` bytes. Returns the bytes to request ahead now,
    /// if any. The window is a share of the bytes read in sequence. So a reader that jumps does not
    /// fetch much more than it reads, and a sequential reader soon keeps the link full.
    pub(crate) fn read(&mut self, range: Range<u64>, size: u64) -> Option<Range<u64>> {
        let sequential = range.start.abs_diff(self.next) <= REORDERING_BYTES;
        let length = range.end - range.start;
        match &mut self.run {
            Some(run) if sequential => {
                if range.end <= self.next {
                    return None;
                }
                *run += range.end - self.next;
                self.next = range.end;
            }
            run => {
                // After a read from the start of a file, the next read is probably sequential.
                // After a jump, a reader gets the length of its previous sequence at most, and
                // nothing more until it reads on from there.
                self.jumped = range.start != 0;
                self.usual = run.replace(length).filter(|_| self.jumped);
                self.next = range.end;
                self.asked = range.end;
            }
        }
        let run = self.run.unwrap_or(0);
        let usual = self.usual.map(|usual| usual.min(LARGEST_LEAP_BYTES));
        let window = match usual {
            Some(usual) if run < usual => usual - run,
            Some(usual) if run < usual + usual / 4 => return None,
            None if self.jumped && run < LARGEST_LEAP_BYTES * 5 / 4 => return None,
            _ => (run / READ_PER_AHEAD).clamp(FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES),
        };
        let start = self.asked.max(self.next);
        let end = self.next.saturating_add(window).min(size);
        // Request at least half a window at a time, instead of a few bytes for every read.
        if end <= start || (end - start < window / 2 && end < size) {
            return None;
        }
        self.asked = end;
        Some(start..end)
    }
}

pub(crate) struct FileHandle {
    pub ino: u64,
    pub volume: Arc<Volume>,
    pub content: Content,
    /// Size in bytes; for a core, its length at open.
    pub size: u64,
    pub readahead: Mutex<Readahead>,
    /// The ranges that processes were charged for.
    pub charged: Mutex<Charged>,
    /// Ranges in bytes that were requested together and did not all arrive in time.
    pub stalled: Stalls<Range<u64>>,
    /// The staged file in a writable drive, which all handles of the inode share. Content and size
    /// are then those of the staged file.
    pub staged: Option<Arc<StagedFile>>,
    pub writes: bool,
}

impl FileHandle {
    /// The staged file to write to.
    ///
    /// # Errors
    ///
    /// Fails with `BadHandle` if the handle was not opened for writing.
    pub(crate) fn writer(&self) -> Result<&Arc<StagedFile>> {
        self.staged.as_ref().filter(|_| self.writes).ok_or(Error::BadHandle)
    }

    pub(crate) fn size(&self) -> u64 {
        self.staged.as_ref().map_or(self.size, |staged| staged.size())
    }

    /// The part of `offset..offset + length` that lies inside the file.
    ///
    /// # Errors
    ///
    /// Fails with `BadContent` if the file claims to be larger than a file can be.
    pub(crate) fn clamp(&self, offset: u64, length: u32) -> Result<Range<u64>> {
        let size = self.size();
        if size > MAX_FILE_BYTES {
            return Err(Error::BadContent(format!("file claims {size} bytes")));
        }
        let end = offset.saturating_add(u64::from(length)).min(size);
        Ok(offset.min(end)..end)
    }
}

/// The children of a directory in one version, with their names.
pub(crate) type Listing = Vec<(Name, Arc<Entry>)>;

/// The listing of a directory, and where it was made.
pub(crate) struct Listed {
    /// The volume of the directory when the listing was made.
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    pub mount_path: Arc<str>,
    pub version: u64,
    pub children: Listing,
}

/// The location and the version of a directory at open.
pub(crate) struct OpenedDirectory {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    pub mount_path: Arc<str>,
    pub snapshot: Arc<Snapshot>,
}

pub(crate) struct DirHandle {
    pub ino: u64,
    /// The number to show for `.`, and for `..`.
    pub shown: u64,
    pub shown_parent: u64,
    /// In a drive that others change: what was opened. After a newer version has removed the
    /// directory, the handle lists its files as they were, as after rename(2) on a local disk.
    pub opened: Option<OpenedDirectory>,
    listing: Mutex<Option<Arc<Listed>>>,
}

impl DirHandle {
    pub(crate) fn new(
        ino: u64,
        shown: u64,
        shown_parent: u64,
        opened: Option<OpenedDirectory>,
    ) -> Self {
        Self { ino, shown, shown_parent, opened, listing: Mutex::new(Rank::LEAF, None) }
    }

    /// The current listing, if any.
    pub(crate) fn listing(&self) -> Option<Arc<Listed>> {
        self.listing.lock().clone()
    }

    pub(crate) fn pin(&self, listed: Arc<Listed>) {
        *self.listing.lock() = Some(listed);
    }
}

/// Maps handle numbers to open files or directories. A mount never uses a number twice.
pub(crate) struct HandleTable<H> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<H>>>,
}

impl<H> HandleTable<H> {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::new(Rank::HANDLES, HashMap::new()) }
    }

    pub(crate) fn insert(&self, handle: H) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.write();
        open.insert(number, Arc::new(handle));
        number
    }

    pub(crate) fn get(&self, number: u64) -> Result<Arc<H>> {
        let open = self.open.read();
        open.get(&number).cloned().ok_or(Error::BadHandle)
    }

    pub(crate) fn remove(&self, number: u64) -> Result<Arc<H>> {
        let mut open = self.open.write();
        open.remove(&number).ok_or(Error::BadHandle)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.read().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const SIZE: u64 = 100 * 1024 * KIB;

    #[test]
    fn handles_are_found_until_removed_and_numbers_never_return() {
        let table = HandleTable::new();
        let first = table.insert("a");
        let second = table.insert("b");
        assert_eq!(*table.get(first).expect("open"), "a");
        table.remove(first).expect("open");
        assert!(matches!(table.get(first), Err(Error::BadHandle)));
        assert!(matches!(table.remove(first), Err(Error::BadHandle)));
        assert!(table.insert("c") > second);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn the_window_grows_for_a_sequential_reader_up_to_its_limit() {
        let mut readahead = Readahead::default();
        let mut asked = Vec::new();
        let mut position = 0;
        while position < 40 * 1024 * KIB {
            let range = position..position + 128 * KIB;
            asked.extend(readahead.read(range.clone(), SIZE));
            position = range.end;
        }
        assert_eq!(asked[0], 128 * KIB..192 * KIB);
        for pair in asked.windows(2) {
            assert_eq!(pair[0].end.max(pair[1].start), pair[1].start, "nothing is asked twice");
            assert!(pair[1].end - pair[1].start <= LARGEST_WINDOW_BYTES);
        }
        assert!(asked.iter().any(|range| range.end - range.start >= LARGEST_WINDOW_BYTES / 2));
        assert!(asked.last().is_some_and(|range| range.end >= position));
    }

    #[test]
    fn a_seek_starts_over_and_random_reads_ask_for_nothing() {
        let mut readahead = Readahead::default();
        for position in [50u64, 3, 77, 20, 90] {
            let start = position * 1024 * KIB;
            assert_eq!(readahead.read(start..start + 4 * KIB, SIZE), None);
        }
        let start = 90 * 1024 * KIB + 4 * KIB;
        assert!(readahead.read(start..start + 4 * KIB, SIZE).is_some(), "now it reads on");
    }

    #[test]
    fn after_a_first_jump_nothing_is_asked_until_a_mebibyte_was_read_on() {
        let mut readahead = Readahead::default();
        let mut read = |from: u64, bytes: u64| -> Vec<Range<u64>> {
            let pieces = (from..from + bytes).step_by(64 * 1024);
            pieces.filter_map(|at| readahead.read(at..at + 64 * KIB, SIZE)).collect()
        };
        let start = 50 * 1024 * KIB;
        // One read of 1 MiB, and what the kernel reads ahead of it.
        assert_eq!(read(start, 1024 * KIB + 128 * KIB), []);
        assert!(!read(start + 1152 * KIB, 1024 * KIB).is_empty(), "it reads on");
    }

    #[test]
    fn a_reader_that_jumps_gets_the_length_of_its_previous_sequence_at_once() {
        let mut readahead = Readahead::default();
        let mut read = |from: u64, bytes: u64| -> Vec<Range<u64>> {
            let pieces = (from..from + bytes).step_by(128 * 1024);
            pieces.filter_map(|at| readahead.read(at..at + 128 * KIB, SIZE)).collect()
        };
        read(10 * 1024 * KIB, 1024 * KIB);
        let start = 50 * 1024 * KIB;
        let asked = read(start, 1024 * KIB);
        assert_eq!((asked.len(), &asked[0]), (1, &(start + 128 * KIB..start + 1024 * KIB)));
        let start = 80 * 1024 * KIB;
        let asked = read(start, 4 * 1024 * KIB);
        assert_eq!(asked[0], start + 128 * KIB..start + 1024 * KIB);
        assert!(asked.len() > 1, "it reads on, and is given more");
    }

    #[test]
    fn nothing_is_asked_beyond_the_end() {
        let mut readahead = Readahead::default();
        assert_eq!(readahead.read(0..10, 10), None);
        let mut readahead = Readahead::default();
        assert_eq!(readahead.read(0..10, 20), Some(10..20));
        assert_eq!(readahead.read(10..20, 20), None);
    }
}
