//! The owner of a store: the one user that may write it and read it.
//!
//! A store belongs to the user that owns its `master_key`. Every file of it has mode 0600 and every
//! directory 0700. Root does not write the store of another user: the files it made would be root's,
//! which locks the owner out, and the owner could have planted links for root to follow.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, User, geteuid};

use super::{MASTER_KEY, OWN_PREFIX, SCRATCH, directories, failed};
use crate::error::{Error, Result};
use crate::private_files;

/// The folder of the cores of Hypercore 10 and 11 in a store.
pub(super) const CORES: &str = "cores";

/// What this process may do with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    /// It is another user's, or on a medium that cannot be written.
    Read,
}

/// What the user of this process may do with the store in `directory`, which exists.
pub(super) fn access(directory: &Path, create: bool) -> Result<Access> {
    let above = fs::metadata(directory).map_err(failed("stat", directory))?.uid();
    let key = fs::symlink_metadata(directory.join(MASTER_KEY)).ok();
    let user = geteuid().as_raw();
    let is_new = create && key.is_none();
    let owner = match key {
        Some(key) => key.uid(),
        // A directory of root's that this user may write, such as a volume, is made their store.
        None if is_new && is_trusted(above, user) => user,
        None => above,
    };
    let medium = statvfs(directory).map_err(|errno| failed("statvfs", directory)(errno.into()))?;
    if medium.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(Access::Read);
    }
    if owner == user && is_trusted(above, user) {
        return Ok(Access::Write);
    }
    if owner == user || user == 0 || is_new {
        let owner = if owner == user { above } else { owner };
        return Err(not_owner(directory, owner));
    }
    Ok(Access::Read)
}

/// Refuses to make a store, as root, in a directory of another user's.
pub(super) fn may_create(directory: &Path) -> Result<()> {
    let user = geteuid().as_raw();
    let absolute = std::path::absolute(directory).map_err(failed("find", directory))?;
    let above = absolute.ancestors().skip(1).find_map(|above| fs::metadata(above).ok());
    match above {
        Some(above) if user == 0 && !is_trusted(above.uid(), user) => {
            Err(not_owner(directory, above.uid()))
        }
        _ => Ok(()),
    }
}

/// Whether the owner of a directory may replace what this user makes in it: root always can.
fn is_trusted(owner: u32, user: u32) -> bool {
    owner == user || owner == 0
}

fn not_owner(directory: &Path, owner: u32) -> Error {
    let name = User::from_uid(Uid::from_raw(owner)).ok().flatten().map(|user| user.name);
    Error::NotOwner { path: directory.to_owned(), owner: name.unwrap_or(format!("uid {owner}")) }
}

/// Names the owner of a file that this user cannot open.
pub(super) fn explain(error: io::Error, path: &Path) -> Error {
    let other = fs::symlink_metadata(path).ok().map(|found| found.uid());
    match other.filter(|other| *other != geteuid().as_raw()) {
        Some(other) if error.kind() == io::ErrorKind::PermissionDenied => not_owner(path, other),
        _ => failed("open", path)(error),
    }
}

/// Closes to others what an older version, or another program, left open in the store. Directories
/// below the store's own are closed after what is in them, so that one that is closed need not be
/// looked into.
pub(super) fn close_to_others(root: &Path) {
    if let Err(error) = close_all(root) {
        log::warn!("{error}; other users may be able to read this store");
    }
}

fn close_all(root: &Path) -> Result<()> {
    let close = |path: &Path| private_files::close(path).map_err(failed("chmod", path));
    for entry in fs::read_dir(root).map_err(failed("list", root))? {
        let entry = entry.map_err(failed("list", root))?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(OWN_PREFIX));
        if ours || name == MASTER_KEY {
            close(&entry.path())?;
        }
    }
    let scratch = root.join(SCRATCH);
    if is_open_directory(&scratch) {
        close_files(&scratch)?;
        close(&scratch)?;
    }
    close_cores(root)?;
    let folder = root.join(CORES);
    if is_open_directory(&folder) {
        close_cores(&folder)?;
        close(&folder)?;
    }
    Ok(())
}

/// Closes the directories of the cores of one kind.
fn close_cores(folder: &Path) -> Result<()> {
    let close = |path: &Path| private_files::close(path).map_err(failed("chmod", path));
    for first in directories(folder, 2)? {
        if !is_open_directory(&first) {
            continue;
        }
        for second in directories(&first, 2)? {
            for core in directories(&second, 64)? {
                close_files(&core)?;
                close(&core)?;
            }
            close(&second)?;
        }
        close(&first)?;
    }
    Ok(())
}

fn close_files(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        match private_files::close(&path) {
            // A temporary file that was renamed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed.map_err(failed("chmod", &path))?,
        }
    }
    Ok(())
}

fn is_open_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.mode() & 0o077 != 0)
}
