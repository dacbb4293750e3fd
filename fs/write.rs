//! From changes to versions: committing staged files, applying batches of edits, and syncing.
//!
//! The order of every commit: file bytes first, then the index entry that names them. Locks are
//! taken in this order: a file's commit lock; the drive's content turn, until the bytes are
//! appended; its index turn. Short locks are taken last.
//!
//! Every change begins with [`Fs::turn`], so it applies to the newest version of the drive, even if
//! an import or another mount made that version.

use std::sync::Arc;

use hypermount_drive::{DrivePath, Edit, Entry, Extent, Kind, Stat, Time, hole_bytes};

use crate::appending::{Append, Progress};
use crate::errno::{Error, Result};
use crate::filesystem::Fs;
use crate::follow::mount_path;
use crate::staged_content::Pending;
use crate::staging::StagedFile;
use crate::volume::Volume;

/// Size in bytes from which a commit first checks that the disk has room for the data of the file, and appends it in a
/// task of its own.
const LARGE_BYTES: u64 = 1024 * 1024;
/// Most directories whose modification times wait to be stored.
const MAX_TOUCHED: usize = 16_384;

/// A turn at changing a drive; see [`Fs::turn`].
pub(crate) struct Turn {
    turn: hypermount_drive::Turn,
    /// The newest version at the start of the turn.
    version: u64,
}

impl Fs {
    /// Commits the changes of a file to the drive. Does nothing if there are none.
    ///
    /// # Errors
    ///
    /// Fails with `NoSpace` if the disk has no room for the file, with `Overtaken` if another
    /// writer has replaced or removed it, and with the errors of reading its base and of the drive.
    pub(crate) async fn commit(
        &self,
        volume: &Arc<Volume>,
        staged: &Arc<StagedFile>,
    ) -> Result<()> {
        if !staged.is_dirty() {
            return Ok(());
        }
        let mut begun = staged.commit.lock().await;
        let Some(pending) = staged.pending() else {
            if let Some(append) = begun.take() {
                append.abort();
            }
            return Ok(());
        };
        let generation = pending.generation;
        let extent = match pending.unchanged() {
            Some(extent) => extent,
            None => self.append(volume, staged, pending, &mut begun).await?,
        };
        let turn = self.turn(volume).await;
        let Some((path, mut stat)) = staged.destination(extent) else { return Ok(()) };
        if staged.is_overtaken() {
            staged.keep_scratch();
            return Err(Error::Overtaken);
        }
        volume.accessed.add_to(&path, &mut stat);
        let entry = Arc::new(Entry::stored(stat.clone()));
        self.apply(volume, &turn, vec![Edit::Put { path: path.clone(), stat }]).await?;
        let all = staged.stored(&entry.stat, generation);
        self.committed(volume, staged, &path, all.then_some(&entry));
        self.end(volume, turn).await;
        Ok(())
    }

    /// Appends the content of the file to the drive, or takes up the append that a commit has begun whose request was
    /// ended by a signal.
    async fn append(
        &self,
        volume: &Arc<Volume>,
        staged: &StagedFile,
        pending: Pending,
        begun: &mut Option<Append>,
    ) -> Result<Extent> {
        if let Some(append) = begun {
            let (extent, generation) = (append.end().await, append.generation);
            *begun = None;
            if generation == pending.generation {
                return extent;
            }
        }
        let (size, generation) = (pending.size(), pending.generation);
        let holes = pending.holes(&volume.drive)?;
        let data = size - hole_bytes(&holes);
        if data >= LARGE_BYTES && data > self.store.space()?.available {
            return Err(Error::NoSpace);
        }
        let (drive, wait) = (volume.drive.clone(), self.options.patience.each_block());
        if size < LARGE_BYTES {
            let writer = drive.content_writer().await?;
            return pending.append(&drive, writer, &holes, wait, &Progress::default()).await;
        }
        let path = self.part.in_mount(&mount_path(volume, &staged.path()));
        let append = move |progress: Arc<Progress>| async move {
            let writer = drive.content_writer().await?;
            pending.append(&drive, writer, &holes, wait, &progress).await
        };
        let append = begun.insert(self.appends.start(&self.runtime, path, generation, append));
        let extent = append.end().await;
        *begun = None;
        extent
    }

    /// Notes that the drive has the staged file under `path`; `entry` if all its changes are
    /// stored.
    fn committed(
        &self,
        volume: &Volume,
        staged: &Arc<StagedFile>,
        path: &DrivePath,
        entry: Option<&Arc<Entry>>,
    ) {
        let mut unstored = volume.unstored();
        if unstored.get(path).is_some_and(|there| Arc::ptr_eq(there, staged)) {
            unstored.remove(path);
        }
        drop(unstored);
        if let Some(entry) = entry {
            let mut inodes = self.inodes_mut();
            if let Some(ino) = inodes.known(&mount_path(volume, path)) {
                inodes.stored(ino, entry);
            }
        }
    }

    /// Takes a turn at changing the volume's drive, and shows its newest version first.
    pub(crate) async fn turn(&self, volume: &Volume) -> Turn {
        let turn = volume.drive.turn().await;
        self.advance_alone(volume, &turn).await;
        Turn { turn, version: volume.drive.snapshot().version() }
    }

    /// Ends the turn. If the drive was changed in it, returns when every mount of the drive shows
    /// the change, or after their limit.
    pub(crate) async fn end(&self, volume: &Volume, turn: Turn) {
        let changed = volume.drive.snapshot().version() != turn.version;
        drop(turn);
        if changed {
            let _showing = self.showing.begin();
            volume.drive.show_newest().await;
        }
    }

    /// Applies the edits as one batch and shows the version that they make. The kernel needs no
    /// notice, since it requested the change.
    pub(crate) async fn apply(&self, volume: &Volume, turn: &Turn, edits: Vec<Edit>) -> Result<()> {
        if edits.is_empty() {
            return Ok(());
        }
        volume.drive.advance_in(&turn.turn, edits).await?;
        volume.advance(volume.drive.snapshot());
        Ok(())
    }

    /// Syncs the drive. On return, no power cut can lose what the drive has.
    pub(crate) async fn sync(&self, volume: &Arc<Volume>) -> Result<()> {
        let drive = volume.drive.clone();
        // A sync may take long, and requests must not wait for it.
        let synced = tokio::task::spawn_blocking(move || drive.sync()).await;
        Ok(synced.map_err(|_| Error::Panicked)??)
    }

    /// fsync(2) of a directory: stores the names in it and its own time.
    pub async fn fsyncdir(&self, handle: u64) -> Result<()> {
        let ino = self.directories.get(handle)?.ino;
        let volume = self.directory(ino).await?.volume;
        if !volume.writable {
            return Ok(());
        }
        self.store_new(&volume).await?;
        self.store_touched(&volume).await?;
        self.sync(&volume).await
    }

    /// Commits new files of the volume that have not been closed yet.
    async fn store_new(&self, volume: &Arc<Volume>) -> Result<()> {
        let new: Vec<_> = volume.unstored().values().cloned().collect();
        for staged in new {
            self.commit(volume, &staged).await?;
        }
        Ok(())
    }

    /// Notes that the children of a directory changed now.
    pub(crate) async fn touch(&self, volume: &Arc<Volume>, turn: &Turn, path: &DrivePath) {
        volume.touched().insert(path.clone(), Time::now());
        if volume.touched().len() > MAX_TOUCHED
            && let Err(error) = self.store_touched_alone(volume, turn).await
        {
            log::warn!("{}: times of directories not stored: {error}", volume.drive.key());
        }
    }

    async fn store_touched(&self, volume: &Arc<Volume>) -> Result<()> {
        let turn = self.turn(volume).await;
        self.store_touched_alone(volume, &turn).await?;
        self.end(volume, turn).await;
        Ok(())
    }

    /// Stores when the children of directories changed, in one batch. An implied directory is as
    /// old as its newest entry, and stays so; except the root, which cannot become explicit by itself.
    async fn store_touched_alone(&self, volume: &Arc<Volume>, turn: &Turn) -> Result<()> {
        let touched: Vec<_> = volume.touched().iter().map(|(p, at)| (p.clone(), *at)).collect();
        let snapshot = volume.snapshot();
        let mut edits = Vec::new();
        for (path, at) in touched {
            match snapshot.entry(&path, self.options.patience.names()).await {
                Ok(entry)
                    if entry.kind == Kind::Directory && (entry.explicit || path.is_root()) =>
                {
                    let ctime = entry.stat.ctime.max(at);
                    let mut stat = Stat { mtime: at, ctime, ..entry.stat };
                    if !entry.explicit {
                        (stat.uid, stat.gid) = (self.options.owner.uid, self.options.owner.gid);
                        stat.ctime = at;
                    }
                    volume.accessed.add_to(&path, &mut stat);
                    edits.push(Edit::Put { path, stat });
                }
                Ok(_) | Err(hypermount_drive::Error::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.apply(volume, turn, edits).await?;
        volume.touched().clear();
        Ok(())
    }

    /// Commits and syncs every change made through this mount. For the end of a mount: a failure is
    /// logged, and the bytes stay in scratch.
    pub async fn finish(&self) {
        let mut volumes = vec![self.root.clone()];
        let mut files = Vec::new();
        for (_, node) in self.inodes().iter() {
            let volume = &node.place.volume;
            if !volumes.iter().any(|known| Arc::ptr_eq(known, volume)) {
                volumes.push(volume.clone());
            }
            files.extend(node.place.staged.clone().map(|staged| (volume.clone(), staged)));
        }
        for volume in &volumes {
            files.extend(volume.unstored().values().map(|new| (volume.clone(), new.clone())));
        }
        for (volume, staged) in files {
            if let Err(error) = self.commit(&volume, &staged).await {
                log::error!("{}: not stored, kept in scratch: {error}", staged.path());
                staged.keep_scratch();
            }
        }
        for volume in volumes.iter().filter(|volume| volume.writable) {
            let stored = self.store_touched(volume).await;
            if let Err(error) = stored.and(self.sync(volume).await) {
                log::error!("{}: {error}", volume.drive.key());
            }
        }
    }
}
