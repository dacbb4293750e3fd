//! Cores of Hypercore 10 and 11 in a store: below `cores/`, as Corestore 6 lays them out.
//!
//! ```text
//! <root>/cores/<dk[0:2]>/<dk[2:4]>/<dk>/{oplog,tree,data,bitfield}     and `name` where the key pair derives from one
//! ```
//!
//! One key may name a core of each kind until a peer proves one of them. Not here: what is in the files
//! (`hypercore/`).

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::closing::Kept;
use super::lock::FileLock;
use super::name_file::{read_name, write_name};
use super::owner::CORES;
use super::{Origin, Store, core_directory, failed, remember, survey, sync_ancestors};
use crate::error::{Error, Result};
use crate::hypercore::storage::{Disk, Storage};
use crate::hypercore::{Core, CoreName, Dialect, Opening, StopReason, stored_key};
use crate::private_files;
use hypermount_swarm::crypto::{DiscoveryKey, KeyPair, PublicKey};

/// The file with the key and the head of such a core.
const OPLOG: &str = "oplog";

impl Store {
    /// The core of this kind with this key, opened once and shared; made (read-only, empty) if absent.
    ///
    /// # Errors
    /// Those of [`Store::core`].
    pub fn core_of(&self, key: &PublicKey, dialect: Dialect) -> Result<Core> {
        self.open_core(dialect, key, Origin::default(), None)
    }

    /// The core of Hypercore 11 that `pair` alone signs; writable. For tests: no file keeps the pair.
    #[doc(hidden)]
    pub fn modern_core_with_pair(&self, pair: &KeyPair) -> Result<Core> {
        let key = Dialect::Modern.key_of(pair);
        let origin = Origin { pair: Some(pair.clone()), ..Origin::default() };
        self.open_core(Dialect::Modern, &key, origin, None)
    }

    /// The kind of this core of which at least one block has been stored here, if there is one.
    ///
    /// # Errors
    /// `Storage`.
    pub fn stored_dialect(&self, key: &PublicKey) -> Result<Option<Dialect>> {
        for dialect in [Dialect::Legacy, Dialect::Modern] {
            let name = CoreName { dialect, discovery_key: key.discovery_key() };
            let open = self.inner.cores.lock().get(&name).cloned();
            let stored = match open {
                Some(core) => core.head().length > 0 || core.is_own(),
                None => self.is_stored(&name),
            };
            if stored {
                return Ok(Some(dialect));
            }
        }
        Ok(None)
    }

    /// Keys and kinds of all cores on disk (in memory: of all that were opened).
    ///
    /// # Errors
    /// `Storage`.
    pub fn stored_cores(&self) -> Result<Vec<(PublicKey, Dialect)>> {
        let legacy = self.keys()?.into_iter().map(|key| (key, Dialect::Legacy));
        let modern = self.modern_keys()?.into_iter().map(|key| (key, Dialect::Modern));
        Ok(legacy.chain(modern).collect())
    }

    fn modern_keys(&self) -> Result<Vec<PublicKey>> {
        let Some(root) = &self.inner.root else {
            return Ok(self.open_keys(Dialect::Modern));
        };
        // The files of a core that was just fetched do not name it yet.
        let mut keys = self.open_keys(Dialect::Modern);
        let folder = root.join(CORES);
        if !folder.is_dir() {
            return Ok(keys);
        }
        for discovery_key in survey(&folder)? {
            let oplog = core_directory(&folder, &discovery_key).join(OPLOG);
            let stored = match stored_key(&oplog) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                stored => stored,
            };
            match stored {
                Ok(Some(key)) if keys.contains(&key) => {}
                Ok(Some(key)) if key.discovery_key() == discovery_key => keys.push(key),
                Ok(None) => {
                    // One of ours whose head is damaged or lost is known by its name.
                    let directory = core_directory(&folder, &discovery_key);
                    let named = read_name(&directory)?.map(|name| self.modern_key(&name));
                    let new = |key: &PublicKey| {
                        key.discovery_key() == discovery_key && !keys.contains(key)
                    };
                    keys.extend(named.filter(new));
                }
                Ok(Some(_)) => log::warn!("{}: of another core", oplog.display()),
                Err(error) => return Err(failed("read", &oplog)(error)),
            }
        }
        Ok(keys)
    }

    pub(super) fn open_keys(&self, dialect: Dialect) -> Vec<PublicKey> {
        let cores = self.cores().into_iter().filter(|core| core.dialect() == dialect);
        cores.map(|core| *core.key()).collect()
    }

    fn modern_key(&self, name: &[u8]) -> PublicKey {
        Dialect::Modern.key_of(&self.derive(Dialect::Modern, name))
    }

    /// The core with this discovery key, of either kind, if it is open or on disk.
    pub(super) fn find_any(&self, key: &DiscoveryKey) -> Result<Option<Core>> {
        for dialect in [Dialect::Modern, Dialect::Legacy] {
            let found = self.find_named(&CoreName { dialect, discovery_key: *key })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The core with this name, if it is open or on disk; opens it in the latter case.
    pub(crate) fn find_named(&self, name: &CoreName) -> Result<Option<Core>> {
        if let Some(core) = self.inner.cores.lock().get(name) {
            return Ok(Some(core.clone()));
        }
        if name.dialect == Dialect::Legacy {
            return self.find(&name.discovery_key);
        }
        let Some(root) = &self.inner.root else { return Ok(None) };
        let oplog = core_directory(&root.join(CORES), &name.discovery_key).join(OPLOG);
        match stored_key(&oplog) {
            Ok(Some(key)) if key.discovery_key() == name.discovery_key => {
                self.core_of(&key, Dialect::Modern).map(Some)
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &oplog)(error)),
        }
    }

    /// Whether files of the core are on disk that hold more than nothing.
    fn is_stored(&self, name: &CoreName) -> bool {
        let Some(root) = &self.inner.root else { return false };
        let holds = |path: PathBuf, nothing: u64| {
            std::fs::metadata(path).is_ok_and(|found| found.len() > nothing)
        };
        match name.dialect {
            Dialect::Legacy => {
                let directory = core_directory(root, &name.discovery_key);
                // The header of a file of hashes takes 32 bytes.
                holds(directory.join("tree"), 32)
            }
            Dialect::Modern => {
                let directory = core_directory(&root.join(CORES), &name.discovery_key);
                // One of ours has a name, whatever became of its files.
                holds(directory.join(OPLOG), 0) || holds(directory.join("name"), 0)
            }
        }
    }

    /// Opens a core of Hypercore 10 and 11 in its directory.
    pub(super) fn open_modern(
        &self,
        root: &Path,
        key: &PublicKey,
        Origin { pair, name, manifest }: Origin<'_>,
        stop: Option<StopReason>,
    ) -> Result<Core> {
        let writable = self.inner.writable;
        let directory = core_directory(&root.join(CORES), &key.discovery_key());
        if writable {
            private_files::directory(&directory).map_err(failed("create", &directory))?;
        } else if self.is_foreign() && !directory.join(OPLOG).exists() {
            return self.open_in_memory(Dialect::Modern, key, Origin::default(), false);
        } else if !directory.is_dir() {
            return Err(Error::ReadOnly("the store's medium"));
        }
        let oplog = directory.join(OPLOG);
        let keep = match writable {
            true => {
                let lock = FileLock::take_modern_core(&oplog)?;
                Kept::new(&directory, Some(lock), self.inner.lock.clone())
            }
            // A program may have opened the core alone.
            false if self.is_foreign() => {
                let lock = FileLock::share(&oplog)?;
                Kept::of_foreign(&directory, lock, self.inner.lock.clone())
            }
            false => Kept::new(&directory, None, self.inner.lock.clone()),
        };
        let own = !self.is_foreign();
        let stored_name = if own { read_name(&directory)? } else { None };
        if writable && pair.is_some() && !matches!(stored_key(&oplog), Ok(Some(_))) {
            sync_ancestors(&directory, 4)?;
        }
        if let Some(name) = name.filter(|_| writable)
            && stored_name.as_deref() != Some(name)
        {
            write_name(&directory, name)?;
        }
        // The pair is in the oplog as well, unless that is damaged.
        let named = stored_name.map(|name| self.derive(Dialect::Modern, &name));
        let pair = pair.or(named.filter(|pair| Dialect::Modern.key_of(pair) == *key));
        let marks = self.inner.marks.as_ref();
        let stop = stop.or_else(|| marks.and_then(|marks| marks.known_stop(&key.discovery_key())));
        Core::open(Opening {
            directory: &directory,
            open_file: &|file| {
                let path = directory.join(file);
                let disk = if writable { Disk::new(path, 0o600) } else { Disk::read_only(path) };
                Ok(Box::new(disk) as Box<dyn Storage>)
            },
            key: *key,
            dialect: Dialect::Modern,
            pair,
            store_pair: own,
            manifest,
            writable,
            adopted: self.is_of_another_program(),
            cache: Arc::clone(&self.inner.cache),
            keep: Some(Arc::new(keep) as Arc<dyn Any + Send + Sync>),
            stop,
            on_stop: self.inner.marks.clone().map(remember),
        })
    }
}
