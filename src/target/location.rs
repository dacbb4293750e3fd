//! The store of a named drive, and the drive's name in the API. Decided before any store is opened.

use std::io::{IsTerminal, Read, stdin};
use std::path::{Path, PathBuf};

use hypermount_core::{StoreKind, keep_encryption_key};
use hypermount_drive::{DrivePath, drives_opened_by};
use hypermount_swarm::PublicKey;

use super::{ONLY, Target};
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::source::Source;
use crate::stored::open_store;
use crate::values::drive_url;

/// Bytes of standard input in which a key is looked for.
const MAX_KEY_LINE: u64 = 1024;

/// A drive, the store it is in, and a path in the drive.
#[derive(Clone, Debug)]
pub struct Location {
    /// Directory of the store, absolute.
    pub store: PathBuf,
    /// The drive's name in the API.
    pub drive: String,
    /// Within the drive.
    pub path: DrivePath,
}

impl Location {
    /// Fails if two stores are named, or none can be found.
    pub fn of(target: &Target, source: &Source) -> Result<Self> {
        let store = store_directory(target, source)?;
        let (drive, path) = match target {
            Target::Url(url) => (drive_url(&url.key, url.version), url.path.clone()),
            Target::Directory(_) => (ONLY.to_owned(), DrivePath::root()),
            Target::Name(name) => (name.clone(), DrivePath::root()),
        };
        Ok(Self { store, drive, path })
    }

    /// Asks for the encryption key of the drive, if the command line says so, and keeps it: in the store, or in
    /// the user's state directory if the store is another program's.
    ///
    /// Fails for a drive that is not named by its URL, except in the store of another program: any number of
    /// commands can open that, so the drives that the key opens are looked for in it.
    pub fn keep_encryption_key(&self, target: &Target, source: &Source) -> Result {
        if !source.encryption_key {
            return Ok(());
        }
        let foreign = StoreKind::of(&self.store) == Some(StoreKind::Corestore6);
        let directory = if foreign { directories::state_directory()? } else { self.store.clone() };
        match target {
            Target::Url(url) => keep(&directory, &url.key, &ask_encryption_key()?),
            Target::Directory(_) if foreign => {
                let key = ask_encryption_key()?;
                for drive in self.opened_by(&key)? {
                    keep(&directory, &drive, &key)?;
                }
                Ok(())
            }
            Target::Directory(_) | Target::Name(_) => {
                let why = "name the drive by its URL";
                Err(Failure::usage("--encryption-key", why))
            }
        }
    }

    /// The drives in the store that an encryption key opens; fails if there is none.
    fn opened_by(&self, key: &[u8; 32]) -> Result<Vec<PublicKey>> {
        let what = || format!("find the drive in {}", self.store.display());
        let store = open_store(&self.store, false)?;
        let found = drives_opened_by(&store, key).context(what)?;
        if found.is_empty() {
            let why = "the encryption key is that of no drive in it";
            return Err(Failure::new(Code::Verification, what(), why));
        }
        Ok(found)
    }
}

fn keep(directory: &Path, drive: &PublicKey, key: &[u8; 32]) -> Result {
    let what = || format!("keep the encryption key in {}", directory.display());
    keep_encryption_key(directory, drive, key).context(what)
}

/// Asks for an encryption key.
fn ask_encryption_key() -> Result<[u8; 32]> {
    let what = || "read the encryption key".to_owned();
    let text = if stdin().is_terminal() {
        rpassword::prompt_password("Encryption key: ").context(what)?
    } else {
        let mut line = String::new();
        stdin().take(MAX_KEY_LINE).read_to_string(&mut line).context(what)?;
        line
    };
    let key = PublicKey::from_hex(text.trim()).ok_or_else(|| {
        Failure::usage(what(), "it is not 64 hex digits")
            .hint("it is the one the drive was made with")
    })?;
    Ok(*key.as_bytes())
}

/// The directory that was named, `--store`, or the default. Absolute, because a background process
/// leaves the directory it was started in.
fn store_directory(target: &Target, source: &Source) -> Result<PathBuf> {
    match (target, &source.store) {
        (Target::Directory(directory), None) => {
            std::path::absolute(directory).context(|| format!("find {}", directory.display()))
        }
        (Target::Directory(directory), Some(_)) => {
            let why = format!("{} names the store already", directory.display());
            Err(Failure::usage("--store", why).hint("with --store, name the drive by its URL"))
        }
        (Target::Url(_) | Target::Name(_), store) => directories::store(store.as_deref()),
    }
}

/// Whether an absent store is made: for a drive named by its key, if peers are asked for it.
pub fn may_create(target: &Target, source: &Source) -> Result<bool> {
    Ok(target.is_url() && source.asks_peers(true)?)
}

/// Fails if the drive can only be in a store that is absent and is not made.
pub fn check_store(target: &Target, directory: &Path, create: bool) -> Result {
    if create || directory.exists() {
        return Ok(());
    }
    match target {
        Target::Url(_) => {
            let why = format!("it is not in {} and no peer is asked for it", directory.display());
            Err(Failure::new(Code::Unavailable, format!("open {target}"), why)
                .hint("name a peer that has it with --peer HOST:PORT"))
        }
        Target::Name(name) => Err(super::resolve::no_such_name(name, directory)),
        Target::Directory(_) => Ok(()),
    }
}
