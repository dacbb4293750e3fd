//! Opening a store, and the drives that it holds.
//!
//! Not here: which of them a command means (`target/`), and opening a drive (`session.rs`).

use std::path::Path;

use hypermount_core::{MachineIdentity, Store};
use hypermount_drive::StoredDrives;
use hypermount_swarm::PublicKey;

use crate::directories;
use crate::failure::{Context, Result};
use crate::values::drive_url;

/// Opens the store, with its marks kept in the user's state directory. With `create` it is made if
/// absent.
pub fn open_store(directory: &Path, create: bool) -> Result<Store> {
    let state = directories::state_directory().ok();
    let store = Store::open_as(directory, create, &identity())
        .context(|| format!("open the store {}", directory.display()))?;
    if let Some(state) = state.filter(|_| store.is_of_another_program()) {
        store.find_encryption_keys_in(&state);
    }
    Ok(store)
}

/// What distinguishes this machine from others.
pub fn identity() -> MachineIdentity {
    MachineIdentity::here(directories::state_directory().ok().as_deref())
}

/// The drives of a store, its default drive first, and which of them are damaged.
pub async fn stored_drives_and_damage(store: &Store) -> hypermount_core::Result<StoredDrives> {
    let default = store.default_key()?;
    let mut found = hypermount_drive::stored_drives_and_damage(store).await?;
    found.drives.sort_by_key(|key| Some(*key) != default);
    Ok(found)
}

/// Keys of the drives of a store that can be opened, its default drive first. Logs which others are
/// damaged.
pub async fn drives(store: &Store) -> hypermount_core::Result<Vec<PublicKey>> {
    let found = stored_drives_and_damage(store).await?;
    for damaged in found.damaged {
        let name = damaged.key.map_or(damaged.discovery_key.to_hex(), |key| drive_url(&key, None));
        log::error!("{name}: damaged: {}; see `hypermount check`", damaged.why);
    }
    Ok(found.drives)
}

/// The name a drive was created with, where this store has it.
pub fn name_of(store: &Store, key: &PublicKey) -> hypermount_core::Result<Option<String>> {
    Ok(store.name_of(key)?.and_then(|name| String::from_utf8(name).ok()))
}
