//! Copying trees between a local directory and a drive, [`import()`] and [`export()`], and from a drive into one of another
//! format: [`convert()`].
//!
//! All walk directory by directory, keep one directory's names and a few MiB of content in memory,
//! and move only what differs. All may be killed at any point and run again. File access blocks
//! the calling thread.
//!
//! Not here: which drive and which store (the caller opens them), progress bars (an [`Observer`]
//! is told), and mounts. A nested drive is never crossed: it is another drive.

mod attributes;
mod convert;
mod export;
mod ignores;
mod import;
mod leftover;
mod local;
mod names;
mod resume;
mod target;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use hypermount_core::Error;

pub use convert::{Conversion, ConversionLock, Converted, convert};
pub use export::{ExportOptions, Measured, export, measure};
pub use ignores::IGNORE_FILE;
pub use import::{ImportOptions, import};
pub use leftover::restore;

/// Bytes of a block of file content, as the reference cuts files.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Troubles a report lists; more are only counted.
pub const MAX_TROUBLES: usize = 1000;

/// What is done (or, dry, would be done) with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStep {
    /// The content of a file of this many bytes is copied.
    Content(u64),
    /// The content stays; mode, times, owner or attributes change.
    Metadata,
    /// A directory is made.
    Directory,
    /// A symbolic link is made.
    Symlink,
    /// A fifo, a socket or a device is made.
    Special,
    /// The entry is removed.
    Delete,
    /// Nothing is to be done.
    Unchanged,
}

/// Is told what happens, in order.
pub trait Observer: Send {
    /// The entry at `path`, relative to the tree, is dealt with.
    fn step(&mut self, path: &str, step: TransferStep);
    /// `count` more bytes were copied or found to be there.
    fn bytes(&mut self, count: u64);
}

/// Ignores every report.
impl Observer for () {
    fn step(&mut self, _: &str, _: TransferStep) {}
    fn bytes(&mut self, _: u64) {}
}

/// An entry that was not copied, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Relative to the tree.
    pub path: String,
    /// The error, as text.
    pub why: String,
    /// It is not on this machine and no peer delivered it in time.
    pub missing: bool,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files whose content was copied.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// How many of those bytes an import found to be holes, which take no space.
    pub holes: u64,
    /// Entries of which only the metadata changed.
    pub updated: u64,
    /// Directories that were made.
    pub directories: u64,
    /// Symbolic links that were made.
    pub symlinks: u64,
    /// Fifos, sockets and devices that were made.
    pub specials: u64,
    /// Entries that were removed.
    pub deleted: u64,
    /// Entries without a difference.
    pub unchanged: u64,
    /// The first [`MAX_TROUBLES`] of them.
    pub troubles: Vec<Trouble>,
    /// How many troubles there were.
    pub trouble_count: u64,
    /// How many of those were missing on this machine and from peers.
    pub missing_count: u64,
}

impl Report {
    /// Whether nothing was, or would be, changed.
    pub fn is_idle(&self) -> bool {
        let made = self.directories + self.symlinks + self.specials;
        self.files + self.updated + made + self.deleted == 0
    }

    fn step(&mut self, step: TransferStep) {
        match step {
            TransferStep::Content(bytes) => {
                self.files += 1;
                self.bytes += bytes;
            }
            TransferStep::Metadata => self.updated += 1,
            TransferStep::Directory => self.directories += 1,
            TransferStep::Symlink => self.symlinks += 1,
            TransferStep::Special => self.specials += 1,
            TransferStep::Delete => self.deleted += 1,
            TransferStep::Unchanged => self.unchanged += 1,
        }
    }

    fn trouble(&mut self, path: impl Into<String>, why: impl Into<String>, missing: bool) {
        self.trouble_count += 1;
        self.missing_count += u64::from(missing);
        if self.troubles.len() < MAX_TROUBLES {
            self.troubles.push(Trouble { path: path.into(), why: why.into(), missing });
        }
    }

    fn failed(&mut self, path: impl Into<String>, error: &Error) {
        self.trouble(path, error.to_string(), matches!(error, Error::Unavailable { .. }));
    }
}

/// Turns what the system says about a local file into our error.
fn failed<E: Into<std::io::Error>>(op: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path: PathBuf = path.to_owned();
    move |error| Error::Storage { op, path, source: error.into() }
}
