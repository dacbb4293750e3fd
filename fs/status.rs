//! `.hypermount/status.json` in the root of every drive: the state of the drive, for scripts and
//! file managers. It is not part of the drive and in no listing, so programs that copy a tree leave
//! it out. An entry of that name in the drive itself takes precedence ([`crate::shown`]).
//!
//! The text is made at open and does not change until close; the kernel caches no pages of it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::{DriveUrl, Pieces, Segment};
use serde_json::{Value, json};
use smallvec::smallvec;

use crate::appending::Storing;
use crate::attr::{TTL_FOLLOWED, TTL_FROZEN};
use crate::errno::{Error, Result};
use crate::file::Opened;
use crate::filesystem::{Fs, Looked, usize_of};
use crate::holes;
use crate::listing::Listed;

/// The name of the directory in the root of a drive.
pub(crate) const DIRECTORY: &str = ".hypermount";
const FILE: &str = "status.json";
/// Inode numbers, counted from the root's: below those that paths have.
const DIRECTORY_AFTER_ROOT: u64 = 1;
const FILE_AFTER_ROOT: u64 = 2;
/// The file contains the key, which opens the drive, so only the user who mounted may read it.
const DIRECTORY_MODE: u16 = 0o500;
const FILE_MODE: u16 = 0o400;
/// Most failed calls that the status lists; the newest are kept.
const MAX_FAILURES: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// One of the two inodes of a drive's status, and the operations on it.
pub(crate) struct Status {
    fs: Arc<Fs>,
    kind: Kind,
}

impl Status {
    /// The status of `fs`, if `ino` is one of its inodes.
    pub(crate) fn at(fs: &Arc<Fs>, ino: u64) -> Option<Self> {
        let kind = match ino.checked_sub(fs.root_number()) {
            Some(DIRECTORY_AFTER_ROOT) => Kind::Directory,
            Some(FILE_AFTER_ROOT) => Kind::File,
            _ => return None,
        };
        Some(Self { fs: fs.clone(), kind })
    }

    /// The directory of the status of `fs`.
    pub(crate) fn directory(fs: &Arc<Fs>) -> Self {
        Self { fs: fs.clone(), kind: Kind::Directory }
    }

    /// The path within its mount.
    pub(crate) fn path(&self) -> String {
        self.fs.part.in_mount(match self.kind {
            Kind::Directory => DIRECTORY,
            Kind::File => ".hypermount/status.json",
        })
    }

    fn number(&self) -> u64 {
        self.fs.root_number()
            + match self.kind {
                Kind::Directory => DIRECTORY_AFTER_ROOT,
                Kind::File => FILE_AFTER_ROOT,
            }
    }

    pub(crate) fn lookup(&self, name: &OsStr) -> Result<Looked> {
        match self.kind {
            Kind::File => Err(hypermount_drive::Error::NotADirectory.into()),
            Kind::Directory if name == FILE => {
                Ok(Self { fs: self.fs.clone(), kind: Kind::File }.found())
            }
            Kind::Directory => Ok(Looked::Absent { ttl: TTL_FROZEN }),
        }
    }

    /// The answer to a lookup that leads to this inode.
    pub(crate) fn found(&self) -> Looked {
        let (attributes, attributes_ttl) = self.getattr();
        Looked::Found { ino: self.number(), attributes, entry_ttl: TTL_FOLLOWED, attributes_ttl }
    }

    pub(crate) fn getattr(&self) -> (FileAttr, Duration) {
        let now = SystemTime::now();
        let (kind, perm, size) = match self.kind {
            Kind::Directory => (FileType::Directory, DIRECTORY_MODE, 0),
            Kind::File => (FileType::RegularFile, FILE_MODE, self.text().len() as u64),
        };
        let attributes = FileAttr {
            ino: INodeNo(self.number()),
            size,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: 1,
            uid: self.fs.options.owner.uid,
            gid: self.fs.options.owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        (attributes, Duration::ZERO)
    }

    /// access(2). The kernel has checked the mode bits already.
    pub(crate) fn access(&self, mask: i32) -> Result<()> {
        if mask & libc::W_OK == 0 { Ok(()) } else { Err(Error::ReadOnly) }
    }

    /// Opens the status with its current text.
    pub(crate) fn open(&self, flags: i32) -> Result<Opened> {
        match self.kind {
            Kind::Directory => Err(hypermount_drive::Error::IsADirectory.into()),
            Kind::File if flags & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY => {
                Err(Error::ReadOnly)
            }
            Kind::File => {
                let handle = self.fs.statuses.insert(self.text());
                Ok(Opened { handle, keep_cache: false, direct: true })
            }
        }
    }

    pub(crate) fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Pieces> {
        let status = self.fs.statuses.get(handle)?;
        let start = usize_of(offset).min(status.len());
        let end = start.saturating_add(length as usize).min(status.len());
        Ok(smallvec![status.slice(start..end)])
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`.
    pub(crate) fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let size = self.fs.statuses.get(handle)?.len() as u64;
        holes::seek(size, offset, whence, |_| Ok(Segment { is_hole: false, end: size }))
    }

    pub(crate) fn release(&self, handle: u64) -> Result<()> {
        self.fs.statuses.remove(handle).map(drop)
    }

    pub(crate) fn opendir(&self) -> Result<Opened> {
        match self.kind {
            Kind::File => Err(hypermount_drive::Error::NotADirectory.into()),
            // The descriptor of the directory needs no state.
            Kind::Directory => Ok(Opened { handle: 0, keep_cache: true, direct: false }),
        }
    }

    /// Passes the names from `offset` on to `add` until it returns that it is full.
    pub(crate) fn fill(&self, offset: u64, mut add: impl FnMut(&Listed<'_>) -> bool) {
        let root = self.fs.root_number();
        let names = [
            (".", self.number(), FileType::Directory),
            ("..", root, FileType::Directory),
            (FILE, root + FILE_AFTER_ROOT, FileType::RegularFile),
        ];
        for (next, (name, shown, kind)) in (1..).zip(names).skip(usize_of(offset)) {
            let ttl = Duration::ZERO;
            if add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl }) {
                return;
            }
        }
    }

    /// The status as JSON.
    fn text(&self) -> Bytes {
        let fs = &self.fs;
        let (drive, availability) = (fs.drive(), fs.drive().availability());
        let (key, version) = (*drive.key(), drive.frozen_version());
        let url = DriveUrl { key, version, path: hypermount_drive::DrivePath::root() }.to_string();
        let name = fs.store.name_of(&key).ok().flatten();
        let status = json!({
            "url": url,
            "name": name.and_then(|name| String::from_utf8(name).ok()),
            "version": fs.version(),
            "frozen": version.is_some(),
            "writable": fs.is_writable(),
            "peers": availability.peers,
            "blocks": availability.blocks,
            "blocks_here": availability.blocks_here,
            "blocks_wanted": availability.blocks_wanted,
            "open": fs.load().1,
            "storing": self.storing(),
            "failures": self.failures(),
        });
        let mut text = format!("{status:#}");
        text.push('\n');
        text.into()
    }

    /// The files of this drive whose content is being stored.
    fn storing(&self) -> Vec<Value> {
        let describe = |file: Storing| {
            let path = self.within(&file.path).unwrap_or(file.path);
            json!({ "path": path, "bytes": file.bytes, "bytes_stored": file.bytes_stored })
        };
        self.fs.storing().into_iter().map(describe).collect()
    }

    /// A path of the mount as one of this drive.
    fn within(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.fs.prefix())?;
        let begins = rest.is_empty() || self.fs.prefix().is_empty() || rest.starts_with('/');
        begins.then(|| rest.trim_start_matches('/').to_owned())
    }

    /// The newest failures in this drive, oldest first.
    fn failures(&self) -> Vec<Value> {
        let failures = self.fs.journal().failures();
        let own =
            failures.iter().rev().filter_map(|failed| Some((self.within(&failed.path)?, failed)));
        let mut newest: Vec<_> = own
            .take(MAX_FAILURES)
            .map(|(path, failed)| {
                let (operation, errno, why) = (failed.operation, &failed.errno, &failed.why);
                json!({ "path": path, "operation": operation, "errno": errno, "why": why,
                        "time": failed.time })
            })
            .collect();
        newest.reverse();
        newest
    }
}
