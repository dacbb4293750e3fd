//! What a mount of all drives shows: those of the store by their names, and any other by its key.
//! Looking one up opens it, and looks for its peers; it is never announced.

use drivefs::{Drives, Later};
use hypermount_core::{Store, Wait};
use hypermount_drive::{Drive, DriveUrl};
use hypermount_swarm::PublicKey;

use crate::answers::name_of;
use crate::network::Network;

/// What is asked of a drive.
pub type ByKey = Box<dyn Fn(&PublicKey) -> bool + Send + Sync>;

pub struct Everything {
    pub store: Store,
    /// Whom keys are asked of; nobody without.
    pub network: Option<Network>,
    /// Whether peers are looked for that nobody named.
    pub looks: bool,
    /// Whether a drive is being written at another place of this process.
    pub is_written: ByKey,
    /// Whether a drive is mounted, seeded or shared by somebody else in this process.
    pub is_needed: ByKey,
}

impl Drives for Everything {
    fn names(&self) -> Later<'_, Vec<String>> {
        let store = self.store.clone();
        Box::pin(async move {
            // Reads a block of every core there is.
            let names = tokio::task::spawn_blocking(move || {
                let keys = hypermount_drive::hyperdrive::stored_drives(&store)?;
                let named: hypermount_core::Result<Vec<_>> =
                    keys.iter().map(|key| name_of(&store, key)).collect();
                Ok(named?.into_iter().flatten().collect())
            });
            names.await.unwrap_or(Err(hypermount_core::Error::Closed))
        })
    }

    fn named<'a>(&'a self, name: &'a str) -> Later<'a, Option<(Drive, bool)>> {
        Box::pin(async move {
            let Some(key) = self.store.named_key(name.as_bytes())? else { return Ok(None) };
            let drive = Drive::open(&self.store, &key, None, Wait::Local).await?;
            Ok(Some((drive, (self.is_written)(&key))))
        })
    }

    fn by_key<'a>(&'a self, url: &'a DriveUrl, wait: Wait) -> Later<'a, Drive> {
        Box::pin(async move {
            if let Some(network) = &self.network
                && let Err(failure) = network.look_for(&url.key, self.looks)
            {
                log::warn!("{}", failure.sentence());
            }
            Drive::open(&self.store, &url.key, url.version, wait).await
        })
    }

    fn left(&self, key: &PublicKey) {
        if let Some(network) = &self.network
            && !(self.is_needed)(key)
        {
            network.look_no_more(key);
        }
    }
}
