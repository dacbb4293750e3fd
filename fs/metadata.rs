//! What is stored beside the content: permissions, owners, times and extended attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::FileAttr;
use hypermount_drive::{DrivePath, DriveUrl, Edit, Entry, Kind, Stat, TYPE_MASK, Time, escape};

use crate::attr;
use crate::errno::{Error, Result};
use crate::filesystem::{Fs, Place, Resolved};
use crate::platform::Caller;
use crate::staging::StagedFile;
use crate::xattr::{self, XattrAnswer};

const PERMISSIONS: u32 = 0o7777;

/// The changes of one setattr; `None` leaves a value as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttributeChanges {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// The kernel sent a request without any change: it wants set-id bits removed, for chown(2)
    /// with neither an owner nor a group.
    pub set_ids_only: bool,
}

impl AttributeChanges {
    fn apply(&self, stat: &mut Stat, caller: Caller) {
        if self.size.is_some() {
            caller.writes(stat, false);
        }
        if self.uid.is_some() || self.gid.is_some() || self.set_ids_only {
            caller.changes_owner(stat);
        }
        if let Some(mode) = self.mode {
            stat.mode = stat.mode & TYPE_MASK | mode & PERMISSIONS;
        }
        stat.uid = self.uid.unwrap_or(stat.uid);
        stat.gid = self.gid.unwrap_or(stat.gid);
        // Without one the access time is that of the modification, which changes.
        stat.atime = self.atime.or(stat.atime).or(self.mtime.map(|_| stat.mtime));
        stat.mtime = self.mtime.unwrap_or(stat.mtime);
        stat.ctime = Time::now();
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        let Self { mode, uid, gid, size, atime, mtime, set_ids_only } = self;
        !set_ids_only
            && mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size.is_none()
            && atime.is_none()
            && mtime.is_none()
    }
}

impl Fs {
    /// chmod(2), chown(2), truncate(2) and utimensat(2), and their variants for an open `handle`.
    pub async fn setattr(
        &self,
        ino: u64,
        handle: Option<u64>,
        changes: AttributeChanges,
        caller: Caller,
    ) -> Result<(FileAttr, Duration)> {
        let place = self.node(ino, |node| node.place.clone())?;
        if !place.volume.writable {
            return Err(Error::ReadOnly);
        }
        if changes.atime.is_some() {
            place.volume.accessed.forget(&place.path);
        }
        if let Some(size) = changes.size {
            let own = match handle {
                Some(_) => None,
                // Opened temporarily, so that all writers of the file share one staged file.
                None => Some(self.open(ino, libc::O_WRONLY, caller).await?.handle),
            };
            let file = handle.or(own).ok_or(Error::BadHandle)?;
            let resized = self.resize(file, size, changes, caller);
            if let Some(own) = own {
                resized.and(self.release(own).await)?;
            } else {
                resized?;
            }
        } else if !changes.is_empty() {
            self.change_stat(ino, |stat| {
                changes.apply(stat, caller);
                Ok(())
            })
            .await?;
            if changes.mtime.is_some() {
                let place = self.node(ino, |node| node.place.clone())?;
                place.volume.touched().remove(&place.path);
            }
        }
        self.getattr(ino).await
    }

    fn resize(
        &self,
        handle: u64,
        size: u64,
        changes: AttributeChanges,
        caller: Caller,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        let staged = file.writer()?;
        staged.resize(size, Time::now())?;
        staged.change(|stat| {
            changes.apply(stat, caller);
            Ok(())
        })
    }

    /// Commits a changed file that has no writer. Otherwise the writer's close commits it.
    async fn settle(&self, ino: u64, staged: &Arc<StagedFile>) -> Result<()> {
        if staged.has_writers() {
            return Ok(());
        }
        let volume = self.node(ino, |node| node.place.volume.clone())?;
        let result = self.commit(&volume, staged).await;
        let mut inodes = self.inodes_mut();
        let open = inodes.opens(ino) > 0;
        if let Some(node) = inodes.get_mut(ino).filter(|_| !open)
            && let Some(staged) = node.place.staged.take_if(|staged| !staged.is_dirty())
        {
            let version = node.place.volume.snapshot().version();
            node.place.know(version, &staged.entry());
        }
        result
    }

    /// Changes what is stored of an inode beside its content.
    async fn change_stat(&self, ino: u64, change: impl Fn(&mut Stat) -> Result<()>) -> Result<()> {
        let volume = self.node(ino, |node| node.place.volume.clone())?;
        if !volume.writable {
            return Err(Error::ReadOnly);
        }
        loop {
            if let Some(staged) = self.change_staged(ino, &change)? {
                return self.settle(ino, &staged).await;
            }
            let turn = self.turn(&volume).await;
            // The file may have been renamed, removed or opened during the wait for the turn.
            let Resolved { place, entry, version } = self.resolve(ino).await?;
            if place.staged.is_some() {
                continue;
            }
            if version.is_none() {
                // Unlinked or replaced: only programs that still use the inode see the change.
                let mut inodes = self.inodes_mut();
                let node = inodes.get_mut(ino).ok_or(Error::Stale)?;
                return node.place.change_known(change);
            }
            let mut stat = entry.stat.clone();
            if !entry.explicit {
                (stat.uid, stat.gid) = (self.options.owner.uid, self.options.owner.gid);
            }
            if let Some(touched) = volume.touched().get(&place.path) {
                stat.mtime = *touched;
            }
            volume.accessed.add_to(&place.path, &mut stat);
            change(&mut stat)?;
            self.apply(&volume, &turn, vec![Edit::Put { path: place.path.clone(), stat }]).await?;
            // A handle that was opened meanwhile has the old values.
            let changed = self.change_staged(ino, &change).map(drop);
            self.end(&volume, turn).await;
            return changed;
        }
    }

    /// Changes the staged file of the inode, if it has one. The table stays locked, so the staged
    /// file stays the inode's; once changed, it stays so anyway.
    fn change_staged(
        &self,
        ino: u64,
        change: impl Fn(&mut Stat) -> Result<()>,
    ) -> Result<Option<Arc<StagedFile>>> {
        self.node(ino, |node| match &node.place.staged {
            Some(staged) => staged.change(change).map(|()| Some(staged.clone())),
            None => Ok(None),
        })?
    }

    /// setxattr(2); `flags` as there.
    pub async fn setxattr(&self, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        let name = xattr::settable(name)?;
        self.change_stat(ino, |stat| {
            xattr::set(stat, &name, value, flags)?;
            stat.ctime = Time::now();
            Ok(())
        })
        .await
    }

    /// removexattr(2).
    pub async fn removexattr(&self, ino: u64, name: &OsStr) -> Result<()> {
        let name = xattr::settable(name)?;
        self.change_stat(ino, |stat| {
            xattr::remove(stat, &name)?;
            stat.ctime = Time::now();
            Ok(())
        })
        .await
    }

    /// The value of an extended attribute, for a buffer of `room` bytes (0 asks for the size).
    pub async fn getxattr(&self, ino: u64, name: &OsStr, room: u32) -> Result<XattrAnswer> {
        let name = &*escape(name.as_bytes());
        // Checked before the path is resolved: the kernel and `ls -l` ask for these of every file.
        xattr::check_namespace(name)?;
        let Resolved { place, entry, .. } = self.resolve(ino).await?;
        let value = match name.strip_prefix(xattr::OWN) {
            Some(own) => self.own_attribute(&place, &entry, own)?.into_bytes(),
            None => xattr::value(&entry.stat, name)?.to_vec(),
        };
        xattr::answer(value, room)
    }

    /// The names of the extended attributes, each followed by NUL.
    pub async fn listxattr(&self, ino: u64, room: u32) -> Result<XattrAnswer> {
        let Resolved { entry, .. } = self.resolve(ino).await?;
        xattr::answer(xattr::list(&entry.stat)?, room)
    }

    /// The value of `user.hypermount.<own>`: `key` and `version` of the drive that the file is in,
    /// the `url` to share it by, or how much of a file is `local` (blocks in the store / blocks).
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 0o100_000;

    fn at(seconds: i64) -> Time {
        Time::new(seconds, 0).expect("a time")
    }

    fn changed(before: Stat, changes: AttributeChanges, uid: u32) -> Stat {
        let mut stat = before;
        changes.apply(&mut stat, Caller { uid, gid: 5, thread: 0 });
        stat
    }

    #[test]
    fn only_what_is_given_changes_and_the_kind_of_the_file_never_does() {
        let before = Stat { mode: FILE | 0o644, uid: 1, gid: 2, mtime: at(3), ..Stat::default() };
        let after =
            changed(before.clone(), AttributeChanges { mode: Some(0o40_755), ..<_>::default() }, 1);
        assert_eq!(after.mode, FILE | 0o755);
        assert_eq!((after.uid, after.gid, after.mtime), (1, 2, at(3)));
        assert!(after.ctime > at(0), "every change is one of the inode");
        let after = changed(
            before,
            AttributeChanges { gid: Some(9), mtime: Some(at(-1)), ..<_>::default() },
            1,
        );
        assert_eq!((after.mode, after.uid, after.gid), (FILE | 0o644, 1, 9));
        assert_eq!((after.mtime, after.atime), (at(-1), Some(at(3))), "it was not accessed");
    }

    #[test]
    fn set_id_bits_go_with_a_new_owner_or_size_but_not_with_a_new_time() {
        let before = Stat { mode: FILE | 0o6_755, uid: 1, gid: 2, ..Stat::default() };
        let mode = |changes| changed(before.clone(), changes, 1).mode & 0o7777;
        assert_eq!(mode(AttributeChanges { mtime: Some(at(1)), ..<_>::default() }), 0o6755);
        assert_eq!(mode(AttributeChanges { uid: Some(1), ..<_>::default() }), 0o755);
        assert_eq!(mode(AttributeChanges { gid: Some(2), ..<_>::default() }), 0o755);
        assert_eq!(mode(AttributeChanges { set_ids_only: true, ..<_>::default() }), 0o755);
        assert_eq!(mode(AttributeChanges { size: Some(0), ..<_>::default() }), 0o755);
        // chmod(2) together with chown(2): the given mode applies.
        let both = AttributeChanges { uid: Some(1), mode: Some(0o4755), ..<_>::default() };
        assert_eq!(mode(both), 0o4755);
    }

    #[test]
    fn a_request_that_changes_nothing_is_empty() {
        assert!(AttributeChanges::default().is_empty());
        for changes in [
            AttributeChanges { mode: Some(0), ..<_>::default() },
            AttributeChanges { uid: Some(0), ..<_>::default() },
            AttributeChanges { gid: Some(0), ..<_>::default() },
            AttributeChanges { size: Some(0), ..<_>::default() },
            AttributeChanges { atime: Some(at(0)), ..<_>::default() },
            AttributeChanges { mtime: Some(at(0)), ..<_>::default() },
            AttributeChanges { set_ids_only: true, ..<_>::default() },
        ] {
            assert!(!changes.is_empty(), "{changes:?}");
        }
    }
}
