//! Files with several names (hard links): which inode they share, and how many names an open one has.
//!
//! Not here: link(2) (`namespace.rs`), and what a change of one name does to the others, which the drive knows.

use std::sync::Arc;

use hypermount_drive::{DrivePath, Entry, Kind, LinkId, Snapshot};

use crate::filesystem::{Fs, Place};
use crate::follow::mount_path;
use crate::inode::{InodeTable, LinkKey};
use crate::staging::StagedFile;
use crate::volume::Volume;

impl Fs {
    /// Which file with several names the entry at `path` is of, if it is one whose names share an inode. The target of a
    /// link that is shown differently by where it is does not.
    pub(crate) fn link_key(
        &self,
        volume: &Volume,
        path: &DrivePath,
        entry: &Entry,
    ) -> Option<LinkKey> {
        let link = entry.stat.link?;
        let is_shown_as_stored = || {
            let shown = self.target(volume, path, entry);
            shown.is_ok_and(|shown| Some(shown) == entry.stat.linkname)
        };
        let shared = entry.kind != Kind::Symlink || is_shown_as_stored();
        shared.then(|| LinkKey { volume: std::ptr::from_ref(volume).addr(), id: link.id })
    }

    /// The staged file that is open under another name of the file that has this entry.
    pub(crate) fn staged_by_link(
        &self,
        volume: &Volume,
        path: &DrivePath,
        entry: &Entry,
    ) -> Option<Arc<StagedFile>> {
        let link = self.link_key(volume, path, entry).filter(|_| volume.writable)?;
        let inodes = self.inodes();
        inodes.linked(link).and_then(|ino| inodes.get(ino)?.place.staged.clone())
    }

    /// The path leads nowhere now, and its inode is that of the other name, whether or not that was looked up.
    pub(crate) fn leave(&self, mount_path: &str, other: &str) {
        let mut inodes = self.inodes_mut();
        if let Some(ino) = inodes.known(mount_path) {
            inodes.join(ino, other);
            inodes.leave(mount_path);
        }
    }

    /// Another writer made the path a name of another file, or changed whether its file has other names. Returns the
    /// inode that the path leads to no longer; that stays what its other names lead to.
    pub(crate) async fn became_another(
        &self,
        volume: &Volume,
        (old, new): (&Snapshot, &Snapshot),
        path: &DrivePath,
    ) -> Option<u64> {
        let mount_path = mount_path(volume, path);
        let after = new.entry(path, self.options.patience.names()).await.ok();
        let link = after.as_ref().and_then(|after| self.link_key(volume, path, after));
        let (ino, is_open) = {
            let inodes = self.inodes();
            let ino = inodes.known(&mount_path)?;
            let node = inodes.get(ino)?;
            if node.link() == link {
                return None;
            }
            (ino, node.place.staged.is_some() && node.names().count() == 1)
        };
        let other = self.other_name_left(volume, (old, new), path).await;
        let before = old.entry(path, self.options.patience.names()).await.ok();
        let is_same = before.zip(after.as_ref());
        let is_same = is_same.is_some_and(|(one, other)| one.stat.is_same_file(&other.stat));
        if is_same && other.is_none() {
            // It is the last name: the others left, which their changes say.
            let mut inodes = self.inodes_mut();
            if inodes.get(ino)?.names().count() == 1 {
                self.is_linked(&mut inodes, ino, link, &after?);
            }
            return None;
        }
        if is_open
            && link.is_none()
            && !is_same
            && let Some(other) = other
        {
            self.leave(&mount_path, &other);
            return Some(ino);
        }
        let mut inodes = self.inodes_mut();
        let held = link.and_then(|link| inodes.linked(link)).is_some_and(|other| other != ino);
        let is_alone = inodes.get(ino)?.names().count() == 1;
        if !is_alone || held || link.is_some() && !is_same {
            if is_alone && let Some(staged) = &inodes.get(ino)?.place.staged {
                staged.overtake();
            }
            inodes.leave(&mount_path);
            return Some(ino);
        }
        let after = after?;
        self.is_linked(&mut inodes, ino, link, &after);
        None
    }

    /// Another name of the file that `path` was a name of, which still is one.
    async fn other_name_left(
        &self,
        volume: &Volume,
        (old, new): (&Snapshot, &Snapshot),
        path: &DrivePath,
    ) -> Option<String> {
        let wait = self.options.patience.names();
        let before = old.entry(path, wait).await.ok()?;
        for name in old.names_of(path, wait).await.ok()?.into_iter().filter(|name| name != path) {
            let there = new.entry(&name, wait).await.ok();
            if there.is_some_and(|there| there.stat.is_same_file(&before.stat)) {
                return Some(mount_path(volume, &name));
            }
        }
        None
    }

    /// Notes which file with several names the inode is now, by its entry.
    fn is_linked(
        &self,
        inodes: &mut InodeTable<Place>,
        ino: u64,
        link: Option<LinkKey>,
        entry: &Entry,
    ) {
        if let Some(staged) = inodes.get(ino).and_then(|node| node.place.staged.as_ref()) {
            staged.set_link(entry.stat.link, entry.stat.ctime);
        }
        if link.and_then(|link| inodes.linked(link)).is_none() {
            inodes.set_link(ino, link);
        }
    }

    /// The inode of `path` is a file with several names since this mount gave it another.
    pub(crate) fn got_a_name(&self, volume: &Volume, path: &DrivePath, ino: u64, entry: &Entry) {
        let link = self.link_key(volume, path, entry);
        self.is_linked(&mut self.inodes_mut(), ino, link, entry);
    }

    /// What is known of an open file with several names is as of the version that is shown again: how many there are.
    /// Returns its inode.
    pub(crate) async fn count_again(&self, volume: &Volume, id: LinkId) -> Option<u64> {
        let key = LinkKey { volume: std::ptr::from_ref(volume).addr(), id };
        let (ino, path, staged) = {
            let inodes = self.inodes();
            let ino = inodes.linked(key)?;
            let place = &inodes.get(ino)?.place;
            (ino, place.path.clone(), place.staged.clone())
        };
        let entry = volume.snapshot().entry(&path, self.options.patience.names()).await.ok()?;
        if let Some(staged) = staged {
            staged.set_link(entry.stat.link, entry.stat.ctime);
        }
        let link = self.link_key(volume, &path, &entry);
        let mut inodes = self.inodes_mut();
        if link.is_none() && inodes.get(ino).is_some_and(|node| node.names().count() == 1) {
            inodes.set_link(ino, None);
        }
        Some(ino)
    }
}
