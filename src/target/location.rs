//! The store of a named drive, and the drive's name in the API. Decided before any store is opened.

use std::path::{Path, PathBuf};

use hypermount_drive::DrivePath;

use super::{ONLY, Target};
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::source::Source;
use crate::values::drive_url;

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
