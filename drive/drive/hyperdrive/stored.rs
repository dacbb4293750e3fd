//! Which drives a store holds, the damaged ones included.

use std::collections::BTreeSet;

use super::Drive;
use crate::index::IndexLog;
use hypermount_core::{DamagedCore, Error, Result, Store, Wait, content_name, lacks_descriptors};
use hypermount_swarm::crypto::{DiscoveryKey, PublicKey};

/// The drives of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredDrives {
    /// Those that can be opened.
    pub drives: Vec<PublicKey>,
    /// What is damaged or incomplete, by metadata core where that is known. A drive that can be opened
    /// may be among them.
    pub damaged: Vec<DamagedCore>,
}

/// Keys of the drives in a store: of every core whose first block is here and says that it is a
/// drive's index.
///
/// # Errors
/// `TooManyCores`, `Storage`.
pub fn stored_drives(store: &Store) -> Result<Vec<PublicKey>> {
    let mut drives = Vec::new();
    for key in store.keys()? {
        let header = match store.core(&key) {
            Ok(core) => core.get_local(0),
            Err(error) => Err(error),
        };
        match header {
            // There may be more drives than can be told.
            Err(error) if lacks_descriptors(&error) => return Err(error),
            Ok(Some(block)) if IndexLog::content_named_by(&block).is_ok() => drives.push(key),
            Ok(_) => {}
            // One damaged core must not hide the others.
            Err(error) => log::warn!("core {}: not looked at: {error}", key.discovery_key()),
        }
    }
    Ok(drives)
}

/// The drives of a store, with what is known to be wrong with them. None is left out because it is
/// damaged.
///
/// # Errors
/// `TooManyCores`, `Locked`, `Storage`.
pub async fn stored_drives_and_damage(store: &Store) -> Result<StoredDrives> {
    let (mut found, mut contents) = (StoredDrives::default(), BTreeSet::new());
    for key in store.keys()? {
        let damaged =
            |why: String| DamagedCore { discovery_key: key.discovery_key(), key: Some(key), why };
        match Drive::open(store, &key, None, Wait::Local).await {
            Ok(drive) => {
                let cores = std::iter::once(drive.metadata_core()).chain(drive.content().ok());
                found
                    .damaged
                    .extend(cores.filter_map(|core| store.known_damage(core)).map(damaged));
                contents.extend(drive.content().ok().map(|core| *core.discovery_key()));
                found.drives.push(key);
            }
            // There may be more drives than can be told.
            Err(error) if lacks_descriptors(&error) => return Err(error),
            Err(error @ Error::Locked { .. }) => return Err(error),
            Err(
                error @ (Error::Corrupt { .. } | Error::Storage { .. } | Error::NotAStore { .. }),
            ) => {
                contents.extend(content_of(store, &key));
                found.damaged.push(damaged(error.to_string()));
            }
            // A content core, or another program's: no drive begins there.
            Err(_) => {
                let missing = store.core(&key).ok().and_then(|core| store.known_damage(&core));
                contents.extend(missing.iter().filter_map(|_| content_of(store, &key)));
                found.damaged.extend(missing.map(damaged));
            }
        }
    }
    found.damaged.extend(store.unknown_cores()?);
    // What is wrong with a content core is said of its drive.
    found.damaged.retain(|damaged| !contents.contains(&damaged.discovery_key));
    Ok(found)
}

/// The content core of a damaged drive: what its header says or, of a writable drive, what derives
/// from its key.
fn content_of(store: &Store, key: &PublicKey) -> Option<DiscoveryKey> {
    let header = store.core(key).ok().and_then(|core| core.get_local(0).ok().flatten());
    let named = header.and_then(|block| IndexLog::content_named_by(&block).ok()?);
    let content = named.unwrap_or_else(|| store.key_named(content_name(key).as_bytes()));
    Some(content.discovery_key())
}
