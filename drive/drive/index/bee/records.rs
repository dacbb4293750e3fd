//! What Hyperdrive 11 to 13 has no entries for: directories with their attributes, empty ones too, fifos, sockets and devices.
//!
//! An index whose header says so keeps them as entries in keys of their own, which other programs pass by. An entry of a
//! file goes before a record at its path, since only another program can have put it there.
//!
//! Not here: how keys and values are made of an entry (`entry.rs`).

use bytes::Bytes;

use super::batch::Batch;
use super::entry::{self, EntryValue, decode};
use super::list::{Child, Place};
use super::tree::Tree;
use crate::index::Edit;
use crate::index::budget::Budget;
use crate::path::DrivePath;
use crate::stat::{Entry, Kind, Stat};
use hypermount_core::{Error, Result, Wait};

/// What all keys of records begin with, the slash of the root included. That of the root is this one.
const RECORDS: &[u8] = b"hypermount\0/";

fn key_of(path: &DrivePath) -> Vec<u8> {
    [RECORDS, path.as_str().as_bytes()].concat()
}

fn prefix_of(path: &DrivePath) -> Vec<u8> {
    entry::below(key_of(path), path)
}

/// The path of a key, if it is one of a record.
pub(super) fn path_of(key: &[u8]) -> Option<DrivePath> {
    let text = std::str::from_utf8(key.strip_prefix(RECORDS)?).ok()?;
    let path = DrivePath::parse(text).ok()?;
    (path.as_str() == text).then_some(path)
}

impl Tree {
    /// What is recorded at `path`, and whether something is recorded below it; nothing in an index without records.
    pub(super) async fn record(&self, path: &DrivePath, wait: Wait) -> Result<Place> {
        match self.blocks().has_records() {
            true => self.place_of(&key_of(path), &prefix_of(path), wait).await,
            false => Ok(Place { entry: None, below: None }),
        }
    }

    /// The names that are recorded in the directory `path`.
    pub(super) async fn recorded_children(
        &self,
        path: &DrivePath,
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Child>> {
        match self.blocks().has_records() {
            true => self.children_of(&prefix_of(path), budget, wait).await,
            false => Ok(Vec::new()),
        }
    }
}

/// The entry that a place of a record has, if that is one which records hold.
pub(super) fn recorded(place: &Place) -> Option<Entry> {
    let found = place.entry.as_ref()?;
    decode(found.seq, &found.block).ok().filter(|entry| is_recorded(entry.kind))
}

fn is_recorded(kind: Kind) -> bool {
    match kind {
        Kind::Directory | Kind::Fifo | Kind::Socket => true,
        Kind::CharacterDevice | Kind::BlockDevice => true,
        Kind::File | Kind::Symlink | Kind::Mount => false,
    }
}

impl Batch {
    /// [`crate::index::Edits::add`].
    pub(crate) async fn edit(&mut self, edit: Edit) -> Result<()> {
        match edit {
            Edit::Put { path, stat } => self.put_entry(&path, stat).await,
            Edit::Remove { path } => match self.remove_entry(&path).await? {
                true => Ok(()),
                false => Err(Error::NotFound),
            },
        }
    }

    async fn put_entry(&mut self, path: &DrivePath, stat: Stat) -> Result<()> {
        let kind = Entry::stored(stat.clone()).kind;
        let refused = |what: &str| {
            Err(Error::Unsupported(format!("{what} in a drive of Hyperdrive 13: {path}")))
        };
        let (key, other) = match kind {
            Kind::File | Kind::Symlink if path.is_root() => {
                return refused("a root that is no directory");
            }
            Kind::File if stat.mount.is_some() => return refused("a mounted core"),
            Kind::Mount => return refused("a nested drive"),
            Kind::File | Kind::Symlink => (entry::key_of(path), key_of(path)),
            _ => (key_of(path), entry::key_of(path)),
        };
        let value = EntryValue::of(&stat)?.encode();
        // At a path there is one of both.
        if !path.is_root() {
            self.remove(&other).await?;
        }
        self.put(Bytes::from(key), value).await
    }

    async fn remove_entry(&mut self, path: &DrivePath) -> Result<bool> {
        let record = self.remove(&key_of(path)).await?;
        Ok(!path.is_root() && self.remove(&entry::key_of(path)).await? || record)
    }
}
