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
//! behind can be read back up to its last whole line. Dropping a [`Scratch`] removes both files,
//! unless it is to be [kept](Scratch::keep). Not here: when changes are committed, and how.

mod ranges;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::crypto::PublicKey;
use crate::error::{Error, Result};
use crate::path::DrivePath;
use crate::stat::Extent;

pub use ranges::Ranges;

const HEADER: &str = "hypermount scratch 1";
const DATA: &str = "data";
const RECORD: &str = "record";
/// Bytes of the longest record that is read back: a million writes.
const MAX_RECORD_BYTES: u64 = 64 * 1024 * 1024;

/// What a scratch file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub drive: PublicKey,
    pub path: DrivePath,
    /// What lies beneath the changes.
    pub base: Extent,
    /// As in [`crate::Stat`].
    pub mode: u32,
}

/// The changes of one file.
pub struct Scratch {
    data: File,
    record: File,
    data_path: PathBuf,
    record_path: PathBuf,
    keep: AtomicBool,
}

/// What a process that ended too early left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub origin: Origin,
    pub size: u64,
    /// Bytes below this that no write covers are the base's; above they are zeros.
    pub base_limit: u64,
    pub written: Ranges,
    pub data: PathBuf,
    pub record: PathBuf,
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Storage { op, path: path.to_owned(), source }
}

impl Scratch {
    /// Makes an empty scratch file in `directory`, which is made if need be.
    pub fn create(directory: &Path, origin: &Origin) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let record_path = directory.join(format!("{number}.{RECORD}"));
            let record = match options.open(&record_path) {
                Ok(record) => record,
                // What another process left: its number is taken.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
                    made.map_err(failed("create", directory))?;
                    continue;
                }
                Err(error) => return Err(failed("create", &record_path)(error)),
            };
            let data_path = directory.join(format!("{number}.{DATA}"));
            let data = options.open(&data_path).map_err(failed("create", &data_path))?;
            let keep = AtomicBool::new(false);
            let scratch = Self { data, record, data_path, record_path, keep };
            let Extent { block, blocks, byte, size } = origin.base;
            scratch.note(&format!(
                "{HEADER}\ndrive {}\nbase {block} {blocks} {byte} {size}\nmode {:o}\npath {}\n",
                origin.drive.to_hex(),
                origin.mode,
                escape(origin.path.as_str()),
            ))?;
            return Ok(scratch);
        }
    }

    fn note(&self, text: &str) -> Result<()> {
        (&self.record).write_all(text.as_bytes()).map_err(failed("write", &self.record_path))
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.data.write_all_at(bytes, offset).map_err(failed("write", &self.data_path))
    }

    /// Notes that these bytes count from now on.
    pub fn written(&self, range: &Range<u64>) -> Result<()> {
        self.note(&format!("write {} {}\n", range.start, range.end))
    }

    /// Fills the buffer; what the file does not reach are zeros.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.data.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.data_path)(error)),
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }

    /// The file was cut or extended to `size` bytes.
    pub fn resized(&self, size: u64) -> Result<()> {
        let length = self.data.metadata().map_err(failed("stat", &self.data_path))?.len();
        if length > size {
            self.data.set_len(size).map_err(failed("truncate", &self.data_path))?;
        }
        self.note(&format!("size {size}\n"))
    }

    /// The file is at another path now.
    pub fn moved(&self, path: &DrivePath) -> Result<()> {
        self.note(&format!("path {}\n", escape(path.as_str())))
    }

    /// Leaves the files where they are, for [`leftovers`] to find.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Where the changed bytes are.
    pub fn data_path(&self) -> &Path {
        &self.data_path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            // The record last: bytes without a record would belong to nobody.
            let _ = fs::remove_file(&self.data_path);
            let _ = fs::remove_file(&self.record_path);
        }
    }
}

/// What was left behind in the directory, in no particular order. A record that says nothing
/// useful is logged and left alone.
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
    let base = numbers::<4>(lines.next()?.strip_prefix("base ")?)?;
    let [block, blocks, byte, size] = base;
    let mode = u32::from_str_radix(lines.next()?.strip_prefix("mode ")?, 8).ok()?;
    let path = parse_path(lines.next()?.strip_prefix("path ")?)?;
    let base = Extent { block, blocks, byte, size };
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
        let base = Extent { block: 1, blocks: 2, byte: 3, size: 100 };
        Origin { drive: PublicKey::new([7; 32]), path, base, mode: 0o100640 }
    }

    #[test]
    fn what_was_kept_is_found_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(&directory.path().join("scratch"), &origin("a")).unwrap();
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
        assert_eq!(leftover.written.iter().collect::<Vec<_>>(), [50..54]);
        assert_eq!(fs::read(&leftover.data).unwrap()[50..], *b"chan");
    }

    #[test]
    fn what_was_not_kept_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(directory.path(), &origin("a")).unwrap();
        scratch.write(0, b"x").unwrap();
        drop(scratch);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
        assert!(leftovers(&directory.path().join("missing")).unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_counts_up_to_its_last_whole_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(directory.path(), &origin("a")).unwrap();
        scratch.written(&(0..4)).unwrap();
        scratch.note("write 10 2").unwrap();
        scratch.keep();
        drop(scratch);
        let found = leftovers(directory.path()).unwrap();
        assert_eq!(found[0].written.iter().collect::<Vec<_>>(), [0..4]);
    }

    #[test]
    fn garbage_is_no_record() {
        for text in ["", "\n", "hypermount scratch 1\n", "hypermount scratch 1\ndrive x\n", "\0\0"]
        {
            assert_eq!(parse(text, Path::new("1.record")), None);
        }
    }
}
