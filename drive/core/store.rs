//! The cores of one directory (corestore 5 layout), and the locks on it (corestore5.md §1-§3).
//!
//! ```text
//! <root>/master_key                      32 random bytes: every core of ours derives from them
//! <root>/hypermount.lock                 held while a process has the store open
//! <root>/hypermount.mark                 where the store lies and how long our cores were (`mark.rs`)
//! <root>/scratch/                        changes that are not part of a drive yet
//! <root>/<dk[0:2]>/<dk[2:4]>/<dk>/…      one directory per core, by discovery key
//! <root>/cores/<dk[0:2]>/…               the same for cores of Hypercore 10 and 11 (`kinds.rs`)
//! ```
//!
//! A directory of Corestore 6 is read, and if adopted written, where it lies (`foreign.rs`).
//!
//! Not here: which cores make a drive (`drive/drive/hyperdrive.rs`), and what is in a core's files
//! (`hypercore/`).

mod closing;
mod encryption_keys;
mod foreign;
mod healing;
mod kinds;
mod lock;
mod mark;
mod name_file;
mod names;
mod owner;
mod turns;

use std::any::Any;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::error::{Error, Result};
use crate::hypercore::cache::{BlockCache, DEFAULT_CACHE_BYTES};
use crate::hypercore::storage::{Disk, Memory, Storage};
use crate::hypercore::{Core, CoreName, Dialect, OnStop, Opening, StopReason, WeakCore};
use crate::private_files;
use closing::Kept;
use hypermount_swarm::crypto::{self, DiscoveryKey, KeyPair, PublicKey};
use hypermount_swarm::sync::{Mutex, Rank};
use lock::FileLock;
use mark::Marks;
use name_file::{has_name, read_name, write_name};

#[cfg(test)]
pub(crate) use closing::MAX_OPEN_CORES;
pub use closing::lacks_descriptors;
use encryption_keys::EncryptionKeys;
pub use encryption_keys::{keep_encryption_key, kept_encryption_key};
use foreign::FOREIGN;
pub use foreign::StoreKind;
pub use healing::DamagedCore;
pub use healing::content_name;
pub use mark::MachineIdentity;
use owner::Access;
pub use turns::{Turns, View};

/// Name of the core that `hyperdrive("dir")` uses for its metadata.
const DEFAULT_NAME: &[u8] = b"default";
/// Bytes of the longest name of a core that is read back.
pub(crate) const MAX_NAME_LENGTH: usize = 1024;
/// Opened cores a slow subscriber may be behind before it loses the oldest.
pub(crate) const MAX_PENDING_OPENED: usize = 1024;
/// Named cores looked at to see whether the master key belongs to them.
const MAX_NAMES_CHECKED: usize = 16;
const MASTER_KEY: &str = "master_key";
/// What it is called while it is written.
const NEW_KEY: &str = "master_key.new";
const LOCK_FILE: &str = "hypermount.lock";
/// The names of all files of ours in the root of a store begin so, but for the master key.
const OWN_PREFIX: &str = "hypermount.";
const SCRATCH: &str = "scratch";

/// Room on the volume that holds the store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Of the volume.
    pub total: u64,
    /// Free for this user.
    pub available: u64,
}

struct Inner {
    /// `None` for a store in memory.
    root: Option<PathBuf>,
    master_key: [u8; 32],
    /// The program that it belongs to.
    kind: StoreKind,
    writable: bool,
    cache: Arc<BlockCache>,
    cores: Mutex<HashMap<CoreName, Core>>,
    opened: broadcast::Sender<Core>,
    closed: broadcast::Sender<CoreName>,
    /// Closed, but still held by those that gave them to peers. Locked with `cores`.
    closing: Mutex<HashMap<CoreName, WeakCore>>,
    wanted: broadcast::Sender<DiscoveryKey>,
    encryption_keys: EncryptionKeys,
    /// Of the drives with this metadata core that are open.
    turns: Mutex<HashMap<DiscoveryKey, Weak<Turns>>>,
    /// `None` in memory and on a medium that cannot be written. That of another program's store is shared.
    lock: Option<Arc<FileLock>>,
    /// `None` in memory and on a medium that cannot be written.
    marks: Option<Arc<Marks>>,
}

/// A cheap handle on one open store. Dropping the last one, and the last core, releases it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens (or, with `create`, makes) the store in `directory` and takes its lock. On a medium
    /// that cannot be written it is opened for reading, without a lock. A store of Corestore 6 is opened with that
    /// program's own lock: for reading, unless it was adopted.
    ///
    /// # Errors
    /// `NotAStore`, `OtherProgram`, `NotOwner`, `Locked`, `ReadOnly`, `Storage`.
    pub fn open(directory: &Path, create: bool) -> Result<Self> {
        Self::open_as(directory, create, &MachineIdentity::here(None))
    }

    /// As [`Store::open`]; `identity` also names the place of the marks outside of the store. A store that
    /// was copied here, or is an older state of itself, opens with none of its cores writable; the
    /// reason is in [`Store::stop_reasons`].
    pub fn open_as(directory: &Path, create: bool, identity: &MachineIdentity) -> Result<Self> {
        let refused = |why: String| Error::NotAStore { path: directory.to_owned(), why };
        match fs::metadata(directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(refused("not a directory".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                owner::may_create(directory)?;
                private_files::directory(directory).map_err(failed("create", directory))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused("no such directory".to_owned()));
            }
            Err(error) => return Err(failed("stat", directory)(error)),
        }
        if let Some(kind) = StoreKind::of(directory).filter(|kind| *kind != StoreKind::Own) {
            return Self::open_foreign(directory, kind, identity);
        }
        let access = owner::access(directory, create)?;
        if access == Access::Write && create_or_store(directory, create)? {
            // Before anything else: until then other users can take the lock.
            private_files::directory(directory).map_err(failed("chmod", directory))?;
        }
        let master_key = read_master_key(directory)?;
        if master_key.is_none() && !create {
            return Err(refused(format!("it has no {MASTER_KEY}")));
        }
        if master_key.is_none() && !is_unused(directory)? {
            return Err(refused(format!("it holds other files and no {MASTER_KEY}")));
        }
        let lock = match access {
            Access::Write => FileLock::take_store(&directory.join(LOCK_FILE), directory)?,
            Access::Read => None,
        };
        let lock = lock.map(Arc::new);
        let writable = lock.is_some();
        if writable {
            owner::close_to_others(directory);
        } else {
            log::info!("{}: cannot be written, opened for reading", directory.display());
        }
        let master_key = match read_master_key(directory)? {
            Some(master_key) => master_key,
            None if writable => create_master_key(directory)?,
            None => return Err(Error::ReadOnly("the medium for the new store")),
        };
        check_master_key(directory, &master_key)?;
        let marks = match writable {
            true => Some(Arc::new(Marks::open(directory, &master_key, identity)?)),
            false => None,
        };
        if let Some(stop) = marks.as_ref().and_then(|marks| marks.stop()) {
            log::warn!("{}: read-only: {}", directory.display(), stop.reason());
        }
        Ok(Self::new(Some(directory.to_owned()), master_key, lock, marks, StoreKind::Own))
    }

    /// A store without a disk.
    pub fn memory() -> Self {
        let master_key =
            crypto::random_bytes().expect("the operating system has a working random generator");
        Self::new(None, master_key, None, None, StoreKind::Own)
    }

    fn new(
        root: Option<PathBuf>,
        master_key: [u8; 32],
        lock: Option<Arc<FileLock>>,
        marks: Option<Arc<Marks>>,
        kind: StoreKind,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                writable: root.is_none() || marks.is_some(),
                root,
                master_key,
                cache: Arc::new(BlockCache::new(DEFAULT_CACHE_BYTES)),
                cores: Mutex::new(Rank::STORE, HashMap::new()),
                opened: broadcast::Sender::new(MAX_PENDING_OPENED),
                closed: broadcast::Sender::new(MAX_PENDING_OPENED),
                closing: Mutex::new(Rank::LEAF, HashMap::new()),
                wanted: broadcast::Sender::new(MAX_PENDING_OPENED),
                encryption_keys: EncryptionKeys::default(),
                turns: Mutex::new(Rank::LEAF, HashMap::new()),
                lock,
                marks,
            }),
        }
    }

    /// The core of Hypercore 9 with this key, opened once and shared; made (read-only, empty) if absent.
    /// Writable if the store has its name or its secret key.
    ///
    /// # Errors
    /// `TooManyCores`, `Locked`, those of [`Core::open`].
    pub fn core(&self, key: &PublicKey) -> Result<Core> {
        self.open_core(Dialect::Legacy, key, Origin::default(), None)
    }

    /// The core of a key pair that is not derived from the master key; its secret key is stored.
    #[cfg(test)]
    pub(crate) fn core_with_pair(&self, pair: &KeyPair) -> Result<Core> {
        let origin = Origin { pair: Some(pair.clone()), ..Origin::default() };
        self.open_core(Dialect::Legacy, &pair.public_key(), origin, None)
    }

    /// The core of Hypercore 9, if it is open or on disk; opens it in the latter case.
    fn find(&self, key: &DiscoveryKey) -> Result<Option<Core>> {
        let name = CoreName { dialect: Dialect::Legacy, discovery_key: *key };
        if let Some(core) = self.inner.cores.lock().get(&name) {
            return Ok(Some(core.clone()));
        }
        match self.stored_key(key)? {
            Some(key) => self.core(&key).map(Some),
            None => Ok(None),
        }
    }

    /// Keys of all cores of Hypercore 9 on disk (in memory: of all that were opened).
    ///
    /// # Errors
    /// `Storage`.
    pub fn keys(&self) -> Result<Vec<PublicKey>> {
        let Some(root) = &self.inner.root else {
            return Ok(self.open_keys(Dialect::Legacy));
        };
        let mut keys = Vec::new();
        for discovery_key in survey(root)? {
            keys.extend(self.stored_key(&discovery_key)?);
        }
        Ok(keys)
    }

    /// All cores open now.
    pub fn cores(&self) -> Vec<Core> {
        self.inner.cores.lock().values().cloned().collect()
    }

    /// Topics of the drives that are, from now on, opened to be read from peers.
    pub(crate) fn drives_wanted(&self) -> broadcast::Receiver<DiscoveryKey> {
        self.inner.wanted.subscribe()
    }

    /// The drive with this metadata core is opened, and the caller would wait for peers.
    pub fn want_drive(&self, topic: DiscoveryKey) {
        // There is no receiver where there is no discovery.
        let _ = self.inner.wanted.send(topic);
    }

    /// Every core opened from now on.
    pub(crate) fn opened(&self) -> broadcast::Receiver<Core> {
        self.inner.opened.subscribe()
    }

    /// Makes everything stored so far in any open core survive a power cut.
    ///
    /// # Errors
    /// `Storage`, of the first core that failed.
    pub fn sync(&self) -> Result<()> {
        let cores = self.cores();
        cores.iter().try_for_each(Core::sync)?;
        self.inner.mark(cores.iter())
    }

    /// The directory; `None` for a store in memory.
    pub fn root(&self) -> Option<&Path> {
        self.inner.root.as_deref()
    }

    /// Why cores of ours open read-only, if any do.
    ///
    /// # Errors
    /// Those of [`Store::core`].
    pub fn stop_reasons(&self) -> Result<StopReasons> {
        let Some(marks) = &self.inner.marks else {
            return Ok(StopReasons::default());
        };
        let mut cores = marks.stops();
        for key in marks.cores() {
            let known = cores.iter().any(|(known, _)| *known == key);
            let sound = self.find_any(&key)?.is_some_and(|core| core.stopped() == marks.stop());
            if !known && !sound {
                cores.push((key, StopReason::Restored));
            }
        }
        Ok(StopReasons { store: marks.stop(), cores })
    }

    /// Makes this store, as it is now, the one to go on with; what was open stays read-only until
    /// the store is opened again. With `force` also where a peer is known to hold more than is here,
    /// which forks those drives for good.
    ///
    /// # Errors
    /// `ReadOnly`, `Forked` without `force`, `Storage`.
    pub fn adopt(&self, force: bool) -> Result<()> {
        let Some(marks) = &self.inner.marks else {
            let medium = "the store's medium cannot be written";
            return Err(Error::ReadOnly(if self.is_foreign() { FOREIGN } else { medium }));
        };
        for (key, stop) in self.stop_reasons()?.cores {
            let StopReason::Behind { length } = stop else { continue };
            let here = self.find_any(&key)?.map_or(0, |core| core.head().length);
            if here < length && !force {
                return Err(Error::Forked {
                    core: key,
                    what: format!("a peer holds {length} blocks of it, and here are {here}"),
                });
            }
        }
        let mut ours = Vec::new();
        for (key, dialect) in self.stored_cores()? {
            let core = self.core_of(&key, dialect)?;
            if core.writable() || core.stopped().is_some() {
                core.sync()?;
                ours.push(core);
            }
        }
        marks.adopt(&ours)
    }

    /// Room on the volume that holds the store (`statvfs(3)`); without limit for a store in memory.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn space(&self) -> Result<Space> {
        let Some(root) = &self.inner.root else {
            return Ok(Space { total: u64::MAX, available: u64::MAX });
        };
        let found = nix::sys::statvfs::statvfs(root)
            .map_err(|errno| failed("statvfs", root)(errno.into()))?;
        // The widths of these fields differ between systems.
        #[allow(clippy::useless_conversion)]
        let (unit, total, available) = (
            u64::from(found.fragment_size()),
            u64::from(found.blocks()),
            u64::from(found.blocks_available()),
        );
        Ok(Space { total: total.saturating_mul(unit), available: available.saturating_mul(unit) })
    }

    /// Where changes wait that are not part of a drive yet. It may not exist. A store without a
    /// disk has one of its own among the system's temporary files.
    pub fn scratch_directory(&self) -> PathBuf {
        match &self.inner.root {
            Some(root) => root.join(SCRATCH),
            None => std::env::temp_dir().join(format!("hypermount-{}", std::process::id())),
        }
    }

    fn open_core(
        &self,
        dialect: Dialect,
        key: &PublicKey,
        origin: Origin<'_>,
        stop: Option<StopReason>,
    ) -> Result<Core> {
        let discovery_key = key.discovery_key();
        let core_name = CoreName { dialect, discovery_key };
        let mut cores = self.inner.cores.lock();
        if let Some(core) = cores.get(&core_name) {
            let missed = core.stopped().is_none() && !core.writable();
            if origin.pair.is_some() && missed && self.inner.writable {
                return Err(Error::Unsupported(format!(
                    "core {discovery_key} is open for reading; writing takes a fresh start"
                )));
            }
            return Ok(core.clone());
        }
        let closing = self.inner.closing.lock().remove(&core_name);
        if let Some(core) = closing.and_then(|core| core.upgrade()) {
            if let Some(kept) = core.kept::<Kept>() {
                kept.give_up(false);
            }
            cores.insert(core_name, core.clone());
            let _ = self.inner.opened.send(core.clone());
            return Ok(core);
        }
        self.inner.make_room(&mut cores)?;
        let core = match (&self.inner.root, dialect) {
            (Some(_), Dialect::Legacy) if self.is_of_another_program() => {
                Err(Error::ReadOnly(FOREIGN))
            }
            (Some(root), Dialect::Legacy) => {
                let directory = core_directory(root, &discovery_key);
                self.open_on_disk(&directory, key, origin, stop)
            }
            (Some(root), Dialect::Modern) => self.open_modern(root, key, origin, stop),
            (None, _) => self.open_in_memory(dialect, key, origin, true),
        }?;
        if let Some(marks) = self.inner.marks.as_ref().filter(|_| core.writable())
            && !marks.holds(&core)?
        {
            let missing =
                self.known_damage(&core).map_or(String::new(), |what| format!(" ({what})"));
            log::error!(
                "core {discovery_key}: read-only: {}{missing}",
                StopReason::Restored.reason()
            );
            core.stop(StopReason::Restored);
        }
        cores.insert(core_name, core.clone());
        let _ = self.inner.opened.send(core.clone());
        Ok(core)
    }

    /// A core that no file keeps. One that is not `writable` stays empty.
    fn open_in_memory(
        &self,
        dialect: Dialect,
        key: &PublicKey,
        origin: Origin<'_>,
        writable: bool,
    ) -> Result<Core> {
        Core::open(Opening {
            directory: Path::new("memory"),
            open_file: &|_| Ok(Box::new(Memory::default()) as Box<dyn Storage>),
            key: *key,
            dialect,
            pair: origin.pair,
            store_pair: false,
            manifest: origin.manifest,
            writable,
            adopted: false,
            cache: Arc::clone(&self.inner.cache),
            keep: None,
            stop: None,
            on_stop: None,
        })
    }

    fn open_on_disk(
        &self,
        directory: &Path,
        key: &PublicKey,
        Origin { pair, name, .. }: Origin<'_>,
        stop: Option<StopReason>,
    ) -> Result<Core> {
        let writable = self.inner.writable;
        let discovery_key = key.discovery_key();
        if writable {
            private_files::directory(directory).map_err(failed("create", directory))?;
        } else if !directory.is_dir() {
            return Err(Error::ReadOnly("the store's medium"));
        }
        // First of all: until the lock is ours, another program may be writing here.
        let lock = match writable {
            true => Some(FileLock::take_core(&directory.join("bitfield"))?),
            false => None,
        };
        if writable && !has_whole_key(directory, key) {
            sync_ancestors(directory, 3)?;
        }
        let stored_name = read_name(directory)?;
        let found = match name {
            Some(name) => Some(name.to_vec()),
            None if pair.is_none() => self.derived_name(key, stored_name.as_deref())?,
            None => None,
        };
        if let Some(name) = found.as_deref().filter(|_| writable)
            && stored_name.as_deref() != Some(name)
        {
            if directory.join("name").exists() {
                log::warn!("{}: name damaged, written again", directory.display());
            }
            write_name(directory, name)?;
        }
        let pair = match (pair, found.or(stored_name)) {
            (None, Some(name)) => Some(self.derive(Dialect::Legacy, &name)),
            (pair, _) => pair,
        };
        if pair.as_ref().is_some_and(|pair| pair.public_key() != *key) {
            return Err(Error::Corrupt {
                core: discovery_key,
                file: "name",
                at: 0,
                what: "Stored an incorrect name.".to_owned(),
            });
        }
        warn_if_readable(&directory.join("secret_key"));
        let keep = Kept::new(directory, lock, self.inner.lock.clone());
        Core::open(Opening {
            directory,
            open_file: &|file| {
                Ok(Box::new(Disk::new(directory.join(file), 0o600)) as Box<dyn Storage>)
            },
            key: *key,
            dialect: Dialect::Legacy,
            store_pair: pair.is_some() && name.is_none() && !has_name(directory),
            manifest: None,
            pair,
            writable,
            adopted: false,
            cache: Arc::clone(&self.inner.cache),
            keep: Some(Arc::new(keep) as Arc<dyn Any + Send + Sync>),
            stop: {
                let marks = self.inner.marks.as_ref();
                stop.or_else(|| marks.and_then(|marks| marks.known_stop(&discovery_key)))
            },
            on_stop: self.inner.marks.clone().map(remember),
        })
    }
}

/// Where a core of ours comes from.
#[derive(Default)]
struct Origin<'a> {
    pair: Option<KeyPair>,
    /// From which the pair derives.
    name: Option<&'a [u8]>,
    /// As [`Opening::manifest`].
    manifest: Option<Bytes>,
}

/// Why cores of ours are read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReasons {
    /// Concerns the whole store.
    pub store: Option<StopReason>,
    /// Concern single cores.
    pub cores: Vec<(DiscoveryKey, StopReason)>,
}

impl StopReasons {
    /// Whether no core of ours is read-only.
    pub fn is_clear(&self) -> bool {
        self.store.is_none() && self.cores.is_empty()
    }
}

impl Inner {
    /// Marks those of the cores that are ours; they must have been synced.
    fn mark<'a>(&self, cores: impl Iterator<Item = &'a Core>) -> Result<()> {
        let Some(marks) = &self.marks else {
            return Ok(());
        };
        for core in cores.filter(|core| core.writable()) {
            marks.record(core)?;
        }
        marks.save()
    }

    fn sync_and_mark(&self, cores: &[Core]) {
        let writable = cores.iter().filter(|core| core.writable());
        let synced = writable.clone().try_for_each(Core::sync);
        if let Err(error) = synced.and_then(|()| self.mark(writable)) {
            log::warn!("{error}; marked with the next change");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let cores: Vec<Core> = self.cores.lock().values().cloned().collect();
        self.sync_and_mark(&cores);
    }
}

/// Keeps a stopped core stopped after a restart.
fn remember(marks: Arc<Marks>) -> OnStop {
    Arc::new(move |core, stop| {
        if let Err(error) = marks.record_stop(core.discovery_key(), stop) {
            log::error!("{error}; this will be forgotten at the next start");
        }
    })
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Storage { op, path: path.to_owned(), source }
}

fn core_directory(root: &Path, discovery_key: &DiscoveryKey) -> PathBuf {
    let name = discovery_key.to_hex();
    root.join(&name[..2]).join(&name[2..4]).join(&name)
}

/// `None` when there is none; an error when there is one that cannot be right.
fn read_master_key(directory: &Path) -> Result<Option<[u8; 32]>> {
    let path = directory.join(MASTER_KEY);
    let cores = || survey(directory).map(|cores| cores.len());
    let refused = |why: String| Error::NotAStore { path: directory.to_owned(), why };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match cores()? {
                0 => Ok(None),
                count => Err(refused(format!(
                    "its {MASTER_KEY} is missing beside {count} cores; put it back from a backup"
                ))),
            };
        }
        Err(error) => return Err(failed("read", &path)(error)),
    };
    // A crash while the reference made the store can leave an empty file and nothing else.
    if bytes.is_empty() && cores()? == 0 {
        return Ok(None);
    }
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(master_key) if master_key != [0; 32] => {
            warn_if_readable(&path);
            Ok(Some(master_key))
        }
        _ => Err(refused(format!(
            "its {MASTER_KEY} is damaged ({} bytes{}); put it back from a backup",
            bytes.len(),
            if bytes.len() == 32 { ", all zero" } else { " instead of 32" },
        ))),
    }
}

/// Whether nothing but what we ourselves leave behind is in the directory.
fn is_unused(directory: &Path) -> Result<bool> {
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let name = entry.map_err(failed("list", directory))?.file_name();
        // Of a process that makes a store here at this moment, or was killed while it did.
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with(OWN_PREFIX) || name == MASTER_KEY || name == NEW_KEY
        });
        if !ours && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the directory is a store, or is to become one.
fn create_or_store(directory: &Path, create: bool) -> Result<bool> {
    Ok(directory.join(MASTER_KEY).exists() || create && is_unused(directory)?)
}

fn create_master_key(directory: &Path) -> Result<[u8; 32]> {
    let path = directory.join(MASTER_KEY);
    let master_key = crypto::random_bytes().map_err(failed("generate", &path))?;
    private_files::replace(&path, &master_key).map_err(failed("write", &path))?;
    Ok(master_key)
}

/// Refuses a master key that none of the named cores derives from: an empty drive would be shown.
fn check_master_key(directory: &Path, master_key: &[u8; 32]) -> Result<()> {
    let modern = directory.join(owner::CORES);
    let modern = modern.is_dir().then_some((Dialect::Modern, &*modern));
    let mut checked = 0;
    for (dialect, folder) in [(Dialect::Legacy, directory)].into_iter().chain(modern) {
        for discovery_key in survey(folder)? {
            let named = read_name(&core_directory(folder, &discovery_key))?;
            let Some(name) = named.filter(|_| checked < MAX_NAMES_CHECKED) else { continue };
            let pair = names::derive(dialect, master_key, &name);
            if dialect.key_of(&pair).discovery_key() == discovery_key {
                return Ok(());
            }
            checked += 1;
        }
    }
    if checked == 0 {
        return Ok(());
    }
    Err(Error::NotAStore {
        path: directory.to_owned(),
        why: format!(
            "its {MASTER_KEY} is damaged or another store's: none of its cores derive from it; \
             put it back from a backup"
        ),
    })
}

/// The discovery keys of all core directories.
fn survey(root: &Path) -> Result<Vec<DiscoveryKey>> {
    let mut found = Vec::new();
    for first in directories(root, 2)? {
        for second in directories(&first, 2)? {
            for core in directories(&second, 64)? {
                let name = core.file_name().and_then(|name| name.to_str());
                let key = name.and_then(DiscoveryKey::from_hex);
                found.extend(key.filter(|key| core_directory(root, key) == core));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The subdirectories with names of that many characters.
fn directories(parent: &Path, length: usize) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(failed("list", parent))? {
        let entry = entry.map_err(failed("list", parent))?;
        if entry.file_name().len() == length && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether the core's `key` file is as it is left when the core was made: its directories were synced
/// before.
fn has_whole_key(directory: &Path, key: &PublicKey) -> bool {
    fs::read(directory.join("key")).is_ok_and(|bytes| bytes == key.as_bytes())
}

/// Makes the directories of a core survive a power cut, up to the root of the store, `levels` above.
fn sync_ancestors(directory: &Path, levels: usize) -> Result<()> {
    for made in directory.ancestors().take(levels) {
        private_files::sync_parent(made).map_err(failed("sync the directory of", made))?;
    }
    Ok(())
}

fn warn_if_readable(path: &Path) {
    let Ok(found) = fs::metadata(path) else {
        return;
    };
    if found.mode() & 0o077 != 0 && found.len() > 0 {
        log::warn!("{}: others can read this secret; chmod 600 it", path.display());
    }
}

#[cfg(test)]
mod tests;
