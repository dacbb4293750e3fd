//! `.hypermount/status.json` in the root of every drive: how the drive stands, for scripts and file
//! managers. It is no part of the drive and is in no listing, so nothing that copies a tree takes it along.
//! An entry of that name in the drive itself comes first.
//!
//! What is read is what held when the file was opened: it is made then, and never in the kernel's pages.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::DriveUrl;
use serde_json::{Value, json};

use crate::attr::TTL_FOLLOWED;
use crate::errno::{Error, Result};
use crate::file::Opened;
use crate::filesystem::{Fs, Looked, usize_of};

const DIRECTORY: &str = ".hypermount";
pub const FILE: &str = "status.json";
/// Numbers after the root's: below those that paths have.
const DIRECTORY_AFTER_ROOT: u64 = 1;
const FILE_AFTER_ROOT: u64 = 2;
/// Marks the handles of the status: those of files count up from 1.
const HANDLE: u64 = 1 << 63;
/// The key in it opens the drive, so it is its mounter's alone.
const DIRECTORY_MODE: u16 = 0o500;
const FILE_MODE: u16 = 0o400;
/// Failed calls that are told, the newest.
const MAX_FAILURES: usize = 10;

/// Which of the two an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Directory,
    File,
}

impl Fs {
    pub(crate) fn told(&self, ino: u64) -> Option<Told> {
        match ino.checked_sub(self.root_number()) {
            Some(DIRECTORY_AFTER_ROOT) => Some(Told::Directory),
            Some(FILE_AFTER_ROOT) => Some(Told::File),
            _ => None,
        }
    }

    pub(crate) fn told_number(&self, told: Told) -> u64 {
        match told {
            Told::Directory => self.root_number() + DIRECTORY_AFTER_ROOT,
            Told::File => self.root_number() + FILE_AFTER_ROOT,
        }
    }

    /// What a name leads to that is not in the drive; `parent` is a directory.
    pub(crate) fn look_up_told(&self, parent: u64, name: &OsStr) -> Option<Looked> {
        let told = match self.told(parent) {
            None if parent == self.root_number() && name == DIRECTORY => Told::Directory,
            Some(Told::Directory) if name == FILE => Told::File,
            _ => return None,
        };
        let (attributes, attributes_ttl) = self.told_attributes(told);
        let ino = self.told_number(told);
        Some(Looked::Found { ino, attributes, entry_ttl: TTL_FOLLOWED, attributes_ttl })
    }

    pub(crate) fn told_attributes(&self, told: Told) -> (FileAttr, Duration) {
        let now = SystemTime::now();
        let (kind, perm, size) = match told {
            Told::Directory => (FileType::Directory, DIRECTORY_MODE, 0),
            Told::File => (FileType::RegularFile, FILE_MODE, self.tell().len() as u64),
        };
        let attributes = FileAttr {
            ino: INodeNo(self.told_number(told)),
            size,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: if told == Told::Directory { 2 } else { 1 },
            uid: self.options.owner.uid,
            gid: self.options.owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        (attributes, Duration::ZERO)
    }

    /// Opens the status, as it is now.
    pub(crate) fn open_told(&self, told: Told, flags: i32) -> Result<Opened> {
        match told {
            Told::Directory => Err(hypermount_drive::Error::IsADirectory.into()),
            Told::File if flags & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY => {
                Err(Error::ReadOnly)
            }
            Told::File => {
                let handle = HANDLE | self.statuses.insert(self.tell());
                Ok(Opened { handle, keep_cache: false, direct: true })
            }
        }
    }

    /// The status that a handle has open, if it is one of a status.
    pub(crate) fn opened_status(&self, handle: u64) -> Option<Result<Bytes>> {
        let status = || self.statuses.get(handle & !HANDLE).map(|status| Bytes::clone(&status));
        (handle & HANDLE != 0).then(status)
    }

    pub(crate) fn read_status(&self, status: &Bytes, offset: u64, length: u32) -> Vec<Bytes> {
        let start = usize_of(offset).min(status.len());
        let end = start.saturating_add(length as usize).min(status.len());
        vec![status.slice(start..end)]
    }

    pub(crate) fn release_status(&self, handle: u64) -> Result<()> {
        self.statuses.remove(handle & !HANDLE).map(drop)
    }

    /// The status as JSON.
    fn tell(&self) -> Bytes {
        let (drive, standing) = (self.drive(), self.drive().standing());
        let (key, version) = (*drive.key(), drive.frozen_version());
        let url = DriveUrl { key, version, path: hypermount_drive::DrivePath::root() }.to_string();
        let name = self.store.name_of(&key).ok().flatten();
        let status = json!({
            "url": url,
            "name": name.and_then(|name| String::from_utf8(name).ok()),
            "version": self.version(),
            "frozen": version.is_some(),
            "writable": self.is_writable(),
            "peers": standing.peers,
            "blocks": standing.blocks,
            "blocks_here": standing.blocks_here,
            "blocks_wanted": standing.blocks_wanted,
            "open": self.load().1,
            "failures": self.told_failures(),
        });
        let mut text = format!("{status:#}");
        text.push('\n');
        text.into()
    }

    /// The newest failures in this drive, oldest first.
    fn told_failures(&self) -> Vec<Value> {
        let within = |path: &str| {
            let rest = path.strip_prefix(self.prefix())?;
            let begins = rest.is_empty() || self.prefix().is_empty() || rest.starts_with('/');
            begins.then(|| rest.trim_start_matches('/').to_owned())
        };
        let failures = self.journal().failures();
        let own = failures.iter().rev().filter_map(|failed| Some((within(&failed.path)?, failed)));
        let mut told: Vec<_> = own
            .take(MAX_FAILURES)
            .map(|(path, failed)| {
                let (operation, errno, why) = (failed.operation, &failed.errno, &failed.why);
                json!({ "path": path, "operation": operation, "errno": errno, "why": why,
                        "time": failed.time })
            })
            .collect();
        told.reverse();
        told
    }
}
