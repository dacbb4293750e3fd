//! Directories: opening them, and reading their names page by page.

use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, FileType, INodeNo};
use hypermount_drive::{DrivePath, Entry, Name};

use crate::attr;
use crate::errno::{Error, Result};
use crate::filesystem::{Directory, Fs, join, ttl, usize_of};
use crate::handle::{self, DirHandle, OpenedDirectory};
use crate::volume::Volume;

/// Attempts to make a listing that no newer version has overtaken.
const MAX_RELISTINGS: usize = 3;

/// One name of a directory.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The inode, counted as looked up; 0 if only `shown` is given.
    pub ino: u64,
    /// Inode number to show.
    pub shown: u64,
    /// Offset of the next name.
    pub next: u64,
    /// Name in the directory, as text.
    pub name: &'a str,
    /// File type of the entry.
    pub kind: FileType,
    /// Attributes, if the inode is counted.
    pub attributes: Option<FileAttr>,
    /// How long the kernel may cache name and attributes.
    pub ttl: Duration,
}

/// A listing, and the offset from which to read it.
pub struct Page {
    shown: u64,
    shown_parent: u64,
    listing: Arc<handle::Listed>,
    offset: u64,
}

impl Fs {
    /// Opens a directory. Returns its handle; the listing is made at the first read.
    pub async fn opendir(&self, ino: u64) -> Result<u64> {
        let directory = self.directory(ino).await?;
        let followed = !directory.volume.writable && !directory.volume.is_frozen();
        let inodes = self.inodes();
        let shown = inodes.get(ino).ok_or(Error::Stale)?.shown;
        let parent = directory.mount_path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let shown_parent = inodes.shown(parent, None);
        drop(inodes);
        let Directory { volume, path, mount_path } = directory;
        let snapshot = volume.snapshot();
        let opened = OpenedDirectory { volume, path, mount_path, snapshot };
        let opened = followed.then_some(opened);
        Ok(self.directories.insert(DirHandle::new(ino, shown, shown_parent, opened)))
    }

    /// Returns the listing of an open directory, from `offset`: 0, or a `next` of an earlier name.
    /// From 0, the listing is that of the newest version; from any other offset, it is the one that
    /// began at 0. Two versions are never mixed.
    pub async fn readdir(&self, handle: u64, offset: u64) -> Result<Page> {
        let directory = self.directories.get(handle)?;
        let (shown, shown_parent) = (directory.shown, directory.shown_parent);
        if offset != 0
            && let Some(listing) = directory.listing()
        {
            return Ok(Page { shown, shown_parent, listing, offset });
        }
        // The kernel caches a listing that starts at offset 0, so that must not be one that a new
        // version overtook while it was made.
        for _ in 0..MAX_RELISTINGS {
            let listed = match self.list(directory.ino).await {
                Err(Error::Drive(hypermount_drive::Error::NotFound)) => {
                    directory.pin(Arc::new(self.list_removed(&directory).await?));
                    break;
                }
                listed => listed?,
            };
            let current = listed.volume.snapshot().version() == listed.version;
            directory.pin(Arc::new(listed));
            if current {
                break;
            }
        }
        let listing = directory.listing().ok_or(Error::BadHandle)?;
        Ok(Page { shown, shown_parent, listing, offset })
    }

    /// The names in the directory at its current path. A removed directory has none.
    async fn list(&self, ino: u64) -> Result<handle::Listed> {
        let Directory { volume, path, mount_path } = self.directory(ino).await?;
        if volume.writable {
            self.note_listed(ino, &volume, &path).await?;
        }
        let snapshot = volume.snapshot();
        let removed = volume.writable && self.node(ino, |node| node.is_detached())?;
        let stored = match removed {
            true => Vec::new(),
            false => snapshot.list_shared(&path, self.options.patience.names()).await?,
        };
        let mut children: handle::Listing = stored;
        if volume.writable && !removed {
            self.show_staged(&volume, &path, &mount_path, &mut children);
        }
        Ok(handle::Listed { version: snapshot.version(), volume, path, mount_path, children })
    }

    /// Notes that a directory of a drive that can be written is read.
    async fn note_listed(&self, ino: u64, volume: &Volume, path: &DrivePath) -> Result<()> {
        let mut stat = self.resolve(ino).await?.entry.stat.clone();
        if let Some(touched) = volume.touched().get(path) {
            stat.mtime = *touched;
        }
        volume.accessed.note(path, &stat);
        Ok(())
    }

    /// The names in a directory that a newer version has removed, as they were at open.
    async fn list_removed(&self, directory: &DirHandle) -> Result<handle::Listed> {
        let opened = directory.opened.as_ref().ok_or(hypermount_drive::Error::NotFound)?;
        let OpenedDirectory { volume, path, mount_path, snapshot } = opened;
        // The kernel must not find its cached copy of this listing under the path again.
        self.supersede(directory.ino);
        let listed = snapshot.list(path, self.options.patience.names()).await?;
        Ok(handle::Listed {
            version: snapshot.version(),
            volume: volume.clone(),
            path: path.clone(),
            mount_path: mount_path.clone(),
            children: listed.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect(),
        })
    }

    /// Replaces stored entries by the staged files of this mount, and adds new ones.
    fn show_staged(
        &self,
        volume: &Volume,
        path: &DrivePath,
        mount_path: &str,
        children: &mut handle::Listing,
    ) {
        let unstored = volume.unstored();
        let new: Vec<(Name, Arc<Entry>)> = unstored
            .iter()
            .filter(|(at, _)| at.parent().as_ref() == Some(path))
            .filter_map(|(at, staged)| Some((Name::new(at.name()?).ok()?, staged.entry())))
            .collect();
        drop(unstored);
        children.retain(|(name, _)| new.iter().all(|(new, _)| new != name));
        let inodes = self.inodes();
        for (name, entry) in children.iter_mut() {
            let known = inodes.known(&join(mount_path, name.as_str())).or_else(|| {
                let at = path.join(name).ok().filter(|_| entry.stat.link.is_some())?;
                inodes.linked(self.link_key(volume, &at, entry)?)
            });
            let staged = known.and_then(|ino| inodes.get(ino)?.place.staged.as_ref());
            if let Some(staged) = staged {
                *entry = staged.entry();
            }
        }
        drop(inodes);
        children.extend(new);
    }

    /// Closes a directory handle.
    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.directories.remove(handle).map(drop)
    }
}

impl Page {
    /// Passes the names from the page's offset on to `add` until it returns that it is full. With
    /// `plus`, each accepted name except `.` and `..` is counted as looked up.
    pub fn fill(&self, fs: &Fs, plus: bool, mut add: impl FnMut(&Listed<'_>) -> bool) {
        let dots = [(".", self.shown), ("..", self.shown_parent)];
        for (position, (name, shown)) in (0..).zip(dots).skip(usize_of(self.offset)) {
            let (kind, ttl, next) = (FileType::Directory, Duration::ZERO, position + 1);
            let listed = Listed { ino: 0, shown, next, name, kind, attributes: None, ttl };
            if add(&listed) {
                return;
            }
        }
        let first = usize_of(self.offset.saturating_sub(2));
        for (position, (name, entry)) in self.listing.children.iter().enumerate().skip(first) {
            let next = position as u64 + 3;
            let full = if plus {
                self.add_counted(fs, next, name, entry, &mut add)
            } else {
                let directory = &self.listing;
                let path = directory.path.join(name);
                let link = path.ok().and_then(|at| fs.link_key(&directory.volume, &at, entry));
                let shown = join(&directory.mount_path, name.as_str());
                let shown = fs.inodes().shown(&shown, link);
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
        let directory = &self.listing;
        let volume = &directory.volume;
        // A path that is too long to be looked up is listed without an inode.
        let Ok(path) = directory.path.join(name) else {
            let kind = attr::file_type(entry);
            let (shown, name, ttl) = (0, name.as_str(), Duration::ZERO);
            return add(&Listed { ino: 0, shown, next, name, kind, attributes: None, ttl });
        };
        let mount_path = join(&directory.mount_path, name.as_str());
        let (ino, shown) = fs.remember(volume, &path, &mount_path, directory.version, entry);
        let mut attributes = fs.attributes(shown, volume, &path, entry);
        let mut ttl = fs.while_current(volume, directory.version, ttl(volume, entry));
        // As in `Looked::found`: with the number shown, the kernel would take the new file for the
        // old one, which is still open.
        if shown != ino {
            (attributes.ino, ttl) = (INodeNo(ino), Duration::ZERO);
        }
        let (name, kind, attributes) = (name.as_str(), attr::file_type(entry), Some(attributes));
        let full = add(&Listed { ino, shown, next, name, kind, attributes, ttl });
        if full {
            fs.forget(ino, 1);
        }
        full
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
