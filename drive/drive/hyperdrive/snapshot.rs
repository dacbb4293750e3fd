//! One version of a drive as names and entries.

use std::sync::Arc;

use super::Snapshot;
use crate::index::Index;
use crate::path::{DrivePath, Name};
use crate::stat::Entry;
use hypermount_core::{Result, Wait};

impl Snapshot {
    pub(super) fn new(index: Index) -> Self {
        Self { index }
    }

    /// The metadata core's length at this version.
    pub fn version(&self) -> u64 {
        self.index.version()
    }

    /// The entry at `path`. Nested drives are not crossed.
    ///
    /// # Errors
    /// `NotFound` if it is proven that there is none, and below a nested drive; `Malformed` for an
    /// entry that makes no sense; those of [`hypermount_core::Core::get`].
    pub async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        self.index.entry(path, wait).await
    }

    /// The children of the directory `path`, in index order. Left out are names that a filesystem
    /// cannot hold, and entries whose stat cannot be read: looking the latter up says so.
    ///
    /// # Errors
    /// `NotADirectory`; `NotFound`; `TooLarge` for more than 36 MiB, unless the drive is written here;
    /// those of [`hypermount_core::Core::get`].
    pub async fn list(&self, path: &DrivePath, wait: Wait) -> Result<Vec<(Name, Entry)>> {
        self.index.list(path, wait, |entry| entry).await
    }

    /// As [`Snapshot::list`], with shared entries: there is only one copy of them at any time.
    ///
    /// # Errors
    /// Those of [`Snapshot::list`].
    pub async fn list_shared(
        &self,
        path: &DrivePath,
        wait: Wait,
    ) -> Result<Vec<(Name, Arc<Entry>)>> {
        self.index.list(path, wait, Arc::new).await
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }
}
