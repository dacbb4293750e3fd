//! Records of conversions, in the store: which drive became which, and how far that is.
//!
//! ```text
//! <store>/hypermount.conversions/<hash of the new name>.json
//! {"version":1,"from":"<key>","to":"13","name":"notes-13","versions":[42],"fork":0,"whole":true,"begun":null}
//! <store>/hypermount.conversions/lock                 held by the one conversion that runs
//! ```
//!
//! They are in the store and not in the new drive, because the readers of that drive are not to learn the key of the old
//! one: its log has all its earlier versions. A lost record costs only the continuation. Not here: the copying.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::failed;
use crate::index::DriveFormat;
use crate::stat::Extent;
use hypermount_core::{Error, Result, Store, private_files};
use hypermount_swarm::crypto::{self, PublicKey};

const DIRECTORY: &str = "hypermount.conversions";
const LOCK: &str = "lock";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// Longest record that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// Versions of the old drive whose entries the new one may have; further ones, the oldest, are forgotten.
const MAX_VERSIONS: usize = 8;

/// A drive that becomes, or became, one of another format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The old drive.
    pub from: PublicKey,
    /// The format of the new one.
    pub to: DriveFormat,
    /// The name of the new drive in this store.
    pub name: String,
    /// Versions of the old drive whose entries the new one may have.
    pub(super) versions: Vec<u64>,
    /// The fork counter of the old drive's index when it had them.
    pub(super) fork: u64,
    /// Whether the new drive had all of the first of these versions.
    pub(super) whole: bool,
    /// A large file that was being copied.
    pub(super) begun: Option<Begun>,
    /// `None` for a store in memory.
    path: Option<PathBuf>,
}

/// Where in the new content core the blocks of a large file begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) block: u64,
    /// The file in the old drive.
    pub(super) source: Extent,
}

/// The right to convert in a store: one conversion at a time has it.
pub struct ConversionLock {
    _file: Option<File>,
}

impl ConversionLock {
    /// Takes it.
    ///
    /// # Errors
    /// `Locked` while another conversion has it; `Storage`.
    pub fn take(store: &Store) -> Result<Self> {
        let Some(directory) = directory(store) else { return Ok(Self { _file: None }) };
        private_files::directory(&directory).map_err(failed("create", &directory))?;
        let path = directory.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = private_files::open(&path, &options).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                let holder = "another conversion, one at a time runs in a store".to_owned();
                Err(Error::Locked { path: directory, holder })
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }
}

fn directory(store: &Store) -> Option<PathBuf> {
    Some(store.root()?.join(DIRECTORY))
}

impl Conversion {
    /// A conversion that has not begun. Nothing is stored yet.
    pub fn new(store: &Store, from: PublicKey, to: DriveFormat, name: &str) -> Self {
        let path = directory(store).map(|directory| directory.join(file_of(name)));
        let (name, versions) = (name.to_owned(), Vec::new());
        Self { from, to, name, versions, fork: 0, whole: false, begun: None, path }
    }

    /// All records of a store. One that makes no sense is left out and logged.
    ///
    /// # Errors
    /// `Storage`.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        let Some(directory) = directory(store) else { return Ok(Vec::new()) };
        let listed = match fs::read_dir(&directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &directory)(error)),
        };
        let mut found = Vec::new();
        for entry in listed {
            let path = entry.map_err(failed("list", &directory))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match Self::read(&path).map_err(failed("read", &path))? {
                Some(conversion) => found.push(conversion),
                None => log::warn!("{}: no record of a conversion", path.display()),
            }
        }
        found.sort_by(|one: &Self, other| one.name.cmp(&other.name));
        Ok(found)
    }

    fn read(path: &Path) -> io::Result<Option<Self>> {
        if fs::metadata(path)?.len() > MAX_BYTES {
            return Ok(None);
        }
        let bytes = fs::read(path)?;
        let decoded = serde_json::from_slice(&bytes).ok().and_then(|value| Self::decode(&value));
        // Not of this name: copied by hand.
        let fits =
            |found: &Self| path.file_name().is_some_and(|name| *name == *file_of(&found.name));
        Ok(decoded.filter(fits).map(|found| Self { path: Some(path.to_owned()), ..found }))
    }

    fn decode(value: &Value) -> Option<Self> {
        if value.get("version")?.as_u64()? != VERSION {
            return None;
        }
        let versions = value.get("versions")?.as_array()?.iter().map(Value::as_u64);
        let to = match value.get("to")?.as_str()? {
            "10" => DriveFormat::Hyperdrive10,
            "13" => DriveFormat::Hyperdrive11,
            _ => return None,
        };
        Some(Self {
            from: PublicKey::from_hex(value.get("from")?.as_str()?)?,
            to,
            name: value.get("name")?.as_str()?.to_owned(),
            versions: versions.collect::<Option<_>>()?,
            fork: value.get("fork")?.as_u64()?,
            whole: value.get("whole")?.as_bool()?,
            begun: value.get("begun").and_then(Begun::decode),
            path: None,
        })
    }

    fn encode(&self) -> Value {
        let to = match self.to {
            DriveFormat::Hyperdrive10 => "10",
            DriveFormat::Hyperdrive11 => "13",
        };
        json!({
            "version": VERSION, "from": self.from.to_hex(), "to": to, "name": self.name,
            "versions": self.versions, "fork": self.fork, "whole": self.whole,
            "begun": self.begun.map(Begun::encode),
        })
    }

    /// Stores the record.
    ///
    /// # Errors
    /// `Storage`.
    pub fn save(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = self.encode().to_string();
        text.push('\n');
        private_files::replace(path, text.as_bytes()).map_err(failed("write", path))
    }

    /// Whether the new drive has all of the newest version that was copied.
    pub fn is_finished(&self) -> bool {
        self.whole && self.versions.len() == 1
    }

    /// The new drive may have entries of this version of the old one from now on.
    pub(super) fn begin(&mut self, version: u64, fork: u64) -> Result<()> {
        if fork != self.fork {
            // The numbers of another history.
            self.versions.clear();
            (self.fork, self.whole) = (fork, false);
        }
        if self.versions.last() == Some(&version) {
            return Ok(());
        }
        self.versions.push(version);
        if self.versions.len() > MAX_VERSIONS {
            self.versions.remove(usize::from(self.whole));
        }
        self.save()
    }

    /// The new drive has all of this version, and it is on the disk.
    pub(super) fn finish(&mut self, version: u64) -> Result<()> {
        if self.is_finished() && self.versions == [version] {
            return Ok(());
        }
        (self.versions, self.whole, self.begun) = (vec![version], true, None);
        self.save()
    }
}

impl Begun {
    fn encode(self) -> Value {
        let Extent { block, blocks, byte, size, map_size, .. } = self.source;
        json!({"block": self.block, "source": [block, blocks, byte, size, map_size]})
    }

    fn decode(value: &Value) -> Option<Self> {
        let source = value.get("source")?;
        let number = |at: usize| source.get(at)?.as_u64();
        Some(Self {
            block: value.get("block")?.as_u64()?,
            source: Extent {
                block: number(0)?,
                blocks: number(1)?,
                byte: number(2)?,
                size: number(3)?,
                map_size: number(4)?,
                holes: 0,
                fork: 0,
            },
        })
    }
}

fn file_of(name: &str) -> String {
    let hash = crypto::blake2b(&[b"hypermount conversion", name.as_bytes()]);
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_nonsense_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), true).unwrap();
        let _lock = ConversionLock::take(&store).unwrap();
        let to = DriveFormat::Hyperdrive11;
        let mut conversion = Conversion::new(&store, PublicKey::new([3; 32]), to, "new/\"é");
        conversion.begin(7, 1).unwrap();
        conversion.begun = Some(Begun {
            block: 9,
            source: Extent {
                block: 1,
                blocks: 2,
                byte: 3,
                size: 4,
                map_size: 5,
                holes: 0,
                fork: 0,
            },
        });
        conversion.save().unwrap();
        assert_eq!(Conversion::all(&store).unwrap(), [conversion.clone()]);
        conversion.finish(7).unwrap();
        assert_eq!(Conversion::all(&store).unwrap(), [conversion.clone()]);
        let path = conversion.path.clone().unwrap();
        for wrong in ["", "{}", r#"{"version":2}"#, "[1]", &" ".repeat(MAX_BYTES as usize + 1)] {
            fs::write(&path, wrong).unwrap();
            assert_eq!(Conversion::all(&store).unwrap(), [], "{wrong:.20}");
        }
        conversion.save().unwrap();
        fs::copy(&path, path.with_file_name("other.json")).unwrap();
        assert_eq!(Conversion::all(&store).unwrap(), [conversion]);
    }

    #[test]
    fn versions_are_remembered_until_one_is_whole() {
        let store = Store::memory();
        let to = DriveFormat::Hyperdrive11;
        let mut conversion = Conversion::new(&store, PublicKey::new([3; 32]), to, "new");
        for version in [1, 2, 2, 3] {
            conversion.begin(version, 0).unwrap();
        }
        assert_eq!((&conversion.versions[..], conversion.is_finished()), (&[1, 2, 3][..], false));
        conversion.finish(3).unwrap();
        conversion.begin(3, 0).unwrap();
        assert!(conversion.is_finished());
        for version in 4..50 {
            conversion.begin(version, 0).unwrap();
        }
        assert_eq!(
            conversion.versions,
            [3, 43, 44, 45, 46, 47, 48, 49],
            "the whole one and the newest"
        );
        assert!(conversion.whole && !conversion.is_finished());
        conversion.begin(49, 1).unwrap();
        assert_eq!(conversion.versions, [49], "of another history the others mean nothing");
        for version in 50..60 {
            conversion.begin(version, 1).unwrap();
        }
        assert_eq!((conversion.versions.len(), conversion.versions[0]), (MAX_VERSIONS, 52));
    }

    #[test]
    fn one_conversion_at_a_time_runs_in_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), true).unwrap();
        let first = ConversionLock::take(&store).unwrap();
        assert!(matches!(ConversionLock::take(&store), Err(Error::Locked { .. })));
        drop(first);
        ConversionLock::take(&store).unwrap();
    }
}
