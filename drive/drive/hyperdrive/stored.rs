//! Which drives a store holds, the damaged ones included.

use std::collections::BTreeSet;

use super::Drive;
use crate::index::{FirstBlock, IndexLog, derived_content_key};
use hypermount_core::{
    Core, DamagedCore, Dialect, Error, Result, Store, Wait, content_name, lacks_descriptors,
};
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
    for (key, dialect) in store.stored_cores()? {
        match begins_drive(store, &key, dialect) {
            // There may be more drives than can be told.
            Err(error) if lacks_descriptors(&error) => return Err(error),
            Ok(true) if !drives.contains(&key) => drives.push(key),
            Ok(_) => {}
            // One damaged core must not hide the others.
            Err(error) => log::warn!("core {}: not looked at: {error}", key.discovery_key()),
        }
    }
    Ok(drives)
}

fn begins_drive(store: &Store, key: &PublicKey, dialect: Dialect) -> Result<bool> {
    let core = store.core_of(key, dialect)?;
    let first = core.get_local(0)?;
    Ok(first.is_some_and(|block| IndexLog::content_named_by(&core, &block).is_ok()))
}

/// The drives of a store, with what is known to be wrong with them. None is left out because it is
/// damaged.
///
/// # Errors
/// `TooManyCores`, `Locked`, `Storage`.
pub async fn stored_drives_and_damage(store: &Store) -> Result<StoredDrives> {
    let (mut found, mut contents) = (StoredDrives::default(), BTreeSet::new());
    for (key, dialect) in store.stored_cores()? {
        let damaged =
            |why: String| DamagedCore { discovery_key: key.discovery_key(), key: Some(key), why };
        let begins = store.core_of(&key, dialect).is_ok_and(|core| core.has(0));
        match Drive::open_as(store, &key, dialect, None, Wait::Local).await {
            Ok(drive) => {
                let cores = std::iter::once(drive.metadata_core()).chain(drive.content().ok());
                found
                    .damaged
                    .extend(cores.filter_map(|core| store.known_damage(core)).map(damaged));
                contents.extend(drive.content().ok().map(|core| *core.discovery_key()));
                if !found.drives.contains(&key) {
                    found.drives.push(key);
                }
            }
            // There may be more drives than can be told.
            Err(error) if lacks_descriptors(&error) => return Err(error),
            Err(error @ Error::Locked { .. }) => return Err(error),
            Err(
                error @ (Error::Corrupt { .. } | Error::Storage { .. } | Error::NotAStore { .. }),
            ) => {
                contents.extend(content_of(store, &key, dialect));
                found.damaged.push(damaged(error.to_string()));
            }
            // Of a copy a block that does not verify counts as one that is not here. It stays one that is damaged, so
            // that a repair finds it.
            Err(Error::Unavailable { block: 0, .. }) if begins => {
                let first = std::slice::from_ref(&(0..1));
                let again = store.core_of(&key, dialect).and_then(|core| core.claim_again(first));
                if let Err(error) = again {
                    log::debug!("core {}: {error}", key.discovery_key());
                }
                found.damaged.push(damaged("its first block does not verify".to_owned()));
            }
            // A content core, or another program's: no drive begins there.
            Err(_) => {
                let core = store.core_of(&key, dialect).ok();
                let missing = core.and_then(|core| store.known_damage(&core));
                contents.extend(missing.iter().filter_map(|_| content_of(store, &key, dialect)));
                found.damaged.extend(missing.map(damaged));
            }
        }
    }
    found.damaged.extend(store.unknown_cores()?);
    // What is wrong with a content core is said of its drive.
    found.damaged.retain(|damaged| !contents.contains(&damaged.discovery_key));
    Ok(found)
}

/// The keys of the drives of a store whose index this encryption key opens, and nothing without it.
///
/// # Errors
/// `TooManyCores`, `Locked`, `Storage`.
pub fn drives_opened_by(store: &Store, encryption_key: &[u8; 32]) -> Result<Vec<PublicKey>> {
    let mut found = Vec::new();
    for (key, dialect) in store.stored_cores()? {
        let core = store.core_of(&key, dialect)?;
        let begins_drive = |core: &Core| match core.get_local(0) {
            Ok(Some(block)) => FirstBlock::decode(core, &block).is_ok(),
            _ => false,
        };
        if !begins_drive(&core) && core.unlock(encryption_key)? && begins_drive(&core) {
            found.push(key);
        }
        store.give_up(core);
    }
    Ok(found)
}

/// The content core of a damaged drive: what its header says or, of a writable drive, what derives
/// from its key.
fn content_of(store: &Store, key: &PublicKey, dialect: Dialect) -> Option<DiscoveryKey> {
    let core = store.core_of(key, dialect).ok();
    let header = core.as_ref().and_then(|core| core.get_local(0).ok().flatten());
    let named = core
        .zip(header)
        .and_then(|(core, block)| IndexLog::content_named_by(&core, &block).ok()?);
    let derived = || match dialect {
        Dialect::Legacy => Some(store.key_named(content_name(key).as_bytes())),
        Dialect::Modern => derived_content_key(&store.core_of(key, dialect).ok()?),
    };
    let content = named.or_else(derived);
    content.map(|content| content.discovery_key())
}
