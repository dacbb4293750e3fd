//! The cores of one directory (corestore 5 layout), and the lock on it. (stub: core helper)

use std::path::Path;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::core::Core;
use crate::crypto::{DiscoveryKey, PublicKey};
use crate::error::Result;

/// Room on the volume that holds the store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub available: u64,
}

#[derive(Clone)]
pub struct Store {
    _inner: Arc<()>,
}

impl Store {
    /// Opens (or, with `create`, makes) the store in `directory` and takes its lock.
    pub fn open(_directory: &Path, _create: bool) -> Result<Self> {
        todo!()
    }
    /// A store without a disk.
    pub fn memory() -> Self {
        todo!()
    }
    /// The core with this key, opened once and shared; made (read-only, empty) if absent.
    pub fn core(&self, _key: &PublicKey) -> Result<Core> {
        todo!()
    }
    /// The core derived from the master key and `name`; writable.
    pub fn core_named(&self, _name: &[u8]) -> Result<Core> {
        todo!()
    }
    /// The core, if it is open or on disk; opens it in the latter case.
    pub fn find(&self, _key: &DiscoveryKey) -> Result<Option<Core>> {
        todo!()
    }
    /// Key of the core named `default`, if it is on disk: the drive of a `hyperdrive("dir")`.
    pub fn default_key(&self) -> Result<Option<PublicKey>> {
        todo!()
    }
    /// Keys of all cores on disk.
    pub fn keys(&self) -> Result<Vec<PublicKey>> {
        todo!()
    }
    /// All cores open now.
    pub fn cores(&self) -> Vec<Core> {
        todo!()
    }
    /// Every core opened from now on.
    pub fn opened(&self) -> broadcast::Receiver<Core> {
        todo!()
    }
    pub fn space(&self) -> Result<Space> {
        todo!()
    }
}
