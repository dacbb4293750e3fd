//! Entries of a drive.

use hypermount_drive::{Device, Entry, Kind, Name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Result};
use crate::session::Session;
use crate::values::drive_url;

/// An entry: what `ls --json` prints, and the daemon lists.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Described {
    pub name: String,
    pub kind: EntryKind,
    /// Type and permission bits, as stat(2) numbers them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes; of files only.
    pub size: Option<u64>,
    /// First and number of the blocks in the content core; of files only.
    pub block: Option<u64>,
    pub blocks: Option<u64>,
    /// Milliseconds since 1970; negative before.
    pub mtime: i64,
    pub ctime: i64,
    /// That of the modification, if none is stored.
    pub atime: i64,
    /// Of devices only.
    pub device: Option<DeviceNumbers>,
    /// Where a symbolic link points.
    pub target: Option<String>,
    /// URL of the drive that is mounted here.
    pub mount: Option<String>,
    /// Names of the extended attributes.
    pub attributes: Vec<String>,
}

/// The numbers of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceNumbers {
    pub major: u32,
    pub minor: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    Mount,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

impl EntryKind {
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Mount => "mount",
            EntryKind::Fifo => "fifo",
            EntryKind::Socket => "socket",
            EntryKind::CharacterDevice => "character-device",
            EntryKind::BlockDevice => "block-device",
        }
    }
}

impl From<Kind> for EntryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Symlink,
            Kind::Mount => EntryKind::Mount,
            Kind::Fifo => EntryKind::Fifo,
            Kind::Socket => EntryKind::Socket,
            Kind::CharacterDevice => EntryKind::CharacterDevice,
            Kind::BlockDevice => EntryKind::BlockDevice,
        }
    }
}

impl Described {
    pub fn new(name: &str, entry: &Entry) -> Self {
        let stat = &entry.stat;
        let extent = (entry.kind == Kind::File).then_some(stat.extent);
        let attributes = stat.attributes.iter().filter(|(_, value)| value.is_some());
        Self {
            name: name.to_owned(),
            kind: entry.kind.into(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: extent.map(|extent| extent.size),
            block: extent.map(|extent| extent.block),
            blocks: extent.map(|extent| extent.blocks),
            mtime: stat.mtime.milliseconds(),
            ctime: stat.ctime.milliseconds(),
            atime: stat.atime.unwrap_or(stat.mtime).milliseconds(),
            device: stat.device.map(|Device { major, minor }| DeviceNumbers { major, minor }),
            target: stat.linkname.clone(),
            mount: stat.mount.as_ref().map(|mount| drive_url(&mount.key, mount.version)),
            attributes: attributes.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// One entry, and where it was found: what `stat --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    #[serde(flatten)]
    pub entry: Described,
    /// Path within `drive`.
    pub path: String,
    /// URL of the drive it is in, which may be a nested one.
    pub drive: String,
    /// How much of a file is on this disk, counted by whole blocks.
    pub bytes_here: Option<u64>,
    pub blocks_here: Option<u64>,
}

/// The children of a directory in the order of their names; for any other entry, that entry alone.
pub async fn entries(session: &Session, path: &str) -> Result<Vec<Described>> {
    let place = session.find(path).await?;
    if place.entry.kind != Kind::Directory {
        let name = place.path.name().unwrap_or_default();
        return Ok(vec![Described::new(name, &place.entry)]);
    }
    let listed = place.snapshot.list(&place.path, session.wait).await;
    let mut listed: Vec<(Name, Entry)> = listed.context(|| place.path.to_string())?;
    listed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listed.iter().map(|(name, entry)| Described::new(name.as_str(), entry)).collect())
}

/// The entry at a path.
pub async fn entry(session: &Session, path: &str) -> Result<Found> {
    let place = session.find(path).await?;
    let here = (place.entry.kind == Kind::File).then(|| place.drive.held(&place.entry.stat.extent));
    Ok(Found {
        entry: Described::new(place.path.as_str(), &place.entry),
        path: place.path.to_string(),
        drive: drive_url(place.drive.key(), place.drive.frozen_version()),
        bytes_here: here.map(|(bytes, _)| bytes),
        blocks_here: here.map(|(_, blocks)| blocks),
    })
}
