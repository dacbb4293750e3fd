//! All drives in one mount: the drives with names, and the directory `Network`, in which a key
//! opens any drive.
//!
//! Each drive is an [`Fs`] with inode numbers of its own. The number of an inode tells which drive
//! it is in, and nothing is translated. This file keeps the open drives: a lookup opens a drive,
//! and a drive in `Network` is closed when it was not used for a while.
//!
//! The kernel keeps what it looked up, whether or not a program uses it. So the mount asks the
//! kernel to forget a drive that no process uses, and closes the drive when the kernel has done so.
//!
//! Not here: how a drive is opened, which the caller of the mount implements ([`Drives`]).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::sync::{Mutex, Rank, ReadGuard, RwLock, WriteGuard};
use hypermount_drive::{Drive, DriveUrl, Name, PublicKey, Store, Wait};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use crate::attr::{TTL_ABSENT_FOLLOWED, TTL_FOLLOWED};
use crate::errno::{Error, Result};
use crate::filesystem::{Fs, FsOptions, Looked, Part, usize_of};
use crate::handle::HandleTable;
use crate::inode::{MAX_SLOTS, Numbers, ROOT};
use crate::invalidate::{Invalidation, Invalidations};
use crate::journal::Journal;
use crate::listing::Listed;
use crate::mountpoint;

/// Most drives that one mount has open by their key. The next lookup closes one that is not in use,
/// or fails with ENFILE.
const MAX_BY_KEY: usize = 64;
/// How long an unused drive in `Network` stays open.
const KEY_DRIVE_IDLE: Duration = Duration::from_secs(300);
/// In fourths of the limit: when more drives than this are open by their key, those used least
/// recently are closed early.
const COMFORTABLE_FOURTHS: usize = 3;
/// The directory in which keys are looked up, and its inode number.
pub const NETWORK: &str = "Network";
const NETWORK_NUMBER: u64 = ROOT + 1;
/// Every user may see which drives have names. A user who can list `Network` can open what is in
/// it.
const TOP_MODE: u16 = 0o755;
const NETWORK_MODE: u16 = 0o700;

/// The future of a result about drives.
pub type DriveFuture<'a, T> =
    Pin<Box<dyn Future<Output = hypermount_drive::Result<T>> + Send + 'a>>;

/// How a mount finds and opens drives.
pub trait Drives: Send + Sync + 'static {
    /// The names of all drives that have one.
    fn names(&self) -> DriveFuture<'_, Vec<String>>;

    /// The drive with this name, and whether the mount must not change it; `None` if there is none.
    fn named<'a>(&'a self, name: &'a str) -> DriveFuture<'a, Option<(Drive, bool)>>;

    /// The drive of a key, at the version of the URL if it has one.
    ///
    /// # Errors
    ///
    /// Fails if no peer delivers the drive within `wait`.
    fn by_key<'a>(&'a self, url: &'a DriveUrl, wait: Wait) -> DriveFuture<'a, Drive>;

    /// This mount no longer shows a drive with this key, or has stopped looking for one.
    fn left(&self, key: &PublicKey);
}

/// Limits for the drives that are open by their key.
#[derive(Clone, Copy, Debug)]
pub struct RootLimits {
    /// Most drives that are open by their key; the default is 64.
    pub by_key: usize,
    /// How long an unused drive stays open; the default is 300 s.
    pub idle: Duration,
}

impl Default for RootLimits {
    fn default() -> Self {
        Self { by_key: MAX_BY_KEY, idle: KEY_DRIVE_IDLE }
    }
}

/// Starts to notify the kernel of changes in a drive that was just opened.
pub(crate) type Tell = Box<dyn Fn(&Arc<Fs>) + Send + Sync>;

/// What a name in the mount's own directories refers to.
enum Wanted {
    Network,
    Named(String),
    ByKey(DriveUrl),
}

/// The path of a drive that is open or being opened. Each caller that waits for the drive holds a
/// clone.
struct Spot {
    numbers: Numbers,
    by_key: bool,
    member: OnceCell<Arc<Member>>,
}

/// An open drive.
struct Member {
    fs: Arc<Fs>,
    by_key: bool,
    /// Lookups of the drive's root that the kernel holds.
    references: AtomicU64,
    /// Milliseconds from the start of the mount to the last request about anything in the drive.
    used: AtomicU64,
}

impl Member {
    /// Whether the kernel knows no inode of it.
    fn is_forgotten(&self) -> bool {
        self.references.load(Ordering::Acquire) == 0 && self.fs.load() == (1, 0)
    }
}

/// INVARIANT: no two spots have the same slot, and `slots` leads to existing spots.
#[derive(Default)]
struct State {
    /// By path within the mount.
    spots: HashMap<Arc<str>, Arc<Spot>>,
    slots: HashMap<u64, Arc<Member>>,
}

/// The names in one of the mount's own directories when it was opened.
pub(crate) struct Listing {
    names: Vec<(String, u64)>,
}

impl Listing {
    /// Passes the names from `offset` on to `add` until it returns that it is full.
    pub(crate) fn fill(&self, offset: u64, mut add: impl FnMut(&Listed<'_>) -> bool) {
        for (next, (name, shown)) in (1..).zip(&self.names).skip(usize_of(offset)) {
            let (shown, kind, ttl) = (*shown, FileType::Directory, Duration::ZERO);
            if add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl }) {
                return;
            }
        }
    }
}

/// A mount of all drives; see the module documentation.
pub struct Root {
    store: Store,
    drives: Arc<dyn Drives>,
    options: FsOptions,
    limits: RootLimits,
    runtime: Handle,
    mountpoint: PathBuf,
    state: RwLock<State>,
    listings: HandleTable<Listing>,
    journal: Arc<Journal>,
    invalidations: Arc<Invalidations>,
    tell: Mutex<Option<Tell>>,
    untidy: Arc<Notify>,
    tidying: Mutex<Option<AbortHandle>>,
    started: Instant,
    made: SystemTime,
}

impl Root {
    /// Makes a root that shows the drives of `drives`, for a mount at `mountpoint`.
    pub fn new(
        drives: Arc<dyn Drives>,
        store: Store,
        mountpoint: &Path,
        options: FsOptions,
        limits: RootLimits,
        runtime: Handle,
    ) -> Arc<Self> {
        let untidy = Arc::new(Notify::new());
        let root = Arc::new(Self {
            store,
            drives,
            options,
            limits,
            mountpoint: mountpoint.to_owned(),
            state: RwLock::new(Rank::ROOT, State::default()),
            listings: HandleTable::new(),
            journal: Arc::default(),
            invalidations: Arc::default(),
            tell: Mutex::new(Rank::ROOT_TELL, None),
            untidy: untidy.clone(),
            tidying: Mutex::default(),
            started: Instant::now(),
            made: SystemTime::now(),
            runtime,
        });
        let tidying = root.runtime.spawn(tidy(Arc::downgrade(&root), untidy, limits.idle / 4));
        *root.tidying.lock() = Some(tidying.abort_handle());
        root
    }

    /// Sets how the kernel is notified of changes. Call this before the first request.
    pub(crate) fn tell_by(&self, tell: Tell) {
        *self.tell.lock() = Some(tell);
    }

    fn state(&self) -> ReadGuard<'_, State> {
        self.state.read()
    }

    fn state_mut(&self) -> WriteGuard<'_, State> {
        self.state.write()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an inode is one of the mount's own directories.
    pub(crate) fn owns(ino: u64) -> bool {
        Numbers::slot_of(ino) == 0
    }

    /// Whether two inodes are in the same drive.
    pub(crate) fn are_together(one: u64, other: u64) -> bool {
        Numbers::slot_of(one) == Numbers::slot_of(other)
    }

    /// The path, within the mount, of one of the mount's own directories.
    pub(crate) fn path_of(&self, ino: u64) -> &'static str {
        if ino == NETWORK_NUMBER { NETWORK } else { "" }
    }

    /// The drive that an inode is in.
    ///
    /// # Errors
    ///
    /// If it is in none, fails with the error of an attempt to change the inode.
    pub(crate) fn drive_of(&self, ino: u64) -> Result<Arc<Fs>> {
        match ino {
            ROOT => Err(Error::NotPermitted("drives are made by `hypermount create`")),
            NETWORK_NUMBER => Err(Error::ReadOnly),
            _ => {
                let state = self.state();
                let member = state.slots.get(&Numbers::slot_of(ino)).ok_or(Error::Stale)?;
                member.used.store(self.now(), Ordering::Relaxed);
                Ok(member.fs.clone())
            }
        }
    }

    /// The open drives.
    pub(crate) fn open(&self) -> Vec<Arc<Fs>> {
        let mut open: Vec<_> = self.state().slots.values().map(|m| m.fs.clone()).collect();
        open.sort_by(|one, other| one.prefix().cmp(other.prefix()));
        open
    }

    /// The failed calls and the fetched bytes of the whole mount.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Notices about the mount's own directories.
    pub(crate) fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    /// The store of the drives.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Ends the background tasks.
    pub(crate) fn stop(&self) {
        let tidying = self.tidying.lock().take();
        if let Some(task) = tidying {
            task.abort();
        }
        // `tell` holds the connection to the kernel.
        drop(self.tell.lock().take());
        self.invalidations.close();
        for fs in self.open() {
            fs.invalidations().close();
        }
    }

    // Operations on the mount's own directories.

    fn attributes(&self, number: u64) -> FileAttr {
        let owner = self.options.owner;
        FileAttr {
            ino: INodeNo(number),
            size: 0,
            blocks: 0,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            crtime: self.made,
            kind: FileType::Directory,
            perm: if number == ROOT { TOP_MODE } else { NETWORK_MODE },
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The attributes of one of the mount's own directories, and how long the kernel may cache
    /// them.
    pub(crate) fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        match ino {
            ROOT | NETWORK_NUMBER => Ok((self.attributes(ino), TTL_FOLLOWED)),
            _ => Err(Error::Stale),
        }
    }

    /// What a name refers to, and its path in the mount. `None` if it cannot be the name of a drive
    /// or is not a key; then no peer is asked.
    fn wanted(parent: u64, name: &OsStr) -> Option<(Arc<str>, Wanted)> {
        let name = Name::of_file(name).ok()?;
        let name = name.as_str();
        match parent {
            ROOT if name == NETWORK => Some((NETWORK.into(), Wanted::Network)),
            ROOT => Some((name.into(), Wanted::Named(name.to_owned()))),
            NETWORK_NUMBER => {
                let url: DriveUrl = name.parse().ok()?;
                Some((format!("{NETWORK}/{name}").into(), Wanted::ByKey(url)))
            }
            _ => None,
        }
    }

    /// Looks up a name in one of the mount's own directories, which opens the drive of that name.
    pub(crate) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Looked> {
        let Some((path, wanted)) = Self::wanted(parent, name) else {
            return Ok(Looked::Absent { ttl: TTL_ABSENT_FOLLOWED });
        };
        if let Wanted::Network = wanted {
            let (ino, attributes) = (NETWORK_NUMBER, self.attributes(NETWORK_NUMBER));
            let (entry_ttl, attributes_ttl) = (TTL_FOLLOWED, TTL_FOLLOWED);
            return Ok(Looked::Found { ino, attributes, entry_ttl, attributes_ttl });
        }
        let key = match &wanted {
            Wanted::ByKey(url) => Some(url.key),
            Wanted::Named(_) | Wanted::Network => None,
        };
        let spot = self.spot(&path, key.is_some())?;
        let waiting = Waiting { root: self, spot: Some(spot), key, path };
        let Some(member) = waiting.open(&wanted).await? else {
            // A drive may be made at any time, and no notice tells the mount.
            return Ok(Looked::Absent { ttl: Duration::ZERO });
        };
        let ino = member.fs.root_number();
        let (attributes, attributes_ttl) = member.fs.getattr(ino).await?;
        member.used.store(self.now(), Ordering::Relaxed);
        member.references.fetch_add(1, Ordering::AcqRel);
        Ok(Looked::Found { ino, attributes, entry_ttl: TTL_FOLLOWED, attributes_ttl })
    }

    /// The spot of a path: the existing one, or a new one.
    ///
    /// # Errors
    ///
    /// Fails with `TooManyDrives` if all places are in use.
    fn spot(&self, path: &Arc<str>, by_key: bool) -> Result<Arc<Spot>> {
        let limit = self.limits.by_key;
        let closed = {
            let mut state = self.state_mut();
            if let Some(spot) = state.spots.get(path) {
                return Ok(spot.clone());
            }
            let full = by_key && state.by_key() >= limit;
            full.then(|| state.close_one())
        };
        if let Some(closed) = closed {
            self.untidy.notify_one();
            let key = closed.ok_or(Error::TooManyDrives { limit })?;
            self.note_left(&key);
        }
        let mut state = self.state_mut();
        // Another thread may have added it while the lock was free.
        if let Some(spot) = state.spots.get(path) {
            return Ok(spot.clone());
        }
        if by_key && state.by_key() >= limit {
            return Err(Error::TooManyDrives { limit });
        }
        let taken: HashSet<u64> =
            state.spots.values().map(|spot| Numbers::slot_of(spot.numbers.root())).collect();
        let first = Numbers::preferred_slot(path);
        let mut slots = (first..MAX_SLOTS).chain(1..first);
        let slot = slots.find(|slot| !taken.contains(slot));
        let slot = slot.ok_or(Error::TooManyDrives { limit: usize_of(MAX_SLOTS) })?;
        let numbers = Numbers::in_slot(slot);
        let spot = Arc::new(Spot { numbers, by_key, member: OnceCell::new() });
        state.spots.insert(path.clone(), spot.clone());
        Ok(spot)
    }

    /// Adds the drive to the mount.
    fn admit(&self, path: &Arc<str>, spot: &Spot, drive: Drive, read_only: bool) -> Arc<Member> {
        let options = FsOptions { read_only: read_only || self.options.read_only, ..self.options };
        let (numbers, journal) = (spot.numbers, self.journal.clone());
        let part = Part { prefix: path.clone(), numbers, journal };
        let fs = Fs::within(drive, self.store.clone(), options, self.runtime.clone(), part);
        if let Some(tell) = &*self.tell.lock() {
            tell(&fs);
        }
        let member = Arc::new(Member {
            fs,
            by_key: spot.by_key,
            references: AtomicU64::new(0),
            used: AtomicU64::new(self.now()),
        });
        let mut state = self.state_mut();
        state.slots.insert(Numbers::slot_of(numbers.root()), member.clone());
        if state.by_key() > self.comfortable() {
            self.untidy.notify_one();
        }
        member
    }

    fn comfortable(&self) -> usize {
        self.limits.by_key * COMFORTABLE_FOURTHS / 4
    }

    /// The kernel gives back `count` lookups of an inode in a drive.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let member = self.state().slots.get(&Numbers::slot_of(ino)).cloned();
        let Some(member) = member else { return };
        if ino == member.fs.root_number() {
            let less = |known: u64| Some(known.saturating_sub(count));
            let _ = member.references.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        } else {
            member.fs.forget(ino, count);
        }
        if member.by_key && member.is_forgotten() {
            self.untidy.notify_one();
        }
    }

    /// The names that a directory has now. In `Network`, these are the open drives.
    pub(crate) async fn opendir(&self, ino: u64) -> Result<u64> {
        let below = format!("{NETWORK}/");
        let named = |path: &str| (path.to_owned(), self.number_of(path));
        let names = match ino {
            ROOT => {
                let names = self.drives.names().await?;
                let usable =
                    names.iter().filter(|n| Name::new(n.as_str()).is_ok() && *n != NETWORK);
                let mut names: Vec<_> = usable.map(|name| named(name)).collect();
                names.push((NETWORK.to_owned(), NETWORK_NUMBER));
                names
            }
            NETWORK_NUMBER => {
                let open = self.open();
                let keys = open.iter().filter_map(|fs| fs.prefix().strip_prefix(&below));
                keys.map(|key| (key.to_owned(), self.number_of(&format!("{below}{key}")))).collect()
            }
            _ => return Err(Error::Stale),
        };
        let parent = if ino == ROOT { ROOT } else { NETWORK_NUMBER };
        let dots = [(".".to_owned(), parent), ("..".to_owned(), ROOT)];
        Ok(self.listings.insert(Listing { names: dots.into_iter().chain(names).collect() }))
    }

    /// The number of a drive's root, open or not.
    fn number_of(&self, path: &str) -> u64 {
        let open = self.state().spots.get(path).map(|spot| spot.numbers);
        open.unwrap_or_else(|| Numbers::in_slot(Numbers::preferred_slot(path))).root()
    }

    /// The listing of an open handle.
    pub(crate) fn readdir(&self, handle: u64) -> Result<Arc<Listing>> {
        self.listings.get(handle)
    }

    /// Closes a handle of one of the mount's own directories.
    pub(crate) fn releasedir(&self, handle: u64) -> Result<()> {
        self.listings.remove(handle).map(drop)
    }

    // Closing drives.

    /// Closes unused drives in `Network`, and asks the kernel to forget drives that only the kernel
    /// still holds: all idle ones, and beyond the comfortable number those used least recently.
    async fn sweep(&self) {
        let mut members: Vec<_> =
            self.state().slots.values().filter(|member| member.by_key).cloned().collect();
        members.sort_by_key(|member| member.used.load(Ordering::Relaxed));
        let mut too_many = members.len().saturating_sub(self.comfortable());
        for member in members {
            let unused = self.now().saturating_sub(member.used.load(Ordering::Relaxed));
            let idle = u128::from(unused) >= self.limits.idle.as_millis();
            let in_use = member.fs.load().1 > 0;
            if in_use || !(idle || too_many > 0) {
                continue;
            }
            if member.is_forgotten() {
                if !self.state_mut().close(&member) {
                    continue;
                }
                self.note_left(member.fs.drive().key());
            } else if self.is_entered(&member).await || !self.ask_to_forget(&member) {
                continue;
            }
            too_many = too_many.saturating_sub(1);
        }
    }

    /// Reports the key as left, unless the mount still shows it at another version.
    fn note_left(&self, key: &PublicKey) {
        let shown = self.state().slots.values().any(|member| member.fs.drive().key() == key);
        if !shown {
            self.drives.left(key);
        }
    }

    /// Whether a process uses the drive without an open file, for example as its current directory.
    async fn is_entered(&self, member: &Member) -> bool {
        let path = self.mountpoint.join(member.fs.prefix());
        let users = tokio::task::spawn_blocking(move || mountpoint::mount_users(&path)).await;
        users.is_ok_and(|users| !users.is_empty())
    }

    /// Asks the kernel to forget a drive. Not while a key is being looked for: the kernel would
    /// make every lookup in `Network` wait for that one. Returns whether it asked.
    fn ask_to_forget(&self, member: &Member) -> bool {
        let opening = self.state().spots.values().any(|spot| spot.member.get().is_none());
        let Some((_, name)) = member.fs.prefix().split_once('/').filter(|_| !opening) else {
            return false;
        };
        let (parent, name) = (NETWORK_NUMBER, name.to_owned());
        self.invalidations.push([Invalidation::Entry { parent, name }]);
        true
    }
}

impl State {
    fn by_key(&self) -> usize {
        self.spots.values().filter(|spot| spot.by_key).count()
    }

    /// Closes the drive if neither the kernel nor a waiting lookup uses it. Returns whether it did.
    fn close(&mut self, member: &Arc<Member>) -> bool {
        let path = member.fs.prefix();
        let alone = self.spots.get(path).is_some_and(|spot| Arc::strong_count(spot) == 1);
        if !alone || !member.is_forgotten() {
            return false;
        }
        log::debug!("{path} is closed: no process uses it");
        self.spots.remove(path);
        self.slots.remove(&Numbers::slot_of(member.fs.root_number()));
        member.fs.invalidations().close();
        true
    }

    /// Closes the drive in `Network` that was used least recently, of those that the kernel does
    /// not know. Returns its key, if there is one.
    fn close_one(&mut self) -> Option<PublicKey> {
        let forgotten = self.slots.values().filter(|m| m.by_key && m.is_forgotten());
        let mut forgotten: Vec<_> = forgotten.cloned().collect();
        forgotten.sort_by_key(|member| member.used.load(Ordering::Relaxed));
        forgotten.iter().find(|member| self.close(member)).map(|member| *member.fs.drive().key())
    }
}

/// A lookup that waits for a drive. If none succeeded, the last one removes the spot.
struct Waiting<'a> {
    root: &'a Root,
    path: Arc<str>,
    /// The key that is looked for, if any.
    key: Option<PublicKey>,
    spot: Option<Arc<Spot>>,
}

impl Waiting<'_> {
    async fn open(&self, wanted: &Wanted) -> Result<Option<Arc<Member>>> {
        let Some(spot) = &self.spot else { return Ok(None) };
        let (root, path) = (self.root, &self.path);
        let wait = root.options.patience.names();
        let started = Instant::now();
        let open = async || match wanted {
            Wanted::ByKey(url) => {
                let drive = root.drives.by_key(url, wait).await?;
                // A writable drive is changed under its name only.
                Ok(root.admit(path, spot, drive, true))
            }
            Wanted::Named(name) => match root.drives.named(name).await? {
                Some((drive, read_only)) => Ok(root.admit(path, spot, drive, read_only)),
                None => Err(hypermount_drive::Error::NotFound.into()),
            },
            Wanted::Network => Err(Error::WrongKind),
        };
        let opening = spot.member.get_or_try_init(open);
        let opened = match wait.deadline() {
            None => opening.await,
            // One caller opens it while the others wait, each no longer than its own limit.
            Some(deadline) => timeout_at(deadline, opening).await.unwrap_or_else(|_| {
                let core = match wanted {
                    Wanted::ByKey(url) => url.key.discovery_key(),
                    _ => return Err(Error::Stale),
                };
                let (waited, why) = (started.elapsed(), "no peer has announced it".to_owned());
                Err(hypermount_drive::Error::Unavailable { core, block: 0, waited, why }.into())
            }),
        };
        match opened {
            Ok(member) => Ok(Some(member.clone())),
            Err(Error::Drive(hypermount_drive::Error::NotFound))
                if matches!(wanted, Wanted::Named(_)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(spot) = self.spot.take() else { return };
        let mut state = self.root.state_mut();
        // Two references: the table's and this one.
        if spot.member.get().is_none() && Arc::strong_count(&spot) == 2 {
            state.spots.remove(&self.path);
            drop(state);
            if let Some(key) = &self.key {
                self.root.note_left(key);
            }
        }
    }
}

async fn tidy(root: Weak<Root>, untidy: Arc<Notify>, pause: Duration) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = untidy.notified() => {}
        }
        let Some(root) = root.upgrade() else { return };
        root.sweep().await;
    }
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
