//! A file per mount that names the process that holds it, locked while that process lives. The lock shows
//! `unmount` when the store is free again, and distinguishes a record that a crash left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::directories;
use crate::failure::{Context, Failure, Result};

/// How often a waiter looks whether the holder has gone.
const POLL: Duration = Duration::from_millis(20);
/// The most of a record that is read; the rest of the file is not ours.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub pid: u32,
    #[serde(with = "crate::path_text")]
    pub mountpoint: PathBuf,
    /// `hyper://KEY[+VERSION]`; empty for a mount of all drives.
    pub url: String,
    /// Directory of the store it is mounted from.
    #[serde(default)]
    #[serde(with = "crate::path_text")]
    pub store: PathBuf,
    /// Version of the drive when it was mounted.
    pub version: u64,
    pub read_only: bool,
    /// Where it answers peers, if it does.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// The log of the process; `None` in the foreground.
    #[serde(with = "crate::path_text::optional", default)]
    pub log: Option<PathBuf>,
    /// The directory at the mount point, if hypermount made it.
    #[serde(default)]
    pub made: Option<MadeDirectory>,
}

/// Identifies a directory that was made to be mounted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeDirectory {
    pub inode: u64,
    /// When it was created, in nanoseconds since the epoch, where the file system keeps that.
    pub created: Option<u64>,
}

/// A record in force; dropping it removes it.
pub struct Held {
    _lock: Flock<File>,
    /// The file to remove; `None` if it is to stay.
    path: Option<PathBuf>,
}

impl Held {
    /// Leaves the record behind, as a killed process does.
    pub fn leave(mut self) {
        self.path = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Left behind it would be stale, which readers notice by the missing lock.
            let _ = fs::remove_file(path);
        }
    }
}

impl Record {
    /// Writes the record into `state` and locks it.
    pub fn hold(&self, state: &Path) -> Result<Held> {
        let path = record_path(state, &self.mountpoint)?;
        let what = || format!("record the mount in {}", path.display());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = hypermount_core::private::open(&path, &options).context(what)?;
        let mut lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
                Failure::failed(
                    format!("mount on {}", self.mountpoint.display()),
                    format!("another hypermount process holds it ({errno})"),
                )
                .hint("unmount it first")
            })?;
        let text = serde_json::to_vec(self).map_err(io::Error::other).context(what)?;
        lock.set_len(0).and_then(|()| lock.write_all(&text)).context(what)?;
        Ok(Held { _lock: lock, path: Some(path) })
    }

    /// The record of a mount point, if there is one, in force or stale.
    pub fn read(state: &Path, mountpoint: &Path) -> Option<Self> {
        let file = File::open(record_path(state, mountpoint).ok()?).ok()?;
        let mut text = Vec::new();
        file.take(MAX_RECORD_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The record of the mount that a path is in, and the path within it. Begins at the root directory and
    /// never accesses the mount, which may hang.
    pub fn containing(state: &Path, path: &Path) -> Option<(Self, PathBuf)> {
        let path = std::path::absolute(path).ok()?;
        let outwards: Vec<_> = path.ancestors().collect();
        outwards.into_iter().rev().find_map(|ancestor| {
            let record = Self::read(state, &absolute(ancestor).ok()?)?;
            Some((record, path.strip_prefix(ancestor).ok()?.to_owned()))
        })
    }

    /// Whether it is of a mount of all drives.
    pub fn is_of_all(&self) -> bool {
        self.url.is_empty()
    }

    /// Removes the record that a killed process left. One in force stays.
    pub fn clear(state: &Path, mountpoint: &Path) {
        let Ok(path) = record_path(state, mountpoint) else { return };
        let Ok(file) = File::open(&path) else { return };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            // Left there, it would be noticed as stale.
            let _ = fs::remove_file(&path);
        }
    }

    /// Waits until no process holds the mount point, at most `limit`. Returns whether none does.
    pub fn wait_released(state: &Path, mountpoint: &Path, limit: Duration) -> bool {
        let Ok(path) = record_path(state, mountpoint) else {
            return true;
        };
        let deadline = Instant::now() + limit;
        while held(&path) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

fn held(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_err(),
        Err(_) => false,
    }
}

/// Named by a hash: a mount point may be longer than a file name can be.
fn record_path(state: &Path, mountpoint: &Path) -> Result<PathBuf> {
    let directory = state.join("mounts");
    directories::private_directory(&directory)?;
    let hash = hypermount_swarm::crypto::blake2b(&[mountpoint.as_os_str().as_bytes()]);
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(directory.join(format!("{name}.json")))
}

/// The absolute form of a mount point without asking the file system mounted there, which may be
/// dead: only its parent is resolved.
pub fn absolute(mountpoint: &Path) -> io::Result<PathBuf> {
    match (mountpoint.parent(), mountpoint.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let resolved = fs::canonicalize(parent)?.join(name);
            // A symbolic link to the mount point counts as the mount point.
            match fs::symlink_metadata(&resolved) {
                Ok(metadata) if metadata.is_symlink() => fs::canonicalize(resolved),
                _ => Ok(resolved),
            }
        }
        _ => fs::canonicalize(mountpoint), // `/`, `..`, `.`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(mountpoint: &Path) -> Record {
        Record {
            pid: 7,
            mountpoint: mountpoint.to_owned(),
            url: "hyper://00".into(),
            store: "/store".into(),
            version: 3,
            read_only: true,
            address: None,
            log: None,
            made: None,
        }
    }

    #[test]
    fn a_record_is_in_force_while_it_is_held() {
        let state = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/drive");
        let held = record(mountpoint).hold(state.path()).unwrap();
        assert_eq!(Record::read(state.path(), mountpoint), Some(record(mountpoint)));
        assert!(!Record::wait_released(state.path(), mountpoint, Duration::ZERO));
        assert!(record(mountpoint).hold(state.path()).is_err(), "held twice");
        drop(held);
        assert!(Record::wait_released(state.path(), mountpoint, Duration::ZERO));
        assert_eq!(Record::read(state.path(), mountpoint), None);
    }

    #[test]
    fn a_record_without_a_lock_is_not_in_force() {
        let state = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/drive");
        let path = record_path(state.path(), mountpoint).unwrap();
        fs::write(path, serde_json::to_vec(&record(mountpoint)).unwrap()).unwrap();
        assert!(Record::wait_released(state.path(), mountpoint, Duration::ZERO));
        assert!(record(mountpoint).hold(state.path()).is_ok());
    }

    #[test]
    fn a_record_that_is_left_stays_and_is_not_in_force() {
        let state = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/drive");
        record(mountpoint).hold(state.path()).unwrap().leave();
        assert_eq!(Record::read(state.path(), mountpoint), Some(record(mountpoint)));
        assert!(Record::wait_released(state.path(), mountpoint, Duration::ZERO));
    }

    #[test]
    fn a_mount_point_is_resolved_through_its_parent() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(real.join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", real.join("link")).unwrap();
        for spelling in ["mnt", "./mnt/", "link"] {
            assert_eq!(absolute(&real.join(spelling)).unwrap(), real.join("mnt"), "{spelling}");
        }
        assert!(absolute(&real.join("none/mnt")).is_err());
    }
}
