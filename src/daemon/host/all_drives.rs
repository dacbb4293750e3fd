//! The drives in a mount of all drives: those of the store by their names, and any other by its key.
//! A look-up opens the drive and looks for its peers. It is never announced.

use drivefs::{DriveFuture, Drives};
use hypermount_core::{Store, Wait};
use hypermount_drive::{Drive, DriveUrl};
use hypermount_swarm::PublicKey;

use crate::network::Network;
use crate::stored::name_of;

/// A condition on the drive with a key.
pub type ByKey = Box<dyn Fn(&PublicKey) -> bool + Send + Sync>;

/// See the module documentation.
pub struct AllDrives {
    pub store: Store,
    pub network: Network,
    /// Whether peers of the drives are looked for.
    pub looks_for_peers: bool,
    /// Whether a drive is being written at another place of this process.
    pub is_written: ByKey,
    /// Whether a drive is also mounted or seeded elsewhere in this process.
    pub is_needed: ByKey,
}

impl Drives for AllDrives {
    fn names(&self) -> DriveFuture<'_, Vec<String>> {
        let store = self.store.clone();
        Box::pin(async move {
            // Reads a block of every core in the store.
            let names = tokio::task::spawn_blocking(move || {
                let keys = hypermount_drive::stored_drives(&store)?;
                let named: hypermount_core::Result<Vec<_>> =
                    keys.iter().map(|key| name_of(&store, key)).collect();
                Ok(named?.into_iter().flatten().collect())
            });
            names.await.unwrap_or(Err(hypermount_core::Error::Closed))
        })
    }

    fn named<'a>(&'a self, name: &'a str) -> DriveFuture<'a, Option<(Drive, bool)>> {
        Box::pin(async move {
            let Some(key) = self.store.named_key(name.as_bytes())? else { return Ok(None) };
            let drive = Drive::open(&self.store, &key, None, Wait::Local).await?;
            Ok(Some((drive, (self.is_written)(&key))))
        })
    }

    fn by_key<'a>(&'a self, url: &'a DriveUrl, wait: Wait) -> DriveFuture<'a, Drive> {
        Box::pin(async move {
            if let Err(failure) = self.network.look_for(&url.key, self.looks_for_peers) {
                log::warn!("{}", failure.sentence());
            }
            Drive::open(&self.store, &url.key, url.version, wait).await
        })
    }

    fn left(&self, key: &PublicKey) {
        if !(self.is_needed)(key) {
            self.network.stop_looking_for(key);
        }
    }
}
