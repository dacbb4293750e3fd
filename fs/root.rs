//! Every drive by a path: one mount that holds the drives with names, and `Network`, where a key opens
//! any drive there is.
//!
//! Each drive is an [`Fs`] of its own with inode numbers of its own, so whose an inode is can be told
//! from its number, and nothing is translated on the way. Here is which drives are open: opened when
//! they are looked up; those in `Network` are closed when nobody has used them for a while.
//!
//! The kernel keeps what it once looked up, used or not. So it is asked to let go of a drive that
//! nobody is in, and the drive is closed when it has.
//!
//! Not here: how a drive is opened, which whoever mounts knows ([`Drives`]).

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

/// Drives open by their key at once in one mount. One past it is refused with ENFILE, unless one of
/// them is not used at all.
pub const MAX_BY_KEY: usize = 64;
/// How long a drive stays open in `Network` that nobody uses.
pub const IDLE: Duration = Duration::from_secs(300);
/// Of the drives that may be open by their key, so many fourths may be before the one that was used
/// least recently is closed early.
const COMFORTABLE_FOURTHS: usize = 3;
/// The directory where keys are looked up, and its number.
pub const NETWORK: &str = "Network";
const NETWORK_NUMBER: u64 = ROOT + 1;
/// Everybody may see which drives have names. Who can list `Network` can open what is in it.
const TOP_MODE: u16 = 0o755;
const NETWORK_MODE: u16 = 0o700;

/// What comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = hypermount_drive::Result<T>> + Send + 'a>>;

/// Who knows about drives.
pub trait Drives: Send + Sync + 'static {
    /// The names of the drives that have one.
    fn names(&self) -> Later<'_, Vec<String>>;

    /// The drive of a name, and whether it is not to be written here; `None` if there is none.
    fn named<'a>(&'a self, name: &'a str) -> Later<'a, Option<(Drive, bool)>>;

    /// The drive of a key, at its version if it has one.
    fn by_key<'a>(&'a self, url: &'a DriveUrl, wait: Wait) -> Later<'a, Drive>;

    /// This mount shows nothing of that key any more, or gave up looking for it.
    fn left(&self, key: &PublicKey);
}

/// How many drives are open for how long that only their key is known of.
#[derive(Clone, Copy, Debug)]
pub struct RootLimits {
    pub by_key: usize,
    pub idle: Duration,
}

impl Default for RootLimits {
    fn default() -> Self {
        Self { by_key: MAX_BY_KEY, idle: IDLE }
    }
}

/// How the kernel is told of changes in a drive that was just opened.
pub type Tell = Box<dyn Fn(&Arc<Fs>) + Send + Sync>;

/// What a name of the mount's own directories stands for.
enum Wanted {
    Network,
    Named(String),
    ByKey(DriveUrl),
}

/// A name under which a drive is open, or being opened. Who waits for that holds a clone.
struct Spot {
    numbers: Numbers,
    by_key: bool,
    member: OnceCell<Arc<Member>>,
}

/// A drive that is open.
struct Member {
    fs: Arc<Fs>,
    by_key: bool,
    /// How often the kernel was given the drive's root, less what it gave back.
    references: AtomicU64,
    /// Milliseconds from the start of the mount to the last request about anything in it.
    used: AtomicU64,
}

impl Member {
    /// Whether the kernel knows nothing of it.
    fn is_forgotten(&self) -> bool {
        self.references.load(Ordering::Acquire) == 0 && self.fs.load() == (1, 0)
    }
}

/// INVARIANT: no two spots have the same slot, and `slots` leads to spots that are there.
#[derive(Default)]
struct State {
    /// By where they are in the mount.
    spots: HashMap<Arc<str>, Arc<Spot>>,
    slots: HashMap<u64, Arc<Member>>,
}

/// One of the mount's own directories as it was when it was opened.
pub struct Listing {
    names: Vec<(String, u64)>,
}

impl Listing {
    /// Offers the names from `offset` on to `add` until it says that it is full.
    pub(crate) fn fill(&self, offset: u64, mut add: impl FnMut(&Listed<'_>) -> bool) {
        for (next, (name, shown)) in (1..).zip(&self.names).skip(usize_of(offset)) {
            let (shown, kind, ttl) = (*shown, FileType::Directory, Duration::ZERO);
            if add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl }) {
                return;
            }
        }
    }
}

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
    /// Shows what `drives` knows, at `mountpoint`.
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

    /// To be called before the first request: how the kernel is told of changes.
    pub fn tell_by(&self, tell: Tell) {
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
    pub fn owns(ino: u64) -> bool {
        Numbers::slot_of(ino) == 0
    }

    /// Whether two inodes are in one drive.
    pub fn are_together(one: u64, other: u64) -> bool {
        Numbers::slot_of(one) == Numbers::slot_of(other)
    }

    /// Where one of the mount's own directories is in it.
    pub fn path_of(&self, ino: u64) -> &'static str {
        if ino == NETWORK_NUMBER { NETWORK } else { "" }
    }

    /// The drive an inode is in; an error that fits a change, if it is in none.
    pub fn drive_of(&self, ino: u64) -> Result<Arc<Fs>> {
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

    /// The drives that are open.
    pub fn open(&self) -> Vec<Arc<Fs>> {
        let mut open: Vec<_> = self.state().slots.values().map(|m| m.fs.clone()).collect();
        open.sort_by(|one, other| one.prefix().cmp(other.prefix()));
        open
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Ends what goes on by itself.
    pub fn stop(&self) {
        let tidying = self.tidying.lock().take();
        if let Some(task) = tidying {
            task.abort();
        }
        // It holds the connection to the kernel.
        drop(self.tell.lock().take());
        self.invalidations.close();
        for fs in self.open() {
            fs.invalidations().close();
        }
    }

    // The mount's own directories.

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
            nlink: 2,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    pub fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        match ino {
            ROOT | NETWORK_NUMBER => Ok((self.attributes(ino), TTL_FOLLOWED)),
            _ => Err(Error::Stale),
        }
    }

    /// Where in the mount a name leads, and to what. `None` for what no drive can be called and what
    /// is no key: then nobody is asked.
    fn wanted(parent: u64, name: &OsStr) -> Option<(Arc<str>, Wanted)> {
        let name = Name::new(name.to_str()?).ok()?;
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

    /// Looks a name up in one of the mount's own directories, which opens the drive of that name.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Looked> {
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
            // One may be made at any time, of which nobody tells us.
            return Ok(Looked::Absent { ttl: Duration::ZERO });
        };
        let ino = member.fs.root_number();
        let (attributes, attributes_ttl) = member.fs.getattr(ino).await?;
        member.used.store(self.now(), Ordering::Relaxed);
        member.references.fetch_add(1, Ordering::AcqRel);
        Ok(Looked::Found { ino, attributes, entry_ttl: TTL_FOLLOWED, attributes_ttl })
    }

    /// The spot of a path: the one there is, or a new one if there is room.
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
        // Somebody may have come in between.
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

    /// Makes the drive part of the mount.
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

    pub fn forget(&self, ino: u64, count: u64) {
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

    /// The names a directory has now: of `Network`, the drives that are open.
    pub async fn opendir(&self, ino: u64) -> Result<u64> {
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

    /// The number a drive shows, open or not.
    fn number_of(&self, path: &str) -> u64 {
        let open = self.state().spots.get(path).map(|spot| spot.numbers);
        open.unwrap_or_else(|| Numbers::in_slot(Numbers::preferred_slot(path))).root()
    }

    /// The listing that a handle has open.
    pub fn readdir(&self, handle: u64) -> Result<Arc<Listing>> {
        self.listings.get(handle)
    }

    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.listings.remove(handle).map(drop)
    }

    // Closing.

    /// Closes drives of `Network` that nobody uses, and asks the kernel to forget those that only it
    /// remembers: all that are idle, and, where there are many, those used least recently.
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

    /// Says so if nothing of that key is shown any more: it may be at several versions.
    fn note_left(&self, key: &PublicKey) {
        let shown = self.state().slots.values().any(|member| member.fs.drive().key() == key);
        if !shown {
            self.drives.left(key);
        }
    }

    /// Whether a process is in the drive without having anything open there.
    async fn is_entered(&self, member: &Member) -> bool {
        let path = self.mountpoint.join(member.fs.prefix());
        let users = tokio::task::spawn_blocking(move || mountpoint::users(&path)).await;
        users.is_ok_and(|users| !users.is_empty())
    }

    /// Not while a key is being looked for: the kernel would have everybody wait for that who wants
    /// something of `Network`.
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

    /// Closes the drive if nobody has it and nobody is about to.
    fn close(&mut self, member: &Arc<Member>) -> bool {
        let path = member.fs.prefix();
        let alone = self.spots.get(path).is_some_and(|spot| Arc::strong_count(spot) == 1);
        if !alone || !member.is_forgotten() {
            return false;
        }
        log::debug!("{path} is closed: nobody uses it");
        self.spots.remove(path);
        self.slots.remove(&Numbers::slot_of(member.fs.root_number()));
        member.fs.invalidations().close();
        true
    }

    /// Closes the drive in `Network` that the kernel knows nothing of and that was used least
    /// recently, if there is one; its key.
    fn close_one(&mut self) -> Option<PublicKey> {
        let forgotten = self.slots.values().filter(|m| m.by_key && m.is_forgotten());
        let mut forgotten: Vec<_> = forgotten.cloned().collect();
        forgotten.sort_by_key(|member| member.used.load(Ordering::Relaxed));
        forgotten.iter().find(|member| self.close(member)).map(|member| *member.fs.drive().key())
    }
}

/// Somebody who waits for a drive. The last to go takes the spot away if nothing came of it.
struct Waiting<'a> {
    root: &'a Root,
    path: Arc<str>,
    /// What is looked for, if it is a key.
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
                // One's own drives are written under their names.
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
            // One opens it while the others wait, each no longer than his own time.
            Some(deadline) => timeout_at(deadline, opening).await.unwrap_or_else(|_| {
                let core = match wanted {
                    Wanted::ByKey(url) => url.key.discovery_key(),
                    _ => return Err(Error::Stale),
                };
                let (waited, why) = (started.elapsed(), "no peer has told of it".to_owned());
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
        // In the table and here.
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
