//! What a daemon restores after a restart: mounts to make, drives to seed. One file per store, in the
//! user's state directory and not in the store: a store that another user made, or a copy of a store,
//! must not cause mounts here.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::{MountRequest, SeedRequest};
use crate::presence::name_of;

/// The most of the file that is read, in bytes.
const MAX_STATE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The store that this state belongs to, for readers of the file.
    #[serde(default)]
    #[serde(with = "crate::path_text")]
    pub store: PathBuf,
    #[serde(default)]
    pub mounts: Vec<MountRequest>,
    #[serde(default)]
    pub seeds: Vec<SavedSeed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedSeed {
    /// `hyper://KEY`.
    pub url: String,
    #[serde(flatten)]
    pub how: SeedRequest,
}

impl PartialEq for SavedSeed {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Saved {
    /// The saved state of the store; empty if none was saved. A file that cannot be parsed is an
    /// error, so that it is not overwritten.
    pub fn load(store: &Path) -> Result<Self> {
        let path = match path_of(store) {
            Ok(path) => path,
            // Nothing can have been saved there, and saving fails too.
            Err(failure) => {
                log::info!("no mount or seed is remembered: {}", failure.sentence());
                return Ok(Self { store: store.to_owned(), ..Self::default() });
            }
        };
        Ok(Self::read(&path)?
            .unwrap_or_else(|| Self { store: store.to_owned(), ..Self::default() }))
    }

    /// The saved state in a file; `None` if there is no such file.
    fn read(path: &Path) -> Result<Option<Self>> {
        let what = || format!("read {}", path.display());
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(what),
        };
        let mut text = Vec::new();
        file.take(MAX_STATE_BYTES).read_to_end(&mut text).context(what)?;
        let saved = serde_json::from_slice(&text).map_err(|error| {
            Failure::failed(what(), error)
                .hint("it holds saved mounts and seeds; correct it, or move it away to start without them")
        });
        saved.map(Some)
    }

    /// The stores whose daemons mount something at `mountpoint` when they start, running or not.
    pub fn stores_with_mount_at(mountpoint: &Path) -> Result<Vec<PathBuf>> {
        let directory = directory()?;
        let what = || format!("read {}", directory.display());
        let mut stores = Vec::new();
        for entry in fs::read_dir(&directory).context(what)? {
            let path = entry.context(what)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match Self::read(&path) {
                Ok(Some(saved)) if saved.has_mount_at(mountpoint) => stores.push(saved.store),
                Ok(_) => {}
                Err(failure) => log::warn!("{}", failure.sentence()),
            }
        }
        Ok(stores)
    }

    /// Whether something is mounted there after a restart.
    pub fn has_mount_at(&self, mountpoint: &Path) -> bool {
        self.mounts.iter().any(|mount| mount.mountpoint == mountpoint)
    }

    /// Removes a mount from what is restored.
    pub fn forget_mount(&mut self, mountpoint: &Path) {
        self.mounts.retain(|mount| mount.mountpoint != mountpoint);
    }

    /// Written whole or not at all. It holds keys of drives: for this user only.
    pub fn save(&self, store: &Path) -> Result {
        let path = path_of(store)?;
        let what = || format!("write {}", path.display());
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other).context(what)?;
        hypermount_core::private_files::replace(&path, &text).context(what)
    }
}

/// Where the daemon of this store keeps its state.
fn path_of(store: &Path) -> Result<PathBuf> {
    Ok(directory()?.join(format!("{}.json", name_of(store))))
}

fn directory() -> Result<PathBuf> {
    let directory = directories::state_directory()?.join("daemons");
    directories::private_directory(&directory)?;
    Ok(directory)
}
