//! How a new version of a drive reaches the mount: first the snapshot that lookups use, then the
//! notices to the kernel. In the reverse order the kernel could refill its caches from the old
//! snapshot.
//!
//! Open files are not affected: they keep their content (see `inode.rs`).

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hypermount_drive::{
    Changed, Drive, DrivePath, Entry, Snapshot, Stat, TYPE_FILE, TYPE_MASK, Turn, View, Wait,
};

use fuser::FileType;

use crate::attr::file_type;
use crate::filesystem::{Fs, join};
use crate::invalidate::Invalidation;
use crate::staging::StagedFile;
use crate::volume::Volume;

/// New versions that arrive within this time are handled together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long a change waits, per mount, until the kernel has taken the notices of it.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Most changes that are announced one by one. For more, everything is invalidated.
pub(crate) const MAX_CHANGES: usize = 10_000;

/// A volume as a view of its drive: a change by another mount or a command is shown here before
/// that change returns to its caller.
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

    /// Shows the newest version of the volume's drive. Returns when the kernel has taken the
    /// notices, or after `TOLD_WITHIN`, since a request under way can delay the kernel.
    async fn show_newest(&self, volume: &Arc<Volume>) {
        if !volume.snapshot().is_version_of(&volume.drive.snapshot()) {
            self.advance(volume).await;
        }
        // Two mounts that waited for each other's notices would both wait until the limit. So this
        // mount is not waited for while one of its own requests waits for other mounts, which
        // excludes a cycle.
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

    /// Shows the newest version of the volume's drive, and notifies the kernel of the differences.
    /// Versions that this mount made are shown already.
    pub(crate) async fn advance(&self, volume: &Arc<Volume>) {
        self.turn(volume).await;
    }

    /// As `advance`, for a caller that holds the turn.
    pub(crate) async fn advance_alone(&self, volume: &Volume, _turn: &Turn) {
        let old = volume.snapshot();
        let new = volume.drive.snapshot();
        if old.is_version_of(&new) {
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
                    self.note(volume, (&old, &new), change).await;
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

    async fn note(&self, volume: &Volume, (old, new): (&Snapshot, &Snapshot), change: &Changed) {
        let mut notices = Vec::new();
        let link = |entry: &Option<Entry>| entry.as_ref()?.stat.link.map(|link| link.id);
        let links = (link(&change.before), link(&change.after));
        if links.0 != links.1 {
            let ino = self.became_another(volume, (old, new), &change.path).await;
            if let Some(ino) = ino {
                notices.push(Invalidation::Inode(ino));
                notices.extend(self.entry_notice(&mount_path(volume, &change.path)));
            }
        }
        for id in [links.0, links.1].into_iter().flatten() {
            notices.extend(self.count_again(volume, id).await.map(Invalidation::Inode));
        }
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
                // Released before the next notice takes the lock again: a thread that takes a read
                // lock twice deadlocks if a writer waits in between.
                let (ino, other_file) = {
                    let inodes = self.inodes();
                    let Some(ino) = inodes.known(&mount_path) else {
                        self.invalidations.push(notices);
                        return;
                    };
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

    /// Another writer has changed a file that is open here for writing. The path leads to the new
    /// content from now on; what is written to the open file can no longer be stored under it.
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
        // A link, a directory and an empty file all have the same empty extent.
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

    /// As `overtake` when there are too many changes to name: compares every file that is open for
    /// writing with the new version.
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

    /// Adds notices for implied directories that ended when their last entry was removed.
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

    /// A new path may create directories above it. The kernel can only have cached a "no such file"
    /// for the first unknown name on the path.
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
        // Known although not stored: an implied directory that was now made explicitly.
        notices.extend(inodes.known(&directory).map(Invalidation::Inode));
    }

    /// A notice that the last name of the path leads elsewhere or nowhere.
    pub(crate) fn entry_notice(&self, mount_path: &str) -> Option<Invalidation> {
        let (parent, name) = split(mount_path);
        let parent = self.inodes().known(parent)?;
        Some(Invalidation::Entry { parent, name: name.to_owned() })
    }

    /// A notice that the listing of the path's directory has changed.
    fn parent_notice(&self, mount_path: &str) -> Option<Invalidation> {
        self.inodes().known(split(mount_path).0).map(Invalidation::Inode)
    }

    /// Notices for every inode that the kernel knows, and for every name that is not a directory's:
    /// the name may lead to another file by now, and the kernel would go on to open the old one. (A
    /// notice for the name of a directory would make the kernel unmount what is mounted on it.)
    pub(crate) fn everything(&self) -> Vec<Invalidation> {
        let inodes = self.inodes();
        let mut notices = Vec::with_capacity(inodes.len());
        for (ino, node) in inodes.iter() {
            notices.push(Invalidation::Inode(ino));
            if node.kind != FileType::Directory && !node.is_detached() {
                notices.extend(node.names().filter_map(|path| {
                    let (parent, name) = split(path);
                    let (parent, name) = (inodes.known(parent)?, name.to_owned());
                    Some(Invalidation::Entry { parent, name })
                }));
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

/// Follows a drive until it is closed. Dropping the volume aborts this task.
///
/// Peers are asked for newer versions only while a task waits for one.
async fn follow(fs: Weak<Fs>, volume: Weak<Volume>, drive: Drive) {
    loop {
        let shown = {
            // Versions that arrived before this task started, or while it handled the last one.
            let (Some(fs), Some(volume)) = (fs.upgrade(), volume.upgrade()) else { return };
            fs.advance(&volume).await;
            volume.snapshot()
        };
        if drive.other_than(&shown, Wait::Forever).await.is_err() {
            return;
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
