//! The key of a named drive, found in the opened store.

use std::path::Path;

use hypermount_core::Store;
use hypermount_drive::{DrivePath, DriveUrl};

use super::Target;
use crate::failure::{Context, Failure, Result};
use crate::stored::drives;
use crate::values::drive_url;

impl Target {
    /// The URL of the drive in `store`, which is the one in `directory`.
    pub async fn resolve(&self, store: &Store, directory: &Path) -> Result<DriveUrl> {
        match self {
            Target::Url(url) => Ok(url.clone()),
            Target::Directory(directory) => only_drive(store, directory).await,
            Target::Name(name) => named_drive(store, name, directory),
        }
    }
}

/// The key of a drive created here derives from its name.
fn named_drive(store: &Store, name: &str, directory: &Path) -> Result<DriveUrl> {
    match store.named_key(name.as_bytes()).context(|| format!("find the drive {name}"))? {
        Some(key) => Ok(DriveUrl { key, version: None, path: DrivePath::root() }),
        None => Err(no_such_name(name, directory)),
    }
}

pub(super) fn no_such_name(name: &str, directory: &Path) -> Failure {
    let why = format!("no drive of that name in {}", directory.display());
    let failure = Failure::failed(format!("open the drive {name}"), why);
    if Path::new(name).is_dir() {
        return failure.hint(format!(
            "the directory {name} here is not a store: a store contains a file master_key or \
             primary-key"
        ));
    }
    failure
        .hint(format!("list the drives: hypermount list; or create it: hypermount create {name}"))
}

async fn only_drive(store: &Store, directory: &Path) -> Result<DriveUrl> {
    let what = || format!("find the drive in {}", directory.display());
    let key = match store.default_key().context(what)? {
        Some(key) => key,
        None => {
            let found = drives(store).await.context(what)?;
            match found.as_slice() {
                [only] => *only,
                [] => return Err(Failure::failed(what(), "there is no drive in it")),
                several => {
                    let names: Vec<_> = several.iter().map(|key| drive_url(key, None)).collect();
                    return Err(Failure::usage(
                        what(),
                        format!("there are {} drives in it", several.len()),
                    )
                    .hint(format!("name one of them, with --store: {}", names.join(" "))));
                }
            }
        }
    };
    Ok(DriveUrl { key, version: None, path: DrivePath::root() })
}
