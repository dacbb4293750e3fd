//! Scratch files: where the changes of a file wait until they become part of a drive.
//!
//! Each is two files in the store's `scratch` directory: `<n>.data` holds the changed bytes at
//! their places in the file, `<n>.record` says of which file they are and which bytes count:
//!
//! ```text
//! hypermount scratch 1
//! drive <key, 64 hex digits>
//! base <block> <blocks> <byte> <size>     the content beneath; zeros if there was none
//! mode <octal>
//! path <path>                             again after each rename; \n and \ are escaped
//! write <start> <end>                     these bytes are in the data file
//! size <bytes>                            the file was cut or extended to this size
//! ```
//!
//! The record only grows, line by line, after the bytes it speaks of: what a killed process leaves
//! behind can be read back up to its last whole line. Dropping a [`Scratch`] empties both files,
//! unless it is to be [kept](Scratch::keep). Not here: when changes are committed, and how.

mod ranges;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::path::DrivePath;
use crate::sparse;
use crate::stat::{Extent, Segment};
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::PublicKey;
use hypermount_swarm::sync::{Mutex, Rank};

pub use ranges::Ranges;

const HEADER: &str = "hypermount scratch 1";
const DATA: &str = "data";
const RECORD: &str = "record";
/// Free scratch files kept for the next changes.
const MAX_FREE: usize = 32;
/// Bytes of the longest record that is read back: a million writes.
const MAX_RECORD_BYTES: u64 = 64 * 1024 * 1024;

/// What a scratch file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The drive of the file.
    pub drive: PublicKey,
    /// Where the file is in it.
    pub path: DrivePath,
    /// What lies beneath the changes.
    pub base: Extent,
    /// As in [`crate::Stat`].
    pub mode: u32,
}

/// Where scratch files are made. Those no longer needed are emptied and used again, which takes a
/// tenth of what making new ones takes; dropping the pool removes them.
pub struct Pool {
    directory: PathBuf,
    free: Mutex<Vec<Files>>,
}

/// One pair of files. Dropping it removes them.
struct Files {
    data: File,
    record: File,
    data_path: PathBuf,
    record_path: PathBuf,
    /// Whether dropping it removes them.
    named: bool,
}

/// The changes of one file.
pub struct Scratch {
    pool: Arc<Pool>,
    /// `None` once it is dropped.
    files: Option<Files>,
    keep: AtomicBool,
    /// Bytes of whole lines in the record.
    noted: Mutex<u64>,
}

/// What a process that ended too early left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What the changes belong to.
    pub origin: Origin,
    /// Of the file with its changes, in bytes.
    pub size: u64,
    /// Bytes below this that no write covers are the base's; above they are zeros.
    pub base_limit: u64,
    /// The bytes that were written.
    pub written: Ranges,
    /// The file with them, at the same offsets.
    pub data: PathBuf,
    /// The file that describes them.
    pub record: PathBuf,
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Storage { op, path: path.to_owned(), source }
}

impl Pool {
    /// Of scratch files in `directory`, which is made when the first one is.
    pub fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self { directory, free: Mutex::new(Rank::LEAF, Vec::new()) })
    }

    fn files(&self) -> Result<Files> {
        if let Some(files) = self.free.lock().pop() {
            return Ok(files);
        }
        match Files::create(&self.directory) {
            Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let directory = &self.directory;
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
                made.map_err(failed("create", directory))?;
                Files::create(directory)
            }
            created => created,
        }
    }

    fn give_back(&self, files: Files) {
        // The record first: bytes that no record describes belong to no file.
        let emptied = files.record.set_len(0).and_then(|()| files.data.set_len(0));
        let mut free = self.free.lock();
        if emptied.is_ok() && free.len() < MAX_FREE {
            free.push(files);
        }
    }
}

impl Files {
    fn create(directory: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut options = OpenOptions::new();
        options.read(true).create_new(true).mode(0o600);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let record_path = directory.join(format!("{number}.{RECORD}"));
            let record = match options.clone().append(true).open(&record_path) {
                Ok(record) => record,
                // What another process left: its number is taken.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("create", &record_path)(error)),
            };
            let data_path = directory.join(format!("{number}.{DATA}"));
            let opened = options.clone().write(true).open(&data_path);
            let data = opened.map_err(failed("create", &data_path))?;
            return Ok(Self { data, record, data_path, record_path, named: true });
        }
    }
}

impl Files {
    /// Closes the files without removing them.
    fn leave(mut self) {
        self.named = false;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.named {
            let _ = fs::remove_file(&self.data_path);
            let _ = fs::remove_file(&self.record_path);
        }
    }
}

impl Scratch {
    /// An empty scratch file.
    ///
    /// # Errors
    /// `Storage`.
    pub fn create(pool: &Arc<Pool>, origin: &Origin) -> Result<Self> {
        let (pool, files) = (Arc::clone(pool), Some(pool.files()?));
        let noted = Mutex::new(Rank::LEAF, 0);
        let scratch = Self { pool, files, keep: AtomicBool::new(false), noted };
        let Extent { block, blocks, byte, size, map_size, holes: _, fork: _ } = origin.base;
        scratch.note(&format!(
            "{HEADER}\ndrive {}\nbase {block} {blocks} {byte} {size} {map_size}\nmode {:o}\npath {}\n",
            origin.drive.to_hex(),
            origin.mode,
            escape(origin.path.as_str()),
        ))?;
        Ok(scratch)
    }

    fn files(&self) -> Result<&Files> {
        self.files.as_ref().ok_or(Error::Closed)
    }

    fn note(&self, text: &str) -> Result<()> {
        let Files { record, record_path, .. } = self.files()?;
        let mut noted = self.noted.lock();
        if let Err(error) = (&*record).write_all(text.as_bytes()) {
            // On a full disk a part may be there: the next line would go on in the middle of it.
            let _ = record.set_len(*noted);
            return Err(failed("write", record_path)(error));
        }
        *noted += text.len() as u64;
        Ok(())
    }

    /// Stores `bytes` at `offset` of the file. They count once [`Scratch::written`] records them.
    ///
    /// # Errors
    /// `Storage`, such as for a full disk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Files { data, data_path, .. } = self.files()?;
        data.write_all_at(bytes, offset).map_err(failed("write", data_path))
    }

    /// Has these bytes read as zeros, without disk space. They count once [`Scratch::written`] records them.
    ///
    /// # Errors
    /// `Storage`.
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        let Files { data, data_path, .. } = self.files()?;
        sparse::zero(data, range).map_err(failed("zero", data_path))
    }

    /// What there is from `at` on, as far as the file system tells; whether or not it counts.
    ///
    /// # Errors
    /// `Storage`.
    pub fn segment(&self, at: u64) -> Result<Segment> {
        let Files { data, data_path, .. } = self.files()?;
        sparse::segment(data, at).map_err(failed("seek", data_path))
    }

    /// Notes that these bytes count from now on.
    ///
    /// # Errors
    /// `Storage`.
    pub fn written(&self, range: &Range<u64>) -> Result<()> {
        self.note(&format!("write {} {}\n", range.start, range.end))
    }

    /// Fills the buffer; what the file does not reach are zeros.
    ///
    /// # Errors
    /// `Storage`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Files { data, data_path, .. } = self.files()?;
        let mut done = 0;
        while done < buffer.len() {
            match data.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", data_path)(error)),
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }

    /// The file was cut or extended to `size` bytes.
    ///
    /// # Errors
    /// `Storage`.
    pub fn resized(&self, size: u64) -> Result<()> {
        let Files { data, data_path, .. } = self.files()?;
        let length = data.metadata().map_err(failed("stat", data_path))?.len();
        if length > size {
            data.set_len(size).map_err(failed("truncate", data_path))?;
        }
        self.note(&format!("size {size}\n"))
    }

    /// The file is at another path now.
    ///
    /// # Errors
    /// `Storage`.
    pub fn moved(&self, path: &DrivePath) -> Result<()> {
        self.note(&format!("path {}\n", escape(path.as_str())))
    }

    /// Leaves the files where they are, for [`leftovers`] to find.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Its bytes are stored by now, or no longer wanted: [`Scratch::keep`] no longer counts.
    pub fn let_go(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match self.files.take() {
            Some(files) if *self.keep.get_mut() => files.leave(),
            Some(files) => self.pool.give_back(files),
            None => {}
        }
    }
}

/// What was left behind in the directory, in no particular order. A record that says nothing
/// useful is logged and left alone.
///
/// # Errors
/// `Storage` if the directory cannot be read.
pub fn leftovers(directory: &Path) -> Result<Vec<Leftover>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let record = entry.map_err(failed("list", directory))?.path();
        if record.extension().is_none_or(|extension| extension != RECORD) {
            continue;
        }
        let length = fs::metadata(&record).map_err(failed("stat", &record))?.len();
        if length > MAX_RECORD_BYTES {
            log::warn!("{}: too long to be a record", record.display());
            continue;
        }
        let text = fs::read(&record).map_err(failed("read", &record))?;
        // Nothing was changed in it: one that was free.
        if text.is_empty() {
            continue;
        }
        match parse(&String::from_utf8_lossy(&text), &record) {
            Some(leftover) => found.push(leftover),
            None => log::warn!("{}: not a record", record.display()),
        }
    }
    Ok(found)
}

fn parse(text: &str, record: &Path) -> Option<Leftover> {
    // The last line may be torn; whole ones end with a line feed.
    let (whole, _) = text.rsplit_once('\n')?;
    let mut lines = whole.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let drive = PublicKey::from_hex(lines.next()?.strip_prefix("drive ")?)?;
    let base = lines.next()?.strip_prefix("base ")?;
    // Without the size of a map in records of earlier versions.
    let earlier =
        || numbers::<4>(base).map(|[block, blocks, byte, size]| [block, blocks, byte, size, 0]);
    let [block, blocks, byte, size, map_size] = numbers::<5>(base).or_else(earlier)?;
    let mode = u32::from_str_radix(lines.next()?.strip_prefix("mode ")?, 8).ok()?;
    let path = parse_path(lines.next()?.strip_prefix("path ")?)?;
    let base = Extent { block, blocks, byte, size, map_size, holes: 0, fork: 0 };
    let mut leftover = Leftover {
        origin: Origin { drive, path, base, mode },
        size,
        base_limit: size,
        written: Ranges::default(),
        data: record.with_extension(DATA),
        record: record.to_owned(),
    };
    for line in lines {
        let (what, rest) = line.split_once(' ')?;
        match what {
            "path" => leftover.origin.path = parse_path(rest)?,
            "write" => {
                let [start, end] = numbers(rest)?;
                leftover.written.insert(start..end);
                leftover.size = leftover.size.max(end);
            }
            "size" => {
                let [size] = numbers(rest)?;
                leftover.written.cut(size);
                leftover.size = size;
                leftover.base_limit = leftover.base_limit.min(size);
            }
            _ => return None,
        }
    }
    Some(leftover)
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

fn escape(path: &str) -> String {
    path.replace('\\', "\\\\").replace('\n', "\\n")
}

fn parse_path(escaped: &str) -> Option<DrivePath> {
    let mut text = String::new();
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => match characters.next()? {
                'n' => '\n',
                other => other,
            },
            other => other,
        });
    }
    DrivePath::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(path: &str) -> Origin {
        let path = DrivePath::parse(path).expect("a path");
        let base =
            Extent { block: 1, blocks: 2, byte: 3, size: 100, map_size: 4, holes: 0, fork: 0 };
        Origin { drive: PublicKey::new([7; 32]), path, base, mode: 0o100640 }
    }

    #[test]
    fn a_kept_scratch_file_is_read_back_unchanged() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch =
            Scratch::create(&Pool::new(directory.path().join("scratch")), &origin("a")).unwrap();
        scratch.write(50, b"changed").unwrap();
        scratch.written(&(50..57)).unwrap();
        scratch.resized(54).unwrap();
        scratch.moved(&origin("dir/line\nfeed \\ name").path).unwrap();
        scratch.keep();
        drop(scratch);
        let found = leftovers(&directory.path().join("scratch")).unwrap();
        let [leftover] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(leftover.origin, origin("dir/line\nfeed \\ name"));
        assert_eq!((leftover.size, leftover.base_limit), (54, 54));
        assert_eq!((leftover.written.len(), leftover.written.next(0)), (1, Some(50..54)));
        assert_eq!(fs::read(&leftover.data).unwrap()[50..], *b"chan");
    }

    #[test]
    fn a_dropped_scratch_file_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch =
            Scratch::create(&Pool::new(directory.path().to_owned()), &origin("a")).unwrap();
        scratch.write(0, b"x").unwrap();
        drop(scratch);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
        assert!(leftovers(&directory.path().join("missing")).unwrap().is_empty());
    }

    #[test]
    fn files_are_used_again_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = Pool::new(directory.path().to_owned());
        for _ in 0..3 {
            let scratch = Scratch::create(&pool, &origin("a")).unwrap();
            let mut before = [7; 4];
            scratch.read(0, &mut before).unwrap();
            assert_eq!(before, [0; 4]);
            scratch.write(0, b"used").unwrap();
            scratch.written(&(0..4)).unwrap();
            assert_eq!(leftovers(directory.path()).unwrap().len(), 1);
            drop(scratch);
            assert!(leftovers(directory.path()).unwrap().is_empty());
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        }
        drop(pool);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    /// Whatever a kill or a power cut leaves of a record: it tells of an earlier moment, or nothing.
    #[test]
    fn a_record_cut_anywhere_tells_of_an_earlier_moment() {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = Pool::new(directory.path().to_owned());
        let scratch = Scratch::create(&pool, &origin("a")).unwrap();
        let steps: [&dyn Fn(); 5] = [
            &|| scratch.written(&(0..40)).unwrap(),
            &|| scratch.resized(30).unwrap(),
            &|| scratch.moved(&origin("dir/other").path).unwrap(),
            &|| scratch.written(&(1000..2000)).unwrap(),
            &|| scratch.resized(1500).unwrap(),
        ];
        let parsed = |text: &str| parse(text, &directory.path().join("1.record"));
        let read = || fs::read_to_string(&scratch.files().unwrap().record_path).unwrap();
        let mut moments = vec![parsed(&read()).expect("it is whole")];
        for step in steps {
            step();
            moments.push(parsed(&read()).expect("it is whole"));
        }
        let whole = read();
        let mut seen = 0;
        for end in 0..=whole.len() {
            if let Some(left) = parsed(&whole[..end]) {
                let at = moments.iter().position(|moment| *moment == left);
                let at = at.unwrap_or_else(|| panic!("cut at {end}: {left:?}"));
                assert!(at >= seen, "cut at {end}");
                seen = at;
            }
        }
        assert_eq!(seen, moments.len() - 1);
    }

    #[test]
    fn a_torn_record_counts_up_to_its_last_whole_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch =
            Scratch::create(&Pool::new(directory.path().to_owned()), &origin("a")).unwrap();
        scratch.written(&(0..4)).unwrap();
        scratch.note("write 10 2").unwrap();
        scratch.keep();
        drop(scratch);
        let found = leftovers(directory.path()).unwrap();
        assert_eq!((found[0].written.len(), found[0].written.next(0)), (1, Some(0..4)));
    }

    #[test]
    fn garbage_is_no_record() {
        for text in ["", "\n", "hypermount scratch 1\n", "hypermount scratch 1\ndrive x\n", "\0\0"]
        {
            assert_eq!(parse(text, Path::new("1.record")), None);
        }
    }
}
