//! How a new version of a drive reaches the mount: first the snapshot that look-ups see, then the
//! notices to the kernel. The other way round the kernel could refill its caches from the old one.
//!
//! Open files are not touched: they keep their content (see `inode.rs`).

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hypermount_drive::View;
use hypermount_drive::hyperdrive::{Changed, Turn};
use hypermount_drive::stat::{TYPE_FILE, TYPE_MASK};
use hypermount_drive::{Drive, DrivePath, Snapshot, Stat, Wait};

use fuser::FileType;

use crate::attr::file_type;
use crate::filesystem::{Fs, join};
use crate::invalidate::Invalidation;
use crate::staging::StagedFile;
use crate::volume::Volume;

/// New versions arriving within this time are taken together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long a change waits until the kernel has been told of it, per mount.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// More changes than this are not told one by one.
pub const MAX_CHANGES: usize = 10_000;

/// A volume as a view of its drive: what another mount or a command changes in the drive is shown here
/// before the change is reported.
struct Shown {
    fs: Weak<Fs>,
    volume: Weak<Volume>,
}

impl View for Shown {
    fn show_newest(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if let (Some(fs), Some(volume)) = (self.fs.upgrade(), self.volume.upgrade()) {
                fs.show_newest(&volume).await;
            }
        })
    }
}

impl Fs {
    /// Starts following the volume's drive, unless it is frozen.
    pub(crate) fn follow(&self, volume: &Arc<Volume>) {
        if volume.is_frozen() {
            return;
        }
        let view: Arc<dyn View> =
            Arc::new(Shown { fs: self.this.clone(), volume: Arc::downgrade(volume) });
        volume.drive.add_view(&view);
        let task = follow(self.this.clone(), Arc::downgrade(volume), volume.drive.clone());
        volume.followed_by(self.runtime.spawn(task).abort_handle(), view);
    }

    /// Shows the newest version of the volume's drive, and returns when the kernel has been told, or
    /// after a few seconds: then a request that is under way keeps it from listening.
    async fn show_newest(&self, volume: &Arc<Volume>) {
        if volume.snapshot().version() != volume.drive.snapshot().version() {
            self.advance(volume).await;
        }
        // Two mounts that wait for each other's notices would wait until the limit. A mount that waits
        // is not waited for, so no circle comes about.
        let pushed = self.invalidations.pushed();
        if self.showing.is_under_way() || self.invalidations.is_told(pushed) {
            return;
        }
        let invalidations = self.invalidations.clone();
        let wait = move || invalidations.wait_told(pushed, TOLD_WITHIN);
        let told = tokio::task::spawn_blocking(wait).await;
        if !told.unwrap_or(false) {
            log::info!("{}: the kernel has not taken in what changed yet", volume.drive.key());
        }
    }

    /// Shows the newest version of the volume's drive, and has the kernel told what differs.
    /// Versions that this mount itself made are shown already.
    pub(crate) async fn advance(&self, volume: &Arc<Volume>) {
        self.turn(volume).await;
    }

    /// As `advance`, within a turn.
    pub(crate) async fn advance_alone(&self, volume: &Volume, _turn: &Turn) {
        let old = volume.snapshot();
        let new = volume.drive.snapshot();
        if old.version() == new.version() {
            return;
        }
        let wait = self.options.patience.names();
        let changes = volume.drive.changes(&old, &new, MAX_CHANGES, wait).await;
        volume.advance(new.clone());
        match changes {
            Ok(changes) => {
                log::debug!(
                    "{}: version {} to {}, {} changes",
                    volume.drive.key(),
                    old.version(),
                    new.version(),
                    changes.len()
                );
                for change in &changes {
                    self.note(volume, &new, change).await;
                }
            }
            Err(error) => {
                log::info!("{}: what changed is not known: {error}", volume.drive.key());
                if volume.writable {
                    self.overtake_all(volume, &new).await;
                }
                self.invalidations.push_everything();
            }
        }
    }

    async fn note(&self, volume: &Volume, new: &Snapshot, change: &Changed) {
        let mut notices = Vec::new();
        if volume.writable {
            self.overtake(volume, change);
        }
        match (&change.before, &change.after) {
            (_, None) => {
                self.note_removed(volume, change, &mut notices);
                self.note_vanished(volume, new, &change.path, &mut notices).await;
            }
            (None, Some(_)) => self.note_created(volume, change, &mut notices),
            (Some(before), Some(after)) => {
                let mount_path = mount_path(volume, &change.path);
                // Let go of before the next notice takes it again: a reader that comes twice waits for
                // ever if a writer came in between.
                let (ino, other_file) = {
                    let inodes = self.inodes();
                    let Some(ino) = inodes.known(&mount_path) else { return };
                    let other_content =
                        inodes.get(ino).is_some_and(|node| node.has_other_content(after));
                    (ino, other_content)
                };
                let other_file = other_file
                    || file_type(before) != file_type(after)
                    || before.stat.mount != after.stat.mount;
                notices.push(Invalidation::Inode(ino));
                if other_file {
                    notices.extend(self.entry_notice(&mount_path));
                }
            }
        }
        self.invalidations.push(notices);
    }

    /// Another writer has changed what is open here for writing. The path leads to the new content from
    /// now on; what is written to the open file cannot be stored under it any more.
    fn overtake(&self, volume: &Volume, change: &Changed) {
        let mount_path = mount_path(volume, &change.path);
        let new = volume.unstored().get(&change.path).cloned();
        let known = self.inodes().known(&mount_path);
        let open = known.and_then(|ino| self.node(ino, |node| node.place.staged.clone()).ok()?);
        let Some(staged) = new.or(open) else { return };
        let after = change.after.as_ref().filter(|entry| entry.explicit);
        self.overtake_staged(volume, &change.path, &staged, after.map(|entry| &entry.stat));
    }

    fn overtake_staged(
        &self,
        volume: &Volume,
        path: &DrivePath,
        staged: &StagedFile,
        after: Option<&Stat>,
    ) {
        // A link, a directory and an empty file have the same extent.
        let is_file = |stat: &&Stat| {
            stat.mode & TYPE_MASK == TYPE_FILE && stat.mount.is_none() && stat.linkname.is_none()
        };
        let same_kind = after.as_ref().is_none_or(is_file);
        if same_kind && staged.is_stored_as(after.map(|stat| stat.extent)) {
            if let Some(after) = after {
                staged.take_over(after);
            }
            return;
        }
        staged.overtake();
        volume.unstored().remove(path);
        let known = self.inodes().known(&mount_path(volume, path));
        if let Some(ino) = known {
            self.supersede(ino);
        }
    }

    /// The same where too much changed to name it: everything open for writing is compared with the new
    /// version.
    async fn overtake_all(&self, volume: &Volume, new: &Snapshot) {
        let mut open: Vec<_> = volume.unstored().values().cloned().collect();
        open.extend(self.inodes().iter().filter_map(|(_, node)| {
            let place = &node.place;
            place.staged.clone().filter(|_| std::ptr::eq(&*place.volume, volume))
        }));
        for staged in open.iter().filter(|staged| !staged.is_removed() && !staged.is_overtaken()) {
            let path = staged.path();
            let after = match new.entry(&path, self.options.patience.names()).await {
                Ok(entry) => Some(entry).filter(|entry| entry.explicit),
                Err(hypermount_drive::Error::NotFound) => None,
                Err(error) => {
                    log::warn!("{path}: whether another writer changed it is not known: {error}");
                    continue;
                }
            };
            self.overtake_staged(volume, &path, staged, after.as_ref().map(|entry| &entry.stat));
        }
    }

    fn note_removed(&self, volume: &Volume, change: &Changed, notices: &mut Vec<Invalidation>) {
        let mount_path = mount_path(volume, &change.path);
        if let Some(ino) = self.inodes().known(&mount_path) {
            notices.push(Invalidation::Inode(ino));
        }
        notices.extend(self.entry_notice(&mount_path));
        notices.extend(self.parent_notice(&mount_path));
    }

    /// Directories that were only there because of what was removed from them.
    async fn note_vanished(
        &self,
        volume: &Volume,
        new: &Snapshot,
        removed: &DrivePath,
        notices: &mut Vec<Invalidation>,
    ) {
        let mut next = removed.parent();
        while let Some(path) = next.filter(|path| !path.is_root()) {
            let mount_path = mount_path(volume, &path);
            if self.inodes().known(&mount_path).is_some() {
                let gone = new.entry(&path, self.options.patience.names()).await;
                if !matches!(gone, Err(hypermount_drive::Error::NotFound)) {
                    return;
                }
                notices.extend(self.entry_notice(&mount_path));
                notices.extend(self.parent_notice(&mount_path));
            }
            next = path.parent();
        }
    }

    /// A new path may bring directories on the way to it into being. The kernel can only hold a
    /// "no such file" for the first name of the way that we do not know.
    fn note_created(&self, volume: &Volume, change: &Changed, notices: &mut Vec<Invalidation>) {
        let inodes = self.inodes();
        let mut directory = volume.prefix().to_string();
        for name in change.path.components() {
            let Some(parent) = inodes.known(&directory) else { return };
            let path = join(&directory, name);
            let Some(_) = inodes.known(&path) else {
                notices.push(Invalidation::Entry { parent, name: name.to_owned() });
                notices.push(Invalidation::Inode(parent));
                return;
            };
            directory = path;
        }
        // Known although it did not exist: an implied directory that was now made explicitly.
        notices.extend(inodes.known(&directory).map(Invalidation::Inode));
    }

    /// Notice that the last name of the path leads elsewhere or nowhere.
    pub(crate) fn entry_notice(&self, mount_path: &str) -> Option<Invalidation> {
        let (parent, name) = split(mount_path);
        let parent = self.inodes().known(parent)?;
        Some(Invalidation::Entry { parent, name: name.to_owned() })
    }

    /// Notice that the listing of the path's directory changed.
    fn parent_notice(&self, mount_path: &str) -> Option<Invalidation> {
        self.inodes().known(split(mount_path).0).map(Invalidation::Inode)
    }

    /// Every inode the kernel knows, and every name of one that is no directory: it may lead to another
    /// file by now, and the kernel would go on opening the old one. (Names of directories are left alone.
    /// The kernel would unmount what is mounted on them.)
    pub(crate) fn everything(&self) -> Vec<Invalidation> {
        let inodes = self.inodes();
        let mut notices = Vec::with_capacity(inodes.len());
        for (ino, node) in inodes.iter() {
            notices.push(Invalidation::Inode(ino));
            if node.kind != FileType::Directory && !node.is_detached() {
                let (parent, name) = split(&node.path);
                let parent = inodes.known(parent);
                let name = name.to_owned();
                notices.extend(parent.map(|parent| Invalidation::Entry { parent, name }));
            }
        }
        notices
    }
}

pub(crate) fn mount_path(volume: &Volume, path: &DrivePath) -> String {
    let prefix = volume.prefix();
    if path.is_root() { prefix.to_string() } else { join(&prefix, path.as_str()) }
}

fn split(mount_path: &str) -> (&str, &str) {
    mount_path.rsplit_once('/').unwrap_or(("", mount_path))
}

/// Runs until the drive is closed or the volume, which ends this task, is dropped.
///
/// Waiting for a newer version is what makes the drive ask its peers for one.
async fn follow(fs: Weak<Fs>, volume: Weak<Volume>, drive: Drive) {
    loop {
        let version = {
            // Versions that came before this task did, or while the last was taken in.
            let (Some(fs), Some(volume)) = (fs.upgrade(), volume.upgrade()) else { return };
            fs.advance(&volume).await;
            volume.snapshot().version()
        };
        if drive.newer_than(version, Wait::Forever).await.is_err() {
            return;
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
