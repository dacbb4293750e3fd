//! Operations that change names: create, remove and rename.
//!
//! Each operation holds the turn of its volume's drive from the check to the change, and is one
//! batch: other readers of the drive see all of it or nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{FileAttr, FileType};
use hypermount_drive::{
    DrivePath, Edit, Entry, Kind, Link, LinkId, Stat, TYPE_BLOCK_DEVICE, TYPE_CHARACTER_DEVICE,
    TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_MASK, TYPE_SOCKET, TYPE_SYMLINK, Time, escape_path,
};

use crate::attr::{self, TTL_FOLLOWED};
use crate::errno::{Error, Result};
use crate::file::Opened;
use crate::filesystem::{Directory, Fs, Looked, Place, join, new_name, ttl};
use crate::follow::mount_path;
use crate::platform::Caller;
use crate::staging::StagedFile;
use crate::symlink::MAX_TARGET_BYTES;
use crate::volume::Volume;
use crate::write::Turn;

/// Most entries that one rename may move. All of them are one batch, which is built in memory.
pub(crate) const MAX_RENAMED: usize = 1_000_000;
const PERMISSIONS: u32 = 0o7777;
const SET_GROUP_ID: u32 = 0o2000;

/// How rename(2) treats an existing destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replaces the destination, as plain rename(2).
    Replace,
    /// Fails if the destination exists (RENAME_NOREPLACE).
    NoReplace,
    /// Swaps both entries (RENAME_EXCHANGE).
    Exchange,
}

/// A name in a directory that can be changed.
struct Spot {
    directory: Directory,
    /// Inode of the directory.
    ino: u64,
    parent: Arc<Entry>,
    path: DrivePath,
    mount_path: String,
}

impl Spot {
    fn volume(&self) -> &Arc<Volume> {
        &self.directory.volume
    }

    /// Stores the directory if it is only implied by its entries, so that it stays when they are
    /// gone.
    fn keep_parent(&self, fs: &Fs, edits: &mut Vec<Edit>) {
        if !self.parent.explicit && !self.directory.path.is_root() {
            let owner = fs.options.owner;
            let stat = Stat { uid: owner.uid, gid: owner.gid, ..self.parent.stat.clone() };
            edits.push(Edit::Put { path: self.directory.path.clone(), stat });
        }
    }
}

impl Fs {
    /// The directory `ino`.
    ///
    /// # Errors
    ///
    /// Fails if it is not a directory, or if this mount cannot change it.
    async fn writable_directory(&self, ino: u64) -> Result<(Directory, Arc<Entry>)> {
        let directory = self.directory(ino).await?;
        if !directory.volume.writable {
            return Err(Error::ReadOnly);
        }
        if self.node(ino, |node| node.is_detached())? {
            return Err(hypermount_drive::Error::NotFound.into());
        }
        let entry = match directory.path.is_root() {
            true => {
                let names = self.options.patience.names();
                Arc::new(directory.volume.snapshot().entry(&directory.path, names).await?)
            }
            false => self.resolve(ino).await?.entry,
        };
        Ok((directory, entry))
    }

    async fn spot(&self, ino: u64, name: &OsStr) -> Result<Spot> {
        let (directory, parent) = self.writable_directory(ino).await?;
        let name = new_name(name)?;
        let path = directory.path.join(&name)?;
        let mount_path = join(&directory.mount_path, name.as_str());
        Ok(Spot { directory, ino, parent, path, mount_path })
    }

    /// Resolves the spot again once no other writer can change the volume: its directory may have
    /// been renamed during the wait for the turn.
    async fn spot_again(&self, spot: Spot) -> Result<Spot> {
        let same = self.node(spot.ino, |node| *node.path == *spot.directory.mount_path)?;
        match spot.path.file_name() {
            Some(name) if !same => self.spot(spot.ino, &name).await,
            _ => Ok(spot),
        }
    }

    /// The entry at the spot, staged or stored.
    async fn occupant(&self, spot: &Spot) -> Result<Option<Arc<Entry>>> {
        if let Some(staged) = self.staged_at(spot.volume(), &spot.path, &spot.mount_path) {
            return Ok(Some(staged.entry()));
        }
        self.stored(spot.volume(), &spot.path).await
    }

    async fn stored(&self, volume: &Volume, path: &DrivePath) -> Result<Option<Arc<Entry>>> {
        match volume.snapshot().entry(path, self.options.patience.names()).await {
            Ok(entry) => Ok(Some(Arc::new(entry))),
            Err(hypermount_drive::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn vacant(&self, spot: &Spot) -> Result<()> {
        match self.occupant(spot).await? {
            Some(_) => Err(hypermount_drive::Error::AlreadyExists.into()),
            None => Ok(()),
        }
    }

    /// Gives the kernel an inode for a new entry.
    fn made(&self, spot: &Spot, entry: &Arc<Entry>) -> (u64, FileAttr) {
        let volume = spot.volume();
        let version = volume.snapshot().version();
        let (ino, shown) = self.remember(volume, &spot.path, &spot.mount_path, version, entry);
        (ino, self.attributes(shown, volume, &spot.path, entry))
    }

    async fn make(
        &self,
        parent: u64,
        name: &OsStr,
        stat: impl FnOnce(&Entry) -> Stat,
    ) -> Result<Looked> {
        let spot = self.spot(parent, name).await?;
        let volume = spot.volume().clone();
        let turn = self.turn(&volume).await;
        let spot = self.spot_again(spot).await?;
        self.vacant(&spot).await?;
        let stat = stat(&spot.parent);
        let entry = Arc::new(Entry::stored(stat.clone()));
        self.apply(&volume, &turn, vec![Edit::Put { path: spot.path.clone(), stat }]).await?;
        self.touch(&volume, &turn, &spot.directory.path).await;
        volume.touched().remove(&spot.path);
        let (ino, attributes) = self.made(&spot, &entry);
        self.end(&volume, turn).await;
        let (entry_ttl, attributes_ttl) = (TTL_FOLLOWED, ttl(&volume, &entry));
        Ok(Looked::found(ino, attributes, entry_ttl, attributes_ttl))
    }

    /// mkdir(2).
    pub async fn mkdir(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        maker: Caller,
    ) -> Result<Looked> {
        self.make(parent, name, |parent| {
            let inherited = parent.stat.mode & SET_GROUP_ID;
            new_stat(TYPE_DIRECTORY | mode & PERMISSIONS | inherited, parent, maker)
        })
        .await
    }

    /// symlink(2); the target is stored as given, as text.
    pub async fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        maker: Caller,
    ) -> Result<Looked> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(hypermount_drive::Error::NameTooLong { max: MAX_TARGET_BYTES }.into());
        }
        if target.is_empty() {
            return Err(hypermount_drive::Error::NotFound.into());
        }
        self.make(parent, name, |parent| {
            let linkname = Some(escape_path(target.as_bytes()).into_owned());
            Stat { linkname, ..new_stat(TYPE_SYMLINK | 0o777, parent, maker) }
        })
        .await
    }

    /// mknod(2); `number` is that of a device. Whether the caller may make one, the kernel has checked.
    pub async fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        number: u32,
        maker: Caller,
    ) -> Result<Looked> {
        let device = match mode & TYPE_MASK {
            TYPE_FILE | TYPE_FIFO | TYPE_SOCKET => None,
            TYPE_CHARACTER_DEVICE | TYPE_BLOCK_DEVICE => Some(attr::device(number)),
            _ => return Err(Error::InvalidArgument),
        };
        let mode = mode & (TYPE_MASK | PERMISSIONS);
        self.make(parent, name, |parent| Stat { device, ..new_stat(mode, parent, maker) }).await
    }

    /// Creates a file and opens it. The file becomes part of the drive at its first close or
    /// fsync(2).
    pub async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
        maker: Caller,
    ) -> Result<(Looked, Opened)> {
        let spot = self.spot(parent, name).await?;
        let volume = spot.volume().clone();
        let turn = self.turn(&volume).await;
        let spot = self.spot_again(spot).await?;
        let found = |ino, attributes, entry: &Entry| {
            let (entry_ttl, attributes_ttl) = (TTL_FOLLOWED, ttl(&volume, entry));
            Looked::found(ino, attributes, entry_ttl, attributes_ttl)
        };
        // Another writer made it after the kernel's lookup.
        if let Some(entry) = self.occupant(&spot).await? {
            if flags & libc::O_EXCL != 0 {
                return Err(hypermount_drive::Error::AlreadyExists.into());
            }
            let (ino, attributes) = self.made(&spot, &entry);
            // `open` takes the turn itself if the file keeps changing.
            drop(turn);
            return match self.open(ino, flags, maker).await {
                Ok(opened) => Ok((found(ino, attributes, &entry), opened)),
                Err(error) => {
                    self.forget(ino, 1);
                    Err(error)
                }
            };
        }
        let stat = new_stat(TYPE_FILE | mode & PERMISSIONS, &spot.parent, maker);
        let scratch = self.scratch.clone();
        let key = *volume.drive.key();
        let staged = Arc::new(StagedFile::new(key, spot.path.clone(), stat, false, scratch));
        volume.unstored().insert(spot.path.clone(), staged.clone());
        let entry = staged.entry();
        let (ino, attributes) = self.made(&spot, &entry);
        let place = Place::new(volume.clone(), spot.path.clone());
        let opened = self.open_staged(ino, &place, None, &entry, flags).ok_or(Error::Stale)?;
        self.touch(&volume, &turn, &spot.directory.path).await;
        Ok((found(ino, attributes, &entry), opened))
    }

    /// unlink(2).
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let spot = self.spot(parent, name).await?;
        let volume = spot.volume().clone();
        let turn = self.turn(&volume).await;
        let spot = self.spot_again(spot).await?;
        let entry = self.occupant(&spot).await?.ok_or(hypermount_drive::Error::NotFound)?;
        if attr::file_type(&entry) == FileType::Directory {
            return Err(hypermount_drive::Error::IsADirectory.into());
        }
        self.remove_at(&spot, turn, &entry).await
    }

    /// rmdir(2).
    pub async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let spot = self.spot(parent, name).await?;
        let volume = spot.volume().clone();
        let turn = self.turn(&volume).await;
        let spot = self.spot_again(spot).await?;
        let entry = self.occupant(&spot).await?.ok_or(hypermount_drive::Error::NotFound)?;
        match entry.kind {
            Kind::Directory => {}
            Kind::Mount => return Err(Error::Busy),
            _ => return Err(hypermount_drive::Error::NotADirectory.into()),
        }
        self.must_be_empty(&volume, &spot.path).await?;
        self.remove_at(&spot, turn, &entry).await
    }

    async fn must_be_empty(&self, volume: &Volume, path: &DrivePath) -> Result<()> {
        let new = volume.unstored().keys().any(|new| new.parent().as_ref() == Some(path));
        let children = volume.snapshot().list(path, self.options.patience.names()).await;
        match children {
            Ok(children) if children.is_empty() && !new => Ok(()),
            Err(hypermount_drive::Error::NotFound) if !new => Ok(()),
            Ok(_) | Err(hypermount_drive::Error::NotFound) => {
                Err(hypermount_drive::Error::NotEmpty.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes `entry`, stored or not, from the spot, and ends the turn.
    async fn remove_at(&self, spot: &Spot, turn: Turn, entry: &Arc<Entry>) -> Result<()> {
        let volume = spot.volume();
        let others = self.other_names(spot, entry).await?;
        if self.stored(volume, &spot.path).await?.is_some_and(|entry| entry.explicit) {
            let mut edits = Vec::new();
            spot.keep_parent(self, &mut edits);
            edits.push(Edit::Remove { path: spot.path.clone() });
            self.apply(volume, &turn, edits).await?;
        }
        self.vanish(spot, entry, &others).await;
        self.touch(volume, &turn, &spot.directory.path).await;
        self.end(volume, turn).await;
        Ok(())
    }

    /// The other names of the file at the spot, which has this entry.
    async fn other_names(&self, spot: &Spot, entry: &Entry) -> Result<Vec<DrivePath>> {
        if entry.stat.link.is_none() {
            return Ok(Vec::new());
        }
        let names = self.options.patience.names();
        let mut others = spot.volume().snapshot().names_of(&spot.path, names).await?;
        others.retain(|name| *name != spot.path);
        Ok(others)
    }

    /// The path leads nowhere now. The inode of `entry` remains: with its `others` names, or without a path.
    async fn vanish(&self, spot: &Spot, entry: &Arc<Entry>, others: &[DrivePath]) {
        let volume = spot.volume();
        if let Some(staged) = volume.unstored().remove(&spot.path) {
            staged.remove();
        }
        volume.touched().remove(&spot.path);
        volume.accessed.forget(&spot.path);
        if let (Some(link), [other, ..]) = (entry.stat.link, others) {
            self.leave(&spot.mount_path, &mount_path(volume, other));
            self.count_again(volume, link.id).await;
            return;
        }
        let mut inodes = self.inodes_mut();
        if let Some(ino) = inodes.known(&spot.mount_path) {
            if let Some(node) = inodes.get_mut(ino) {
                node.place.replaced(entry);
                if let Some(staged) = &node.place.staged {
                    staged.remove();
                }
            }
            inodes.detach(ino);
        }
    }

    /// rename(2) of an entry, within one drive.
    pub async fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        how: Rename,
    ) -> Result<()> {
        let (from, to) = (self.spot(parent, name).await?, self.spot(new_parent, new_name).await?);
        if !Arc::ptr_eq(from.volume(), to.volume()) {
            return Err(Error::OtherDrive);
        }
        let volume = from.volume().clone();
        // Commits the new file before it replaces another: a kill must leave one of the two.
        if how == Rename::Replace
            && from.path != to.path
            && let Some(staged) = self.staged_at(&volume, &from.path, &from.mount_path)
            && let Some(there) = self.occupant(&to).await?
            && attr::file_type(&there) != FileType::Directory
            && !is_other_name(&there, &staged.entry())
        {
            self.commit(&volume, &staged).await?;
        }
        let turn = self.turn(&volume).await;
        let (from, to) = (self.spot_again(from).await?, self.spot_again(to).await?);
        let moved = self.occupant(&from).await?.ok_or(hypermount_drive::Error::NotFound)?;
        let there = self.occupant(&to).await?;
        match (how, &there) {
            (Rename::NoReplace, Some(_)) => {
                return Err(hypermount_drive::Error::AlreadyExists.into());
            }
            (Rename::Exchange, None) => return Err(hypermount_drive::Error::NotFound.into()),
            _ => {}
        }
        let other_name = there.as_ref().is_some_and(|there| is_other_name(there, &moved));
        // rename(2) does nothing to two names of one file.
        if from.path == to.path || other_name {
            return Ok(());
        }
        if is_below(&to.path, &from.path)
            || how == Rename::Exchange && is_below(&from.path, &to.path)
        {
            return Err(Error::InvalidArgument);
        }
        if let Some(there) = there.as_ref().filter(|_| how != Rename::Exchange) {
            self.may_replace(&volume, &moved, there, &to.path).await?;
        }
        let replaced = there.as_ref().filter(|_| how != Rename::Exchange);
        let others = match replaced {
            Some(there) => self.other_names(&to, there).await?,
            None => Vec::new(),
        };
        let edits = self.rename_edits(&from, &to, &moved, how).await?;
        self.apply(&volume, &turn, edits).await?;
        if how == Rename::Exchange {
            self.exchange_known(&volume, &from, &to);
        } else {
            if let Some(there) = &there {
                self.vanish(&to, there, &others).await;
            }
            self.move_known(&volume, &from.path, &to.path, &from.mount_path, &to.mount_path);
        }
        self.touch(&volume, &turn, &from.directory.path).await;
        self.touch(&volume, &turn, &to.directory.path).await;
        self.end(&volume, turn).await;
        Ok(())
    }

    async fn may_replace(
        &self,
        volume: &Volume,
        moved: &Entry,
        there: &Entry,
        path: &DrivePath,
    ) -> Result<()> {
        let is_directory = |entry: &Entry| attr::file_type(entry) == FileType::Directory;
        match (is_directory(moved), is_directory(there)) {
            (true, false) => Err(hypermount_drive::Error::NotADirectory.into()),
            (false, true) => Err(hypermount_drive::Error::IsADirectory.into()),
            (false, false) => Ok(()),
            (true, true) if there.kind == Kind::Mount => Err(Error::Busy),
            (true, true) => self.must_be_empty(volume, path).await,
        }
    }

    async fn rename_edits(
        &self,
        from: &Spot,
        to: &Spot,
        moved: &Entry,
        how: Rename,
    ) -> Result<Vec<Edit>> {
        let volume = from.volume();
        let mut result: BTreeMap<DrivePath, Option<Stat>> = BTreeMap::new();
        let mut moves = self.subtree(volume, &from.path).await?;
        let outgoing = moves.len();
        if how == Rename::Exchange {
            moves.extend(self.subtree(volume, &to.path).await?);
        } else if self.stored(volume, &to.path).await?.is_some_and(|entry| entry.explicit) {
            result.insert(to.path.clone(), None);
        }
        for (path, _) in &moves {
            result.insert(path.clone(), None);
        }
        let now = Time::now();
        for (index, (path, mut stat)) in moves.into_iter().enumerate() {
            let (old, new) = if index < outgoing { (from, to) } else { (to, from) };
            if path == old.path {
                stat.ctime = now;
            }
            result.insert(rebase(&path, &old.path, &new.path)?, Some(stat));
        }
        // An implied directory, or one whose files are all not stored yet.
        if moved.kind == Kind::Directory && !moved.explicit {
            result.entry(to.path.clone()).or_insert_with(|| Some(moved.stat.clone()));
        }
        let mut edits = Vec::new();
        let mut removes = Vec::new();
        for (path, stat) in result {
            match stat {
                Some(stat) => edits.push(Edit::Put { path, stat }),
                None => removes.push(Edit::Remove { path }),
            }
        }
        if !removes.is_empty() {
            from.keep_parent(self, &mut edits);
            to.keep_parent(self, &mut edits);
        }
        edits.extend(removes);
        Ok(edits)
    }

    /// All stored entries at and below a path.
    async fn subtree(&self, volume: &Volume, path: &DrivePath) -> Result<Vec<(DrivePath, Stat)>> {
        let snapshot = volume.snapshot();
        let names = self.options.patience.names();
        let mut found = Vec::new();
        let mut directories = Vec::new();
        let Some(top) = self.stored(volume, path).await? else { return Ok(found) };
        if top.kind == Kind::Directory {
            directories.push(path.clone());
        }
        if top.explicit {
            found.push((path.clone(), top.stat.clone()));
        }
        while let Some(directory) = directories.pop() {
            for (name, entry) in snapshot.list(&directory, names).await? {
                let path = directory.join(&name)?;
                if entry.kind == Kind::Directory {
                    directories.push(path.clone());
                }
                if entry.explicit {
                    found.push((path, entry.stat));
                }
                if found.len() > MAX_RENAMED {
                    return Err(Error::NotSupported(
                        "renaming more than 1,000,000 entries at once",
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Moves the inodes, new files and pending times of what was renamed.
    fn move_known(
        &self,
        volume: &Arc<Volume>,
        from: &DrivePath,
        to: &DrivePath,
        from_mount: &str,
        to_mount: &str,
    ) {
        let mut unstored = volume.unstored();
        let below = |path: &DrivePath| path == from || is_below(path, from);
        let moved: Vec<_> = unstored.keys().filter(|path| below(path)).cloned().collect();
        for old in moved {
            if let Some(staged) = unstored.remove(&old)
                && let Ok(new) = rebase(&old, from, to)
            {
                staged.rename(new.clone());
                unstored.insert(new, staged);
            }
        }
        drop(unstored);
        let mut touched = volume.touched();
        let moved: Vec<_> = touched.keys().filter(|path| below(path)).cloned().collect();
        for old in moved {
            if let (Some(at), Ok(new)) = (touched.remove(&old), rebase(&old, from, to)) {
                touched.insert(new, at);
            }
        }
        drop(touched);
        let renamed = |old: &DrivePath| below(old).then(|| rebase(old, from, to).ok())?;
        volume.accessed.rename(renamed);
        self.inodes_mut().rename(from_mount, to_mount, |place, mount_path, _| {
            if Arc::ptr_eq(&place.volume, volume) {
                if let Ok(path) = rebase(&place.path, from, to) {
                    place.path = path;
                }
                if let Some(staged) = &place.staged {
                    staged.rename(place.path.clone());
                }
                if let Some(child) = place.crossing.as_ref().and_then(|it| it.child.get()) {
                    child.move_to(mount_path.clone());
                }
            }
            place.moved();
        });
    }

    fn exchange_known(&self, volume: &Arc<Volume>, from: &Spot, to: &Spot) {
        // No name ends with a slash, so the kernel knows nothing at this path.
        let (Ok(aside), aside_mount) = (DrivePath::parse("\u{1}aside"), "\u{1}aside/") else {
            return;
        };
        let (a, b) = ((&from.path, &*from.mount_path), (&to.path, &*to.mount_path));
        self.move_known(volume, a.0, &aside, a.1, aside_mount);
        self.move_known(volume, b.0, a.0, b.1, a.1);
        self.move_known(volume, &aside, b.0, aside_mount, b.1);
    }

    /// link(2).
    pub async fn link(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Looked> {
        let to = self.spot(parent, name).await?;
        let volume = to.volume().clone();
        let (place, kind) = self.node(ino, |node| (node.place.clone(), node.kind))?;
        if kind == FileType::Directory {
            return Err(Error::NotPermitted("a directory has one name"));
        }
        if !Arc::ptr_eq(&place.volume, &volume) {
            return Err(Error::OtherDrive);
        }
        // Both names must have an entry.
        if let Some(staged) = place.staged.filter(|staged| !staged.is_stored()) {
            self.commit(&volume, &staged).await?;
        }
        let turn = self.turn(&volume).await;
        let to = self.spot_again(to).await?;
        self.vacant(&to).await?;
        let (path, detached) =
            self.node(ino, |node| (node.place.path.clone(), node.is_detached()))?;
        let source = self.stored(&volume, &path).await?.filter(|_| !detached);
        let source = source.ok_or(hypermount_drive::Error::NotFound)?;
        if source.stat.mount.is_some() {
            return Err(Error::NotPermitted("a nested core has one name"));
        }
        let id = source.stat.link.map_or_else(LinkId::random, |link| Ok(link.id))?;
        let link = Some(Link { id, names: 0 });
        let stat = Stat { link, ctime: Time::now(), ..source.stat.clone() };
        let edits =
            [&path, &to.path].map(|path| Edit::Put { path: path.clone(), stat: stat.clone() });
        self.apply(&volume, &turn, edits.into()).await?;
        self.touch(&volume, &turn, &to.directory.path).await;
        let entry = self.stored(&volume, &to.path).await?.ok_or(Error::Stale)?;
        self.got_a_name(&volume, &path, ino, &entry);
        self.count_again(&volume, id).await;
        let entry = self.staged_by_link(&volume, &to.path, &entry).map_or(entry, |it| it.entry());
        let (ino, attributes) = self.made(&to, &entry);
        self.end(&volume, turn).await;
        let (entry_ttl, attributes_ttl) = (TTL_FOLLOWED, ttl(&volume, &entry));
        Ok(Looked::found(ino, attributes, entry_ttl, attributes_ttl))
    }
}

fn new_stat(mode: u32, parent: &Entry, maker: Caller) -> Stat {
    let now = Time::now();
    let inherits = parent.stat.mode & SET_GROUP_ID != 0;
    let gid = if inherits { parent.stat.gid } else { maker.gid };
    let (uid, atime) = (maker.uid, Some(now));
    Stat { mode, uid, gid, mtime: now, ctime: now, atime, ..Stat::default() }
}

/// Whether both are entries of one file with several names.
fn is_other_name(one: &Entry, other: &Entry) -> bool {
    let id = |entry: &Entry| entry.stat.link.map(|link| link.id);
    id(one).is_some() && id(one) == id(other)
}

fn is_below(path: &DrivePath, directory: &DrivePath) -> bool {
    let rest = path.as_str().strip_prefix(directory.as_str());
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Replaces the prefix `from` of a path by `to`.
fn rebase(path: &DrivePath, from: &DrivePath, to: &DrivePath) -> Result<DrivePath> {
    let rest = path.as_str().strip_prefix(from.as_str()).unwrap_or_default();
    Ok(DrivePath::parse(&format!("{}{rest}", to.as_str()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rebased_whole_names_at_a_time() {
        let path = |text: &str| DrivePath::parse(text).expect("a path");
        let rebased = |at: &str| rebase(&path(at), &path("a/b"), &path("x")).expect("short");
        assert_eq!(rebased("a/b/c"), path("x/c"));
        assert_eq!(rebased("a/b"), path("x"));
        assert!(is_below(&path("a/b/c"), &path("a/b")));
        assert!(!is_below(&path("a/bc"), &path("a/b")));
        assert!(!is_below(&path("a/b"), &path("a/b")));
    }
}
