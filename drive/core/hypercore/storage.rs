//! One random-access file: the seam between a core and the disk. Bodies: [`Disk`], [`Memory`] and,
//! for tests, [`faulty::Disk`].
//!
//! Not here: what is in the files (`layout.rs`) and locking a store (`store.rs`).

#[doc(hidden)]
pub(crate) mod faulty;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::zeros::{ZERO_BLOCK_SIZES, zeros};
use crate::private_files;
use hypermount_swarm::sync::{Mutex, Rank};

/// One random-access file. Positions and lengths are in bytes; nothing below the length that was
/// never written reads as anything but zeros.
pub trait Storage: Send + Sync {
    /// Fills `buffer` from `offset`; returns how much there was, less than asked only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`; the file grows as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// The length of the file, in bytes; 0 for one that does not exist.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Has the range read as zeros; the file grows as needed. Takes no disk space if the file system can make holes. No other
    /// thread may extend the file meanwhile.
    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Sets the length, in bytes.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes everything written so far survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Whether `sync` costs nothing: there is no device that could lose a write.
    fn is_volatile(&self) -> bool {
        false
    }
    /// Gives the disk space of a range back if the file system can; the range then reads as
    /// zeros, the length stays.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Has the device begin to write the range, without waiting for it, so that a sync soon afterwards waits less.
    fn begin_writeback(&self, _offset: u64, _length: u64) {}
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }
    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        (**self).write_zeros(offset, length)
    }
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        (**self).truncate(length)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
    fn is_volatile(&self) -> bool {
        (**self).is_volatile()
    }
    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        (**self).punch(offset, length)
    }
    fn begin_writeback(&self, offset: u64, length: u64) {
        (**self).begin_writeback(offset, length);
    }
}

/// A file on disk, opened at its first use and created at its first write.
pub(crate) struct Disk {
    path: PathBuf,
    /// Permission bits of a file this creates, before the umask; `None` for one that is only read.
    mode: Option<u32>,
    file: OnceLock<File>,
    /// Whether the directory was synced too: without that a power cut takes the file's name away. Also
    /// of a file that was there: the process that made it may have been killed before its first sync.
    named: AtomicBool,
}

impl Disk {
    pub(crate) fn new(path: PathBuf, mode: u32) -> Self {
        Self { path, mode: Some(mode), file: OnceLock::new(), named: AtomicBool::new(false) }
    }

    /// A file that is never changed, whatever its permissions allow.
    pub(crate) fn read_only(path: PathBuf) -> Self {
        Self { path, mode: None, file: OnceLock::new(), named: AtomicBool::new(false) }
    }

    /// The open file. Opens read-only where writing is not permitted.
    fn file(&self, create: bool) -> io::Result<&File> {
        if create && self.mode.is_none() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let Some(mode) = self.mode else {
            let opened = File::open(&self.path)?;
            return Ok(self.file.get_or_init(|| opened));
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).mode(mode);
        let opened = options.open(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !create => {
                File::open(&self.path)
            }
            _ => Err(error),
        })?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// The open file, or `None` if there is none yet.
    fn existing(&self) -> io::Result<Option<&File>> {
        match self.file(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }
}

impl Storage for Disk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.existing()? else {
            return Ok(0);
        };
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(true)?.write_all_at(bytes, offset)
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let file = self.file(true)?;
        let (end, there) = (offset.saturating_add(length), file.metadata()?.len());
        if offset < there && !punch(file, offset, end.min(there) - offset)? {
            for at in (offset..end.min(there)).step_by(ZERO_BLOCK_SIZES[0] as usize) {
                file.write_all_at(&zeros(end.min(there) - at), at)?;
            }
        }
        if end > there { file.set_len(end) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        match self.existing()? {
            Some(file) => Ok(file.metadata()?.len()),
            None => Ok(0),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file(true)?.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        match self.existing()? {
            Some(_) if self.mode.is_none() => Ok(()),
            Some(file) => {
                file.sync_data()?;
                if !self.named.load(Ordering::Acquire) {
                    private_files::sync_parent(&self.path)?;
                    self.named.store(true, Ordering::Release);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        // A file system without holes keeps the bytes; nothing claims them any more.
        self.existing()?.map_or(Ok(()), |file| punch(file, offset, length).map(drop))
    }

    fn begin_writeback(&self, offset: u64, length: u64) {
        if let Ok(Some(file)) = self.existing() {
            begin_writeback(file, offset, length);
        }
    }
}

/// Linux begins to write the dirty pages of a range that is not needed in memory, and drops those that are clean:
/// posix_fadvise(2). Pages that were just written are dirty, so they stay. There is no safe call for sync_file_range(2).
#[cfg(target_os = "linux")]
fn begin_writeback(file: &File, offset: u64, length: u64) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

    let (Ok(start), Ok(size)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // Only the next sync could tell more than that.
    let _ = posix_fadvise(file, start, size, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

#[cfg(not(target_os = "linux"))]
fn begin_writeback(_file: &File, _offset: u64, _length: u64) {}

/// Makes a hole of the range, within the file; false if the file system cannot.
#[cfg(target_os = "linux")]
fn punch(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};

    let (Ok(start), Ok(size)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Ok(false);
    };
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, start, size) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// There is no safe call for holes here.
#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(false)
}

const MEMORY_PAGE: usize = 4096;

/// Sparse bytes in memory.
#[derive(Default, Clone)]
struct Pages {
    pages: HashMap<u64, Box<[u8]>>,
    length: u64,
}

impl Pages {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let rest = self.length.saturating_sub(offset);
        let length = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        each_page(offset, length, |page, within, target| match self.pages.get(&page) {
            Some(page) => buffer[target].copy_from_slice(&page[within]),
            None => buffer[target].fill(0),
        });
        length
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) {
        each_page(offset, bytes.len(), |page, within, source| {
            let page =
                self.pages.entry(page).or_insert_with(|| vec![0; MEMORY_PAGE].into_boxed_slice());
            page[within].copy_from_slice(&bytes[source]);
        });
        if !bytes.is_empty() {
            self.length = self.length.max(offset + bytes.len() as u64);
        }
    }

    fn write_zeros(&mut self, offset: u64, length: u64) {
        self.punch(offset, length);
        self.length = self.length.max(offset + length);
    }

    fn truncate(&mut self, length: u64) {
        let (keep, within) = (length / MEMORY_PAGE as u64, length % MEMORY_PAGE as u64);
        self.pages.retain(|page, _| *page < keep || (*page == keep && within > 0));
        if let Some(page) = self.pages.get_mut(&keep) {
            page[within as usize..].fill(0);
        }
        self.length = length;
    }

    fn punch(&mut self, offset: u64, length: u64) {
        let length = length.min(self.length.saturating_sub(offset));
        each_page(offset, usize::try_from(length).unwrap_or(usize::MAX), |page, within, _| {
            if within.len() == MEMORY_PAGE {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                page[within].fill(0);
            }
        });
    }
}

/// Calls `visit(page, range in the page, range in the buffer)` for every page a range touches.
fn each_page(
    offset: u64,
    length: usize,
    mut visit: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let start = (at % MEMORY_PAGE as u64) as usize;
        let count = (MEMORY_PAGE - start).min(length - done);
        visit(at / MEMORY_PAGE as u64, start..start + count, done..done + count);
        done += count;
    }
}

/// A file in memory, sparse like one on disk.
pub(crate) struct Memory {
    content: Mutex<Pages>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { content: Mutex::new(Rank::LEAF, Pages::default()) }
    }
}

impl Storage for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.content.lock().read_at(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.content.lock().write_at(offset, bytes);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        self.content.lock().write_zeros(offset, length);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.content.lock().truncate(length);
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.content.lock().punch(offset, length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum StorageStep {
        Write(u64, Vec<u8>),
        WriteZeros(u64, u64),
        Truncate(u64),
        Punch(u64, u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = StorageStep> {
        prop_oneof![
            (0u64..20_000, prop::collection::vec(1u8.., 0..5000))
                .prop_map(|(at, bytes)| StorageStep::Write(at, bytes)),
            (0u64..20_000, 1u64..9000).prop_map(|(at, length)| StorageStep::WriteZeros(at, length)),
            (0u64..25_000).prop_map(StorageStep::Truncate),
            (0u64..25_000, 1u64..9000).prop_map(|(at, length)| StorageStep::Punch(at, length)),
            (0u64..25_000, 0usize..9000).prop_map(|(at, length)| StorageStep::Read(at, length)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn disk_and_memory_are_the_same_file(steps in prop::collection::vec(step(), 1..20)) {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::new(directory.path().join("file"), 0o600);
            let memory = Memory::default();
            for step in steps {
                for storage in [&disk as &dyn Storage, &memory] {
                    match &step {
                        StorageStep::Write(at, bytes) => storage.write_at(*at, bytes).unwrap(),
                        StorageStep::WriteZeros(at, length) => {
                            storage.write_zeros(*at, *length).unwrap();
                        }
                        StorageStep::Truncate(length) => storage.truncate(*length).unwrap(),
                        StorageStep::Punch(at, length) => storage.punch(*at, *length).unwrap(),
                        StorageStep::Read(..) => storage.sync().unwrap(),
                    }
                }
                prop_assert_eq!(disk.len().unwrap(), memory.len().unwrap());
                let (at, length) = match step {
                    StorageStep::Read(at, length) => (at, length),
                    _ => (0, 40_000),
                };
                let (mut one, mut other) = (vec![0; length], vec![0; length]);
                prop_assert_eq!(
                    disk.read_at(at, &mut one).unwrap(),
                    memory.read_at(at, &mut other).unwrap()
                );
                prop_assert_eq!(one, other);
            }
        }
    }
}
