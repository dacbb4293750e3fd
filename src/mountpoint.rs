//! The directory that a drive is mounted on: finding it, making it if it is absent, removing it again.
//! Also the messages for a failed mount or unmount.
//!
//! Only the last component is made: a mistyped parent is an error, not a new tree. A mount covers the
//! directory, so its mode is 0700: other users need no access to what lies below the mount. Only a
//! directory that hypermount made is removed, and only while it is empty.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use drivefs::{MountError, UnmountError, UnmountMode};

use crate::failure::{Context, Failure, Result};
use crate::model::How;
use crate::record::{self, MadeDirectory};

/// Mode of a directory that is made.
const MODE: u32 = 0o700;

/// The absolute path of a mount point. Its parent has to exist.
pub fn absolute(mountpoint: &Path) -> Result<PathBuf> {
    record::absolute(mountpoint).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let failure = Failure::failed(format!("mount on {}", mountpoint.display()), error);
        match mountpoint.parent().filter(|_| missing) {
            Some(parent) => {
                failure.hint(format!("make the directory above it: mkdir -p {}", parent.display()))
            }
            None => failure,
        }
    })
}

/// Fails if the mount point is known to be unusable before a drive is opened.
pub fn check(mountpoint: &Path) -> Result {
    let what = || format!("mount on {}", mountpoint.display());
    match mountpoint.metadata() {
        // A killed process left its mount there; mounting replaces it.
        Err(error) if is_dead(&error) => Ok(()),
        // It is made when the drive is open.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        metadata if metadata.as_ref().is_ok_and(|found| !found.is_dir()) => {
            Err(Failure::failed(what(), "it is not a directory"))
        }
        metadata => metadata.map(drop).context(what),
    }
}

/// Whether there is a directory, or a mount, dead or not.
pub fn is_there(mountpoint: &Path) -> bool {
    fs::symlink_metadata(mountpoint).map_or_else(|error| is_dead(&error), |_| true)
}

fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

/// Makes the mount point; `None` if there is one already.
pub fn make(mountpoint: &Path) -> Result<Option<Made>> {
    let what = || format!("make the directory {}", mountpoint.display());
    match DirBuilder::new().mode(MODE).create(mountpoint) {
        Ok(()) => {
            let directory = identity(&fs::symlink_metadata(mountpoint).context(what)?);
            Ok(Some(Made { path: mountpoint.to_owned(), directory }))
        }
        // A dead mount answers ENOTCONN, or that something is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || is_dead(&error) => Ok(None),
        Err(error) => Err(error).context(what),
    }
}

/// A mount point that hypermount made. Dropping it removes the directory, unless it is not empty, still
/// mounted on, or another directory by now.
pub struct Made {
    path: PathBuf,
    pub directory: MadeDirectory,
}

impl Made {
    /// A mount point that an earlier process made, by its record; `None` if that is not certain.
    pub fn earlier(mountpoint: &Path, directory: MadeDirectory) -> Option<Self> {
        let is_ours = match fs::symlink_metadata(mountpoint) {
            Ok(found) => identity(&found) == directory,
            // The mount that the record is about.
            Err(error) => is_dead(&error),
        };
        is_ours.then(|| Self { path: mountpoint.to_owned(), directory })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| found.is_dir() && identity(&found) == self.directory)
            && let Err(error) = fs::remove_dir(&self.path)
        {
            log::warn!("{} is left: {error}", self.path.display());
        }
    }
}

/// Distinguishes a directory from a later one at the same path, which may have the same inode number.
fn identity(found: &Metadata) -> MadeDirectory {
    let created = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let created = created.and_then(|at| u64::try_from(at.as_nanos()).ok());
    MadeDirectory { inode: found.ino(), created }
}

/// The failure of a mount, with its remedy.
pub fn cannot_mount(error: MountError) -> Failure {
    let hint = match &error {
        MountError::Missing { path } => Some(format!("mkdir {}", path.display())),
        MountError::NotEmpty { .. } => Some("mount on an empty directory".into()),
        MountError::AlreadyMounted { path, .. } => {
            Some(format!("hypermount unmount {}", path.display()))
        }
        _ => None,
    };
    let failure = Failure::failed("mount", error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Unmounts in the kernel. May block.
pub fn unmount(mountpoint: &Path, how: How) -> Result {
    let mode = match how {
        How::Normal => UnmountMode::Normal,
        How::Lazy => UnmountMode::Lazy,
        How::Force => UnmountMode::Force,
    };
    drivefs::unmount(mountpoint, mode).map_err(cannot_unmount)
}

/// The failure of an unmount, with its remedy.
fn cannot_unmount(error: UnmountError) -> Failure {
    let busy = matches!(error, UnmountError::Busy { .. });
    let failure = Failure::failed("unmount", error);
    if busy {
        return failure.hint("end them, or use --lazy (they keep what is open) or --force");
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_mount_point_is_made_for_its_user_and_removed_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mnt");
        let made = make(&path).unwrap().expect("there was none");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(make(&path).unwrap().is_none(), "there is one");
        drop(made);
        assert!(!path.exists());
        assert!(make(&parent.path().join("no/mnt")).is_err(), "only the last component is made");
    }

    #[test]
    fn a_foreign_or_nonempty_directory_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mnt");
        let made = make(&path).unwrap().unwrap();
        fs::write(path.join("file"), "").unwrap();
        drop(made);
        assert!(path.join("file").exists(), "not empty");
        fs::remove_dir_all(&path).unwrap();

        let made = make(&path).unwrap().unwrap();
        fs::remove_dir(&path).unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        fs::create_dir(&path).unwrap();
        drop(made);
        assert!(path.exists(), "another directory");
    }

    #[test]
    fn a_directory_of_an_earlier_process_is_known_by_its_record() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mnt");
        let directory = make(&path).unwrap().unwrap().forget_for_test();
        assert!(Made::earlier(&path, MadeDirectory { inode: 0, ..directory }).is_none());
        assert!(path.exists(), "it is not the one that was made");
        drop(Made::earlier(&path, directory));
        assert!(!path.exists());
    }

    impl Made {
        fn forget_for_test(self) -> MadeDirectory {
            let directory = self.directory;
            std::mem::forget(self);
            directory
        }
    }
}
