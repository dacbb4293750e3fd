//! The encryption keys of drives that this machine may read: one file per drive below `hypermount.keys/`, which
//! no other user can open. Those of drives in the store of another program are kept elsewhere.
//!
//! Not here: what a key decrypts (`hypercore/unlock.rs`), and asking for one.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{FOREIGN, Store, StoreKind, failed};
use crate::error::{Error, Result};
use crate::private_files;
use hypermount_swarm::crypto::{self, PublicKey};
use hypermount_swarm::sync::{Mutex, Rank};

/// The folder of the keys in a store.
const FOLDER: &str = "hypermount.keys";

/// What the file of a key is called besides, after another key was given for its drive and before that has opened it.
const BEFORE: &str = "before";

/// Where the keys of an open store are.
pub(super) struct EncryptionKeys {
    /// Of a store in memory.
    here: Mutex<HashMap<PublicKey, [u8; 32]>>,
    /// The directory that has them instead of the store.
    elsewhere: OnceLock<PathBuf>,
}

impl Default for EncryptionKeys {
    fn default() -> Self {
        Self { here: Mutex::new(Rank::LEAF, HashMap::new()), elsewhere: OnceLock::new() }
    }
}

/// Keeps the encryption key of the drive `drive` in `directory`, which may be a store that is open in another
/// process. Another one that is kept for it is set aside, until [`Store::settle_encryption_key`] or
/// [`Store::withdraw_encryption_key`] tells which of them is right.
///
/// # Errors
/// `Storage`; `ReadOnly` for a store of another program.
pub fn keep_encryption_key(directory: &Path, drive: &PublicKey, key: &[u8; 32]) -> Result<()> {
    if StoreKind::of(directory).is_some_and(|kind| kind != StoreKind::Own) {
        return Err(Error::ReadOnly(FOREIGN));
    }
    let folder = directory.join(FOLDER);
    private_files::directory(&folder).map_err(failed("create", &folder))?;
    let path = file_of(directory, drive);
    let before = path.with_extension(BEFORE);
    let kept = kept_encryption_key(directory, drive)?;
    if kept.is_some_and(|kept| kept != *key) && !before.exists() {
        fs::rename(&path, &before).map_err(failed("rename", &path))?;
    }
    private_files::replace(&path, key).map_err(failed("write", &path))
}

/// The encryption key of the drive `drive` that is kept in `directory`.
///
/// # Errors
/// `Storage`, and `Corrupt` for a file that holds no key.
pub fn kept_encryption_key(directory: &Path, drive: &PublicKey) -> Result<Option<[u8; 32]>> {
    let path = file_of(directory, drive);
    match fs::read(&path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => Ok(Some(key)),
            Err(bytes) => Err(Error::Corrupt {
                core: drive.discovery_key(),
                file: FOLDER,
                at: 0,
                what: format!("{} has {} bytes instead of 32", path.display(), bytes.len()),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// The name tells the drive to no reader of the directory that does not have its key.
fn file_of(directory: &Path, drive: &PublicKey) -> PathBuf {
    directory.join(FOLDER).join(drive.discovery_key().to_hex())
}

impl Store {
    /// The encryption key that is kept for this drive: what [`kept_encryption_key`] finds.
    ///
    /// # Errors
    /// `Storage`, and `Corrupt` for a file that holds no key.
    pub fn encryption_key(&self, drive: &PublicKey) -> Result<Option<[u8; 32]>> {
        match self.encryption_key_directory() {
            Some(directory) => kept_encryption_key(directory, drive),
            None => Ok(self.inner.encryption_keys.here.lock().get(drive).copied()),
        }
    }

    /// The encryption key that is kept for this drive has opened it: one that was kept before is forgotten.
    ///
    /// # Errors
    /// `Storage`.
    pub fn settle_encryption_key(&self, drive: &PublicKey) -> Result<()> {
        let Some(root) = self.encryption_key_directory() else { return Ok(()) };
        let before = file_of(root, drive).with_extension(BEFORE);
        match fs::remove_file(&before) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &before)(error))
            }
            _ => Ok(()),
        }
    }

    /// The encryption key that is kept for this drive of another publisher is wrong: it is forgotten, and one that was
    /// kept before is kept again.
    ///
    /// # Errors
    /// `Storage`.
    pub fn withdraw_encryption_key(&self, drive: &PublicKey) -> Result<()> {
        let Some(root) = self.encryption_key_directory() else {
            self.inner.encryption_keys.here.lock().remove(drive);
            return Ok(());
        };
        let path = file_of(root, drive);
        let before = path.with_extension(BEFORE);
        match fs::rename(&before, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::remove_file(&path).map_err(failed("remove", &path))
            }
            renamed => renamed.map_err(failed("rename", &before)),
        }
    }

    fn encryption_key_directory(&self) -> Option<&Path> {
        let elsewhere = self.inner.encryption_keys.elsewhere.get();
        elsewhere.map(PathBuf::as_path).or_else(|| self.root())
    }

    /// Reads the encryption keys from this directory from now on: nothing is kept in the store of another program.
    pub fn find_encryption_keys_in(&self, directory: &Path) {
        let _ = self.inner.encryption_keys.elsewhere.set(directory.to_owned());
    }

    /// Keeps a random encryption key for this drive, unless there is one: something may have been encrypted with that.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_encryption_key(&self, drive: &PublicKey) -> Result<()> {
        if self.encryption_key(drive)?.is_some() {
            return Ok(());
        }
        let folder = self.root().unwrap_or(Path::new("")).join(FOLDER);
        let key = crypto::random_bytes().map_err(failed("generate a key in", &folder))?;
        self.keep_encryption_key(drive, &key)
    }

    /// Keeps the encryption key of a drive.
    ///
    /// # Errors
    /// `Storage`.
    pub fn keep_encryption_key(&self, drive: &PublicKey, key: &[u8; 32]) -> Result<()> {
        match self.root() {
            Some(root) => keep_encryption_key(root, drive, key),
            None => {
                self.inner.encryption_keys.here.lock().insert(*drive, *key);
                Ok(())
            }
        }
    }
}
