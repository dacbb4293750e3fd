//! What every operation means: POSIX semantics over snapshots of drives, without a kernel.
//!
//! Each operation is one async fn that a test can call. It returns at once if everything it needs
//! is on this machine, and may wait for peers, within the limits of [`Patience`], if not. Nothing
//! here blocks a thread or holds a lock across an await.
//!
//! Not here: the wire format of requests (`adapter.rs`), where they wait (`serve.rs`), and the
//! arrival of new versions (`follow.rs`).

use std::ffi::OsStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drive::core::demand::Urgency;
use drive::store::Space;
use drive::{Drive, DrivePath, DriveUrl, Entry, Kind, Name, Store, Wait};
use fuser::{FileAttr, FileType};
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use crate::attr::{self, Owner, TTL_ABSENT_FOLLOWED, TTL_FOLLOWED, TTL_FROZEN};
use crate::errno::{Error, Result};
use crate::handle::{Content, DirHandle, FileHandle, HandleTable, Listing};
use crate::inode::{InodeTable, Node};
use crate::invalidate::Invalidations;
use crate::symlink;
use crate::volume::{Crossing, Volume};
use crate::walk_ahead::WalkAhead;
use crate::xattr::{self, Answer};

/// Nested drives open at once in one mount.
pub const MAX_NESTED_DRIVES: usize = 1024;
/// Entries with more attribute bytes than this are looked up again instead of being kept.
const MAX_KEPT_ATTRIBUTE_BYTES: usize = 4096;
/// Attempts to list a directory in a version that is still the newest when it is done.
const MAX_RELISTINGS: usize = 3;
/// Attributes of a core shown as a file: it may grow, and nothing tells the kernel.
const TTL_CORE: Duration = Duration::from_secs(1);

/// How long operations wait for peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: what is not on this machine fails at once.
    Offline,
    /// A whole operation on names, and each block of data, at most this long.
    Limited { names: Duration, data: Duration },
    /// As long as it takes.
    Forever,
}

impl Default for Patience {
    fn default() -> Self {
        Patience::Limited { names: Duration::from_secs(10), data: Duration::from_secs(30) }
    }
}

impl Patience {
    pub(crate) fn names(self) -> Wait {
        match self {
            Patience::Offline => Wait::Local,
            Patience::Limited { names, .. } => Wait::within(names),
            Patience::Forever => Wait::Forever,
        }
    }

    fn data(self) -> Wait {
        match self {
            Patience::Offline => Wait::Local,
            Patience::Limited { data, .. } => Wait::Each(data),
            Patience::Forever => Wait::Forever,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    pub owner: Owner,
    pub patience: Patience,
}

/// Where an inode's content comes from.
#[derive(Clone)]
pub(crate) struct Place {
    pub volume: Arc<Volume>,
    pub path: DrivePath,
    /// The drive that begins here, if one does.
    pub crossing: Option<Crossing>,
    /// What the path holds in a version of the volume.
    known: Option<(u64, Arc<Entry>)>,
}

impl Place {
    fn new(volume: Arc<Volume>, path: DrivePath) -> Self {
        Self { volume, path, crossing: None, known: None }
    }

    fn know(&mut self, version: u64, entry: &Arc<Entry>) {
        let target = entry.stat.mount.as_ref().filter(|_| entry.kind == Kind::Mount);
        if self.crossing.as_ref().map(|crossing| &crossing.target) != target {
            self.crossing = target.cloned().map(Crossing::new);
        }
        let attributes = &entry.stat.attributes;
        let bytes: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        self.known = (bytes <= MAX_KEPT_ATTRIBUTE_BYTES).then(|| (version, entry.clone()));
    }
}

/// What an inode is now.
struct Resolved {
    place: Place,
    entry: Arc<Entry>,
    /// The version it was found in; `None` if the path leads elsewhere by now, and this is what
    /// the open files of the inode read.
    version: Option<u64>,
}

/// A directory to look names up in: nested drives have been entered.
struct Directory {
    volume: Arc<Volume>,
    path: DrivePath,
    mount_path: Arc<str>,
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

#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub handle: u64,
    /// The pages the kernel has of this file hold the same bytes.
    pub keep_cache: bool,
}

/// One name of a directory.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The inode, counted as looked up; 0 where only `shown` is given.
    pub ino: u64,
    pub shown: u64,
    /// Position after this name, to go on from.
    pub next: u64,
    pub name: &'a str,
    pub kind: FileType,
    /// Of a counted inode.
    pub attributes: Option<FileAttr>,
    pub ttl: Duration,
}

/// A listing to page through.
pub struct Page {
    directory: Arc<DirHandle>,
    version: u64,
    listing: Arc<Listing>,
    offset: u64,
}

/// Room for files, in bytes.
pub type Room = Space;

pub struct Fs {
    pub(crate) store: Store,
    pub(crate) options: FsOptions,
    pub(crate) runtime: Handle,
    root: Arc<Volume>,
    inodes: RwLock<InodeTable<Place>>,
    files: HandleTable<FileHandle>,
    directories: HandleTable<DirHandle>,
    pub(crate) invalidations: Arc<Invalidations>,
    /// Counts the nested drives open now: each holds a clone.
    nested: Arc<()>,
    /// Itself, for the tasks that follow its drives.
    pub(crate) this: Weak<Fs>,
}

impl Fs {
    /// Shows `drive`, and the drives nested in it, which are opened through `store`. A drive that
    /// is not frozen is followed by a task on `runtime`.
    pub fn new(drive: Drive, store: Store, options: FsOptions, runtime: Handle) -> Arc<Self> {
        let root = Arc::new(Volume::new(drive));
        let place = Place::new(root.clone(), DrivePath::root());
        let fs = Arc::new_cyclic(|this| Self {
            store,
            options,
            runtime,
            root: root.clone(),
            inodes: RwLock::new(InodeTable::new(place)),
            files: HandleTable::new(),
            directories: HandleTable::new(),
            invalidations: Arc::default(),
            nested: Arc::new(()),
            this: this.clone(),
        });
        fs.follow(&root);
        fs
    }

    /// The drive at the root of the mount.
    pub fn drive(&self) -> &Drive {
        &self.root.drive
    }

    /// The version of the root drive the mount shows.
    pub fn version(&self) -> u64 {
        self.root.snapshot().version()
    }

    /// Inodes the kernel knows, files and directories it has open.
    pub fn load(&self) -> (usize, usize) {
        (self.inodes().len(), self.files.len() + self.directories.len())
    }

    /// What the kernel must drop from its caches.
    pub fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    pub(crate) fn inodes(&self) -> RwLockReadGuard<'_, InodeTable<Place>> {
        self.inodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn inodes_mut(&self) -> RwLockWriteGuard<'_, InodeTable<Place>> {
        self.inodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics if an inode table invariant does not hold.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        self.inodes().check_invariants();
    }

    // Resolving inodes.

    fn node<T>(&self, ino: u64, take: impl FnOnce(&Node<Place>) -> T) -> Result<T> {
        self.inodes().get(ino).map(take).ok_or(Error::Stale)
    }

    /// What an inode is: as of the version shown, or, once that no longer has the file that an open
    /// handle reads, as it was opened.
    async fn resolve(&self, ino: u64) -> Result<Resolved> {
        let (place, opened, kind, detached) = self.node(ino, |node| {
            (node.place.clone(), node.opened().cloned(), node.kind, node.is_detached())
        })?;
        let superseded = |place: Place| match opened.clone() {
            Some(entry) => Ok(Resolved { place, entry, version: None }),
            None => Err(Error::Stale),
        };
        if detached {
            return superseded(place);
        }
        let snapshot = place.volume.snapshot();
        let version = Some(snapshot.version());
        if let Some((known, entry)) = &place.known
            && Some(*known) == version
        {
            let entry = entry.clone();
            return Ok(Resolved { place, entry, version });
        }
        let entry = match snapshot.entry(&place.path, self.options.patience.names()).await {
            Err(drive::Error::NotFound) => {
                self.supersede(ino);
                return superseded(place);
            }
            Err(error) => return Err(error.into()),
            Ok(entry) => Arc::new(entry),
        };
        let other_content =
            opened.as_ref().is_some_and(|opened| Content::of(opened) != Content::of(&entry));
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
    fn supersede(&self, ino: u64) {
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
    fn while_current(&self, volume: &Volume, version: u64, ttl: Duration) -> Duration {
        if volume.snapshot().version() == version { ttl } else { Duration::ZERO }
    }

    /// The directory an inode is, entering the drive that begins there.
    async fn directory(&self, ino: u64) -> Result<Directory> {
        let Resolved { place, entry, .. } = self.resolve(ino).await?;
        let mount_path = self.node(ino, |node| node.path.clone())?;
        if attr::file_type(&entry) != FileType::Directory {
            return Err(drive::Error::NotADirectory.into());
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
        let wait = self.options.patience.names();
        let started = Instant::now();
        let open = async || {
            if Arc::strong_count(&self.nested) > MAX_NESTED_DRIVES {
                return Err(Error::TooManyDrives { limit: MAX_NESTED_DRIVES });
            }
            let drive = Drive::open(&self.store, &target.key, target.version, wait).await?;
            let volume =
                Arc::new(Volume::nested(drive, mount_path.clone(), from, self.nested.clone()));
            self.follow(&volume);
            Ok(volume)
        };
        let child = crossing.child.get_or_try_init(open);
        let Some(deadline) = wait.deadline() else { return child.await.cloned() };
        // One opens it while the others wait; when that fails the next one tries, and nobody is to
        // wait for more than his own time.
        match timeout_at(deadline, child).await {
            Ok(opened) => opened.cloned(),
            Err(_) => Err(Error::Drive(drive::Error::Unavailable {
                core: target.key.discovery_key(),
                block: 0,
                waited: started.elapsed(),
                why: "others wait for it as well".to_owned(),
            })),
        }
    }

    /// Size in bytes to show. A link's is the length of what readlink answers, since programs
    /// compare the two.
    fn size(&self, path: &DrivePath, entry: &Entry) -> u64 {
        if entry.kind == Kind::Symlink {
            let stored = entry.stat.linkname.as_deref().unwrap_or("");
            return symlink::target(path, stored).map_or(0, |target| target.len() as u64);
        }
        match attr::core_of(entry) {
            Some(key) => self.store.core(key).map_or(0, |core| core.head().byte_length),
            None => entry.stat.extent.size,
        }
    }

    fn attributes(&self, shown: u64, volume: &Volume, path: &DrivePath, entry: &Entry) -> FileAttr {
        let ours = volume.drive.writable();
        attr::attributes(shown, entry, self.size(path, entry), self.options.owner, ours)
    }

    /// Gives an inode for an entry to the kernel.
    fn remember(
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
        let ino = inodes.remember(mount_path, entry, make, refresh);
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

    // Names and attributes.

    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Looked> {
        let directory = self.directory(parent).await?;
        let Some(name) = parse_name(name)? else {
            return Ok(Looked::Absent { ttl: TTL_FROZEN });
        };
        let volume = &directory.volume;
        let path = directory.path.join(&name)?;
        let snapshot = volume.snapshot();
        let frozen = volume.is_frozen();
        let entry = match snapshot.entry(&path, self.options.patience.names()).await {
            Ok(entry) => Arc::new(entry),
            Err(drive::Error::NotFound) => {
                let ttl = if frozen { TTL_FROZEN } else { TTL_ABSENT_FOLLOWED };
                let ttl = self.while_current(volume, snapshot.version(), ttl);
                return Ok(Looked::Absent { ttl });
            }
            Err(error) => return Err(error.into()),
        };
        self.learn_core_length(&entry).await;
        let mount_path = join(&directory.mount_path, name.as_str());
        let (ino, shown) = self.remember(volume, &path, &mount_path, snapshot.version(), &entry);
        let entry_ttl = if frozen { TTL_FROZEN } else { TTL_FOLLOWED };
        let current = |ttl| self.while_current(volume, snapshot.version(), ttl);
        Ok(Looked::Found {
            ino,
            attributes: self.attributes(shown, volume, &path, &entry),
            entry_ttl: current(entry_ttl),
            attributes_ttl: current(ttl(volume, &entry)),
        })
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
        let attributes = self.attributes(shown, &place.volume, &place.path, &entry);
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
        let stored = entry.stat.linkname.as_deref().unwrap_or("");
        Ok(symlink::target(&place.path, stored)?.into_owned())
    }

    /// access(2) for the owner; `mask` as there. The kernel checks the permission bits itself.
    pub async fn access(&self, ino: u64, mask: i32) -> Result<()> {
        self.resolve(ino).await?;
        if mask & libc::W_OK != 0 { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// What every operation that would change something answers. That the file exists was the
    /// kernel's to find out: ENOENT comes before EROFS.
    pub fn refuse_change(&self, ino: u64) -> Error {
        self.node(ino, |_| ()).err().unwrap_or(Error::ReadOnly)
    }

    // Files.

    /// Opens a regular file; `flags` as in open(2).
    pub async fn open(&self, ino: u64, flags: i32) -> Result<Opened> {
        let was_detached = self.node(ino, |node| node.is_detached())?;
        let Resolved { place, entry, version } = self.resolve(ino).await?;
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(Error::ReadOnly);
        }
        // The path leads to another file by now: the kernel looks it up again. (An inode that had
        // been parted from its path before can only be opened again through an open file of it.)
        if version.is_none() && !was_detached {
            return Err(Error::Stale);
        }
        let Some(content) = Content::of(&entry) else {
            return Err(match attr::file_type(&entry) {
                FileType::Directory => drive::Error::IsADirectory.into(),
                _ => Error::WrongKind,
            });
        };
        if let Content::Extent(extent) = &content {
            Drive::check_extent(extent)?;
            WalkAhead::opened(&place.volume, &place.path, extent.size, &self.runtime);
        }
        let keep_cache = self.inodes_mut().open(ino, &entry, &content);
        let is_core = matches!(content, Content::Core(_));
        let handle = self.files.insert(FileHandle {
            ino,
            size: self.size(&place.path, &entry),
            volume: place.volume,
            content,
            readahead: Default::default(),
        });
        Ok(Opened { handle, keep_cache: keep_cache && !is_core })
    }

    /// Up to `length` bytes from `offset`, less only at the end of the file, in pieces as they lie
    /// in blocks.
    pub async fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Vec<Bytes>> {
        let file = self.files.get(handle)?;
        let range = file.clamp(offset, length)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let expected = range.end - range.start;
        let drive = &file.volume.drive;
        let wait = self.options.patience.data();
        let ahead = file
            .readahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(range.clone(), file.size);
        if let (Some(ahead), Content::Extent(extent)) = (ahead, &file.content) {
            drive.prefetch(extent, ahead, Urgency::Ahead);
        }
        let pieces = match &file.content {
            Content::Extent(extent) => drive.read(extent, range, wait).await?,
            Content::Core(key) => drive.read_core(key, range, wait).await?,
        };
        // The kernel fills a short answer with zeroes, which nobody signed.
        let got: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if got != expected {
            return Err(Error::BadContent(format!("{got} bytes where {expected} were promised")));
        }
        Ok(pieces)
    }

    pub fn release(&self, handle: u64) -> Result<()> {
        let file = self.files.remove(handle)?;
        self.inodes_mut().close(file.ino);
        Ok(())
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`: a file is data to its end, whether or not that
    /// data is on this machine. (Programs that copy skip holes.)
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.files.get(handle)?;
        let size = i64::try_from(file.size).unwrap_or(i64::MAX);
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE if offset < 0 || offset >= size => {
                Err(Error::BeyondEnd)
            }
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(size),
            _ => Err(Error::InvalidArgument),
        }
    }

    // Directories.

    pub async fn opendir(&self, ino: u64) -> Result<u64> {
        let directory = self.directory(ino).await?;
        let inodes = self.inodes();
        let shown = inodes.get(ino).ok_or(Error::Stale)?.shown;
        let parent = directory.mount_path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let shown_parent = inodes.shown(parent);
        drop(inodes);
        let Directory { volume, path, mount_path } = directory;
        Ok(self.directories.insert(DirHandle::new(shown, shown_parent, mount_path, volume, path)))
    }

    /// The listing of an open directory, to go on from `offset`: 0, or a `next` it gave before.
    /// Starting over shows the newest version; going on never mixes two.
    pub async fn readdir(&self, handle: u64, offset: u64) -> Result<Page> {
        let directory = self.directories.get(handle)?;
        if offset != 0
            && let Some((version, listing)) = directory.listing()
        {
            return Ok(Page { directory, version, listing, offset });
        }
        // The kernel keeps a listing that starts at the beginning; one that a new version overtook
        // while it was made must not be what it keeps.
        for _ in 0..MAX_RELISTINGS {
            let snapshot = directory.volume.snapshot();
            let listing = snapshot.list(&directory.path, self.options.patience.names()).await?;
            let listing: Listing =
                listing.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect();
            directory.pin(snapshot.version(), Arc::new(listing));
            if directory.volume.snapshot().version() == snapshot.version() {
                break;
            }
        }
        let (version, listing) = directory.listing().ok_or(Error::BadHandle)?;
        Ok(Page { directory, version, listing, offset })
    }

    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.directories.remove(handle).map(drop)
    }

    // The volume and extended attributes.

    /// Room on the disk that holds the store: what reading can fill.
    pub fn statfs(&self) -> Result<Room> {
        Ok(self.store.space()?)
    }

    /// The value of an extended attribute, for a buffer of `room` bytes (0 asks for the size).
    pub async fn getxattr(&self, ino: u64, name: &OsStr, room: u32) -> Result<Answer> {
        let name = name.to_str().ok_or(Error::NoAttribute)?;
        if !name.starts_with("user.") {
            return Err(Error::NoAttribute);
        }
        let Resolved { place, entry, .. } = self.resolve(ino).await?;
        let value = match name.strip_prefix(xattr::OWN) {
            Some(own) => self.own_attribute(&place, &entry, own)?.into_bytes(),
            None => xattr::value(&entry.stat, name)?.to_vec(),
        };
        xattr::answer(value, room)
    }

    /// The names of the extended attributes, each followed by NUL.
    pub async fn listxattr(&self, ino: u64, room: u32) -> Result<Answer> {
        let Resolved { entry, .. } = self.resolve(ino).await?;
        xattr::answer(xattr::list(&entry.stat)?, room)
    }

    /// `user.hypermount.<own>`: `key` and `version` of the drive the file is in, the `url` to share
    /// it by, and how much of a file is `local` (blocks here / blocks).
    fn own_attribute(&self, place: &Place, entry: &Entry, own: &str) -> Result<String> {
        let child = place.crossing.as_ref().and_then(|crossing| crossing.child.get());
        let target = place.crossing.as_ref().map(|crossing| &crossing.target);
        let drive = &place.volume.drive;
        let key = *target.map_or(drive.key(), |target| &target.key);
        match own {
            "key" => Ok(key.to_hex()),
            "version" => match (child, target) {
                (Some(child), _) => Ok(child.snapshot().version().to_string()),
                (None, None) => Ok(place.volume.snapshot().version().to_string()),
                (None, Some(target)) => {
                    target.version.map(|version| version.to_string()).ok_or(Error::NoAttribute)
                }
            },
            "url" => {
                let (version, path) = match target {
                    Some(target) => (target.version, DrivePath::root()),
                    None => (drive.frozen_version(), place.path.clone()),
                };
                Ok(DriveUrl { key, version, path }.to_string())
            }
            "local" if entry.kind == Kind::File && attr::core_of(entry).is_none() => {
                let (_, held) = drive.held(&entry.stat.extent);
                Ok(format!("{held}/{}", entry.stat.extent.blocks))
            }
            _ => Err(Error::NoAttribute),
        }
    }
}

impl Page {
    /// Offers the names from the page's offset on to `add` until it says that it is full. With
    /// `plus`, each name but `.` and `..` is counted as looked up, once it was taken.
    pub fn fill(&self, fs: &Fs, plus: bool, mut add: impl FnMut(&Listed<'_>) -> bool) {
        let directory = &self.directory;
        let dots = [(".", directory.shown), ("..", directory.shown_parent)];
        for (position, (name, shown)) in (0..).zip(dots).skip(usize_of(self.offset)) {
            let (kind, ttl, next) = (FileType::Directory, Duration::ZERO, position + 1);
            let listed = Listed { ino: 0, shown, next, name, kind, attributes: None, ttl };
            if add(&listed) {
                return;
            }
        }
        let first = usize_of(self.offset.saturating_sub(2));
        for (position, (name, entry)) in self.listing.iter().enumerate().skip(first) {
            let next = position as u64 + 3;
            let full = if plus {
                self.add_counted(fs, next, name, entry, &mut add)
            } else {
                let shown = fs.inodes().shown(&join(&directory.mount_path, name.as_str()));
                let kind = attr::file_type(entry);
                let (name, ttl) = (name.as_str(), Duration::ZERO);
                add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl })
            };
            if full {
                return;
            }
        }
    }

    fn add_counted(
        &self,
        fs: &Fs,
        next: u64,
        name: &Name,
        entry: &Arc<Entry>,
        add: &mut impl FnMut(&Listed<'_>) -> bool,
    ) -> bool {
        let directory = &self.directory;
        let volume = &directory.volume;
        // A path too long to be looked up is listed without an inode.
        let Ok(path) = directory.path.join(name) else {
            let kind = attr::file_type(entry);
            let (shown, name, ttl) = (0, name.as_str(), Duration::ZERO);
            return add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl });
        };
        let mount_path = join(&directory.mount_path, name.as_str());
        let (ino, shown) = fs.remember(volume, &path, &mount_path, self.version, entry);
        let full = add(&Listed {
            ino,
            shown,
            next,
            name: name.as_str(),
            kind: attr::file_type(entry),
            attributes: Some(fs.attributes(shown, volume, &path, entry)),
            ttl: fs.while_current(volume, self.version, ttl(volume, entry)),
        });
        if full {
            fs.forget(ino, 1);
        }
        full
    }
}

/// How long the kernel may believe an entry's attributes.
fn ttl(volume: &Volume, entry: &Entry) -> Duration {
    if attr::core_of(entry).is_some() {
        TTL_CORE
    } else if volume.is_frozen() {
        TTL_FROZEN
    } else {
        TTL_FOLLOWED
    }
}

/// A name to look up; `None` if no drive can hold it, so that it does not exist.
fn parse_name(name: &OsStr) -> Result<Option<Name>> {
    match name.to_str().map(Name::new) {
        Some(Ok(name)) => Ok(Some(name)),
        Some(Err(error @ drive::Error::NameTooLong { .. })) => Err(error.into()),
        None if name.len() > drive::path::MAX_NAME_BYTES => {
            Err(drive::Error::NameTooLong { max: drive::path::MAX_NAME_BYTES }.into())
        }
        Some(Err(_)) | None => Ok(None),
    }
}

pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn usize_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
