//! What every operation means: POSIX semantics over snapshots of drives, without a kernel.
//!
//! Each operation is one async fn that a test can call. It returns at once if everything it needs
//! is on this machine, and may wait for peers, within the limits of [`Patience`], if not. Nothing
//! here blocks a thread or holds a lock across an await.
//!
//! Here is what all operations need: resolving inodes, looking names up, and showing what was
//! found. The others are in files of their own: `file.rs` (open files), `listing.rs`, `write.rs`
//! (from changes to versions), `namespace.rs` (what changes names), `metadata.rs` (attributes).
//!
//! Not here: the wire format of requests (`adapter.rs`), where they wait (`serve.rs`), and the
//! arrival of new versions (`follow.rs`).

use std::ffi::OsStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::Space;
use hypermount_drive::scratch::Pool;
use hypermount_drive::sync::{Mutex, Rank, ReadGuard, RwLock, WriteGuard};
use hypermount_drive::{Drive, DrivePath, Entry, Kind, Name, Stat, Store};
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use crate::attr::{self, Owner, TTL_ABSENT_FOLLOWED, TTL_FOLLOWED, TTL_FROZEN};
use crate::errno::{Error, Result};
use crate::handle::{DirHandle, FileHandle, HandleTable};
use crate::inode::{InodeTable, Node, Numbers};
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

/// Nested drives open at once in one mount.
pub const MAX_NESTED_DRIVES: usize = 1024;
/// Of entries with more attribute bytes than this, only the rest is kept.
const MAX_KEPT_ATTRIBUTE_BYTES: usize = 4096;
/// Attributes of a core shown as a file: it may grow, and nothing tells the kernel.
const TTL_CORE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    pub owner: Owner,
    pub patience: Patience,
    /// Changes nothing, whoever holds the keys.
    pub read_only: bool,
}

/// Where an inode's content comes from.
#[derive(Clone)]
pub(crate) struct Place {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    /// The drive that begins here, if one does.
    pub crossing: Option<Crossing>,
    /// The file being changed, while it is open in a drive that can be written.
    pub staged: Option<Arc<StagedFile>>,
    known: Option<Known>,
}

/// What the path held when it was last looked at. When the path leads elsewhere, this is what the inode
/// is to the programs that looked it up before, as on a local disk.
#[derive(Clone)]
struct Known {
    /// The version it was found in, while the path is the same and nothing of the entry is left out.
    version: Option<u64>,
    entry: Arc<Entry>,
}

impl Place {
    pub(crate) fn new(volume: Arc<Volume>, path: DrivePath) -> Self {
        Self { volume, path, crossing: None, staged: None, known: None }
    }

    /// The path is another one now: what it holds has to be looked up.
    pub(crate) fn moved(&mut self) {
        if let Some(known) = &mut self.known {
            known.version = None;
        }
    }

    /// `entry` is what the path last led to. It does not any more.
    pub(crate) fn replaced(&mut self, entry: &Arc<Entry>) {
        self.known = Some(Known { version: None, entry: entry.clone() });
    }

    /// Changes what the inode is to those who still have it.
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

/// What an inode is now.
pub(crate) struct Resolved {
    pub place: Place,
    pub entry: Arc<Entry>,
    /// The version it was found in; `None` if the path leads elsewhere by now, and this is what
    /// the open files of the inode read.
    pub version: Option<u64>,
}

/// A directory to look names up in: nested drives have been entered.
pub(crate) struct Directory {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    pub mount_path: Arc<str>,
}

/// The answer to a look-up.
#[derive(Debug)]
pub enum Looked {
    Found {
        ino: u64,
        attributes: FileAttr,
        /// How long the name and the attributes may be believed.
        entry_ttl: Duration,
        attributes_ttl: Duration,
    },
    /// Proven not to exist, and how long that may be believed.
    Absent { ttl: Duration },
}

impl Looked {
    /// What was found. The kernel takes the inode's number from its attributes. Beside a detached inode
    /// the number shown is another one: the kernel is to ask for the attributes by themselves.
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

/// Room for files, in bytes.
pub type Room = Space;

/// What a filesystem is of its mount: all of it, or one drive among others.
#[derive(Clone)]
pub struct Part {
    /// Where in the mount it begins, without slashes at the ends.
    pub(crate) prefix: Arc<str>,
    pub(crate) numbers: Numbers,
    /// The mount's.
    pub(crate) journal: Arc<Journal>,
}

impl Part {
    fn whole() -> Self {
        Self { prefix: "".into(), numbers: Numbers::ALL, journal: Arc::default() }
    }

    /// A path of this filesystem as one of the mount.
    pub(crate) fn in_mount(&self, path: &str) -> String {
        if path.is_empty() { self.prefix.to_string() } else { join(&self.prefix, path) }
    }
}

pub struct Fs {
    pub(crate) store: Store,
    pub(crate) options: FsOptions,
    pub(crate) runtime: Handle,
    pub(crate) scratch: Arc<Pool>,
    pub(crate) root: Arc<Volume>,
    pub(crate) inodes: RwLock<InodeTable<Place>>,
    pub(crate) files: HandleTable<FileHandle>,
    pub(crate) directories: HandleTable<DirHandle>,
    /// Open files of `status.rs`.
    pub(crate) statuses: HandleTable<Bytes>,
    pub(crate) invalidations: Arc<Invalidations>,
    pub(crate) overtaken: Overtaken,
    pub(crate) showing: Showing,
    /// By parent, name and thread.
    stalled_names: Stalls<(u64, String, u32)>,
    pub(crate) part: Part,
    /// Counts the nested drives open now: each holds a clone.
    nested: Arc<()>,
    /// The last ones that no peer had.
    unreachable: Unreachable,
    /// Those nested drives.
    entered: Mutex<Vec<Weak<Volume>>>,
    /// Itself, for the tasks that follow its drives.
    pub(crate) this: Weak<Fs>,
}

impl Fs {
    /// Shows `drive`, and the drives nested in it, which are opened through `store`. A drive that
    /// is not frozen is followed by a task on `runtime`.
    pub fn new(drive: Drive, store: Store, options: FsOptions, runtime: Handle) -> Arc<Self> {
        Self::within(drive, store, options, runtime, Part::whole())
    }

    /// The same as a part of a mount of several drives.
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

    /// The drive at the root of the mount.
    pub fn drive(&self) -> &Drive {
        &self.root.drive
    }

    /// Whether the root drive can be written through this mount.
    pub fn is_writable(&self) -> bool {
        self.root.writable
    }

    /// The version of the root drive the mount shows.
    pub fn version(&self) -> u64 {
        self.root.snapshot().version()
    }

    /// Inodes the kernel knows, files and directories it has open.
    pub fn load(&self) -> (usize, usize) {
        let open = self.files.len() + self.directories.len() + self.statuses.len();
        (self.inodes().len(), open)
    }

    /// What the kernel must drop from its caches.
    pub fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    /// What failed, and who fetched how much, in all of the mount.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.part.journal
    }

    /// Where in its mount it begins, without slashes at the ends.
    pub fn prefix(&self) -> &str {
        &self.part.prefix
    }

    /// The number of its root.
    pub(crate) fn root_number(&self) -> u64 {
        self.part.numbers.root()
    }

    /// The drives shown now: the mount's own, and the nested ones that were entered.
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

    /// What an inode is: as of the version shown, or, once the path leads elsewhere, as it was opened,
    /// or else as it was last looked up. A program may have found it just before.
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

    /// The path no longer leads to this inode, which the kernel is told once.
    pub(crate) fn supersede(&self, ino: u64) {
        let mut inodes = self.inodes_mut();
        let Some(path) = inodes.get(ino).map(|node| node.path.clone()) else { return };
        if inodes.detach(ino) {
            drop(inodes);
            self.invalidations.push(self.entry_notice(&path));
        }
    }

    /// How long the kernel may keep what it is told about a version: not at all if another one is
    /// shown by now. That has to be asked after the inode was given to the kernel: then either
    /// `follow.rs` finds the inode and has the kernel told, or we find the new version here.
    pub(crate) fn while_current(&self, volume: &Volume, version: u64, ttl: Duration) -> Duration {
        if volume.snapshot().version() == version { ttl } else { Duration::ZERO }
    }

    /// The directory an inode is, entering the drive that begins there.
    pub(crate) async fn directory(&self, ino: u64) -> Result<Directory> {
        let Resolved { place, entry, version } = self.resolve(ino).await?;
        let mount_path = self.node(ino, |node| node.path.clone())?;
        if attr::file_type(&entry) != FileType::Directory {
            return Err(hypermount_drive::Error::NotADirectory.into());
        }
        // Removed, and nothing is in it any more, as in a directory of a local disk. (What is removed
        // here is shown as empty to programs that still have it open.)
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

    /// Opens a nested drive, once for all who ask at the same time.
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
        // One opens it while the others wait; when that fails the next one tries, and nobody is to
        // wait for more than his own time.
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

    /// Size in bytes to show. A link's is the length of what readlink answers, since programs
    /// compare the two.
    pub(crate) fn size(&self, volume: &Volume, path: &DrivePath, entry: &Entry) -> u64 {
        if entry.kind == Kind::Symlink {
            return self.target(volume, path, entry).map_or(0, |target| target.len() as u64);
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
            (attributes.ctime, attributes.atime) = (attributes.mtime, attributes.mtime);
        }
        attributes
    }

    /// What readlink(2) answers. The links of a drive that can be written were made here, and are
    /// shown as they were made; those of others must not lead out.
    fn target(&self, volume: &Volume, path: &DrivePath, entry: &Entry) -> Result<String> {
        let stored = entry.stat.linkname.as_deref().unwrap_or("");
        if volume.writable {
            return Ok(stored.to_owned());
        }
        Ok(symlink::target(path, stored)?.into_owned())
    }

    /// Gives an inode for an entry to the kernel.
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
        // A file that is open here is the same file however it was changed through this mount.
        if let Some((ino, node)) = known
            && node.place.staged.is_some()
            && Arc::ptr_eq(&node.place.volume, volume)
        {
            let shown = node.shown;
            inodes.again(ino);
            return (ino, shown);
        }
        let ino = inodes.remember(mount_path, entry, !volume.writable, make, refresh);
        // A new file that is not stored yet, seen for the first time or again.
        if volume.writable
            && let Some(staged) = volume.unstored().get(path).cloned()
            && let Some(node) = inodes.get_mut(ino)
        {
            node.place.staged.get_or_insert(staged);
        }
        let shown = inodes.get(ino).map_or(ino, |node| node.shown);
        (ino, shown)
    }

    /// A core's length is only known once a peer told it; a file that shows as empty because
    /// nobody asked would be copied as empty.
    async fn learn_core_length(&self, entry: &Entry) {
        if let Some(key) = attr::core_of(entry)
            && let Ok(core) = self.store.core(key)
            && core.head().length == 0
        {
            let _ = core.longer_than(0, self.options.patience.names()).await;
        }
    }

    /// The file being changed at this path: an open one, or a new one that is not stored yet.
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

    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Looked> {
        self.lookup_for(parent, name, 0).await
    }

    /// As [`Fs::lookup`], for a thread. When the kernel cannot confirm a name it has, it looks it up anew
    /// for the same call; that call is not to wait twice.
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
            None => snapshot.entry(&path, self.options.patience.names()).await.map(Arc::new),
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

    /// The kernel drops `count` look-ups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        let forgotten = self.inodes_mut().forget(ino, count);
        // Dropped only now: it may be the last to hold a nested drive, and closing one takes locks.
        drop(forgotten);
    }

    pub async fn getattr(&self, ino: u64) -> Result<(FileAttr, Duration)> {
        let Resolved { place, entry, version } = self.resolve(ino).await?;
        let shown = self.node(ino, |node| node.shown)?;
        let mut attributes = self.attributes(shown, &place.volume, &place.path, &entry);
        if place.volume.writable && self.node(ino, |node| node.is_detached())? {
            attributes.nlink = 0;
        }
        let ttl = version.map_or(Duration::ZERO, |version| {
            self.while_current(&place.volume, version, ttl(&place.volume, &entry))
        });
        Ok((attributes, ttl))
    }

    pub async fn readlink(&self, ino: u64) -> Result<String> {
        let Resolved { place, entry, .. } = self.resolve(ino).await?;
        if entry.kind != Kind::Symlink {
            return Err(Error::WrongKind);
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

    /// Room on the disk that holds the store: what reading can fill.
    pub fn statfs(&self) -> Result<Room> {
        Ok(self.store.space()?)
    }
}

/// How long the kernel may believe an entry's attributes.
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

/// A name to look up; `None` if no drive can hold it, so that it does not exist.
fn parse_name(name: &OsStr) -> Result<Option<Name>> {
    match name.to_str().map(Name::new) {
        Some(Ok(name)) => Ok(Some(name)),
        Some(Err(error @ hypermount_drive::Error::NameTooLong { .. })) => Err(error.into()),
        None if name.len() > hypermount_drive::path::MAX_NAME_BYTES => {
            Err(hypermount_drive::Error::NameTooLong {
                max: hypermount_drive::path::MAX_NAME_BYTES,
            }
            .into())
        }
        Some(Err(_)) | None => Ok(None),
    }
}

/// A name to make something under.
pub(crate) fn new_name(name: &OsStr) -> Result<Name> {
    Ok(Name::new(name.to_str().ok_or(Error::NotUtf8)?)?)
}

pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

pub(crate) fn usize_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
