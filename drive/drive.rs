//! A drive: an index over a metadata core, and a content core. (stub: trie helper)

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::core::Head;
use crate::core::demand::Urgency;
use crate::crypto::PublicKey;
use crate::error::Result;
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Extent, Stat};
use crate::store::Store;
use crate::wait::Wait;

/// One version of a drive, pinned: what is read through it never changes.
pub struct Snapshot {}

/// One difference between two versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub path: DrivePath,
    /// The entry before and after; `None` where there was or is none.
    pub before: Option<Entry>,
    pub after: Option<Entry>,
}

/// One step of a commit. A batch of them becomes one signed append.
#[derive(Clone, Debug)]
pub enum Edit {
    Put { path: DrivePath, stat: Stat },
    Remove { path: DrivePath },
}

#[derive(Clone)]
pub struct Drive {
    _inner: Arc<()>,
}

impl Drive {
    /// Opens the drive with this key, at its newest version or frozen at `version`; fetches the
    /// header block from peers within `wait` if it is not here.
    pub async fn open(
        _store: &Store,
        _key: &PublicKey,
        _version: Option<u64>,
        _wait: Wait,
    ) -> Result<Self> {
        todo!()
    }
    /// Makes (or reopens) the drive whose metadata core derives from `name`.
    pub fn create(_store: &Store, _name: &str) -> Result<Self> {
        todo!()
    }
    pub fn key(&self) -> &PublicKey {
        todo!()
    }
    /// The version this drive is frozen at, if it is.
    pub fn frozen_version(&self) -> Option<u64> {
        todo!()
    }
    /// Whether this machine holds the keys of both cores and the drive is not frozen.
    pub fn writable(&self) -> bool {
        todo!()
    }
    /// The newest version known here (or the frozen one).
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }
    /// Fires when the metadata core grows; never on a frozen drive.
    pub fn watch(&self) -> watch::Receiver<Head> {
        todo!()
    }
    /// Waits until a version newer than `version` is known.
    pub async fn newer_than(&self, _version: u64, _wait: Wait) -> Result<()> {
        todo!()
    }
    /// Bytes `range` of the extent (cut at its size), in pieces as they lie in blocks.
    pub async fn read(
        &self,
        _extent: &Extent,
        _range: Range<u64>,
        _wait: Wait,
    ) -> Result<Vec<Bytes>> {
        todo!()
    }
    /// As `read`, of the whole-core file a `MountTarget { core: true }` names.
    pub async fn read_core(
        &self,
        _key: &PublicKey,
        _range: Range<u64>,
        _wait: Wait,
    ) -> Result<Vec<Bytes>> {
        todo!()
    }
    /// Asks peers for bytes nobody waits for yet.
    pub fn prefetch(&self, _extent: &Extent, _range: Range<u64>, _urgency: Urgency) {
        todo!()
    }
    /// How many bytes (at most) of the extent are on this machine, counted by whole blocks, and
    /// how many blocks.
    pub fn held(&self, _extent: &Extent) -> (u64, u64) {
        todo!()
    }
    /// What differs between two snapshots of this drive, at most `limit` changes (else `TooLarge`).
    pub async fn changes(
        &self,
        _old: &Snapshot,
        _new: &Snapshot,
        _limit: usize,
        _wait: Wait,
    ) -> Result<Vec<Changed>> {
        todo!()
    }
    /// Appends file bytes to the content core; the extent they then have. Visible to nobody until
    /// an [`Edit::Put`] names it.
    pub fn append_content(&self, _blocks: &[Bytes]) -> Result<Extent> {
        todo!()
    }
    /// Applies the edits as one signed batch; the new version.
    pub async fn apply(&self, _edits: Vec<Edit>) -> Result<u64> {
        todo!()
    }
}

impl Snapshot {
    /// The metadata core's length at this version.
    pub fn version(&self) -> u64 {
        todo!()
    }
    /// What lies at `path`: NotFound if nothing does, and only if that is proven. Does not cross
    /// nested drives: below a mount it is NotFound.
    pub async fn entry(&self, _path: &DrivePath, _wait: Wait) -> Result<Entry> {
        todo!()
    }
    /// The children of the directory `path`, in index order, names a filesystem cannot hold left
    /// out. NotADirectory / NotFound as expected.
    pub async fn list(&self, _path: &DrivePath, _wait: Wait) -> Result<Vec<(Name, Entry)>> {
        todo!()
    }
}
