//! Closing cores that are not in use, so that neither publishers that name drives nor peers that ask
//! for cores take all file descriptors.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::broadcast;

use super::lock::FileLock;
use super::{Inner, Store};
use crate::error::{Error, Result};
use crate::hypercore::{Core, CoreName, HANDLES_OF_REPLICATOR};

/// Cores open at once before those are closed that are not in use and that no peer has opened.
pub(crate) const MAX_OPEN_CORES: usize = 64;
/// Cores open at once before some of those are closed that only peers use.
const MAX_GIVEN_CORES: usize = 512;
/// File descriptors that one core takes at most.
const DESCRIPTORS_PER_CORE: u64 = 6;
/// File descriptors that cores leave to connections, mounts and the commands of the user; half of the
/// limit, where the limit is less than twice this.
const RESERVED_DESCRIPTORS: u64 = 1024;
/// Bytes of a file of hashes or signatures that holds none.
const EMPTY_HEADER_BYTES: u64 = 32;

impl Store {
    /// Whether the core is open, and not only still held by those that gave it to peers.
    pub(crate) fn has_open(&self, key: &CoreName) -> bool {
        self.inner.cores.lock().contains_key(key)
    }

    /// Closes a core that could not be fetched, unless it is in use or a part of it is here.
    pub fn give_up(&self, core: Core) {
        let mut cores = self.inner.cores.lock();
        let empty = core.head().length == 0 && !core.is_own();
        if empty && self.inner.root.is_some() && core.uses() <= 1 {
            if let Some(kept) = core.kept::<Kept>() {
                kept.give_up(true);
            }
            let name = core.name();
            self.inner.close(&mut cores, &[name]);
        }
    }

    /// Every core that is closed from now on.
    pub(crate) fn closed(&self) -> broadcast::Receiver<CoreName> {
        self.inner.closed.subscribe()
    }
}

impl Inner {
    /// Closes cores that are not in use, so that one more can be opened: first those that no peer has
    /// opened, then, when there are more, some of the others.
    pub(super) fn make_room(&self, cores: &mut HashMap<CoreName, Core>) -> Result<()> {
        if self.root.is_none() || cores.len() < MAX_OPEN_CORES {
            return Ok(());
        }
        let unused = |cores: &HashMap<CoreName, Core>, most: usize| -> Vec<CoreName> {
            let unused =
                cores.iter().filter(|(_, core)| core.uses() == 0 && core.given_handles() <= most);
            unused.map(|(key, _)| *key).collect()
        };
        let idle = unused(cores, HANDLES_OF_REPLICATOR);
        self.close(cores, &idle);
        let most = most_cores();
        if cores.len() >= most.min(MAX_GIVEN_CORES) {
            // Not all at once: peers would open them again.
            let mut given = unused(cores, usize::MAX);
            given.truncate(given.len().div_ceil(4));
            self.close(cores, &given);
        }
        match cores.len() < most {
            true => Ok(()),
            false => Err(Error::TooManyCores { open: cores.len() }),
        }
    }

    /// Lets go of cores; those that gave them to peers are told to do so, too.
    pub(super) fn close(&self, cores: &mut HashMap<CoreName, Core>, keys: &[CoreName]) {
        let closed: Vec<Core> = keys.iter().filter_map(|key| cores.remove(key)).collect();
        self.sync_and_mark(&closed);
        let mut closing = self.closing.lock();
        closing.retain(|_, core| !core.is_gone());
        closing.extend(closed.iter().map(|core| (core.name(), core.downgrade())));
        // Closing files takes locks that come before this one.
        drop(closing);
        for core in closed {
            let _ = self.closed.send(core.name());
        }
    }
}

/// Whether it was a lack of file descriptors: that says nothing about the core that was to be opened.
pub fn lacks_descriptors(error: &Error) -> bool {
    match error {
        Error::TooManyCores { .. } => true,
        Error::Storage { source, .. } => {
            let errnos = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
            errnos.contains(&source.raw_os_error())
        }
        _ => false,
    }
}

/// Cores that may be open at once.
fn most_cores() -> usize {
    // Where it is not known, as many as are usual at least.
    let allowed = getrlimit(Resource::RLIMIT_NOFILE);
    let allowed = allowed.map_or(1024, |(soft, _)| soft);
    let left = allowed.saturating_sub(RESERVED_DESCRIPTORS.min(allowed / 2));
    usize::try_from(left / DESCRIPTORS_PER_CORE).unwrap_or(usize::MAX).max(MAX_OPEN_CORES)
}

/// What a core on disk keeps alive.
pub(super) struct Kept {
    directory: PathBuf,
    /// No peer had it when it was looked for.
    given_up: AtomicBool,
    lock: Option<FileLock>,
    /// Of a core of another program.
    _shared: Option<FileLock>,
    _store: Option<Arc<FileLock>>,
}

impl Kept {
    pub(super) fn new(
        directory: &Path,
        lock: Option<FileLock>,
        store: Option<Arc<FileLock>>,
    ) -> Self {
        let given_up = AtomicBool::new(false);
        Self { directory: directory.to_owned(), given_up, lock, _shared: None, _store: store }
    }

    /// Of a core of another program, of which nothing is ever removed.
    pub(super) fn of_foreign(
        directory: &Path,
        shared: FileLock,
        store: Option<Arc<FileLock>>,
    ) -> Self {
        let mut kept = Self::new(directory, None, store);
        kept._shared = Some(shared);
        kept
    }

    /// Whether no peer has the core, so that its files need not stay.
    pub(super) fn give_up(&self, given_up: bool) {
        self.given_up.store(given_up, Ordering::Relaxed);
    }
}

/// A core that was given up leaves no files if none of its blocks has come since: keys that a publisher
/// names in its drive must not fill the disk with directories.
impl Drop for Kept {
    fn drop(&mut self) {
        if !*self.given_up.get_mut() || self.lock.is_none() {
            return;
        }
        let is_empty = |file: &str, header: u64| {
            fs::metadata(self.directory.join(file)).map_or(true, |found| found.len() <= header)
        };
        let nothing = is_empty("data", 0)
            && is_empty("signatures", EMPTY_HEADER_BYTES)
            && is_empty("tree", EMPTY_HEADER_BYTES)
            && is_empty("oplog", 0);
        if !nothing || !is_empty("name", 0) || !is_empty("secret_key", 0) {
            return;
        }
        // The lock is on the last one.
        for file in ["data", "signatures", "tree", "key", "bitfield", "oplog"] {
            // What is not there need not be removed.
            let _ = fs::remove_file(self.directory.join(file));
        }
        // It stays if another program has put a file there.
        let _ = fs::remove_dir(&self.directory);
    }
}
