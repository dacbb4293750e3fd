//! The operations of the filesystem: POSIX semantics over snapshots of drives, without a kernel.
//!
//! Each operation is one async fn that a test can call. It completes on the first poll if
//! everything it needs is in the store. Otherwise it waits for peers, within the limits of
//! [`Patience`]. Nothing here blocks a thread or holds a lock across an await.
//!
//! This file has what all operations need: resolving inodes, looking up names, and presenting what
//! was found. The other operations are in files of their own: `file.rs` (open files), `listing.rs`,
//! `write.rs` (from changes to versions), `namespace.rs` (changes of names), `metadata.rs`
//! (attributes).
//!
//! Not here: the wire format of requests (`adapter.rs`), where they wait (`serve.rs`), and the
//! arrival of new versions (`follow.rs`).

use std::ffi::OsStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::scratch::Pool;
use hypermount_drive::sync::{Mutex, Rank, ReadGuard, RwLock, WriteGuard};
use hypermount_drive::{Drive, DrivePath, Entry, Kind, Name, Space, Stat, Store, unescape_path};
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use crate::appending::{Appends, Storing};
use crate::attr::{self, Owner, TTL_ABSENT_FOLLOWED, TTL_FOLLOWED, TTL_FROZEN};
use crate::errno::{Error, Result};
use crate::handle::{DirHandle, FileHandle, HandleTable};
use crate::inode::{InodeTable, Node, Numbers, Placed};
use crate::invalidate::Invalidations;
use crate::journal::Journal;
use crate::overtaken::Overtaken;
use crate::patience::Patience;
use crate::set_ids;
use crate::showing::Showing;
use crate::staging::StagedFile;
use crate::stalls::{Missing, Stalls};
use crate::symlink;
use crate::volume::{Crossing, Unreachable, Volume};

/// Nested drives that one mount may have open at a time.
pub(crate) const MAX_NESTED_DRIVES: usize = 1024;
/// If an entry has more attribute bytes than this, the inode table keeps the entry without them.
const MAX_KEPT_ATTRIBUTE_BYTES: usize = 4096;
/// How long the kernel may cache the attributes of a core shown as a file: the core may grow, and
/// no notice tells the kernel.
const TTL_CORE: Duration = Duration::from_secs(1);

/// How a mount shows its drives.
#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    /// The owner that files are shown with.
    pub owner: Owner,
    /// How long calls wait for peers.
    pub patience: Patience,
    /// Takes no changes, even if the store has the drive's secret key.
    pub read_only: bool,
}

/// Where an inode's content comes from.
#[derive(Clone)]
pub(crate) struct Place {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    /// The nested drive whose root this is, if any.
    pub crossing: Option<Crossing>,
    /// The staged file, while the file is open in a writable drive.
    pub staged: Option<Arc<StagedFile>>,
    known: Option<Known>,
}

/// What the path held at the last lookup. After the path leads elsewhere, programs that looked the
/// inode up before still see this, as on a local disk.
#[derive(Clone)]
struct Known {
    /// The version that `entry` was found in; `None` after the path has changed, or if parts of the
    /// entry are left out.
    version: Option<u64>,
    entry: Arc<Entry>,
}

impl Place {
    pub(crate) fn new(volume: Arc<Volume>, path: DrivePath) -> Self {
        Self { volume, path, crossing: None, staged: None, known: None }
    }

    /// The inode has another path now, so its entry must be looked up again.
    pub(crate) fn moved(&mut self) {
        if let Some(known) = &mut self.known {
            known.version = None;
        }
    }

    /// `entry` is what the path last led to. The path leads elsewhere now.
    pub(crate) fn replaced(&mut self, entry: &Arc<Entry>) {
        self.known = Some(Known { version: None, entry: entry.clone() });
    }

    /// Changes the remembered stat, which programs that still use the inode see.
    pub(crate) fn change_known(
        &mut self,
        change: impl FnOnce(&mut Stat) -> Result<()>,
    ) -> Result<()> {
        let known = self.known.as_mut().ok_or(hypermount_drive::Error::NotFound)?;
        change(&mut Arc::make_mut(&mut known.entry).stat)
    }

    pub(crate) fn know(&mut self, version: u64, entry: &Arc<Entry>) {
        let target = entry.stat.mount.as_ref().filter(|_| entry.kind == Kind::Mount);
        if self.crossing.as_ref().map(|crossing| &crossing.target) != target {
            self.crossing = target.cloned().map(Crossing::new);
        }
        let attributes = &entry.stat.attributes;
        let bytes: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        self.known = Some(match bytes <= MAX_KEPT_ATTRIBUTE_BYTES {
            true => Known { version: Some(version), entry: entry.clone() },
            false => {
                let stat = Stat { attributes: Vec::new(), ..entry.stat.clone() };
                let entry = Arc::new(Entry { stat, ..(**entry).clone() });
                Known { version: None, entry }
            }
        });
    }
}

impl Placed for Place {
    fn found_by(&mut self, mount_path: &Arc<str>) {
        let prefix = self.volume.prefix();
        let inside = mount_path.strip_prefix(&*prefix).unwrap_or(mount_path);
        // It was one when it was looked up.
        let Ok(path) = DrivePath::parse(inside) else { return };
        if let Some(staged) = &self.staged {
            staged.rename(path.clone());
        }
        self.path = path;
        self.moved();
    }
}

/// The entry of an inode, and where it comes from.
pub(crate) struct Resolved {
    pub place: Place,
    pub entry: Arc<Entry>,
    /// The version that it was found in; `None` if the path leads elsewhere by now, and this is the
    /// entry that the open files of the inode read.
    pub version: Option<u64>,
}

/// A directory in which names can be looked up: in a nested drive, that drive's root or a directory
/// below it.
pub(crate) struct Directory {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    pub mount_path: Arc<str>,
}

/// The answer to a lookup.
#[derive(Debug)]
pub enum Looked {
    /// The entry exists. Its inode is counted as looked up once.
    Found {
        /// Its inode number.
        ino: u64,
        /// Its attributes.
        attributes: FileAttr,
        /// How long the kernel may cache the name.
        entry_ttl: Duration,
        /// How long the kernel may cache the attributes.
        attributes_ttl: Duration,
    },
    /// Proven not to exist.
    Absent {
        /// How long the kernel may cache that.
        ttl: Duration,
    },
}

impl Looked {
    /// The answer for an entry. The kernel takes the inode's number from the attributes. Beside a
    /// detached inode the number shown differs from the inode's, so the kernel gets no attributes
    /// and asks for them separately.
    pub(crate) fn found(
        ino: u64,
        mut attributes: FileAttr,
        entry_ttl: Duration,
        mut attributes_ttl: Duration,
    ) -> Self {
        if attributes.ino.0 != ino {
            attributes.ino = INodeNo(ino);
            attributes_ttl = Duration::ZERO;
        }
        Self::Found { ino, attributes, entry_ttl, attributes_ttl }
    }
}

/// What part of its mount a filesystem is: all of it, or one drive among others.
#[derive(Clone)]
pub(crate) struct Part {
    /// Its root's path in the mount, without slashes at the ends.
    pub(crate) prefix: Arc<str>,
    pub(crate) numbers: Numbers,
    /// The journal of the mount.
    pub(crate) journal: Arc<Journal>,
}

impl Part {
    fn whole() -> Self {
        Self { prefix: "".into(), numbers: Numbers::ALL, journal: Arc::default() }
    }

    /// Converts a path of this filesystem to one of the mount.
    pub(crate) fn in_mount(&self, path: &str) -> String {
        if path.is_empty() { self.prefix.to_string() } else { join(&self.prefix, path) }
    }
}

/// The filesystem of one drive and of the drives nested in it.
///
/// Every operation fails with an [`Error`], which `errno` maps to the errno that a program gets. An
/// operation that needs data of a peer fails with the drive's `Unavailable` (ETIMEDOUT) when its
/// [`Patience`] ends.
pub struct Fs {
    pub(crate) store: Store,
    pub(crate) options: FsOptions,
    pub(crate) runtime: Handle,
    pub(crate) scratch: Arc<Pool>,
    pub(crate) root: Arc<Volume>,
    pub(crate) inodes: RwLock<InodeTable<Place>>,
    pub(crate) files: HandleTable<FileHandle>,
    pub(crate) directories: HandleTable<DirHandle>,
    /// Open status files (`status.rs`).
    pub(crate) statuses: HandleTable<Bytes>,
    pub(crate) invalidations: Arc<Invalidations>,
    pub(crate) overtaken: Overtaken,
    pub(crate) showing: Showing,
    pub(crate) appends: Arc<Appends>,
    /// Lookups that failed to get an answer in time, by parent, name and thread.
    stalled_names: Stalls<(u64, String, u32)>,
    pub(crate) part: Part,
    /// Counts the open nested drives: each holds a clone.
    nested: Arc<()>,
    /// The nested drives that could not be opened most recently.
    unreachable: Unreachable,
    /// The nested drives that were opened.
    entered: Mutex<Vec<Weak<Volume>>>,
    /// A reference to itself, for the tasks that follow its drives.
    pub(crate) this: Weak<Fs>,
}

impl Fs {
    /// Makes a filesystem that shows `drive`, and opens the drives nested in it through `store`. A
    /// drive that is not frozen is followed by a task on `runtime`.
    pub fn new(drive: Drive, store: Store, options: FsOptions, runtime: Handle) -> Arc<Self> {
        Self::within(drive, store, options, runtime, Part::whole())
    }

    /// As [`Fs::new`], for a part of a mount of several drives.
    pub(crate) fn within(
        drive: Drive,
        store: Store,
        options: FsOptions,
        runtime: Handle,
        part: Part,
    ) -> Arc<Self> {
        let root = Arc::new(Volume::new(drive, options.read_only));
        let place = Place::new(root.clone(), DrivePath::root());
        let fs = Arc::new_cyclic(|this| Self {
            scratch: Pool::new(store.scratch_directory()),
            store,
            options,
            runtime,
            root: root.clone(),
            inodes: RwLock::new(Rank::INODES, InodeTable::new(place, part.numbers)),
            files: HandleTable::new(),
            directories: HandleTable::new(),
            statuses: HandleTable::new(),
            invalidations: Arc::default(),
            overtaken: Overtaken::default(),
            showing: Showing::default(),
            appends: Arc::default(),
            stalled_names: Stalls::default(),
            part,
            nested: Arc::new(()),
            unreachable: Unreachable::default(),
            entered: Mutex::default(),
            this: this.clone(),
        });
        fs.follow(&root);
        fs
    }

    /// The drive at the root of the filesystem.
    pub fn drive(&self) -> &Drive {
        &self.root.drive
    }

    /// Whether programs can change the root drive through this mount.
    pub fn is_writable(&self) -> bool {
        self.root.writable
    }

    /// The version of the root drive that the mount shows.
    pub fn version(&self) -> u64 {
        self.root.snapshot().version()
    }

    /// The files whose content is being stored, and how far each is.
    pub fn storing(&self) -> Vec<Storing> {
        self.appends.under_way()
    }

    /// Number of inodes that the kernel knows, and number of open files and directories.
    pub fn load(&self) -> (usize, usize) {
        let open = self.files.len() + self.directories.len() + self.statuses.len();
        (self.inodes().len(), open)
    }

    /// The notices of what the kernel must drop from its caches.
    pub fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    /// The failed calls and the fetched bytes of the whole mount.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.part.journal
    }

    /// Its root's path in the mount, without slashes at the ends.
    pub fn prefix(&self) -> &str {
        &self.part.prefix
    }

    /// The inode number of its root.
    pub(crate) fn root_number(&self) -> u64 {
        self.part.numbers.root()
    }

    /// The drives shown now: the root drive, and the nested drives that were opened.
    pub fn drives(&self) -> Vec<Drive> {
        let mut entered = self.entered.lock();
        entered.retain(|volume| volume.strong_count() > 0);
        let nested: Vec<_> = entered.iter().filter_map(Weak::upgrade).collect();
        drop(entered);
        let root = std::iter::once(&self.root);
        root.chain(&nested).map(|volume| volume.drive.clone()).collect()
    }

    pub(crate) fn inodes(&self) -> ReadGuard<'_, InodeTable<Place>> {
        self.inodes.read()
    }

    pub(crate) fn inodes_mut(&self) -> WriteGuard<'_, InodeTable<Place>> {
        self.inodes.write()
    }

    /// Panics if an inode table invariant does not hold.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        self.inodes().check_invariants();
    }

    // Resolving inodes.

    pub(crate) fn node<T>(&self, ino: u64, take: impl FnOnce(&Node<Place>) -> T) -> Result<T> {
        self.inodes().get(ino).map(take).ok_or(Error::Stale)
    }

    /// Finds the entry of an inode: as of the version shown; or, if the path leads elsewhere, the
    /// entry that its open files read; or else the entry of the last lookup. A program may have
    /// looked the inode up just before the change.
    ///
    /// # Errors
    ///
    /// Fails with `Stale` if the table does not hold the inode, and with a drive's error if the
    /// entry cannot be read within the limit for names.
    pub(crate) async fn resolve(&self, ino: u64) -> Result<Resolved> {
        let (place, opened, kind, detached) = self.node(ino, |node| {
            (node.place.clone(), node.opened().cloned(), node.kind, node.is_detached())
        })?;
        if let Some(staged) = &place.staged {
            let (entry, version) = (staged.entry(), Some(place.volume.snapshot().version()));
            return Ok(Resolved { place, entry, version });
        }
        let superseded = |place: Place| {
            let last = place.known.as_ref().map(|known| known.entry.clone());
            match opened.clone().or(last) {
                Some(entry) => Ok(Resolved { place, entry, version: None }),
                None => Err(Error::Stale),
            }
        };
        if detached {
            return superseded(place);
        }
        let snapshot = place.volume.snapshot();
        let version = Some(snapshot.version());
        if let Some(known) = place.known.as_ref().filter(|known| known.version == version) {
            let entry = known.entry.clone();
            return Ok(Resolved { place, entry, version });
        }
        let entry = match snapshot.entry(&place.path, self.options.patience.names()).await {
            Err(hypermount_drive::Error::NotFound) => {
                self.supersede(ino);
                return superseded(place);
            }
            Err(error) => return Err(error.into()),
            Ok(entry) => Arc::new(entry),
        };
        let other_content = self.node(ino, |node| node.has_other_content(&entry))?;
        if other_content || attr::file_type(&entry) != kind {
            self.supersede(ino);
            return superseded(place);
        }
        if let Some(node) = self.inodes_mut().get_mut(ino)
            && Arc::ptr_eq(&node.place.volume, &place.volume)
        {
            node.place.know(snapshot.version(), &entry);
            return Ok(Resolved { place: node.place.clone(), entry, version });
        }
        Ok(Resolved { place, entry, version })
    }

    /// The path no longer leads to this inode, nor does another name of it. Detaches it, and notifies the kernel the
    /// first time.
    pub(crate) fn supersede(&self, ino: u64) {
        let mut inodes = self.inodes_mut();
        let Some(node) = inodes.get(ino) else { return };
        let names: Vec<Arc<str>> = node.names().cloned().collect();
        if inodes.detach(ino) {
            drop(inodes);
            let notices: Vec<_> = names.iter().filter_map(|path| self.entry_notice(path)).collect();
            self.invalidations.push(notices);
        }
    }

    /// How long the kernel may cache an answer about `version`: zero if the mount shows another
    /// version by now. Call this after the inode was given to the kernel. Then either `follow.rs`
    /// finds the inode and notifies the kernel, or this check sees the new version.
    pub(crate) fn while_current(&self, volume: &Volume, version: u64, ttl: Duration) -> Duration {
        if volume.snapshot().version() == version { ttl } else { Duration::ZERO }
    }

    /// The directory of an inode; if a nested drive begins there, opens it and returns its root.
    pub(crate) async fn directory(&self, ino: u64) -> Result<Directory> {
        let Resolved { place, entry, version } = self.resolve(ino).await?;
        let mount_path = self.node(ino, |node| node.path.clone())?;
        if attr::file_type(&entry) != FileType::Directory {
            return Err(hypermount_drive::Error::NotADirectory.into());
        }
        // A lookup in a removed directory fails, as on a local disk. (A directory that was removed
        // through this mount is shown as empty to programs that still have it open.)
        if version.is_none() && !place.volume.writable {
            return Err(hypermount_drive::Error::NotFound.into());
        }
        match &place.crossing {
            None => Ok(Directory { volume: place.volume, path: place.path, mount_path }),
            Some(crossing) => {
                let volume = self.cross(&place.volume, crossing, &mount_path).await?;
                Ok(Directory { volume, path: DrivePath::root(), mount_path })
            }
        }
    }

    /// Opens a nested drive, once for all concurrent callers.
    async fn cross(
        &self,
        from: &Arc<Volume>,
        crossing: &Crossing,
        mount_path: &Arc<str>,
    ) -> Result<Arc<Volume>> {
        from.may_nest(&crossing.target)?;
        let target = &crossing.target;
        let wait = self.unreachable.patience(self.options.patience.names());
        let started = Instant::now();
        let open = async || {
            if Arc::strong_count(&self.nested) > MAX_NESTED_DRIVES {
                return Err(Error::TooManyDrives { limit: MAX_NESTED_DRIVES });
            }
            let opened = Drive::open(&self.store, &target.key, target.version, wait).await;
            self.unreachable.tried(&opened);
            let drive = opened?;
            let (read_only, prefix) = (self.options.read_only, mount_path.clone());
            let volume =
                Arc::new(Volume::nested(drive, read_only, prefix, from, self.nested.clone()));
            self.follow(&volume);
            let mut entered = self.entered.lock();
            entered.retain(|volume| volume.strong_count() > 0);
            entered.push(Arc::downgrade(&volume));
            Ok(volume)
        };
        let child = crossing.child.get_or_try_init(open);
        let Some(deadline) = wait.deadline() else { return child.await.cloned() };
        // One caller opens it while the others wait. If that fails, the next caller tries. Each
        // caller waits no longer than its own limit.
        match timeout_at(deadline, child).await {
            Ok(opened) => opened.cloned(),
            Err(_) => Err(Error::Drive(hypermount_drive::Error::Unavailable {
                core: target.key.discovery_key(),
                block: 0,
                waited: started.elapsed(),
                why: "others wait for it as well".to_owned(),
            })),
        }
    }

    /// Size in bytes to show. The size of a link is the length of what readlink(2) returns, since
    /// programs compare the two.
    pub(crate) fn size(&self, volume: &Volume, path: &DrivePath, entry: &Entry) -> u64 {
        if entry.kind == Kind::Symlink {
            let target = self.target(volume, path, entry);
            return target.map_or(0, |target| unescape_path(&target).len() as u64);
        }
        match attr::core_of(entry) {
            Some(key) => self.store.core(key).map_or(0, |core| core.head().byte_length),
            None => entry.stat.extent.size,
        }
    }

    pub(crate) fn attributes(
        &self,
        shown: u64,
        volume: &Volume,
        path: &DrivePath,
        entry: &Entry,
    ) -> FileAttr {
        let size = self.size(volume, path, entry);
        let owner = self.options.owner;
        let mut attributes = attr::attributes(shown, entry, size, owner, volume.writable);
        if volume.writable
            && attributes.kind == FileType::Directory
            && let Some(touched) = volume.touched().get(path)
        {
            attributes.mtime = attr::time(*touched);
            attributes.ctime = attr::time(entry.stat.ctime.max(*touched));
        }
        if volume.writable {
            attributes.atime = attr::time(volume.accessed.of(path, &entry.stat));
        }
        attributes
    }

    /// What readlink(2) returns. Links in a writable drive were made by this user and are shown as
    /// stored. Links in other drives must not lead out of the drive.
    pub(crate) fn target(
        &self,
        volume: &Volume,
        path: &DrivePath,
        entry: &Entry,
    ) -> Result<String> {
        let stored = entry.stat.linkname.as_deref().unwrap_or("");
        if volume.writable {
            return Ok(stored.to_owned());
        }
        Ok(symlink::target(path, stored)?.into_owned())
    }

    /// Gives the kernel an inode for an entry. Returns its number and the number to show.
    pub(crate) fn remember(
        &self,
        volume: &Arc<Volume>,
        path: &DrivePath,
        mount_path: &str,
        version: u64,
        entry: &Arc<Entry>,
    ) -> (u64, u64) {
        let make = || {
            let mut place = Place::new(volume.clone(), path.clone());
            place.know(version, entry);
            place
        };
        let refresh = |place: &mut Place| {
            if !Arc::ptr_eq(&place.volume, volume) {
                *place = Place::new(volume.clone(), path.clone());
            }
            place.know(version, entry);
        };
        let mut inodes = self.inodes_mut();
        let known = inodes.known(mount_path).and_then(|ino| Some((ino, inodes.get(ino)?)));
        // The inode has an open staged file, which stays the same file after every change through
        // this mount.
        if let Some((ino, node)) = known
            && node.place.staged.is_some()
            && Arc::ptr_eq(&node.place.volume, volume)
        {
            let shown = node.shown;
            inodes.again(ino);
            return (ino, shown);
        }
        let link = self.link_key(volume, path, entry);
        // So is another name of that file.
        if known.is_none()
            && let Some(ino) = link.and_then(|link| inodes.linked(link))
            && let Some(node) = inodes.get(ino).filter(|node| node.place.staged.is_some())
        {
            let shown = node.shown;
            inodes.again(ino);
            inodes.join(ino, mount_path);
            return (ino, shown);
        }
        let ino = inodes.remember(mount_path, entry, link, !volume.writable, make, refresh);
        // A new file that is not stored yet, at its first lookup or a later one.
        if volume.writable
            && let Some(staged) = volume.unstored().get(path).cloned()
            && let Some(node) = inodes.get_mut(ino)
        {
            node.place.staged.get_or_insert(staged);
        }
        let shown = inodes.get(ino).map_or(ino, |node| node.shown);
        (ino, shown)
    }

    /// Waits until a peer announces the core's length, if it is not known. Otherwise a program
    /// would copy the file as empty.
    async fn learn_core_length(&self, entry: &Entry) {
        if let Some(key) = attr::core_of(entry)
            && let Ok(core) = self.store.core(key)
            && core.head().length == 0
        {
            let _ = core.longer_than(0, self.options.patience.names()).await;
        }
    }

    /// The staged file at this path: of an open file, or of a new file that is not stored yet.
    pub(crate) fn staged_at(
        &self,
        volume: &Volume,
        path: &DrivePath,
        mount_path: &str,
    ) -> Option<Arc<StagedFile>> {
        if !volume.writable {
            return None;
        }
        if let Some(staged) = volume.unstored().get(path) {
            return Some(staged.clone());
        }
        let inodes = self.inodes();
        inodes.known(mount_path).and_then(|ino| inodes.get(ino)?.place.staged.clone())
    }

    // Names and attributes.

    /// Looks up a name in a directory and counts its inode as looked up.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Looked> {
        self.lookup_for(parent, name, 0).await
    }

    /// As [`Fs::lookup`], for a thread. If the kernel cannot confirm a cached name, it repeats the
    /// lookup within the same call; the repeated lookup fails at once instead of waiting a second
    /// time.
    pub async fn lookup_for(&self, parent: u64, name: &OsStr, thread: u32) -> Result<Looked> {
        let key = || (parent, name.to_string_lossy().into_owned(), thread);
        let known = thread != 0 && self.stalled_names.any();
        if let Some(missing) =
            known.then(|| self.stalled_names.find(|known| *known == key())).flatten()
        {
            return Err(hypermount_drive::Error::from(missing).into());
        }
        let looked = self.look_up(parent, name).await;
        if let Err(Error::Drive(error)) = &looked
            && let Some(missing) = Missing::of(error).filter(|_| thread != 0)
        {
            self.stalled_names.note(key(), missing);
        }
        looked
    }

    async fn look_up(&self, parent: u64, name: &OsStr) -> Result<Looked> {
        let directory = self.directory(parent).await?;
        let Some(name) = parse_name(name)? else {
            return Ok(Looked::Absent { ttl: TTL_FROZEN });
        };
        let volume = &directory.volume;
        let path = directory.path.join(&name)?;
        let snapshot = volume.snapshot();
        let frozen = volume.is_frozen();
        let mount_path = join(&directory.mount_path, name.as_str());
        let found = match self.staged_at(volume, &path, &mount_path) {
            Some(staged) => Ok(staged.entry()),
            None => {
                let entry = snapshot.entry(&path, self.options.patience.names()).await;
                entry.map(|entry| match self.staged_by_link(volume, &path, &entry) {
                    Some(staged) => staged.entry(),
                    None => Arc::new(entry),
                })
            }
        };
        let entry = match found {
            Ok(entry) => entry,
            Err(hypermount_drive::Error::NotFound) => {
                let ttl = if frozen { TTL_FROZEN } else { TTL_ABSENT_FOLLOWED };
                let ttl = self.while_current(volume, snapshot.version(), ttl);
                return Ok(Looked::Absent { ttl });
            }
            Err(error) => return Err(error.into()),
        };
        self.learn_core_length(&entry).await;
        let (ino, shown) = self.remember(volume, &path, &mount_path, snapshot.version(), &entry);
        let entry_ttl = if frozen { TTL_FROZEN } else { TTL_FOLLOWED };
        let current = |ttl| self.while_current(volume, snapshot.version(), ttl);
        let attributes = self.attributes(shown, volume, &path, &entry);
        Ok(Looked::found(ino, attributes, current(entry_ttl), current(ttl(volume, &entry))))
    }

    /// The kernel gives back `count` lookups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        let forgotten = self.inodes_mut().forget(ino, count);
        // Dropped after the lock is released: this may be the last reference to a nested drive, and
        // closing a drive takes locks.
        drop(forgotten);
    }

    /// The attributes of an inode, and how long the kernel may cache them.
    pub async fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        let Resolved { place, entry, version } = self.resolve(ino).await?;
        let shown = self.node(ino, |node| node.shown)?;
        let mut attributes = self.attributes(shown, &place.volume, &place.path, &entry);
        if place.volume.writable && self.node(ino, |node| node.is_detached())? {
            attributes.nlink = 0;
            attributes.atime = attr::time(entry.stat.atime.unwrap_or(entry.stat.mtime));
        }
        let ttl = version.map_or(Duration::ZERO, |version| {
            self.while_current(&place.volume, version, ttl(&place.volume, &entry))
        });
        Ok((attributes, ttl))
    }

    /// readlink(2): the target of a symbolic link, made safe to follow (`symlink.rs`), as text.
    pub async fn readlink(&self, ino: u64) -> Result<String> {
        let Resolved { place, entry, .. } = self.resolve(ino).await?;
        if entry.kind != Kind::Symlink {
            return Err(Error::WrongKind);
        }
        if place.volume.writable {
            place.volume.accessed.note(&place.path, &entry.stat);
        }
        self.target(&place.volume, &place.path, &entry)
    }

    /// access(2) for the owner; `mask` as there. The kernel checks the permission bits itself.
    pub async fn access(&self, ino: u64, mask: i32) -> Result<()> {
        let Resolved { place, .. } = self.resolve(ino).await?;
        if mask & libc::W_OK != 0 && !place.volume.writable {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }

    /// Space on the disk that holds the store, which reading fills.
    pub fn statfs(&self) -> Result<Space> {
        Ok(self.store.space()?)
    }
}

/// How long the kernel may cache an entry's attributes.
pub(crate) fn ttl(volume: &Volume, entry: &Entry) -> Duration {
    if attr::core_of(entry).is_some() {
        TTL_CORE
    } else if volume.is_frozen() {
        TTL_FROZEN
    } else if volume.writable {
        set_ids::lifetime(entry, TTL_FOLLOWED)
    } else {
        TTL_FOLLOWED
    }
}

/// Parses a name to look up; `None` if no drive can hold it, so that it does not exist.
fn parse_name(name: &OsStr) -> Result<Option<Name>> {
    match Name::of_file(name) {
        Ok(name) => Ok(Some(name)),
        Err(error @ hypermount_drive::Error::NameTooLong { .. }) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Parses the name of an entry to be created.
pub(crate) fn new_name(name: &OsStr) -> Result<Name> {
    Ok(Name::of_file(name)?)
}

pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

pub(crate) fn usize_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
